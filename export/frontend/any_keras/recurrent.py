"""Lowering of Keras' LSTM, GRU and SimpleRNN to the ``recurrent`` primitive, with the outputs that Keras returns."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from ....layers import functional as F
from ....layers.recurrent import recurrent

Tensor = Any

KINDS = {keras.layers.LSTM: ("lstm", 4), keras.layers.GRU: ("gru", 3), keras.layers.SimpleRNN: ("rnn", 1)}


class _Textbook:
    """A Keras layer with the attributes that the lowerings of ``recurrent`` read from a layer of this package."""

    textbook = True

    def __init__(self, layer: Any, kind: str, gates: int) -> None:
        self.cell_kind, self.cell_gates = kind, gates
        self.cell, self.units, self.go_backwards = layer.cell, layer.units, layer.go_backwards
        self.returns_cell = layer.return_state


def recurrent_call(
    layer: Any, sequences: Tensor, initial_state: Any = None, mask: Any = None, training: Any = False
) -> Any:
    """Compute ``layer.call`` through the ``recurrent`` primitive, or return None to leave it to Keras.

    A layer that differs from the published LSTM, GRU or simple RNN is unrolled if its length is fixed and the
    exporter's runtime has no loop (it lowers ``unrolled``); otherwise it is left to Keras.
    """
    kind = _kind(layer)
    if "recurrent" not in F.lowered() or training or layer.stateful or layer.unroll or len(sequences.shape) != 3:
        return None
    if kind is None or sequences.shape[-1] is None:
        return _unrolled(layer, sequences, initial_state, mask) if "unrolled" in F.lowered() else None
    if isinstance(mask, list | tuple):
        mask = mask[0]
    mask = None if mask is None else ops.cast(mask, "bool")
    states = initial_state if isinstance(initial_state, list | tuple) else [initial_state]
    states = None if initial_state is None else [ops.convert_to_tensor(state) for state in states]
    outputs, *last = recurrent(_Textbook(layer, *kind), sequences, states, mask, False)
    result = last[0]
    if layer.return_sequences:
        result = outputs if mask is None else _carried(layer, outputs, mask)
    elif mask is not None and layer.zero_output_for_mask:  # Keras returns the output of the last step, if masked zeros
        newest = mask[:, :1] if layer.go_backwards else mask[:, -1:]
        result = last[0] * ops.cast(newest, last[0].dtype)
    elif mask is not None and states is not None:  # Keras returns zeros for a row without any token
        result = last[0] * ops.cast(ops.any(mask, axis=1, keepdims=True), last[0].dtype)
    return (result, *last) if layer.return_state else result


def _kind(layer: Any) -> tuple[str, int] | None:
    """Return the kind of published layer that this is and its number of gates, or None if its activations, biases or
    gates are not those that the runtimes have operators for."""
    found = next((kind for cls, kind in KINDS.items() if isinstance(layer, cls)), None)
    if found is None or layer.activation is not keras.activations.tanh or not layer.use_bias:
        return None
    gated = getattr(layer, "recurrent_activation", keras.activations.sigmoid) is keras.activations.sigmoid
    return found if gated and getattr(layer, "reset_after", True) else None


def _unrolled(layer: Any, sequences: Tensor, initial_state: Any, mask: Any) -> Any:
    if sequences.shape[1] is None:
        return None
    layer.unroll = True
    try:
        return type(layer).call(layer, sequences, initial_state=initial_state, mask=mask, training=False)
    finally:
        layer.unroll = False


@F.primitive
def unrolled() -> None:
    """Do nothing; an exporter whose runtime has no loop over weights lowers this, to any function: see
    ``recurrent_call``."""


def _carried(layer: Any, outputs: Tensor, mask: Tensor) -> Tensor:
    """Return the outputs with Keras' values at masked steps: the previous output, or zeros with
    ``zero_output_for_mask``."""
    if layer.go_backwards:  # outputs are in the order in which they were computed
        mask = ops.flip(mask, axis=1)
    if layer.zero_output_for_mask:
        return outputs * ops.expand_dims(ops.cast(mask, outputs.dtype), -1)
    steps = ops.arange(ops.shape(outputs)[1], dtype="int32")  # (T,)
    seen = ops.where(mask, ops.expand_dims(steps, 0) + 1, 0)  # (B, T): 1 + the index of a token, or 0
    before = ops.cast(ops.expand_dims(ops.expand_dims(steps, 1) >= steps, 0), "int32")  # (1, T, S): s <= t
    newest = ops.max(before * ops.expand_dims(seen, 1), axis=-1)  # (B, T): 1 + the index of the last token, or 0
    chosen = ops.equal(ops.expand_dims(newest, -1), ops.expand_dims(steps, 0) + 1)  # (B, T, S)
    return ops.matmul(ops.cast(chosen, outputs.dtype), outputs)
