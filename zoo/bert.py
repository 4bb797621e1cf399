"""BERT: the bidirectional encoder, with its heads.

Devlin et al. 2018 (arXiv:1810.04805): learned positions and token types summed, normalised, post-norm blocks, GELU by
erf, LayerNorm epsilon 1e-12. The heads are Hugging Face's ``BertFor…``; the sentence embedding is the masked mean of
Reimers & Gurevych 2019 (arXiv:1908.10084).

    input_ids, attention_mask (1 = keep), token_type_ids: (batch, sequence)
    head None                       last_hidden_state (batch, sequence, hidden_dim), pooler_output (batch, hidden_dim)
         "masked_lm"                logits (batch, sequence, vocab_size)
         "sequence_classification"  logits (batch, num_classes)
         "token_classification"     logits (batch, sequence, num_classes)
         "sentence_embedding"       sentence_embedding (batch, hidden_dim)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import keras
from keras import ops

from ..layers.blocks import TransformerBlock
from ..layers.core import Dense, LayerNormalization
from ..layers.embedding import TokenEmbedding
from ..layers.feedforward import ACTIVATIONS
from ..layers.position import LearnedPositions
from .base import Config, Tensor, ZooModel
from .registry import register
from .signature import Signature, TensorSpec

HEADS = (None, "masked_lm", "sequence_classification", "token_classification", "sentence_embedding")


@dataclass(frozen=True)
class BERTConfig(Config):
    """Defaults are bert-base-uncased. `num_classes` is for the two classification heads. Else as ``GPTConfig``."""

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
    head: str | None = None
    num_classes: int = 2

    def __post_init__(self) -> None:
        self._positive("hidden_dim")
        self._default("intermediate_dim", 4 * self.hidden_dim)
        sizes = ("vocab_size", "num_layers", "num_heads", "hidden_dim", "intermediate_dim", "max_length")
        self._positive(*sizes, "type_vocab_size", "num_classes")
        self._divides("num_heads", "hidden_dim")
        self._choice("activation", tuple(ACTIVATIONS))
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

        def norm(name: str) -> LayerNormalization:
            return LayerNormalization(epsilon=c.norm_epsilon, name=name, **shared)

        def dense(name: str, units: int) -> Dense:
            return Dense(units, kernel_initializer=initializer.clone(), name=name, **shared)

        self.embedding = TokenEmbedding(
            c.vocab_size, c.hidden_dim, embeddings_initializer=initializer.clone(), name="embedding", **shared
        )
        self.token_types = TokenEmbedding(
            c.type_vocab_size, c.hidden_dim, embeddings_initializer=initializer.clone(), name="token_types", **shared
        )
        self.positions = LearnedPositions(
            c.max_length, c.hidden_dim, embeddings_initializer=initializer.clone(), name="positions", **shared
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
        self.pooler = dense("pooler", c.hidden_dim) if c.head in (None, "sequence_classification") else None
        self.transform = self.transform_norm = self.classifier = None
        if c.head == "masked_lm":
            self.transform = dense("transform", c.hidden_dim)
            self.transform_norm = norm("transform_norm")
        elif c.head in ("sequence_classification", "token_classification"):
            self.classifier = dense("classifier", c.num_classes)

    def build(self, input_shape: Any = None) -> None:
        states = (None, None, self.config.hidden_dim)
        for layer in (self.embedding, self.token_types, self.positions):
            layer.build((None, None))
        for layer in (self.embedding_norm, *self.blocks, self.pooler, self.transform, self.transform_norm):
            if layer is not None:
                layer.build(states)
        if self.classifier is not None:
            self.classifier.build(states)
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
        types = named.get("token_type_ids")
        # Without token types all are 0, and the first row of the table serves everybody.
        x = x + (self.token_types(types) if types is not None else self._first_type())
        position_ids = named.get("position_ids")
        x = x + (
            self.positions(position_ids)
            if position_ids is not None
            else ops.cast(self.positions.first(ops.shape(x)[1]), x.dtype)
        )
        x = self.dropout(self.embedding_norm(x), training=training)

        x, intermediates = self.run_blocks(x, output_hidden_states, output_attentions, key_mask=mask, training=training)
        return self.finish(self._head(x, mask, training), intermediates)

    def _first_type(self) -> Tensor:
        return ops.cast(ops.convert_to_tensor(self.token_types.embeddings)[:1], self.compute_dtype)  # (1, D)

    def _head(self, x: Tensor, mask: Tensor | None, training: bool | None) -> Any:
        head = self.config.head
        if head == "masked_lm":
            assert self.transform is not None and self.transform_norm is not None
            x = ACTIVATIONS[self.config.activation](self.transform(x))
            return self.embedding.project(self.transform_norm(x), self.output_bias)  # (B, T, V)
        if head == "token_classification":
            assert self.classifier is not None
            return ops.cast(self.classifier(self.dropout(x, training=training)), "float32")  # (B, T, classes)
        if head == "sentence_embedding":
            return {"sentence_embedding": masked_mean(ops.cast(x, "float32"), mask)}  # (B, D)
        assert self.pooler is not None
        pooled = ops.tanh(self.pooler(x[:, 0]))  # (B, D)
        if head == "sequence_classification":
            assert self.classifier is not None
            return ops.cast(self.classifier(self.dropout(pooled, training=training)), "float32")  # (B, classes)
        return {"last_hidden_state": ops.cast(x, "float32"), "pooler_output": ops.cast(pooled, "float32")}

    def export_spec(self) -> Signature:
        c = self.config
        ids = ("batch", "sequence")
        outputs = {
            None: (
                TensorSpec("last_hidden_state", "float32", (*ids, c.hidden_dim)),
                TensorSpec("pooler_output", "float32", ("batch", c.hidden_dim)),
            ),
            "masked_lm": (TensorSpec("logits", "float32", (*ids, c.vocab_size)),),
            "sequence_classification": (TensorSpec("logits", "float32", ("batch", c.num_classes)),),
            "token_classification": (TensorSpec("logits", "float32", (*ids, c.num_classes)),),
            "sentence_embedding": (TensorSpec("sentence_embedding", "float32", ("batch", c.hidden_dim)),),
        }
        return Signature(
            inputs=(
                TensorSpec("input_ids", "int32", ids, below=c.vocab_size),
                TensorSpec("attention_mask", "int32", ids, below=2, optional=True, fill=1),
                TensorSpec("token_type_ids", "int32", ids, below=c.type_vocab_size, optional=True),
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
        return {**heads, "tanh": {**small, "activation": "gelu_tanh", "type_vocab_size": 3}}


def masked_mean(states: Tensor, mask: Tensor | None) -> Tensor:
    """(batch, sequence, D) to (batch, D): the mean over positions where `mask` is 1; zeros where none is."""
    if mask is None:
        return ops.mean(states, axis=1)
    weights = ops.expand_dims(ops.cast(mask, states.dtype), -1)  # (B, T, 1)
    return ops.sum(states * weights, axis=1) / ops.maximum(ops.sum(weights, axis=1), 1.0)
