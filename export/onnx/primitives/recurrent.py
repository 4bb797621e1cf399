"""Recurrent layers as ONNX's LSTM, GRU and RNN."""

from __future__ import annotations

from typing import Any

import numpy as np

from ....layers import functional as F
from ..markers import markers
from ..rules.selection import select

Tensor = Any

# Keras' gates (i f c o of an LSTM, z r h of a GRU) in ONNX's order: i o f c and z r h.
GATES = {"lstm": (0, 3, 1, 2), "gru": (0, 1, 2), "rnn": (0,)}
# The sign of what the input for masked steps adds to gates, by Keras' number of the gate, and its size: far more than
# any other input adds.
HELD = {"gru": {0: 1.0}, "lstm": {0: -1.0, 1: 1.0}}
MOST, MOST_IN_HALF = 1e9, 1e4


def recurrent(
    layer: Any, inputs: Tensor, state: Any, mask: Tensor | None, training: Any, *, held: float = MOST
) -> tuple[Tensor, ...]:
    """Emit ONNX's LSTM, GRU or RNN without its lengths, which several runtimes ignore without a word.

    Where the mask is False, one more input holds a GRU's state: it drives the update gate to 1. The output of an LSTM
    depends on the input even if its gates hold the cell, and an RNN has no gates. So their kept tokens are moved to the
    front first, and the last state is read behind the last of them.
    """
    import tensorflow as tf

    if not layer.textbook:
        return F.PRIMITIVES["recurrent"](layer, inputs, state, mask, training)
    kind, width = layer.cell_kind, layer.units
    if layer.go_backwards:
        inputs = tf.reverse(inputs, [1])
        mask = None if mask is None else tf.reverse(mask, [1])
    if mask is not None:  # what stands in masked steps, such as NaN, must not reach others through a product with 0
        inputs = select(tf.expand_dims(mask, -1), inputs, tf.zeros((), inputs.dtype))
    batch = tf.shape(inputs)[0]
    kernel, bias, recurrent_kernel = _weights(layer)
    order: Any = None
    steps: Any = None
    if mask is not None and kind != "gru":
        order = _kept_first(mask)  # (B, T, T)
        inputs = tf.matmul(order, inputs)
        kept = tf.cast(mask, tf.int32)
        steps = tf.reduce_sum(kept, 1, keepdims=True)  # (B, 1)
        mask = tf.less(tf.expand_dims(tf.range(tf.shape(kept)[1]), 0), steps)
    if mask is not None and (kind == "gru" or (kind == "lstm" and layer.returns_cell)):
        column = np.concatenate(
            [np.full((1, width, 1), held * HELD[kind].get(gate, 0.0)) for gate in GATES[kind]], axis=1
        )
        kernel = tf.concat([kernel, tf.constant(column, kernel.dtype)], axis=-1)
        inputs = tf.concat([inputs, tf.expand_dims(tf.cast(tf.logical_not(mask), inputs.dtype), -1)], axis=-1)
    attributes: dict[str, Any] = {"linear_before_reset": 1} if kind == "gru" else {}
    states = [tf.expand_dims(part, 0) for part in state] if state is not None else []
    if kind == "gru" and not states and inputs.shape[0] is not None:
        states = [tf.zeros((1, inputs.shape[0], width), inputs.dtype)]  # OpenCV reads no GRU without it
    one = [1, inputs.shape[0], width]
    outputs, *last = markers(
        kind.upper(),
        [tf.transpose(inputs, (1, 0, 2)), kernel, recurrent_kernel, bias, None, *states],
        [[inputs.shape[1], 1, inputs.shape[0], width], *([one] * (2 if kind == "lstm" else 1))],
        hidden_size=width,
        **attributes,
    )
    outputs = tf.transpose(tf.squeeze(outputs, 1), (1, 0, 2))  # (B, T, units)
    last = [tf.reshape(part, tf.stack([batch, width])) for part in last]
    if order is not None:
        any_token = tf.cast(steps > 0, outputs.dtype)  # (B, 1)
        newest = tf.equal(tf.expand_dims(tf.range(tf.shape(outputs)[1]), 0), steps - 1)  # (B, T)
        read = tf.squeeze(tf.matmul(tf.expand_dims(tf.cast(newest, outputs.dtype), 1), outputs), 1)  # (B, units)
        before = state[0] if state is not None else 0.0
        last[0] = read + (1.0 - any_token) * before
        outputs = tf.matmul(order, outputs, transpose_a=True)
    return outputs, *last


def _weights(layer: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return the kernel (1, gates · units, in), the bias (1, 2 · gates · units) and the recurrent kernel (1, gates ·
    units, units), in ONNX's order of gates."""
    import tensorflow as tf

    def gates(weight: Any) -> Tensor:  # (·, gates · units)
        parts = tf.split(tf.convert_to_tensor(weight), layer.cell_gates, axis=-1)
        return tf.expand_dims(tf.transpose(tf.concat([parts[i] for i in GATES[layer.cell_kind]], -1)), 0)

    cell = layer.cell
    if layer.cell_kind != "gru":  # Keras has one bias, ONNX two: the second is zero
        zeros = tf.zeros((1, layer.cell_gates * layer.units), cell.bias.dtype)
        bias = tf.concat([gates(cell.bias[None])[..., 0], zeros], axis=-1)
    else:
        bias = tf.concat([gates(cell.bias[i : i + 1])[..., 0] for i in range(2)], axis=-1)
    return gates(cell.kernel), bias, gates(cell.recurrent_kernel)


def _kept_first(mask: Tensor) -> Tensor:
    """Return the permutation (batch, T, T) that moves kept tokens to the front and preserves the order of the kept and
    of the masked tokens."""
    import tensorflow as tf

    kept = tf.cast(mask, tf.int32)
    place = tf.where(mask, tf.cumsum(kept, 1) - 1, tf.reduce_sum(kept, 1, keepdims=True) + tf.cumsum(1 - kept, 1) - 1)
    rows = tf.expand_dims(tf.range(tf.shape(mask)[1]), 1)  # (T, 1)
    return tf.cast(tf.equal(tf.expand_dims(place, 1), rows), tf.float32)
