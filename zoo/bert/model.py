"""BERT: the bidirectional Transformer encoder, with its heads.

The model is that of Devlin et al. 2018 (arXiv:1810.04805): token, position and token type embeddings are added and
normalized, each block normalizes after its residual connections, and GELU is the exact one, with erf. The LayerNorm
epsilon is 1e-12. Unlike the paper, the heads are those of Hugging Face's ``BertFor…`` classes. The sentence embedding
is the masked mean of Reimers & Gurevych 2019 (arXiv:1908.10084). Other models differ in config fields:

    RoBERTa (arXiv:1907.11692)     position_offset=2, pad_token_id=1, type_vocab_size=1, norm_epsilon=1e-5
    DistilBERT (arXiv:1910.01108)  type_vocab_size=0, pooler_activation="relu", and no pooler without a head

Inputs and outputs:

    input_ids, attention_mask (1 = keep), token_type_ids: (batch, sequence)
    head None                       last_hidden_state (batch, sequence, hidden_dim), and with a pooler
                                    pooler_output (batch, hidden_dim)
         "masked_lm"                logits (batch, sequence, vocab_size)
         "sequence_classification"  logits (batch, num_classes), and with `score_activation` the
                                    scores (batch, num_classes)
         "token_classification"     logits (batch, sequence, num_classes)
         "question_answering"       start_logits, end_logits (batch, sequence)
         "sentence_embedding"       sentence_embedding (batch, embedding_dim), and an input pooling_mask
                                    (batch, sequence) with ``pool_prompt=False``; see ``zoo/sentences.py``
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
from ..base import Intermediates, Tensor, ZooModel, build_each
from ..config import Config, choice, flag, number, rate, size, token
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

HEADS = (
    None,
    "masked_lm",
    "sequence_classification",
    "token_classification",
    "question_answering",
    "sentence_embedding",
)
POOLERS: dict[str, Callable[[Tensor], Tensor]] = {"tanh": ops.tanh, "relu": ops.relu}


@dataclass(frozen=True)
class BERTConfig(SentenceConfig):
    """Config of ``BERT``. The defaults are those of bert-base-uncased. ``GPTConfig`` documents the other fields.

    Attributes:
        type_vocab_size: number of token types; 0 for a model without them.
        position_offset: 0: the token in column i has position i. Otherwise, as in RoBERTa, the i-th token that is not
            `pad_token_id` has row `position_offset` + i of the position table, and padding has the row before those.
            `position_ids` in a call start at 0 in both cases.
        pad_token_id: the token used for padding; required if `position_offset` is not 0.
        transform_activation, transform_norm_epsilon: activation and normalization epsilon of the masked LM head's
            transform. Default: those of the body.
        pooler: whether a model without a head has the dense layer on the first token.
        pooler_activation: "tanh", or "relu" as in DistilBERT.
        head: one of ``HEADS``; see the module docstring.
        tie_embeddings: whether the embedding table is also the masked LM head's output projection.
        num_classes: number of classes of the two classification heads.
        score_activation: function of the logits of ``head="sequence_classification"`` that gives the scores of a
            cross-encoder, one of ``FUNCTIONS``; the output is then a dict of `logits` and `scores`. None for no scores.
    """

    vocab_size: int = size(30522)
    num_layers: int = size(12)
    num_heads: int = size(12)
    hidden_dim: int = size(768)
    intermediate_dim: int | None = size(None, derived=lambda c: 4 * c.hidden_dim)
    max_length: int = size(512)
    type_vocab_size: int = size(2, least=0)
    norm_epsilon: float = 1e-12
    activation: str = choice("gelu", ACTIVATIONS)
    dropout: float = rate(0.1)
    attention_dropout: float = rate(0.1)
    initializer_range: float = number(0.02, training=True)
    position_offset: int = size(0, least=0)
    pad_token_id: int | None = token(None, used=lambda c: c.position_offset > 0)
    transform_activation: str | None = choice(None, ACTIVATIONS, derived=lambda c: c.activation, heads=("masked_lm",))
    transform_norm_epsilon: float | None = number(None, derived=lambda c: c.norm_epsilon, heads=("masked_lm",))
    pooler: bool = flag(True, heads=(None,))
    pooler_activation: str = choice("tanh", POOLERS, used=lambda c: c.pooled)
    head: str | None = choice(None, HEADS)
    tie_embeddings: bool = flag(True, heads=("masked_lm",))
    num_classes: int = size(2, heads=("sequence_classification", "token_classification"))
    score_activation: str | None = choice(None, FUNCTIONS, heads=("sequence_classification",))

    def check(self) -> None:
        self.quotient("hidden_dim", "num_heads")
        if self.position_offset and self.pad_token_id is None:
            raise ValueError(f"pad_token_id: got None; accepted: a token from 0 to {self.vocab_size - 1}")

    @property
    def pooled(self) -> bool:
        """Whether the model has a pooler. As in the published checkpoints, only heads on the first token have one."""
        return self.head == "sequence_classification" or (self.head is None and self.pooler)

    def least_parameters(self) -> int:
        rows = self.vocab_size + self.type_vocab_size + self.position_offset + self.max_length
        rows += self.num_classes if "num_classes" not in self.unused_fields() else 0
        return self.hidden_dim * (rows + self.num_layers * (self.hidden_dim + (self.intermediate_dim or 0)))


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
            TransformerBlock.from_fields(
                c, norm_first=False, kernel_initializer=initializer, name=f"block_{i}", **shared
            )
            for i in range(c.num_layers)
        ]
        self.pooler = dense("pooler", c.hidden_dim) if c.pooled else None
        self.transform = self.transform_norm = self.lm_head = self.classifier = self.span = None
        if c.head == "masked_lm":
            self.transform = dense("transform", c.hidden_dim)
            self.transform_norm = norm("transform_norm", c.transform_norm_epsilon)
            if not c.tie_embeddings:
                kernel: dict[str, Any] = {"kernel_initializer": initializer.clone(), "use_bias": False}
                self.lm_head = Dense(c.vocab_size, name="lm_head", **kernel, **shared)
        elif c.head in ("sequence_classification", "token_classification"):
            self.classifier = dense("classifier", c.num_classes)
        elif c.head == "question_answering":
            self.span = dense("span", 2)
        self.projection = projections_of(c, **shared)

    def build(self, input_shape: Any = None) -> None:
        c = self.config
        of_all, of_first = (self.transform, self.transform_norm, self.lm_head, self.span), (self.pooler,)
        if c.head == "sequence_classification":
            of_first = (self.pooler, self.classifier)
        else:
            of_all = (*of_all, self.classifier)
        build_each((None, None), self.embedding, self.token_types, self.positions)
        build_each((None, None, c.hidden_dim), self.embedding_norm, self.dropout, *self.blocks, *of_all)
        build_each((None, c.hidden_dim), *of_first)
        build_each((None, pooled_width(c)), self.projection)
        self.output_bias = None
        if c.head == "masked_lm":
            self.output_bias = self.add_weight(name="output_bias", shape=(c.vocab_size,), initializer="zeros")

    def call(
        self,
        inputs: Any,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        training: bool | None = None,
    ) -> Any:
        c, named = self.config, self.named_inputs(inputs)
        ids, mask = named["input_ids"], named.get("attention_mask")
        intermediates = Intermediates(output_hidden_states, output_attentions)
        x = self.embedding(ids)  # (B, T, D)
        if self.token_types is not None:
            x = x + self._token_types(self.token_types, named.get("token_type_ids"))
        x = x + self._positions(ids, named.get("position_ids"), x.dtype)
        x = self.dropout(self.embedding_norm(x), training=training)
        x = self.run_blocks(self.blocks, x, intermediates, key_mask=mask, training=training)
        if c.head == "sentence_embedding":
            embedding = sentence_embedding(c, x, mask, named.get("pooling_mask"), self.projection)
            return self.finish({"sentence_embedding": embedding}, intermediates.named())
        return self.finish(self._head(x, training), intermediates.named())

    def _token_types(self, table: TokenEmbedding, token_type_ids: Tensor | None) -> Tensor:
        if token_type_ids is not None:
            return table(token_type_ids)  # (B, T, D)
        # The default token type is 0 for all tokens, so the first row of the table is added to each of them.
        return ops.cast(ops.convert_to_tensor(table.embeddings)[:1], self.compute_dtype)  # (1, D)

    def _positions(self, ids: Tensor, position_ids: Tensor | None, dtype: Any) -> Tensor:
        """Return the position embeddings, (batch or 1, sequence, hidden_dim)."""
        offset = self.config.position_offset
        if position_ids is None and not offset:
            return ops.cast(self.positions.first(ops.shape(ids)[1]), dtype)
        if position_ids is None:
            kept = ops.cast(ops.not_equal(ids, self.config.pad_token_id), "int32")  # (B, T); as there, without the mask
            position_ids = ops.cumsum(kept, axis=-1) * kept - 1  # (B, T); -1 for padding: the row before the first
        return self.positions(position_ids + offset)

    def _head(self, x: Tensor, training: bool | None) -> Any:
        if self.transform is not None and self.transform_norm is not None:
            x = self.transform_norm(ACTIVATIONS[self.config.transform_activation](self.transform(x)))
            if self.lm_head is None:
                return self.embedding.project(x, self.output_bias)  # (B, T, V)
            return ops.cast(self.lm_head(x), "float32") + ops.cast(self.output_bias, "float32")
        if self.span is not None:
            start, end = ops.split(ops.cast(self.span(x), "float32"), 2, axis=-1)  # (B, T, 1) each
            return {"start_logits": ops.squeeze(start, -1), "end_logits": ops.squeeze(end, -1)}
        pooled = None
        if self.pooler is not None:
            pooled = POOLERS[self.config.pooler_activation](self.pooler(x[:, 0]))  # (B, D)
        if self.classifier is not None:
            x = self.dropout(x if pooled is None else pooled, training=training)
            logits = ops.cast(self.classifier(x), "float32")  # (B, T, classes) or (B, classes)
            return logits if pooled is None else scored(self.config, logits)
        result = {"last_hidden_state": ops.cast(x, "float32")}
        return result if pooled is None else {**result, "pooler_output": ops.cast(pooled, "float32")}

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
            "sequence_classification": scored_outputs(c),
            "token_classification": (TensorSpec("logits", "float32", (*ids, c.num_classes)),),
            "question_answering": tuple(TensorSpec(f"{end}_logits", "float32", ids) for end in ("start", "end")),
            "sentence_embedding": sentence_outputs(c),
        }
        types = (TensorSpec("token_type_ids", "int32", ids, below=c.type_vocab_size, optional=True),)
        return Signature(
            inputs=(
                TensorSpec("input_ids", "int32", ids, below=c.vocab_size),
                TensorSpec("attention_mask", "int32", ids, below=2, optional=True, fill=1),
                *(types if c.type_vocab_size else ()),
                *sentence_inputs(c),
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
        dense = [{"units": 24, "activation": "tanh", "residual": True}, {"units": 12, "use_bias": False}]
        several = {"pooling": ("max", "mean_sqrt_length"), "projections": dense}
        return {
            **heads,
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
