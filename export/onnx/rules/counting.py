"""Lookups and counts of integers, and products along an axis."""

from __future__ import annotations

from typing import Any

from ...frontend.lookup_tables import looked_up
from .arithmetic import WIDE, widened
from .base import Call, rule
from .selection import select

Tensor = Any


@rule("LookupTableFindV2")
def _find(call: Call) -> Any:
    """Look integers up in a table whose content is known when the model is traced."""
    table, keys, default = call.inputs
    content = call.copier.tables.get(table.op.name)
    return None if content is None else looked_up(keys, default, *content)


@rule("DenseBincount", "Bincount")
def _bincount(call: Call) -> Any:
    """Sum the weights of the values that equal each bin."""
    import tensorflow as tf

    values, size, weights = call.inputs
    binary = call.op.type == "DenseBincount" and call.attr("binary_output")
    if call.op.type == "Bincount":
        values = tf.reshape(values, [-1])
    hits = tf.equal(tf.expand_dims(values, -1), tf.range(tf.cast(size, values.dtype)))
    if binary:
        return tf.cast(tf.reduce_any(hits, axis=-2), call.dtype)
    if weights.shape.num_elements() == 0:
        return tf.reduce_sum(tf.cast(hits, call.dtype), axis=-2)
    weights = tf.reshape(weights, tf.shape(values))
    weights = tf.expand_dims(weights, -1)
    return tf.reduce_sum(select(hits, weights, tf.zeros((), weights.dtype)), axis=-2)


@rule("Cumprod")
def _cumprod(call: Call) -> Any:
    """Multiply with values at doubled distances; of an open size, multiply the values before each one."""
    import tensorflow as tf

    x, axis = call.inputs
    axis = tf.get_static_value(axis)
    if axis is None or x.shape.rank is None:
        return None
    if x.dtype.is_integer and x.dtype.name not in WIDE:
        options = {"exclusive": call.attr("exclusive"), "reverse": call.attr("reverse")}
        return widened(lambda x: tf.math.cumprod(x, axis, **options), x)
    axis, rank = int(axis) % x.shape.rank, x.shape.rank
    if call.attr("reverse"):
        x = tf.reverse(x, [axis])
    size, one = x.shape[axis], tf.ones((), x.dtype)
    if size is None:
        places = tf.range(tf.shape(x)[axis])
        before = places[:, None] >= places if not call.attr("exclusive") else places[:, None] > places
        before = tf.reshape(before, tf.concat([tf.shape(before), [1] * (rank - axis - 1)], 0))
        result = tf.reduce_prod(select(before, tf.expand_dims(x, axis), one), axis=axis + 1)
    else:

        def moved(x: Tensor, distance: int) -> Tensor:
            sides = [[distance if i == axis else 0, 0] for i in range(rank)]
            kept = [slice(None)] * axis + [slice(0, size - distance)]
            return tf.pad(x[tuple(kept)], sides, constant_values=1)

        result = moved(x, 1) if call.attr("exclusive") and size else x
        distance = 1
        while distance < size:
            result, distance = result * moved(result, distance), distance * 2
    return tf.reverse(result, [axis]) if call.attr("reverse") else result
