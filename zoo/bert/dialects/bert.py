"""Dialects of Hugging Face's BERT, of models of the same computation, and of RoBERTa and DistilBERT.

Each dialect maps the entries of a config and the names of the tensors to those of this package. The parts that other
dialects share are here too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from ....weights.rules import Dialect, Field, Rule, layer_norm, linear
from ....weights.transforms import TRANSPOSED
from ...huggingface import HF_ACTIVATIONS, activation, integer, labels, number_of_labels
from ...sentence_transformers import PROJECTION_RULES
from ...sentences import SILENT
from ..config import BERTConfig


def block_rules(
    block: str,
    ours: str = "block_{i}",
    *,
    query: str = "attention.self.query",
    key: str = "attention.self.key",
    value: str = "attention.self.value",
    output: str = "attention.output.dense",
    norms: tuple[str, str] = ("attention.output.LayerNorm", "output.LayerNorm"),
    up: str = "intermediate.dense",
    down: str = "output.dense",
) -> tuple[Rule, ...]:
    """Return the rules of a Transformer block.

    Args:
        block: prefix of its tensors; the keyword arguments name its parts, by default as in BERT_LIKE.
        ours: prefix of its weights.
    """
    parts = {"query": query, "key": key, "value": value, "output": output}
    rules = [rule for part, theirs in parts.items() for rule in linear(block + theirs, f"{ours}/attention/{part}")]
    return (
        *rules,
        *layer_norm(block + norms[0], f"{ours}/attention_norm"),
        *linear(block + up, f"{ours}/feedforward/up"),
        *linear(block + down, f"{ours}/feedforward/down"),
        *layer_norm(block + norms[1], f"{ours}/feedforward_norm"),
    )


def with_defaults(fields: tuple[Field, ...], **defaults: Any) -> tuple[Field, ...]:
    """Return `fields` with other defaults, given by the names of the entries."""
    return tuple(replace(entry, default=defaults.get(entry.theirs, entry.default)) for entry in fields)


def without(fields: tuple[Field, ...], *ours: str) -> tuple[Field, ...]:
    """Return `fields` without the fields called `ours` in this package."""
    return tuple(entry for entry in fields if entry.ours not in ours)


QKV = ("query", "key", "value")
EMBEDDINGS = (
    Rule("embeddings.word_embeddings.weight", "embedding/embeddings"),
    Rule("embeddings.position_embeddings.weight", "positions/embeddings"),
    Rule("embeddings.token_type_embeddings.weight", "token_types/embeddings"),
    *layer_norm("embeddings.LayerNorm", "embedding_norm"),
)
BLOCK = block_rules("encoder.layer.{i}.")
POOLER = linear("pooler.dense", "pooler")
OUTPUT_TABLE = {"cls.predictions.decoder.weight": "embeddings.word_embeddings.weight"}


def bert_rules(c: BERTConfig, body: tuple[Rule, ...] = (*EMBEDDINGS, *BLOCK)) -> tuple[Rule, ...]:
    """Return the rules of BERT's heads, and of a `body`."""
    return (
        *body,
        *POOLER,
        *linear("cls.seq_relationship" if c.head == "next_sentence" else "classifier", "classifier", outside=True),
        *linear("qa_outputs", "span", outside=True),
        *PROJECTION_RULES,
        *linear("cls.predictions.transform.dense", "transform", outside=True),
        *layer_norm("cls.predictions.transform.LayerNorm", "transform_norm", outside=True),
        *output_rules(c, "cls.predictions.decoder", "cls.predictions.bias"),
    )


def output_rules(config: BERTConfig, decoder: str, bias: str) -> tuple[Rule, ...]:
    """Return the rules of the masked LM head's output projection.

    If it is not tied to the embedding table, transformers adds the bias of `decoder` and does not use `bias`.
    """
    if config.tie_embeddings:
        return (Rule(bias, "output_bias", outside=True),)
    kernel = Rule(f"{decoder}.weight", "lm_head/kernel", TRANSPOSED, outside=True)
    return kernel, Rule(f"{decoder}.bias", "output_bias", outside=True)


BERT_LIKE = Dialect(
    fields=(
        Field("vocab_size", "vocab_size", 30522),
        Field("num_hidden_layers", "num_layers", 12),
        Field("num_attention_heads", "num_heads", 12),
        Field("hidden_size", "hidden_dim", 768),
        Field("intermediate_size", "intermediate_dim", 3072),
        Field("max_position_embeddings", "max_length", 512),
        Field("type_vocab_size", "type_vocab_size", 2),
        Field("layer_norm_eps", "norm_epsilon", 1e-12),
        Field("hidden_dropout_prob", "dropout", 0.1),
        Field("attention_probs_dropout_prob", "attention_dropout", 0.1),
        Field("initializer_range", "initializer_range", 0.02),
        Field("pad_token_id", "pad_token_id", 0),
        Field("tie_word_embeddings", "tie_embeddings", True),
    ),
    silent=(*SILENT, "score_activation"),  # stored in the files of sentence-transformers
    demanded={"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False},
    read=lambda raw, names: {
        "activation": activation(raw, "hidden_act", "gelu"),
        "num_classes": number_of_labels(raw),
        "pooler": pooler_of(names),
    },
    write=lambda c: {"hidden_act": HF_ACTIVATIONS[c.activation], **labels(c)},
    rules=bert_rules,
    prefix="bert.",
    heads={
        None: "BertModel",
        "masked_lm": "BertForMaskedLM",
        "sequence_classification": "BertForSequenceClassification",
        "token_classification": "BertForTokenClassification",
        "question_answering": "BertForQuestionAnswering",
        "multiple_choice": "BertForMultipleChoice",
        "next_sentence": "BertForNextSentencePrediction",
        "sentence_embedding": "BertModel",
    },
    other_classes={"BertModel": None, "BertForPreTraining": "masked_lm"},
    aliases={r"LayerNorm\.gamma$": "LayerNorm.weight", r"LayerNorm\.beta$": "LayerNorm.bias"},
    ignored=(r"^embeddings\.(position_ids|token_type_ids)$",),  # buffers that earlier versions saved
    unused={r"^pooler\.dense\.": False, r"^cls\.seq_relationship\.": True, r"^cls\.predictions\.bias$": True},
    tied={**OUTPUT_TABLE, "cls.predictions.decoder.bias": "cls.predictions.bias"},
    output="cls.predictions.decoder.weight",
)


def pooler_of(names: Collection[str]) -> bool:
    """Return whether a file with these names of tensors has a pooler."""
    return any(name.endswith(("pooler.dense.weight", "pooler.weight")) for name in names)


def classes(name: str, *heads: str | None) -> dict[str | None, str]:
    """Return BERT's classes by head, with `name` for "Bert": for `heads`, or for all but next sentence prediction."""
    return {
        head: cls.replace("Bert", name)
        for head, cls in BERT_LIKE.heads.items()
        if (head in heads if heads else head != "next_sentence")
    }


def read_roberta(raw: Mapping[str, Any], names: Collection[str], rows: int = 512) -> dict[str, Any]:
    """Return the fields of a model with RoBERTa's positions, whose table has `rows` by default."""
    offset = integer(raw, "pad_token_id", 1) + 1
    rows = integer(raw, "max_position_embeddings", rows)
    if rows <= offset:
        raise ValueError(f"max_position_embeddings: got {rows}; accepted: more than pad_token_id + 1 = {offset}")
    return {**BERT_LIKE.read(raw, names), "position_offset": offset, "max_length": rows - offset}


def classifier_rules(c: BERTConfig, pooler: tuple[Rule, ...] = ()) -> tuple[Rule, ...]:
    """Return the rules of heads where the dense layer on the first token is a part of the sequence classifier.

    `pooler` are the rules of the body's pooler, if it has one.
    """
    of_sequence = c.head == "sequence_classification"
    return (
        *(linear("classifier.dense", "pooler", outside=True) if of_sequence else pooler),
        *linear("classifier.out_proj" if of_sequence else "classifier", "classifier", outside=True),
        *linear("qa_outputs", "span", outside=True),
        *PROJECTION_RULES,
    )


def roberta_rules(c: BERTConfig, body: tuple[Rule, ...] = (*EMBEDDINGS, *BLOCK)) -> tuple[Rule, ...]:
    """Return the rules of RoBERTa's heads, and of a `body`."""
    return (
        *body,
        *classifier_rules(c, POOLER),
        *linear("lm_head.dense", "transform", outside=True),
        *layer_norm("lm_head.layer_norm", "transform_norm", outside=True),
        *output_rules(c, "lm_head.decoder", "lm_head.bias"),
    )


def roberta(name: str, prefix: str = "roberta.", vocab_size: int = 30522, **defaults: Any) -> Dialect:
    """Return the dialect of a model with RoBERTa's positions and heads, the classes of which begin with `name`.

    `defaults` are those of its config class where they differ from BERT's.
    """
    return replace(
        BERT_LIKE,
        fields=(
            Field("vocab_size", "vocab_size", vocab_size),
            *with_defaults(without(BERT_LIKE.fields, "vocab_size", "max_length", "pad_token_id"), **defaults),
            Field("pad_token_id", "pad_token_id", 1),
        ),
        fixed={"transform_activation": "gelu"},  # independent of the body's activation
        read=read_roberta,
        write=lambda c: {**BERT_LIKE.write(c), "max_position_embeddings": c.max_length + c.position_offset},
        rules=roberta_rules,
        prefix=prefix,
        heads=classes(name),
        other_classes={f"{name}Model": None},
        unused={r"^pooler\.dense\.": False, r"^lm_head\.bias$": True},
        tied={"lm_head.decoder.weight": "embeddings.word_embeddings.weight", "lm_head.decoder.bias": "lm_head.bias"},
        output="lm_head.decoder.weight",
    )


DISTILBERT = Dialect(
    fields=(
        Field("vocab_size", "vocab_size", 30522),
        Field("n_layers", "num_layers", 6, synonym="num_hidden_layers"),
        Field("n_heads", "num_heads", 12, synonym="num_attention_heads"),
        Field("dim", "hidden_dim", 768, synonym="hidden_size"),
        Field("hidden_dim", "intermediate_dim", 3072),
        Field("max_position_embeddings", "max_length", 512),
        Field("dropout", "dropout", 0.1),
        Field("attention_dropout", "attention_dropout", 0.1),
        Field("initializer_range", "initializer_range", 0.02),
        Field("pad_token_id", "pad_token_id", 0),
        Field("tie_word_embeddings", "tie_embeddings", True),
    ),
    silent=BERT_LIKE.silent,
    fixed={"type_vocab_size": 0, "norm_epsilon": 1e-12, "pooler": False, "pooler_activation": "relu"},
    read=lambda raw, _: {
        "activation": activation(raw, "activation", "gelu"),
        "num_classes": number_of_labels(raw),
    },
    write=lambda c: {"activation": HF_ACTIVATIONS[c.activation], **labels(c)},
    rules=lambda c: (
        *EMBEDDINGS,
        *block_rules(
            "transformer.layer.{i}.",
            query="attention.q_lin",
            key="attention.k_lin",
            value="attention.v_lin",
            output="attention.out_lin",
            norms=("sa_layer_norm", "output_layer_norm"),
            up="ffn.lin1",
            down="ffn.lin2",
        ),
        *linear("pre_classifier", "pooler", outside=True),
        *linear("classifier", "classifier", outside=True),
        *linear("qa_outputs", "span", outside=True),
        *PROJECTION_RULES,
        *linear("vocab_transform", "transform", outside=True),
        *layer_norm("vocab_layer_norm", "transform_norm", outside=True),
        *output_rules(c, "vocab_projector", "vocab_projector.bias"),
    ),
    prefix="distilbert.",
    heads=classes("DistilBert"),
    other_classes={"DistilBertModel": None},
    aliases=BERT_LIKE.aliases,
    ignored=BERT_LIKE.ignored,
    tied={"vocab_projector.weight": "embeddings.word_embeddings.weight"},
    output="vocab_projector.weight",
)
