"""Primitives in words that Keras' own ONNX export (tf2onnx with its optimizers) turns into a right file.

That converter knows no ``Erfc``, of which TensorFlow's exact GELU is made, and merges a reshape that follows another
into one of the wrong rank.
"""

from __future__ import annotations

import math
from typing import Any

from keras import ops

Tensor = Any


def _dense(inputs: Tensor, kernel: Tensor, bias: Tensor | None = None, *, transpose_kernel: bool = False) -> Tensor:
    kernel = ops.transpose(kernel) if transpose_kernel else kernel  # (in, out)
    kernel = ops.reshape(kernel, (1,) * (len(inputs.shape) - 2) + tuple(kernel.shape))  # a batch: else Keras reshapes
    x = ops.matmul(inputs, kernel)  # (..., out)
    return x if bias is None else ops.add(x, bias)


def _gelu(inputs: Tensor, *, approximate: bool = False) -> Tensor:
    if approximate:
        return ops.gelu(inputs, approximate=True)
    return 0.5 * inputs * (1.0 + ops.erf(inputs * ops.cast(math.sqrt(0.5), inputs.dtype)))


PORTABLE = {"dense": _dense, "gelu": _gelu}
