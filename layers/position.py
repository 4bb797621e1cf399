"""Position encodings as layers, each usable on its own.

All of them take integer position ids (batch or 1, length), so that padding on the left does not shift positions. There
are three kinds, which differ in their outputs:

    added    sinusoidal, 2-D sinusoidal, learned   positions -> vectors added to the token embeddings
    rotated  rotary (rotary.py)                    positions -> (cos, sin) that rotate queries and keys
    biased   ALiBi, T5's relative bias             positions of queries and keys -> biases added to the scores
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
    """Return int32 position ids (batch, length) that count the tokens kept by a mask (batch, length), 1 = keep.

    For example, [0, 0, 1, 1] gives [0, 0, 0, 1]. Padding before the first token gets position 0, which has no effect
    because it is masked.
    """
    counted = ops.cumsum(ops.cast(attention_mask, "int32"), axis=-1) - 1
    return ops.maximum(counted, 0)


@keras.saving.register_keras_serializable(package="attention_zoo")
class SinusoidalPositions(keras.layers.Layer):
    """Sinusoidal position encoding (Vaswani et al. 2017, arXiv:1706.03762, section 3.5).

    ``PE[p, 2i] = sin(p / theta^(2i/d))`` and ``PE[p, 2i+1] = cos(p / theta^(2i/d))`` with ``d = hidden_dim``. Integer
    position ids (batch, length) become (batch, length, hidden_dim) in the compute dtype. The layer has no weights and
    no maximum length.

    Args:
        hidden_dim: width, an even number.
        theta: upper limit of the wavelengths / 2π; 10000 in the paper.
        interleaved: alternate sines and cosines, as in the paper; False puts all sines first, as in Hugging Face's
            Marian.
        endpoint: let the greatest wavelength / 2π be `theta` itself, that is ``theta^(i/(d/2 - 1))``, as in
            tensor2tensor, fairseq and Whisper.

    Raises:
        ValueError: `hidden_dim` is not a positive even integer, or is 2 with `endpoint`, or `theta` is not a positive
            number.
    """

    kind: ClassVar[str] = "added"

    def __init__(
        self,
        hidden_dim: int,
        theta: float = 10000.0,
        *,
        interleaved: bool = True,
        endpoint: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.hidden_dim = multiple("hidden_dim", hidden_dim, 2)
        self.theta = positive_number("theta", theta)
        self.interleaved = interleaved
        self.endpoint = endpoint
        if endpoint and hidden_dim < 4:
            raise ValueError(f"hidden_dim: got {hidden_dim} with endpoint; accepted: an even number of at least 4")

    def build(self, input_shape: Any = None) -> None:
        self.built = True

    def call(self, position_ids: Tensor) -> Tensor:
        frequencies = inverse_frequencies(self.hidden_dim, self.theta)  # (d/2,)
        if self.endpoint:
            half = self.hidden_dim // 2
            frequencies = np.exp(np.arange(half, dtype="float32") * np.float32(-math.log(self.theta) / (half - 1)))
        angles = angles_of(position_ids, frequencies)  # (B, T, d/2)
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
        own = ("hidden_dim", "theta", "interleaved", "endpoint")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}


@keras.saving.register_keras_serializable(package="attention_zoo")
class SinusoidalPositions2D(keras.layers.Layer):
    """Sinusoidal encoding of the column, then of the row, for the tokens of a grid in raster order.

    It computes ``[sin x·f, cos x·f, sin y·f, cos y·f]`` with ``f_i = theta^(-4i/d)``, ``x = p mod columns`` and
    ``y = p // columns``: the fixed positions of MoCo v3 (Chen et al. 2021, arXiv:2104.02057) and MAE (He et al. 2022,
    arXiv:2111.06377). Integer position ids (batch, length) become (batch, length, hidden_dim) in the compute dtype.
    The layer has no weights.

    Args:
        hidden_dim: width, a multiple of 4.
        columns: number of tokens in one row of the grid. ``call`` has an argument of the same name that overrides it,
            for images of different sizes.
        theta: upper limit of the wavelengths / 2π.

    Raises:
        ValueError: `hidden_dim` is not a positive multiple of 4, or `columns` or `theta` is not positive.
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
    """Learned position embeddings, one trained vector per position, as in GPT-2 and BERT.

    Integer position ids (batch, length) become (batch, length, hidden_dim) in the compute dtype.

    Args:
        max_length: number of positions. All ids must be in 0 .. max_length - 1; the layer does not check this.
        hidden_dim: width of the vectors.
        embeddings_initializer: initializer of the vectors.
    """

    kind: ClassVar[str] = "added"

    def __init__(
        self,
        max_length: int,
        hidden_dim: int,
        *,
        embeddings_initializer: Any = "uniform",
        **kwargs: Any,
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
        """Return the vectors of positions 0 to length - 1, (1, length, hidden_dim).

        This is a slice instead of a lookup, for inputs whose positions are not shifted by padding.
        """
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
    """Return the slopes of ALiBi, (num_heads,) float32, as in the authors' implementation.

    For a power of two, n, they are the geometric series 2^(-8/n), …, 2^(-8). For other numbers of heads, they are the
    series of the next lower power of two, followed by every second slope of the next higher one.
    """
    power = 2 ** int(math.log2(num_heads))
    slopes = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    slopes += [2 ** (-4 * (2 * i + 1) / power) for i in range(num_heads - power)]
    return np.array(slopes, np.float32)


def _distances(query_positions: Tensor, key_positions: Tensor) -> Tensor:
    """Return key position - query position, int32 (B, T, S), from positions (B, T) and (B, S)."""
    ahead = ops.expand_dims(ops.cast(key_positions, "int32"), 1)  # (B, 1, S)
    return ahead - ops.expand_dims(ops.cast(query_positions, "int32"), 2)


@keras.saving.register_keras_serializable(package="attention_zoo")
class ALiBi(keras.layers.Layer):
    """Attention with linear biases (Press et al. 2022, arXiv:2108.12409).

    Scores decrease linearly with the distance, with a different slope for every head: ``layer(q, k)`` returns
    ``-slope · |q - k|``, (batch, num_heads, T, S) in float32, for integer positions of the queries (batch, T) and the
    keys (batch, S). The layer has no weights and no maximum length. Pass its output as `bias` when calling
    ``MultiHeadAttention``.

    Args:
        num_heads: number of heads of the attention.
        scale: factor on all slopes; 1 in the paper. Falcon adds its biases before it scales the scores.

    Raises:
        ValueError: `num_heads` is not a positive integer, or `scale` is not positive.
    """

    kind: ClassVar[str] = "biased"

    def __init__(self, num_heads: int, *, scale: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_heads = multiple("num_heads", num_heads, 1)
        self.scale = positive_number("scale", scale)

    def build(self, query_positions_shape: Any = None, key_positions_shape: Any = None) -> None:
        self.built = True

    def call(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        distance = ops.cast(ops.abs(_distances(query_positions, key_positions)), "float32")  # (B, T, S)
        slopes = ops.convert_to_tensor(np.float32(-self.scale) * alibi_slopes(self.num_heads).reshape(1, -1, 1, 1))
        return ops.expand_dims(distance, 1) * slopes  # (B, H, T, S)

    def compute_output_shape(self, query_positions_shape: Any, key_positions_shape: Any) -> Any:
        return query_positions_shape[0], self.num_heads, query_positions_shape[1], key_positions_shape[1]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_heads": self.num_heads, "scale": self.scale}


def relative_buckets(max_distance: int, num_buckets: int, bidirectional: bool) -> np.ndarray:
    """Return T5's bucket for every distance from `-max_distance` (before the query) to `max_distance` (after it).

    The result is int32, (2 · max_distance + 1,). Half of the buckets of each direction hold one small distance each;
    the size of the others grows geometrically up to `max_distance`.
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
    """Relative position bias of T5 (Raffel et al. 2020, arXiv:1910.10683, section 2.1).

    Every head has one trained bias for each bucket of distances. Called with the integer positions of the queries
    (batch, T) and the keys (batch, S), the layer returns the biases (batch, num_heads, T, S) in the dtype of its
    variables. Pass its output as `bias` when calling ``MultiHeadAttention``.

    Args:
        num_heads: number of heads of the attention.
        num_buckets: number of buckets; with `bidirectional`, half of them are for keys after the query.
        max_distance: distances of `max_distance` and more share the last bucket.
        bidirectional: whether keys after the query have buckets of their own, for encoders. The causal mask of a
            decoder hides these keys.
        embeddings_initializer: initializer of the biases.

    Raises:
        ValueError: `num_heads` is not positive, `num_buckets` is not a multiple of 4, or `max_distance` is not an
            integer above `num_buckets` / 2.
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
            autocast=False,  # scores are computed in float32
        )

    def call(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        # The buckets of all distances are precomputed. A logarithm in the graph is rounded differently by different
        # runtimes, which would move the bucket limits.
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
    "sinusoidal_fairseq",
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
    rotary_dim: int | None = None,
    alibi_scale: float = 1.0,
    rope_theta: float = 10000.0,
    rope_scaling: Mapping[str, Any] | None = None,
    bidirectional: bool = False,
    num_buckets: int = 32,
    max_distance: int = 128,
    initializer: Any = "uniform",
    **shared: Any,
) -> Any:
    """Return the position layer for `position`, one of ``POSITIONS``; None for "none".

    The other arguments are those of the layers, of which each gets its own; `shared` (dtype, name) goes to any of them.
    "rotary_interleaved" gives the same layer as "rotary", since interleaving is an argument of the attention.
    """
    if position.startswith("sinusoidal"):
        if position == "sinusoidal_2d":  # the smallest square grid with max_length positions
            return SinusoidalPositions2D(hidden_dim, math.ceil(math.sqrt(max_length)), **shared)
        endpoint = position == "sinusoidal_fairseq"
        return SinusoidalPositions(hidden_dim, interleaved=position == "sinusoidal", endpoint=endpoint, **shared)
    if position.startswith("rotary"):
        options = {"scaling": rope_scaling, "max_length": max_length}
        return RotaryEmbedding(rotary_dim or head_dim, rope_theta, **options, **shared)
    trained = {"embeddings_initializer": initializer, **shared}
    makers = {
        "learned": lambda: LearnedPositions(max_length, hidden_dim, **trained),
        "alibi": lambda: ALiBi(num_heads, scale=alibi_scale, **shared),
        "relative": lambda: RelativePositionBias(
            num_heads, num_buckets=num_buckets, max_distance=max_distance, bidirectional=bidirectional, **trained
        ),
        "none": lambda: None,
    }
    return makers[position]()


def check_position(position: str, *, hidden_dim: int, head_dim: int, rotary_dim: int | None = None) -> None:
    """Check that `position` is one of ``POSITIONS`` and can be used with these widths.

    Raises:
        ValueError: `position` is unknown, `hidden_dim`, `head_dim` or `rotary_dim` is not a multiple of 2 or 4 as it
            requires, or `rotary_dim` is above `head_dim`.
    """
    choice("position", position, POSITIONS)
    if position.startswith("sinusoidal"):
        multiple("hidden_dim", hidden_dim, 4 if position == "sinusoidal_2d" else 2)
    if position.startswith("rotary"):
        multiple("head_dim" if rotary_dim in (None, head_dim) else "rotary_dim", rotary_dim or head_dim, 2)
        if (rotary_dim or 0) > head_dim:
            raise ValueError(f"rotary_dim: got {rotary_dim}; accepted: at most head_dim={head_dim}")


class EncodedPositions(NamedTuple):
    """The output of a position layer. At most one attribute is not None, depending on the kind of the layer.

    Attributes:
        added: vectors to add to the token embeddings, (batch or 1, T, hidden_dim).
        rotary: cosines and sines that rotate the queries and keys of every block.
        bias: biases added to the scores of every block, (batch or 1, num_heads, T, S).
    """

    added: Tensor | None = None
    rotary: tuple[Tensor, Tensor] | None = None
    bias: Tensor | None = None

    def add_to(self, embeddings: Tensor) -> Tensor:
        return embeddings if self.added is None else embeddings + self.added

    @property
    def in_attention(self) -> dict[str, Any]:
        """Keyword arguments for the attention of every block."""
        return {"rotary": self.rotary, "bias": self.bias}


def encode_positions(layer: Any, query_positions: Tensor, key_positions: Tensor) -> EncodedPositions:
    """Call a position layer, or None, on the positions of queries (batch or 1, T) and of keys (batch or 1, S)."""
    if layer is None:
        return EncodedPositions()
    if layer.kind == "biased":
        return EncodedPositions(bias=layer(query_positions, key_positions))
    if layer.kind == "rotated":
        return EncodedPositions(rotary=layer(query_positions))
    return EncodedPositions(added=layer(query_positions))
