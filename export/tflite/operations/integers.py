"""Integer arithmetic that LiteRT lacks for a dtype, and operations on bits."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from .table import RULES, Tensor, constant, emit, emit_kept, floating, rule, tensors

# LiteRT takes 8-bit integers for quantized numbers, and ends the process where they have no scale. They are computed as
# int32, whose lowest bits are the result.
NARROW = ("uint8", "int8", "uint16", "int16", "uint32")
PAIR, ONE = ("x", "y"), ("input",)
OPERANDS = {
    **dict.fromkeys(("Add", "AddV2", "Sub", "Mul", "Maximum", "FloorMod", "SquaredDifference"), PAIR),
    **dict.fromkeys(("Abs", "Neg", "Sign", "Square", "Cumsum"), ("x",)),
    **dict.fromkeys(("Max", "Min", "Sum", "Prod", "Mean", "TopKV2"), ONE),
    "SelectV2": ("t", "e"),
}
SIGNED = ("FloorDiv", "FloorMod", "Maximum", "Minimum", "Max", "Min", "TopKV2", "Mean", "Abs", "Sign")  # not by bits
COMPARED = {
    **dict.fromkeys(("Equal", "NotEqual", "Less", "LessEqual", "Greater", "GreaterEqual"), PAIR),
    **dict.fromkeys(("ArgMax", "ArgMin"), ONE),
}


def _dtype(x: Tensor) -> str:
    return x.dtype.base_dtype.name


def _in_int32(operation: str, operands: tuple[str, ...], *, back: bool = True, **arguments: Any) -> Any:
    """Compute an operation on narrow integers as int32. Its first result has their dtype if `back`."""
    import tensorflow as tf

    given = tensors(*(arguments[name] for name in operands))
    dtype = _dtype(given[0])
    if dtype not in NARROW or (dtype == "uint32" and (operation in SIGNED or not back)):
        return None
    wide = {name: tf.cast(x, tf.int32) for name, x in zip(operands, given, strict=True)}
    first, *others = emit(operation, **{**arguments, **wide})
    return [tf.cast(first, dtype) if back else first, *others]


def _narrow(operation: str, operands: tuple[str, ...], back: bool) -> Callable[..., Any]:
    return lambda **arguments: _in_int32(operation, operands, back=back, **arguments)


for _operation, _operands in (*OPERANDS.items(), *COMPARED.items()):
    RULES[_operation] = _narrow(_operation, _operands, _operation in OPERANDS)


@rule("Minimum")
def _minimum(x: Tensor, y: Tensor) -> Tensor | None:
    """Select integers: the converter takes a minimum with 6 or 1 for an activation, which exists for floats only."""
    import tensorflow as tf

    x, y = tensors(x, y)
    limits = [constant(operand) for operand in (x, y)]
    if _dtype(x) in ("int32", "int64") and any(
        limit is not None and np.any((limit == 6) | (limit == 1)) for limit in limits
    ):
        return tf.where(x < y, x, y)
    return _in_int32("Minimum", PAIR, x=x, y=y)


@rule("Relu6")
def _relu6(features: Tensor) -> Tensor | None:
    import tensorflow as tf

    (x,) = tensors(features)
    return tf.minimum(tf.maximum(x, 0), 6) if x.dtype.is_integer else None


@rule("FloorDiv")
def _floor_div(x: Tensor, y: Tensor) -> Tensor | None:
    """Divide floats, where LiteRT's FLOOR_DIV refuses to divide by 0, and int64, for which it has no kernel."""
    import tensorflow as tf

    x, y = tensors(x, y)
    if floating(x):
        return tf.floor(x / y)
    if _dtype(x) != "int64":
        return _in_int32("FloorDiv", PAIR, x=x, y=y)
    quotient = tf.zeros_like(x + y)
    for _ in range(4):  # each step leaves 2⁻²² of the remainder
        left = x - quotient * y
        quotient += tf.cast(tf.cast(left, tf.float32) / tf.cast(y, tf.float32), tf.int64)
    left = x - quotient * y
    opposite = tf.logical_and(tf.not_equal(left, 0), tf.not_equal(left < 0, y < 0))
    return quotient - tf.cast(opposite, tf.int64)


@rule("TruncateDiv")
def _truncate_div(x: Tensor, y: Tensor) -> Tensor | None:
    import tensorflow as tf

    x, y = tensors(x, y)
    if _dtype(x) not in (*NARROW, "int64"):
        return None
    if _dtype(x) in NARROW:
        return _in_int32("TruncateDiv", PAIR, x=x, y=y)
    floor = x // y
    inexact = tf.logical_and(tf.not_equal(floor * y, x), tf.not_equal(x < 0, y < 0))
    return floor + tf.cast(inexact, tf.int64)


@rule("TruncateMod", "Mod")
def _truncate_mod(x: Tensor, y: Tensor) -> Tensor | None:
    import tensorflow as tf

    x, y = tensors(x, y)
    if floating(x) or not x.dtype.is_integer:
        return None
    return x - tf.truncatediv(x, y) * y


@rule("Pow")
def _pow(x: Tensor, y: Tensor) -> Tensor | None:
    """Multiply integers once or twice for each bit of the exponent, since LiteRT's POW saturates where they wrap."""
    import tensorflow as tf

    x, y = tensors(x, y)
    if floating(x):
        return _float_power(x, y)
    if not x.dtype.is_integer:
        return None
    if _dtype(x) in NARROW:
        return _in_int32("Pow", PAIR, x=x, y=y)
    exponent = constant(y)
    if exponent is not None and exponent.size == 1 and y.shape.rank <= x.shape.rank:
        return _constant_power(x, int(exponent.item()))
    power, left = x + tf.zeros_like(y), y + tf.zeros_like(x)
    result, two = tf.ones_like(power), tf.constant(2, y.dtype)
    for _ in range(31 if _dtype(x) == "int32" else 63):
        odd = tf.math.floormod(left, two)
        result *= tf.where(tf.equal(odd, 1), power, tf.ones_like(power))
        power, left = power * power, (left - odd) // two
    return result


def _float_power(x: Tensor, y: Tensor) -> Tensor | None:
    """Multiply for a small whole exponent. LiteRT's POW gives the largest finite number for infinity."""
    import tensorflow as tf

    exponent = constant(y)
    if exponent is not None and exponent.size == 1 and y.shape.rank <= x.shape.rank:
        value = float(exponent.item())
        if value == 0.5:
            return None  # TensorFlow's graph optimizer makes it a square root
        if value.is_integer() and 1 <= abs(value) <= 8:
            power: Tensor = _constant_power(x, int(abs(value)))
            return power if value > 0 else 1.0 / power
    (power,) = emit_kept("Pow", x=x, y=y)
    return tf.where(tf.abs(power) < float(np.finfo("float32").max), power, 2.0 * power)


def _constant_power(x: Tensor, exponent: int) -> Tensor | None:
    import tensorflow as tf

    if exponent < 0:
        return None
    power, result = x, None
    while exponent:
        if exponent % 2:
            result = power if result is None else result * power
        exponent //= 2
        power = power * power if exponent else power
    return tf.ones_like(x) if result is None else result


@rule("BiasAdd")
def _bias_add(value: Tensor, bias: Tensor, data_format: str = "NHWC") -> Tensor | None:
    """Add integers, and biases where the channels come first, which the converter refuses or adds to another axis."""
    import tensorflow as tf

    value, bias = tensors(value, bias)
    first = data_format in ("NCHW", b"NCHW")
    moved = value.op.type == "Transpose" or (value.op.type == "Reshape" and value.shape.rank == 4)
    if not first and not moved and not value.dtype.is_integer:
        return None
    if first:
        bias = tf.reshape(bias, [-1] + [1] * (value.shape.rank - 2))
    return tf.raw_ops.AddV2(x=value, y=bias)


# ---- bits ------------------------------------------------------------------------------------------------------------


def _by_bits(operation: str, x: Tensor, y: Tensor) -> Tensor | None:
    """Compute "and" and "or" from the sum and the exclusive or of the operands, in 64 bits; int64 in two halves."""
    import tensorflow as tf

    x, y = tensors(x, y)
    dtype = _dtype(x)
    if dtype == "int64":
        return _in_halves(operation, x, y)
    if dtype not in (*NARROW, "int32"):
        return None
    shape = tf.broadcast_dynamic_shape(tf.shape(x), tf.shape(y))
    x, y = (tf.cast(tf.broadcast_to(part, shape), tf.int32) for part in (x, y))
    different = tf.bitwise.bitwise_xor(x, y)
    if operation == "BitwiseXor":
        return tf.cast(different, dtype)
    total, different = (tf.cast(part, tf.int64) for part in (tf.cast(x, tf.int64) + tf.cast(y, tf.int64), different))
    twice = total - different if operation == "BitwiseAnd" else total + different
    return tf.cast(twice // tf.constant(2, tf.int64), dtype)


def _in_halves(operation: str, x: Tensor, y: Tensor) -> Tensor:
    import tensorflow as tf

    whole = tf.constant(2**32, tf.int64)
    low = [tf.math.floormod(part, whole) for part in (x, y)]
    high = [(part - below) // whole for part, below in zip((x, y), low, strict=True)]
    halves = [emit(operation, x=tf.cast(a, tf.int32), y=tf.cast(b, tf.int32))[0] for a, b in (low, high)]
    below, above = (tf.cast(half, tf.int64) for half in halves)
    return above * whole + tf.math.floormod(below, whole)


@rule("BitwiseAnd")
def _bitwise_and(x: Tensor, y: Tensor) -> Tensor | None:
    return _by_bits("BitwiseAnd", x, y)


@rule("BitwiseOr")
def _bitwise_or(x: Tensor, y: Tensor) -> Tensor | None:
    return _by_bits("BitwiseOr", x, y)


@rule("BitwiseXor")
def _bitwise_xor(x: Tensor, y: Tensor) -> Tensor | None:
    return _by_bits("BitwiseXor", *tensors(x, y)) if _dtype(tensors(x, y)[0]) == "int64" else None


@rule("Invert")
def _invert(x: Tensor) -> Tensor | None:
    import tensorflow as tf

    (x,) = tensors(x)
    if _dtype(x) not in ("int8", "int16", "int32", "int64"):
        top = {"uint8": 255, "uint16": 65535}.get(_dtype(x))
        return None if top is None else tf.cast(top - tf.cast(x, tf.int32), x.dtype)
    return -1 - x


@rule("LeftShift")
def _left_shift(x: Tensor, y: Tensor) -> Tensor | None:
    """Multiply by a power of two from a table."""
    import tensorflow as tf

    x, y = tensors(x, y)
    if _dtype(x) in NARROW:
        return _in_int32("LeftShift", PAIR, x=x, y=y)
    bits = {"int32": 32, "int64": 64}.get(_dtype(x))
    if bits is None:
        return None
    powers = np.left_shift(np.ones(bits, _dtype(x)), np.arange(bits, dtype=_dtype(x)))
    return x * tf.gather(tf.constant(powers), tf.clip_by_value(tf.cast(y, tf.int32), 0, bits - 1))


@rule("RightShift")
def _right_shift(x: Tensor, y: Tensor) -> Tensor | None:
    """Divide int64 by a power of two, rounding down."""
    import tensorflow as tf

    x, y = tensors(x, y)
    if _dtype(x) != "int64":
        return None
    powers = tf.constant(np.left_shift(np.ones(63, "int64"), np.arange(63)))
    return x // tf.gather(powers, tf.clip_by_value(tf.cast(y, tf.int32), 0, 62))


# ---- int64, and casts ------------------------------------------------------------------------------------------------


@rule("Abs")
def _abs(x: Tensor) -> Tensor | None:
    import tensorflow as tf

    (x,) = tensors(x)
    return tf.maximum(x, -x) if _dtype(x) == "int64" else _in_int32("Abs", ("x",), x=x)


@rule("Sign")
def _sign(x: Tensor) -> Tensor | None:
    import tensorflow as tf

    (x,) = tensors(x)
    if _dtype(x) != "int64":
        return _in_int32("Sign", ("x",), x=x)
    return tf.cast(x > 0, tf.int64) - tf.cast(x < 0, tf.int64)


@rule("Cast")
def cast(x: Tensor, DstT: Any, Truncate: bool = False) -> Tensor | None:  # noqa: N803
    """Cast floats to narrow integers by way of int32, where numbers out of range wrap and do not saturate."""
    import tensorflow as tf

    (x,) = tensors(x)
    narrow = tf.as_dtype(DstT).name
    return tf.cast(tf.cast(x, tf.int32), narrow) if floating(x) and narrow in NARROW[:4] else None


def _extreme(largest: bool, input: Tensor, dimension: Tensor, output_type: Any = None) -> Tensor | None:
    import tensorflow as tf

    (x,) = tensors(input)
    operation = "ArgMax" if largest else "ArgMin"
    if _dtype(x) != "int64":
        return _in_int32(operation, ONE, back=False, input=x, dimension=dimension, output_type=output_type or tf.int64)
    reduce = tf.reduce_max if largest else tf.reduce_min
    found = tf.cast(tf.equal(x, reduce(x, axis=dimension, keepdims=True)), tf.int32)
    return tf.argmax(found, dimension, output_type=output_type or tf.int64)


RULES["ArgMax"], RULES["ArgMin"] = functools.partial(_extreme, True), functools.partial(_extreme, False)
