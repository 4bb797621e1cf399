"""Keras' LSTM and GRU, computed through a primitive so that exporters recognise them.

Weights, initialisers, dropout, the cuDNN kernels and saving stay Keras' own. Both always return every output and the
last state, which is what a decoder with attention needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import keras

from .functional import primitive

Tensor = Any


@primitive
def recurrent(
    layer: Any, inputs: Tensor, state: Sequence[Tensor] | None, mask: Tensor | None, training: bool | None
) -> tuple[Tensor, ...]:
    """All outputs of an LSTM or GRU and its last state, each (batch, units); see the layers below.

    Where `mask` is False nothing happens: the state goes through, and the output is of no meaning.
    """
    base = keras.layers.LSTM if layer.cell_kind == "lstm" else keras.layers.GRU
    initial = None if state is None else list(state)
    return tuple(base.call(layer, inputs, initial_state=initial, mask=mask, training=bool(training)))


@keras.saving.register_keras_serializable(package="attention_zoo")
class LSTM(keras.layers.LSTM):
    """Hochreiter & Schmidhuber 1997. (batch, length, in) to (batch, length, units), and the state h, c.

    Arguments as ``keras.layers.LSTM``. `mask` (batch, length), True = a real token, may have its gaps anywhere. With
    `go_backwards` the outputs come in the order they were computed, last token first.
    """

    cell_kind: ClassVar[str] = "lstm"

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(units, **{**kwargs, "return_sequences": True, "return_state": True})

    def call(
        self, sequences: Tensor, initial_state: Any = None, mask: Any = None, training: bool | None = False
    ) -> Any:
        return recurrent(self, sequences, initial_state, mask, training)


@keras.saving.register_keras_serializable(package="attention_zoo")
class GRU(keras.layers.GRU):
    """Cho et al. 2014 (arXiv:1406.1078), reset after the product as in cuDNN. As ``LSTM``, with the state h."""

    cell_kind: ClassVar[str] = "gru"

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(units, **{**kwargs, "return_sequences": True, "return_state": True, "reset_after": True})

    def call(
        self, sequences: Tensor, initial_state: Any = None, mask: Any = None, training: bool | None = False
    ) -> Any:
        return recurrent(self, sequences, initial_state, mask, training)


CELLS: dict[str, Any] = {"lstm": LSTM, "gru": GRU}
