"""Cumulative products, positions among boundaries, and counts of integers."""

from __future__ import annotations

from typing import Any

import numpy as np

from .table import Tensor, constant, rule, tensors


@rule("Cumprod")
def _cumprod(x: Tensor, axis: Tensor, exclusive: bool = False, reverse: bool = False) -> Tensor | None:
    """Multiply by the products of 1, 2, 4, … elements before, in as many steps as the length has binary digits."""
    import tensorflow as tf

    (x,), place = tensors(x), constant(axis)
    if place is None or x.shape.rank is None or x.shape[int(place)] is None:
        return None
    axis = int(place) % x.shape.rank
    length = x.shape[axis]

    def shifted(x: Tensor, steps: int) -> Tensor:
        """Return `x` moved by `steps` along the axis, with ones in the freed places."""
        kept, room = [-1] * x.shape.rank, _sizes(x)
        kept[axis], room[axis] = length - steps, steps
        start = [0] * x.shape.rank
        start[axis] = steps if reverse else 0
        parts = [tf.ones(room, x.dtype), tf.slice(x, start, kept)]
        return tf.concat(parts[::-1] if reverse else parts, axis)

    if exclusive:
        x = shifted(x, 1) if length > 1 else tf.ones_like(x)
    steps = 1
    while steps < length:
        x, steps = x * shifted(x, steps), 2 * steps
    return x


def _sizes(x: Tensor) -> list[Any]:
    import tensorflow as tf

    return [tf.shape(x)[i] if size is None else size for i, size in enumerate(x.shape)]


@rule("Bucketize")
def _bucketize(input: Tensor, boundaries: list[float]) -> Tensor:
    """Count the boundaries that a number is not below."""
    import tensorflow as tf

    (x,) = tensors(input)
    if x.dtype.is_integer:  # integers from the next one above a boundary on are not below it
        limits = np.ceil(np.array(boundaries, "float64")).clip(x.dtype.min, x.dtype.max).astype(x.dtype.as_numpy_dtype)
    else:
        limits = np.array(boundaries, x.dtype.as_numpy_dtype)
    return tf.reduce_sum(tf.cast(tf.expand_dims(x, -1) >= limits, tf.int32), axis=-1)


@rule("UpperBound")
def _upper_bound(sorted_inputs: Tensor, values: Tensor, out_type: Any = None) -> Tensor:
    return _bound(sorted_inputs, values, out_type, equal=True)


@rule("LowerBound")
def _lower_bound(sorted_inputs: Tensor, values: Tensor, out_type: Any = None) -> Tensor:
    return _bound(sorted_inputs, values, out_type, equal=False)


def _bound(rows: Tensor, values: Tensor, out_type: Any, *, equal: bool) -> Tensor:
    """Count the elements of each row (rows, n) that are below `values` (rows, m), or not above them if `equal`."""
    import tensorflow as tf

    rows, values = tensors(rows, values)
    rows, values = tf.expand_dims(rows, 1), tf.expand_dims(values, 2)
    below = rows <= values if equal else rows < values
    return tf.cast(tf.reduce_sum(tf.cast(below, tf.int32), axis=-1), out_type or tf.int32)


@rule("DenseBincount")
def _dense_bincount(input: Tensor, size: Tensor, weights: Tensor, binary_output: bool = False) -> Tensor | None:
    """Sum the one-hot rows of integers (length) or (rows, length), which are zeros for those out of range."""
    import tensorflow as tf

    (ids,), (weights,) = tensors(input), tensors(weights)
    if ids.shape.rank not in (1, 2):
        return None
    dtype = weights.dtype
    depth = _bounded(size)
    found = tf.one_hot(tf.cast(ids, tf.int32), tf.cast(size, tf.int32) if depth is None else depth, dtype=tf.float32)
    if binary_output:
        return tf.cast(tf.reduce_max(found, axis=-2), dtype)
    if weights.shape.num_elements() != 0:
        found = found * tf.expand_dims(tf.cast(weights, tf.float32), -1)
    return tf.cast(tf.reduce_sum(found, axis=-2), dtype)


def _bounded(size: Tensor) -> int | None:
    """Return the number of counts: a constant, or min(n, max(n, …)), which TensorFlow writes for a length of n."""
    value = constant(size)
    if value is not None:
        return int(value)
    limits = [_limit(size, "Minimum")]
    inner = [operand for operand in size.op.inputs if constant(operand) is None] if limits[0] is not None else []
    limits += [_limit(operand, "Maximum") for operand in inner]
    return limits[0] if len(limits) == 2 and limits[0] == limits[1] else None


def _limit(x: Tensor, kind: str) -> int | None:
    found = [constant(operand) for operand in x.op.inputs] if x.op.type == kind else []
    return next((int(value) for value in found if value is not None), None)


@rule("Bincount")
def _bincount(arr: Tensor, size: Tensor, weights: Tensor) -> Tensor | None:
    import tensorflow as tf

    (ids,) = tensors(arr)
    return _dense_bincount(tf.reshape(ids, [-1]), size, weights)


@rule("InTopKV2")
def _in_top_k(predictions: Tensor, targets: Tensor, k: Tensor) -> Tensor | None:
    """Count the classes above the target's (rows, classes); ties count in its favor."""
    import tensorflow as tf

    (scores,), (targets,), (k,) = tensors(predictions), tensors(targets), tensors(k)
    classes = scores.shape[-1]
    if classes is None:
        return None
    chosen = tf.equal(tf.expand_dims(tf.cast(targets, tf.int32), -1), tf.range(classes))
    own = tf.reduce_sum(tf.where(chosen, scores, tf.zeros_like(scores)), -1, keepdims=True)
    above = tf.reduce_sum(tf.cast(scores > own, tf.int32), -1)
    valid = tf.reduce_any(chosen, -1) & tf.reduce_all(tf.math.is_finite(own), -1)
    return (above < tf.cast(k, tf.int32)) & valid
