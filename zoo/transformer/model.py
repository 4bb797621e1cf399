"""Transformer: the encoder-decoder of "Attention Is All You Need" (Vaswani et al. 2017, arXiv:1706.03762).

As in section 3 of the paper, sinusoidal positions are added to embeddings scaled by sqrt(hidden_dim), source, target
and output share one embedding table, the activation is ReLU, and each residual connection is followed by a
normalization. In addition to the paper, positions count the tokens that the masks keep, so padding on either side does
not change them. Other models differ in config fields:

    Marian    position="sinusoidal_halves", activation="silu", use_logits_bias=True, norm_epsilon=1e-5
    T5 v1.1   position="relative", norm="rms_norm", norm_first=True, activation="geglu", use_bias=False,
              attention_scale=1.0, scale_embeddings=False, tie_embeddings=False
    T5 v1.0   the same with activation="relu", scale_outputs=True, tie_embeddings=True
    UMT5      as T5 v1.1 with share_position_bias=False
    BART      position="learned", position_offset=2, activation="gelu", embedding_norm=True, use_logits_bias=True
    mBART     as BART with norm_first=True
    Pegasus   position="sinusoidal_halves", norm_first=True, use_logits_bias=True
    M2M-100   position="sinusoidal_fairseq", position_offset=2, numbering="tokens", norm_first=True

Inputs and outputs:

    input_ids, attention_mask (1 = keep): (batch, source)
    decoder_input_ids, decoder_attention_mask: (batch, target), the target shifted right, after a start token
    head "seq2seq_lm"               logits (batch, target, decoder_vocab_size)
         "sequence_classification"  logits (batch, num_classes), without the inputs of the decoder: it reads the source
                                    shifted right, and the classifier reads its state at the last end token, as in BART
                                    (arXiv:1910.13461, section 3.1)
         None                       last_hidden_state (batch, sequence, hidden_dim) of the encoder, without a decoder
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import keras
from keras import ops

from ...generation.cached_graphs import cache_pairs, decoder_graph
from ...generation.keras_decoder import Generating
from ...layers.blocks import TransformerBlock
from ...layers.cache import CausalContext, DynamicCache, StaticCache, causal_context
from ...layers.core import NORMALIZATIONS, Dense, fields_for
from ...layers.dropout import Dropout
from ...layers.embedding import TokenEmbedding
from ...layers.position import encode_positions, position_layer, positions_from_mask
from ...signature import Dim, Graph, Signature, TensorSpec
from ..base import Intermediates, Tensor, ZooModel, build_each
from ..config import Config
from ..registry import register
from .config import BIASED, TransformerConfig


@register
class Transformer(Generating, ZooModel):
    """An encoder-decoder: ``Transformer(num_layers=2)``, ``Transformer(config)`` or ``az.create("transformer-base")``.

    The module docstring lists the inputs and outputs. The intermediates are ``encoder_hidden_states``,
    ``encoder_attentions``, ``decoder_hidden_states``, ``decoder_attentions`` and ``cross_attentions``, a tuple of
    (batch, heads, target, source) tensors.
    """

    family: ClassVar[str] = "transformer"
    tasks: ClassVar[Mapping[str | None, str]] = {
        "seq2seq_lm": "text2text-generation",
        "sequence_classification": "text-classification",
        None: "feature-extraction",
    }
    head_parts: ClassVar[tuple[str, ...]] = ("lm_head", "logits_bias", "pooler", "classifier")
    task_layers: ClassVar[tuple[str, ...]] = ("pooler", "classifier")
    config_class: ClassVar[type[Config]] = TransformerConfig

    def build_layers(self) -> None:
        c = self.config
        shared: dict[str, Any] = {"dtype": self.dtype_policy}
        # As in tensor2tensor: embeddings scaled by sqrt(hidden_dim) have unit variance.
        normal = keras.initializers.RandomNormal(stddev=c.hidden_dim**-0.5)

        def embedding(name: str, rows: int) -> TokenEmbedding:
            return TokenEmbedding(rows, c.hidden_dim, embeddings_initializer=normal.clone(), name=name, **shared)

        def block(name: str, **options: Any) -> TransformerBlock:
            return TransformerBlock.from_fields(c, **options, name=name, **shared)

        def norm(name: str, wanted: bool) -> Any:
            return NORMALIZATIONS[c.norm](epsilon=c.norm_epsilon, name=name, **shared) if wanted else None

        decoder = {"num_heads": c.num_decoder_heads, "head_dim": c.decoder_head_dim}
        inside = {"num_kv_heads": c.num_decoder_kv_heads, "intermediate_dim": c.decoder_intermediate_dim}
        self.dropout = Dropout(c.dropout, name="dropout", **shared)
        self.embedding = embedding("embedding", c.vocab_size)
        self.encoder_positions, self.encoder_biases = self._position_layers("encoder", c.num_layers, bidirectional=True)
        self.encoder_embedding_norm = norm("encoder_embedding_norm", c.embedding_norm)
        self.encoder_blocks = [block(f"encoder_block_{i}") for i in range(c.num_layers)]
        self.encoder_norm = norm("encoder_norm", c.norm_first)
        self.decoder_embedding: Any = None
        self.decoder_embedding_norm = self.decoder_norm = None
        self.decoder_positions, self.decoder_biases, self.decoder_blocks = None, [], []
        self.lm_head: Any = None
        self.pooler: Any = None
        self.classifier: Any = None
        if c.head is None:
            return
        self.decoder_embedding = self.embedding
        if not c.share_embeddings:
            self.decoder_embedding = embedding("decoder_embedding", c.decoder_vocab_size)
        own = {"bidirectional": False, **decoder}
        self.decoder_positions, self.decoder_biases = self._position_layers("decoder", c.num_decoder_layers, **own)
        self.decoder_embedding_norm = norm("decoder_embedding_norm", c.embedding_norm)
        self.decoder_blocks = [
            block(f"decoder_block_{i}", cross_attention=True, **decoder, **inside) for i in range(c.num_decoder_layers)
        ]
        self.decoder_norm = norm("decoder_norm", c.norm_first)
        if c.head == "sequence_classification":
            self.pooler = Dense(c.hidden_dim, activation="tanh", name="pooler", **shared)
            self.classifier = Dense(c.num_classes, name="classifier", **shared)
        elif not c.tie_embeddings:
            self.lm_head = Dense(c.decoder_vocab_size, use_bias=False, name="lm_head", **shared)

    def _position_layers(self, stack: str, blocks: int, **options: Any) -> tuple[Any, list[Any]]:
        """Return the position layer of a stack, or None, and the layers of the blocks if each has its own bias."""
        c = self.config
        own = {**fields_for(position_layer, c), "max_length": c.max_length + c.position_offset, **options}
        own["dtype"] = self.dtype_policy
        if c.position not in BIASED or c.share_position_bias:
            return position_layer(**own, name=f"{stack}_positions"), []
        return None, [position_layer(**own, name=f"{stack}_positions_{i}") for i in range(blocks)]

    def build(self, input_shape: Any = None) -> None:
        c = self.config
        own = None if self.decoder_embedding is self.embedding else self.decoder_embedding
        positions = (self.encoder_positions, self.decoder_positions, *self.encoder_biases, *self.decoder_biases)
        build_each((None, None), self.embedding, own, *positions)
        blocks = (self.dropout, *self.encoder_blocks, *self.decoder_blocks)
        norms = (self.encoder_embedding_norm, self.decoder_embedding_norm, self.encoder_norm, self.decoder_norm)
        build_each((None, None, c.hidden_dim), *blocks, *norms, self.lm_head)
        build_each((None, c.hidden_dim), self.pooler, self.classifier)
        self.logits_bias = None
        if c.use_logits_bias and self.generates:
            shape = (c.decoder_vocab_size,)
            self.logits_bias = self.add_weight(name="logits_bias", shape=shape, initializer="zeros")

    def block_stacks(self) -> list[Sequence[Any]]:
        return [stack for stack in (self.encoder_blocks, self.decoder_blocks) if stack]

    def call(
        self,
        inputs: Any,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        training: bool | None = None,
    ) -> Any:
        named = self.named_inputs(inputs)
        source, mask = named[self.signature.inputs[0].name], named.get("attention_mask")
        encoder_seen, decoder_seen = (Intermediates(output_hidden_states, output_attentions) for _ in range(2))
        encoded = self.encode(source, mask, encoder_seen, training)
        if self.config.head is None:
            return self.finish({"last_hidden_state": ops.cast(encoded, "float32")}, encoder_seen.named())
        ids = self._shifted(source) if self.classifier is not None else named["decoder_input_ids"]
        context = self._context(ids, named.get("decoder_attention_mask"))
        x = self.decode(ids, context, self.project_encoded(encoded), mask, None, decoder_seen, training)
        x = self._at_last_end(x, source) if self.classifier is not None else x
        return self.finish(self.head(x, training), encoder_seen.named("encoder_"), decoder_seen.named("decoder_"))

    def _shifted(self, ids: Tensor) -> Tensor:
        """Return `ids` (B, T) after a start token, without the last one."""
        start = ops.full_like(ids[:, :1], self.config.decoder_start_token_id)
        return ops.concatenate([start, ids[:, :-1]], axis=1)

    def _at_last_end(self, x: Tensor, ids: Tensor) -> Tensor:
        """Return `x` (B, T, D) at the last end token of `ids` (B, T), or else at the first token: (B, D)."""
        number = ops.cumsum(ops.ones_like(ids), axis=1)  # 1, 2, …
        ends = number * ops.cast(ops.equal(ids, self.config.eos_token_id), number.dtype)
        last = ops.maximum(ops.max(ends, axis=1, keepdims=True), 1)  # (B, 1)
        return ops.sum(x * ops.expand_dims(ops.cast(ops.equal(number, last), x.dtype), -1), axis=1)

    def _numbers(self, ids: Tensor, index: Any = 0) -> Tensor | None:
        """Return the positions of `ids` (B, T) after `index` other tokens; None if they are counted along the mask."""
        if self.config.numbering == "mask":
            return None
        if self.config.numbering == "columns":
            return ops.expand_dims(ops.arange(ops.shape(ids)[1], dtype="int32") + index, 0)  # (1, T)
        kept = self._kept(ids)
        return (ops.cumsum(kept, axis=-1) + index) * kept - 1  # (B, T); -1 for padding

    def _kept(self, ids: Tensor) -> Tensor:
        return ops.cast(ops.not_equal(ids, self.config.pad_token_id), "int32")

    def _context(self, ids: Tensor, mask: Tensor | None = None, cache: Any = None) -> CausalContext:
        """Return the positions and the causal mask of the decoder for `ids` (batch, target) after those in `cache`."""
        numbers = self._numbers(ids, 0 if cache is None else cache.index)
        return causal_context(ops.shape(ids)[1], mask, numbers, cache)

    def encode(
        self,
        ids: Tensor,
        mask: Tensor | None = None,
        intermediates: Intermediates | None = None,
        training: bool | None = None,
    ) -> Tensor:
        """Return the encoder's hidden states, (batch, source, hidden_dim), for `ids` (batch, source)."""
        numbers = self._numbers(ids)
        if numbers is None and mask is None:
            numbers = ops.expand_dims(ops.arange(ops.shape(ids)[1], dtype="int32"), 0)  # (1, S)
        elif numbers is None:
            numbers = positions_from_mask(mask)  # (B, S)
        layers = self.encoder_positions, self.encoder_biases
        added, positions = self._positions(*layers, ids, numbers, numbers)
        x = self._embed(self.embedding, ids)  # (B, S, D)
        x = x if added is None else x + added
        x = x if self.encoder_embedding_norm is None else self.encoder_embedding_norm(x)
        x = self.dropout(x, training=training)
        seen = intermediates or Intermediates()
        x = self.run_blocks(self.encoder_blocks, x, seen, key_mask=mask, **positions, training=training)
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
        queries, keys = context.query_positions, context.key_positions
        added, positions = self._positions(self.decoder_positions, self.decoder_biases, ids, queries, keys)
        x = self._embed(self.decoder_embedding, ids)  # (B, T, D)
        before = self.config.norm_before_positions
        x = self.decoder_embedding_norm(x) if self.decoder_embedding_norm is not None and before else x
        x = x if added is None else x + added
        x = self.decoder_embedding_norm(x) if self.decoder_embedding_norm is not None and not before else x
        x = self.run_blocks(
            self.decoder_blocks,
            self.dropout(x, training=training),
            intermediates or Intermediates(),
            cache=cache,
            encoder_key_values=encoder_key_values,
            encoder_mask=encoder_mask,
            **context.masks,
            **positions,
            training=training,
        )
        return x if self.decoder_norm is None else self.decoder_norm(x)

    def _positions(
        self, layer: Any, biases: Sequence[Any], ids: Tensor, queries: Tensor, keys: Tensor
    ) -> tuple[Tensor | None, dict[str, Any]]:
        """Return what is added to the embeddings of `ids`, and what the attention of the blocks gets."""
        queries, keys = (numbers + self.config.position_offset for numbers in (queries, keys))
        if biases:
            return None, {"of_blocks": [{"bias": bias(queries, keys)} for bias in biases]}
        found = encode_positions(layer, queries, keys)
        added = found.added
        if added is not None and self.config.numbering == "tokens":  # padding has no position
            added = added * ops.expand_dims(ops.cast(self._kept(ids), added.dtype), -1)
        return added, found.in_attention

    def _embed(self, table: Any, ids: Tensor) -> Tensor:
        x = table(ids)
        return x * ops.cast(self.config.hidden_dim**0.5, x.dtype) if self.config.scale_embeddings else x

    def head(self, x: Tensor, training: bool | None = None) -> Tensor:
        """Return the logits (..., decoder_vocab_size or num_classes) for states (..., hidden_dim), in float32."""
        if self.classifier is not None:
            pooled = self.pooler(self.dropout(x, training=training))
            return ops.cast(self.classifier(self.dropout(pooled, training=training)), "float32")
        if self.config.scale_outputs:
            x = x * ops.cast(self.config.hidden_dim**-0.5, x.dtype)
        if self.lm_head is None:
            return self.decoder_embedding.project(x, self.logits_bias)
        logits = ops.cast(self.lm_head(x), "float32")
        return logits if self.logits_bias is None else logits + ops.cast(self.logits_bias, "float32")

    @property
    def generates(self) -> bool:
        return self.config.head == "seq2seq_lm"

    @property
    def _vocab_size(self) -> int:
        return self.config.decoder_vocab_size

    @property
    def signature(self) -> Signature:
        c = self.config
        ids, mask = {"below": c.vocab_size}, {"below": 2, "optional": True, "fill": 1}
        if not self.generates:
            dims = ("batch", "sequence")
            logits = TensorSpec("logits", "float32", ("batch", c.num_classes))
            states = TensorSpec("last_hidden_state", "float32", (*dims, c.hidden_dim))
            return Signature(
                inputs=(
                    TensorSpec("input_ids", "int32", dims, **ids),
                    TensorSpec("attention_mask", "int32", dims, **mask),
                ),
                outputs=(states if c.head is None else logits,),
                limits={"sequence": c.max_length},
                defaults={"sequence": min(128, c.max_length)},
            )
        source, target = ("batch", "source"), ("batch", "target")
        return Signature(
            inputs=(
                TensorSpec("input_ids", "int32", source, **ids),
                TensorSpec("attention_mask", "int32", source, **mask),
                TensorSpec("decoder_input_ids", "int32", target, below=c.decoder_vocab_size),
                TensorSpec("decoder_attention_mask", "int32", target, **mask),
            ),
            outputs=(TensorSpec("logits", "float32", (*target, c.decoder_vocab_size)),),
            limits={"source": c.max_length, "target": c.max_length},
            defaults=dict.fromkeys(("source", "target"), min(128, c.max_length)),
        )

    def graphs(self, kind: str = "dynamic") -> dict[str, Graph]:
        if not self.generates or kind not in ("dynamic", "static"):
            return super().graphs(kind)
        return {"encoder": self._encoder_graph(), "decoder": self._decoder_graph(static=kind == "static")}

    @property
    def source_specs(self) -> tuple[TensorSpec, ...]:
        """The inputs of the encoder."""
        return self.signature.inputs[:2]

    @property
    def source_length(self) -> Dim:
        """The length of the encoder's output."""
        return "source"

    def _encoder_graph(self) -> Graph:
        """Return the graph that computes, once per source, the tensors that the decoder needs at every step."""
        spec, projected, given = self.signature, self._projected_specs(), self.source_specs
        states = TensorSpec("last_hidden_state", "float32", ("batch", self.source_length, self.config.hidden_dim))

        def function(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            encoded = self.encode(*(inputs[each.name] for each in given), training=False)
            flat = [part for pair in self.project_encoded(encoded) for part in pair]
            return {states.name: encoded, **dict(zip([spec.name for spec in projected], flat, strict=True))}

        limits, defaults = (
            {dim: size for dim, size in table.items() if dim == "source"} for table in (spec.limits, spec.defaults)
        )
        return Graph(Signature(given, (states, *projected), limits=limits, defaults=defaults), function)

    def _projected_specs(self) -> list[TensorSpec]:
        c = self.config
        names = [f"encoder_key_values.{i}.{part}" for i in range(c.num_decoder_layers) for part in ("key", "value")]
        dims = ("batch", c.num_decoder_kv_heads, self.source_length, c.decoder_head_dim)
        return [TensorSpec(name, "float32", dims) for name in names]

    def _decoder_graph(self, static: bool) -> Graph:
        c, projected, name = self.config, self._projected_specs(), "encoder_attention_mask"
        source = {dim: size for dim, size in self.signature.defaults.items() if dim == "source"}
        limits: dict[str, Any] = dict.fromkeys((*source, "sequence", "total_sequence"), c.max_length)

        def step(inputs: Mapping[str, Tensor], cache: DynamicCache | StaticCache) -> Tensor:
            ids, mask = inputs["decoder_input_ids"], inputs.get(name)
            encoded = cache_pairs(inputs[spec.name] for spec in projected)
            context = self._context(ids, cache=cache)
            return self.head(self.decode(ids, context, encoded, mask, cache, training=False))

        tokens = TensorSpec("decoder_input_ids", "int32", ("batch", "sequence"), below=c.decoder_vocab_size)
        masks = [replace(spec, name=name) for spec in self.source_specs if spec.name == "attention_mask"]
        return decoder_graph(
            step,
            self.decoder_blocks,
            (tokens, *masks, *projected),
            TensorSpec("logits", "float32", ("batch", "sequence", c.decoder_vocab_size)),
            static=static,
            limits=limits,
            defaults={**source, "sequence": 1},
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
            "bart": {
                **small,
                "position": "learned",
                "position_offset": 2,
                "numbering": "columns",
                "embedding_norm": True,
                "norm_before_positions": True,
            },
            "m2m": {
                **small,
                "position": "sinusoidal_fairseq",
                "position_offset": 1,
                "numbering": "tokens",
                "norm_first": True,
            },
            "umt5": {
                **small,
                **t5,
                "num_decoder_layers": 1,
                "share_position_bias": False,
                "share_embeddings": False,
                "decoder_vocab_size": 53,
            },
            "encoder": {**small, **t5, "head": None},
            "classifier": {**small, "head": "sequence_classification", "num_classes": 7},
        }
