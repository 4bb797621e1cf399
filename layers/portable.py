"""Primitives in a form that Keras' own ONNX export (tf2onnx with its optimizers) converts correctly.

tf2onnx does not support ``Erfc``, which TensorFlow's exact GELU uses, and merges two consecutive reshapes into one of
the wrong rank.
"""

from __future__ import annotations

import math
from typing import Any

from keras import ops

Tensor = Any


def _dense(inputs: Tensor, kernel: Tensor, bias: Tensor | None = None, *, transpose_kernel: bool = False) -> Tensor:
    kernel = ops.transpose(kernel) if transpose_kernel else kernel  # (in, out)
    # The rank of `inputs`: Keras inserts reshapes into a matrix multiplication of different ranks.
    kernel = ops.reshape(kernel, (1,) * (len(inputs.shape) - 2) + tuple(kernel.shape))
    x = ops.matmul(inputs, kernel)  # (..., out)
    return x if bias is None else ops.add(x, bias)


def _gelu(inputs: Tensor, *, approximate: bool = False) -> Tensor:
    if approximate:
        return ops.gelu(inputs, approximate=True)
    return 0.5 * inputs * (1.0 + ops.erf(inputs * ops.cast(math.sqrt(0.5), inputs.dtype)))


PORTABLE = {"dense": _dense, "gelu": _gelu}
