"""Properties of a Keras model that it does not declare, found by tracing it.

These are: which integers are looked up in which embedding table, which open dimensions must have the same size, and the
names and sizes of the outputs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ....signature import TensorSpec
from ..diagnostics import one_line

Call = Callable[..., dict[str, Any]]  # from tensors in the order of the inputs to outputs by name

HANDED_ON = ("Cast", "Identity", "Reshape", "ExpandDims", "Squeeze", "SelectV2")  # pass an index on to a lookup
LENGTHS = (7, 12, 16, 32, 64, 128, 256, 512)  # tried for open dimensions until Keras accepts one
SIDES = (64, 96, 128, 160, 224, 256, 320, 384, 512)
BATCH = 3  # batch size of a trace with known sizes
TIED = 6  # more inputs of open length than this are assumed to share one length


class Probe:
    """Traces of a call, each of which is made only once."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.graphs: dict[tuple[Any, ...], Any] = {}
        self.refusal = ""  # the last error of Keras

    def graph(self, inputs: Sequence[TensorSpec], sizes: Mapping[str, int] | None = None) -> Any:
        """Return the trace of a call, with the named dimensions open or of these `sizes`. It raises what Keras
        raises."""
        import tensorflow as tf

        shapes = [[(sizes or {}).get(dim) if isinstance(dim, str) else dim for dim in spec.dims] for spec in inputs]
        key = tuple((spec.dtype, *shape) for spec, shape in zip(inputs, shapes, strict=True))
        if key not in self.graphs:
            specs = [tf.TensorSpec(shape, spec.dtype, spec.name) for shape, spec in zip(shapes, inputs, strict=True)]
            function = tf.function(self.call, autograph=False, jit_compile=False)
            self.graphs[key] = function.get_concrete_function(*specs)
        return self.graphs[key]

    def computes(self, inputs: Sequence[TensorSpec], sizes: Mapping[str, int]) -> bool:
        """Return whether Keras accepts inputs of these sizes."""
        try:
            self.graph(inputs, {**sizes, "batch": BATCH})
        except Exception as error:  # of any type: layers reject a shape in different ways
            self.refusal = one_line(error)
            return False
        return True


def ranges(graph: Any, inputs: Sequence[TensorSpec], *, guess: bool = False) -> tuple[TensorSpec, ...]:
    """Return `inputs` with the number of rows of the smallest embedding table that each is looked up in, as ``below``.

    Args:
        graph: a trace of the call.
        guess: infer undeclared dtypes: a float input that is only cast to integers becomes int32.
    """
    found = []
    for spec, placeholder in zip(inputs, graph.inputs, strict=False):
        if not spec.dtype.startswith(("int", "uint", "float")):
            found.append(spec)
            continue
        consumers = placeholder.consumers()
        casts = bool(consumers) and all(op.type == "Cast" and op.outputs[0].dtype.is_integer for op in consumers)
        dtype = "int32" if guess and casts and spec.dtype.startswith("float") else spec.dtype
        rows = list(_rows(placeholder)) if casts or "int" in dtype else []
        found.append(replace(spec, dtype=dtype, below=min(rows, default=spec.below)))
    return tuple(found)


def _rows(tensor: Any) -> Iterator[int]:
    """Yield how many values an index may have, for each table that it is looked up in after constants were added to
    it."""
    import tensorflow as tf

    waiting, seen = [(tensor, 0)], set()
    while waiting:
        tensor, added = waiting.pop()
        for op in tensor.consumers():
            if op.type == "GatherV2" and op.inputs[1] is tensor:
                table = op.inputs[0].shape
                if (
                    table.rank == 2 and table[0] is not None and table[0] > added
                ):  # else Keras adds the number of rows to negative indices
                    yield table[0] - added
            elif op.name in seen:
                continue
            elif op.type in HANDED_ON:
                waiting += [(output, added) for output in op.outputs]
            elif op.type in ("AddV2", "BiasAdd"):
                other = tf.get_static_value(op.inputs[op.inputs[0] is tensor])
                waiting += [] if other is None else [(op.outputs[0], added + int(other.max(initial=0)))]
            seen.add(op.name)


# ---- open dimensions -------------------------------------------------------------------------------------------------


def named_dimensions(probe: Probe, inputs: Sequence[TensorSpec]) -> tuple[tuple[TensorSpec, ...], dict[str, int]]:
    """Replace the provisional names of the open dimensions of `inputs` by their final names.

    Sequences of several inputs share one dimension if Keras rejects them in different lengths.

    Returns:
        The inputs with their final names, and sizes by these names that Keras accepts.

    Raises:
        ValueError: Keras rejects all sizes that were tried.
    """
    owners = [spec for spec in inputs if "sequence" in _kinds(spec)]
    base = _working(probe, inputs)
    together = [[spec.name for spec in owners]] if owners else []
    if 1 < len(owners) <= TIED and base:
        together = _groups(probe, inputs, [spec.name for spec in owners], base)
    names = {member: _group_name(group, len(together)) for group in together for member in group}
    final = tuple(
        replace(spec, dims=tuple(_final(spec, axis, names) for axis in range(len(spec.dims)))) for spec in inputs
    )
    sizes: dict[str, int] = {}
    for before, after in zip(inputs, final, strict=True):
        for one, other in zip(before.dims, after.dims, strict=True):
            if isinstance(one, str) and isinstance(other, str) and one in base:
                sizes[other] = base[one]
    lengths = [dim for dim in sizes if dim.endswith("sequence")]
    unlike = {**sizes, **{dim: sizes[dim] + number for number, dim in enumerate(lengths)}}
    return final, unlike if len(lengths) > 1 and probe.computes(final, unlike) else sizes


def _kinds(spec: TensorSpec) -> dict[str, int]:
    """Return which open dimensions of an input are a length or a side of an image, judged by its rank, and their
    axes."""
    kinds = {2: {1: "sequence"}, 3: {1: "sequence"}, 4: {1: "height", 2: "width"}}.get(len(spec.dims), {})
    return {kind: axis for axis, kind in kinds.items() if isinstance(spec.dims[axis], str)}


def _final(spec: TensorSpec, axis: int, groups: Mapping[str, str]) -> int | str:
    dim = spec.dims[axis]
    if isinstance(dim, int) or dim == "batch":
        return dim
    kind = {at: kind for kind, at in _kinds(spec).items()}.get(axis)
    return groups[spec.name] if kind == "sequence" else kind or f"{spec.name}_{axis}"


def _working(probe: Probe, inputs: Sequence[TensorSpec]) -> dict[str, int]:
    """Return sizes of the provisional dimensions that Keras accepts, with one length for all sequences.

    An empty result means that no dimension but the batch is open.

    Raises:
        ValueError: Keras rejects all sizes that were tried.
    """
    open_dims = {dim for spec in inputs for dim in spec.dims if isinstance(dim, str)} - {"batch"}
    sides = {axis: {spec.dims[axis] for spec in inputs if len(spec.dims) == 4} for axis in (1, 2)}
    for length, side in itertools.zip_longest(LENGTHS, SIDES, fillvalue=512) if open_dims else ():
        for broader in (32, 0) if open_dims & (sides[1] | sides[2]) else (0,):  # not square, if possible
            sizes = {
                dim: side if dim in sides[1] else side + broader if dim in sides[2] else length for dim in open_dims
            }
            if probe.computes(inputs, sizes):
                return sizes
    if open_dims:
        raise ValueError(
            f"input_signature: got open sizes in {[spec.name for spec in inputs]}, and Keras takes none of those "
            f"tried: {probe.refusal}; accepted: sizes in the place of None"
        )
    return {}


def _groups(probe: Probe, inputs: Sequence[TensorSpec], names: list[str], base: Mapping[str, int]) -> list[list[str]]:
    """Return the smallest groups of inputs whose length may differ from that of the other inputs."""
    dims = {spec.name: spec.dims[1] for spec in inputs}
    left, groups = list(names), []
    while left:
        first, others = left[0], left[1:]
        smaller = ([first, *more] for size in range(len(others)) for more in itertools.combinations(others, size))

        def longer(group: list[str]) -> dict[str, int]:
            return {**base} | {str(dims[name]): base[str(dims[name])] + 1 for name in group}

        group = next((group for group in smaller if probe.computes(inputs, longer(group))), left)
        groups.append(group)
        left = [name for name in left if name not in group]
    return groups


def _group_name(group: list[str], groups: int) -> str:
    if groups == 1:
        return "sequence"
    shared = [letters[0] for letters in itertools.takewhile(lambda some: len({*some}) == 1, zip(*group, strict=False))]
    stem = "".join(shared).rstrip("_.") if len(group) > 1 else group[0]
    return f"{stem}_sequence" if stem else "sequence"


# ---- outputs ---------------------------------------------------------------------------------------------------------


def output_specs(
    probe: Probe,
    inputs: Sequence[TensorSpec],
    examples: Mapping[str, int],
    declared: Mapping[str, tuple[str, Sequence[int | None]]] | None,
) -> tuple[TensorSpec, ...]:
    """Return the specs of the outputs. An open dimension gets the name of the input dimension that has the same size.

    Args:
        examples: sizes of named dimensions that Keras accepts.
        declared: dtype and shape by name, with None for an open size, as a Functional model declares them; None to read
            them from a trace.
    """
    if declared is None:
        tensors = probe.graph(inputs).structured_outputs
        declared = {name: (tensor.dtype.name, list(tensor.shape)) for name, tensor in tensors.items()}
    batched = any("batch" in spec.dims for spec in inputs)
    beyond = any(None in shape[1 if batched else 0 :] for _, shape in declared.values())
    sizes = {"batch": BATCH, **{dim: size for dim, size in examples.items() if dim != "batch"}}
    named = {size: dim for dim, size in reversed(sizes.items())}
    known_sizes = {dim for spec in inputs for dim in spec.dims if isinstance(dim, str)} <= {*sizes}
    exact = probe.graph(inputs, sizes).structured_outputs if beyond and known_sizes else {}
    specs = []
    for name, (dtype, shape) in declared.items():
        dims: list[int | str] = []
        for axis, declared_size in enumerate(shape):
            size = declared_size
            known = exact[name].shape[axis] if name in exact else None
            other = named.get(known or 0, f"{name}_{axis}")
            other = "batch" if axis == 0 and batched and known in (None, BATCH) else other
            if size is None and len(sizes) == 1 and axis > 0 and known is not None:
                size = known  # only the batch varies: this size is fixed, although a layer declares it open
            dims.append(other if size is None else size)
        specs.append(TensorSpec(name, "float32" if "float" in dtype else dtype, tuple(dims)))
    return tuple(specs)
