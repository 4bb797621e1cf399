"""The dialects of KerasHub's BERT, RoBERTa, XLM-RoBERTa, DistilBERT, ALBERT, ELECTRA and DeBERTa 3."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ...weights.rules import Dialect, Field, Rule
from .. import keras_hub_rules as hub


def _read_keras_bert(raw: Mapping[str, Any], _: Any) -> dict[str, Any]:
    hub.accept(raw, activation=None, dropout=raw["dropout"], hidden_dim=raw["hidden_dim"])
    modes = {ours: theirs for theirs, ours in _POOLING_MODES.items()}
    return {
        "attention_dropout": raw["dropout"],
        "num_classes": raw.get(f"{hub.TASK}num_classes", 2),
        "pooling": modes[raw.get(f"{hub.TASK}pooling_mode", "mean")],
        "normalize": raw.get(f"{hub.TASK}normalize", False),
    }


def _transformed(activation: str) -> Callable[[Mapping[str, Any], Any], dict[str, Any]]:
    """Return a `read` for models whose masked LM has a transform with this activation and an epsilon of 1e-5."""
    transform = {"transform_activation": activation, "transform_norm_epsilon": 1e-5}
    return lambda raw, names: {
        **_read_keras_bert(raw, names),
        **(transform if raw["architectures"][0].endswith("MaskedLM") else {}),
    }


_POOLING_MODES = {"mean": "mean", "first": "cls", "max": "max"}


def _write_keras_bert(c: Any) -> dict[str, Any]:
    if not c.type_vocab_size:
        raise ValueError("type_vocab_size: got 0; accepted: at least 1")
    return _write_task(c)


def _write_task(c: Any) -> dict[str, Any]:
    if c.head == "sentence_embedding" and c.pooling not in _POOLING_MODES:
        raise ValueError(f"pooling: got {c.pooling!r}; accepted: one of {list(_POOLING_MODES)}")
    of_task: dict[str | None, dict[str, Any]] = {
        "sequence_classification": {"num_classes": c.num_classes, "dropout": c.dropout},
        "sentence_embedding": {"pooling_mode": _POOLING_MODES.get(c.pooling), "normalize": c.normalize},
    }
    return {hub.TASK + name: value for name, value in of_task.get(c.head, {}).items()}


def _head_rules() -> tuple[Rule, ...]:
    return (
        *hub.dense("output_dense", "classifier", outside=True),
        *hub.dense("masked_lm_head._intermediate_dense", "transform", outside=True),
        *hub.layer_norm("masked_lm_head._intermediate_layer_norm", "transform_norm", outside=True),
        Rule("masked_lm_head._bias", "output_bias", outside=True),
        *hub.dense("span", "span", outside=True),  # no KerasHub task, but a body can get this head
    )


def _segment_rules() -> tuple[Rule, ...]:
    return (
        Rule("token_embedding.embeddings", "embedding/embeddings"),
        Rule("position_embedding.position_embeddings", "positions/embeddings"),
        Rule("segment_embedding.embeddings", "token_types/embeddings"),
        *hub.layer_norm("embeddings_layer_norm", "embedding_norm"),
    )


KERAS_BERT = Dialect(
    fields=(*hub.FIELDS, Field("num_segments", "type_vocab_size")),
    fixed={"activation": "gelu_tanh", "norm_epsilon": 1e-12},
    read=_transformed("gelu"),  # unlike the body, which has the tanh approximation of GELU and an epsilon of 1e-12
    silent=("initializer_range", "pad_token_id"),
    write=_write_keras_bert,
    rules=lambda c: (
        *_segment_rules(),
        *hub.transformer_layers(c),
        *hub.dense("pooled_dense", "pooler"),
        *_head_rules(),
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


# RoBERTa and DistilBERT: no segments; the dense layer on the first token is a part of the classifier.


def _table(c: Any) -> Rule:
    """Return the rule for the position table, written without rows for padding and with the only token type added.

    Models that are read from KerasHub have neither these rows nor a token type.
    """
    ours = ("positions/embeddings", "token_types/embeddings") if c.type_vocab_size else "positions/embeddings"
    return Rule("embeddings.position_embedding.position_embeddings", ours, hub.rows_from(c.position_offset))


def _write_roberta(c: Any) -> dict[str, Any]:
    if c.type_vocab_size > 1:
        raise ValueError(f"type_vocab_size: got {c.type_vocab_size}; accepted: 0 or 1")
    return _write_task(c)


def _without_segments(name: str, **fixed: Any) -> Dialect:
    return replace(
        KERAS_BERT,
        fields=hub.FIELDS,
        fixed={"activation": "gelu", "pooler": False, **fixed},
        read=lambda raw, names: {**_transformed("gelu")(raw, names), "type_vocab_size": 0},
        write=_write_roberta,
        silent=(*KERAS_BERT.silent, "position_offset", "type_vocab_size"),
        rules=lambda c: (
            Rule("token_embedding.embeddings", "embedding/embeddings"),
            _table(c),
            *hub.layer_norm("embeddings_layer_norm", "embedding_norm"),
            *hub.transformer_layers(c),
            *hub.dense("pooled_dense", "pooler", outside=True),
            *_head_rules(),
        ),
        heads={
            None: f"{name}Backbone",
            "masked_lm": f"{name}MaskedLM",
            "sequence_classification": f"{name}TextClassifier",
        },
        ignored=(),
    )


KERAS_ROBERTA = _without_segments("Roberta", norm_epsilon=1e-5, pooler_activation="tanh", classifier_activation="tanh")
_XLM = replace(KERAS_ROBERTA, heads={head: f"XLM{cls}" for head, cls in KERAS_ROBERTA.heads.items()})
KERAS_XLM_ROBERTA = replace(_XLM, heads={**_XLM.heads, "sentence_embedding": "XLMRobertaTextEmbedder"})
KERAS_DISTILBERT = _without_segments(
    "DistilBert", norm_epsilon=1e-12, pooler_activation="relu", classifier_activation="relu"
)


# ALBERT and ELECTRA: embeddings of another width.


def _write_albert(c: Any) -> dict[str, Any]:
    groups = c.num_layer_groups or 1
    if c.num_layers % groups:
        raise ValueError(f"num_layers: got {c.num_layers}; accepted: a multiple of num_layer_groups, {groups}")
    return {**_write_keras_bert(c), "num_groups": groups, "num_inner_repetitions": c.layers_per_group}


def _albert_layers(c: Any) -> tuple[Rule, ...]:
    places = ((i, *divmod(i, c.layers_per_group)) for i in range(c.depth))
    return tuple(
        rule
        for i, group, inner in places
        for rule in hub.transformer_layers(c, f"transformer_layers.{group}.{inner}.", f"block_{i}")
    )


KERAS_ALBERT = replace(
    KERAS_BERT,
    fields=(*KERAS_BERT.fields, Field("embedding_dim", "token_dim")),
    fixed={**KERAS_BERT.fixed, "project_embeddings": True},
    read=lambda raw, names: {
        **_transformed("gelu_tanh")(raw, names),
        "num_layer_groups": raw["num_groups"],
        "layers_per_group": raw["num_inner_repetitions"],
    },
    write=_write_albert,
    rules=lambda c: (
        *_segment_rules(),
        *hub.dense("embeddings_projection", "embedding_projection"),
        *_albert_layers(c),
        *hub.dense("pooled_dense", "pooler"),
        *_head_rules(),
    ),
    heads={None: "AlbertBackbone", "masked_lm": "AlbertMaskedLM", "sequence_classification": "AlbertTextClassifier"},
)

KERAS_ELECTRA = replace(
    KERAS_BERT,
    fields=(
        Field("vocab_size", "vocab_size"),
        *(entry for entry in KERAS_BERT.fields if entry.ours != "vocab_size"),
        Field("embedding_dim", "token_dim"),
    ),
    read=_read_keras_bert,
    rules=lambda c: (
        *_segment_rules(),
        *hub.dense("embeddings_projection", "embedding_projection"),
        *hub.transformer_layers(c),
        *hub.dense("pooled_dense", "pooler"),
        *_head_rules(),
    ),
    silent=(*KERAS_BERT.silent, "pooler"),  # the published models have none, so KerasHub's keeps its initial values
    heads={None: "ElectraBackbone"},
)

# DeBERTa 3: positions in the attention, by the projections of queries and keys.


def _deberta_rules(c: Any) -> tuple[Rule, ...]:
    output = "transformer_layers.{i}._self_attention_layer._output_dense.kernel"
    return (
        Rule("token_embedding.embeddings", "embedding/embeddings"),
        *hub.layer_norm("embeddings_layer_norm", "embedding_norm"),
        Rule("relative_embeddings.rel_embeddings", "attention_positions/embeddings"),
        *hub.layer_norm("relative_embeddings.layer_norm", "attention_positions/norm"),
        *(rule for rule in hub.transformer_layers(c) if rule.theirs != output),
        Rule(output, "block_{i}/attention/output/kernel"),
        *hub.dense("pooled_dense", "pooler", outside=True),
        *_head_rules(),
    )


KERAS_DEBERTA = replace(
    KERAS_BERT,
    fields=hub.FIELDS,
    fixed={
        **{"activation": "gelu", "norm_epsilon": 1e-7, "type_vocab_size": 0, "pooler": False},
        **{"position": "disentangled", "norm_positions": True, "share_position_projections": True},
        **{"pooler_activation": "tanh", "classifier_activation": "gelu"},
    },
    read=lambda raw, names: {
        **_transformed("gelu")(raw, names),
        "num_buckets": 2 * raw["bucket_size"],
        "max_distance": raw["max_sequence_length"],
    },
    write=lambda c: {**_write_task(c), "bucket_size": c.num_buckets // 2},
    rules=_deberta_rules,
    heads={
        None: "DebertaV3Backbone",
        "masked_lm": "DebertaV3MaskedLM",
        "sequence_classification": "DebertaV3TextClassifier",
    },
    ignored=(),
)
KERAS_HUB = {
    "Bert": KERAS_BERT,
    "Roberta": KERAS_ROBERTA,
    "XLMRoberta": KERAS_XLM_ROBERTA,
    "DistilBert": KERAS_DISTILBERT,
    "Albert": KERAS_ALBERT,
    "Electra": KERAS_ELECTRA,
    "DebertaV3": KERAS_DEBERTA,
}
