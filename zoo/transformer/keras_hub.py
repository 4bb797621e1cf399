"""The dialects of KerasHub's BART and T5, which follow keras-hub 0.32 (``keras_hub/src/models``).

A backbone of KerasHub is an encoder and a decoder, and becomes a model with ``head="seq2seq_lm"``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...layers.feedforward import GATED
from ...weights.rules import Dialect, Field, Rule
from .. import keras_hub_rules as hub

_IDS = ("decoder_start_token_id", "eos_token_id", "pad_token_id")


def _demand_decoder(c: Any) -> None:
    if c.head is None:
        raise ValueError("head: got None, for an encoder alone; accepted: 'seq2seq_lm'")


def _heads(name: str) -> dict[str, Any]:
    heads = {None: f"{name}Backbone", "seq2seq_lm": f"{name}Seq2SeqLM"}
    return {"heads": heads, "other_classes": {f"{name}Backbone": "seq2seq_lm"}}


# BART.


def _bart_rules(c: Any) -> tuple[Rule, ...]:
    rules = [Rule("token_embedding.embeddings", "embedding/embeddings")]
    for side in ("encoder", "decoder"):
        layer, block = f"{side}_transformer_layers.{{i}}.", f"{side}_block_{{i}}"
        table, rows = f"{side}_position_embedding.position_embeddings", hub.rows_from(c.position_offset)
        rules.append(Rule(table, f"{side}_positions/embeddings", rows))
        rules += hub.layer_norm(f"{side}_embeddings_layer_norm", f"{side}_embedding_norm")
        rules += hub.transformer_layers(c, layer, block)
    crossed = f"{layer}_cross_attention_layer"
    rules += hub.attention(crossed, c.num_heads, c.num_heads, f"{block}/cross_attention")
    return (*rules, *hub.layer_norm(f"{crossed}_norm", f"{block}/cross_attention_norm"))


def _write_bart(c: Any) -> dict[str, Any]:
    _demand_decoder(c)
    return {}


KERAS_BART = Dialect(
    fields=hub.FIELDS,
    fixed={
        **{"position": "learned", "numbering": "columns", "embedding_norm": True, "norm_epsilon": 1e-5},
        **{"activation": "gelu", "scale_embeddings": False, "tie_embeddings": True, "use_logits_bias": False},
        **{"decoder_start_token_id": 2, "eos_token_id": 2, "pad_token_id": 1},
    },
    read=lambda raw, _: {"attention_dropout": raw["dropout"]},
    write=_write_bart,
    rules=_bart_rules,
    silent=(*_IDS, "position_offset"),  # KerasHub's tables lack the rows before position 0
    prefix="backbone.",
    **_heads("Bart"),
)


# T5.

_ACTIVATIONS = {  # KerasHub's name: this package's names without and with a gate
    "relu": ("relu", "reglu"),
    "gelu": ("gelu", "geglu_erf"),
    "silu": ("silu", "swiglu"),
    "keras_hub>gelu_approximate": ("gelu_tanh", "geglu"),
}


def _read_t5(raw: Mapping[str, Any], _: Any) -> dict[str, Any]:
    given = raw["activation"]
    given = given if isinstance(given, str) else (given or {}).get("registered_name", given)
    given = str(given).replace("keras_nlp>", "keras_hub>")
    if given not in _ACTIVATIONS:
        raise ValueError(f"activation: got {raw['activation']!r}; accepted: {list(_ACTIVATIONS)}")
    return {
        "activation": _ACTIVATIONS[given][raw["use_gated_activation"]],
        "head_dim": raw["key_value_dim"] or raw["hidden_dim"] // raw["num_heads"],
        "scale_outputs": raw["tie_embedding_weights"],
        "max_length": 512,
    }


def _write_t5(c: Any) -> dict[str, Any]:
    _demand_decoder(c)
    gated = c.activation in GATED
    named = {pair[gated]: theirs for theirs, pair in _ACTIVATIONS.items()}
    if c.activation not in named:
        raise ValueError(f"activation: got {c.activation!r}; accepted: one of {list(named)}")
    return {
        "activation": named[c.activation],
        "use_gated_activation": gated,
        "key_value_dim": None if c.head_dim * c.num_heads == c.hidden_dim else c.head_dim,
    }


def _t5_rules(c: Any) -> tuple[Rule, ...]:
    rules = [Rule("token_embedding.embeddings", "embedding/embeddings")]
    rules.append(Rule("token_embedding.reverse_embeddings", "lm_head/kernel", outside=True))
    gated = c.activation in GATED
    inner = {"input": "gate", "gate": "up", "output": "down"} if gated else {"input": "up", "output": "down"}
    for side in ("encoder", "decoder"):
        layers, block = f"{side}_transformer_layers.", f"{side}_block_{{i}}"
        table = f"{layers}0.self_attention.relative_attention_bias"
        rules.append(Rule(table, f"{side}_positions/embeddings"))
        for theirs, ours in {"self_attention": "attention", "cross_attention": "cross_attention"}.items():
            for part in ("query", "key", "value", "output"):
                rules.append(Rule(f"{layers}{{i}}.{theirs}.{part}_projector.kernel", f"{block}/{ours}/{part}/kernel"))
            rules.append(Rule(f"{layers}{{i}}.{theirs}_layer_norm.weight", f"{block}/{ours}_norm/scale"))
        for theirs, ours in inner.items():
            rules.append(Rule(f"{layers}{{i}}.{theirs}_projector.kernel", f"{block}/feedforward/{ours}/kernel"))
        rules.append(Rule(f"{layers}{{i}}.layer_norm.weight", f"{block}/feedforward_norm/scale"))
        rules.append(Rule(f"{side}_layer_norm.weight", f"{side}_norm/scale"))
    return tuple(rules)


KERAS_T5 = Dialect(
    fields=(
        *(entry for entry in hub.FIELDS if entry.ours != "max_length"),
        Field("layer_norm_epsilon", "norm_epsilon"),
        Field("tie_embedding_weights", "tie_embeddings"),
    ),
    fixed={
        **{"position": "relative", "norm": "rms_norm", "norm_first": True, "use_bias": False, "attention_scale": 1.0},
        **{"scale_embeddings": False, "decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0},
    },
    read=_read_t5,
    write=_write_t5,
    rules=_t5_rules,
    silent=(*_IDS, "numbering", "max_length"),
    prefix="backbone.",
    **_heads("T5"),
)

KERAS_HUB = {"Bart": KERAS_BART, "T5": KERAS_T5}
