"""Names of open dimensions followed through the sizes that a graph computes, which ONNX's own inference does not do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ALL = 2**31 - 1  # an end beyond the last element
Sizes = list[Any]  # of a vector, or of a scalar as a list of one: numbers, names, or None where unknown


def name_dimensions(graph: Any, limits: Mapping[str, int]) -> bool:
    """Set the sizes of values that are made of the shapes of others, in place, and return whether any was set.

    Args:
        graph: an ``onnx_ir.Graph`` with sorted nodes and the shapes that are known.
        limits: the largest size of named dimensions that have one.
    """
    known: dict[Any, Sizes] = {}
    changed = False
    for node in graph:
        if node.domain:
            continue
        if (found := _sizes(node, known)) is not None:
            known[node.outputs[0]] = found
        shape = _shape(node, known, limits)
        value = node.outputs[0] if node.outputs else None
        if shape is not None and value is not None:
            changed |= _merged(value, shape)
    return changed


def _merged(value: Any, shape: Sizes) -> bool:
    import onnx_ir as ir

    before = [None] * len(shape) if value.shape is None else list(value.shape)
    if len(before) != len(shape):
        return False
    plain = [dim if isinstance(dim, int) else getattr(dim, "value", dim) for dim in before]
    after = [new if old is None and new is not None else old for old, new in zip(plain, shape, strict=True)]
    value.shape = ir.Shape(after)
    return after != plain


def _constant(value: Any) -> Sizes | None:
    if value is None or value.const_value is None or value.const_value.size > 64:
        return None
    array = value.const_value.numpy()
    return [int(item) for item in array.ravel()] if array.dtype.kind in "iu" else None


def _sizes(node: Any, known: dict[Any, Sizes]) -> Sizes | None:
    """Return the integers that a node computes from shapes, or None."""

    def read(index: int) -> Sizes | None:
        value = node.inputs[index] if index < len(node.inputs) else None
        return known.get(value) if value in known else _constant(value)

    if node.op_type == "Shape" and node.inputs[0].shape is not None and not node.attributes:
        return [dim if isinstance(dim, int) else dim.value for dim in node.inputs[0].shape]
    if node.op_type in ("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze") and node.inputs[0] in known:
        return read(0)
    if node.op_type == "Concat" and any(value in known for value in node.inputs):
        parts = [read(i) for i in range(len(node.inputs))]
        return None if any(part is None for part in parts) else [size for part in parts for size in part or []]
    if node.op_type == "Gather" and node.inputs[0] in known and (places := _constant(node.inputs[1])) is not None:
        return [known[node.inputs[0]][place] for place in places]
    if node.op_type == "Slice" and node.inputs[0] in known and len(node.inputs) >= 3:
        start, end = _constant(node.inputs[1]), _constant(node.inputs[2])
        step = _constant(node.inputs[4]) if len(node.inputs) > 4 else [1]
        if start and end and step == [1] and len(start) == len(end) == 1:
            return known[node.inputs[0]][start[0] : end[0]]
    return None


def _shape(node: Any, known: dict[Any, Sizes], limits: Mapping[str, int]) -> Sizes | None:
    """Return the shape of the output of a node that computed sizes determine, or None."""

    def read(index: int) -> Sizes | None:
        value = node.inputs[index] if index < len(node.inputs) else None
        return known.get(value) if value in known else _constant(value)

    if node.op_type == "ConstantOfShape" and node.inputs[0] in known:
        return known[node.inputs[0]]
    if node.op_type == "Reshape" and node.inputs[1] in known:
        return [None if size in (0, -1) else size for size in known[node.inputs[1]]]
    if node.op_type == "Slice" and len(node.inputs) >= 4 and node.inputs[0].shape is not None:
        return _sliced(node, [read(i) for i in range(1, 5)], limits)
    return None


def _sliced(node: Any, bounds: list[Sizes | None], limits: Mapping[str, int]) -> Sizes | None:
    """Return the shape of the beginning of a table, such as the positions of as many tokens as there are."""
    starts, ends, axes, steps = bounds
    if not starts or not ends or axes is None or set(starts) != {0} or (steps is not None and set(steps) != {1}):
        return None
    shape = [dim if isinstance(dim, int) else dim.value for dim in node.inputs[0].shape]
    for end, axis in zip(ends, axes, strict=True):
        if isinstance(end, str) and isinstance(shape[axis], int) and limits.get(end, ALL) <= shape[axis]:
            shape[axis] = end  # the table has a row for each, such as the positions of the longest text
        elif not isinstance(end, int) or end < (shape[axis] if isinstance(shape[axis], int) else ALL):
            return None
    return shape
