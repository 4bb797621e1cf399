"""The integers that an input may hold, found in a trace: those with which every lookup stays within its table.

An index is computed from the input by operations such as additions of constants, clipping, remainders and comparisons.
``_Trace.index`` evaluates these for an input that is filled with one value, as an interval, and ``_accepted`` searches
the values for which every index is within its table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ....signature import TensorSpec
from .probing import Trace

Interval = tuple[Any, Any]  # lowest and highest value of a tensor, for each candidate of the input

FARTHEST = 2**31 - 1  # a value that is accepted up to here has no limit
DEEPEST = 150  # operations between an input and a lookup; behind more, nothing is inferred
# Operations whose values are those of their first input.
SAME = (
    *("Identity", "Reshape", "ExpandDims", "Squeeze", "Transpose", "StridedSlice", "Slice", "Tile", "BroadcastTo"),
    *("GatherV2", "GatherNd", "SplitV", "Unpack", "ReverseV2", "Roll", "StopGradient", "PreventGradient", "Snapshot"),
    *("TensorListFromTensor", "Rint", "Round", "EnsureShape"),
)
TESTS = ("Equal", "NotEqual", "Less", "LessEqual", "Greater", "GreaterEqual", "LogicalNot", "LogicalAnd", "LogicalOr")
SHAPES = ("Shape", "ShapeN", "Size", "Rank", "ZerosLike", "OnesLike")


def ranges(traces: Sequence[Trace], inputs: Sequence[TensorSpec], *, guess: bool = False) -> tuple[TensorSpec, ...]:
    """Return `inputs` with the limits of the values that Keras accepts, as ``least`` and ``below``.

    Args:
        traces: one or two traces of the call. Two show which tables have an open dimension as their number of rows.
        inputs: the inputs of the call.
        guess: infer undeclared dtypes: a float input that is only cast to integers and compared becomes int32.
    """
    graph, tables = traces[0][0], [_Trace(graph) for graph, _ in traces]
    found = []
    for number, spec in enumerate(inputs):
        if number >= len(graph.inputs) or not spec.dtype.startswith(("int", "uint", "float")):
            found.append(spec)
            continue
        casts = _only_cast(graph.inputs[number])
        dtype = "int32" if guess and casts and spec.dtype.startswith("float") else spec.dtype
        limited = replace(spec, dtype=dtype)
        if casts or "int" in dtype:
            limited = _limited(limited, [one.limits(number) for one in tables], [sizes for _, sizes in traces])
        found.append(limited)
    return tuple(found)


def _limited(
    spec: TensorSpec, limits: Sequence[tuple[int, int] | None], sizes: Sequence[Mapping[str, int]]
) -> TensorSpec:
    found = [limit for limit in limits if limit is not None]
    if not found:
        return spec
    least, most = found[0]
    if len({*found}) > 1:  # an open dimension limits the values
        ends = tuple(limit[1] + 1 for limit in found)
        dim = next((dim for dim in sizes[0] if tuple(known.get(dim) for known in sizes) == ends), None)
        # Negative indices that count from the end of an open dimension are left out.
        return spec if dim is None else replace(spec, least=0, below=dim)
    if "int" in spec.dtype:
        least = max(least, int(np.iinfo(spec.dtype).min))
    return replace(spec, least=least, below=most + 1)


def _only_cast(placeholder: Any) -> bool:
    """Return whether an input is only read as integers: cast to them, or compared with a constant."""
    import tensorflow as tf

    waiting, casts = [placeholder], False
    while waiting:
        tensor = waiting.pop()
        for op in tensor.consumers():
            if op.type == "Cast" and op.outputs[0].dtype.is_integer:
                casts = True
            elif op.type in (*SAME, "Split") and tensor is op.inputs[op.type == "Split"]:
                waiting += list(op.outputs)
            elif op.type in TESTS:
                if all(one is not tensor and tf.get_static_value(one) is None for one in op.inputs):
                    return False
            elif op.type not in SHAPES:
                return False
    return casts


class _Trace:
    """A trace of a call, in which tensors are evaluated for inputs that are filled with one value."""

    def __init__(self, graph: Any) -> None:
        self.graph = graph
        self.known: dict[int, Interval | None] = {}

    def limits(self, number: int) -> tuple[int, int] | None:
        """Return the lowest and the highest accepted value of an input, or None if nothing limits it."""
        lookups = list(_lookups(self.graph.inputs[number]))
        if not lookups:
            return None

        def accepts(values: np.ndarray) -> np.ndarray:
            self.known = {id(self.graph.inputs[number]): (values, values)}
            good = np.ones(values.shape, bool)
            for index, least, rows in lookups:
                interval = self.index(index)
                if interval is not None:
                    good &= (interval[0] >= least) & (interval[1] < rows)
            return good

        return _accepted(accepts)

    def index(self, tensor: Any, depth: int = 0) -> Interval | None:
        """Return the interval of a tensor's values for each candidate, or None if it is not known."""
        if id(tensor) not in self.known:
            self.known[id(tensor)] = None  # until it is evaluated, and if it is too far from the input
            self.known[id(tensor)] = self._evaluated(tensor, depth + 1) if depth < DEEPEST else None
        return self.known[id(tensor)]

    def _evaluated(self, tensor: Any, depth: int) -> Interval | None:
        import tensorflow as tf

        op = tensor.op
        if op.type in ("Placeholder", "ReadVariableOp") or not _is_number(tensor):
            return None
        if (constant := tf.get_static_value(tensor)) is not None:
            return (np.float64(constant.min()), np.float64(constant.max())) if constant.size else None
        if op.type == "StridedSlice" and op.inputs[0].op.type in ("Shape", "Const"):
            return _entry(op)
        if op.type in SAME:
            return self.index(op.inputs[0], depth)
        if op.type == "Split":
            return self.index(op.inputs[1], depth)
        given = [self.index(one, depth) for one in op.inputs]
        function = ARITHMETIC.get(op.type)
        return None if function is None else function(*given)


def _entry(op: Any) -> Interval | None:
    """Return the entry of a constant vector, such as a shape, that a StridedSlice takes."""
    import tensorflow as tf

    values, first = tf.get_static_value(op.inputs[0]), tf.get_static_value(op.inputs[1])
    if values is None or first is None or np.ndim(values) != 1 or np.size(first) != 1:
        return None
    if op.get_attr("shrink_axis_mask") != 1:
        return None
    entry = np.float64(values[int(np.ravel(first)[0])])
    return entry, entry


def _is_number(tensor: Any) -> bool:
    return tensor.dtype.is_integer or tensor.dtype.is_floating or tensor.dtype.is_bool


def _union(*intervals: Interval | None) -> Interval | None:
    """Return the hull of those intervals that are known: the values of other inputs are not this input's concern."""
    known = [interval for interval in intervals if interval is not None]
    if not known:
        return None
    low, high = known[0]
    for other_low, other_high in known[1:]:
        low, high = np.minimum(low, other_low), np.maximum(high, other_high)
    return low, high


def _selected(condition: Interval | None, one: Interval | None, other: Interval | None) -> Interval | None:
    both = _union(one, other)
    if condition is None or one is None or other is None or both is None:
        return both
    surely, never = condition[0] == 1, condition[1] == 0
    low = np.where(surely, one[0], np.where(never, other[0], both[0]))
    return low, np.where(surely, one[1], np.where(never, other[1], both[1]))


def _of_known(function: Callable[..., Interval]) -> Callable[..., Interval | None]:
    """Return a function that is None where an operand is not known."""

    def applied(*operands: Interval | None) -> Interval | None:
        return None if any(operand is None for operand in operands) else function(*operands)

    return applied


def _corners(function: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Callable[..., Interval | None]:
    """Return the interval of an operation that is monotonic in each operand."""

    def applied(x: Interval, y: Interval) -> Interval:
        corners = [function(a, b) for a in x for b in y]
        return np.minimum.reduce(np.broadcast_arrays(*corners)), np.maximum.reduce(np.broadcast_arrays(*corners))

    return _of_known(applied)


def _lower(x: Interval | None, y: Interval | None) -> Interval | None:
    if x is None or y is None:
        known = x or y
        return None if known is None else (np.full_like(known[0], -np.inf, dtype="float64"), known[1])
    return np.minimum(x[0], y[0]), np.minimum(x[1], y[1])


def _higher(x: Interval | None, y: Interval | None) -> Interval | None:
    if x is None or y is None:
        known = x or y
        return None if known is None else (known[0], np.full_like(known[1], np.inf, dtype="float64"))
    return np.maximum(x[0], y[0]), np.maximum(x[1], y[1])


def _remainder(x: Interval | None, y: Interval | None) -> Interval | None:
    if y is None or (y[0] != y[1]).any() or (y[0] <= 0).any():
        return None
    if x is None:
        return np.zeros_like(y[0]), y[1] - 1
    exact = x[0] == x[1]
    return np.where(exact, np.mod(x[0], y[0]), 0), np.where(exact, np.mod(x[1], y[0]), y[0] - 1)


def _quotient(x: Interval, y: Interval) -> Interval:
    if (y[0] <= 0).any():
        return np.full_like(x[0], -np.inf, dtype="float64"), np.full_like(x[1], np.inf, dtype="float64")
    corners = np.broadcast_arrays(*[np.floor_divide(a, b) for a in x for b in y])
    return np.minimum.reduce(corners), np.maximum.reduce(corners)


def _absolute(x: Interval) -> Interval:
    low, high = np.abs(x[0]), np.abs(x[1])
    across = (x[0] <= 0) & (x[1] >= 0)
    return np.where(across, 0, np.minimum(low, high)), np.maximum(low, high)


def _test(surely: Callable[..., Any], possibly: Callable[..., Any]) -> Callable[..., Interval | None]:
    return _of_known(lambda x, y: (np.float64(surely(x, y)), np.float64(possibly(x, y))))


def _equal_surely(x: Interval, y: Interval) -> Any:
    return (x[0] == x[1]) & (y[0] == y[1]) & (x[0] == y[0])


def _equal_possibly(x: Interval, y: Interval) -> Any:
    return (x[0] <= y[1]) & (y[0] <= x[1])


ARITHMETIC: Mapping[str, Callable[..., Interval | None]] = {
    "Cast": _of_known(lambda x: (np.trunc(x[0]), np.trunc(x[1]))),
    "ConcatV2": lambda *parts: _union(*parts[:-1]),
    "Pack": _union,
    "Pad": lambda x, _: _union(x, (np.float64(0), np.float64(0))),
    "PadV2": lambda x, _, filling: _union(x, filling),
    "Select": _selected,
    "SelectV2": _selected,
    "AddV2": _corners(np.add),
    "Add": _corners(np.add),
    "BiasAdd": _corners(np.add),
    "Sub": _corners(np.subtract),
    "Mul": _corners(np.multiply),
    "FloorDiv": _of_known(_quotient),
    "FloorMod": _remainder,
    "Minimum": _lower,
    "Maximum": _higher,
    "ClipByValue": lambda x, low, high: _lower(_higher(x, low), high),
    "Neg": _of_known(lambda x: (-x[1], -x[0])),
    "Abs": _of_known(_absolute),
    "Relu": _of_known(lambda x: (np.maximum(x[0], 0), np.maximum(x[1], 0))),
    "Less": _test(lambda x, y: x[1] < y[0], lambda x, y: x[0] < y[1]),
    "LessEqual": _test(lambda x, y: x[1] <= y[0], lambda x, y: x[0] <= y[1]),
    "Greater": _test(lambda x, y: x[0] > y[1], lambda x, y: x[1] > y[0]),
    "GreaterEqual": _test(lambda x, y: x[0] >= y[1], lambda x, y: x[1] >= y[0]),
    "Equal": _test(_equal_surely, _equal_possibly),
    "NotEqual": _test(
        lambda x, y: np.logical_not(_equal_possibly(x, y)), lambda x, y: np.logical_not(_equal_surely(x, y))
    ),
    "LogicalNot": _of_known(lambda x: (1 - x[1], 1 - x[0])),
    "LogicalAnd": _of_known(lambda x, y: (np.minimum(x[0], y[0]), np.minimum(x[1], y[1]))),
    "LogicalOr": _of_known(lambda x, y: (np.maximum(x[0], y[0]), np.maximum(x[1], y[1]))),
}


def _accepted(accepts: Callable[[np.ndarray], np.ndarray]) -> tuple[int, int] | None:
    """Return the first and the last value of the range of accepted values around the smallest accepted one that is not
    negative; None if all values are accepted, or none."""
    near = np.arange(-1024.0, 1025.0)
    good = near[accepts(near)]
    if not good.size:
        return None
    seed = float(good[good >= 0].min()) if (good >= 0).any() else float(good.max())

    def last(direction: int) -> float:
        """Return the last accepted value of those that follow the seed, by steps that double and then halve."""
        reached, step = seed, 1.0
        while abs(reached) < FARTHEST and accepts(np.array([reached + direction * step]))[0]:
            reached, step = reached + direction * step, step * 2
        while step >= 1:
            if abs(reached) < FARTHEST and accepts(np.array([reached + direction * step]))[0]:
                reached += direction * step
            step /= 2
        return reached

    low, high = max(last(-1), -FARTHEST - 1), min(last(1), FARTHEST)
    return None if low <= -FARTHEST and high >= FARTHEST else (int(low), int(high))


def _lookups(placeholder: Any) -> Iterator[tuple[Any, float, int]]:
    """Yield the index of every lookup that an input reaches, its lowest value, and the number of rows of the table."""
    waiting, seen = [placeholder], set()
    while waiting:
        tensor = waiting.pop()
        for op in tensor.consumers():
            yield from _lookup(op, tensor)
            if op.type in (*SAME, *ARITHMETIC, "Split") and op.name not in seen:
                seen.add(op.name)
                waiting += list(op.outputs)


def _lookup(op: Any, tensor: Any) -> Iterator[tuple[Any, float, int]]:
    import tensorflow as tf

    if op.type == "GatherV2" and op.inputs[1] is tensor:
        axis = tf.get_static_value(op.inputs[2])
        table = op.inputs[0].shape
        if axis is not None and table.rank is not None and table[int(axis)] is not None:
            yield tensor, 0, table[int(axis)]
    elif op.type == "ResourceGather" and op.inputs[1] is tensor:
        rows = _rows_of_variable(op.inputs[0])
        if rows is not None:
            yield tensor, 0, rows
    elif op.type in ("GatherNd", "TensorScatterUpdate", "TensorScatterAdd") and op.inputs[1] is tensor:
        yield from _components(tensor, op.inputs[0].shape)
    elif op.type == "ScatterNd" and op.inputs[0] is tensor:
        shape = tf.get_static_value(op.inputs[2])
        if shape is not None:
            yield from _components(tensor, tf.TensorShape(list(shape)))
    elif op.type.startswith("UnsortedSegment") and op.inputs[1] is tensor:
        rows = tf.get_static_value(op.inputs[2])
        if rows is not None:
            yield tensor, -np.inf, int(rows)  # rows of negative segments are dropped


def _components(indices: Any, shape: Any) -> Iterator[tuple[Any, float, int]]:
    """Yield the components of indices (…, n) into the first n dimensions of a tensor of this shape."""
    import tensorflow as tf

    count = indices.shape[-1] if indices.shape.rank else None
    if count is None or shape.rank is None or None in shape[:count].as_list():
        return
    tensor = indices
    while tensor.op.type in ("Reshape", "Cast", "Identity") and tensor.op.inputs[0].shape[-1:] == [count]:
        tensor = tensor.op.inputs[0]
    op = tensor.op
    parts = list(op.inputs)
    whole = op.type == "Pack" and op.get_attr("axis") in (-1, tensor.shape.rank - 1)
    if op.type == "ConcatV2":
        axis = tf.get_static_value(parts.pop())
        whole = axis in (-1, tensor.shape.rank - 1) and all(part.shape[-1] == 1 for part in parts)
    if whole and len(parts) == count:
        yield from ((part, 0, rows) for part, rows in zip(parts, shape[:count].as_list(), strict=True))
    else:
        yield indices, 0, min(shape[:count].as_list(), default=0)


def _rows_of_variable(handle: Any) -> int | None:
    from tensorflow.python.ops import resource_variable_ops

    data = resource_variable_ops.get_eager_safe_handle_data(handle)
    if not data.is_set or not data.shape_and_type or not data.shape_and_type[0].shape.dim:
        return None
    return data.shape_and_type[0].shape.dim[0].size
