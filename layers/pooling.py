"""Pooling of a sequence to one vector: the attention of a trained query, and the hidden state at a token."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from .attention import MultiHeadAttention
from .core import LayerNormalization
from .feedforward import FeedForward

Tensor = Any


@keras.saving.register_keras_serializable(package="attention_zoo")
class AttentionPooling(keras.layers.Layer):
    """Pooling by the attention of one trained query, the "MAP head" of SigLIP (Zhai et al. 2023, arXiv:2303.15343).

    ``h = attention(query, x)``, then ``h + feed(norm(h))``. Hidden states (batch, length, width) become (batch, width)
    in the compute dtype. The design is that of Set Transformers (Lee et al. 2019, arXiv:1810.00825).

    Args:
        num_heads: see ``MultiHeadAttention``.
        intermediate_dim, activation: see ``FeedForward``.
        norm_epsilon: epsilon of the layer normalization.
        kernel_initializer: initializer of the query and of all kernels.

    Raises:
        ValueError: ``MultiHeadAttention`` or ``FeedForward`` rejects an argument.
    """

    def __init__(
        self,
        num_heads: int,
        intermediate_dim: int,
        *,
        activation: str = "gelu",
        norm_epsilon: float = 1e-6,
        kernel_initializer: Any = "glorot_uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self._config = {
            "num_heads": num_heads,
            "intermediate_dim": intermediate_dim,
            "activation": activation,
            "norm_epsilon": norm_epsilon,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
        shared: dict[str, Any] = {"dtype": self.dtype_policy}
        kernels = {"kernel_initializer": self.kernel_initializer, **shared}
        self.attention = MultiHeadAttention(num_heads, name="attention", **kernels)
        self.norm = LayerNormalization(epsilon=norm_epsilon, name="norm", **shared)
        self.feedforward = FeedForward(intermediate_dim, activation, name="feedforward", **kernels)

    def build(self, input_shape: Any) -> None:
        width = input_shape[-1]
        self.query = self.add_weight(name="query", shape=(1, 1, width), initializer=self.kernel_initializer.clone())
        self.attention.build((None, 1, width), input_shape)
        self.norm.build((None, 1, width))
        self.feedforward.build((None, 1, width))

    def call(self, inputs: Tensor) -> Tensor:
        batch, _, width = ops.shape(inputs)
        query = ops.broadcast_to(ops.cast(self.query, inputs.dtype), (batch, 1, width))  # (B, 1, D)
        x = self.attention(query, inputs)  # (B, 1, D)
        x = x + self.feedforward(self.norm(x))
        return x[:, 0]

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape[0], input_shape[2]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self._config}


def state_at(states: Tensor, index: Tensor) -> Tensor:
    """Return the hidden state at position `index` (batch,) of each row of `states` (batch, length, width)."""
    places = ops.expand_dims(ops.arange(ops.shape(states)[1], dtype="int32"), 0)  # (1, T)
    chosen = ops.equal(places, ops.expand_dims(ops.cast(index, "int32"), 1))  # (B, T)
    return ops.sum(states * ops.expand_dims(ops.cast(chosen, states.dtype), -1), axis=1)  # (B, D)
