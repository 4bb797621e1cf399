"""BERT: the bidirectional encoder, with its heads.

Devlin et al. 2018 (arXiv:1810.04805): learned positions and token types summed, normalised, post-norm blocks, GELU by
erf, LayerNorm epsilon 1e-12. The heads are Hugging Face's ``BertFor…``; the sentence embedding is the masked mean of
Reimers & Gurevych 2019 (arXiv:1908.10084). Options turn it into its descendants:

    RoBERTa (arXiv:1907.11692)     position_offset=2, pad_token_id=1, type_vocab_size=1, norm_epsilon=1e-5
    DistilBERT (arXiv:1910.01108)  type_vocab_size=0, pooler_activation="relu", and no pooler without a head

    input_ids, attention_mask (1 = keep), token_type_ids: (batch, sequence)
    head None                       last_hidden_state (batch, sequence, hidden_dim), and with a pooler
                                    pooler_output (batch, hidden_dim)
         "masked_lm"                logits (batch, sequence, vocab_size)
         "sequence_classification"  logits (batch, num_classes)
         "token_classification"     logits (batch, sequence, num_classes)
         "question_answering"       start_logits, end_logits (batch, sequence)
         "sentence_embedding"       sentence_embedding (batch, hidden_dim)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import keras
from keras import ops

from ...layers.blocks import TransformerBlock
from ...layers.core import Dense, LayerNormalization
from ...layers.embedding import TokenEmbedding
from ...layers.feedforward import ACTIVATIONS
from ...layers.position import LearnedPositions
from ...signature import Signature, TensorSpec
from ..base import Config, Tensor, ZooModel
from ..registry import register

HEADS = (
    None,
    "masked_lm",
    "sequence_classification",
    "token_classification",
    "question_answering",
    "sentence_embedding",
)
POOLINGS = ("mean", "first", "max")
POOLERS: dict[str, Callable[[Tensor], Tensor]] = {"tanh": ops.tanh, "relu": ops.relu}


@dataclass(frozen=True)
class BERTConfig(Config):
    """Defaults are bert-base-uncased. Else as ``GPTConfig``.

    Attributes:
        type_vocab_size: token types; 0 for a model without them.
        position_offset: 0: the i-th column is position i. Else, as in RoBERTa, the i-th token that is not
            `pad_token_id` has row `position_offset` + i of the table, and padding the row before those. In a call,
            `position_ids` count from 0 all the same.
        pad_token_id: needed with a `position_offset`.
        transform_activation, transform_norm_epsilon: of the masked LM's transform; by default as the body's.
        pooler: the dense layer on the first token, where there is no head.
        pooler_activation: "tanh", or "relu" for DistilBERT's.
        num_classes: of the two classification heads.
        pooling, normalize: of the sentence embedding: "mean" of the tokens, the "first" token or their "max", and
            then perhaps divided by its length.
    """

    vocab_size: int = 30522
    num_layers: int = 12
    num_heads: int = 12
    hidden_dim: int = 768
    intermediate_dim: int | None = None
    max_length: int = 512
    type_vocab_size: int = 2
    norm_epsilon: float = 1e-12
    activation: str = "gelu"
    dropout: float = 0.1
    attention_dropout: float = 0.1
    initializer_range: float = 0.02
    position_offset: int = 0
    pad_token_id: int | None = None
    transform_activation: str | None = None
    transform_norm_epsilon: float | None = None
    pooler: bool = True
    pooler_activation: str = "tanh"
    head: str | None = None
    num_classes: int = 2
    pooling: str = "mean"
    normalize: bool = False

    def __post_init__(self) -> None:
        self._positive("hidden_dim")
        self._default("intermediate_dim", 4 * self.hidden_dim)
        sizes = ("vocab_size", "num_layers", "num_heads", "hidden_dim", "intermediate_dim", "max_length")
        self._positive(*sizes, "num_classes")
        self._divides("num_heads", "hidden_dim")
        for name in ("type_vocab_size", "position_offset"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ValueError(f"{name}: got {value!r}; accepted: an integer of at least 0")
        self._tokens("pad_token_id", required=self.position_offset > 0)
        self._choice("pooler_activation", tuple(POOLERS))
        self._choice("pooling", POOLINGS)
        self._choice("activation", tuple(ACTIVATIONS))
        self._default("transform_activation", self.activation)
        self._default("transform_norm_epsilon", self.norm_epsilon)
        self._choice("transform_activation", tuple(ACTIVATIONS))
        self._choice("head", HEADS)
        self._rates("dropout", "attention_dropout")


@register
class BERT(ZooModel):
    """``BERT(num_layers=4)``, ``BERT(config)`` or ``az.create("bert-base", head="masked_lm")``. See the module."""

    family: ClassVar[str] = "bert"
    config_class: ClassVar[type[Config]] = BERTConfig

    def build_layers(self) -> None:
        c = self.config
        shared: dict[str, Any] = {"dtype": self.dtype_policy}
        initializer = keras.initializers.TruncatedNormal(stddev=c.initializer_range)

        def norm(name: str, epsilon: float = c.norm_epsilon) -> LayerNormalization:
            return LayerNormalization(epsilon=epsilon, name=name, **shared)

        def dense(name: str, units: int) -> Dense:
            return Dense(units, kernel_initializer=initializer.clone(), name=name, **shared)

        self.embedding = TokenEmbedding(
            c.vocab_size, c.hidden_dim, embeddings_initializer=initializer.clone(), name="embedding", **shared
        )
        self.token_types = None
        if c.type_vocab_size:
            types = {"embeddings_initializer": initializer.clone(), "name": "token_types", **shared}
            self.token_types = TokenEmbedding(c.type_vocab_size, c.hidden_dim, **types)
        rows = c.position_offset + c.max_length
        self.positions = LearnedPositions(
            rows, c.hidden_dim, embeddings_initializer=initializer.clone(), name="positions", **shared
        )
        self.embedding_norm = norm("embedding_norm")
        self.dropout = keras.layers.Dropout(c.dropout, name="dropout", **shared)
        self.blocks = [
            TransformerBlock(
                c.num_heads,
                c.intermediate_dim,
                activation=c.activation,
                norm_epsilon=c.norm_epsilon,
                norm_first=False,
                dropout=c.dropout,
                attention_dropout=c.attention_dropout,
                kernel_initializer=initializer,
                name=f"block_{i}",
                **shared,
            )
            for i in range(c.num_layers)
        ]
        # Only the heads that read the first token have the pooler, as in the published checkpoints.
        pooled = c.head == "sequence_classification" or (c.head is None and c.pooler)
        self.pooler = dense("pooler", c.hidden_dim) if pooled else None
        self.transform = self.transform_norm = self.classifier = self.span = None
        if c.head == "masked_lm":
            self.transform = dense("transform", c.hidden_dim)
            self.transform_norm = norm("transform_norm", c.transform_norm_epsilon)
        elif c.head in ("sequence_classification", "token_classification"):
            self.classifier = dense("classifier", c.num_classes)
        elif c.head == "question_answering":
            self.span = dense("span", 2)

    def build(self, input_shape: Any = None) -> None:
        states = (None, None, self.config.hidden_dim)
        for layer in (self.embedding, self.token_types, self.positions):
            if layer is not None:
                layer.build((None, None))
        heads = (self.pooler, self.transform, self.transform_norm, self.classifier, self.span)
        for layer in (self.embedding_norm, *self.blocks, *heads):
            if layer is not None:
                layer.build(states)
        self.output_bias = None
        if self.config.head == "masked_lm":
            self.output_bias = self.add_weight(name="output_bias", shape=(self.config.vocab_size,), initializer="zeros")

    def call(
        self,
        inputs: Any,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        training: bool | None = None,
    ) -> Any:
        named = self.named_inputs(inputs)
        mask = named.get("attention_mask")
        x = self.embedding(named["input_ids"])  # (B, T, D)
        if self.token_types is not None:
            types = named.get("token_type_ids")
            # Without token types all are 0, and the first row of the table serves everybody.
            x = x + (self.token_types(types) if types is not None else self._first_type(self.token_types))
        x = x + self._positions(named["input_ids"], mask, named.get("position_ids"), x.dtype)
        x = self.dropout(self.embedding_norm(x), training=training)

        x, intermediates = self.run_blocks(x, output_hidden_states, output_attentions, key_mask=mask, training=training)
        return self.finish(self._head(x, mask, training), intermediates)

    def _first_type(self, table: TokenEmbedding) -> Tensor:
        return ops.cast(ops.convert_to_tensor(table.embeddings)[:1], self.compute_dtype)  # (1, D)

    def _positions(self, ids: Tensor, mask: Tensor | None, position_ids: Tensor | None, dtype: Any) -> Tensor:
        """(batch or 1, sequence, hidden_dim)."""
        offset = self.config.position_offset
        if position_ids is None and not offset:
            return ops.cast(self.positions.first(ops.shape(ids)[1]), dtype)
        if position_ids is None:
            kept = ops.cast(ops.not_equal(ids, self.config.pad_token_id), "int32")  # (B, T)
            kept = kept if mask is None else kept * ops.cast(mask, "int32")  # whatever ids the padding has
            position_ids = ops.cumsum(kept, axis=-1) * kept - 1  # padding: -1, for the row before the first
        return self.positions(position_ids + offset)

    def _head(self, x: Tensor, mask: Tensor | None, training: bool | None) -> Any:
        if self.config.head == "sentence_embedding":
            return {"sentence_embedding": self._sentence(ops.cast(x, "float32"), mask)}
        if self.transform is not None and self.transform_norm is not None:
            x = ACTIVATIONS[self.config.transform_activation](self.transform(x))
            return self.embedding.project(self.transform_norm(x), self.output_bias)  # (B, T, V)
        if self.span is not None:
            start, end = ops.split(ops.cast(self.span(x), "float32"), 2, axis=-1)  # (B, T, 1) each
            return {"start_logits": ops.squeeze(start, -1), "end_logits": ops.squeeze(end, -1)}
        pooled = None
        if self.pooler is not None:
            pooled = POOLERS[self.config.pooler_activation](self.pooler(x[:, 0]))  # (B, D)
        if self.classifier is not None:
            x = self.dropout(x if pooled is None else pooled, training=training)
            return ops.cast(self.classifier(x), "float32")  # (B, T, classes) or (B, classes)
        result = {"last_hidden_state": ops.cast(x, "float32")}
        return result if pooled is None else {**result, "pooler_output": ops.cast(pooled, "float32")}

    def _sentence(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(batch, sequence, hidden_dim) to (batch, hidden_dim)."""
        mask = ops.ones_like(x[..., 0], dtype="int32") if mask is None else ops.cast(mask, "int32")  # (B, T)
        if self.config.pooling == "first":
            first = ops.cast(ops.cumsum(mask, axis=1) == 1, "int32") * mask  # 1 at the first token that is kept
            pooled = ops.sum(x * ops.expand_dims(ops.cast(first, x.dtype), -1), axis=1)
        elif self.config.pooling == "max":
            pooled = ops.max(ops.where(ops.expand_dims(ops.cast(mask, "bool"), -1), x, -1e9), axis=1)
        else:
            pooled = masked_mean(x, mask)
        if not self.config.normalize:
            return pooled
        length = ops.sqrt(ops.sum(ops.square(pooled), axis=-1, keepdims=True))  # (B, 1)
        return pooled / ops.maximum(length, 1e-12)

    @property
    def signature(self) -> Signature:
        c = self.config
        ids = ("batch", "sequence")
        pooled = (TensorSpec("pooler_output", "float32", ("batch", c.hidden_dim)),)
        outputs = {
            None: (
                TensorSpec("last_hidden_state", "float32", (*ids, c.hidden_dim)),
                *(pooled if c.pooler else ()),
            ),
            "masked_lm": (TensorSpec("logits", "float32", (*ids, c.vocab_size)),),
            "sequence_classification": (TensorSpec("logits", "float32", ("batch", c.num_classes)),),
            "token_classification": (TensorSpec("logits", "float32", (*ids, c.num_classes)),),
            "question_answering": tuple(TensorSpec(f"{end}_logits", "float32", ids) for end in ("start", "end")),
            "sentence_embedding": (TensorSpec("sentence_embedding", "float32", ("batch", c.hidden_dim)),),
        }
        types = (TensorSpec("token_type_ids", "int32", ids, below=c.type_vocab_size, optional=True),)
        return Signature(
            inputs=(
                TensorSpec("input_ids", "int32", ids, below=c.vocab_size),
                TensorSpec("attention_mask", "int32", ids, below=2, optional=True, fill=1),
                *(types if c.type_vocab_size else ()),
                TensorSpec("position_ids", "int32", ids, below=c.max_length, optional=True),
            ),
            outputs=outputs[c.head],
            limits={"sequence": c.max_length},
            defaults={"sequence": min(128, c.max_length)},
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
        heads = {head or "backbone": {**small, "head": head} for head in HEADS}
        roberta = {"position_offset": 2, "pad_token_id": 1, "type_vocab_size": 1}
        distilled = {"type_vocab_size": 0, "pooler_activation": "relu"}
        sentence = {"head": "sentence_embedding", "normalize": True}
        return {
            **heads,
            "tanh": {**small, "activation": "gelu_tanh", "type_vocab_size": 3},
            "roberta": {**small, **roberta, "head": "masked_lm"},
            "distilbert": {**small, **distilled, "pooler": False},
            "distilbert_classifier": {**small, **distilled, "head": "sequence_classification"},
            "sentence_max": {**small, **sentence, "pooling": "max"},
            "sentence_first": {**small, **sentence, "pooling": "first"},
        }


def masked_mean(states: Tensor, mask: Tensor | None) -> Tensor:
    """(batch, sequence, D) to (batch, D): the mean over positions where `mask` is 1; zeros where none is."""
    if mask is None:
        return ops.mean(states, axis=1)
    weights = ops.expand_dims(ops.cast(mask, states.dtype), -1)  # (B, T, 1)
    return ops.sum(states * weights, axis=1) / ops.maximum(ops.sum(weights, axis=1), 1.0)
