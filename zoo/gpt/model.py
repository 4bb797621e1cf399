"""GPT: the decoder-only Transformer, from GPT-2 to Llama-like models.

The defaults are GPT-2 (Radford et al. 2019): learned positions, LayerNorm before attention and feed-forward, the tanh
approximation of GELU, and an output projection tied to the embedding table. Llama (Touvron et al. 2023,
arXiv:2302.13971) differs in four config fields: rotary positions, RMSNorm, SwiGLU and no biases. Grouped key/value
heads are from arXiv:2305.13245, the sliding window is from Mistral (arXiv:2310.06825).

In addition to the papers, sequences may be padded: positions count the tokens that the attention mask keeps, so padding
on either side does not change them.

    input_ids, attention_mask (1 = keep): (batch, sequence)
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
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import keras
from keras import ops

from ...generation.cached_graphs import KEPT, decoder_graph, kept_logits
from ...generation.keras_decoder import Generating
from ...layers.blocks import TransformerBlock
from ...layers.cache import CausalContext, DynamicCache, StaticCache, causal_context
from ...layers.core import NORMALIZATIONS, Dense, fields_for
from ...layers.embedding import TokenEmbedding
from ...layers.experts import CLAMPED
from ...layers.feedforward import ACTIVATIONS, GATED
from ...layers.position import check_position, encode_positions, position_layer
from ...layers.rotary import check_scaling
from ...signature import Graph, Signature, TensorSpec
from ..base import Intermediates, Tensor, ZooModel, build_each
from ..config import Config, choice, field, flag, number, rate, size, token
from ..registry import register
from ..sentences import (
    FUNCTIONS,
    SentenceConfig,
    pooled_width,
    projections_of,
    scored,
    scored_outputs,
    sentence_embedding,
    sentence_inputs,
    sentence_outputs,
)
from .expert_fields import check_experts, checked_layers, experts_of, has_experts

HEADS = ("causal_lm", "sequence_classification", "token_classification", "sentence_embedding", None)


@dataclass(frozen=True)
class GPTConfig(SentenceConfig):
    """Config of ``GPT``. The defaults are those of the smallest GPT-2.

    Attributes:
        vocab_size: number of rows of the embedding table, and of logits per token.
        num_layers: number of Transformer blocks.
        num_heads: number of query heads.
        num_kv_heads: number of key/value heads, a divisor of `num_heads`. Default: `num_heads`.
        head_dim: size of one head. Default: `hidden_dim` / `num_heads`.
        hidden_dim: size of the hidden states.
        intermediate_dim: size of the hidden layer of the feed-forward network. Default: 4 `hidden_dim`.
        max_length: maximum sequence length.
        position: a position encoding of ``layers.position.POSITIONS``: "learned", "rotary", "alibi", "none" or others.
        rope_theta, rope_scaling: options of rotary positions; see ``layers.RotaryEmbedding``.
        attention_scale: factor on the attention scores. Default: head_dim^-1/2.
        scale_by_layer: whether to divide the scores of block i by i + 1, as an option of GPT-2 does.
        sliding_window: number of tokens, including itself, that a token attends to; None for all preceding tokens.
        norm, norm_epsilon: the normalization layer, "layer_norm" or "rms_norm", and its epsilon.
        activation: activation of the feed-forward network. Gated ones, such as "swiglu", add a gate projection.
        num_experts: number of experts of a ``layers.MixtureOfExperts`` in place of every feed-forward network, as in
            Mixtral; None for none.
        experts_per_token: number of experts that are computed for each token.
        expert_intermediate_dim: `intermediate_dim` of an expert. Default: `intermediate_dim`.
        shared_expert_dim: width of a further expert that all tokens use, as in Qwen2-MoE; None for no such expert.
        normalize_experts: whether the weights of the selected experts sum to 1.
        router_bias: whether the routers have biases.
        router_loss: factor on the load-balancing loss, averaged over the routers, which training adds to its loss.
        dense_layers: numbers of the blocks that have a plain feed-forward network although others have experts.
        use_bias: whether the linear projections have biases.
        use_qkv_bias, use_feedforward_bias: the same for the query, key and value projections, and for the feed-forward
            network. Default: `use_bias`.
        qk_norm: whether to normalize every query and key head, as in Qwen3.
        tie_embeddings: whether the embedding table is also the output projection.
        dropout, attention_dropout: dropout rates, of the hidden states and of the attention weights.
        initializer_range: standard deviation of the initial weights.
        head: one of ``HEADS``; see the module docstring.
        num_classes: number of classes of the two classification heads.
        score_activation: function of the logits of ``head="sequence_classification"``; see ``BERTConfig``.
        bos_token_id, eos_token_id, pad_token_id: the token that begins a text, the token or tokens that end generation,
            and the token that pads rows to one length. None if there is no such token.
    """

    vocab_size: int = size(50257)
    num_layers: int = size(12)
    num_heads: int = size(12)
    num_kv_heads: int | None = size(None, derived=lambda c: c.num_heads)
    head_dim: int | None = size(None, derived=lambda c: c.quotient("hidden_dim", "num_heads"))
    hidden_dim: int = size(768)
    intermediate_dim: int | None = size(None, derived=lambda c: 4 * c.hidden_dim)
    max_length: int = size(1024)
    position: str = "learned"
    rope_theta: float = 10_000.0
    rope_scaling: dict[str, Any] | None = None
    attention_scale: float | None = None
    scale_by_layer: bool = False
    sliding_window: int | None = size(None)
    norm: str = choice("layer_norm", NORMALIZATIONS)
    norm_epsilon: float = 1e-5
    activation: str = choice("gelu_tanh", (*ACTIVATIONS, *GATED, CLAMPED))
    num_experts: int | None = size(None)
    experts_per_token: int = size(2, used=has_experts)
    expert_intermediate_dim: int | None = size(None, derived=lambda c: c.intermediate_dim, used=has_experts)
    shared_expert_dim: int | None = size(None, used=has_experts)
    normalize_experts: bool = flag(True, used=has_experts)
    router_bias: bool = flag(False, used=has_experts)
    router_loss: float = number(0.0, training=True)
    dense_layers: tuple[int, ...] = field((), checked_layers, used=has_experts)
    use_bias: bool = True
    use_qkv_bias: bool | None = None
    use_feedforward_bias: bool | None = None
    qk_norm: bool = False
    tie_embeddings: bool = flag(True, heads=("causal_lm",))
    dropout: float = rate(0.0)
    attention_dropout: float = rate(0.0)
    initializer_range: float = number(0.02, training=True)
    head: str | None = choice("causal_lm", HEADS)
    num_classes: int = size(2, heads=("sequence_classification", "token_classification"))
    score_activation: str | None = choice(None, FUNCTIONS, heads=("sequence_classification",))
    bos_token_id: int | None = token(None)
    eos_token_id: int | tuple[int, ...] | None = token(None, several=True)
    pad_token_id: int | None = token(None)

    def check(self) -> None:
        for name in ("use_qkv_bias", "use_feedforward_bias"):
            if getattr(self, name) is None:
                self.set(name, self.use_bias)
        self.quotient("num_heads", "num_kv_heads")
        check_experts(self)
        check_position(self.position, hidden_dim=self.hidden_dim, head_dim=self.head_dim or 0)
        self.set("rope_scaling", check_scaling(self.rope_scaling))
        scaling = self.rope_scaling or {"rope_type": None}
        if scaling["rope_type"] == "dynamic" and self.max_length > scaling["original_max_position_embeddings"]:
            most = scaling["original_max_position_embeddings"]
            raise ValueError(
                f"max_length: got {self.max_length} with dynamic scaling of the positions, which depends on the length "
                f"beyond {most}; accepted: at most {most}"
            )

    @property
    def rotary_interleaved(self) -> bool:
        return self.position == "rotary_interleaved"

    def least_parameters(self) -> int:
        experts = (self.num_experts or 0) * (self.expert_intermediate_dim or 0)
        block = min(self.intermediate_dim or 0, experts or 2**62) + self.num_heads * (self.head_dim or 0)
        rows = self.max_length if self.position == "learned" else 0
        return self.hidden_dim * (self.vocab_size + rows + self.num_layers * block)


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
            **fields_for(position_layer, c), initializer=normal.clone(), name="positions", **shared
        )
        self.dropout = keras.layers.Dropout(c.dropout, name="dropout", **shared)
        self.blocks = [
            TransformerBlock.from_fields(
                c,
                attention_scale=self._attention_scale(i),
                experts=experts_of(c, i),
                kernel_initializer=normal,
                name=f"block_{i}",
                **shared,
            )
            for i in range(c.num_layers)
        ]
        self.final_norm = NORMALIZATIONS[c.norm](epsilon=c.norm_epsilon, name="final_norm", **shared)
        self.projection = projections_of(c, **shared)
        self.lm_head: Any = None
        self.classifier: Any = None
        kernel: dict[str, Any] = {"kernel_initializer": normal.clone(), **shared}
        if c.head == "causal_lm" and not c.tie_embeddings:
            self.lm_head = Dense(c.vocab_size, use_bias=False, name="lm_head", **kernel)
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
        build_each((None, None, self.config.hidden_dim), self.dropout, *self.blocks, self.final_norm, self.lm_head)
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
        context = causal_context(
            ops.shape(ids)[1], mask, named.get("position_ids"), cache, window=self.config.sliding_window
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
        positions = encode_positions(self.position_layer, context.query_positions, context.key_positions)
        x = positions.add_to(self.embedding(ids))  # (B, T, D), as in all of the following
        x = self.dropout(x, training=training)
        x = self.run_blocks(
            self.blocks,
            x,
            intermediates or Intermediates(),
            cache=cache,
            **context.masks,
            **positions.in_attention,
            training=training,
        )
        return self.final_norm(x)

    def head(self, x: Tensor) -> Any:
        """Return the logits (…, vocab_size or num_classes) for the hidden states `x` (…, hidden_dim), in float32.

        With ``head=None``, return a dict with the hidden states in float32.
        """
        if self.classifier is not None:
            return ops.cast(self.classifier(x), "float32")
        if self.config.head is None:
            return {"last_hidden_state": ops.cast(x, "float32")}
        if self.lm_head is not None:
            return ops.cast(self.lm_head(x), "float32")
        return self.embedding.project(x)

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
        return Signature(
            inputs=(
                TensorSpec("input_ids", "int32", ids, below=c.vocab_size),
                TensorSpec("attention_mask", "int32", ids, below=2, optional=True, fill=1),
                *sentence_inputs(c),
                TensorSpec("position_ids", "int32", ids, below=c.max_length, optional=True),
            ),
            outputs=outputs[c.head],
            limits={"sequence": c.max_length},
            defaults={"sequence": min(128, c.max_length)},
        )

    def _signature_behind_a_cache(self) -> Signature:
        """Return the signature of a call with a cache, in which the mask covers the cached tokens too."""
        ids, mask, positions = self.signature.inputs
        return replace(self.signature, inputs=(ids, replace(mask, dims=("batch", "total_sequence")), positions))

    def graphs(self, kind: str = "dynamic") -> dict[str, Graph]:
        """Return the graphs as ``ZooModel.graphs`` does.

        "static" graphs return the logits of the last token only. "dynamic" graphs return those of the last
        `num_logits_to_keep` tokens: the logits of a whole prompt can take more memory than everything else.
        """
        if self.config.head != "causal_lm" or kind not in ("dynamic", "static"):
            return super().graphs(kind)
        static, spec = kind == "static", self.signature
        ids, mask, _ = spec.inputs
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
            "sentence": {**small, **llama, "head": "sentence_embedding", "pooling": "last", "normalize": True},
        }
