"""Additive and multiplicative attention of a recurrent decoder to the states of its encoder.

Both compute ``score -> softmax over the source -> weighted sum``, with the additive score of Bahdanau et al. 2014
(arXiv:1409.0473, section A.1.2) or the multiplicative scores of Luong et al. 2015 (arXiv:1508.04025, section 3.1).
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from ..checks import positive_integer
from . import functional as F
from .core import Dense

Tensor = Any


class RecurrentAttention(keras.layers.Layer):
    """Base class with the mask, the softmax and the weighted sum, which all scores have in common."""

    def prepare(self, value: Tensor) -> Tensor:
        """Return the keys (batch, source, ·) that ``score`` needs from the encoder states `value`.

        They are the same at every decoder step, so they need to be computed only once.
        """
        raise NotImplementedError

    def score(self, query: Tensor, keys: Tensor) -> Tensor:
        """Return the scores (batch, target, source) of queries (batch, target, ·) and the keys from ``prepare``."""
        raise NotImplementedError

    def call(
        self,
        query: Tensor,
        value: Tensor,
        *,
        key_mask: Tensor | None = None,
        keys: Tensor | None = None,
        return_attention_scores: bool = False,
    ) -> Any:
        """Attend from decoder states to encoder states.

        Args:
            query: (batch, target, width of the queries), states of the decoder.
            value: (batch, source, width of the values), states of the encoder.
            key_mask: (batch, source), bool or integer: True or 1 = a real position, False or 0 = padding.
            keys: result of ``prepare(value)``, if already computed.
            return_attention_scores: also return the attention weights after softmax.

        Returns:
            (batch, target, width of the values); with `return_attention_scores` a tuple of it and (batch, target,
            source). A source without any real position gives zeros.

        Raises:
            ValueError: the widths do not fit a dot product, or the mask has a floating-point dtype or another rank.
        """
        scores = F.at_least_float32(self.score(query, self.prepare(value) if keys is None else keys))  # (B, T, S)
        mask = None
        if key_mask is not None:
            mask = F.boolean_mask(key_mask, "key_mask")
            if len(mask.shape) != 2:
                raise ValueError(f"key_mask: got rank {len(mask.shape)}; accepted: (batch, source)")
            mask = ops.expand_dims(mask, 1)  # (B, 1, S)
        weights = F.softmax(scores, mask)
        if mask is not None:
            weights = weights * ops.cast(F.any_true(mask), weights.dtype)
        weights = ops.cast(weights, value.dtype)
        context = ops.matmul(weights, value)  # (B, T, width)
        return (context, weights) if return_attention_scores else context

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        # Trace the call: compute_output_shape cannot know whether the attention scores are returned too.
        return keras.Operation.compute_output_spec(self, *args, **kwargs)

    def compute_output_shape(self, query_shape: Any, value_shape: Any) -> Any:
        return (*query_shape[:-1], value_shape[-1])


@keras.saving.register_keras_serializable(package="attention_zoo")
class AdditiveAttention(RecurrentAttention):
    """Attention with the score ``vᵀ tanh(W_q q + W_k k)`` (Bahdanau et al. 2014, arXiv:1409.0473, section A.1.2).

    ``layer(query, value, key_mask=...)`` maps (batch, target, ·) and (batch, source, width) to (batch, target, width).
    Luong's "concat" score, ``vᵀ tanh(W [q; k])``, is the same with W split in two. The hidden layer has
    batch · target · source · units values, a memory cost that a dot product does not have.

    Args:
        units: width of the hidden layer.
        use_bias: whether to add a bias before the tanh.

    Raises:
        ValueError: `units` is not a positive integer.
    """

    def __init__(self, units: int, *, use_bias: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = positive_integer("units", units)
        self.use_bias = use_bias
        self.query_dense = Dense(units, use_bias=use_bias, dtype=self.dtype_policy, name="query")
        self.key_dense = Dense(units, use_bias=False, dtype=self.dtype_policy, name="key")

    def build(self, query_shape: Any, value_shape: Any) -> None:
        self.query_dense.build(query_shape)
        self.key_dense.build(value_shape)
        self.kernel = self.add_weight(name="kernel", shape=(self.units, 1), initializer="glorot_uniform")

    def prepare(self, value: Tensor) -> Tensor:
        return self.key_dense(value)  # (B, S, units)

    def score(self, query: Tensor, keys: Tensor) -> Tensor:
        hidden = ops.tanh(ops.expand_dims(self.query_dense(query), 2) + ops.expand_dims(keys, 1))  # (B, T, S, units)
        return ops.squeeze(F.dense(hidden, ops.cast(self.kernel, hidden.dtype)), -1)  # (B, T, S)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units, "use_bias": self.use_bias}


@keras.saving.register_keras_serializable(package="attention_zoo")
class MultiplicativeAttention(RecurrentAttention):
    """Attention with the score ``q · k`` or ``q · (W k)`` (Luong et al. 2015, arXiv:1508.04025, section 3.1).

    ``layer(query, value, key_mask=...)`` maps (batch, target, ·) and (batch, source, width) to (batch, target, width).

    Args:
        score: "dot" for ``q · k``, with queries and values of the same width, or "general" for ``q · (W k)``.

    Raises:
        ValueError: `score` is not one of these, or "dot" gets queries and values of different widths.
    """

    def __init__(self, score: str = "general", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if score not in ("dot", "general"):
            raise ValueError(f"score: got {score!r}; accepted: 'dot' or 'general' ('concat' is AdditiveAttention)")
        self.score_kind = score
        self.key_dense: Any = None

    def build(self, query_shape: Any, value_shape: Any) -> None:
        if self.score_kind == "general":
            self.key_dense = Dense(query_shape[-1], use_bias=False, dtype=self.dtype_policy, name="key")
            self.key_dense.build(value_shape)
        elif query_shape[-1] != value_shape[-1]:
            raise ValueError(
                f"value: got width {value_shape[-1]} for queries of width {query_shape[-1]}; accepted: the same width "
                "for the score 'dot', or the score 'general'"
            )

    def prepare(self, value: Tensor) -> Tensor:
        return value if self.key_dense is None else self.key_dense(value)  # (B, S, width of the query)

    def score(self, query: Tensor, keys: Tensor) -> Tensor:
        return ops.matmul(query, ops.swapaxes(keys, 1, 2))  # (B, T, S)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "score": self.score_kind}


def recurrent_attention(score: str | None, units: int, **shared: Any) -> Any:
    """Return the attention layer for a score; None for None.

    Args:
        score: "additive" or "concat", which are the same and use `units`, "dot", "general", or None.
        shared: further arguments of the layer, such as `dtype` and `name`.

    Raises:
        ValueError: `score` is not one of these.
    """
    if score is None:
        return None
    if score in ("additive", "concat"):
        return AdditiveAttention(units, **shared)
    return MultiplicativeAttention(score, **shared)
