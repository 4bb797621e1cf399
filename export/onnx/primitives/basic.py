"""Products, lookups, normalizations, activations and rotations in ONNX operators."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ....layers import functional as F
from ..markers import marker

Tensor = Any


def dense(inputs: Tensor, kernel: Tensor, bias: Tensor | None = None, *, transpose_kernel: bool = False) -> Tensor:
    import tensorflow as tf

    kernel = tf.convert_to_tensor(kernel)
    if transpose_kernel:
        kernel = tf.transpose(kernel)
    output = marker("MatMul", [inputs, kernel], [*inputs.shape[:-1], kernel.shape[-1]])
    return output if bias is None else tf.add(output, tf.convert_to_tensor(bias))


def embedding_lookup(table: Tensor, ids: Tensor) -> Tensor:
    return marker("Gather", [table, ids], [*ids.shape, table.shape[-1]], axis=0)


def layer_norm(inputs: Tensor, gamma: Tensor, beta: Tensor | None, *, epsilon: float) -> Tensor:
    weights = [gamma] if beta is None else [gamma, beta]
    return marker("LayerNormalization", [inputs, *weights], inputs.shape.as_list(), axis=-1, epsilon=epsilon)


def rms_norm(inputs: Tensor, scale: Tensor, *, epsilon: float) -> Tensor:
    return marker("RMSNormalization", [inputs, scale], inputs.shape.as_list(), axis=-1, epsilon=epsilon)


def composed_rms_norm(inputs: Tensor, scale: Tensor, *, epsilon: float) -> Tensor:
    """Emit the operators that ONNX Runtime fuses into ``SimplifiedLayerNormalization``."""
    import tensorflow as tf

    square = marker("Pow", [inputs, np.array(2.0, "float32")], inputs.shape.as_list())
    mean = tf.reduce_mean(square, axis=-1, keepdims=True)
    return inputs / tf.sqrt(mean + epsilon) * scale


def gelu(inputs: Tensor, *, approximate: bool = False) -> Tensor:
    return marker("Gelu", [inputs], inputs.shape.as_list(), approximate="tanh" if approximate else "none")


def composed_gelu(inputs: Tensor, *, approximate: bool = False) -> Tensor:
    """Emit the operators that ONNX Runtime fuses into ``Gelu`` and ``FastGelu``.

    OpenCV 4.12 and 5.0 end the process where x / 2 is the first factor instead of the last one.
    """
    import tensorflow as tf

    if not approximate:
        return inputs * (tf.math.erf(inputs / math.sqrt(2.0)) + 1.0) * 0.5
    cube = marker("Pow", [inputs, np.array(3.0, "float32")], inputs.shape.as_list())
    inner = (inputs + cube * 0.044715) * math.sqrt(2.0 / math.pi)
    return inputs * 0.5 * (tf.tanh(inner) + 1.0)


def reshape_behind(x: Tensor, kept: int, last: list[int]) -> Tensor:
    shape = np.array([0] * kept + list(last), "int64")  # 0 keeps a size
    return marker("Reshape", [x, shape], [*x.shape[:kept], *last])


def batch_norm(x: Tensor, scale: Tensor, offset: Tensor, mean: Tensor, variance: Tensor, epsilon: float) -> Tensor:
    """Emit BatchNormalization between transposes. ONNX Runtime cancels them with those of a convolution, and then folds
    the normalization into the convolution."""
    import tensorflow as tf

    first = tf.transpose(x, (0, 3, 1, 2))
    output = marker(
        "BatchNormalization", [first, scale, offset, mean, variance], first.shape.as_list(), epsilon=epsilon
    )
    return tf.transpose(output, (0, 2, 3, 1))


def image_mean(x: Tensor) -> Tensor:
    import tensorflow as tf

    first = tf.transpose(x, (0, 3, 1, 2))
    output = marker("GlobalAveragePool", [first], [*first.shape[:2], 1, 1])
    return tf.transpose(output, (0, 2, 3, 1))


def rotary(inputs: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool = False) -> Tensor:
    import tensorflow as tf

    caches = [tf.squeeze(cache, axis=1) for cache in (cos, sin)]  # (B or 1, T, D/2)
    if cos.shape[0] == 1:  # the operator needs one row for each row of the batch
        caches = [tf.tile(cache, tf.stack([tf.shape(inputs)[0], 1, 1])) for cache in caches]
    return marker("RotaryEmbedding", [inputs, *caches], inputs.shape.as_list(), interleaved=int(interleaved))


def composed_rotary(inputs: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool = False) -> Tensor:
    """Multiply by cosines, and the exchanged halves by sines with signs, which all layers share."""
    import tensorflow as tf

    if interleaved:
        return F.PRIMITIVES["rotary"](inputs, cos, sin, interleaved=True)
    first, second = tf.split(inputs, 2, axis=-1)  # (B, H, T, D/2) each
    exchanged = tf.concat([second, first], axis=-1)
    return inputs * tf.concat([cos, cos], axis=-1) + exchanged * tf.concat([-sin, sin], axis=-1)
