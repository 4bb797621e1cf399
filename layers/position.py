"""Where a token stands: every position encoding as a layer usable alone.

Three kinds, by what they do with positions, which are always integers (batch or 1, length), so that padding on the left
moves nobody's position:

    added    sinusoidal, 2-D sinusoidal, learned   positions -> vectors added to the tokens'
    rotated  rotary (rotary.py)                    positions -> (cos, sin) that rotate queries and keys
    biased   ALiBi, T5's relative bias             positions of queries and of keys -> numbers added to the scores
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import keras
import numpy as np
from keras import ops

from ..checks import choice, is_integer, multiple, plain, positive_number
from . import functional as F
from .rotary import RotaryEmbedding, angles_of, inverse_frequencies

Tensor = Any


def positions_from_mask(attention_mask: Tensor) -> Tensor:
    """(batch, length) mask, 1 = keep, to int32 positions that count the kept tokens: [0, 0, 1, 1] to [0, 0, 0, 1].

    Padding before the first token gets position 0; it is masked and never read.
    """
    counted = ops.cumsum(ops.cast(attention_mask, "int32"), axis=-1) - 1
    return ops.maximum(counted, 0)


@keras.saving.register_keras_serializable(package="attention_zoo")
class SinusoidalPositions(keras.layers.Layer):
    """``PE[p, 2i] = sin(p / theta^(2i/d)), PE[p, 2i+1] = cos(same)`` (arXiv:1706.03762, section 3.5).

    (batch, length) positions to (batch, length, hidden_dim). No weights, no longest length.

    Args:
        hidden_dim: even width.
        theta: longest wavelength / 2π; 10000 in the paper.
        interleaved: sines and cosines in turn, as in the paper; False puts all sines first, as Hugging
            Face's Marian does.
    """

    kind: ClassVar[str] = "added"

    def __init__(self, hidden_dim: int, theta: float = 10000.0, *, interleaved: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hidden_dim = multiple("hidden_dim", hidden_dim, 2)
        self.theta = positive_number("theta", theta)
        self.interleaved = interleaved

    def build(self, input_shape: Any = None) -> None:
        self.built = True

    def call(self, position_ids: Tensor) -> Tensor:
        angles = angles_of(position_ids, inverse_frequencies(self.hidden_dim, self.theta))  # (B, T, d/2)
        both = [ops.sin(angles), ops.cos(angles)]
        if self.interleaved:
            batch, length = ops.shape(angles)[:2]
            joined = ops.reshape(ops.stack(both, axis=-1), (batch, length, self.hidden_dim))  # from (B, T, d/2, 2)
        else:
            joined = ops.concatenate(both, axis=-1)  # (B, T, d)
        return ops.cast(joined, self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (*input_shape, self.hidden_dim)

    def get_config(self) -> dict[str, Any]:
        own = {"hidden_dim": self.hidden_dim, "theta": self.theta, "interleaved": self.interleaved}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="attention_zoo")
class SinusoidalPositions2D(keras.layers.Layer):
    """Sines and cosines of the column, then of the row, for tokens of a grid in raster order.

    ``[sin x·f, cos x·f, sin y·f, cos y·f]`` with ``f_i = theta^(-4i/d)``, ``x = p mod columns``, ``y = p // columns``:
    the fixed positions of MoCo v3 (Chen et al. 2021, arXiv:2104.02057) and MAE (He et al. 2022, arXiv:2111.06377).
    (batch, length) positions to (batch, length, hidden_dim).

    Args:
        hidden_dim: width, a multiple of 4.
        columns: tokens in one row of the grid. May be given to a call instead, where images differ in size.
        theta: longest wavelength / 2π.
    """

    kind: ClassVar[str] = "added"

    def __init__(self, hidden_dim: int, columns: int, theta: float = 10000.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hidden_dim = multiple("hidden_dim", hidden_dim, 4)
        self.columns = multiple("columns", columns, 1)
        self.theta = positive_number("theta", theta)

    def build(self, input_shape: Any = None) -> None:
        self.built = True

    def call(self, position_ids: Tensor, columns: Any = None) -> Tensor:
        columns = self.columns if columns is None else columns
        position_ids = ops.cast(position_ids, "int32")
        frequencies = inverse_frequencies(self.hidden_dim // 2, self.theta)  # (d/4,)
        parts = []
        for coordinate in (position_ids % columns, position_ids // columns):
            angles = angles_of(coordinate, frequencies)  # (B, T, d/4)
            parts += [ops.sin(angles), ops.cos(angles)]
        return ops.cast(ops.concatenate(parts, axis=-1), self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (*input_shape, self.hidden_dim)

    def get_config(self) -> dict[str, Any]:
        own = {"hidden_dim": self.hidden_dim, "columns": self.columns, "theta": self.theta}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="attention_zoo")
class LearnedPositions(keras.layers.Layer):
    """A trained vector per position, as in GPT-2 and BERT.

    (batch, length) positions, all below `max_length`, to (batch, length, hidden_dim).
    """

    kind: ClassVar[str] = "added"

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


def alibi_slopes(num_heads: int) -> np.ndarray:
    """(num_heads,) float32: the geometric series 2^(-8/n) … 2^(-8) for n heads, a power of two; for others the series
    of the power below, filled up with every second slope of the power above (the authors' implementation)."""
    power = 2 ** int(math.log2(num_heads))
    slopes = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    slopes += [2 ** (-4 * (2 * i + 1) / power) for i in range(num_heads - power)]
    return np.array(slopes, np.float32)


def _distances(query_positions: Tensor, key_positions: Tensor) -> Tensor:
    """(B, T) and (B, S) to (B, T, S): how far each key lies ahead of each query, negative for what came before."""
    ahead = ops.expand_dims(ops.cast(key_positions, "int32"), 1)  # (B, 1, S)
    return ahead - ops.expand_dims(ops.cast(query_positions, "int32"), 2)


@keras.saving.register_keras_serializable(package="attention_zoo")
class ALiBi(keras.layers.Layer):
    """Scores fall linearly with distance, at another slope for every head (Press et al. 2022, arXiv:2108.12409).

    Positions of queries (batch, T) and keys (batch, S) to a bias (batch, num_heads, T, S), ``-slope · |q - k|``.
    No weights, no longest length. Give it to ``MultiHeadAttention(bias=…)``.
    """

    kind: ClassVar[str] = "biased"

    def __init__(self, num_heads: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_heads = multiple("num_heads", num_heads, 1)

    def build(self, query_positions_shape: Any = None, key_positions_shape: Any = None) -> None:
        self.built = True

    def call(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        distance = ops.cast(ops.abs(_distances(query_positions, key_positions)), "float32")  # (B, T, S)
        slopes = ops.convert_to_tensor(-alibi_slopes(self.num_heads).reshape(1, -1, 1, 1))
        return ops.expand_dims(distance, 1) * slopes  # (B, H, T, S)

    def compute_output_shape(self, query_positions_shape: Any, key_positions_shape: Any) -> Any:
        return query_positions_shape[0], self.num_heads, query_positions_shape[1], key_positions_shape[1]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_heads": self.num_heads}


def relative_buckets(max_distance: int, num_buckets: int, bidirectional: bool) -> np.ndarray:
    """T5's bucket of every distance from `-max_distance` (far before) to `max_distance` (far ahead), int32.

    Half of the buckets are for exact small distances, the rest grow by a factor up to `max_distance`.
    """
    ahead = np.arange(-max_distance, max_distance + 1)
    bucket = np.zeros_like(ahead)
    if bidirectional:
        num_buckets //= 2
        bucket += (ahead > 0) * num_buckets
        distance = np.abs(ahead)
    else:
        distance = np.maximum(-ahead, 0)
    exact = num_buckets // 2
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / exact) / np.float32(math.log(max_distance / exact))
    far = np.minimum(exact + (ratio * (num_buckets - exact)).astype(int), num_buckets - 1)
    return (bucket + np.where(distance < exact, distance, far)).astype(np.int32)


@keras.saving.register_keras_serializable(package="attention_zoo")
class RelativePositionBias(keras.layers.Layer):
    """A trained number per head and bucket of distances (T5: Raffel et al. 2020, arXiv:1910.10683, section 2.1).

    Positions of queries (batch, T) and keys (batch, S) to a bias (batch, num_heads, T, S). Distances of
    `max_distance` and more share the last bucket. Give it to ``MultiHeadAttention(bias=…)``.

    Args:
        num_heads: heads of the attention.
        num_buckets: rows of the table; with `bidirectional` half of them for what comes after.
        max_distance: from where on all distances are alike.
        bidirectional: tell keys after the query from keys before it, for encoders. Decoders see none after.
    """

    kind: ClassVar[str] = "biased"

    def __init__(
        self,
        num_heads: int,
        *,
        num_buckets: int = 32,
        max_distance: int = 128,
        bidirectional: bool = True,
        embeddings_initializer: Any = "uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_heads = multiple("num_heads", num_heads, 1)
        self.num_buckets = multiple("num_buckets", num_buckets, 4)
        self.max_distance = plain(max_distance)
        if not is_integer(max_distance) or max_distance <= num_buckets // 2:
            raise ValueError(f"max_distance: got {max_distance!r}; accepted: an integer above {num_buckets // 2}")
        self.bidirectional = bidirectional
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)

    def build(self, query_positions_shape: Any = None, key_positions_shape: Any = None) -> None:
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(self.num_buckets, self.num_heads),
            initializer=self.embeddings_initializer,
            autocast=False,  # scores are float32 everywhere
        )

    def call(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        # The buckets of all distances are known beforehand: no logarithm, whose rounding would move a bucket's edge
        # from one runtime to the next.
        buckets = relative_buckets(self.max_distance, self.num_buckets, self.bidirectional)
        by_distance = F.embedding_lookup(ops.convert_to_tensor(self.embeddings), ops.convert_to_tensor(buckets))
        ahead = _distances(query_positions, key_positions)  # (B, T, S)
        row = ops.clip(ahead, -self.max_distance, self.max_distance) + self.max_distance
        return ops.transpose(F.embedding_lookup(by_distance, row), (0, 3, 1, 2))  # (B, H, T, S)

    def compute_output_shape(self, query_positions_shape: Any, key_positions_shape: Any) -> Any:
        return query_positions_shape[0], self.num_heads, query_positions_shape[1], key_positions_shape[1]

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "num_buckets": self.num_buckets,
            "max_distance": self.max_distance,
            "bidirectional": self.bidirectional,
            "embeddings_initializer": keras.initializers.serialize(self.embeddings_initializer),
        }


POSITIONS = (
    "learned",
    "sinusoidal",
    "sinusoidal_halves",
    "sinusoidal_2d",
    "rotary",
    "rotary_interleaved",
    "alibi",
    "relative",
    "none",
)


def position_layer(
    position: str,
    *,
    hidden_dim: int,
    head_dim: int,
    num_heads: int,
    max_length: int,
    rope_theta: float = 10000.0,
    rope_scaling: Mapping[str, Any] | None = None,
    bidirectional: bool = False,
    num_buckets: int = 32,
    max_distance: int = 128,
    initializer: Any = "uniform",
    **shared: Any,
) -> Any:
    """The layer of one word of ``POSITIONS``; None for "none". `shared` goes to the layer (dtype, name)."""
    if position.startswith("sinusoidal"):
        if position == "sinusoidal_2d":  # the squarest grid that holds everybody
            return SinusoidalPositions2D(hidden_dim, math.ceil(math.sqrt(max_length)), **shared)
        return SinusoidalPositions(hidden_dim, interleaved=position == "sinusoidal", **shared)
    if position.startswith("rotary"):
        return RotaryEmbedding(head_dim, rope_theta, scaling=rope_scaling, **shared)
    trained = {"embeddings_initializer": initializer, **shared}
    makers = {
        "learned": lambda: LearnedPositions(max_length, hidden_dim, **trained),
        "alibi": lambda: ALiBi(num_heads, **shared),
        "relative": lambda: RelativePositionBias(
            num_heads, num_buckets=num_buckets, max_distance=max_distance, bidirectional=bidirectional, **trained
        ),
        "none": lambda: None,
    }
    return makers[position]()


def check_position(position: str, *, hidden_dim: int, head_dim: int) -> None:
    """Raise ValueError for a word that is none of ``POSITIONS``, or a width it cannot take."""
    choice("position", position, POSITIONS)
    if position.startswith("sinusoidal"):
        multiple("hidden_dim", hidden_dim, 4 if position == "sinusoidal_2d" else 2)
    if position.startswith("rotary"):
        multiple("head_dim", head_dim, 2)


class EncodedPositions(NamedTuple):
    """What a position layer makes of some positions: one of three, by its kind, or nothing.

    Attributes:
        added: vectors for the embeddings.
        rotary: cosines and sines, which turn the queries and keys of every block.
        bias: numbers for the scores of every block.
    """

    added: Tensor | None = None
    rotary: tuple[Tensor, Tensor] | None = None
    bias: Tensor | None = None

    def add_to(self, embeddings: Tensor) -> Tensor:
        return embeddings if self.added is None else embeddings + self.added

    @property
    def in_attention(self) -> dict[str, Any]:
        """Arguments of every block's attention."""
        return {"rotary": self.rotary, "bias": self.bias}


def encode_positions(layer: Any, query_positions: Tensor, key_positions: Tensor) -> EncodedPositions:
    """`layer` (or None) of positions (batch or 1, T) of queries and (batch or 1, S) of keys."""
    if layer is None:
        return EncodedPositions()
    if layer.kind == "biased":
        return EncodedPositions(bias=layer(query_positions, key_positions))
    if layer.kind == "rotated":
        return EncodedPositions(rotary=layer(query_positions))
    return EncodedPositions(added=layer(query_positions))
