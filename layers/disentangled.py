"""Disentangled attention: scores that depend on the contents of two tokens and on the distance between them.

The method is that of DeBERTa (He et al. 2021, arXiv:2006.03654, section 3.1); logarithmic buckets are from version 2::

    relative = RelativeEmbeddings(num_buckets=64, max_length=512, hidden_dim=width)
    attention = DisentangledAttention(num_heads=4)
    attention(x, relative=relative(x))  # x: (batch, length, width)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from ..checks import multiple, positive_integer
from . import functional as F
from .attention import MultiHeadAttention
from .core import Dense, LayerNormalization

Tensor = Any
TERMS = ("c2p", "p2c")


def relative_rows(length: int, num_buckets: int, max_distance: int | None = None) -> np.ndarray:
    """Return the row of the table for every distance, query - key, from -`length` to `length`, int32.

    Half of the rows are for negative distances and half for the other ones, from 0. Without `max_distance`, every
    distance has its own row, and distances beyond the table have the outermost row of their sign. With it, half of the
    rows of each sign represent one small distance each; each other row covers a range of distances, and the ranges grow
    geometrically up to `max_distance`.
    """
    span = num_buckets // 2
    distance = np.arange(-length, length + 1)
    if max_distance is not None:
        exact, absolute = span // 2, np.abs(distance)
        ratio = np.log(np.maximum(absolute, exact).astype(np.float32) / np.float32(exact))
        ratio /= np.log(np.float32((max_distance - 1) / exact))
        far = np.ceil(ratio * np.float32(exact - 1)) + exact
        distance = np.where(absolute <= exact, distance, far * np.sign(distance))
    return np.clip(distance + span, 0, num_buckets - 1).astype(np.int32)


@keras.saving.register_keras_serializable(package="attention_zoo")
class RelativeEmbeddings(keras.layers.Layer):
    """Trained embeddings of distances, which all layers of an encoder with disentangled attention share.

    Called with a tensor (batch, length, …), of which only the length is read, the layer returns the
    argument `relative` of ``DisentangledAttention``: the table (num_buckets, hidden_dim) in the compute dtype, and the
    indices of its rows for the distances in a sequence of this length, (2 · length,) int32, by descending and by
    ascending distance.

    Args:
        num_buckets: number of rows, an even number.
        max_length: the longest sequence.
        hidden_dim: width of the embeddings.
        max_distance: see ``relative_rows``.
        norm_epsilon: epsilon of a layer normalization of the table; None for no normalization.
        embeddings_initializer: initializer of the table.

    Raises:
        ValueError: `num_buckets` is not even, a size is not positive, or `max_distance` is not above
            `num_buckets` / 4 + 1, or is given with less than 4 buckets.
    """

    kind: ClassVar[str] = "relative"

    def __init__(
        self,
        num_buckets: int,
        max_length: int,
        hidden_dim: int,
        *,
        max_distance: int | None = None,
        norm_epsilon: float | None = None,
        embeddings_initializer: Any = "uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_buckets = multiple("num_buckets", num_buckets, 2)
        self.max_length = positive_integer("max_length", max_length)
        self.hidden_dim = positive_integer("hidden_dim", hidden_dim)
        self.max_distance = None if max_distance is None else positive_integer("max_distance", max_distance)
        if max_distance is not None and (num_buckets < 4 or max_distance <= num_buckets // 4 + 1):
            accepted = f"more than {num_buckets // 4 + 1}, with at least 4 buckets"
            raise ValueError(f"max_distance: got {max_distance} with {num_buckets} buckets; accepted: {accepted}")
        self.norm_epsilon = norm_epsilon
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)
        self.norm: Any = None
        if norm_epsilon is not None:
            self.norm = LayerNormalization(epsilon=norm_epsilon, name="norm", dtype=self.dtype_policy)

    def build(self, input_shape: Any = None) -> None:
        shape = (self.num_buckets, self.hidden_dim)
        self.embeddings = self.add_weight(name="embeddings", shape=shape, initializer=self.embeddings_initializer)
        if self.norm is not None:
            self.norm.build(shape)

    def call(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        length = ops.shape(inputs)[1]
        table = ops.cast(self.embeddings, self.compute_dtype)
        rising = relative_rows(self.max_length, self.num_buckets, self.max_distance)  # of distances -max … max
        first, last = self.max_length - length + 1, self.max_length + length + 1
        orders = (rising[::-1].copy(), rising)
        falling, rising = (ops.convert_to_tensor(order)[first:last] for order in orders)  # (2T,) each
        return table if self.norm is None else self.norm(table), falling, rising

    def compute_output_spec(self, inputs: Any) -> Any:
        return keras.Operation.compute_output_spec(self, inputs)

    def get_config(self) -> dict[str, Any]:
        own = ("num_buckets", "max_length", "hidden_dim", "max_distance", "norm_epsilon")
        return {
            **super().get_config(),
            **{name: getattr(self, name) for name in own},
            "embeddings_initializer": keras.initializers.serialize(self.embeddings_initializer),
        }


@keras.saving.register_keras_serializable(package="attention_zoo")
class DisentangledAttention(MultiHeadAttention):
    """Self-attention whose scores have terms of the distance between two tokens.

    For a query i and a key j at the distance i - j = d, with the embedding ``e_d`` of ``RelativeEmbeddings``::

        score = scale · (q_i · k_j + q_i · W_pk e_d + k_j · W_pq e_d)

    The second term is "c2p" (content to position), the third "p2c". `scale` is by default (key_dim · n)^-1/2 for n
    terms. The arguments that are not listed here are those of ``MultiHeadAttention``; there are as many key/value
    heads as query heads, and there is no cache.

    Args:
        position_terms: the terms that depend on the distance, one or both of ``TERMS``.
        share_position_projections: whether ``W_pk`` and ``W_pq`` are the projections of keys and of queries. Otherwise
            ``W_pq`` has a bias as the queries have, and ``W_pk`` as the keys have.

    Raises:
        ValueError: `position_terms` has other terms, or there are fewer key/value heads than query heads.
    """

    def __init__(
        self,
        num_heads: int,
        key_dim: int | None = None,
        value_dim: int | None = None,
        *,
        position_terms: Sequence[str] = TERMS,
        share_position_projections: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_heads, key_dim, value_dim, **kwargs)
        if set(position_terms) - set(TERMS) or len(set(position_terms)) < len(position_terms):
            raise ValueError(f"position_terms: got {position_terms!r}; accepted: {list(TERMS)}, or one of them")
        if self.num_kv_heads != self.num_heads:
            raise ValueError(f"num_kv_heads: got {self.num_kv_heads}; accepted: num_heads={self.num_heads}")
        self.position_terms = tuple(position_terms)
        self.share_position_projections = share_position_projections

    def build(self, query_shape: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().build(query_shape)
        width = self.num_heads * (self.key_dim or 0)
        if self.scale is None:
            self.scale = (self.key_dim * (1 + len(self.position_terms))) ** -0.5
        self.position_key: Any = self.key_dense
        self.position_query: Any = self.query_dense
        if not self.share_position_projections:
            if "c2p" in self.position_terms:
                self.position_key = self._project("position_key", width, query_shape, self.use_key_bias)
            if "p2c" in self.position_terms:
                self.position_query = self._project("position_query", width, query_shape)

    def call(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        query: Tensor,
        *,
        relative: tuple[Tensor, Tensor, Tensor],
        key_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        use_causal_mask: bool = False,
        bias: Tensor | None = None,
        return_attention_scores: bool = False,
        training: bool | None = None,
    ) -> Any:
        """Attend from `query` (batch, length, width) to itself.

        `relative` is the result of ``RelativeEmbeddings`` for this length, and `bias` is added to the scores.
        The other arguments, and the result, are those of ``MultiHeadAttention.call``.
        """

        def terms(q: Tensor, k: Tensor) -> Tensor | None:
            parts = [*self._terms(q, k, *relative), *([] if bias is None else [bias])]
            return sum(parts[1:], start=parts[0]) if parts else None

        return super().call(
            query,
            key_mask=key_mask,
            attention_mask=attention_mask,
            use_causal_mask=use_causal_mask,
            bias=terms,
            return_attention_scores=return_attention_scores,
            training=training,
        )

    def _terms(self, q: Tensor, k: Tensor, table: Tensor, falling: Tensor, rising: Tensor) -> list[Tensor]:
        """Return the terms of the distance for queries and keys (B, H, T, D), (B, H, T, T) each."""
        found = []
        if "c2p" in self.position_terms:
            rows = self._rows(self.position_key, table, falling)  # column c is the distance T - 1 - c
            found.append(_aligned(ops.matmul(q * self.scale, rows)))
        if "p2c" in self.position_terms:
            rows = self._rows(self.position_query, table, rising) * self.scale  # column c is the distance c - T + 1
            found.append(ops.swapaxes(_aligned(ops.matmul(k, rows)), -1, -2))
        return found

    def _rows(self, projection: Dense, table: Tensor, order: Tensor) -> Tensor:
        """Return the projected rows of `table` in `order`, as columns: (1, H, D, 2T).

        The projection is applied before or after the lookup, whichever has fewer rows. The projection of the whole
        table depends on weights alone, so ONNX Runtime computes it once, when it loads a file.
        """
        few = isinstance(order.shape[0], int) and order.shape[0] < table.shape[0]
        rows = projection(F.embedding_lookup(table, order)) if few else F.embedding_lookup(projection(table), order)
        return ops.swapaxes(F.split_heads(ops.expand_dims(rows, 0), self.num_heads), -1, -2)

    def get_config(self) -> dict[str, Any]:
        own = ("position_terms", "share_position_projections")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}


def _aligned(scores: Tensor) -> Tensor:
    """Return ``result[i, j] = scores[i, T - 1 - i + j]``, (B, H, T, T), for `scores` (B, H, T, 2T).

    Each row of the result begins one column to the left of the row before. Rows of 2T - 1 elements instead of 2T, read
    from the flat array, begin at these columns; so the result is a reshape and a slice, without a gather.
    """
    batch, heads, length, columns = ops.shape(scores)
    flat = ops.reshape(scores, (batch, heads, length * columns))
    first = length - 1
    flat = flat[:, :, first : first + length * (columns - 1)]
    return ops.reshape(flat, (batch, heads, length, columns - 1))[:, :, :, :length]
