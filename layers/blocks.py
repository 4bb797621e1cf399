"""The Transformer block: self-attention, optional cross-attention, and a feed-forward network.

Each of these branches has a residual connection and a normalization.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import keras
from keras import ops

from .attention import Cache, MultiHeadAttention
from .core import NORMALIZATIONS, fields_for
from .disentangled import DisentangledAttention
from .dropout import Dropout
from .experts import MixtureOfExperts
from .feedforward import FeedForward

Tensor = Any


@keras.saving.register_keras_serializable(package="attention_zoo")
class LayerScale(keras.layers.Layer):
    """Multiplication of every feature by a trained factor (Touvron et al. 2021, arXiv:2103.17239).

    The output has the input's shape (..., width) and the compute dtype. All factors start at `initial_value`, which is
    usually small, such as 1e-5.
    """

    def __init__(self, initial_value: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.initial_value = initial_value

    def build(self, input_shape: Any) -> None:
        initializer = keras.initializers.Constant(self.initial_value)
        self.scale = self.add_weight(name="scale", shape=(input_shape[-1],), initializer=initializer)

    def call(self, inputs: Tensor) -> Tensor:
        return inputs * ops.cast(self.scale, inputs.dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "initial_value": self.initial_value}


@keras.saving.register_keras_serializable(package="attention_zoo")
class TransformerBlock(keras.layers.Layer):
    """One Transformer block; input and output are (batch, length, width).

    Pre-norm (GPT-2, Llama, ViT) computes ``x + attend(norm(x))``, then ``x + feed(norm(x))``. Post-norm (the original
    Transformer, BERT) computes ``norm(x + attend(x))``, then ``norm(x + feed(x))``. See Xiong et al. 2020
    (arXiv:2002.04745). With `cross_attention`, a branch that attends to the encoder comes between the two (Vaswani et
    al. 2017, arXiv:1706.03762, section 3.1). The output has the compute dtype. ``call`` documents the masks.

    With `norm_branches`, the output of each branch is normalized before it is added: ``x + norm(attend(x))`` (OLMo 2,
    arXiv:2501.00656) or, with `norm_first`, ``x + norm(attend(norm(x)))`` (Gemma 2, arXiv:2408.00118). With `parallel`,
    both branches read the block's input: ``x + attend(norm(x)) + feed(norm(x))`` (GPT-J; PaLM, arXiv:2204.02311).

    Args:
        num_heads, num_kv_heads, rotary_interleaved: see ``MultiHeadAttention``; `head_dim` is its `key_dim` and
            `attention_scale` its `scale`.
        intermediate_dim, activation: see ``FeedForward``.
        experts: the further arguments of a ``MixtureOfExperts`` in place of the ``FeedForward``, as a dict; an
            `intermediate_dim` in it overrides that of the block. None for a ``FeedForward``.
        use_bias: whether the projections of the attention and of the feed-forward network have biases.
        use_qkv_bias, use_output_bias, use_feedforward_bias: override `use_bias` for queries, keys and values, for the
            attention's output and for the feed-forward network. Default: `use_bias`.
        use_key_bias: overrides `use_qkv_bias` for the keys. Default: the same.
        position_terms, share_position_projections: for ``DisentangledAttention``, which self-attention is unless
            `position_terms` is None.
        qk_norm, qk_norm_joined: normalize query and key heads, each or all together, with `norm_epsilon`; see
            ``MultiHeadAttention``. With ``norm="rms_norm_unit_offset"`` these norms have a unit offset too.
        attention_softcap, attention_sinks: `softcap` and `use_sinks` of ``MultiHeadAttention``, in self-attention.
        norm: "layer_norm", "rms_norm" or another name in ``NORMALIZATIONS``.
        norm_epsilon: epsilon of the normalizations.
        norm_first: normalize the input of each branch.
        use_attention_norm: whether self-attention has a normalization; ModernBERT's first block has none.
        norm_branches: normalize the output of each branch. Without either, the sum is normalized (post-norm).
        parallel: let the feed-forward network read the block's input instead of the attention's result.
        shared_norm: with `parallel`, whether both branches read the same normalized input.
        residual_scale: factor on the output of each branch (Granite).
        layer_scale: initial value of a ``LayerScale`` on self-attention and feed-forward, or None for no such layer.
        cross_attention: whether the block has a branch that attends to an encoder.
        dropout: dropout rate on the output of every branch; `attention_dropout` is the one on the attention weights.
        kernel_initializer: initializer of all kernels.
        output_initializer: another one for the kernels that end a branch: the output projection of attention and the
            last one of the feed-forward layer, but not those of experts. Default: `kernel_initializer`.

    Raises:
        ValueError: `norm` is not one of these, `parallel` is combined with `cross_attention` or `norm_branches` or is
            without `norm_first`, `shared_norm` is without `parallel`, or ``MultiHeadAttention`` or ``FeedForward``
            rejects an argument.
    """

    def __init__(
        self,
        num_heads: int,
        intermediate_dim: int,
        *,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        attention_scale: float | None = None,
        rotary_interleaved: bool = False,
        cross_attention: bool = False,
        activation: str = "gelu",
        experts: dict[str, Any] | None = None,
        use_bias: bool = True,
        use_qkv_bias: bool | None = None,
        use_key_bias: bool | None = None,
        use_output_bias: bool | None = None,
        use_feedforward_bias: bool | None = None,
        position_terms: Sequence[str] | None = None,
        share_position_projections: bool = False,
        qk_norm: bool = False,
        qk_norm_joined: bool = False,
        attention_softcap: float | None = None,
        attention_sinks: bool = False,
        norm: str = "layer_norm",
        norm_epsilon: float = 1e-6,
        norm_first: bool = True,
        use_attention_norm: bool = True,
        norm_branches: bool = False,
        parallel: bool = False,
        shared_norm: bool = False,
        residual_scale: float = 1.0,
        layer_scale: float | None = None,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        kernel_initializer: Any = "glorot_uniform",
        output_initializer: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if norm not in NORMALIZATIONS:
            raise ValueError(f"norm: got {norm!r}; accepted: {sorted(NORMALIZATIONS)}")
        if parallel and (cross_attention or norm_branches or not norm_first):
            raise ValueError("parallel: got True; accepted: False with cross_attention, norm_branches or post-norm")
        if shared_norm and not parallel:
            raise ValueError("shared_norm: got True; accepted: False, or parallel=True")
        kernel_initializer = keras.initializers.get(kernel_initializer)
        last = keras.initializers.get(output_initializer)
        ends = {} if last is None else {"output_initializer": last}
        self.norm_first, self.norm_branches, self.parallel = norm_first, norm_branches, parallel
        self.residual_scale = residual_scale
        self._config = {
            "num_heads": num_heads,
            "intermediate_dim": intermediate_dim,
            "num_kv_heads": num_kv_heads,
            "head_dim": head_dim,
            "attention_scale": attention_scale,
            "rotary_interleaved": rotary_interleaved,
            "cross_attention": cross_attention,
            "activation": activation,
            "experts": experts,
            "use_bias": use_bias,
            "use_qkv_bias": use_qkv_bias,
            "use_key_bias": use_key_bias,
            "use_output_bias": use_output_bias,
            "use_feedforward_bias": use_feedforward_bias,
            "position_terms": None if position_terms is None else tuple(position_terms),
            "share_position_projections": share_position_projections,
            "qk_norm": qk_norm,
            "qk_norm_joined": qk_norm_joined,
            "attention_softcap": attention_softcap,
            "attention_sinks": attention_sinks,
            "norm": norm,
            "norm_epsilon": norm_epsilon,
            "norm_first": norm_first,
            "use_attention_norm": use_attention_norm,
            "norm_branches": norm_branches,
            "parallel": parallel,
            "shared_norm": shared_norm,
            "residual_scale": residual_scale,
            "layer_scale": layer_scale,
            "dropout": dropout,
            "attention_dropout": attention_dropout,
            "kernel_initializer": keras.initializers.serialize(kernel_initializer),
            "output_initializer": keras.initializers.serialize(last) if last else None,
        }
        shared = {"dtype": self.dtype_policy}

        def attention(name: str, of: Any = MultiHeadAttention, **options: Any) -> Any:
            return of(
                num_heads,
                head_dim,
                num_kv_heads=num_kv_heads,
                use_bias=use_bias if use_qkv_bias is None else use_qkv_bias,
                use_key_bias=use_key_bias,
                use_output_bias=use_bias if use_output_bias is None else use_output_bias,
                scale=attention_scale,
                qk_norm_epsilon=norm_epsilon if qk_norm else None,
                qk_norm_joined=qk_norm_joined,
                qk_norm_unit_offset=norm == "rms_norm_unit_offset",
                rotary_interleaved=rotary_interleaved,
                dropout=attention_dropout,
                kernel_initializer=kernel_initializer,
                name=name,
                **ends,
                **options,
                **shared,
            )

        options: dict[str, Any] = {"softcap": attention_softcap, "use_sinks": attention_sinks}
        kind: Any = MultiHeadAttention
        if position_terms is not None:
            kind = DisentangledAttention
            options = {"position_terms": position_terms, "share_position_projections": share_position_projections}
        self.attention = attention("attention", kind, **options)
        self.cross_attention: Any = attention("cross_attention") if cross_attention else None
        feedforward: Any = FeedForward if experts is None else MixtureOfExperts
        self.feedforward = feedforward(
            **{"intermediate_dim": intermediate_dim, **(experts or {})},
            activation=activation,
            use_bias=use_bias if use_feedforward_bias is None else use_feedforward_bias,
            dropout=dropout,
            kernel_initializer=kernel_initializer,
            name="feedforward",
            **(ends if experts is None else {}),
            **shared,
        )

        def normalization(name: str, *wanted: bool) -> Any:
            return NORMALIZATIONS[norm](epsilon=norm_epsilon, name=name, **shared) if all(wanted) else None

        plain = norm_first or not norm_branches  # norms of the branches' inputs, or of the sums
        self.attention_norm = normalization("attention_norm", plain, use_attention_norm)
        self.cross_attention_norm = normalization("cross_attention_norm", plain, cross_attention)
        self.feedforward_norm = normalization("feedforward_norm", plain, not shared_norm)
        self.attention_output_norm = normalization("attention_output_norm", norm_branches)
        self.cross_attention_output_norm = normalization("cross_attention_output_norm", norm_branches, cross_attention)
        self.feedforward_output_norm = normalization("feedforward_output_norm", norm_branches)
        self.attention_scale = self.feedforward_scale = None
        if layer_scale is not None:
            self.attention_scale = LayerScale(layer_scale, name="attention_scale", **shared)
            self.feedforward_scale = LayerScale(layer_scale, name="feedforward_scale", **shared)
        self.dropout_layer = Dropout(dropout, name="dropout", **shared)

    @classmethod
    def from_fields(cls, config: Any, **arguments: Any) -> Self:
        """Return a block whose arguments are the fields of `config` with the same names; `arguments` override them."""
        return cls(**{**fields_for(cls.__init__, config), **arguments})

    def build(self, input_shape: Any) -> None:
        for layer in (
            self.attention,
            self.cross_attention,
            self.feedforward,
            self.attention_norm,
            self.cross_attention_norm,
            self.feedforward_norm,
            self.attention_output_norm,
            self.cross_attention_output_norm,
            self.feedforward_output_norm,
            self.attention_scale,
            self.feedforward_scale,
        ):
            if layer is not None:
                layer.build(input_shape)

    def call(
        self,
        inputs: Tensor,
        *,
        key_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        use_causal_mask: bool = False,
        bias: Tensor | None = None,
        rotary: tuple[Tensor, Tensor] | None = None,
        relative: tuple[Tensor, Tensor, Tensor] | None = None,
        cache: Cache | None = None,
        encoder_states: Tensor | None = None,
        encoder_key_value: tuple[Tensor, Tensor] | None = None,
        encoder_mask: Tensor | None = None,
        return_attention_scores: bool = False,
        training: bool | None = None,
    ) -> Any:
        """Apply the block to `inputs` (batch, length, width).

        The arguments not listed here apply to self-attention and are documented in ``MultiHeadAttention.call``.

        Args:
            relative: what ``RelativeEmbeddings`` returns, for a block with ``DisentangledAttention``.
            encoder_states: (batch, source, width), the encoder's output for cross-attention.
            encoder_key_value: the encoder's output projected by ``cross_attention.keys_and_values``, used instead of
                `encoder_states`.
            encoder_mask: (batch, source), True or 1 = a real position, False or 0 = padding.

        Returns:
            (batch, length, width); with `return_attention_scores` a tuple of it, the weights of self-attention
            (batch, num_heads, length, S) and, with cross-attention, its weights (batch, num_heads, length, source).

        Raises:
            ValueError: a block with cross-attention gets no encoder output, or a block without it gets one.
        """
        if (self.cross_attention is not None) != (encoder_states is not None or encoder_key_value is not None):
            wanted = "encoder_states or encoder_key_value" if self.cross_attention else "none, without cross_attention"
            raise ValueError(f"encoder_states: got {'none' if self.cross_attention else 'one'}; accepted: {wanted}")
        # Padding has no part in the loss of a router. With a cache, the mask has columns for other tokens.
        more = {"key_mask": key_mask} if isinstance(self.feedforward, MixtureOfExperts) and cache is None else {}
        normed = self.attention_norm(inputs) if self.norm_first and self.attention_norm is not None else inputs
        attended = self.attention(
            normed,
            key_mask=key_mask,
            attention_mask=attention_mask,
            use_causal_mask=use_causal_mask,
            bias=bias,
            **({"rotary": rotary, "cache": cache} if relative is None else {"relative": relative}),
            return_attention_scores=return_attention_scores,
            training=training,
        )
        x, *scores = attended if return_attention_scores else (attended,)
        x = self.dropout_layer(x, training=training)
        x = self._join(inputs, x, self.attention_scale, self.attention_norm, self.attention_output_norm)
        if self.parallel:
            normed = normed if self.feedforward_norm is None else self.feedforward_norm(inputs)
            fed = self.feedforward(normed, training=training, **more)
            x = self._join(x, fed, self.feedforward_scale, None, None)
            return (x, *scores) if return_attention_scores else x
        if self.cross_attention is not None:
            attended = self.cross_attention(
                self.cross_attention_norm(x) if self.norm_first else x,
                encoder_states,
                key_value=encoder_key_value,
                key_mask=encoder_mask,
                return_attention_scores=return_attention_scores,
                training=training,
            )
            crossed, *cross_scores = attended if return_attention_scores else (attended,)
            crossed = self.dropout_layer(crossed, training=training)
            x = self._join(x, crossed, None, self.cross_attention_norm, self.cross_attention_output_norm)
            scores += cross_scores
        fed = self.feedforward(self.feedforward_norm(x) if self.norm_first else x, training=training, **more)
        x = self._join(x, fed, self.feedforward_scale, self.feedforward_norm, self.feedforward_output_norm)
        return (x, *scores) if return_attention_scores else x

    def _join(self, x: Tensor, branch: Tensor, scale: Any, norm: Any, output_norm: Any) -> Tensor:
        """Add `branch` to `x`, normalized and scaled as far as the block does, and normalize the sum in post-norm."""
        branch = branch if output_norm is None else output_norm(branch)
        branch = branch if scale is None else scale(branch)
        x = x + (branch if self.residual_scale == 1.0 else branch * self.residual_scale)
        return x if self.norm_first or norm is None else norm(x)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        # Trace the call: compute_output_shape cannot know whether the attention scores are returned too.
        return keras.Operation.compute_output_spec(self, *args, **kwargs)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self._config}
