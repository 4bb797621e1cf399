"""GPT: the decoder-only Transformer, from GPT-2 to Llama-like models.

The defaults are GPT-2 (Radford et al. 2019): learned positions, LayerNorm before attention and feed-forward, the tanh
approximation of GELU, and an output projection tied to the embedding table. Llama (Touvron et al. 2023,
arXiv:2302.13971) differs in four config fields: rotary positions, RMSNorm, SwiGLU and no biases. Grouped key/value
heads are from arXiv:2305.13245, the sliding window is from Mistral (arXiv:2310.06825).

In addition to the papers, sequences may be padded: positions count the tokens that the attention mask keeps, so padding
on either side does not change them.

    input_ids, attention_mask (1 = keep): (batch, sequence)
    segment_ids (1, 2, … = the documents of a row, 0 = padding): (batch, sequence), for training on packed rows, with
    outputs for each token; tokens attend to their own document only, in which positions begin at 0
    head "causal_lm"                logits (batch, sequence, vocab_size)
         "sequence_classification"  logits (batch, num_classes), and with `score_activation` the
                                    scores (batch, num_classes)
         "token_classification"     logits (batch, sequence, num_classes)
         "sentence_embedding"       sentence_embedding (batch, embedding_dim); see ``zoo/sentences.py``
         None                       last_hidden_state (batch, sequence, hidden_dim)

The classification heads are those of Hugging Face's ``…ForSequenceClassification`` and ``…ForTokenClassification``. The
former reads the last token that the attention mask keeps and that is not `pad_token_id`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import keras
from keras import ops

from ...checks import INT32
from ...generation.cached_graphs import KEPT, decoder_graph, kept_logits
from ...generation.keras_decoder import Generating
from ...layers import functional as F
from ...layers.blocks import TransformerBlock
from ...layers.cache import CausalContext, DynamicCache, StaticCache, causal_context
from ...layers.core import NORMALIZATIONS, Dense, fields_for
from ...layers.dropout import Dropout
from ...layers.embedding import TokenEmbedding
from ...layers.position import EncodedPositions, encode_positions, position_layer
from ...layers.rotary import RotaryEmbedding
from ...layers.vocabulary import Projection, logit_statistics_of, wanted_statistics
from ...signature import Graph, Signature, TensorSpec
from ..base import Intermediates, Tensor, ZooModel, build_each
from ..config import Config
from ..registry import register
from ..sentences import (
    pooled_width,
    projections_of,
    scored,
    scored_outputs,
    sentence_embedding,
    sentence_inputs,
    sentence_outputs,
)
from .config import GPTConfig
from .expert_fields import experts_of


@register
class GPT(Generating, ZooModel):
    """A decoder-only Transformer: ``GPT(num_layers=4, hidden_dim=256)``, ``GPT(config)`` or ``az.create("gpt2")``.

    The module docstring lists the outputs of each head; see also ``ZooModel``.
    """

    family: ClassVar[str] = "gpt"
    tasks: ClassVar[Mapping[str | None, str]] = {
        None: "feature-extraction",
        "causal_lm": "text-generation",
        "sequence_classification": "text-classification",
        "token_classification": "token-classification",
        "sentence_embedding": "sentence-similarity",
    }
    config_class: ClassVar[type[Config]] = GPTConfig
    head_parts: ClassVar[tuple[str, ...]] = ("lm_head", "classifier", "projection")
    task_layers: ClassVar[tuple[str, ...]] = ("classifier",)

    def build_layers(self) -> None:
        c = self.config
        shared: dict[str, Any] = {"dtype": self.dtype_policy}
        normal = keras.initializers.RandomNormal(stddev=c.initializer_range)
        table = {"embeddings_initializer": normal.clone(), **shared}
        self.embedding = TokenEmbedding(c.vocab_size, c.hidden_dim, name="embedding", **table)
        self.position_layer = position_layer(
            **{**fields_for(position_layer, c), "max_length": c.max_length + c.position_offset},
            **{"initializer": normal.clone(), "name": "positions", **shared},
        )
        self.dropout = Dropout(c.dropout, name="dropout", **shared)
        self.sliding_positions: Any = None
        if c.sliding_rope_theta is not None and c.position.startswith("rotary"):
            width = c.rotary_dim or c.head_dim
            self.sliding_positions = RotaryEmbedding(width, c.sliding_rope_theta, name="sliding", **shared)
        normalization = NORMALIZATIONS[c.norm]
        self.embedding_norm: Any = None
        if c.embedding_norm:
            self.embedding_norm = normalization(epsilon=c.norm_epsilon, name="embedding_norm", **shared)
        ends: Any = None
        if c.scale_initial_outputs:
            ends = keras.initializers.RandomNormal(stddev=c.initializer_range / (2 * c.num_layers) ** 0.5)
        self.blocks = [
            TransformerBlock.from_fields(
                c,
                attention_scale=self._attention_scale(i),
                experts=experts_of(c, i),
                kernel_initializer=normal,
                output_initializer=ends,
                name=f"block_{i}",
                **shared,
            )
            for i in range(c.num_layers)
        ]
        self.final_norm = normalization(epsilon=c.norm_epsilon, name="final_norm", **shared)
        self.projection = projections_of(c, **shared)
        self.lm_head: Any = None
        self.classifier: Any = None
        kernel: dict[str, Any] = {"kernel_initializer": normal.clone(), **shared}
        if c.head == "causal_lm" and not c.tie_embeddings:
            self.lm_head = Dense(c.vocab_size, use_bias=c.use_head_bias, name="lm_head", **kernel)
        elif c.head in ("sequence_classification", "token_classification"):
            of_tokens = c.head == "token_classification"
            self.classifier = Dense(c.num_classes, use_bias=of_tokens, name="classifier", **kernel)

    def _attention_scale(self, layer: int) -> float | None:
        """Return the factor on the attention scores of block `layer`, or None for head_dim^-1/2."""
        c = self.config
        if not c.scale_by_layer:
            return c.attention_scale
        return (c.attention_scale or (c.head_dim or 1) ** -0.5) / (layer + 1)

    def build(self, input_shape: Any = None) -> None:
        build_each((None, None), self.embedding, self.position_layer)
        build_each((None, pooled_width(self.config)), self.projection)
        wide = (None, None, self.config.hidden_dim)
        build_each(wide, self.dropout, self.embedding_norm, *self.blocks, self.final_norm, self.lm_head)
        build_each((None, self.config.hidden_dim), self.classifier)

    def call(
        self,
        inputs: Any,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        cache: DynamicCache | StaticCache | None = None,
        training: bool | None = None,
    ) -> Any:
        """Compute the outputs of the head; see the module docstring.

        With a `cache`, the inputs are the tokens that follow those in the cache, and `attention_mask` has one column
        for every slot of the cache; see ``layers/cache.py``.
        """
        named = self.named_inputs(inputs, self.signature if cache is None else self._signature_behind_a_cache())
        ids, mask = named["input_ids"], named.get("attention_mask")
        segments = named.get("segment_ids")
        context = causal_context(
            ops.shape(ids)[1], mask, named.get("position_ids"), cache, self.config.sliding_window, segments
        )
        intermediates = Intermediates(output_hidden_states, output_attentions)
        x = self.hidden_states(ids, context, cache, intermediates, training)
        if self.config.head == "sentence_embedding":
            embedding = sentence_embedding(self.config, x, mask, named.get("pooling_mask"), self.projection)
            return self.finish({"sentence_embedding": embedding}, intermediates.named())
        if self.config.head == "sequence_classification":
            return self.finish(scored(self.config, self.head(self._last(x, ids, mask))), intermediates.named())
        if self.config.head == "token_classification":
            x = self.dropout(x, training=training)
        return self.finish(self.head(x), intermediates.named())

    def _last(self, x: Tensor, ids: Tensor, mask: Tensor | None) -> Tensor:
        """Return `x` (B, T, D) at the last token that is not padding, or else at the first one: (B, D)."""
        number = ops.cumsum(ops.ones_like(ids), axis=1)  # 1, 2, …
        kept = number if mask is None else number * ops.cast(mask, number.dtype)
        if self.config.pad_token_id is not None:
            kept = kept * ops.cast(ops.not_equal(ids, self.config.pad_token_id), number.dtype)
        last = ops.maximum(ops.max(kept, axis=1, keepdims=True), 1)  # (B, 1)
        return ops.sum(x * ops.expand_dims(ops.cast(ops.equal(number, last), x.dtype), -1), axis=1)

    def hidden_states(
        self,
        ids: Tensor,
        context: CausalContext,
        cache: DynamicCache | StaticCache | None = None,
        intermediates: Intermediates | None = None,
        training: bool | None = None,
    ) -> Tensor:
        """Return the hidden states after the final normalization, (batch, T, hidden_dim), for `ids` (batch, T).

        With a `cache`, `ids` follow the tokens in it.
        """
        queries, keys = (numbers + self.config.position_offset for numbers in context[:2])
        positions = encode_positions(self.position_layer, queries, keys)
        x = self.embedding(ids)  # (B, T, D), as in all of the following
        x = positions.add_to(x if self.config.embedding_scale == 1.0 else x * self.config.embedding_scale)
        x = x if self.embedding_norm is None else self.embedding_norm(x)
        x = self.dropout(x, training=training)
        of_blocks, intermediates = self.of_blocks(context, positions), intermediates or Intermediates()
        x = self.run_blocks(self.blocks, x, intermediates, cache=cache, of_blocks=of_blocks, training=training)
        return self.final_norm(x)

    def of_blocks(self, context: CausalContext, positions: EncodedPositions) -> list[dict[str, Any]]:
        """Return the masks and the positions in the attention of every block."""
        near = positions
        if self.sliding_positions is not None:
            near = encode_positions(self.sliding_positions, context.query_positions, context.key_positions)
        kinds = {False: (context.masks, positions), True: (context.sliding_masks, near)}
        found = [{**kinds[sliding][0], **kinds[sliding][1].in_attention} for sliding in self.config.sliding_layers]
        for i in self.config.unrotated_layers:
            found[i]["rotary"] = None
        return found

    def head(self, x: Tensor) -> Any:
        """Return the logits (…, vocab_size or num_classes) for the hidden states `x` (…, hidden_dim), in float32.

        With ``head=None``, return a dict with the hidden states in float32.
        """
        if self.classifier is not None:
            return ops.cast(self.classifier(x), "float32")
        if self.config.head is None:
            return {"last_hidden_state": ops.cast(x, "float32")}
        if wanted_statistics() is not None:
            return logit_statistics_of(x, self._output_projection())
        logits = self.embedding.project(x) if self.lm_head is None else ops.cast(self.lm_head(x), "float32")
        logits = logits if self.config.logits_scale == 1.0 else logits * self.config.logits_scale
        return F.softcapped(logits, self.config.logits_softcap)

    @property
    def projects_vocabulary(self) -> bool:
        return self.config.head == "causal_lm"

    def _output_projection(self) -> Projection:
        """Return the output projection of ``head="causal_lm"``."""
        c = self.config
        more = {"scale": c.logits_scale, "softcap": c.logits_softcap}
        if self.lm_head is None:
            return Projection(ops.convert_to_tensor(self.embedding.embeddings), tied=True, **more)
        bias = None if self.lm_head.bias is None else ops.convert_to_tensor(self.lm_head.bias)
        return Projection(ops.convert_to_tensor(self.lm_head.kernel), bias=bias, **more)

    @property
    def signature(self) -> Signature:
        c = self.config
        ids = ("batch", "sequence")
        outputs = {
            "causal_lm": (TensorSpec("logits", "float32", (*ids, c.vocab_size)),),
            "sequence_classification": scored_outputs(c),
            "token_classification": (TensorSpec("logits", "float32", (*ids, c.num_classes)),),
            "sentence_embedding": sentence_outputs(c),
            None: (TensorSpec("last_hidden_state", "float32", (*ids, c.hidden_dim)),),
        }
        segments = TensorSpec("segment_ids", "int32", ids, below=INT32, optional=True)
        return Signature(
            inputs=(
                TensorSpec("input_ids", "int32", ids, below=c.vocab_size),
                TensorSpec("attention_mask", "int32", ids, below=2, optional=True, fill=1),
                *sentence_inputs(c),
                TensorSpec("position_ids", "int32", ids, below=c.max_length, optional=True),
                *(() if c.head in ("sequence_classification", "sentence_embedding") else (segments,)),
            ),
            outputs=outputs[c.head],
            limits={"sequence": c.max_length},
            defaults={"sequence": min(128, c.max_length)},
        )

    def _signature_behind_a_cache(self) -> Signature:
        """Return the signature of a call with a cache, in which the mask covers the cached tokens too."""
        ids, mask, positions = self.signature.inputs[:3]
        return replace(self.signature, inputs=(ids, replace(mask, dims=("batch", "total_sequence")), positions))

    def graphs(self, kind: str = "dynamic") -> dict[str, Graph]:
        """Return the graphs as ``ZooModel.graphs`` does.

        "static" graphs return the logits of the last token only. "dynamic" graphs return those of the last
        `num_logits_to_keep` tokens: the logits of a whole prompt can take more memory than everything else.
        """
        if self.config.head != "causal_lm" or kind not in ("dynamic", "static"):
            return super().graphs(kind)
        static, spec = kind == "static", self.signature
        ids, mask = spec.inputs[:2]
        mask = replace(mask, dims=("batch", "slots" if static else "total_sequence"))
        logits = spec.outputs[0]

        def step(inputs: Mapping[str, Tensor], cache: DynamicCache | StaticCache) -> Tensor:
            ids, mask = inputs["input_ids"], inputs["attention_mask"]
            context = causal_context(ops.shape(ids)[1], mask, None, cache, window=self.config.sliding_window)
            x = self.hidden_states(ids, context, cache, training=False)
            kept = 1 if static else inputs.get(KEPT, 0)
            return self.head(x[:, -kept:])  # 0 keeps all, since -0 is 0

        graph = decoder_graph(
            step,
            self.blocks,
            (ids, mask) if static else (ids, mask, kept_logits(self.config.max_length)),
            replace(logits, dims=("batch", 1, self.config.vocab_size)) if static else logits,
            static=static,
            limits={**spec.limits, "total_sequence": self.config.max_length},
            defaults=spec.defaults,
        )
        return {"decoder": graph}

    @property
    def generates(self) -> bool:
        return self.config.head == "causal_lm"

    @classmethod
    def tiny(cls) -> dict[str, dict[str, Any]]:
        small = {"vocab_size": 97, "num_layers": 2, "num_heads": 4, "hidden_dim": 32, "max_length": 40}
        llama = {"position": "rotary", "norm": "rms_norm", "activation": "swiglu", "use_bias": False}
        return {
            "gpt2": small,
            "llama": {**small, **llama, "num_kv_heads": 2, "head_dim": 12, "intermediate_dim": 44},
            "untied": {**small, "num_kv_heads": 1, "position": "sinusoidal", "tie_embeddings": False},
            "alibi": {**small, "position": "alibi", "sliding_window": 5, "num_heads": 3, "hidden_dim": 24},
            "relative": {**small, "position": "relative", "norm": "rms_norm", "num_kv_heads": 2},
            "gptj": {**small, "position": "rotary_interleaved", "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
            "grid": {**small, "position": "sinusoidal_2d"},
            "qwen": {**small, **llama, "num_kv_heads": 2, "head_dim": 6, "use_qkv_bias": True, "qk_norm": True},
            "experts": {**small, **llama, "intermediate_dim": 44, "num_experts": 6, "expert_intermediate_dim": 24},
            "shared_expert": {
                **{**small, **llama, "dense_layers": (1,), "num_experts": 4, "experts_per_token": 3},
                **{"normalize_experts": False, "shared_expert_dim": 12, "router_loss": 0.01},
            },
            "clamped_experts": {
                **{**small, **llama, "use_bias": True, "activation": "clamped_swiglu", "num_experts": 5},
                **{"router_bias": True, "num_kv_heads": 2},
            },
            "backbone": {**small, "position": "none", "head": None},
            "classifier": {**small, **llama, "head": "sequence_classification", "pad_token_id": 0, "num_classes": 7},
            "gemma": {
                **{**small, **llama, "num_layers": 3, "num_kv_heads": 2, "head_dim": 12, "activation": "geglu"},
                **{"norm": "rms_norm_unit_offset", "norm_branches": True, "embedding_scale": 5.5, "qk_norm": True},
                **{"attention_softcap": 3.0, "logits_softcap": 4.0, "sliding_window": 4, "sliding_rope_theta": 500.0},
                "layer_types": ("sliding_attention", "full_attention", "sliding_attention"),
            },
            "neox": {
                **{**small, "position": "rotary", "rotary_dim": 4, "parallel": True, "activation": "gelu"},
                **{"tie_embeddings": False, "use_head_bias": True, "use_output_bias": False},
            },
            "cohere": {
                **{**small, **llama, "position": "rotary_interleaved", "norm": "layer_norm_without_bias"},
                **{"parallel": True, "shared_norm": True, "logits_scale": 0.3, "unrotated_layers": (1,)},
            },
            "olmo": {
                **{**small, **llama, "num_kv_heads": 2, "norm_first": False, "norm_branches": True, "qk_norm": True},
                **{"qk_norm_joined": True, "attention_sinks": True, "residual_scale": 0.7},
            },
            "bloom": {
                **{**small, "position": "alibi", "alibi_scale": 0.5, "embedding_norm": True},
                **{"activation": "relu_squared", "norm": "layer_norm_unit_offset", "num_heads": 3, "hidden_dim": 24},
            },
            "opt": {**small, "position_offset": 2, "activation": "relu"},
            "sentence": {**small, **llama, "head": "sentence_embedding", "pooling": "last", "normalize": True},
        }
