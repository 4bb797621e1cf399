"""Graphs as ONNX files that belong together, and the three stages that such files go through."""

from __future__ import annotations

import gc
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...runtime.metadata import CONFIG, DIGESTS_BESIDE
from ...runtime.onnx.runner import OnnxRunner
from ..digests import seal
from ..errors import ExportError
from ..frontend.diagnostics import one_line
from ..precision.accuracy import measure
from ..precision.onnx.files import round_graphs
from ..precision.report import Accuracy
from ..request import ExportRequest
from .runtime_graph import to_runtime_graph

LARGE = 100_000_000  # bytes; of less nobody feels the lack
PROTOBUF_LIMIT = 1_900_000_000  # bytes; a protobuf file ends at 2 GiB, larger weights go beside it


@dataclass(frozen=True)
class Written:
    """Files in a folder, in the order in which they may appear.

    Attributes:
        runner: of the one that was asked for.
        calls: what the model does, by kind; see ``fused.py``.
        share: of the weights' numbers that are not float32.
    """

    files: list[Path]
    operators: Counter[str]
    runner: OnnxRunner
    calls: Counter[str]
    share: float = 0.0
    accuracy: Accuracy | None = None


def write(
    parts: Iterable[tuple[str, Any]], main: str, names: Mapping[str, str], folder: Path, forbidden: Collection[str] = ()
) -> Written:
    """``onnx_ir`` models by graph, each under its name, none kept longer than that takes. The last is `main`, the one
    that was asked for: it knows the digests of the others, which belong to it.

    Raises:
        ExportError: a graph with an operator that has a word of `forbidden` in its name, or that ONNX Runtime refuses.
    """
    folder.mkdir(exist_ok=True)
    operators: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    files: list[Path] = []
    digests: dict[str, str] = {}
    for name, part in parts:
        if digests and name == main:
            part.metadata_props[DIGESTS_BESIDE] = json.dumps(digests)
        operators.update(_operators(part, forbidden))
        calls.update(part.meta.get("calls", {}))
        data, file = _write(part, folder / names[name])
        digests[name] = seal(file, data)
        files += [file] if data is None else [data, file]
        del part
    if sum(file.stat().st_size for file in files) > LARGE:
        gc.collect()  # a graph's nodes know each other; its weights go before the runtime has all of them once more
    return Written(files, operators, _opened(folder / names[main]), calls)


def for_runtime(standard: Written, names: Mapping[str, str], folder: Path, request: ExportRequest) -> Written:
    """Write a float32 decoder in ONNX Runtime's own operators. Return `standard` unchanged for a graph without a cache.

    Raises:
        ValueError: a decoder that reads the output of an encoder.
    """
    import onnx_ir as ir

    runner = standard.runner
    if "decoder" not in runner.graphs:
        return standard
    if len(runner.graphs) > 1:
        raise ValueError("target: got 'onnxruntime' for a decoder with an encoder; accepted: None or 'standard'")
    model = ir.load(runner.path)
    config = json.loads(runner.metadata[CONFIG])
    to_runtime_graph(model, runner.path, runner.signature, config, request.precision.alike)
    return replace(write([("decoder", model)], "decoder", names, folder), calls=standard.calls)


def in_precision(
    precise: Written, graphs: Collection[str], names: Mapping[str, str], folder: Path, request: ExportRequest
) -> Written:
    """Write the float32 files of `precise` again in the requested precision, and measure their accuracy.

    Raises:
        AccuracyError: less accurate than the request accepts.
    """
    *_, main = graphs
    shares = []

    def rounded() -> Iterator[tuple[str, Any]]:
        for name, part in round_graphs(precise.runner, graphs, request):
            shares.append(part.share)
            yield name, part.model

    found = write(rounded(), main, names, folder)
    accuracy = measure(precise.runner, found.runner, request)
    return Written(found.files, found.operators, found.runner, precise.calls, float(np.mean(shares)), accuracy)


def _opened(file: Path) -> OnnxRunner:
    try:
        return OnnxRunner(file)
    except ValueError as error:
        said = one_line(error.__cause__ or error, 1000).replace(str(file), file.name)[:300]
        loop = (
            ". A loop over an open length has no counterpart: state it in input_signature" if ", Loop," in said else ""
        )
        raise ExportError(f"ONNX Runtime refuses the graph{loop}: {said}") from error


def _operators(model: Any, forbidden: Collection[str]) -> dict[str, int]:
    counts = Counter(f"{node.domain}.{node.op_type}".lstrip(".") for node in model.graph)
    if bad := [name for name in counts if any(word in name for word in forbidden)]:
        raise ExportError(f"the graph holds {bad}, which do not belong into an inference graph")
    return dict(counts.most_common())


def _write(model: Any, file: Path) -> tuple[Path | None, Path]:
    """The files written, in the order in which they may appear: that of the weights, if they have one, and `file`."""
    import onnx_ir as ir

    if sum(value.const_value.nbytes for value in model.graph.initializers.values()) <= PROTOBUF_LIMIT:
        ir.save(model, file)
        return None, file
    data = file.with_name(f"{file.name}.data")
    ir.save(model, file, external_data=data.name)
    return data, file
