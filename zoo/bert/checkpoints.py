"""Dialects of third-party checkpoints for BERT.

These are Hugging Face's BERT and ERNIE, RoBERTa and the models of the same computation (XLM-RoBERTa, CamemBERT and
data2vec-text), DistilBERT, and KerasHub's BERT. Each dialect maps the entries
of a config and the names of the tensors to those of this package.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from ...weights.rules import Dialect, Field, Rule, layer_norm, linear
from ...weights.transforms import TRANSPOSED
from .. import keras_hub_rules as hub
from ..huggingface import HF_ACTIVATIONS, activation, integer, labels, number_of_labels
from ..sentence_transformers import PROJECTION_RULES
from ..sentences import SILENT
from .model import BERT, BERTConfig


def _body(
    block: str, *, query: str, key: str, value: str, output: str, norms: tuple[str, str], up: str, down: str
) -> tuple[Rule, ...]:
    """Return the rules of a Transformer block; `block` is the prefix of its tensors, the others name its parts."""
    parts = {"query": query, "key": key, "value": value, "output": output}
    rules = [rule for ours, theirs in parts.items() for rule in linear(block + theirs, f"block_{{i}}/attention/{ours}")]
    return (
        *rules,
        *layer_norm(block + norms[0], "block_{i}/attention_norm"),
        *linear(block + up, "block_{i}/feedforward/up"),
        *linear(block + down, "block_{i}/feedforward/down"),
        *layer_norm(block + norms[1], "block_{i}/feedforward_norm"),
    )


_BERT_BODY = (
    Rule("embeddings.word_embeddings.weight", "embedding/embeddings"),
    Rule("embeddings.position_embeddings.weight", "positions/embeddings"),
    Rule("embeddings.token_type_embeddings.weight", "token_types/embeddings"),
    *layer_norm("embeddings.LayerNorm", "embedding_norm"),
)
_BERT_BLOCK = _body(
    "encoder.layer.{i}.",
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    output="attention.output.dense",
    norms=("attention.output.LayerNorm", "output.LayerNorm"),
    up="intermediate.dense",
    down="output.dense",
)
_POOLER = linear("pooler.dense", "pooler")
_OUTPUT_TABLE = {"cls.predictions.decoder.weight": "embeddings.word_embeddings.weight"}

_BERT = Dialect(
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
        "pooler": any(name.endswith("pooler.dense.weight") for name in names),
    },
    write=lambda c: {"hidden_act": HF_ACTIVATIONS[c.activation], **labels(c)},
    rules=lambda c: (
        *_BERT_BODY,
        *_BERT_BLOCK,
        *_POOLER,
        *linear("classifier", "classifier", outside=True),
        *linear("qa_outputs", "span", outside=True),
        *PROJECTION_RULES,
        *linear("cls.predictions.transform.dense", "transform", outside=True),
        *layer_norm("cls.predictions.transform.LayerNorm", "transform_norm", outside=True),
        *_output(c, "cls.predictions.decoder", "cls.predictions.bias"),
    ),
    prefix="bert.",
    heads={
        None: "BertModel",
        "masked_lm": "BertForMaskedLM",
        "sequence_classification": "BertForSequenceClassification",
        "token_classification": "BertForTokenClassification",
        "question_answering": "BertForQuestionAnswering",
        "sentence_embedding": "BertModel",
    },
    other_classes={"BertModel": None, "BertForPreTraining": "masked_lm"},
    aliases={r"LayerNorm\.gamma$": "LayerNorm.weight", r"LayerNorm\.beta$": "LayerNorm.bias"},
    ignored=(r"^embeddings\.(position_ids|token_type_ids)$",),  # buffers that earlier versions saved
    unused={r"^pooler\.dense\.": False, r"^cls\.seq_relationship\.": True, r"^cls\.predictions\.bias$": True},
    tied={**_OUTPUT_TABLE, "cls.predictions.decoder.bias": "cls.predictions.bias"},
    output="cls.predictions.decoder.weight",
)


def _output(config: BERTConfig, decoder: str, bias: str) -> tuple[Rule, ...]:
    """Return the rules of the masked LM head's output projection.

    If it is not tied to the embedding table, transformers adds the bias of `decoder` and does not use `bias`.
    """
    if config.tie_embeddings:
        return (Rule(bias, "output_bias", outside=True),)
    kernel = Rule(f"{decoder}.weight", "lm_head/kernel", TRANSPOSED, outside=True)
    return kernel, Rule(f"{decoder}.bias", "output_bias", outside=True)


def _read_roberta(raw: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    offset = integer(raw, "pad_token_id", 1) + 1
    rows = integer(raw, "max_position_embeddings", 512)
    if rows <= offset:
        raise ValueError(f"max_position_embeddings: got {rows}; accepted: more than pad_token_id + 1 = {offset}")
    return {**_BERT.read(raw, names), "position_offset": offset, "max_length": rows - offset}


def _roberta_rules(c: BERTConfig) -> tuple[Rule, ...]:
    """Return the rules of RoBERTa, where the dense layer of the pooler belongs to the sequence classification head."""
    of_sequence = c.head == "sequence_classification"
    return (
        *_BERT_BODY,
        *_BERT_BLOCK,
        *(linear("classifier.dense", "pooler", outside=True) if of_sequence else _POOLER),
        *linear("classifier.out_proj" if of_sequence else "classifier", "classifier", outside=True),
        *linear("qa_outputs", "span", outside=True),
        *PROJECTION_RULES,
        *linear("lm_head.dense", "transform", outside=True),
        *layer_norm("lm_head.layer_norm", "transform_norm", outside=True),
        *_output(c, "lm_head.decoder", "lm_head.bias"),
    )


def _roberta(name: str, prefix: str = "roberta.") -> Dialect:
    return replace(
        _BERT,
        fields=(
            Field("vocab_size", "vocab_size", 50265 if name == "Roberta" else 30522),
            *(entry for entry in _BERT.fields if entry.ours not in ("vocab_size", "max_length", "pad_token_id")),
            Field("pad_token_id", "pad_token_id", 1),
        ),
        fixed={"transform_activation": "gelu"},  # independent of the body's activation
        read=_read_roberta,
        write=lambda c: {**_BERT.write(c), "max_position_embeddings": c.max_length + c.position_offset},
        rules=_roberta_rules,
        prefix=prefix,
        heads={head: cls.replace("Bert", name) for head, cls in _BERT.heads.items()},
        other_classes={f"{name}Model": None},
        unused={r"^pooler\.dense\.": False, r"^lm_head\.bias$": True},
        tied={"lm_head.decoder.weight": "embeddings.word_embeddings.weight", "lm_head.decoder.bias": "lm_head.bias"},
        output="lm_head.decoder.weight",
    )


_DISTILBERT = Dialect(
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
    silent=_BERT.silent,
    fixed={"type_vocab_size": 0, "norm_epsilon": 1e-12, "pooler": False, "pooler_activation": "relu"},
    read=lambda raw, _: {
        "activation": activation(raw, "activation", "gelu"),
        "num_classes": number_of_labels(raw),
    },
    write=lambda c: {"activation": HF_ACTIVATIONS[c.activation], **labels(c)},
    rules=lambda c: (
        *_BERT_BODY,
        *_body(
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
        *_output(c, "vocab_projector", "vocab_projector.bias"),
    ),
    prefix="distilbert.",
    heads={head: f"Distil{cls}" for head, cls in _BERT.heads.items()},
    other_classes={"DistilBertModel": None},
    aliases=_BERT.aliases,
    ignored=_BERT.ignored,
    tied={"vocab_projector.weight": "embeddings.word_embeddings.weight"},
    output="vocab_projector.weight",
)

BERT.dialects = {
    "bert": _BERT,
    "roberta": _roberta("Roberta"),
    "xlm-roberta": _roberta("XLMRoberta"),
    "camembert": _roberta("Camembert"),
    "data2vec-text": _roberta("Data2VecText", "data2vec_text."),
    "ernie": replace(
        _BERT,
        demanded={**_BERT.demanded, "use_task_id": False},
        prefix="ernie.",
        heads={head: cls.replace("Bert", "Ernie") for head, cls in _BERT.heads.items()},
        other_classes={"ErnieModel": None, "ErnieForPreTraining": "masked_lm"},
    ),
    "distilbert": _DISTILBERT,
}


# KerasHub.


def _read_keras_bert(raw: Mapping[str, Any], _: Any) -> dict[str, Any]:
    hub.accept(raw, activation=None, dropout=raw["dropout"])
    # The transform differs from the body, which has the tanh approximation of GELU and an epsilon of 1e-12.
    transform = {"transform_activation": "gelu", "transform_norm_epsilon": 1e-5}
    modes = {ours: theirs for theirs, ours in _POOLING_MODES.items()}
    return {
        **(transform if raw["architectures"] == ["BertMaskedLM"] else {}),
        "attention_dropout": raw["dropout"],
        "num_classes": raw.get(f"{hub.TASK}num_classes", 2),
        "pooling": modes[raw.get(f"{hub.TASK}pooling_mode", "mean")],
        "normalize": raw.get(f"{hub.TASK}normalize", False),
    }


_POOLING_MODES = {"mean": "mean", "first": "cls", "max": "max"}


def _write_keras_bert(c: Any) -> dict[str, Any]:
    if not c.type_vocab_size:
        raise ValueError("type_vocab_size: got 0; accepted: at least 1")
    if c.head == "sentence_embedding" and c.pooling not in _POOLING_MODES:
        raise ValueError(f"pooling: got {c.pooling!r}; accepted: one of {list(_POOLING_MODES)}")
    of_task: dict[str | None, dict[str, Any]] = {
        "sequence_classification": {"num_classes": c.num_classes, "dropout": c.dropout},
        "sentence_embedding": {"pooling_mode": _POOLING_MODES.get(c.pooling), "normalize": c.normalize},
    }
    return {hub.TASK + name: value for name, value in of_task.get(c.head, {}).items()}


_KERAS_BERT = Dialect(
    fields=(*hub.FIELDS, Field("num_segments", "type_vocab_size")),
    fixed={"activation": "gelu_tanh", "norm_epsilon": 1e-12},
    read=_read_keras_bert,
    silent=("initializer_range", "pad_token_id"),
    write=_write_keras_bert,
    rules=lambda c: (
        Rule("token_embedding.embeddings", "embedding/embeddings"),
        Rule("position_embedding.position_embeddings", "positions/embeddings"),
        Rule("segment_embedding.embeddings", "token_types/embeddings"),
        *hub.layer_norm("embeddings_layer_norm", "embedding_norm"),
        *hub.transformer_layers(c),
        *hub.dense("pooled_dense", "pooler"),
        *hub.dense("output_dense", "classifier", outside=True),
        *hub.dense("masked_lm_head._intermediate_dense", "transform", outside=True),
        *hub.layer_norm("masked_lm_head._intermediate_layer_norm", "transform_norm", outside=True),
        Rule("masked_lm_head._bias", "output_bias", outside=True),
        *hub.dense("span", "span", outside=True),  # no KerasHub task, but a body can get this head
    ),
    heads={
        None: "BertBackbone",
        "masked_lm": "BertMaskedLM",
        "sequence_classification": "BertTextClassifier",
        "sentence_embedding": "BertTextEmbedder",
    },
    prefix="backbone.",
    ignored=(r"^pooled_dense\.",),  # only some heads of BERT in this package have a pooler
)

BERT.keras_hub_dialects = {"Bert": _KERAS_BERT}
