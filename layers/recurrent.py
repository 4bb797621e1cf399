"""Keras' LSTM and GRU, computed through a primitive so that exporters recognise them.

Weights, initialisers, dropout, the cuDNN kernels and saving stay Keras' own. Both always return every output and the
last state, which is what a decoder with attention needs.
"""

from __future__ import annotations

from typing import Any, ClassVar

import keras
from keras import ops

from .functional import primitive

Tensor = Any


@primitive
def recurrent(
    layer: Any, inputs: Tensor, state: Any | None, mask: Tensor | None, training: bool | None
) -> tuple[Tensor, ...]:
    """All outputs of an LSTM or GRU and its last state, each (batch, units); see the layers below.

    Where `mask` is False nothing happens: the state goes through, and the output is of no meaning.
    """
    base = keras.layers.LSTM if layer.cell_kind == "lstm" else keras.layers.GRU
    initial = [state] if state is not None and not isinstance(state, list | tuple) else state
    return tuple(base.call(layer, inputs, initial_state=initial, mask=mask, training=bool(training)))


@keras.saving.register_keras_serializable(package="attention_zoo")
class Orthogonal(keras.initializers.Orthogonal):
    """Keras' own, which fails in bfloat16 for want of a QR: drawn in float32 and cast."""

    def __call__(self, shape: Any, dtype: Any = None) -> Tensor:
        return ops.cast(super().__call__(shape, "float32"), dtype or keras.backend.floatx())


class _Recurrent:
    """What both layers do in another way than Keras."""

    @property
    def textbook(self) -> bool:
        """Are the activations and biases those of the papers, which is what runtimes have an operator for?"""
        layer: Any = self
        return (
            layer.activation is keras.activations.tanh
            and layer.recurrent_activation is keras.activations.sigmoid
            and layer.use_bias
            and not layer.unroll
        )

    def call(self, sequences: Tensor, initial_state: Any = None, mask: Any = None, training: Any = False) -> Any:
        return recurrent(self, sequences, initial_state, mask, training)

    def inner_loop(self, sequences: Tensor, initial_state: Any, mask: Any, training: Any = False) -> Any:
        # cuDNN takes masks with padding on the right only, and says so when a compiled function already runs.
        if mask is not None:
            return keras.layers.RNN.inner_loop(self, sequences, initial_state, mask, training)  # pyright: ignore
        return super().inner_loop(sequences, initial_state, mask, training)  # pyright: ignore


def _complete(kwargs: dict[str, Any], **fixed: Any) -> dict[str, Any]:
    if bad := {name: kwargs[name] for name, value in fixed.items() if kwargs.get(name, value) != value}:
        raise ValueError(f"{next(iter(bad))}: got {bad}; accepted: {fixed}")
    return {"recurrent_initializer": Orthogonal(), **kwargs, **fixed}


@keras.saving.register_keras_serializable(package="attention_zoo")
class LSTM(_Recurrent, keras.layers.LSTM):
    """Hochreiter & Schmidhuber 1997. (batch, length, in) to (batch, length, units), and the state h, c.

    Arguments as ``keras.layers.LSTM``. `mask` (batch, length), True = a real token, may have its gaps anywhere. With
    `go_backwards` the outputs come in the order they were computed, last token first.

    Raises:
        ValueError: another ``return_sequences`` or ``return_state`` than True.
    """

    cell_kind: ClassVar[str] = "lstm"
    cell_gates: ClassVar[int] = 4  # input, forget, cell, output

    def __init__(self, units: int, **kwargs: Any) -> None:
        fixed = _complete(kwargs, return_sequences=True, return_state=True)
        super().__init__(units, **fixed)  # pyright: ignore[reportCallIssue]


@keras.saving.register_keras_serializable(package="attention_zoo")
class GRU(_Recurrent, keras.layers.GRU):
    """Cho et al. 2014 (arXiv:1406.1078), reset after the product as in cuDNN. As ``LSTM``, with the state h."""

    cell_kind: ClassVar[str] = "gru"
    cell_gates: ClassVar[int] = 3  # update, reset, new

    def __init__(self, units: int, **kwargs: Any) -> None:
        fixed = _complete(kwargs, return_sequences=True, return_state=True, reset_after=True)
        super().__init__(units, **fixed)  # pyright: ignore[reportCallIssue]


CELLS: dict[str, Any] = {"lstm": LSTM, "gru": GRU}
