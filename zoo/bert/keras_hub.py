"""The dialect of KerasHub's BERT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...weights.rules import Dialect, Field, Rule
from .. import keras_hub_rules as hub


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


KERAS_BERT = Dialect(
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
