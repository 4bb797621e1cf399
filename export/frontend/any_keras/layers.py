"""Lowering of Keras' own layers and functions to the operators that models of this package get.

During a trace, the Keras functions in ``FUNCTIONS`` first check whether the exporter lowers the equivalent primitive of
``layers.functional``. If it does not, or if the arguments have another meaning, they run Keras' implementation.
``FUNCTIONS`` covers every layer that is built from these functions (Dense, EinsumDense, Embedding, the normalizations),
including layers of KerasHub and of users. ``METHODS`` replaces methods of layers that compute more than one function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import keras
from keras import ops

from ....layers import functional as F
from .recurrent import recurrent_call

Tensor = Any
Function = Callable[..., Any]

HIDDEN = -1.7e38  # added to the score of a masked key; finite, and larger than any score, which Keras replaces


@contextmanager
def keras_lowered(layers: list[Any]) -> Iterator[None]:
    """Within the block, let Keras' functions and the given layers use the primitives that are lowered in this thread.

    Args:
        layers: the layers whose methods in ``METHODS`` are replaced.
    """
    from keras.src import backend  # the modules in which ``keras.ops`` looks up its functions
    from keras.src.ops import nn as keras_nn

    homes = {"backend.nn": backend.nn, "backend.math": backend.math, "backend.numpy": backend.numpy, "ops.nn": keras_nn}
    with ExitStack() as stack:
        for place, function in FUNCTIONS.items():
            home, _, name = place.rpartition(".")
            stack.enter_context(mock.patch.object(homes[home], name, _asking(function, getattr(homes[home], name))))
        stack.enter_context(mock.patch.object(keras.random.SeedGenerator, "next", _fixed_seed))
        for layer in layers:
            for (kind, name), function in METHODS.items():
                own = getattr(layer, name, None)
                if isinstance(layer, kind) and getattr(type(layer), name) is getattr(kind, name):
                    stack.enter_context(replaced_method(layer, name, _asking(function, own, layer)))
        yield


def _asking(function: Function, original: Any, *first: Any) -> Function:
    """Return a function that calls `function`, and the `original` where that returns None or no primitive is
    lowered."""

    def asking(*args: Any, **kwargs: Any) -> Any:
        answer = function(*first, *args, **kwargs) if F.lowered() else None
        return original(*args, **kwargs) if answer is None else answer

    return asking


@contextmanager
def replaced_method(layer: Any, name: str, function: Function) -> Iterator[None]:
    """Replace a method of `layer` within the block, bypassing Keras' ``__setattr__``, which would track the
    function."""
    object.__setattr__(layer, name, function)
    try:
        yield
    finally:
        object.__delattr__(layer, name)


def _fixed_seed(generator: Any, ordered: bool = True) -> Tensor:
    """Return a constant, in place of the state of a seed generator.

    Recurrent layers read it even where they drop nothing. A model whose result depends on it is refused.
    """
    return ops.convert_to_tensor([0, 0], dtype=generator.state.dtype)


def _floating(*tensors: Any) -> bool:
    return all(keras.backend.standardize_dtype(tensor.dtype) == "float32" for tensor in tensors)


# ---- functions, which return None where the primitive does not apply ------------------------------------------------


def _matmul(x1: Tensor, x2: Tensor) -> Tensor | None:
    dense = F.lowered().get("dense")
    x1, x2 = ops.convert_to_tensor(x1), ops.convert_to_tensor(x2)
    known = len(x1.shape) >= 2 and x1.shape[-1] is not None and len(x2.shape) == 2 and None not in tuple(x2.shape)
    return dense(x1, x2) if dense and known and _floating(x1, x2) else None


def _einsum(subscripts: str, *operands: Tensor, **_: Any) -> Tensor | None:
    """Compute an einsum of two operands as a matrix multiplication, where they share only the labels that are
    summed."""
    dense = F.lowered().get("dense")
    sides = subscripts.replace(" ", "").split("->")
    if dense is None or len(operands) != 2 or len(sides) != 2 or "." in subscripts:
        return None
    (left, right), result = sides[0].split(","), sides[1]
    summed = [label for label in left if label in right]
    free = [[label for label in side if label not in summed] for side in (left, right)]
    x, kernel = (ops.convert_to_tensor(operand) for operand in operands)
    if (
        any(label in result for label in summed)
        or left[len(left) - len(summed) :] != "".join(summed)  # so that x, the larger operand, needs no transpose
        or result != "".join(free[0] + free[1])
        or not (summed and free[0] and free[1])
        or None in tuple(kernel.shape)
        or not _floating(x, kernel)
    ):
        return None
    sizes = dict(zip(right, kernel.shape, strict=True))
    order = [right.index(label) for label in (*summed, *free[1])]
    if order != list(range(len(order))):
        kernel = ops.transpose(kernel, order)
    inner, outer = (math.prod(sizes[label] for label in labels) for labels in (summed, free[1]))
    if len(summed) + len(free[1]) > 2:
        kernel = ops.reshape(kernel, (inner, outer))
    if len(summed) > 1:
        x = reshape_behind(x, len(free[0]), [inner])
    x = dense(x, kernel)
    return x if len(free[1]) == 1 else reshape_behind(x, len(free[0]), [sizes[label] for label in free[1]])


@F.primitive
def reshape_behind(x: Tensor, kept: int, last: list[int]) -> Tensor:
    """Keep the first `kept` dimensions of `x`, several of which may be open, and reshape the rest to `last`."""
    return ops.reshape(x, (*ops.shape(x)[:kept], *last))


def _take(x: Tensor, indices: Tensor, axis: int | None = None) -> Tensor | None:
    lookup = F.lowered().get("embedding_lookup")
    x, indices = ops.convert_to_tensor(x), ops.convert_to_tensor(indices)
    integers = keras.backend.standardize_dtype(indices.dtype) in ("int32", "int64")
    table = axis == 0 and len(x.shape) == 2 and None not in tuple(x.shape) and len(indices.shape) > 0
    if not (lookup and table and integers and _floating(x)):
        return None
    if not _is_onnx():  # Keras counts negative indices from the end, as ONNX does, but not LiteRT
        indices = ops.mod(indices, x.shape[0])
    return lookup(x, indices)


def _is_onnx() -> bool:
    """Return whether the trace is for ONNX, whose runtimes have no loop over weights; see ``unrolled``."""
    return "unrolled" in F.lowered()


def _layer_normalization(
    x: Tensor, gamma: Any = None, beta: Any = None, axis: Any = -1, epsilon: float | None = None, **more: Any
) -> Tensor | None:
    normalize = F.lowered().get("layer_norm")
    if normalize is None or more.get("rms_scaling") or not _last(axis, x) or not _floating(x):
        return None
    width = (x.shape[-1],)
    gamma = ops.ones(width) if gamma is None else gamma
    beta = ops.zeros(width) if beta is None else beta
    return normalize(x, gamma, beta, epsilon=keras.config.epsilon() if epsilon is None else epsilon)


def _rms_normalization(x: Tensor, scale: Any = None, axis: Any = -1, epsilon: float | None = None) -> Tensor | None:
    normalize = F.lowered().get("rms_norm")
    if normalize is None or not _last(axis, x) or not _floating(x):
        return None
    scale = ops.ones((x.shape[-1],)) if scale is None else scale
    return normalize(x, scale, epsilon=keras.config.epsilon() if epsilon is None else epsilon)


def _last(axis: Any, x: Tensor) -> bool:
    axes = [axis] if isinstance(axis, int) else list(axis)
    return axes in ([-1], [len(x.shape) - 1]) and x.shape[-1] is not None


def _gelu(x: Tensor, approximate: bool = True) -> Tensor | None:
    gelu = F.lowered().get("gelu")
    x = ops.convert_to_tensor(x)
    return gelu(x, approximate=approximate) if gelu and _floating(x) else None


def _dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    scale: float | None = None,
    is_causal: bool = False,
    flash_attention: bool | None = None,
    attn_logits_soft_cap: float | None = None,
    *,
    zeros: bool = False,
) -> Tensor | None:
    """Compute attention of queries, keys and values (batch, length, heads, head_dim), the layout of Keras.

    Args:
        zeros: what a query without any visible key gives: zeros, as from Keras' layers with dropout (in training or
            not), or else the mean of all values, as from Keras' function.
    """
    tensors = [ops.convert_to_tensor(tensor) for tensor in (query, key, value)]
    soft = attn_logits_soft_cap is not None and attn_logits_soft_cap > 0
    if "dot_product_attention" not in F.lowered() or soft or not _floating(*tensors) or len(tensors[0].shape) != 4:
        return None
    q, k, v = (ops.transpose(tensor, (0, 2, 1, 3)) for tensor in tensors)
    if is_causal:  # aligned at the top left, unlike the causal mask of the primitive
        rows, columns = ops.arange(ops.shape(q)[2]), ops.arange(ops.shape(k)[2])
        mask = F.combine_masks(mask, ops.expand_dims(rows, 1) >= columns)
    mask = None if mask is None else _for_all_keys(_of_rank_4(mask, 0), k, ops.logical_or, False)
    bias = None if bias is None else _for_all_keys(bias, k, ops.add, 0)
    if mask is not None and not zeros:  # as a bias, since the primitive gives zeros for a masked row
        added = ops.cast(ops.logical_not(mask), "float32") * HIDDEN
        bias, mask = added if bias is None else ops.cast(bias, "float32") + added, None
    return ops.transpose(F.dot_product_attention(q, k, v, mask=mask, bias=bias, scale=scale), (0, 2, 1, 3))


def _for_all_keys(x: Tensor, keys: Tensor, join: Function, neutral: Any) -> Tensor:
    """Return a mask or a bias whose last dimension, if it is 1, is repeated for all keys, as ONNX' Attention needs."""
    x = ops.convert_to_tensor(x)
    if x.shape[-1] != 1 or keys.shape[2] == 1:
        return x
    return join(x, ops.full((ops.shape(keys)[2],), neutral, dtype=x.dtype))


@F.primitive
def batch_norm(x: Tensor, scale: Tensor, offset: Tensor, mean: Tensor, variance: Tensor, epsilon: float) -> Tensor:
    """Normalize images (batch, height, width, channels) with the given statistics of the channels."""
    return (x - mean) * (scale * ops.rsqrt(variance + epsilon)) + offset


@F.primitive
def image_mean(x: Tensor) -> Tensor:
    """Average images (batch, height, width, channels) over height and width, to (batch, 1, 1, channels)."""
    return ops.mean(x, axis=(1, 2), keepdims=True)


def _batch_normalization(
    x: Tensor, mean: Tensor, variance: Tensor, axis: int, offset: Any = None, scale: Any = None, epsilon: float = 1e-3
) -> Tensor | None:
    if "batch_norm" not in F.lowered() or len(x.shape) != 4 or not _last(axis, x) or not _floating(x):
        return None
    width = (x.shape[-1],)
    offset, scale = ops.zeros(width) if offset is None else offset, ops.ones(width) if scale is None else scale
    return batch_norm(x, scale, offset, mean, variance, epsilon)


def _mean(x: Tensor, axis: Any = None, keepdims: bool = False) -> Tensor | None:
    if "image_mean" not in F.lowered() or not isinstance(axis, list | tuple) or len(x.shape) != 4 or not _floating(x):
        return None
    if sorted(axis) != [1, 2] or x.shape[-1] is None:
        return None
    mean = image_mean(x)
    return mean if keepdims else reshape_behind(mean, 1, [x.shape[-1]])


def _of_rank_4(mask: Any, axis: int) -> Tensor:
    """Return the mask as booleans of rank 4, with new dimensions at `axis`."""
    mask = ops.cast(mask, "bool")
    for _ in range(4 - len(mask.shape)):
        mask = ops.expand_dims(mask, axis)
    return mask


def _add(x1: Any, x2: Any) -> Tensor | None:
    """Add integers with AddV2. Keras would emit BiasAdd, which the runtimes support for floats only."""
    import tensorflow as tf

    x1, x2 = tf.convert_to_tensor(x1), tf.convert_to_tensor(x2)  # unlike Keras', it reads a variable
    return tf.add(x1, x2) if x1.dtype == x2.dtype and x1.dtype.is_integer else None


def _argmax(x: Tensor, axis: int | None = None, keepdims: bool = False) -> Tensor | None:
    return _extreme(x, axis, keepdims, "argmax")


def _argmin(x: Tensor, axis: int | None = None, keepdims: bool = False) -> Tensor | None:
    return _extreme(x, axis, keepdims, "argmin")


def _extreme(x: Tensor, axis: int | None, keepdims: bool, name: str) -> Tensor | None:
    """Compute argmax or argmin without Keras' distinction between -0.0 and 0.0, which reads the bits of floats. No
    runtime has operators for that."""
    import tensorflow as tf

    x = ops.convert_to_tensor(x)
    if axis is None or not _floating(x):
        return None
    place = getattr(tf, name)(x, axis=axis, output_type=tf.int32)
    return ops.expand_dims(place, axis) if keepdims else place


def _fft2(x: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor] | None:
    """Compute the 2D Fourier transform as matrix multiplications, since the runtimes have no complex numbers."""
    real, imaginary = (ops.convert_to_tensor(part) for part in x)
    if not _floating(real, imaginary):
        return None
    cos, sin = _fourier(ops.shape(real)[-1])
    real, imaginary = real @ cos + imaginary @ sin, imaginary @ cos - real @ sin
    cos, sin = _fourier(ops.shape(real)[-2])
    return cos @ real + sin @ imaginary, cos @ imaginary - sin @ real


def _fourier(size: Any) -> tuple[Tensor, Tensor]:
    """Return the cosine and the sine of 2 pi j k / size, both (size, size)."""
    steps = ops.arange(size, dtype="int32")
    whole = ops.mod(ops.expand_dims(steps, 1) * steps, size)  # full turns are dropped, since large angles are inexact
    angle = ops.cast(whole, "float32") * (2 * math.pi / ops.cast(size, "float32"))
    return ops.cos(angle), ops.sin(angle)


FUNCTIONS: dict[str, Function] = {
    "backend.numpy.add": _add,
    "backend.numpy.mean": _mean,
    "backend.nn.batch_normalization": _batch_normalization,
    "backend.numpy.argmax": _argmax,
    "backend.numpy.argmin": _argmin,
    "backend.math.fft2": _fft2,
    "backend.numpy.matmul": _matmul,
    "backend.numpy.einsum": _einsum,
    "backend.numpy.take": _take,
    "backend.nn.gelu": _gelu,
    "backend.nn.dot_product_attention": _dot_product_attention,
    "ops.nn._layer_normalization": _layer_normalization,
    "ops.nn._rms_normalization": _rms_normalization,
}


# ---- methods of layers -----------------------------------------------------------------------------------------------


def _attend(
    layer: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    training: Any = None,
    return_attention_scores: bool = False,
    use_causal_mask: bool = False,
) -> tuple[Tensor, None] | None:
    """Compute the part between the projections of both attention layers, from tensors (batch, length, heads,
    head_dim)."""
    wanted = return_attention_scores or getattr(layer, "_return_attention_scores", False)
    if wanted or training or len(query.shape) != 4:
        return None
    if attention_mask is not None:  # (B, T, S) or (B, heads, T, S)
        attention_mask = _of_rank_4(attention_mask, -3)
    scale = getattr(layer, "_inverse_sqrt_key_dim", None) or layer._inverse_sqrt_head_dim
    dropout = getattr(layer, "_dropout", None) or getattr(layer, "dropout", None)
    masks = {"mask": attention_mask, "is_causal": use_causal_mask, "zeros": bool(dropout)}
    output = _dot_product_attention(query, key, value, scale=scale, **masks)
    return None if output is None else (output, None)


METHODS: dict[tuple[type, str], Function] = {
    (keras.layers.MultiHeadAttention, "_compute_attention"): _attend,
    (keras.layers.GroupQueryAttention, "_compute_attention"): _attend,
    (keras.layers.LSTM, "call"): recurrent_call,
    (keras.layers.GRU, "call"): recurrent_call,
    (keras.layers.SimpleRNN, "call"): recurrent_call,
    (keras.layers.RNN, "call"): recurrent_call,
}
