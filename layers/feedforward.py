"""The position-wise feed-forward network: GELU by erf or tanh, ReLU, or SwiGLU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from . import functional as F
from .core import Dense

Tensor = Any

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": lambda x: F.gelu(x, approximate=False),
    "gelu_tanh": lambda x: F.gelu(x, approximate=True),
    "relu": ops.relu,
    "silu": ops.silu,
}
GATED = {"swiglu": "silu", "geglu": "gelu_tanh"}


@keras.saving.register_keras_serializable(package="attention_zoo")
class FeedForward(keras.layers.Layer):
    """``down(act(up(x)))``, or gated ``down(act(gate(x)) · up(x))`` (Shazeer 2020, arXiv:2002.05202).

    (batch, length, width) in and out.

    Args:
        intermediate_dim: width between the two projections.
        activation: "gelu" (erf), "gelu_tanh", "relu", "silu", or gated: "swiglu", "geglu".
        use_bias: biases on all projections.
        dropout: rate on the output, in training only.
        kernel_initializer: of all projections.

    Raises:
        ValueError: an activation that is not one of these.
    """

    def __init__(
        self,
        intermediate_dim: int,
        activation: str = "gelu",
        *,
        use_bias: bool = True,
        dropout: float = 0.0,
        kernel_initializer: Any = "glorot_uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if activation not in ACTIVATIONS and activation not in GATED:
            raise ValueError(f"activation: got {activation!r}; accepted: {sorted(ACTIVATIONS | GATED)}")
        self.intermediate_dim = intermediate_dim
        self.activation = activation
        self.use_bias = use_bias
        self.dropout = dropout
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.dropout_layer = keras.layers.Dropout(dropout, dtype=self.dtype_policy, name="dropout")

    def build(self, input_shape: Any) -> None:
        inner_shape = (*input_shape[:-1], self.intermediate_dim)
        self.up = self._project("up", self.intermediate_dim, input_shape)
        self.gate = self._project("gate", self.intermediate_dim, input_shape) if self.activation in GATED else None
        self.down = self._project("down", input_shape[-1], inner_shape)

    def _project(self, name: str, units: int, input_shape: Any) -> Dense:
        initializer = self.kernel_initializer.clone()
        dense = Dense(units, use_bias=self.use_bias, kernel_initializer=initializer, dtype=self.dtype_policy, name=name)
        dense.build(input_shape)
        return dense

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        activation = ACTIVATIONS[GATED.get(self.activation, self.activation)]
        x = self.up(inputs)  # (B, T, intermediate)
        x = activation(x) if self.gate is None else activation(self.gate(inputs)) * x
        return self.dropout_layer(self.down(x), training=training)  # (B, T, width)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "intermediate_dim": self.intermediate_dim,
            "activation": self.activation,
            "use_bias": self.use_bias,
            "dropout": self.dropout,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
