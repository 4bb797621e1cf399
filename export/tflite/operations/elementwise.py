"""Elementwise functions of floats that LiteRT lacks, or computes wrongly for large, tiny or infinite values."""

from __future__ import annotations

import math

import numpy as np

from .table import Tensor, constant, floating, rule, tensors


@rule("Softplus")
def _softplus(features: Tensor, **_: object) -> Tensor | None:
    """Compute max(x, 0) + log(1 + exp(-|x|)). The converter's log(1 + exp(x)) overflows from 89 on."""
    import tensorflow as tf

    (x,) = tensors(features)
    return tf.nn.relu(x) + tf.math.log1p(tf.exp(-tf.abs(x))) if floating(x) else None


@rule("Log1p")
def _log1p(x: Tensor, **_: object) -> Tensor | None:
    """Compute 2 atanh(x / (x + 2)) as a series near 0, where LiteRT's LOG of 1 + x has few correct digits."""
    import tensorflow as tf

    (x,) = tensors(x)
    if not floating(x):
        return None
    near = tf.maximum(tf.minimum(x, 0.4), -0.4)
    ratio = near / (near + 2.0)
    series = 2.0 * ratio * _polynomial(ratio * ratio, tuple(1 / n for n in (11, 9, 7, 5, 3, 1)))
    return tf.where(tf.abs(x) < 0.4, series, tf.math.log(x + 1.0))


@rule("Expm1")
def _expm1(x: Tensor, **_: object) -> Tensor | None:
    import tensorflow as tf

    (x,) = tensors(x)
    return tf.tanh(0.5 * x) * (tf.exp(x) + 1.0) if floating(x) else None


@rule("Rsqrt")
def _rsqrt(x: Tensor, **_: object) -> Tensor | None:
    """Compute sqrt(1 / x), which is infinite at 0, where LiteRT's RSQRT gives NaN.

    Normalizations add an epsilon and keep the operator. TensorFlow's graph optimizer turns 1 / sqrt(x) into Rsqrt.
    """
    import tensorflow as tf

    (x,) = tensors(x)
    if not floating(x) or _is_positive(x):
        return None
    inverse = 1.0 / x
    return tf.where(tf.equal(x, 0.0), inverse, tf.where(x < 0.0, math.nan, tf.sqrt(inverse)))


def _is_positive(x: Tensor) -> bool:
    """Return whether `x` is a sum or a maximum with a positive constant."""
    if x.op.type not in ("AddV2", "Add", "Maximum"):
        return False
    found = [constant(operand) for operand in x.op.inputs]
    return any(value is not None and np.all(value > 0) for value in found)


@rule("Sinh")
def _sinh(x: Tensor, **_: object) -> Tensor | None:
    import tensorflow as tf

    (x,) = tensors(x)
    return tf.tanh(x) * tf.cosh(x) if floating(x) else None


@rule("Cosh")
def _cosh(x: Tensor, **_: object) -> Tensor | None:
    """Compute from exp(|x| / 2), which is finite wherever the result is."""
    import tensorflow as tf

    (x,) = tensors(x)
    if not floating(x):
        return None
    half = tf.exp(0.5 * tf.abs(x))
    return 0.5 * half * half + 0.5 / half / half


@rule("Tan")
def _tan(x: Tensor, **_: object) -> Tensor | None:
    import tensorflow as tf

    (x,) = tensors(x)
    return tf.sin(x) / tf.cos(x) if floating(x) else None


@rule("Asin")
def _asin(x: Tensor, **_: object) -> Tensor | None:
    import tensorflow as tf

    (x,) = tensors(x)
    return tf.atan2(x, tf.sqrt((1.0 - x) * (1.0 + x))) if floating(x) else None


@rule("Acos")
def _acos(x: Tensor, **_: object) -> Tensor | None:
    import tensorflow as tf

    (x,) = tensors(x)
    return tf.atan2(tf.sqrt((1.0 - x) * (1.0 + x)), x) if floating(x) else None


@rule("Atan")
def _atan(x: Tensor, **_: object) -> Tensor | None:
    import tensorflow as tf

    (x,) = tensors(x)
    return tf.atan2(x, tf.ones_like(x)) if floating(x) else None


@rule("Atan2")
def _atan2(y: Tensor, x: Tensor, **_: object) -> Tensor | None:
    """Broadcast the operands, which LiteRT's ATAN2 does not."""
    import tensorflow as tf

    y, x = tensors(y, x)
    if not floating(y) or y.shape == x.shape:
        return None
    shape = tf.broadcast_dynamic_shape(tf.shape(y), tf.shape(x))
    return tf.atan2(tf.broadcast_to(y, shape), tf.broadcast_to(x, shape))


@rule("Asinh")
def _asinh(x: Tensor, **_: object) -> Tensor | None:
    import tensorflow as tf

    (x,) = tensors(x)
    if not floating(x):
        return None
    size = tf.abs(x)
    small = tf.minimum(size, 1e9)  # the square of a larger one overflows
    near = tf.math.log1p(small + small * small / (1.0 + tf.sqrt(small * small + 1.0)))
    return tf.sign(x) * tf.where(size > 1e9, tf.math.log(size) + math.log(2.0), near)


@rule("Acosh")
def _acosh(x: Tensor, **_: object) -> Tensor | None:
    import tensorflow as tf

    (x,) = tensors(x)
    if not floating(x):
        return None
    over = x - 1.0
    near = tf.math.log1p(over + tf.sqrt(over) * tf.sqrt(over + 2.0))
    return tf.where(x > 1e37, tf.math.log(x) + math.log(2.0), near)


@rule("Atanh")
def _atanh(x: Tensor, **_: object) -> Tensor | None:
    import tensorflow as tf

    (x,) = tensors(x)
    return 0.5 * (tf.math.log1p(x) - tf.math.log1p(-x)) if floating(x) else None


# A rational approximation of erf(x) / x in x², exact in float32 (as in Eigen's generic implementation).
ERF_ABOVE = (
    -2.72614225801306e-10,
    2.77068142495902e-08,
    -2.10102402082508e-06,
    -5.69250639462346e-05,
    -7.34990630326855e-04,
    -2.95459980854025e-03,
    -1.60960333262415e-02,
)
ERF_BELOW = (
    -1.45660718464996e-05,
    -2.13374055278905e-04,
    -1.68282697438203e-03,
    -7.37332916720468e-03,
    -1.42647390514189e-02,
)


@rule("Erf")
def _erf(x: Tensor, **_: object) -> Tensor | None:
    import tensorflow as tf

    (x,) = tensors(x)
    if not floating(x):
        return None
    x = tf.maximum(tf.minimum(x, 4.0), -4.0)  # beyond, erf rounds to 1 and -1
    square = x * x
    return x * _polynomial(square, ERF_ABOVE) / _polynomial(square, ERF_BELOW)


# Press et al., Numerical Recipes, "erfcc": the logarithm of erfc(x) exp(x²) / t in t = 1 / (1 + x / 2).
ERFC = (
    0.17087277,
    -0.82215223,
    1.48851587,
    -1.13520398,
    0.27886807,
    -0.18628806,
    0.09678418,
    0.37409196,
    1.00002368,
    -1.26551223,
)


@rule("Erfc")
def _erfc(x: Tensor, **_: object) -> Tensor | None:
    import tensorflow as tf

    (x,) = tensors(x)
    if not floating(x):
        return None
    size = tf.minimum(tf.abs(x), 1e4)
    share = 1.0 / (1.0 + 0.5 * size)
    tail = share * tf.exp(_polynomial(share, ERFC) - size * size)
    return tf.where(tf.abs(x) < 0.5, 1.0 - tf.math.erf(x), tf.where(x < 0.0, 2.0 - tail, tail))


# Bessel functions, from Press et al., Numerical Recipes, "bessi0": near 0 in (x / 3.75)², and beyond in 3.75 / |x|.
BESSEL_NEAR = (0.0045813, 0.0360768, 0.2659732, 1.2067492, 3.0899424, 3.5156229, 1.0)
BESSEL_FAR = (
    0.00392377,
    -0.01647633,
    0.02635537,
    -0.02057706,
    0.00916281,
    -0.00157565,
    0.00225319,
    0.01328592,
    0.39894228,
)


@rule("BesselI0")
def _bessel_i0(x: Tensor, **_: object) -> Tensor | None:
    import tensorflow as tf

    (x,) = tensors(x)
    if not floating(x):
        return None
    size = tf.abs(x)
    beyond = tf.maximum(size, 3.75)
    near = _polynomial(tf.minimum(size, 3.75) / 3.75 * (tf.minimum(size, 3.75) / 3.75), BESSEL_NEAR)
    return tf.where(size < 3.75, near, tf.exp(size) / tf.sqrt(beyond) * _polynomial(3.75 / beyond, BESSEL_FAR))


# Giles, "Approximating the erfinv function" (2010), in single precision, for w < 5 and from 5 on.
ERFINV_NEAR = (
    2.81022636e-08,
    3.43273939e-07,
    -3.5233877e-06,
    -4.39150654e-06,
    0.00021858087,
    -0.00125372503,
    -0.00417768164,
    0.246640727,
    1.50140941,
)
ERFINV_FAR = (
    -0.000200214257,
    0.000100950558,
    0.00134934322,
    -0.00367342844,
    0.00573950773,
    -0.0076224613,
    0.00943887047,
    1.00167406,
    2.83297682,
)


@rule("Erfinv")
def _erfinv(x: Tensor, **_: object) -> Tensor | None:
    import tensorflow as tf

    (x,) = tensors(x)
    if not floating(x):
        return None
    w = -tf.math.log((1.0 - x) * (1.0 + x))
    far = _polynomial(tf.sqrt(tf.nn.relu(w)) - 3.0, ERFINV_FAR)
    inside = x * tf.where(w < 5.0, _polynomial(w - 2.5, ERFINV_NEAR), far)
    return tf.where(tf.equal(tf.abs(x), 1.0), x * math.inf, inside)


@rule("Ndtri")
def _ndtri(x: Tensor, **_: object) -> Tensor | None:
    import tensorflow as tf

    (x,) = tensors(x)
    return math.sqrt(2.0) * tf.math.erfinv(2.0 * x - 1.0) if floating(x) else None


def _polynomial(x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    import tensorflow as tf

    result = tf.fill(tf.shape(x), np.float32(coefficients[0]))
    for coefficient in coefficients[1:]:
        result = result * x + coefficient
    return result
