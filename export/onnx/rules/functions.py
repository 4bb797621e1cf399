"""Functions of floats for which ONNX has no operator."""

from __future__ import annotations

from typing import Any

import numpy as np

from .base import Call, rule
from .selection import select

Tensor = Any

# Giles, "Approximating the erfinv function" (2010), table 1: for w = -log(1 - x²), below 5 and from 5 on.
CENTRAL = (2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087, -0.00125372503)
CENTRAL += (-0.00417768164, 0.246640727, 1.50140941)
TAIL = (-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773, -0.0076224613)
TAIL += (0.00943887047, 1.00167406, 2.83297682)
# Numerical Recipes, 6.2.2: log(erfc(z) / t) + z² in t = 2 / (2 + z), for z from 0 on.
COMPLEMENT = (0.17087277, -0.82215223, 1.48851587, -1.13520398, 0.27886807, -0.18628806, 0.09678418, 0.37409196)
COMPLEMENT += (1.00002368, -1.26551223)
# Abramowitz and Stegun, 9.8.1 and 9.8.2: I0 in (x / 3.75)², and sqrt(x) exp(-x) I0 in 3.75 / x.
BESSEL = (0.0045813, 0.0360768, 0.2659732, 1.2067492, 3.0899424, 3.5156229, 1.0)
BESSEL_TAIL = (0.00392377, -0.01647633, 0.02635537, -0.02057706, 0.00916281, -0.00157565, 0.00225319, 0.01328592)
BESSEL_TAIL += (0.39894228,)


def polynomial(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    """Evaluate a polynomial whose highest coefficient comes first."""
    import tensorflow as tf

    result = tf.constant(coefficients[0], x.dtype)
    for coefficient in coefficients[1:]:
        result = result * x + tf.constant(coefficient, x.dtype)
    return result


@rule("Expm1")
def _expm1(call: Call) -> Any:
    """Compute exp(x) - 1 from tanh(x / 2) near zero, where the difference would lose digits."""
    import tensorflow as tf

    (x,) = call.inputs
    half = tf.tanh(x * 0.5)
    return select(tf.less(tf.abs(x), 0.5), 2.0 * half / (1.0 - half), tf.exp(x) - 1.0)


@rule("Log1p")
def _log1p(call: Call) -> Any:
    """Correct log(1 + x) for the rounding of 1 + x (Kahan)."""
    import tensorflow as tf

    (x,) = call.inputs
    above = 1.0 + x
    difference = above - 1.0
    corrected = tf.math.log(above) * (x / select(tf.equal(difference, 0.0), tf.ones_like(x), difference))
    near = select(tf.equal(difference, 0.0), x, corrected)
    return select(tf.less(tf.abs(x), 0.5), near, tf.math.log(above))


@rule("Erfc")
def _erfc(call: Call) -> Any:
    """Compute the complement directly where 1 - erf(x) would lose digits."""
    import tensorflow as tf

    (x,) = call.inputs
    z = tf.abs(x)
    t = 1.0 / (1.0 + 0.5 * z)
    tail = t * tf.exp(polynomial(COMPLEMENT, t) - z * z)
    tail = select(tf.less(x, 0.0), 2.0 - tail, tail)
    return select(tf.less(z, 0.5), 1.0 - tf.math.erf(x), tail)


@rule("Erfinv")
def _erfinv(call: Call) -> Any:
    import tensorflow as tf

    (x,) = call.inputs
    w = -tf.math.log((1.0 - x) * (1.0 + x))
    central = polynomial(CENTRAL, w - 2.5)
    tail = polynomial(TAIL, tf.sqrt(tf.maximum(w, 5.0)) - 3.0)
    inside = select(tf.less(w, 5.0), central, tail) * x
    return select(tf.equal(tf.abs(x), 1.0), x * np.float32(np.inf), inside)


@rule("BesselI0", "BesselI0e")
def _bessel_i0(call: Call) -> Any:
    import tensorflow as tf

    (x,) = call.inputs
    size = tf.abs(x)
    scaled = call.op.type == "BesselI0e"
    central = polynomial(BESSEL, tf.square(x / 3.75))
    tail = polynomial(BESSEL_TAIL, 3.75 / tf.maximum(size, 3.75)) * tf.math.rsqrt(tf.maximum(size, 3.75))
    central, tail = (central * tf.exp(-size), tail) if scaled else (central, tail * tf.exp(size))
    return select(tf.less(size, 3.75), central, tail)
