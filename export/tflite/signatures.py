"""The signatures of a TFLite file, with the sizes of all dimensions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...checks import is_integer
from ...runtime.buckets import bucket_name
from ...runtime.graph_names import SINGLE, STATIC, prefill_name
from ...signature import BATCHES, Graph, Signature
from ..frontend.graphs import litert_graph
from ..frontend.spec import Exportable
from ..request import ExportRequest

Tensor = Any

DYNAMIC = "dynamic"  # a sequence length that leaves the dimension open


def static_graphs(model: Exportable, request: ExportRequest) -> dict[str, Graph]:
    """Return the graphs of a file, with all sizes, by the names of its signatures; see ``to_tflite``.

    Raises:
        ValueError: an option does not apply to this model, or the model cannot take a size.
    """
    cached = _cache_sizes(model, request)
    if cached is not None:
        return _with_cache(model, request, *cached)
    graphs = model.graphs("plain")
    graphs = graphs if len(graphs) > 1 else {SINGLE: graphs["model"]}
    lengths = _lengths(request.sequence_length)
    if len(lengths) > 1 and (len(graphs) > 1 or not graphs[SINGLE].signature.padded):
        raise ValueError(
            f"sequence_length: got several for a {model.family} whose inputs no mask lets be padded; accepted: one"
        )
    found = {}
    for name, graph in graphs.items():
        spec = graph.signature
        batch = _batches(spec, request.batch_size)
        for length in lengths:
            sizes = {**batch, **_sizes(spec, length, request.image_size)}
            found[_named(name, length) if len(lengths) > 1 else name] = Graph(spec.exported(sizes), graph.function)
    return found


def _batches(signature: Signature, batch_size: Any) -> dict[str, int]:
    """Return the sizes of the batches of a graph: one number for all, or numbers by name.

    Raises:
        ValueError: the graph has another number of batches, or they have other names.
    """
    open_dims = {dim for spec in signature.inputs for dim in spec.dims}
    names: list[str] = [dim for dim in BATCHES if dim in open_dims]
    if not isinstance(batch_size, Mapping):
        return dict.fromkeys(names, int(batch_size))
    if {*batch_size} != {*names}:
        raise ValueError(f"batch_size: got {dict(batch_size)}; accepted: an integer, or one each for {names}")
    return dict(batch_size)


def _lengths(sequence_length: Any) -> list[Any]:
    """Return the `sequence_length` of each signature, as ``_sizes`` accepts it, shortest first.

    Args:
        sequence_length: the user's argument: a length, several, or a mapping of either by name of the dimension.

    Raises:
        ValueError: several lengths are empty, not integers or not different, or their numbers differ by dimension.
    """
    accepted = "accepted: an integer, or several different ones for a signature each"
    if isinstance(sequence_length, np.ndarray):
        sequence_length = sequence_length.tolist()
    many = sequence_length.values() if isinstance(sequence_length, Mapping) else [sequence_length]
    counts = {len(values) for values in many if _several(values)}
    if not counts:
        return [sequence_length]
    if len(counts) > 1 or 0 in counts:
        raise ValueError(f"sequence_length: got {sequence_length!r}; {accepted}, as many of each")
    (count,) = counts
    if isinstance(sequence_length, Mapping):
        named = sorted(sequence_length.items())
        each = {name: list(value) if _several(value) else [value] * count for name, value in named}
        found: list[Any] = [dict(zip(each, values, strict=True)) for values in zip(*each.values(), strict=True)]
    else:
        found = list(sequence_length)
    numbers = [_numbers(length) for length in found]
    if any(not is_integer(n) for row in numbers for n in row) or len({*numbers}) < count:
        raise ValueError(f"sequence_length: got {sequence_length!r}; {accepted}")
    return sorted(found, key=_numbers)


def _several(values: Any) -> bool:
    return isinstance(values, Sequence | np.ndarray) and not isinstance(values, str) and np.ndim(values) > 0


def _numbers(length: int | Mapping[str, int]) -> tuple[int, ...]:
    return tuple(length.values()) if isinstance(length, Mapping) else (length,)


def _named(name: str, length: int | Mapping[str, int]) -> str:
    return bucket_name(name, _numbers(length))


def _cache_sizes(model: Exportable, request: ExportRequest) -> tuple[list[int], int] | None:
    """Return the lengths of the prefill signatures and the number of cache slots; None for a file without a cache."""
    prefill, max_length, cache = request.prefill, request.max_length, request.cache
    given = {"prefill": prefill, "max_length": max_length, "cache": cache or None}
    asked = [name for name, value in given.items() if value is not None]
    if asked and not model.generates:
        raise ValueError(f"{asked[0]}: got {given[asked[0]]!r} for a {model.family} that does not generate")
    encodes = model.generates and "encoder" in model.graphs("static")
    if encodes and prefill is not None:
        raise ValueError(f"prefill: got {prefill!r} for a {model.family}, whose prompt is encoded; accepted: None")
    if cache is False and asked:
        raise ValueError(f"{asked[0]}: got {given[asked[0]]!r} with cache=False; accepted: None")
    if cache is False or not (asked or encodes):
        return None
    longest = model.config.max_length
    slots = min(longest, 512) if max_length is None else max_length
    if not is_integer(slots) or not 1 <= slots <= longest:
        raise ValueError(f"max_length: got {max_length!r}; accepted: an integer from 1 to {longest}")
    lengths = [n for n in (32, 128) if n <= slots] if prefill is None else list(np.atleast_1d(prefill).tolist())
    if bad := [n for n in lengths if not is_integer(n) or not 1 <= n <= slots]:
        raise ValueError(f"prefill: got {bad}; accepted: integers from 1 to max_length={slots}")
    return sorted(set(lengths)), int(slots)


def _with_cache(model: Exportable, request: ExportRequest, prefills: list[int], slots: int) -> dict[str, Graph]:
    """Return the graphs of a file with a key/value cache, by the names of its signatures."""
    graphs = model.graphs("static")
    if "encoder" in graphs:
        named, fixed = {}, {}
        lengths = _lengths(request.sequence_length)
        for length in lengths:
            sizes = {"batch": request.batch_size, **_sizes(graphs["encoder"].signature, length, request.image_size)}
            names = {name: _named(name, length) if len(lengths) > 1 else name for name in STATIC}
            named |= {names[name]: graphs[role] for name, role in STATIC.items()}
            fixed |= {names["encode"]: sizes, names["decode"]: {**sizes, "slots": slots, "sequence": 1}}
    else:
        if request.batch_size != 1 or request.sequence_length is not None:
            raise ValueError("batch_size, sequence_length: got one for a file with a cache; accepted: 1 and None")
        graph, prefill = litert_graph(model), {prefill_name(n): n for n in prefills}
        named = {"decode": graph, **dict.fromkeys(prefill, _without_logits(graph))}
        common = {"batch": 1, "slots": slots}
        fixed = {name: {**common, "sequence": prefill.get(name, 1)} for name in named}
    found = {}
    for name, graph in named.items():
        dims = {dim for spec in graph.signature.inputs for dim in spec.dims}
        sizes = {dim: n for dim, n in fixed[name].items() if dim in dims}
        found[name] = Graph(graph.signature.exported(sizes), graph.function)
    return found


def _without_logits(graph: Graph) -> Graph:
    """Return the graph without its logits: in LiteRT-LM, a prefill signature only fills the cache."""
    outputs = tuple(spec for spec in graph.signature.outputs if spec.name != "logits")

    def function(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in graph.function(inputs).items() if name != "logits"}

    return Graph(replace(graph.signature, outputs=outputs), function)


def _sizes(signature: Signature, sequence_length: Any, image_size: int | tuple[int, int] | None) -> dict[str, int]:
    """Return the sizes of the dimensions other than the batch. A dynamic length is left out.

    Raises:
        ValueError: there is a size for a dimension that the model does not have, or none for one that is open.
    """
    sizes = dict(signature.defaults)
    dynamic = isinstance(sequence_length, str)
    open_dims = {dim: spec.name for spec in signature.inputs for dim in spec.dims if isinstance(dim, str)}
    kind = "of images" if "height" in open_dims else "of text" if "sequence" in open_dims else "of fixed sizes"
    if sequence_length is not None:
        texts = [dim for dim in open_dims if dim in ("sequence", "source", "target") or dim.endswith("_sequence")]
        given = sequence_length if isinstance(sequence_length, Mapping) else dict.fromkeys(texts, sequence_length)
        if not texts:
            raise ValueError(f"sequence_length: got {sequence_length} for a model {kind}; accepted: None")
        if dynamic and (sequence_length != DYNAMIC or texts != ["sequence"] or not signature.padded):
            also = f", or {DYNAMIC!r}" if texts == ["sequence"] and signature.padded else ""
            raise ValueError(f"sequence_length: got {sequence_length!r}; accepted: an integer, or several{also}")
        if unknown := sorted({*given} - {*texts}):
            raise ValueError(f"sequence_length: got {unknown}; accepted: an integer, or one each for {texts}")
        sizes.update(given)
    if image_size is not None:
        if "height" not in open_dims and "width" not in open_dims:
            raise ValueError(f"image_size: got {image_size} for a model {kind}; accepted: None")
        sides = (image_size, image_size) if is_integer(image_size) else tuple(np.atleast_1d(image_size).tolist())
        if len(sides) != 2:
            raise ValueError(f"image_size: got {image_size!r}; accepted: a side or (height, width) in pixels")
        sizes.update({dim: side for dim, side in zip(("height", "width"), sides, strict=True) if dim in open_dims})
    for dim, name in open_dims.items():
        if dim not in BATCHES and dim not in sizes:
            argument = "image_size" if dim in ("height", "width") else "sequence_length"
            if not dim.endswith("sequence") and argument == "sequence_length":
                argument = "input_signature"
            raise ValueError(
                f"{argument}: got none for {dim!r} of {name}, which is open; accepted: its size in the file"
            )
    return {dim: size for dim, size in sizes.items() if size != DYNAMIC}
