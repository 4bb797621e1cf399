"""Updates of parts of a tensor, and reductions of the rows of a segment."""

from __future__ import annotations

from typing import Any

from ..markers import marker, markers
from .base import Call, rule
from .selection import select

Tensor = Any

REDUCTIONS = {"Add": "add", "Sub": "add", "Max": "max", "Min": "min"}


def _scattered(base: Tensor, indices: Tensor, updates: Tensor, reduction: str) -> Tensor:
    """Combine rows of `base` with `updates`; the last dimension of `indices` is a place in `base`."""
    import tensorflow as tf

    dims = None if base.shape.rank is None else base.shape.as_list()
    return marker("ScatterND", [base, tf.cast(indices, tf.int64), updates], dims, reduction=reduction)


@rule("ScatterNd")
def _scatter(call: Call) -> Any:
    """Add up updates of the same place. tf2onnx keeps the last."""
    import tensorflow as tf

    indices, updates, shape = call.inputs
    if updates.dtype == tf.bool:
        return None
    return _scattered(tf.zeros(shape, updates.dtype), indices, updates, "add")


@rule("TensorScatterAdd", "TensorScatterSub", "TensorScatterMax", "TensorScatterMin")
def _scatter_reduced(call: Call) -> Any:
    base, indices, updates = call.inputs
    kind = call.op.type.removeprefix("TensorScatter")
    return _scattered(base, indices, -updates if kind == "Sub" else updates, REDUCTIONS[kind])


@rule("UnsortedSegmentSum", "UnsortedSegmentProd", "UnsortedSegmentMax", "UnsortedSegmentMin")
def _segments(call: Call) -> Any:
    """Combine each row with the one of its segment. Rows of negative segments go to one more row, which is dropped."""
    import tensorflow as tf

    data, segments, count = call.inputs
    if segments.shape.rank is None or data.shape.rank is None:
        return None
    kind = call.op.type.removeprefix("UnsortedSegment")
    start = {"Sum": 0, "Prod": 1, "Max": data.dtype.min, "Min": data.dtype.max}[kind]
    reduction = {"Sum": "add", "Prod": "mul", "Max": "max", "Min": "min"}[kind]
    rank = segments.shape.rank
    inner = tf.shape(data)[rank:]
    rows = tf.reshape(data, tf.concat([[-1], inner], 0))
    count = tf.cast(count, tf.int32)
    segments = tf.cast(tf.reshape(segments, [-1]), tf.int32)
    segments = select(tf.less(segments, 0), tf.broadcast_to(count, tf.shape(segments)), segments)
    base = tf.fill(tf.concat([[count + 1], inner], 0), tf.constant(start, data.dtype))
    base.set_shape([None, *data.shape[rank:]])
    return _scattered(base, segments[:, None], rows, reduction)[:-1]


@rule("XlaDynamicUpdateSlice")
def _update_slice(call: Call) -> Any:
    """Select an update that is padded to the size of the tensor. Its start is moved so that it fits, as XLA does."""
    import tensorflow as tf

    x, update, start = call.inputs
    size, length = tf.shape(x), tf.shape(update)
    start = tf.clip_by_value(tf.cast(start, tf.int32), 0, size - length)
    sides = tf.stack([start, size - length - start], axis=1)
    inside = tf.pad(tf.ones_like(update, tf.int32), sides)
    if update.dtype == tf.bool:
        padded = tf.cast(tf.pad(tf.cast(update, tf.int32), sides), tf.bool)
    else:
        padded = tf.pad(update, sides)
    return select(tf.cast(inside, tf.bool), padded, x)


@rule("TopKV2")
def _top_k(call: Call) -> Any:
    """Order integers as integers. tf2onnx orders them as floats, which are equal for large ones."""
    import tensorflow as tf

    x, k = call.inputs
    if not x.dtype.is_integer:
        return None
    wide = x if x.dtype.name in ("int32", "int64") else tf.cast(x, tf.int32)
    shape = call.shape
    count = tf.cast(tf.reshape(k, [1]), tf.int64)
    values, places = markers(
        "TopK", [wide, count], [shape, shape], dtypes=[wide.dtype, tf.int64], axis=-1, largest=1, sorted=1
    )
    return [tf.cast(values, x.dtype), tf.cast(places, call.op.outputs[1].dtype)]
