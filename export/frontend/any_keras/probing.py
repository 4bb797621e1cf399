"""Properties of a Keras model that it does not declare, found by tracing it: which open dimensions must have the same
size, and the names and sizes of the outputs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from ....signature import TensorSpec
from ..diagnostics import cause

Call = Callable[..., dict[str, Any]]  # from tensors in the order of the inputs to outputs by name
Declared = Mapping[str, tuple[str, Sequence[int | None]]]  # dtype and shape of outputs, with None for an open size
Shape = tuple[int | None, ...]
Trace = tuple[Any, Mapping[str, int]]  # a graph and the sizes of its named dimensions

LENGTHS = (7, 12, 16, 32, 64, 128, 256, 512)  # tried for open dimensions until Keras accepts one
LONG = (1024, 4096, 16384)  # tried for some of the inputs after these
MOST_LONG = 4  # inputs of which every combination is tried
SIDES = (64, 96, 128, 160, 224, 256, 320, 384, 512)
BATCH, OTHER_BATCH = 3, 5  # batch sizes of traces with known sizes
TIED = 6  # more inputs of open length than this are assumed to share one length


class Probe:
    """Traces of a call, each of which is made only once."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.graphs: dict[tuple[Any, ...], Any] = {}
        self.refusal = ""  # the last error of Keras

    def graph(self, inputs: Sequence[TensorSpec], sizes: Mapping[str, int] | None = None) -> Any:
        """Return the trace of a call, with the named dimensions open or of these `sizes`.

        Raises:
            ValueError: Keras rejects the call.
        """
        import tensorflow as tf

        shapes = [[(sizes or {}).get(dim) if isinstance(dim, str) else dim for dim in spec.dims] for spec in inputs]
        key = tuple((spec.dtype, *shape) for spec, shape in zip(inputs, shapes, strict=True))
        if key not in self.graphs:
            specs = [tf.TensorSpec(shape, spec.dtype, spec.name) for shape, spec in zip(shapes, inputs, strict=True)]
            function = tf.function(self._inlined, autograph=False, jit_compile=False)
            try:
                self.graphs[key] = function.get_concrete_function(*specs)
            except Exception as error:  # of any type: layers reject an input in different ways
                if "OperatorNotAllowedInGraphError" in f"{type(error).__name__} {error}":
                    raise ValueError(
                        "model: got a call with Python's loops or branches on tensors, which need AutoGraph or an "
                        "eager call; accepted: keras.ops.while_loop, fori_loop, scan or cond in their place"
                    ) from error
                given = ", ".join(f"{spec.name} {tuple(shape)}" for spec, shape in zip(inputs, shapes, strict=True))
                raise ValueError(
                    f"model: Keras cannot call it with {given}: {cause(error)}; accepted: a model that Keras can call, "
                    "and an input_signature of its inputs where it was not built with them"
                ) from error
        return self.graphs[key]

    def _inlined(self, *tensors: Any) -> dict[str, Any]:
        with functions_inlined():
            return self.call(*tensors)

    def computes(self, inputs: Sequence[TensorSpec], sizes: Mapping[str, int]) -> bool:
        """Return whether Keras accepts inputs of these sizes."""
        try:
            graph = self.graph(inputs, {"batch": BATCH, **sizes})
        except ValueError as error:
            self.refusal = cause(error.__cause__ or error)
            return False
        if too_long := _long_reflection(graph):
            self.refusal = too_long
            return False
        return True

    def traces(self, inputs: Sequence[TensorSpec], sizes: Mapping[str, int], *, several: bool) -> list[Trace]:
        """Return the trace with these `sizes` and, with `several`, one with other sizes if Keras accepts any.

        Raises:
            ValueError: Keras rejects the call.
        """
        known = {"batch": BATCH, **sizes}
        found: list[Trace] = [(self.graph(inputs, known), known)]
        lengths = {dim: size for dim, size in sizes.items() if dim != "batch"}
        for others in _other_sizes(lengths) if several else ():
            if self.computes(inputs, {**others, "batch": OTHER_BATCH}):
                found.append((self.graph(inputs, {**others, "batch": OTHER_BATCH}), {"batch": OTHER_BATCH, **others}))
                break
        return found


def _long_reflection(graph: Any) -> str:
    """Return what is wrong with a padding by reflection that is longer than its tensor, or "".

    TensorFlow accepts it in a trace, and fails when the trace runs.
    """
    import tensorflow as tf

    for op in graph.graph.get_operations():
        if op.type != "MirrorPad" or op.inputs[0].shape.rank is None:
            continue
        paddings = tf.get_static_value(op.inputs[1])
        most = -1 if op.get_attr("mode") == b"REFLECT" else 0
        for size, sides in zip(op.inputs[0].shape, () if paddings is None else paddings, strict=False):
            if size is not None and max(sides) > size + most:
                return f"a padding of {max(sides)} by reflection of a size of {size}"
    return ""


def _other_sizes(sizes: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """Yield other sizes of all dimensions, from which Keras may accept one: twice as large, which remains a multiple,
    and a little larger or smaller."""
    yield {dim: 2 * size for dim, size in sizes.items()}
    yield {dim: size + 2 + number for number, (dim, size) in enumerate(sizes.items())} if sizes else {}
    yield {dim: size - 2 - number for number, (dim, size) in enumerate(sizes.items()) if size > 2 + number} or {}
    yield dict(sizes)


@contextmanager
def functions_inlined() -> Iterator[None]:
    """Within the block, run nested tf.functions eagerly, so that they become part of the graph that is traced."""
    import tensorflow as tf

    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


# ---- open dimensions -------------------------------------------------------------------------------------------------


def named_dimensions(
    probe: Probe, inputs: Sequence[TensorSpec], *, batched: bool = False
) -> tuple[tuple[TensorSpec, ...], dict[str, int]]:
    """Replace the provisional names of the open dimensions of `inputs` by their final names.

    Sequences of several inputs share one dimension if Keras rejects them in different lengths. So do the first
    dimensions of inputs of which it is not known that they are a batch, such as the nodes and the edges of a graph.

    Args:
        probe: traces of the call.
        inputs: with provisional names.
        batched: whether the first open dimensions are known to be one batch.

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
    sizes = unlike if len(lengths) > 1 and probe.computes(final, unlike) else sizes
    return (final, sizes) if batched else _first_dimensions(probe, final, sizes)


def _first_dimensions(
    probe: Probe, inputs: tuple[TensorSpec, ...], sizes: dict[str, int]
) -> tuple[tuple[TensorSpec, ...], dict[str, int]]:
    """Rename the first dimensions that are no common batch: Keras accepts them in different sizes, and computes an
    output from several of them."""
    owners = [spec.name for spec in inputs if spec.dims[:1] == ("batch",)]
    if not 1 < len(owners) <= TIED:
        return inputs, sizes

    def renamed(names: Mapping[str, str]) -> tuple[TensorSpec, ...]:
        return tuple(
            replace(spec, dims=(names[spec.name], *spec.dims[1:])) if spec.name in names else spec for spec in inputs
        )

    apart = renamed({name: f"{name}_0" for name in owners})
    base = {**sizes, **{f"{name}_0": BATCH for name in owners}}
    if not probe.computes(apart, base):
        return inputs, sizes
    groups = _groups(probe, apart, owners, base, axis=0)
    if len(groups) == 1 or not _mixed(probe.graph(apart, base), inputs, groups):
        return inputs, sizes
    final = renamed({name: f"{group[0]}_0" for group in groups for name in group})
    unlike = {f"{group[0]}_0": BATCH + number for number, group in enumerate(groups)}
    return final, {**sizes, **unlike}


def _mixed(graph: Any, inputs: Sequence[TensorSpec], groups: Sequence[Sequence[str]]) -> bool:
    """Return whether an output is computed from inputs of several groups."""
    owner = {name: number for number, group in enumerate(groups) for name in group}
    group_of = {tensor.op.name: owner.get(spec.name) for spec, tensor in zip(inputs, graph.inputs, strict=False)}
    for output in graph.outputs:
        waiting, seen, found = [output.op], set(), set()
        while waiting:
            op = waiting.pop()
            if op.name not in seen:
                seen.add(op.name)
                found.add(group_of.get(op.name))
                waiting += [tensor.op for tensor in op.inputs]
        if len(found - {None}) > 1:
            return True
    return False


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
    if sizes := _long(probe, inputs, open_dims):
        return sizes
    if open_dims:
        raise ValueError(
            f"input_signature: got open sizes in {[spec.name for spec in inputs if open_dims & {*spec.dims}]}, "
            f"and Keras takes none of those tried: {probe.refusal}; accepted: sizes in the place of None"
        )
    return {}


def _long(probe: Probe, inputs: Sequence[TensorSpec], open_dims: Collection[str]) -> dict[str, int]:
    """Return sizes that Keras accepts, of which some inputs are much longer than others, such as audio than text."""
    names = [spec.name for spec in inputs if {*spec.dims} & {*open_dims}]
    subsets = [group for size in range(1, len(names) + 1) for group in itertools.combinations(names, size)]
    for length, group in itertools.product(LONG, subsets if len(names) <= MOST_LONG else [tuple(names)]):
        long = {dim for spec in inputs if spec.name in group for dim in spec.dims}
        sizes = {dim: length if dim in long else LENGTHS[0] for dim in open_dims}
        if probe.computes(inputs, sizes):
            return sizes
    return {}


def _groups(
    probe: Probe, inputs: Sequence[TensorSpec], names: list[str], base: Mapping[str, int], axis: int = 1
) -> list[list[str]]:
    """Return the smallest groups of inputs whose size at `axis` may differ from that of the other inputs."""
    dims = {spec.name: spec.dims[axis] for spec in inputs if len(spec.dims) > axis}
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


def output_specs(traces: Sequence[Trace], declared: Declared | None) -> tuple[TensorSpec, ...]:
    """Return the specs of the outputs. An open dimension gets the name of the input dimension that has the same size.

    Args:
        traces: one or two traces with known sizes of the named dimensions, and these sizes. A dimension is open if its
            size differs between two traces.
        declared: dtype and shape by name, with None for an open size, as a Functional model declares them; None if the
            model declares none. With a single trace, they say which sizes are open.

    Raises:
        ValueError: an output consists of texts.
    """
    specs, shapes_of = [], [_output_shapes(graph) for graph, _ in traces]
    for name, tensor in traces[0][0].structured_outputs.items():
        static, shapes = [one[name] for one, _ in shapes_of], [other[name] for _, other in shapes_of]
        rank = len(shapes[0])
        stated = declared[name][1] if declared is not None and len(declared.get(name, ("", ()))[1]) == rank else None
        dims: list[int | str] = []
        for axis in range(rank):
            known, found = tuple(shape[axis] for shape in static), tuple(shape[axis] for shape in shapes)
            pairs = [dim for dim in traces[0][1] if tuple(sizes[dim] for _, sizes in traces) == found]
            if axis == 0 and "batch" in pairs:
                pairs = ["batch"]
            fixed = None not in known and len({*known}) == 1
            if len(traces) == 1:  # an equal size may be a coincidence
                fixed = fixed and (not pairs or (stated[axis] is not None if stated is not None else axis > 0))
            dims.append(known[0] or 0 if fixed else pairs[0] if pairs else f"{name}_{axis}")
        dtype = tensor.dtype.name
        if dtype == "string":
            raise ValueError(
                f"model: got output {name!r} of texts; accepted: numbers. Return their indices, and look the texts up "
                "outside of the model"
            )
        specs.append(TensorSpec(name, "float32" if "float" in dtype else dtype, tuple(dims)))
    return tuple(specs)


def surprising(traces: Sequence[Trace], declared: Declared) -> bool:
    """Return whether an output has another number of rows than its batch, which it declares as open."""
    graph, sizes = traces[0]
    shapes, _ = _output_shapes(graph)
    opened = [name for name, (_, shape) in declared.items() if name in shapes and tuple(shape[:1]) == (None,)]
    return any(shapes[name][:1] != (sizes["batch"],) for name in opened)


def _output_shapes(graph: Any) -> tuple[dict[str, Shape], dict[str, Shape]]:
    """Return the shapes of the outputs of a trace: as far as they are known in advance, and as a call has them.

    Raises:
        ValueError: an output has no known rank.
    """
    import tensorflow as tf

    outputs = graph.structured_outputs
    if unknown := [name for name, tensor in outputs.items() if tensor.shape.rank is None]:
        raise ValueError(f"model: got outputs {unknown} of unknown rank; accepted: outputs of a known rank")
    static = {name: tuple(tensor.shape.as_list()) for name, tensor in outputs.items()}
    if all(None not in shape for shape in static.values()):
        return static, static
    given = len(graph.inputs) - len(graph.captured_inputs)
    try:
        called = graph(*(tf.zeros(tensor.shape, tensor.dtype) for tensor in graph.inputs[:given]))
    except Exception:  # of any type: zeros may not be accepted, and then these sizes stay unknown
        return static, static
    return static, {name: tuple(called[name].shape.as_list()) for name in outputs}
