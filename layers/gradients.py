"""GELU and layer normalization with gradients written by hand, for TensorFlow.

TensorFlow derives the gradient of each small operation by itself and reads the activations from memory again for each
of them. Here a gradient is one formula of the input, whose parts a graph shares with the forward pass. JAX fuses such
operations and PyTorch has kernels of its own, so that they need none of this.

Derivatives of second and higher order are right, because the gradients consist of operations that have gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from keras import ops
from keras.backend import standardize_dtype

Tensor = Any
Gradient = Callable[[Tensor], Tensor]

SLOPE, CUBIC = 2 * math.sqrt(2 / math.pi), 0.044715  # tanh of half a number is 2 sigmoid - 1, hence the factor 2


def gelu(x: Tensor, *, approximate: bool) -> Tensor:
    """Apply GELU (arXiv:1606.08415), exact or by tanh, to `x` (...)."""
    return _gelu_by_tanh(x) if approximate else _gelu(x)


@ops.custom_gradient
def _gelu(x: Tensor) -> tuple[Tensor, Gradient]:
    below = 0.5 + 0.5 * ops.erf(x * math.sqrt(0.5))  # Φ(x), the normal distribution function

    def gradient(upstream: Tensor) -> Tensor:
        density = ops.exp(ops.square(x) * -0.5) * (1 / math.sqrt(2 * math.pi))  # Φ'(x)
        return upstream * (below + x * density)

    return x * below, gradient


@ops.custom_gradient
def _gelu_by_tanh(x: Tensor) -> tuple[Tensor, Gradient]:
    square = ops.square(x)
    if standardize_dtype(x.dtype) == "float16":
        square = ops.minimum(square, 1e3)  # of a large x it is infinite, and the gradient would be 0 · infinity
    below = ops.sigmoid(x * (square * (CUBIC * SLOPE) + SLOPE))  # (1 + tanh(z)) / 2 = sigmoid(2 z)
    y = x * below

    def gradient(upstream: Tensor) -> Tensor:
        return upstream * (below + y * (1.0 - below) * (square * (3 * CUBIC * SLOPE) + SLOPE))

    return y, gradient


def standardize(x: Tensor, *, epsilon: float) -> Tensor:
    """Return `x` (..., features), float32 or float64, with mean 0 and variance 1 along its last axis.

    `epsilon` is added to the variance.
    """

    @ops.custom_gradient
    def standardized(x: Tensor) -> tuple[Tensor, Gradient]:
        mean = ops.mean(x, axis=-1, keepdims=True)  # (..., 1)
        inverse = ops.rsqrt(ops.mean(ops.square(x - mean), axis=-1, keepdims=True) + epsilon)  # (..., 1)

        def gradient(upstream: Tensor) -> Tensor:
            y = (x - mean) * inverse  # XLA computes it again, a graph shares it with the forward pass
            along = y * ops.mean(upstream * y, axis=-1, keepdims=True)  # would change the scale of x alone
            return inverse * (upstream - ops.mean(upstream, axis=-1, keepdims=True) - along)

        return (x - mean) * inverse, gradient

    return standardized(x)
