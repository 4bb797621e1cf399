"""The dialect of ModernBERT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....layers.feedforward import GATED
from ....weights.rules import Dialect, Field, Rule, layer_norm, linear
from ....weights.transforms import SAME, TRANSPOSED, Transform, joined
from ...huggingface import (
    HF_ACTIVATIONS,
    activation,
    flag,
    gated_activation,
    integer,
    labels,
    number_of_labels,
)
from ...huggingface_layers import read_rope, write_rope
from ...layer_kinds import FULL, KINDS, SLIDING
from ...sentence_transformers import PROJECTION_RULES
from ..config import BERTConfig
from .bert import BERT_LIKE, QKV, classes

_POOLINGS = {"cls": "first", "mean": "mean"}


def _rope(raw: Mapping[str, Any], kind: str, earlier: str, theta: float) -> dict[str, Any]:
    """Return the rotary positions of the layers of one kind; `earlier` is the entry for theta before version 5."""
    given = raw.get("rope_parameters") or {}
    if not isinstance(given, Mapping) or set(given) - set(KINDS):
        raise ValueError(f"rope_parameters: got {given!r}; accepted: an object for each of {list(KINDS)}")
    own, scaling = given.get(kind) or {}, raw.get("rope_scaling") or {}
    if not isinstance(own, Mapping) or not isinstance(scaling, Mapping):
        raise ValueError(f"rope_parameters: got {own!r} and rope_scaling {scaling!r}; accepted: objects")
    words = {"rope_theta": raw.get(earlier) or theta, **own, **scaling}
    return read_rope({**raw, "rope_scaling": None, "rope_theta": None, "rope_parameters": words}, 8192, theta)


def _read(raw: Mapping[str, Any], _: Any) -> dict[str, Any]:
    layers, every = integer(raw, "num_hidden_layers", 22), integer(raw, "global_attn_every_n_layers", 3)
    if every < 1:
        raise ValueError(f"global_attn_every_n_layers: got {every}; accepted: a positive integer")
    kinds = raw.get("layer_types") or [SLIDING if i % every else FULL for i in range(layers)]
    near = _rope(raw, SLIDING, "local_rope_theta", 10_000.0)
    if near["rope_scaling"] is not None and SLIDING in kinds:
        raise ValueError(f"rope_parameters: got {near['rope_scaling']!r} for {SLIDING}; accepted: the default type")
    if (pooling := raw.get("classifier_pooling") or "cls") not in _POOLINGS:
        raise ValueError(f"classifier_pooling: got {pooling!r}; accepted: {list(_POOLINGS)}")
    return {
        "layer_types": tuple(kinds) if isinstance(kinds, list) else kinds,
        "sliding_rope_theta": near["rope_theta"],
        **_rope(raw, FULL, "global_rope_theta", 160_000.0),
        "norm": "layer_norm" if flag(raw, "norm_bias", False) else "layer_norm_without_bias",
        "activation": gated_activation(raw, "hidden_activation", "gelu"),
        "transform_activation": activation(raw, "classifier_activation", "gelu"),
        "classifier_pooling": _POOLINGS[pooling],
        "num_classes": number_of_labels(raw),
        "pooler": False,
    }


def _write(c: BERTConfig) -> dict[str, Any]:
    far = write_rope(c)["rope_parameters"]
    kinds = c.layer_types or (SLIDING,) * c.num_layers
    near = c.rope_theta if c.sliding_rope_theta is None else c.sliding_rope_theta
    patterns = {n: tuple(SLIDING if i % n else FULL for i in range(c.num_layers)) for n in range(1, c.num_layers + 1)}
    every = [n for n, pattern in patterns.items() if pattern == kinds]
    return {
        "layer_types": list(kinds),
        **({"global_attn_every_n_layers": every[0]} if every else {}),
        "rope_parameters": {FULL: far, SLIDING: {"rope_type": "default", "rope_theta": near}},
        "rope_scaling": None,
        "global_rope_theta": c.rope_theta,
        "local_rope_theta": near,
        "norm_bias": c.norm == "layer_norm",
        "hidden_activation": HF_ACTIVATIONS[GATED[c.activation]],
        "classifier_activation": HF_ACTIVATIONS[c.transform_activation or "gelu"],
        "classifier_pooling": next(theirs for theirs, ours in _POOLINGS.items() if ours == c.classifier_pooling),
        **labels(c),
    }


_BLOCK, _OURS = "layers.{i}.", "block_{i}/"


def _joined(theirs: str, *ours: str) -> tuple[Rule, Rule]:
    """Return the rules of one linear layer whose outputs are those of `ours`, concatenated."""

    def rule(part: str, weight: str, transform: Transform) -> Rule:
        return Rule(f"{_BLOCK}{theirs}.{part}", tuple(f"{_OURS}{name}/{weight}" for name in ours), transform)

    return rule("weight", "kernel", joined(0, transposed=True)), rule("bias", "bias", joined(0))


def _rules(c: BERTConfig) -> tuple[Rule, ...]:
    answers = c.head == "question_answering"
    return (
        Rule("embeddings.tok_embeddings.weight", "embedding/embeddings"),
        *layer_norm("embeddings.norm", "embedding_norm"),
        *layer_norm(f"{_BLOCK}attn_norm", f"{_OURS}attention_norm"),
        *_joined("attn.Wqkv", *(f"attention/{part}" for part in QKV)),
        *linear(f"{_BLOCK}attn.Wo", f"{_OURS}attention/output"),
        *layer_norm(f"{_BLOCK}mlp_norm", f"{_OURS}feedforward_norm"),
        *_joined("mlp.Wi", "feedforward/gate", "feedforward/up"),
        *linear(f"{_BLOCK}mlp.Wo", f"{_OURS}feedforward/down"),
        *layer_norm("final_norm", "final_norm"),
        *linear("head.dense", "transform", outside=True),
        *layer_norm("head.norm", "transform_norm", outside=True),
        *linear("classifier", "span" if answers else "classifier", outside=True),
        *PROJECTION_RULES,
        Rule("decoder.weight", "lm_head/kernel", TRANSPOSED, outside=True),
        Rule("decoder.bias", "output_bias", SAME, outside=True),
    )


MODERNBERT = Dialect(
    fields=(
        Field("vocab_size", "vocab_size", 50368),
        Field("num_hidden_layers", "num_layers", 22),
        Field("num_attention_heads", "num_heads", 12),
        Field("hidden_size", "hidden_dim", 768),
        Field("intermediate_size", "intermediate_dim", 1152),
        Field("max_position_embeddings", "max_length", 8192),
        Field("norm_eps", "norm_epsilon", 1e-5),
        Field("mlp_dropout", "dropout", 0.0),
        Field("attention_dropout", "attention_dropout", 0.0),
        Field("initializer_range", "initializer_range", 0.02),
        Field("local_attention", "sliding_window", 128),
        Field("attention_bias", "use_bias", False),
        Field("mlp_bias", "use_feedforward_bias", False),
        Field("classifier_bias", "use_transform_bias", False),
        Field("decoder_bias", "use_logits_bias", True),
        Field("pad_token_id", "pad_token_id", 50283),
        Field("tie_word_embeddings", "tie_embeddings", True),
    ),
    silent=BERT_LIKE.silent,
    fixed={
        "position": "rotary",
        "type_vocab_size": 0,
        "norm_first": True,
        "first_norm": False,
        "classifier_transform": True,
    },
    read=_read,
    write=_write,
    rules=_rules,
    prefix="model.",
    heads=classes("ModernBert"),
    other_classes={"ModernBertModel": None},
    ignored=(r"^rotary_emb\.",),
    tied={"decoder.weight": "embeddings.tok_embeddings.weight"},
    output="decoder.weight",
)
