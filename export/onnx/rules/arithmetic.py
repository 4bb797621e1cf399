"""Division, remainders, shifts and signs with TensorFlow's results for negative and special numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..markers import marker
from .base import Call, final, rule
from .selection import select

Tensor = Any

WIDE = ("int32", "int64")  # the integers that all of ONNX Runtime's arithmetic has


def widened(function: Any, *tensors: Tensor) -> Tensor:
    """Call a function of integers in int32 where the dtype is narrower, and cast the result back, which wraps."""
    import tensorflow as tf

    dtype = tensors[0].dtype
    if dtype.name in WIDE or not dtype.is_integer:
        return function(*tensors)
    wide = "int64" if dtype.name in ("uint32", "uint64") else "int32"
    return tf.cast(function(*(tf.cast(tensor, wide) for tensor in tensors)), dtype)


def broadcast(x: Tensor, y: Tensor) -> list[int | None] | None:
    """Return the shape of a function of `x` and `y`, element by element."""
    import tensorflow as tf

    shape = tf.broadcast_static_shape(x.shape, y.shape)
    return None if shape.rank is None else shape.as_list()


def remainder(x: Tensor, y: Tensor) -> Tensor:
    """Return the exact remainder with the sign of `x`, as C's fmod."""
    return marker("Mod", [x, y], broadcast(x, y), fmod=1)


def _quotient(x: Tensor, y: Tensor) -> Tensor:
    """Return the quotient of int32 or int64 rounded toward zero."""
    return marker("Div", [x, y], broadcast(x, y))


@rule("FloorDiv")
def _floor_div(call: Call) -> Any:
    import tensorflow as tf

    def rounded_down(x: Tensor, y: Tensor) -> Tensor:
        quotient, rest = _quotient(x, y), remainder(x, y)
        down = tf.logical_and(tf.not_equal(rest, 0), tf.not_equal(tf.less(rest, 0), tf.less(y, 0)))
        return quotient - tf.cast(down, x.dtype)

    return widened(rounded_down, *call.inputs) if call.dtype.is_integer else None


@rule("FloorMod")
def _floor_mod(call: Call) -> Any:
    import tensorflow as tf

    x, y = call.inputs
    if x.dtype.is_integer:
        return widened(lambda x, y: marker("Mod", [x, y], broadcast(x, y), fmod=0), x, y)
    rest = remainder(x, y)
    other_sign = tf.logical_and(tf.not_equal(rest, 0.0), tf.not_equal(tf.less(rest, 0.0), tf.less(y, 0.0)))
    return select(other_sign, rest + y, rest)


@rule("TruncateMod", "Mod")
def _truncate_mod(call: Call) -> Any:
    return widened(remainder, *call.inputs)


@rule("TruncateDiv")
def _truncate_div(call: Call) -> Any:
    return widened(_quotient, *call.inputs)


@rule("Sign")
def _sign(call: Call) -> Any:
    """Compare integers with zero: ONNX Runtime computes the sign of int64 through int32."""
    import tensorflow as tf

    (x,) = call.inputs
    if not x.dtype.is_integer or x.dtype.name == "int32":
        return None
    zero = tf.zeros((), x.dtype)
    return tf.cast(tf.greater(x, zero), x.dtype) - tf.cast(tf.less(x, zero), x.dtype)


@rule("Maximum", "Minimum")
def _extreme(call: Call) -> Any:
    """Select integers: ONNX Runtime's Max and Min compute some in floating point, and do not have others."""
    import tensorflow as tf

    x, y = call.inputs
    if not x.dtype.is_integer or x.dtype.name == "int32":
        return None
    return select(tf.less(x, y) if call.op.type == "Minimum" else tf.less(y, x), x, y)


@rule("Sum", "Prod", "Mean")
def _reduction(call: Call) -> Any:
    """Reduce narrow integers in int32, and wrap the result. Products of integers are exact: see ``_product``."""
    import tensorflow as tf

    x, axes = call.inputs
    keep = call.attr("keep_dims")
    if not x.dtype.is_integer:
        return None
    if x.dtype.name in WIDE:
        return _product(x, axes, keep) if call.op.type == "Prod" else None
    reduce = {"Sum": tf.reduce_sum, "Prod": tf.reduce_prod, "Mean": tf.reduce_mean}[call.op.type]
    return widened(lambda x: reduce(x, axis=axes, keepdims=keep), x)


def _product(x: Tensor, axes: Tensor, keep: bool) -> Any:
    """Multiply the halves of each axis. ONNX Runtime's ReduceProd computes integers in floating point."""
    import tensorflow as tf

    known = tf.get_static_value(axes)
    if known is None or x.shape.rank is None:
        return None
    places = [int(axis) % x.shape.rank for axis in np.ravel(known)]
    if not places or any(not x.shape[axis] for axis in places):  # open or empty
        return None
    for axis in places:
        while (size := x.shape[axis]) > 1:
            half = size // 2
            parts = tf.split(x, [half, half, size - 2 * half], axis=axis)
            product = parts[0] * parts[1]
            x = tf.concat([product, parts[2]], axis) if size % 2 else product
    return x if keep else tf.squeeze(x, places)


@rule("ArgMax", "ArgMin")
def _place(call: Call) -> Any:
    """Compare narrow integers and truth values in int32, which ONNX Runtime has."""
    import tensorflow as tf

    x, axis = call.inputs
    if not (x.dtype.is_integer or x.dtype == tf.bool) or x.dtype.name in WIDE:
        return None
    find = tf.argmax if call.op.type == "ArgMax" else tf.argmin
    return find(tf.cast(x, tf.int32), axis=axis, output_type=call.dtype)


@rule("Cumsum")
def _cumsum(call: Call) -> Any:
    import tensorflow as tf

    x, axis = call.inputs
    if not x.dtype.is_integer or x.dtype.name in WIDE:
        return None
    options = {"exclusive": call.attr("exclusive"), "reverse": call.attr("reverse")}
    return widened(lambda x: tf.cumsum(x, axis, **options), x)


@rule("Max", "Min")
def _reduced_extreme(call: Call) -> Any:
    """Return NaN where a value is NaN, which ONNX Runtime's ReduceMax and ReduceMin may pass over."""
    import tensorflow as tf

    x, axes = call.inputs
    keep = call.attr("keep_dims")
    reduce = tf.reduce_max if call.op.type == "Max" else tf.reduce_min
    if x.dtype.is_integer:
        return None if x.dtype.name in WIDE else widened(lambda x: reduce(x, axis=axes, keepdims=keep), x)
    extreme = final(reduce(x, axis=axes, keepdims=keep))
    return select(
        tf.reduce_any(tf.math.is_nan(x), axis=axes, keepdims=keep), tf.constant(float("nan"), x.dtype), extreme
    )


@rule("Any", "All")
def _any_or_all(call: Call) -> Any:
    """Take the largest or the smallest. tf2onnx takes sums, with which MNN and tract compute something else or fail."""
    import tensorflow as tf

    x, axes = call.inputs
    reduce = tf.reduce_max if call.op.type == "Any" else tf.reduce_min
    return tf.greater(final(reduce(tf.cast(x, tf.float32), axis=axes, keepdims=call.attr("keep_dims"))), 0.0)


@rule("Atan2")
def _atan2(call: Call) -> Any:
    """Find the angle in its quadrant, with the signs of zeros."""
    import tensorflow as tf

    y, x = call.inputs
    if y.dtype != tf.float32:
        return None
    pi = 3.141592653589793
    ratio = tf.abs(y) / tf.abs(x)  # NaN of 0 / 0 and inf / inf
    both_infinite = tf.logical_and(tf.math.is_inf(x), tf.math.is_inf(y))
    ratio = select(tf.equal(y, 0.0), tf.zeros_like(ratio), select(both_infinite, tf.ones_like(ratio), ratio))
    angle = tf.atan(ratio)  # in the first quadrant
    angle = select(is_negative(x), pi - angle, angle)
    angle = select(is_negative(y), -angle, angle)
    return select(tf.logical_or(tf.math.is_nan(x), tf.math.is_nan(y)), x + y, angle)


def is_negative(x: Tensor) -> Tensor:
    """Return whether the sign of a float is negative, -0.0 included."""
    import tensorflow as tf

    return tf.logical_or(tf.less(x, 0.0), tf.logical_and(tf.equal(x, 0.0), tf.less(1.0 / x, 0.0)))


@rule("Bitcast")
def _bitcast(call: Call) -> Any:
    """Return an integer with the sign of a float where nothing but the sign is read, as by ``signbit``."""
    import tensorflow as tf

    (x,) = call.inputs
    lowest: Any = call.dtype.min if call.dtype.is_integer else None

    def reads_sign(reader: Any) -> bool:
        constant = tf.get_static_value(reader.inputs[1]) if len(reader.inputs) == 2 else None
        if constant is None or reader.inputs[0] is not call.op.outputs[0]:
            return False
        compared = reader.type in ("Less", "GreaterEqual") and not constant.any()
        return compared or (reader.type == "BitwiseAnd" and bool((constant == lowest).all()))

    readers = call.op.outputs[0].consumers()
    if not x.dtype.is_floating or not call.dtype.is_integer or not readers or not all(map(reads_sign, readers)):
        return None
    return select(is_negative(x), tf.constant(lowest, call.dtype), tf.zeros((), call.dtype))


@rule("LeftShift")
def _left_shift(call: Call) -> Any:
    import tensorflow as tf

    def shifted(x: Tensor, places: Tensor) -> Tensor:
        bits = x.dtype.size * 8
        return tf.cast(_shift(x, tf.clip_by_value(places, 0, bits - 1), "LEFT"), x.dtype)

    return widened(shifted, *call.inputs)


@rule("RightShift")
def _right_shift(call: Call) -> Any:
    """Shift by copies of the sign: a negative number is the complement of what a positive one becomes."""
    import tensorflow as tf

    def shifted(x: Tensor, places: Tensor) -> Tensor:
        bits = x.dtype.size * 8
        negative = tf.less(x, 0)
        moved = tf.cast(_shift(select(negative, -1 - x, x), tf.clip_by_value(places, 0, bits - 1), "RIGHT"), x.dtype)
        return select(negative, -1 - moved, moved)

    return widened(shifted, *call.inputs)


def _shift(x: Tensor, places: Tensor, direction: str) -> Tensor:
    import tensorflow as tf

    unsigned = f"uint{x.dtype.size * 8}"  # ONNX shifts these only
    x, places = tf.cast(x, unsigned), tf.cast(places, unsigned)
    return marker("BitShift", [x, places], broadcast(x, places), direction=direction)


@rule("Pow")
def _power(call: Call) -> Any:
    """Raise integers by repeated squaring: ONNX Runtime computes powers of integers in floating point."""
    import tensorflow as tf

    base, exponent = call.inputs
    if not call.dtype.is_integer:
        return None

    def power(base: Tensor, exponent: Tensor) -> Tensor:
        result = tf.ones_like(base)
        largest = tf.get_static_value(exponent)
        for bit in range(int(largest.max()).bit_length() if largest is not None else 6):
            odd = tf.equal(tf.math.floormod(tf.math.floordiv(exponent, 2**bit), 2), 1)
            result = select(odd, result * base, result)
            base = base * base
        return result

    return widened(power, base, exponent)
