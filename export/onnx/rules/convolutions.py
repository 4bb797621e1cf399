"""Transposed convolutions of any padding, grouped convolutions of volumes, and biases of the second dimension."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..markers import marker
from .base import Call, rule

Tensor = Any


def _first(rank: int) -> list[int]:
    """Return the permutation that moves the channels from the last place to the second."""
    return [0, rank + 1, *range(1, rank + 1)]


def _last(rank: int) -> list[int]:
    return [0, *range(2, rank + 2), 1]


@rule("BiasAdd")
def _bias(call: Call) -> Any:
    """Add the bias to the second dimension. tf2onnx adds it to the last one where it is no constant."""
    import tensorflow as tf

    x, bias = call.inputs
    if call.attr("data_format") != "NCHW" or x.shape.rank is None:
        return None
    return x + tf.reshape(bias, [-1, *[1] * (x.shape.rank - 2)])


@rule("Conv2DBackpropInput", "Conv3DBackpropInputV2")
def _transposed(call: Call) -> Any:
    import tensorflow as tf

    sizes, kernel, x = call.inputs
    rank, layout, padding = kernel.shape.rank - 2, call.attr("data_format"), call.attr("padding")
    if None in kernel.shape.as_list() or padding not in ("SAME", "VALID"):
        return None
    first = layout in ("NCHW", "NCDHW")
    inner = slice(2, None) if first else slice(1, rank + 1)
    strides, dilations = list(call.attr("strides"))[inner], list(call.attr("dilations"))[inner]
    if not first:
        return _convolved(x, kernel, sizes, strides, dilations, padding)
    sizes = tf.gather(sizes, _last(rank))
    return tf.transpose(
        _convolved(tf.transpose(x, _last(rank)), kernel, sizes, strides, dilations, padding), _first(rank)
    )


def _convolved(x: Tensor, kernel: Tensor, sizes: Tensor, strides: list[int], dilations: list[int], padding: str) -> Any:
    """Crop the complete result to the size that was asked for, or append zeros to it.

    The padding of ONNX's ConvTranspose cannot be negative, and ONNX Runtime limits its output_padding.

    Args:
        x: (B, …, channels).
        kernel: (…, out, in).
        sizes: of the result, (B, …, out).
        strides, dilations: one for each inner dimension.
        padding: "SAME" or "VALID".
    """
    import tensorflow as tf

    rank = kernel.shape.rank - 2
    inner = slice(1, rank + 1)
    reach = [(size - 1) * dilation + 1 for size, dilation in zip(kernel.shape[:rank], dilations, strict=True)]
    known = tf.get_static_value(sizes)
    wanted = list(known[inner]) if known is not None else [None] * rank
    lengths = x.shape[inner].as_list()
    static = None not in wanted and None not in lengths
    pads, before = [0] * (2 * rank), []
    for i in range(rank):
        length = lengths[i] if lengths[i] is not None else tf.shape(x)[i + 1]
        size = wanted[i] if static else sizes[i + 1]
        cut = (length - 1) * strides[i] + reach[i] - size
        if padding == "VALID":
            before.append(0)
        else:
            before.append(max(cut, 0) // 2 if static else tf.maximum(cut, 0) // 2)
        if static:
            pads[i], pads[rank + i] = int(before[i]), max(int(cut) - int(before[i]), 0)
    axes = [rank + 1, rank, *range(rank)]  # (…, out, in) to (in, out, …)
    channels = kernel.shape[rank]
    full: list[Any] = [
        None if lengths[i] is None else (lengths[i] - 1) * strides[i] + reach[i] - pads[i] - pads[rank + i]
        for i in range(rank)
    ]
    result = marker(
        "ConvTranspose",
        [tf.transpose(x, _first(rank)), tf.transpose(kernel, axes)],
        [x.shape[0], channels, *full],
        strides=[int(s) for s in strides],
        dilations=[int(d) for d in dilations],
        pads=pads,
    )
    result = tf.transpose(result, _last(rank))
    if static:
        missing = [[0, max(int(size) - length, 0)] for size, length in zip(wanted, full, strict=True)]
        return tf.pad(result, [[0, 0], *missing, [0, 0]]) if np.any(missing) else result
    inside = tf.shape(result)[inner]
    start, size = tf.stack(before), sizes[inner]
    missing = tf.maximum(start + size - inside, 0)
    zero = tf.zeros((rank,), tf.int32)
    sides = tf.stack([tf.concat([[0], zero, [0]], 0), tf.concat([[0], missing, [0]], 0)], 1)
    result = tf.pad(result, sides)
    return tf.slice(result, tf.concat([[0], start, [0]], 0), tf.concat([[-1], size, [-1]], 0))


@rule("Conv3D")
def _grouped(call: Call) -> Any:
    import tensorflow as tf

    x, kernel = call.inputs
    first = call.attr("data_format") == "NCDHW"
    channels, depth = x.shape[1 if first else -1], kernel.shape[3]
    if channels is None or depth is None or channels == depth:
        return None
    inner = slice(2, None) if first else slice(1, 4)
    result = marker(
        "Conv",
        [x if first else tf.transpose(x, _first(3)), tf.transpose(kernel, [4, 3, 0, 1, 2])],
        [x.shape[0], kernel.shape[4], *call.op.outputs[0].shape[inner]],
        group=channels // depth,
        strides=[int(s) for s in call.attr("strides")[inner]],
        dilations=[int(d) for d in call.attr("dilations")[inner]],
        auto_pad="SAME_UPPER" if call.attr("padding") == "SAME" else "VALID",
    )
    return result if first else tf.transpose(result, _last(3))
