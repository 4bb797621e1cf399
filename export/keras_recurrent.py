"""Keras' LSTM and GRU through the primitive of ours, with what Keras makes of its results."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from ..layers import functional as F
from ..layers.recurrent import GRU, LSTM, recurrent

Tensor = Any


class _Textbook:
    """A layer of Keras', as the lowerings see one of ours."""

    textbook = True

    def __init__(self, layer: Any) -> None:
        own = LSTM if isinstance(layer, keras.layers.LSTM) else GRU
        self.cell_kind, self.cell_gates = own.cell_kind, own.cell_gates
        self.cell, self.units, self.go_backwards = layer.cell, layer.units, layer.go_backwards


def recurrent_call(
    layer: Any, sequences: Tensor, initial_state: Any = None, mask: Any = None, training: Any = False
) -> Any:
    """As ``layer.call``; None where the layer is not the one of the papers, or keeps its state."""
    textbook = (
        layer.activation is keras.activations.tanh
        and layer.recurrent_activation is keras.activations.sigmoid
        and layer.use_bias
        and getattr(layer, "reset_after", True)
        and not (layer.stateful or layer.unroll or training)
    )
    if "recurrent" not in F.lowered() or not textbook or len(sequences.shape) != 3 or sequences.shape[-1] is None:
        return None
    if isinstance(mask, list | tuple):
        mask = mask[0]
    mask = None if mask is None else ops.cast(mask, "bool")
    states = initial_state if isinstance(initial_state, list | tuple) else [initial_state]
    states = None if initial_state is None else [ops.convert_to_tensor(state) for state in states]
    outputs, *last = recurrent(_Textbook(layer), sequences, states, mask, False)
    result = last[0]
    if layer.return_sequences:
        result = outputs if mask is None else _carried(layer, outputs, mask)
    elif mask is not None and states is not None:  # of a row without any token, Keras' last output is no state
        result = last[0] * ops.cast(ops.any(mask, axis=1, keepdims=True), last[0].dtype)
    return (result, *last) if layer.return_state else result


def _carried(layer: Any, outputs: Tensor, mask: Tensor) -> Tensor:
    """Where there is no token Keras repeats the output before, or gives zeros."""
    if layer.go_backwards:  # outputs stand in the order in which they were computed
        mask = ops.flip(mask, axis=1)
    if layer.zero_output_for_mask:
        return outputs * ops.expand_dims(ops.cast(mask, outputs.dtype), -1)
    steps = ops.arange(ops.shape(outputs)[1], dtype="int32")  # (T,)
    seen = ops.where(mask, ops.expand_dims(steps, 0) + 1, 0)  # (B, T): 1 + its own place, of a token
    before = ops.cast(ops.expand_dims(ops.expand_dims(steps, 1) >= steps, 0), "int32")  # (1, T, S): s is not after t
    newest = ops.max(before * ops.expand_dims(seen, 1), axis=-1)  # (B, T): 1 + the place of the last one, or 0
    chosen = ops.equal(ops.expand_dims(newest, -1), ops.expand_dims(steps, 0) + 1)  # (B, T, S)
    return ops.matmul(ops.cast(chosen, outputs.dtype), outputs)
