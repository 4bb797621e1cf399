"""Selection between two tensors, one-hot vectors, and comparisons of values with a list."""

from __future__ import annotations

from typing import Any

from ..markers import marker
from .base import Call, final, rule

Tensor = Any

SELECTABLE = ("float32", "float64", "int32", "int64", "uint8")  # dtypes of ONNX Runtime's Where


def select(condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return ``where(condition, x, y)`` as ONNX's Where. tf2onnx multiplies with the condition, and 0 · inf is NaN."""
    import tensorflow as tf

    shape = tf.broadcast_static_shape(condition.shape, tf.broadcast_static_shape(x.shape, y.shape))
    dims = None if shape.rank is None else shape.as_list()
    if x.dtype == tf.bool:
        chosen = tf.logical_and(condition, x)
        return tf.logical_or(chosen, tf.logical_and(tf.logical_not(condition), y))
    if x.dtype.name in SELECTABLE:
        return marker("Where", [condition, x, y], dims, dtype=x.dtype)
    wide = "float32" if x.dtype.is_floating else "int64" if x.dtype.size >= 4 else "int32"
    chosen = marker("Where", [condition, tf.cast(x, wide), tf.cast(y, wide)], dims, dtype=tf.as_dtype(wide))
    return tf.cast(chosen, x.dtype)


@rule("SelectV2")
def _select_v2(call: Call) -> Any:
    return select(*call.inputs)


@rule("Select")
def _select(call: Call) -> Any:
    """Select with a condition of the same shape, or with a vector that chooses rows."""
    import tensorflow as tf

    condition, x, y = call.inputs
    if condition.shape.rank is None or x.shape.rank is None:
        return None
    if condition.shape.rank == 1 and x.shape.rank > 1:
        condition = tf.reshape(condition, [-1] + [1] * (x.shape.rank - 1))
    return select(condition, x, y)


@rule("OneHot")
def _one_hot(call: Call) -> Any:
    """Compare ids with every class, so that an id outside of them gives zeros. ONNX's OneHot counts -1 from the end."""
    import tensorflow as tf

    ids, depth, on, off = call.inputs
    axis, rank = call.attr("axis"), ids.shape.rank
    if rank is None:
        return None
    ids = ids if ids.dtype.name in ("int32", "int64") else tf.cast(ids, "int32")
    axis = rank if axis == -1 else axis
    classes = tf.reshape(tf.range(tf.cast(depth, ids.dtype)), [-1] + [1] * (rank - axis))
    return select(tf.equal(tf.expand_dims(ids, axis), classes), on, off)


@rule("Bucketize")
def _bucketize(call: Call) -> Any:
    """Count the boundaries that are not above a value; NaN is above all."""
    import tensorflow as tf

    (x,) = call.inputs
    boundaries = tf.constant(call.attr("boundaries"), tf.float32)
    x = tf.expand_dims(tf.cast(x, tf.float32), -1)
    return tf.reduce_sum(tf.cast(tf.logical_not(tf.less(x, boundaries)), tf.int32), axis=-1)


@rule("LowerBound")
def _lower_bound(call: Call) -> Any:
    import tensorflow as tf

    ordered, values = call.inputs  # (batch, n) and (batch, m)
    below = tf.less(tf.expand_dims(ordered, 1), tf.expand_dims(values, 2))
    return tf.reduce_sum(tf.cast(below, call.dtype), axis=-1)


@rule("UpperBound")
def _upper_bound(call: Call) -> Any:
    import tensorflow as tf

    ordered, values = call.inputs
    above = tf.less(tf.expand_dims(values, 2), tf.expand_dims(ordered, 1))
    return tf.reduce_sum(tf.cast(tf.logical_not(above), call.dtype), axis=-1)


@rule("InTopKV2")
def _in_top_k(call: Call) -> Any:
    """Count the predictions above that of the target. Equal predictions share a place."""
    import tensorflow as tf

    predictions, targets, k = call.inputs
    chosen = tf.gather(predictions, targets, axis=1, batch_dims=1)
    above = tf.reduce_sum(tf.cast(tf.greater(predictions, chosen[:, None]), tf.int32), axis=1)
    return tf.logical_and(tf.less(above, tf.cast(k, tf.int32)), tf.math.is_finite(chosen))


@rule("Cast")
def _cast(call: Call) -> Any:
    """Round to bfloat16 to the nearest, where ONNX Runtime cuts digits off."""
    import tensorflow as tf

    (x,) = call.inputs
    if call.dtype != tf.bfloat16 or x.dtype != tf.float32:
        return None
    scaled = x * 65537.0  # Veltkamp's splitting
    high = scaled - (scaled - x)
    return final(tf.cast(select(tf.math.is_finite(high), high, x), tf.bfloat16))


@rule("CTCGreedyDecoder")
def _ctc_greedy(call: Call) -> Any:
    """Move the blank to the last class, where tf2onnx expects it."""
    import tensorflow as tf

    logits, lengths = call.inputs
    classes, blank = logits.shape[-1], call.attr("blank_index")
    if classes is None or blank % classes == classes - 1:
        return None
    blank %= classes
    logits = tf.concat([logits[..., :blank], logits[..., blank + 1 :], logits[..., blank : blank + 1]], axis=-1)
    places, values, shape, scores = tf.raw_ops.CTCGreedyDecoder(
        inputs=logits, sequence_length=lengths, merge_repeated=call.attr("merge_repeated"), blank_index=-1
    )
    return [places, values + tf.cast(values >= blank, values.dtype), shape, scores]


@rule("Cross")
def _cross(call: Call) -> Any:
    import tensorflow as tf

    x, y = ([tensor[..., i] for i in range(3)] for tensor in call.inputs)
    return tf.stack([x[i - 2] * y[i - 1] - x[i - 1] * y[i - 2] for i in range(3)], axis=-1)


@rule("BroadcastArgs")
def _broadcast_shapes(call: Call) -> Any:
    """Return the shape of the broadcast of two shapes: the size of a dimension is that of either which is not 1."""
    import tensorflow as tf

    shapes = call.inputs
    if any(shape.shape.rank != 1 or shape.shape[0] is None for shape in shapes):
        return None
    rank = max(shape.shape[0] for shape in shapes)
    x, y = (tf.concat([tf.ones(rank - shape.shape[0], shape.dtype), shape], 0) for shape in shapes)
    return select(tf.equal(x, 1), y, x)
