"""Where a token stands: sinusoidal, learned and rotary positions, each a layer usable alone.

All take `position_ids` (batch, length) integers, so that padding on the left moves nobody's position.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from . import functional as F

Tensor = Any


def positions_from_mask(attention_mask: Tensor) -> Tensor:
    """(batch, length) mask, 1 = keep, to int32 positions that count the kept tokens: [0, 0, 1, 1] to [0, 0, 0, 1].

    Padding before the first token gets position 0; it is masked and never read.
    """
    counted = ops.cumsum(ops.cast(attention_mask, "int32"), axis=-1) - 1
    return ops.maximum(counted, 0)


def inverse_frequencies(width: int, theta: float) -> np.ndarray:
    """``theta^(-2i/width)`` for i in 0 .. width/2, float32."""
    return (1.0 / theta ** (np.arange(0, width, 2, dtype=np.float64) / width)).astype(np.float32)


def _even(argument: str, size: int) -> int:
    if not isinstance(size, int) or size < 2 or size % 2:
        raise ValueError(f"{argument}: got {size!r}; accepted: a positive even integer")
    return size


@keras.saving.register_keras_serializable(package="attention_zoo")
class SinusoidalPositions(keras.layers.Layer):
    """``PE[p, 2i] = sin(p / theta^(2i/d)), PE[p, 2i+1] = cos(same)`` (arXiv:1706.03762, section 3.5).

    (batch, length) positions to (batch, length, hidden_dim). No weights, no longest length.

    Args:
        hidden_dim: even width.
        theta: longest wavelength / 2π; 10000 in the paper.
    """

    def __init__(self, hidden_dim: int, theta: float = 10000.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hidden_dim = _even("hidden_dim", hidden_dim)
        self.theta = theta

    def build(self, input_shape: Any = None) -> None:
        self.built = True

    def call(self, position_ids: Tensor) -> Tensor:
        angles = _angles(position_ids, self.hidden_dim, self.theta)  # (B, T, d/2)
        both = ops.stack([ops.sin(angles), ops.cos(angles)], axis=-1)  # (B, T, d/2, 2)
        batch, length = ops.shape(angles)[:2]
        return ops.cast(ops.reshape(both, (batch, length, self.hidden_dim)), self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (*input_shape, self.hidden_dim)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "hidden_dim": self.hidden_dim, "theta": self.theta}


@keras.saving.register_keras_serializable(package="attention_zoo")
class LearnedPositions(keras.layers.Layer):
    """A trained vector per position, as in GPT-2 and BERT.

    (batch, length) positions, all below `max_length`, to (batch, length, hidden_dim).
    """

    def __init__(
        self, max_length: int, hidden_dim: int, *, embeddings_initializer: Any = "uniform", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.max_length = max_length
        self.hidden_dim = hidden_dim
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)

    def build(self, input_shape: Any = None) -> None:
        shape = (self.max_length, self.hidden_dim)
        self.embeddings = self.add_weight(name="embeddings", shape=shape, initializer=self.embeddings_initializer)

    def call(self, position_ids: Tensor) -> Tensor:
        return F.embedding_lookup(ops.convert_to_tensor(self.embeddings), position_ids)

    def first(self, length: Any) -> Tensor:
        """The vectors of positions 0 .. length, (1, length, hidden_dim): a slice, where no padding shifts anybody."""
        return ops.expand_dims(ops.convert_to_tensor(self.embeddings)[:length], 0)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (*input_shape, self.hidden_dim)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "max_length": self.max_length,
            "hidden_dim": self.hidden_dim,
            "embeddings_initializer": keras.initializers.serialize(self.embeddings_initializer),
        }


@keras.saving.register_keras_serializable(package="attention_zoo")
class RotaryEmbedding(keras.layers.Layer):
    """The cosines and sines that rotate queries and keys (Su et al. 2021, arXiv:2104.09864).

    (batch, length) positions to a pair of (batch, 1, length, head_dim / 2), always float32: in half precision
    the angle of position 4000 would be off by a radian. Give the pair to ``MultiHeadAttention(rotary=…)``.

    Args:
        head_dim: even width of one head.
        theta: base of the wavelengths, 10000 in the paper.
    """

    def __init__(self, head_dim: int, theta: float = 10000.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.head_dim = _even("head_dim", head_dim)
        self.theta = theta

    def build(self, input_shape: Any = None) -> None:
        self.built = True

    def call(self, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        angles = ops.expand_dims(_angles(position_ids, self.head_dim, self.theta), 1)  # (B, 1, T, D/2)
        return ops.cos(angles), ops.sin(angles)

    def compute_output_shape(self, input_shape: Any) -> Any:
        shape = (input_shape[0], 1, input_shape[1], self.head_dim // 2)
        return shape, shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "head_dim": self.head_dim, "theta": self.theta}


def _angles(position_ids: Tensor, width: int, theta: float) -> Tensor:
    positions = ops.expand_dims(ops.cast(position_ids, "float32"), -1)  # (B, T, 1)
    return positions * ops.convert_to_tensor(inverse_frequencies(width, theta))  # (B, T, width/2)
