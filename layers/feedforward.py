"""The position-wise feed-forward network, with GELU, ReLU, SiLU, tanh, SwiGLU or GEGLU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from . import functional as F
from .core import Dense
from .dropout import Dropout

Tensor = Any

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": lambda x: F.gelu(x, approximate=False),
    "gelu_tanh": lambda x: F.gelu(x, approximate=True),
    "quick_gelu": lambda x: x * ops.sigmoid(1.702 * x),
    "relu": ops.relu,
    "relu_squared": lambda x: ops.square(ops.relu(x)),
    "silu": ops.silu,
    "tanh": ops.tanh,
}
GATED = {"swiglu": "silu", "geglu": "gelu_tanh", "geglu_erf": "gelu", "reglu": "relu"}


@keras.saving.register_keras_serializable(package="attention_zoo")
class FeedForward(keras.layers.Layer):
    """Feed-forward network: ``down(act(up(x)))``, or ``down(act(gate(x)) · up(x))`` for a gated activation.

    The sources are Vaswani et al. 2017 (arXiv:1706.03762, section 3.3) and, for the gated variants, Shazeer 2020
    (arXiv:2002.05202). Input and output are (batch, length, width); the output has the compute dtype.

    Args:
        intermediate_dim: width between the projections.
        activation: "gelu" (exact, with erf), "gelu_tanh", "quick_gelu" (x · sigmoid(1.702 x), as in CLIP), "relu",
            "relu_squared", "silu" or "tanh"; gated: "swiglu" (SiLU), "geglu" (the tanh approximation of GELU),
            "geglu_erf" (exact GELU) or "reglu" (ReLU).
        use_bias: whether all projections have biases.
        dropout: dropout rate on the output, in training only.
        kernel_initializer: initializer of the kernels of all projections.
        output_initializer: another one for the kernel of the last projection. Default: `kernel_initializer`.

    Raises:
        ValueError: `activation` is not one of these.
    """

    def __init__(
        self,
        intermediate_dim: int,
        activation: str = "gelu",
        *,
        use_bias: bool = True,
        dropout: float = 0.0,
        kernel_initializer: Any = "glorot_uniform",
        output_initializer: Any = None,
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
        self.output_initializer = keras.initializers.get(output_initializer)
        self.dropout_layer = Dropout(dropout, dtype=self.dtype_policy, name="dropout")

    def build(self, input_shape: Any) -> None:
        inner_shape = (*input_shape[:-1], self.intermediate_dim)
        self.up = self._project("up", self.intermediate_dim, input_shape)
        self.gate = self._project("gate", self.intermediate_dim, input_shape) if self.activation in GATED else None
        self.down = self._project("down", input_shape[-1], inner_shape)

    def _project(self, name: str, units: int, input_shape: Any) -> Dense:
        initializer = ((name == "down" and self.output_initializer) or self.kernel_initializer).clone()
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
        last = self.output_initializer
        return {
            **super().get_config(),
            **({} if last is None else {"output_initializer": keras.initializers.serialize(last)}),
            "intermediate_dim": self.intermediate_dim,
            "activation": self.activation,
            "use_bias": self.use_bias,
            "dropout": self.dropout,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
