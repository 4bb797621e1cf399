"""Transformer: the encoder-decoder of "Attention Is All You Need" (Vaswani et al. 2017, arXiv:1706.03762).

As in section 3 of the paper, sinusoidal positions are added to embeddings scaled by sqrt(hidden_dim), source, target
and output share one embedding table, the activation is ReLU, and each residual connection is followed by a
normalization. In addition to the paper, positions count the tokens that the masks keep, so padding on either side does
not change them. Other models differ in config fields:

    Marian    position="sinusoidal_halves", activation="silu", use_logits_bias=True, norm_epsilon=1e-5
    T5 v1.1   position="relative", norm="rms_norm", norm_first=True, activation="geglu", use_bias=False,
              attention_scale=1.0, scale_embeddings=False, tie_embeddings=False
    T5 v1.0   the same with activation="relu", scale_outputs=True, tie_embeddings=True

Inputs and outputs:

    input_ids, attention_mask (1 = keep): (batch, source)
    decoder_input_ids, decoder_attention_mask: (batch, target), the target shifted right, after a start token
    -> logits (batch, target, vocab_size)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import keras
from keras import ops

from ...generation.cached_graphs import cache_pairs, decoder_graph
from ...generation.keras_decoder import Generating
from ...layers.blocks import TransformerBlock
from ...layers.cache import CausalContext, DynamicCache, StaticCache, causal_context
from ...layers.core import NORMALIZATIONS, Dense, fields_for
from ...layers.embedding import TokenEmbedding
from ...layers.feedforward import ACTIVATIONS, GATED
from ...layers.position import EncodedPositions, check_position, encode_positions, position_layer, positions_from_mask
from ...signature import Graph, Signature, TensorSpec
from ..base import Intermediates, Tensor, ZooModel, build_each
from ..config import Config, choice, rate, size, token
from ..registry import register


@dataclass(frozen=True)
class TransformerConfig(Config):
    """Config of ``Transformer``. The defaults are the paper's base model. ``GPTConfig`` documents the other fields.

    Attributes:
        vocab_size: vocabulary size of both source and target.
        num_layers, num_decoder_layers: number of blocks of the encoder and of the decoder. Default of the latter:
            `num_layers`.
        num_decoder_heads, decoder_intermediate_dim: sizes of the decoder. Default: those of the encoder.
        num_decoder_kv_heads, decoder_head_dim: sizes of the decoder. Default: those of the encoder if both have the
            same number of heads; otherwise `num_decoder_heads`, and `hidden_dim` / `num_decoder_heads`.
        max_length: maximum length of the source and of the target.
        num_buckets, max_distance: options of relative positions; see ``RelativePositionBias``.
        norm_first: whether blocks normalize the input of each branch (pre-norm) instead of the sum with the residual;
            each stack then has a final normalization.
        attention_scale: factor on the attention scores. Default: head_dim^-1/2.
        scale_embeddings: whether to multiply the embeddings by sqrt(hidden_dim).
        share_embeddings: whether source and target have the same embedding table.
        tie_embeddings: whether the target's embedding table is also the output projection.
        scale_outputs: whether to multiply the decoder's hidden states by hidden_dim^-1/2 before the output projection,
            as in T5 1.0.
        use_logits_bias: whether the logits have a bias, as in Marian.
        decoder_start_token_id, eos_token_id, pad_token_id: the tokens that begin and end a target, and pad it.
    """

    vocab_size: int = size(37_000)
    num_layers: int = size(6)
    num_decoder_layers: int | None = size(None, derived=lambda c: c.num_layers)
    num_heads: int = size(8)
    num_decoder_heads: int | None = size(None, derived=lambda c: c.num_heads)
    num_kv_heads: int | None = size(None, derived=lambda c: c.num_heads)
    num_decoder_kv_heads: int | None = size(
        None, derived=lambda c: c.num_kv_heads if c.num_decoder_heads == c.num_heads else c.num_decoder_heads
    )
    head_dim: int | None = size(None, derived=lambda c: c.quotient("hidden_dim", "num_heads"))
    decoder_head_dim: int | None = size(
        None,
        derived=lambda c: (
            c.head_dim if c.num_decoder_heads == c.num_heads else c.quotient("hidden_dim", "num_decoder_heads")
        ),
    )
    hidden_dim: int = size(512)
    intermediate_dim: int | None = size(None, derived=lambda c: 4 * c.hidden_dim)
    decoder_intermediate_dim: int | None = size(None, derived=lambda c: c.intermediate_dim)
    max_length: int = size(512)
    position: str = "sinusoidal"
    num_buckets: int = size(32)
    max_distance: int = size(128)
    activation: str = choice("relu", (*ACTIVATIONS, *GATED))
    norm: str = choice("layer_norm", NORMALIZATIONS)
    norm_epsilon: float = 1e-6
    norm_first: bool = False
    use_bias: bool = True
    attention_scale: float | None = None
    scale_embeddings: bool = True
    share_embeddings: bool = True
    tie_embeddings: bool = True
    scale_outputs: bool = False
    use_logits_bias: bool = False
    dropout: float = rate(0.1)
    attention_dropout: float = rate(0.0)
    decoder_start_token_id: int = token(1)
    eos_token_id: int | None = token(2)
    pad_token_id: int | None = token(0)

    def check(self) -> None:
        self.quotient("num_heads", "num_kv_heads")
        self.quotient("num_decoder_heads", "num_decoder_kv_heads")
        for head_dim in (self.head_dim, self.decoder_head_dim):
            check_position(self.position, hidden_dim=self.hidden_dim, head_dim=head_dim or 0)

    @property
    def rotary_interleaved(self) -> bool:
        return self.position == "rotary_interleaved"

    @property
    def depth(self) -> int:
        return self.num_layers + (self.num_decoder_layers or 0)

    def least_parameters(self) -> int:
        heads = self.num_heads * (self.head_dim or 0), (self.num_decoder_heads or 0) * (self.decoder_head_dim or 0)
        blocks = self.num_layers * ((self.intermediate_dim or 0) + heads[0])
        blocks += (self.num_decoder_layers or 0) * ((self.decoder_intermediate_dim or 0) + heads[1])
        rows = self.max_length if self.position == "learned" else 0
        buckets = self.num_heads * self.num_buckets if self.position == "relative" else 0
        return self.hidden_dim * (self.vocab_size + rows + blocks) + buckets


@register
class Transformer(Generating, ZooModel):
    """An encoder-decoder: ``Transformer(num_layers=2)``, ``Transformer(config)`` or ``az.create("transformer-base")``.

    The module docstring lists the inputs and outputs. The intermediates are ``encoder_hidden_states``,
    ``encoder_attentions``, ``decoder_hidden_states``, ``decoder_attentions`` and ``cross_attentions``, a tuple of
    (batch, heads, target, source) tensors.
    """

    family: ClassVar[str] = "transformer"
    tasks: ClassVar[Mapping[str | None, str]] = {None: "text2text-generation"}
    config_class: ClassVar[type[Config]] = TransformerConfig

    def build_layers(self) -> None:
        c = self.config
        shared: dict[str, Any] = {"dtype": self.dtype_policy}
        # As in tensor2tensor: embeddings scaled by sqrt(hidden_dim) have unit variance.
        normal = keras.initializers.RandomNormal(stddev=c.hidden_dim**-0.5)

        def embedding(name: str) -> TokenEmbedding:
            return TokenEmbedding(
                c.vocab_size, c.hidden_dim, embeddings_initializer=normal.clone(), name=name, **shared
            )

        def positions(name: str, **options: Any) -> Any:
            return position_layer(**{**fields_for(position_layer, c), **options}, name=name, **shared)

        def block(name: str, **options: Any) -> TransformerBlock:
            return TransformerBlock.from_fields(c, **options, name=name, **shared)

        def last_norm(name: str) -> Any:
            return NORMALIZATIONS[c.norm](epsilon=c.norm_epsilon, name=name, **shared) if c.norm_first else None

        decoder = {"num_heads": c.num_decoder_heads, "head_dim": c.decoder_head_dim}
        inside = {"num_kv_heads": c.num_decoder_kv_heads, "intermediate_dim": c.decoder_intermediate_dim}
        self.embedding = embedding("embedding")
        self.decoder_embedding = self.embedding if c.share_embeddings else embedding("decoder_embedding")
        self.encoder_positions = positions("encoder_positions", bidirectional=True)
        self.decoder_positions = positions("decoder_positions", bidirectional=False, **decoder)
        self.encoder_blocks = [block(f"encoder_block_{i}") for i in range(c.num_layers)]
        self.decoder_blocks = [
            block(f"decoder_block_{i}", cross_attention=True, **decoder, **inside) for i in range(c.num_decoder_layers)
        ]
        self.encoder_norm, self.decoder_norm = last_norm("encoder_norm"), last_norm("decoder_norm")
        self.dropout = keras.layers.Dropout(c.dropout, name="dropout", **shared)
        self.lm_head = None if c.tie_embeddings else Dense(c.vocab_size, use_bias=False, name="lm_head", **shared)

    def build(self, input_shape: Any = None) -> None:
        own = None if self.decoder_embedding is self.embedding else self.decoder_embedding
        build_each((None, None), self.embedding, own, self.encoder_positions, self.decoder_positions)
        blocks = (self.dropout, *self.encoder_blocks, *self.decoder_blocks)
        build_each((None, None, self.config.hidden_dim), *blocks, self.encoder_norm, self.decoder_norm, self.lm_head)
        self.logits_bias = None
        if self.config.use_logits_bias:
            self.logits_bias = self.add_weight(name="logits_bias", shape=(self.config.vocab_size,), initializer="zeros")

    def block_stacks(self) -> list[Sequence[Any]]:
        return [self.encoder_blocks, self.decoder_blocks]

    def call(
        self,
        inputs: Any,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        training: bool | None = None,
    ) -> Any:
        named = self.named_inputs(inputs)
        ids, mask = named["decoder_input_ids"], named.get("attention_mask")
        encoder_seen, decoder_seen = (Intermediates(output_hidden_states, output_attentions) for _ in range(2))
        encoded = self.encode(named["input_ids"], mask, encoder_seen, training)
        context = causal_context(ops.shape(ids)[1], named.get("decoder_attention_mask"))
        x = self.decode(ids, context, self.project_encoded(encoded), mask, None, decoder_seen, training)
        return self.finish(self.head(x), encoder_seen.named("encoder_"), decoder_seen.named("decoder_"))

    def encode(
        self,
        ids: Tensor,
        mask: Tensor | None = None,
        intermediates: Intermediates | None = None,
        training: bool | None = None,
    ) -> Tensor:
        """Return the encoder's hidden states, (batch, source, hidden_dim), for `ids` (batch, source)."""
        if mask is None:
            numbers = ops.expand_dims(ops.arange(ops.shape(ids)[1], dtype="int32"), 0)  # (1, S)
        else:
            numbers = positions_from_mask(mask)  # (B, S)
        positions = encode_positions(self.encoder_positions, numbers, numbers)
        x = self._embed(self.embedding, ids, positions, training)  # (B, S, D)
        seen = intermediates or Intermediates()
        x = self.run_blocks(self.encoder_blocks, x, seen, key_mask=mask, **positions.in_attention, training=training)
        return x if self.encoder_norm is None else self.encoder_norm(x)

    def project_encoded(self, encoded: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return the keys and values of the source for the cross-attention of each decoder block.

        They are (batch, kv_heads, source, head_dim) and the same for every decode step.
        """
        return [block.cross_attention.keys_and_values(encoded) for block in self.decoder_blocks]

    def decode(
        self,
        ids: Tensor,
        context: CausalContext,
        encoder_key_values: Sequence[tuple[Tensor, Tensor]],
        encoder_mask: Tensor | None = None,
        cache: DynamicCache | StaticCache | None = None,
        intermediates: Intermediates | None = None,
        training: bool | None = None,
    ) -> Tensor:
        """Return the decoder's hidden states, (batch, target, hidden_dim), for `ids` (batch, target).

        With a `cache`, `ids` follow the tokens in it. `encoder_key_values` is the result of ``project_encoded``.
        """
        positions = encode_positions(self.decoder_positions, context.query_positions, context.key_positions)
        x = self._embed(self.decoder_embedding, ids, positions, training)  # (B, T, D)
        x = self.run_blocks(
            self.decoder_blocks,
            x,
            intermediates or Intermediates(),
            cache=cache,
            encoder_key_values=encoder_key_values,
            encoder_mask=encoder_mask,
            **context.masks,
            **positions.in_attention,
            training=training,
        )
        return x if self.decoder_norm is None else self.decoder_norm(x)

    def _embed(self, table: TokenEmbedding, ids: Tensor, positions: EncodedPositions, training: bool | None) -> Tensor:
        x = table(ids)  # (B, T, D)
        if self.config.scale_embeddings:
            x = x * ops.cast(self.config.hidden_dim**0.5, x.dtype)
        return self.dropout(positions.add_to(x), training=training)

    def head(self, x: Tensor) -> Tensor:
        """Return the logits (..., vocab_size) for hidden states (..., hidden_dim), in float32."""
        if self.config.scale_outputs:
            x = x * ops.cast(self.config.hidden_dim**-0.5, x.dtype)
        if self.lm_head is None:
            return self.decoder_embedding.project(x, self.logits_bias)
        logits = ops.cast(self.lm_head(x), "float32")
        return logits if self.logits_bias is None else logits + ops.cast(self.logits_bias, "float32")

    @property
    def signature(self) -> Signature:
        c = self.config
        source, target = ("batch", "source"), ("batch", "target")
        ids, mask = {"below": c.vocab_size}, {"below": 2, "optional": True, "fill": 1}
        return Signature(
            inputs=(
                TensorSpec("input_ids", "int32", source, **ids),
                TensorSpec("attention_mask", "int32", source, **mask),
                TensorSpec("decoder_input_ids", "int32", target, **ids),
                TensorSpec("decoder_attention_mask", "int32", target, **mask),
            ),
            outputs=(TensorSpec("logits", "float32", (*target, c.vocab_size)),),
            limits={"source": c.max_length, "target": c.max_length},
            defaults=dict.fromkeys(("source", "target"), min(128, c.max_length)),
        )

    def graphs(self, kind: str = "dynamic") -> dict[str, Graph]:
        if kind not in ("dynamic", "static"):
            return super().graphs(kind)
        return {"encoder": self._encoder_graph(), "decoder": self._decoder_graph(static=kind == "static")}

    def _encoder_graph(self) -> Graph:
        """Return the graph that computes, once per source, the tensors that the decoder needs at every step."""
        spec, projected = self.signature, self._projected_specs()
        states = TensorSpec("last_hidden_state", "float32", ("batch", "source", self.config.hidden_dim))

        def function(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            encoded = self.encode(inputs["input_ids"], inputs["attention_mask"], training=False)
            flat = [part for pair in self.project_encoded(encoded) for part in pair]
            return {states.name: encoded, **dict(zip([spec.name for spec in projected], flat, strict=True))}

        limits, defaults = ({"source": table["source"]} for table in (spec.limits, spec.defaults))
        return Graph(Signature(spec.inputs[:2], (states, *projected), limits=limits, defaults=defaults), function)

    def _projected_specs(self) -> list[TensorSpec]:
        c = self.config
        names = [f"encoder_key_values.{i}.{part}" for i in range(c.num_decoder_layers) for part in ("key", "value")]
        return [
            TensorSpec(name, "float32", ("batch", c.num_decoder_kv_heads, "source", c.decoder_head_dim))
            for name in names
        ]

    def _decoder_graph(self, static: bool) -> Graph:
        c, spec, projected = self.config, self.signature, self._projected_specs()

        def step(inputs: Mapping[str, Tensor], cache: DynamicCache | StaticCache) -> Tensor:
            ids = inputs["decoder_input_ids"]
            context = causal_context(ops.shape(ids)[1], cache=cache)
            encoded = cache_pairs(inputs[spec.name] for spec in projected)
            mask = inputs["encoder_attention_mask"]
            return self.head(self.decode(ids, context, encoded, mask, cache, training=False))

        tokens = TensorSpec("decoder_input_ids", "int32", ("batch", "sequence"), below=c.vocab_size)
        return decoder_graph(
            step,
            self.decoder_blocks,
            (tokens, replace(spec.inputs[1], name="encoder_attention_mask"), *projected),
            TensorSpec("logits", "float32", ("batch", "sequence", c.vocab_size)),
            static=static,
            limits=dict.fromkeys(("source", "sequence", "total_sequence"), c.max_length),
            defaults={"source": spec.defaults["source"], "sequence": 1},
        )

    @classmethod
    def tiny(cls) -> dict[str, dict[str, Any]]:
        small = {"vocab_size": 61, "num_layers": 2, "num_heads": 4, "hidden_dim": 32, "max_length": 40}
        t5 = {"position": "relative", "norm": "rms_norm", "norm_first": True, "activation": "geglu", "use_bias": False}
        return {
            "original": {**small, "intermediate_dim": 52, "num_decoder_layers": 1},
            "marian": {**small, "position": "sinusoidal_halves", "activation": "silu", "use_logits_bias": True},
            "t5": {**small, **t5, "attention_scale": 0.2, "scale_embeddings": False, "tie_embeddings": False},
            "rotary": {**small, "position": "rotary", "num_kv_heads": 2, "share_embeddings": False, "head_dim": 6},
            "uneven": {
                **small,
                "position": "relative",
                "num_decoder_heads": 2,
                "decoder_intermediate_dim": 20,
                "scale_outputs": True,
            },
        }
