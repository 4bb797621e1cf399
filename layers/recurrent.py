"""Keras' LSTM and GRU, computed with a primitive so that exporters recognize them.

Weights, dropout, the cuDNN kernels and saving are those of Keras. Both layers always return all outputs and the last
state, which a decoder with attention needs.
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
    """Run an LSTM or GRU `layer` over `inputs` (batch, length, in).

    Where `mask` (batch, length) is False, the state is carried over unchanged and the output is undefined.

    Returns:
        All outputs, (batch, length, units), then the last state: h and c for an LSTM, h for a GRU, (batch, units) each.
    """
    base = keras.layers.LSTM if layer.cell_kind == "lstm" else keras.layers.GRU
    initial = [state] if state is not None and not isinstance(state, list | tuple) else state
    return tuple(base.call(layer, inputs, initial_state=initial, mask=mask, training=bool(training)))


@keras.saving.register_keras_serializable(package="attention_zoo")
class Orthogonal(keras.initializers.Orthogonal):
    """Keras' orthogonal initializer, computed in float32 and cast, as there is no QR decomposition in bfloat16."""

    def __call__(self, shape: Any, dtype: Any = None) -> Tensor:
        return ops.cast(super().__call__(shape, "float32"), dtype or keras.backend.floatx())


class _Recurrent:
    """Behavior of both layers that differs from Keras."""

    returns_cell = True

    @property
    def textbook(self) -> bool:
        """Whether activations and biases are those of the papers, for which runtimes have an operator."""
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
        # cuDNN supports only masks with padding on the right, and fails on others only when a compiled function runs.
        if mask is not None:
            return keras.layers.RNN.inner_loop(self, sequences, initial_state, mask, training)  # pyright: ignore
        return super().inner_loop(sequences, initial_state, mask, training)  # pyright: ignore


def _complete(kwargs: dict[str, Any], **fixed: Any) -> dict[str, Any]:
    if bad := {name: kwargs[name] for name, value in fixed.items() if kwargs.get(name, value) != value}:
        raise ValueError(f"{next(iter(bad))}: got {bad}; accepted: {fixed}")
    return {"recurrent_initializer": Orthogonal(), **kwargs, **fixed}


@keras.saving.register_keras_serializable(package="attention_zoo")
class LSTM(_Recurrent, keras.layers.LSTM):
    """Long short-term memory (Hochreiter & Schmidhuber 1997).

    ``layer(sequences, initial_state=None, mask=None)`` maps (batch, length, in) to a tuple of all outputs
    (batch, length, units) and the last state, h and c (batch, units) each, in the compute dtype. `mask`, boolean
    (batch, length), True = a real token, may be False anywhere; there the state is carried over and the output is
    undefined. With `go_backwards` the outputs are in the order of computation, last token first. The arguments are
    those of ``keras.layers.LSTM``.

    Raises:
        ValueError: `return_sequences` or `return_state` is not True.
    """

    cell_kind: ClassVar[str] = "lstm"
    cell_gates: ClassVar[int] = 4  # input, forget, cell, output

    def __init__(self, units: int, **kwargs: Any) -> None:
        fixed = _complete(kwargs, return_sequences=True, return_state=True)
        super().__init__(units, **fixed)  # pyright: ignore[reportCallIssue]


@keras.saving.register_keras_serializable(package="attention_zoo")
class GRU(_Recurrent, keras.layers.GRU):
    """Gated recurrent unit (Cho et al. 2014, arXiv:1406.1078).

    The reset gate is applied after the matrix multiplication, as in cuDNN. Inputs and outputs are those of ``LSTM``,
    except that the state is h alone. The arguments are those of ``keras.layers.GRU``.

    Raises:
        ValueError: `return_sequences`, `return_state` or `reset_after` is not True.
    """

    cell_kind: ClassVar[str] = "gru"
    cell_gates: ClassVar[int] = 3  # update, reset, new

    def __init__(self, units: int, **kwargs: Any) -> None:
        fixed = _complete(kwargs, return_sequences=True, return_state=True, reset_after=True)
        super().__init__(units, **fixed)  # pyright: ignore[reportCallIssue]


CELLS: dict[str, Any] = {"lstm": LSTM, "gru": GRU}
