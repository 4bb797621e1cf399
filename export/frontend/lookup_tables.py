"""Tables of integers whose content is known when a model is traced, as TensorFlow operations that every format has."""

from __future__ import annotations

from typing import Any

import numpy as np

Tensor = Any

DENSE = 1 << 20  # keys that lie within so many integers are looked up in an array; others are compared one by one


def looked_up(keys: Tensor, default: Tensor, known: np.ndarray, values: np.ndarray) -> Tensor:
    """Return the value of each of `keys`.

    Args:
        keys: integers of any shape.
        default: a scalar, the value of keys that are not in the table.
        known: (rows,) integers, the keys of the table.
        values: (rows,), their values.
    """
    import tensorflow as tf

    if not len(known):
        return tf.zeros_like(keys, default.dtype) + default
    low, high = int(known.min()), int(known.max())
    if high - low < DENSE:
        places = np.zeros(high - low + 2, "int32")  # of the value of each key, after one for all others
        places[known - low + 1] = np.arange(1, len(known) + 1)
        inside = tf.logical_and(keys >= low, keys <= high)
        place = tf.gather(tf.constant(places), tf.cast(tf.where(inside, keys - (low - 1), 0), tf.int32))
    else:
        found = tf.equal(tf.expand_dims(keys, -1), tf.constant(known, keys.dtype))
        place = tf.reduce_sum(tf.cast(found, tf.int32) * tf.constant(np.arange(1, len(known) + 1), tf.int32), axis=-1)
    return tf.gather(tf.concat([tf.reshape(default, [1]), tf.constant(values, default.dtype)], 0), place)
