"""Transformer: the encoder-decoder of "Attention Is All You Need" (Vaswani et al. 2017, arXiv:1706.03762).

Sinusoidal positions added to embeddings scaled by sqrt(hidden_dim), one table for source, target and output, ReLU, and
the normalisation after each residual (section 3). Positions are counted along the masks, so that padding on either side
moves nothing. Options turn it into its descendants:

    Marian    position="sinusoidal_halves", activation="silu", use_logits_bias=True, norm_epsilon=1e-5
    T5 v1.1   position="relative", norm="rms_norm", norm_first=True, activation="geglu", use_bias=False,
              attention_scale=1.0, scale_embeddings=False, tie_embeddings=False

    input_ids, attention_mask (1 = keep): (batch, source)
    decoder_input_ids, decoder_attention_mask: (batch, target), the target moved right behind a start token
    -> logits (batch, target, vocab_size)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import keras
from keras import ops

from ...generation.keras_decoder import Generating
from ...layers.blocks import TransformerBlock
from ...layers.cache import DynamicCache, StaticCache, causal_places
from ...layers.core import NORMALIZATIONS, Dense
from ...layers.embedding import TokenEmbedding
from ...layers.feedforward import ACTIVATIONS, GATED
from ...layers.position import check_position, place, position_layer, positions_from_mask
from ...signature import Graph, Signature, TensorSpec
from ..base import Config, Tensor, ZooModel
from ..registry import register


@dataclass(frozen=True)
class TransformerConfig(Config):
    """Defaults are the paper's base model. Else as ``GPTConfig``.

    Attributes:
        vocab_size: of source and target, which share a table unless `share_embeddings` is off.
        num_layers: of the encoder; `num_decoder_layers` of the decoder, by default as many.
        max_length: longest source and longest target.
        num_buckets, max_distance: of relative positions, see ``RelativePositionBias``.
        attention_scale: factor on the scores; None for head_dim^-1/2.
        scale_embeddings: multiply embeddings by sqrt(hidden_dim).
        tie_embeddings: the target's table is the output projection too.
        use_logits_bias: a bias on the logits, as Marian's.
        norm_first: pre-norm, with a last normalisation after each stack.
        decoder_start_token_id, eos_token_id, pad_token_id: how a target begins and ends, and what fills it up.
    """

    vocab_size: int = 37_000
    num_layers: int = 6
    num_decoder_layers: int | None = None
    num_heads: int = 8
    num_kv_heads: int | None = None
    head_dim: int | None = None
    hidden_dim: int = 512
    intermediate_dim: int | None = None
    max_length: int = 512
    position: str = "sinusoidal"
    num_buckets: int = 32
    max_distance: int = 128
    activation: str = "relu"
    norm: str = "layer_norm"
    norm_epsilon: float = 1e-6
    norm_first: bool = False
    use_bias: bool = True
    attention_scale: float | None = None
    scale_embeddings: bool = True
    share_embeddings: bool = True
    tie_embeddings: bool = True
    use_logits_bias: bool = False
    dropout: float = 0.1
    attention_dropout: float = 0.0
    decoder_start_token_id: int = 1
    eos_token_id: int | None = 2
    pad_token_id: int = 0

    def __post_init__(self) -> None:
        self._positive("vocab_size", "num_layers", "num_heads", "hidden_dim", "max_length")
        if self.head_dim is None:
            self._divides("num_heads", "hidden_dim")
        self._default("num_decoder_layers", self.num_layers)
        self._default("num_kv_heads", self.num_heads)
        self._default("head_dim", self.hidden_dim // self.num_heads)
        self._default("intermediate_dim", 4 * self.hidden_dim)
        self._positive(
            "num_buckets", "max_distance", "num_decoder_layers", "num_kv_heads", "head_dim", "intermediate_dim"
        )
        self._divides("num_kv_heads", "num_heads")
        check_position(self.position, hidden_dim=self.hidden_dim, head_dim=self.head_dim or 0)
        self._choice("activation", (*ACTIVATIONS, *GATED))
        self._choice("norm", tuple(NORMALIZATIONS))
        self._rates("dropout", "attention_dropout")
        self._tokens("decoder_start_token_id", required=True)
        self._tokens("eos_token_id", "pad_token_id")


@register
class Transformer(Generating, ZooModel):
    """``Transformer(num_layers=2)``, ``Transformer(config)`` or ``az.create("transformer-base")``. See the module.

    Ask for intermediates as of any model: ``encoder_hidden_states``, ``encoder_attentions``,
    ``decoder_hidden_states``, ``decoder_attentions`` and ``cross_attentions``, (batch, heads, target, source).
    """

    family: ClassVar[str] = "transformer"
    config_class: ClassVar[type[Config]] = TransformerConfig

    def build_layers(self) -> None:
        c = self.config
        shared: dict[str, Any] = {"dtype": self.dtype_policy}
        # As tensor2tensor has it, so that embeddings scaled by sqrt(hidden_dim) have unit variance.
        initializer = keras.initializers.RandomNormal(stddev=c.hidden_dim**-0.5)

        def embedding(name: str) -> TokenEmbedding:
            table = {"embeddings_initializer": initializer.clone(), "name": name}
            return TokenEmbedding(c.vocab_size, c.hidden_dim, **table, **shared)

        def positions(name: str, bidirectional: bool) -> Any:
            return position_layer(
                c.position,
                hidden_dim=c.hidden_dim,
                head_dim=c.head_dim,
                num_heads=c.num_heads,
                max_length=c.max_length,
                bidirectional=bidirectional,
                num_buckets=c.num_buckets,
                max_distance=c.max_distance,
                name=name,
                **shared,
            )

        def block(name: str, cross_attention: bool) -> TransformerBlock:
            return TransformerBlock(
                c.num_heads,
                c.intermediate_dim,
                num_kv_heads=c.num_kv_heads,
                head_dim=c.head_dim,
                attention_scale=c.attention_scale,
                rotary_interleaved=c.position == "rotary_interleaved",
                cross_attention=cross_attention,
                activation=c.activation,
                use_bias=c.use_bias,
                norm=c.norm,
                norm_epsilon=c.norm_epsilon,
                norm_first=c.norm_first,
                dropout=c.dropout,
                attention_dropout=c.attention_dropout,
                name=name,
                **shared,
            )

        self.embedding = embedding("embedding")
        self.decoder_embedding = self.embedding if c.share_embeddings else embedding("decoder_embedding")
        self.encoder_positions = positions("encoder_positions", bidirectional=True)
        self.decoder_positions = positions("decoder_positions", bidirectional=False)
        self.encoder_blocks = [block(f"encoder_block_{i}", False) for i in range(c.num_layers)]
        self.decoder_blocks = [block(f"decoder_block_{i}", True) for i in range(c.num_decoder_layers)]
        self.encoder_norm = self.decoder_norm = None
        if c.norm_first:
            self.encoder_norm = NORMALIZATIONS[c.norm](epsilon=c.norm_epsilon, name="encoder_norm", **shared)
            self.decoder_norm = NORMALIZATIONS[c.norm](epsilon=c.norm_epsilon, name="decoder_norm", **shared)
        self.dropout = keras.layers.Dropout(c.dropout, name="dropout", **shared)
        self.lm_head = None if c.tie_embeddings else Dense(c.vocab_size, use_bias=False, name="lm_head", **shared)

    def build(self, input_shape: Any = None) -> None:
        states = (None, None, self.config.hidden_dim)
        self.embedding.build((None, None))
        if self.decoder_embedding is not self.embedding:
            self.decoder_embedding.build((None, None))
        for layer in (self.encoder_positions, self.decoder_positions):
            if layer is not None:
                layer.build((None, None))
        for layer in (*self.encoder_blocks, *self.decoder_blocks, self.encoder_norm, self.decoder_norm, self.lm_head):
            if layer is not None:
                layer.build(states)
        self.logits_bias = None
        if self.config.use_logits_bias:
            self.logits_bias = self.add_weight(name="logits_bias", shape=(self.config.vocab_size,), initializer="zeros")

    def call(
        self,
        inputs: Any,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        training: bool | None = None,
    ) -> Any:
        named = self.named_inputs(inputs)
        asked: Any = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        mask = named.get("attention_mask")
        encoded, seen = self.encode(named["input_ids"], mask, **asked, training=training)
        x, looked = self.decode(
            named["decoder_input_ids"],
            self.project_encoded(encoded),
            mask,
            decoder_mask=named.get("decoder_attention_mask"),
            **asked,
            training=training,
        )
        intermediates = {f"encoder_{name}": value for name, value in seen.items()}
        intermediates |= {
            name if name.startswith("cross") else f"decoder_{name}": value for name, value in looked.items()
        }
        return self.finish(self.head(x), intermediates)

    def encode(
        self,
        ids: Tensor,
        mask: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        training: bool | None = None,
    ) -> tuple[Tensor, dict[str, Any]]:
        """(batch, source) ids to (batch, source, hidden_dim) states, and the intermediates asked for."""
        if mask is None:
            places = ops.expand_dims(ops.arange(ops.shape(ids)[1], dtype="int32"), 0)  # (1, S)
        else:
            places = positions_from_mask(mask)  # (B, S)
        placed = place(self.encoder_positions, places, places)
        x = self._embed(self.embedding, ids, placed, training)
        x, asked = self.run_blocks(
            x,
            output_hidden_states,
            output_attentions,
            blocks=self.encoder_blocks,
            key_mask=mask,
            **placed,
            training=training,
        )
        return (x if self.encoder_norm is None else self.encoder_norm(x)), asked

    def project_encoded(self, encoded: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Every decoder block's keys and values of the source, (batch, num_kv_heads, source, head_dim): once."""
        return [block.cross_attention.keys_and_values(encoded) for block in self.decoder_blocks]

    def decode(
        self,
        ids: Tensor,
        encoder_key_values: Sequence[tuple[Tensor, Tensor]],
        encoder_mask: Tensor | None = None,
        *,
        decoder_mask: Tensor | None = None,
        cache: DynamicCache | StaticCache | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        training: bool | None = None,
    ) -> tuple[Tensor, dict[str, Any]]:
        """(batch, target) ids, behind those in `cache`, to (batch, target, hidden_dim) states."""
        places = causal_places(ops.shape(ids)[1], decoder_mask, None, cache)
        placed = place(self.decoder_positions, places.queries, places.keys)
        x = self._embed(self.decoder_embedding, ids, placed, training)
        seen = {"attention_mask": places.visible}
        if places.visible is None:
            seen = {"key_mask": decoder_mask, "use_causal_mask": True}
        x, asked = self.run_blocks(
            x,
            output_hidden_states,
            output_attentions,
            cache,
            blocks=self.decoder_blocks,
            each=[{"encoder_key_value": pair} for pair in encoder_key_values],
            encoder_mask=encoder_mask,
            **seen,
            **placed,
            training=training,
        )
        return (x if self.decoder_norm is None else self.decoder_norm(x)), asked

    def _embed(self, table: TokenEmbedding, ids: Tensor, placed: dict[str, Tensor], training: bool | None) -> Tensor:
        x = table(ids)  # (B, T, D)
        if self.config.scale_embeddings:
            x = x * ops.cast(self.config.hidden_dim**0.5, x.dtype)
        if "added" in placed:
            x = x + placed.pop("added")
        return self.dropout(x, training=training)

    def head(self, x: Tensor) -> Tensor:
        """(..., hidden_dim) states to (..., vocab_size) logits in float32."""
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

    def _names(self, prefix: str) -> list[str]:
        return [f"{prefix}.{i}.{part}" for i in range(self.config.num_decoder_layers) for part in ("key", "value")]

    def _encoder_graph(self) -> Graph:
        c, spec = self.config, self.signature
        projected = ("batch", c.num_kv_heads, "source", c.head_dim)
        outputs = [TensorSpec(name, "float32", projected) for name in self._names("encoder_key_values")]
        states = TensorSpec("last_hidden_state", "float32", ("batch", "source", c.hidden_dim))

        def function(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            encoded, _ = self.encode(inputs["input_ids"], inputs["attention_mask"], training=False)
            flat = [part for pair in self.project_encoded(encoded) for part in pair]
            return {"last_hidden_state": encoded, **dict(zip(self._names("encoder_key_values"), flat, strict=True))}

        limits, defaults = ({"source": table["source"]} for table in (spec.limits, spec.defaults))
        return Graph(Signature(spec.inputs[:2], (states, *outputs), limits=limits, defaults=defaults), function)

    def _decoder_graph(self, static: bool) -> Graph:
        c, spec = self.config, self.signature
        projected = ("batch", c.num_kv_heads, "source", c.head_dim)
        past = ("batch", c.num_kv_heads, "slots" if static else "past_sequence", c.head_dim)
        total = ("batch", c.num_kv_heads, "slots" if static else "total_sequence", c.head_dim)
        encoder_names, names = self._names("encoder_key_values"), self._names("")
        inputs = [
            TensorSpec("decoder_input_ids", "int32", ("batch", "sequence"), below=c.vocab_size),
            replace(spec.inputs[1], name="encoder_attention_mask"),
            *(TensorSpec(name, "float32", projected) for name in encoder_names),
            *(TensorSpec(f"past_key_values{name}", "float32", past, optional=True) for name in names),
        ]
        if static:
            inputs.insert(1, TensorSpec("cache_position", "int32", (1,), below=c.max_length))
        outputs = [TensorSpec("logits", "float32", ("batch", "sequence", c.vocab_size))]
        outputs += [TensorSpec(f"present{name}", "float32", total) for name in names]

        def function(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
            def pairs(names: list[str]) -> list[tuple[Tensor, Tensor]]:
                return [(given[key], given[value]) for key, value in zip(names[::2], names[1::2], strict=True)]

            state = pairs([f"past_key_values{name}" for name in names])
            cache = StaticCache(state, given["cache_position"][0]) if static else DynamicCache(state)
            x, _ = self.decode(
                given["decoder_input_ids"],
                pairs(encoder_names),
                given["encoder_attention_mask"],
                cache=cache,
                training=False,
            )
            flat = [part for pair in cache.state for part in pair]
            present = {f"present{name}": part for name, part in zip(names, flat, strict=True)}
            return {"logits": self.head(x), **present}

        signature = Signature(
            tuple(inputs),
            tuple(outputs),
            limits={"source": c.max_length, "sequence": c.max_length, "total_sequence": c.max_length},
            defaults={"source": spec.defaults["source"], "past_sequence": 0, "sequence": 1},
            sums={} if static else {"total_sequence": ("past_sequence", "sequence")},
            state={f"past_key_values{name}": f"present{name}" for name in names},
        )
        return Graph(signature, function)

    @classmethod
    def tiny(cls) -> dict[str, dict[str, Any]]:
        small = {"vocab_size": 61, "num_layers": 2, "num_heads": 4, "hidden_dim": 32, "max_length": 40}
        t5 = {"position": "relative", "norm": "rms_norm", "norm_first": True, "activation": "geglu", "use_bias": False}
        return {
            "original": {**small, "intermediate_dim": 52, "num_decoder_layers": 1},
            "marian": {**small, "position": "sinusoidal_halves", "activation": "silu", "use_logits_bias": True},
            "t5": {**small, **t5, "attention_scale": 0.2, "scale_embeddings": False, "tie_embeddings": False},
            "rotary": {**small, "position": "rotary", "num_kv_heads": 2, "share_embeddings": False, "head_dim": 6},
        }
