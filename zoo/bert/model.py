"""BERT: the bidirectional Transformer encoder, with its heads.

The model is that of Devlin et al. 2018 (arXiv:1810.04805): token, position and token type embeddings are added and
normalized, each block normalizes after its residual connections, and GELU is the exact one, with erf. The LayerNorm
epsilon is 1e-12. Unlike the paper, the heads are those of Hugging Face's ``BertFor…`` classes. The sentence embedding
is the masked mean of Reimers & Gurevych 2019 (arXiv:1908.10084). Other models differ in config fields:

    RoBERTa (arXiv:1907.11692)     position_offset=2, pad_token_id=1, type_vocab_size=1, norm_epsilon=1e-5
    DistilBERT (arXiv:1910.01108)  type_vocab_size=0, pooler_activation="relu", and no pooler without a head
    Megatron (arXiv:1909.08053)    norm_first=True, embedding_norm=False
    ALBERT (arXiv:1909.11942)      token_dim=128, num_layer_groups=1: one set of weights for all layers
    ELECTRA (arXiv:2003.10555)     token_dim=128, and the discriminator's head
    MPNet (arXiv:2004.09297)       position=("learned", "relative"), position_offset=2
    Nomic (arXiv:2402.01613)       position="rotary", activation="swiglu", use_bias=False
    DeBERTa (arXiv:2006.03654)     position="disentangled" or ("learned", "disentangled"), type_vocab_size=0
    ModernBERT (arXiv:2412.13663)  norm_first=True, position="rotary", activation="geglu_erf", layer_types=(…)

Inputs and outputs:

    input_ids, attention_mask (1 = keep), token_type_ids: (batch, sequence)
    segment_ids: (batch, sequence), with the heads ``OF_TOKENS``: the documents of a row, as for GPT
    head None                       last_hidden_state (batch, sequence, hidden_dim), and with a pooler
                                    pooler_output (batch, hidden_dim)
         "masked_lm"                logits (batch, sequence, vocab_size)
         "sequence_classification"  logits (batch, num_classes), and with `score_activation` the
                                    scores (batch, num_classes)
         "token_classification"     logits (batch, sequence, num_classes)
         "question_answering"       start_logits, end_logits (batch, sequence)
         "multiple_choice"          logits (batch, choices), for inputs (batch, choices, sequence)
         "next_sentence"            logits (batch, 2): the second text follows the first one, or not
         "replaced_tokens"          logits (batch, sequence), whether each token was replaced (ELECTRA)
         "sentence_embedding"       sentence_embedding (batch, embedding_dim), and an input pooling_mask
                                    (batch, sequence) with ``pool_prompt=False``; see ``zoo/sentences.py``
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import keras
from keras import ops

from ...checks import INT32
from ...layers import functional as F
from ...layers.blocks import TransformerBlock
from ...layers.core import NORMALIZATIONS, Dense, fields_for
from ...layers.disentangled import RelativeEmbeddings
from ...layers.dropout import Dropout
from ...layers.embedding import TokenEmbedding
from ...layers.feedforward import ACTIVATIONS
from ...layers.position import encode_positions, position_layer
from ...layers.rotary import RotaryEmbedding
from ...layers.segments import kept_tokens, positions_in_documents, same_document
from ...layers.vocabulary import Projection, logit_statistics_of, wanted_statistics
from ...signature import Signature, TensorSpec
from ..base import Intermediates, Tensor, ZooModel, build_each
from ..config import Config
from ..layer_kinds import SLIDING
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
from .config import HEADS, OF_FIRST, BERTConfig

OF_TOKENS = (None, "masked_lm", "token_classification", "replaced_tokens")  # heads with outputs for each token


@register
class BERT(ZooModel):
    """A Transformer encoder: ``BERT(num_layers=4)``, ``BERT(config)`` or ``az.create("bert-base", head="masked_lm")``.

    The module docstring lists the inputs and the outputs of each head.
    """

    family: ClassVar[str] = "bert"
    tasks: ClassVar[Mapping[str | None, str]] = {
        None: "feature-extraction",
        "masked_lm": "fill-mask",
        "sequence_classification": "text-classification",
        "token_classification": "token-classification",
        "question_answering": "question-answering",
        "multiple_choice": "multiple-choice",
        "next_sentence": "text-classification",
        "replaced_tokens": "token-classification",
        "sentence_embedding": "sentence-similarity",
    }
    config_class: ClassVar[type[Config]] = BERTConfig
    head_parts: ClassVar[tuple[str, ...]] = (
        "classifier",
        "span",
        "pooler",
        "transform",
        "transform_norm",
        "lm_head",
        "output_bias",
        "projection",
    )
    task_layers: ClassVar[tuple[str, ...]] = ("classifier", "span")
    shared_task_layers: ClassVar[tuple[str, ...]] = ("pooler",)

    def build_layers(self) -> None:
        c = self.config
        shared: dict[str, Any] = {"dtype": self.dtype_policy}
        initializer = keras.initializers.TruncatedNormal(stddev=c.initializer_range)

        def norm(name: str, epsilon: float = c.norm_epsilon) -> Any:
            return NORMALIZATIONS[c.norm](epsilon=epsilon, name=name, **shared)

        def dense(name: str, units: int, use_bias: bool = True) -> Dense:
            return Dense(units, use_bias=use_bias, kernel_initializer=initializer.clone(), name=name, **shared)

        width = c.token_dim
        table: dict[str, Any] = {"embeddings_initializer": initializer.clone(), **shared}
        self.embedding = TokenEmbedding(c.vocab_size, width, name="embedding", **table)
        self.token_types = None
        if c.type_vocab_size:
            self.token_types = TokenEmbedding(c.type_vocab_size, width, name="token_types", **table)
        options = {**fields_for(position_layer, c), "hidden_dim": width, "initializer": initializer.clone(), **shared}
        added = {**options, "position": c.added_position, "max_length": c.position_offset + c.max_length}
        self.positions = position_layer(**added, name="positions")
        self.attention_positions: Any = None
        if c.disentangled:
            epsilon = c.norm_epsilon if c.norm_positions else None
            options = {
                "max_distance": c.max_distance or None,
                "norm_epsilon": epsilon,
                "name": "attention_positions",
                **table,
            }
            self.attention_positions = RelativeEmbeddings(c.num_buckets, c.max_length, c.hidden_dim, **options)
        else:
            inside = {**options, "position": c.attention_position, "bidirectional": True}
            self.attention_positions = position_layer(**inside, name="attention_positions")
        self.sliding_positions: Any = None
        if c.rotary and c.sliding_rope_theta is not None:
            self.sliding_positions = RotaryEmbedding(c.head_dim, c.sliding_rope_theta, name="sliding", **shared)
        self.embedding_norm = norm("embedding_norm") if c.embedding_norm else None
        self.embedding_projection = dense("embedding_projection", c.hidden_dim) if c.project_embeddings else None
        self.dropout = Dropout(c.dropout, name="dropout", **shared)
        own: dict[str, Any] = {"kernel_initializer": initializer, **shared}
        own |= {} if c.disentangled else {"position_terms": None}
        self.blocks = [
            TransformerBlock.from_fields(c, use_attention_norm=i > 0 or c.first_norm, name=f"block_{i}", **own)
            for i in range(max(c.schedule) + 1)
        ]
        self.final_norm = norm("final_norm") if c.norm_first else None
        self._build_head(dense, norm)

    def _build_head(self, dense: Callable[..., Dense], norm: Callable[..., Any]) -> None:
        """Create the layers of the head."""
        c = self.config
        self.pooler = dense("pooler", c.hidden_dim) if c.pooled else None
        self.transform: Any = None
        self.transform_norm: Any = None
        self.lm_head: Any = None
        self.classifier: Any = None
        self.span: Any = None
        if c.transformed:
            self.transform = dense("transform", c.transform_dim, c.use_transform_bias)
            self.transform_norm = norm("transform_norm", c.transform_norm_epsilon)
        if c.head == "replaced_tokens":
            self.transform, self.classifier = dense("transform", c.hidden_dim), dense("classifier", 1)
        elif c.head == "masked_lm":
            if not c.tie_embeddings:
                self.lm_head = dense("lm_head", c.vocab_size, use_bias=False)
        elif c.head in ("sequence_classification", "token_classification"):
            self.classifier = dense("classifier", c.num_classes)
        elif c.head in OF_FIRST:
            self.classifier = dense("classifier", 1 if c.head == "multiple_choice" else 2)
        elif c.head == "question_answering":
            self.span = dense("span", 2)
        self.projection = projections_of(c, dtype=self.dtype_policy)

    def build(self, input_shape: Any = None) -> None:
        c = self.config
        of_all, of_first = (self.final_norm, self.transform, self.span), (self.pooler,)
        build_each((None, None, c.transform_dim), self.transform_norm)
        if c.head in OF_FIRST:
            of_first = (self.pooler, self.classifier)
        else:
            of_all = (*of_all, self.classifier)
        build_each((None, None), self.embedding, self.token_types, self.positions, self.attention_positions)
        build_each((None, None, c.token_dim), self.embedding_norm, self.embedding_projection)
        build_each((None, None, c.hidden_dim), self.dropout, *self.blocks, *of_all)
        build_each((None, None, c.token_dim), self.lm_head)
        build_each((None, c.hidden_dim), *of_first)
        build_each((None, pooled_width(c)), self.projection)
        self.output_bias = None
        if c.head == "masked_lm" and c.use_logits_bias:
            self.output_bias = self.add_weight(name="output_bias", shape=(c.vocab_size,), initializer="zeros")

    def call(
        self,
        inputs: Any,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        training: bool | None = None,
    ) -> Any:
        c, named = self.config, self.named_inputs(inputs)
        choices = ops.shape(named["input_ids"])[1]
        if c.head == "multiple_choice":
            named = {name: ops.reshape(value, (-1, ops.shape(value)[2])) for name, value in named.items()}
        ids, mask = named["input_ids"], named.get("attention_mask")
        intermediates = Intermediates(output_hidden_states, output_attentions)
        x = self.embedding(ids)  # (B, T, token_dim)
        if self.token_types is not None:
            x = x + self._token_types(self.token_types, named.get("token_type_ids"))
        same, places = None, named.get("position_ids")
        if (segments := named.get("segment_ids")) is not None:
            same = same_document(segments, kept_tokens(segments, mask))
            places = positions_in_documents(self._counted(ids, segments)) if places is None else places
        x = x + self._positions(ids, places, x.dtype)
        x = x if self.embedding_norm is None else self.embedding_norm(x)
        x = self.dropout(x, training=training)
        x = x if self.embedding_projection is None else self.embedding_projection(x)  # (B, T, D), as in the following
        blocks, of_blocks = [self.blocks[i] for i in c.schedule], self.of_blocks(ids, mask, places, same)
        x = self.run_blocks(blocks, x, intermediates, of_blocks=of_blocks, training=training)
        x = x if self.final_norm is None else self.final_norm(x)
        if c.head == "sentence_embedding":
            embedding = sentence_embedding(c, x, mask, named.get("pooling_mask"), self.projection)
            return self.finish({"sentence_embedding": embedding}, intermediates.named())
        result = self._head(x, mask, training)
        if c.head == "multiple_choice":
            result = ops.reshape(result, (-1, choices))  # from (B · choices, 1)
        return self.finish(result, intermediates.named())

    def _token_types(self, table: TokenEmbedding, token_type_ids: Tensor | None) -> Tensor:
        if token_type_ids is not None:
            return table(token_type_ids)  # (B, T, D)
        # The default token type is 0 for all tokens, so the first row of the table is added to each of them.
        return ops.cast(ops.convert_to_tensor(table.embeddings)[:1], self.compute_dtype)  # (1, D)

    def _positions(self, ids: Tensor, position_ids: Tensor | None, dtype: Any) -> Tensor | float:
        """Return the position embeddings, (batch or 1, sequence, token_dim), or 0 if none are added."""
        offset = self.config.position_offset
        if self.positions is None:
            return 0.0
        if position_ids is None and not offset and self.config.added_position == "learned":
            return ops.cast(self.positions.first(ops.shape(ids)[1]), dtype)
        if position_ids is None and offset:
            # As in transformers, the attention mask has no effect on these positions.
            kept = ops.cast(ops.not_equal(ids, self.config.pad_token_id), "int32")  # (B, T)
            position_ids = ops.cumsum(kept, axis=-1) * kept - 1  # (B, T); -1 for padding: the row before the first
        elif position_ids is None:
            position_ids = ops.expand_dims(ops.arange(ops.shape(ids)[1]), 0)  # (1, T)
        return self.positions(position_ids + offset)

    def _counted(self, ids: Tensor, segment_ids: Tensor) -> Tensor:
        """Return ``same_document`` with the keys that positions count: all, or with an offset those without padding."""
        kept = ops.ones_like(segment_ids, dtype="bool")
        if self.config.position_offset and self.positions is not None:
            kept = ops.not_equal(ids, self.config.pad_token_id)
        return same_document(segment_ids, kept)

    def of_blocks(
        self,
        ids: Tensor,
        mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        same: Tensor | None = None,
    ) -> list[dict[str, Any]]:
        """Return the masks and positions for each step of the encoder, for `ids` (batch, sequence).

        Positions number the columns, or are `position_ids` (batch, sequence), except for "disentangled" ones. `same` is
        what ``same_document`` returns for rows of several documents.
        """
        c, columns = self.config, ops.expand_dims(ops.arange(ops.shape(ids)[1]), 0)  # (1, T)
        if c.disentangled:
            relative = {"relative": self.attention_positions(ids)}
            return [{"key_mask": mask, "attention_mask": same, **relative}] * len(c.schedule)
        places = columns if position_ids is None else position_ids
        everywhere = {
            "key_mask": mask,
            "attention_mask": same,
            **encode_positions(self.attention_positions, places, places).in_attention,
        }
        if c.sliding_window is None:
            return [everywhere] * len(c.schedule)
        near = ops.abs(ops.expand_dims(columns, 1) - ops.expand_dims(columns, 2)) <= c.sliding_window // 2  # (1, T, T)
        if mask is not None:
            near = ops.logical_and(near, ops.expand_dims(F.boolean_mask(mask, "attention_mask"), 1))  # (B, T, T)
        near = near if same is None else ops.logical_and(near, same)
        nearby = {**everywhere, "key_mask": None, "attention_mask": near}
        if self.sliding_positions is not None:
            nearby["rotary"] = self.sliding_positions(places)
        kinds = c.layer_types or (SLIDING,) * c.num_layers
        return [nearby if kind == SLIDING else everywhere for kind in kinds]

    def _head(self, x: Tensor, mask: Tensor | None, training: bool | None) -> Any:
        c = self.config
        if c.head == "replaced_tokens":
            x = ACTIVATIONS[c.inner_activation](self.transform(x))
            return ops.cast(ops.squeeze(self.classifier(x), -1), "float32")  # (B, T)
        if c.head in OF_FIRST and self.pooler is None:
            x = self._pooled(x, mask)  # (B, D)
        if c.transformed:
            x = self.transform_norm(ACTIVATIONS[c.transform_activation](self.transform(x)))  # (…, transform_dim)
        if c.head == "masked_lm":
            return self._vocabulary_logits(x)
        if self.span is not None:
            start, end = ops.split(ops.cast(self.span(x), "float32"), 2, axis=-1)  # (B, T, 1) each
            return {"start_logits": ops.squeeze(start, -1), "end_logits": ops.squeeze(end, -1)}
        pooled = None
        if self.pooler is not None:
            activation = c.pooler_activation if self.classifier is None else c.classifier_activation
            pooled = ACTIVATIONS[activation](self.pooler(x[:, 0]))  # (B, D)
        if self.classifier is not None:
            x = self.dropout(x if pooled is None else pooled, training=training)
            logits = ops.cast(self.classifier(x), "float32")  # (B, T, classes) or (B, classes)
            return scored(c, logits) if c.head == "sequence_classification" else logits
        result = {"last_hidden_state": ops.cast(x, "float32")}
        return result if pooled is None else {**result, "pooler_output": ops.cast(pooled, "float32")}

    def _vocabulary_logits(self, x: Tensor) -> Tensor:
        """Return the logits (B, T, V) of ``head="masked_lm"``, or their statistics where a loss wants those."""
        if wanted_statistics() is not None:
            return logit_statistics_of(x, self._output_projection())
        if self.lm_head is None:
            return self.embedding.project(x, self.output_bias)
        logits = ops.cast(self.lm_head(x), "float32")
        return logits if self.output_bias is None else logits + ops.cast(self.output_bias, "float32")

    @property
    def projects_vocabulary(self) -> bool:
        return self.config.head == "masked_lm"

    def _output_projection(self) -> Projection:
        """Return the output projection of ``head="masked_lm"``."""
        table = self.embedding.embeddings if self.lm_head is None else self.lm_head.kernel
        bias = None if self.output_bias is None else ops.convert_to_tensor(self.output_bias)
        return Projection(ops.convert_to_tensor(table), tied=self.lm_head is None, bias=bias)

    def _pooled(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return the first of the hidden states `x` (B, T, D), or the mean of those that `mask` keeps: (B, D)."""
        if self.config.classifier_pooling == "first" and (mask is None or self.config.head != "multiple_choice"):
            return x[:, 0]
        if self.config.classifier_pooling == "first":  # of the tokens that the mask keeps, as in transformers
            mask = ops.cast(ops.equal(ops.cumsum(ops.cast(mask, "int32"), axis=1), 1), "int32") * mask
        kept = ops.ones_like(x[..., :1]) if mask is None else ops.expand_dims(ops.cast(mask, x.dtype), -1)  # (B, T, 1)
        return ops.sum(x * kept, axis=1) / ops.maximum(ops.sum(kept, axis=1), 1.0)

    @property
    def signature(self) -> Signature:
        c = self.config
        several = c.head == "multiple_choice"
        ids = ("batch", "choices", "sequence") if several else ("batch", "sequence")
        pooled = (TensorSpec("pooler_output", "float32", ("batch", c.hidden_dim)),)
        outputs = {
            None: (
                TensorSpec("last_hidden_state", "float32", (*ids, c.hidden_dim)),
                *(pooled if c.pooler else ()),
            ),
            "masked_lm": (TensorSpec("logits", "float32", (*ids, c.vocab_size)),),
            "sequence_classification": scored_outputs(c),
            "token_classification": (TensorSpec("logits", "float32", (*ids, c.num_classes)),),
            "question_answering": tuple(TensorSpec(f"{end}_logits", "float32", ids) for end in ("start", "end")),
            "multiple_choice": (TensorSpec("logits", "float32", ids[:2]),),
            "next_sentence": (TensorSpec("logits", "float32", ("batch", 2)),),
            "replaced_tokens": (TensorSpec("logits", "float32", ids),),
            "sentence_embedding": sentence_outputs(c),
        }
        places = (TensorSpec("position_ids", "int32", ids, below=c.max_length, optional=True),)
        types = (TensorSpec("token_type_ids", "int32", ids, below=c.type_vocab_size, optional=True),)
        segments = (TensorSpec("segment_ids", "int32", ids, below=INT32, optional=True),)
        return Signature(
            inputs=(
                TensorSpec("input_ids", "int32", ids, below=c.vocab_size),
                TensorSpec("attention_mask", "int32", ids, below=2, optional=True, fill=1),
                *(types if c.type_vocab_size else ()),
                *sentence_inputs(c),
                *(() if several or c.position == "disentangled" else places),
                *(segments if c.head in OF_TOKENS else ()),
            ),
            outputs=outputs[c.head],
            limits={"sequence": c.max_length},
            defaults={"sequence": min(128, c.max_length), **({"choices": 2} if several else {})},
        )

    @classmethod
    def tiny(cls) -> dict[str, dict[str, Any]]:
        small = {
            "vocab_size": 89,
            "num_layers": 2,
            "num_heads": 4,
            "hidden_dim": 32,
            "intermediate_dim": 52,
            "max_length": 40,
            "num_classes": 5,
        }
        heads = {head or "backbone": {**small, "head": head} for head in HEADS if head != "multiple_choice"}
        roberta = {"position_offset": 2, "pad_token_id": 1, "type_vocab_size": 1}
        distilled = {"type_vocab_size": 0, "pooler_activation": "relu"}
        deberta = {"position": "disentangled", "type_vocab_size": 0, "num_buckets": 16, "max_distance": 0}
        sentence = {"head": "sentence_embedding", "normalize": True}
        dense = [{"units": 24, "activation": "tanh", "residual": True}, {"units": 12, "use_bias": False}]
        several = {"pooling": ("max", "mean_sqrt_length"), "projections": dense}
        return {
            **heads,
            "megatron": {**small, "norm_first": True, "embedding_norm": False, "head": None},
            "albert": {**small, "token_dim": 12, "num_layers": 3, "num_layer_groups": 2, "head": "masked_lm"},
            "mpnet": {**small, **roberta, "type_vocab_size": 0, "position": ("learned", "relative"), "pooler": False},
            "nomic": {**small, "position": "rotary", "activation": "swiglu", "use_bias": False, "head_dim": 6},
            "deberta": {**small, **deberta, "position": ("learned", "disentangled"), "use_key_bias": False},
            "deberta_v3": {
                **small,
                **deberta,
                "max_distance": 24,
                "share_position_projections": True,
                "norm_positions": True,
            },
            "modernbert": {
                **{**small, "num_layers": 3, "norm_first": True, "first_norm": False, "position": "rotary"},
                **{
                    "norm": "layer_norm_without_bias",
                    "use_bias": False,
                    "activation": "geglu_erf",
                    "type_vocab_size": 0,
                },
                **{"sliding_window": 4, "sliding_rope_theta": 500.0, "use_transform_bias": False},
                **{"head": "sequence_classification", "classifier_transform": True, "classifier_pooling": "mean"},
                "layer_types": ("full_attention", "sliding_attention", "sliding_attention"),
            },
            "tanh": {**small, "activation": "gelu_tanh", "type_vocab_size": 3},
            "roberta": {**small, **roberta, "head": "masked_lm"},
            "distilbert": {**small, **distilled, "pooler": False},
            "untied": {**small, "head": "masked_lm", "tie_embeddings": False},
            "distilbert_classifier": {**small, **distilled, "head": "sequence_classification"},
            "sentence_max": {**small, **sentence, "pooling": "max"},
            "sentence_first": {**small, **sentence, "pooling": "first"},
            "sentence_several": {**small, **several, "head": "sentence_embedding", "truncate_dim": 9},
            "sentence_prompt": {**small, **sentence, "pool_prompt": False},
            "cross_encoder": {**small, "head": "sequence_classification", "score_activation": "sigmoid"},
        }
