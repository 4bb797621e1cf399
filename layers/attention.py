"""Multi-head, grouped-query and multi-query attention, as self- or cross-attention.

The sources are Vaswani et al. 2017 (arXiv:1706.03762, section 3.2.2) and, for grouped-query and multi-query attention,
Ainslie et al. 2023 (arXiv:2305.13245) and Shazeer 2019 (arXiv:1911.02150).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from ..checks import positive_integer, positive_number
from . import functional as F
from .core import Dense, RMSNormalization
from .dropout import Dropout

Tensor = Any
Cache = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # (new keys, new values) -> all (keys, values)


@keras.saving.register_keras_serializable(package="attention_zoo")
class MultiHeadAttention(keras.layers.Layer):
    """Multi-head attention with optional grouped key/value heads, rotary positions, score biases and a cache.

    ``output = concat_h(softmax(q_h k_hᵀ · scale) v_h) W_o`` with ``q = W_q query``, ``k = W_k key``, ``v = W_v value``.
    ``layer(x)`` maps (batch, T, width) to (batch, T, output_dim) in the compute dtype; softmax is computed in float32
    or float64. ``call`` documents cross-attention, masks and the other inputs.

    Args:
        num_heads: number of query heads.
        key_dim: dimension of one query/key head. Default: the query's width / `num_heads`.
        value_dim: dimension of one value head. Default: `key_dim`.
        num_kv_heads: number of key/value heads, a divisor of `num_heads`. With `num_heads` (default) this is multi-head
            attention, with 1 multi-query attention, and grouped-query attention in between.
        output_dim: width of the output. Default: the query's width.
        use_bias: whether the query, key and value projections have biases.
        use_key_bias: whether the key projection has a bias. Default: `use_bias`.
        use_output_bias: whether the output projection has a bias. Default: `use_bias`.
        scale: factor on the scores. Default: ``key_dim ** -0.5``.
        softcap: if given, limit the scores s to ``softcap · tanh(s / softcap)`` (Gemma 2, arXiv:2408.00118).
        use_sinks: add one trained score per head to every softmax, to which no value belongs (gpt-oss).
        qk_norm_epsilon: if not None, normalize every query and key head by its root mean square with this epsilon and
            a trained scale, before the rotation (Qwen3; Henry et al. 2020, arXiv:2010.04245).
        qk_norm_joined: normalize all query heads together, and all key heads, as in OLMo 2 (arXiv:2501.00656).
        qk_norm_unit_offset: the scales of these norms are 1 + the trained ones; see ``RMSNormalization``.
        rotary_interleaved: rotate feature 2i with 2i + 1, as in the RoPE paper, instead of i with i + key_dim / 2.
        dropout: dropout rate on the attention weights, in training only.
        kernel_initializer: initializer of the kernels of all four projections.
        output_initializer: another one for the kernel of the output projection. Default: `kernel_initializer`.

    Raises:
        ValueError: a size is not a positive integer, `num_kv_heads` does not divide `num_heads`, or, without `key_dim`,
            `num_heads` does not divide the query's width.
    """

    def __init__(
        self,
        num_heads: int,
        key_dim: int | None = None,
        value_dim: int | None = None,
        *,
        num_kv_heads: int | None = None,
        output_dim: int | None = None,
        use_bias: bool = True,
        use_key_bias: bool | None = None,
        use_output_bias: bool | None = None,
        scale: float | None = None,
        softcap: float | None = None,
        use_sinks: bool = False,
        qk_norm_epsilon: float | None = None,
        qk_norm_joined: bool = False,
        qk_norm_unit_offset: bool = False,
        rotary_interleaved: bool = False,
        dropout: float = 0.0,
        kernel_initializer: Any = "glorot_uniform",
        output_initializer: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)

        def size(argument: str, value: int | None) -> Any:
            return None if value is None else positive_integer(argument, value)

        self.num_heads = positive_integer("num_heads", num_heads)
        self.key_dim = size("key_dim", key_dim)
        self.value_dim = size("value_dim", value_dim)
        self.num_kv_heads = self.num_heads if num_kv_heads is None else positive_integer("num_kv_heads", num_kv_heads)
        self.output_dim = size("output_dim", output_dim)
        self.use_bias = use_bias
        self.use_key_bias = use_bias if use_key_bias is None else use_key_bias
        self.use_output_bias = use_bias if use_output_bias is None else use_output_bias
        self.scale = scale
        self.softcap = None if softcap is None else positive_number("softcap", softcap)
        self.use_sinks = use_sinks
        self.qk_norm_epsilon = qk_norm_epsilon
        self.qk_norm_joined = qk_norm_joined
        self.qk_norm_unit_offset = qk_norm_unit_offset
        self.rotary_interleaved = rotary_interleaved
        self.dropout = dropout
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.output_initializer = keras.initializers.get(output_initializer)
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_kv_heads: got {num_kv_heads}; accepted: a divisor of num_heads={num_heads}")
        self.dropout_layer = Dropout(dropout, dtype=self.dtype_policy, name="dropout")

    def build(self, query_shape: Any, value_shape: Any = None, key_shape: Any = None) -> None:
        value_shape = query_shape if value_shape is None else value_shape
        key_shape = value_shape if key_shape is None else key_shape
        if self.key_dim is None:
            if query_shape[-1] % self.num_heads:
                raise ValueError(
                    f"num_heads: got {self.num_heads}, which does not divide the query's width {query_shape[-1]}; "
                    "accepted: a divisor, or an explicit key_dim"
                )
            self.key_dim = query_shape[-1] // self.num_heads
        if self.value_dim is None:
            self.value_dim = self.key_dim
        self.query_dense = self._project("query", self.num_heads * self.key_dim, query_shape)
        self.key_dense = self._project("key", self.num_kv_heads * self.key_dim, key_shape, self.use_key_bias)
        self.value_dense = self._project("value", self.num_kv_heads * self.value_dim, value_shape)
        self.query_norm = self.key_norm = None
        if self.qk_norm_epsilon is not None:
            heads = (self.num_heads, self.num_kv_heads) if self.qk_norm_joined else (1, 1)
            names = ("query_norm", "key_norm")
            self.query_norm, self.key_norm = (
                self._normalise(name, number * self.key_dim) for name, number in zip(names, heads, strict=True)
            )
        self.sinks = None
        if self.use_sinks:
            self.sinks = self.add_weight(name="sinks", shape=(self.num_heads,), initializer="zeros", autocast=False)
        output_dim = self.output_dim or query_shape[-1]
        joined_shape = (*query_shape[:-1], self.num_heads * self.value_dim)
        self.output_dense = self._project("output", output_dim, joined_shape, use_bias=self.use_output_bias)

    def _normalise(self, name: str, width: int) -> RMSNormalization:
        options = {"unit_offset": self.qk_norm_unit_offset, "dtype": self.dtype_policy, "name": name}
        norm = RMSNormalization(epsilon=self.qk_norm_epsilon or 0.0, **options)
        norm.build((None, None, None, width))
        return norm

    def _project(self, name: str, units: int, input_shape: Any, use_bias: bool | None = None) -> Dense:
        dense = Dense(
            units,
            use_bias=self.use_bias if use_bias is None else use_bias,
            kernel_initializer=((name == "output" and self.output_initializer) or self.kernel_initializer).clone(),
            dtype=self.dtype_policy,
            name=name,
        )
        dense.build(input_shape)
        return dense

    def call(
        self,
        query: Tensor,
        value: Tensor | None = None,
        key: Tensor | None = None,
        *,
        key_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        use_causal_mask: bool = False,
        bias: Tensor | Callable[[Tensor, Tensor], Tensor] | None = None,
        rotary: tuple[Tensor, Tensor] | None = None,
        key_value: tuple[Tensor, Tensor] | None = None,
        cache: Cache | None = None,
        return_attention_scores: bool = False,
        training: bool | None = None,
    ) -> Any:
        """Attend from `query` to `value`, by default to `query` itself. A key must be allowed by every mask given.

        Args:
            query: (batch, T, width).
            value: (batch, S, width of the values). Default: `query`.
            key: (batch, S, width of the keys). Default: `value`.
            key_mask: (batch, S), bool or integer: True or 1 = a real position, False or 0 = padding.
            attention_mask: (batch, T, S) or (batch, num_heads or 1, T, S), bool or integer: True or 1 = attend.
            use_causal_mask: query i attends to keys up to i; if S > T, the last query is aligned with the last key.
            bias: values added to the scores, broadcastable to (batch, num_heads, T, S), such as the output of
                ``ALiBi`` or ``RelativePositionBias``; or a function of the projected queries (batch, num_heads, T,
                key_dim) and keys (batch, num_kv_heads, S, key_dim) that returns such values.
            rotary: (cos, sin) from ``RotaryEmbedding``, applied to queries and keys.
            key_value: result of ``keys_and_values``, used instead of `value` and `key`. With it a decoder projects the
                encoder's output once, not at every step.
            cache: function of the new keys and values, each (batch, num_kv_heads, new, dim), that returns all keys and
                values to attend to; see ``layers/cache.py``. In the masks and in `bias`, S is then their total number.
            return_attention_scores: also return the attention weights after softmax.

        Returns:
            (batch, T, output_dim); with `return_attention_scores` a tuple of it and (batch, num_heads, T, S). For a
            query that may not attend to any key, the weights and the input of the output projection are zeros.

        Raises:
            ValueError: a mask has a floating-point dtype or another rank.
        """
        q = self._heads(self.query_dense(query), self.num_heads, self.query_norm)  # (B, H, T, D)
        k, v = key_value or self.keys_and_values(query if value is None else value, key)
        if rotary is not None:
            cos, sin = (ops.cast(part, q.dtype) for part in rotary)
            q, k = (self._rotated(x, cos, sin) for x in (q, k))
        if cache is not None:
            k, v = cache(k, v)  # (B, KV, S, D), (B, KV, S, V)
        attended = F.dot_product_attention(
            q,
            k,
            v,
            mask=_combine(key_mask, attention_mask),
            bias=bias(q, k) if callable(bias) else bias,
            scale=self.scale,
            causal=use_causal_mask,
            softcap=self.softcap,
            sinks=self.sinks,
            return_scores=return_attention_scores,
            dropout=(lambda weights: self.dropout_layer(weights, training=training)) if self.dropout else None,
        )
        output, scores = attended if return_attention_scores else (attended, None)
        output = self.output_dense(F.merge_heads(output))  # (B, T, output_dim)
        return (output, scores) if return_attention_scores else output

    def keys_and_values(self, value: Tensor, key: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the projected keys and values, for the argument `key_value` of ``call``.

        Their shapes are (batch, num_kv_heads, S, key_dim) and (batch, num_kv_heads, S, value_dim).
        """
        k = self._heads(self.key_dense(value if key is None else key), self.num_kv_heads, self.key_norm)
        return k, F.split_heads(self.value_dense(value), self.num_kv_heads)

    def _heads(self, x: Tensor, heads: int, norm: RMSNormalization | None) -> Tensor:
        """Split a projection `x` (batch, length, heads · dim) into (batch, heads, length, dim), and normalize it."""
        if norm is None:
            return F.split_heads(x, heads)
        return F.split_heads(norm(x), heads) if self.qk_norm_joined else norm(F.split_heads(x, heads))

    def _rotated(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Rotate the first features of `x` (batch, heads, length, dim), twice as many as `cos` has."""
        width = 2 * cos.shape[-1]
        if width == x.shape[-1]:
            return F.rotary(x, cos, sin, interleaved=self.rotary_interleaved)
        turned = F.rotary(x[..., :width], cos, sin, interleaved=self.rotary_interleaved)
        return ops.concatenate([turned, x[..., width:]], axis=-1)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        # Trace the call: compute_output_shape cannot know whether the attention scores are returned too.
        return keras.Operation.compute_output_spec(self, *args, **kwargs)

    def compute_output_shape(self, query_shape: Any, value_shape: Any = None, key_shape: Any = None) -> Any:
        return (*query_shape[:-1], self.output_dim or query_shape[-1])

    def get_config(self) -> dict[str, Any]:
        own = ("num_heads", "key_dim", "value_dim", "num_kv_heads", "output_dim")
        biases = ("use_bias", "use_key_bias", "use_output_bias")
        last = self.output_initializer
        return {
            **super().get_config(),
            **{name: getattr(self, name) for name in (*own, *biases)},
            "scale": self.scale,
            "softcap": self.softcap,
            "use_sinks": self.use_sinks,
            "qk_norm_epsilon": self.qk_norm_epsilon,
            "qk_norm_joined": self.qk_norm_joined,
            "qk_norm_unit_offset": self.qk_norm_unit_offset,
            "rotary_interleaved": self.rotary_interleaved,
            "dropout": self.dropout,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            **({} if last is None else {"output_initializer": keras.initializers.serialize(last)}),
        }


def _combine(key_mask: Tensor | None, attention_mask: Tensor | None) -> Tensor | None:
    """Return the logical "and" of the masks as a boolean mask of rank 4; None if neither is given."""
    masks: list[Tensor] = []
    if key_mask is not None:
        mask = F.boolean_mask(key_mask, "key_mask")
        if len(mask.shape) != 2:
            raise ValueError(f"key_mask: got rank {len(mask.shape)}; accepted: (batch, source)")
        masks.append(ops.expand_dims(ops.expand_dims(mask, 1), 1))  # (B, 1, 1, S)
    if attention_mask is not None:
        mask = F.boolean_mask(attention_mask, "attention_mask")
        if len(mask.shape) not in (3, 4):
            raise ValueError(
                f"attention_mask: got rank {len(mask.shape)}; accepted: (batch, target, source) or "
                "(batch, heads, target, source). A (batch, source) padding mask goes to key_mask."
            )
        masks.append(ops.expand_dims(mask, 1) if len(mask.shape) == 3 else mask)  # (B, 1, T, S)
    return F.combine_masks(*masks)
