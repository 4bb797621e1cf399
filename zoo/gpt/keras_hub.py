"""Dialects of KerasHub's decoders: GPT-2, Llama, Mistral and Qwen; the other ones are in ``keras_hub_types.py``.

Each dialect maps the options of a KerasHub model and the attribute paths of its weights to those of this package. The
dialects follow keras-hub 0.32 (``keras_hub/src/models``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...weights.rules import Dialect, Field, Rule
from .. import keras_hub_rules as hub
from .keras_hub_types import GEMMA, GEMMA3, MIXTRAL, PHI3, SILENT, write_linear
from .model import GPT

_GPT2 = Dialect(
    fields=hub.FIELDS,
    silent=SILENT,
    fixed={
        "position": "learned",
        "norm": "layer_norm",
        "norm_epsilon": 1e-5,
        "activation": "gelu_tanh",
        "use_bias": True,
        "tie_embeddings": True,
    },
    read=lambda raw, _: {"attention_dropout": raw["dropout"]},
    rules=lambda c: (
        Rule("token_embedding.embeddings", "embedding/embeddings"),
        Rule("position_embedding.position_embeddings", "positions/embeddings"),
        *hub.transformer_layers(c),
        *hub.layer_norm("layer_norm", "final_norm"),
    ),
    heads={None: "GPT2Backbone", "causal_lm": "GPT2CausalLM"},
    prefix="backbone.",
)


# Llama and similar architectures.


def _llama_rules(c: Any) -> tuple[Rule, ...]:
    layer, attention = "transformer_layers.{i}.", "transformer_layers.{i}._self_attention_layer"
    return (
        Rule("token_embedding.embeddings", "embedding/embeddings"),
        Rule("token_embedding.reverse_embeddings", "lm_head/kernel", outside=True),
        *hub.attention(attention, c.num_heads, c.num_kv_heads),
        Rule(f"{attention}._query_dense_layer_norm.scale", "block_{i}/attention/query_norm/scale"),
        Rule(f"{attention}._key_dense_layer_norm.scale", "block_{i}/attention/key_norm/scale"),
        Rule(f"{layer}_self_attention_layernorm.scale", "block_{i}/attention_norm/scale"),
        Rule(f"{layer}_feedforward_layernorm.scale", "block_{i}/feedforward_norm/scale"),
        *hub.dense(f"{layer}_feedforward_gate_dense", "block_{i}/feedforward/gate"),
        *hub.dense(f"{layer}_feedforward_intermediate_dense", "block_{i}/feedforward/up"),
        *hub.dense(f"{layer}_feedforward_output_dense", "block_{i}/feedforward/down"),
        Rule("layer_norm.scale", "final_norm/scale"),
    )


_LLAMA3_SCALING = {  # key of `rope_scaling`: option of KerasHub
    "factor": "rope_frequency_adjustment_factor",
    "low_freq_factor": "rope_low_freq_factor",
    "high_freq_factor": "rope_high_freq_factor",
    "original_max_position_embeddings": "rope_pretraining_sequence_length",
}


def _read_llama(raw: Mapping[str, Any], _: Any) -> dict[str, Any]:
    given = {ours: raw.get(theirs) for ours, theirs in _LLAMA3_SCALING.items()}
    if given["factor"] is None:
        return {"rope_scaling": None, "max_length": 2048}
    length = int(given["original_max_position_embeddings"] * given["factor"])
    return {"rope_scaling": {"rope_type": "llama3", **given}, "max_length": length}


def _write_llama(c: Any) -> dict[str, Any]:
    scaling = c.rope_scaling or {}
    if scaling.get("rope_type", "llama3") != "llama3":
        raise ValueError(f"rope_scaling: got rope_type {scaling['rope_type']!r}; accepted: 'llama3', or None")
    return {theirs: scaling.get(ours) for ours, theirs in _LLAMA3_SCALING.items()}


def _read_linear(raw: Mapping[str, Any], _: Any) -> dict[str, Any]:
    factor = raw["rope_scaling_factor"]
    scaling = None if factor == 1 else {"rope_type": "linear", "factor": factor}
    return {"rope_scaling": scaling, "max_length": 2048}


def _write_linear(c: Any) -> dict[str, Any]:
    return {"rope_scaling_factor": write_linear(c)}


_LLAMA = Dialect(
    fields=(
        Field("vocabulary_size", "vocab_size"),
        Field("num_layers", "num_layers"),
        Field("num_query_heads", "num_heads"),
        Field("num_key_value_heads", "num_kv_heads"),
        Field("hidden_dim", "hidden_dim"),
        Field("intermediate_dim", "intermediate_dim"),
        Field("rope_max_wavelength", "rope_theta"),
        Field("layer_norm_epsilon", "norm_epsilon"),
        Field("dropout", "dropout"),
        Field("tie_word_embeddings", "tie_embeddings"),
    ),
    fixed={"position": "rotary", "norm": "rms_norm", "activation": "swiglu", "use_bias": False},
    demanded={"rope_position_scaling_factor": 1.0},  # no effect in KerasHub's LlamaRotaryEmbedding
    read=_read_llama,
    write=_write_llama,
    rules=_llama_rules,
    silent=(*SILENT, "max_length"),
    heads={None: "LlamaBackbone", "causal_lm": "LlamaCausalLM"},
    prefix="backbone.",
    ignored=(r"^token_embedding\.reverse_embeddings$",),  # the output projection, left over with ``head=None``
)

_QWEN3 = replace(
    _LLAMA,
    fields=(
        *_LLAMA.fields,
        Field("head_dim", "head_dim", None),
        Field("sliding_window_size", "sliding_window", None),
    ),
    fixed={**_LLAMA.fixed, "qk_norm": True},
    demanded={},
    read=_read_linear,
    write=_write_linear,
    heads={None: "Qwen3Backbone", "causal_lm": "Qwen3CausalLM"},
)

_QWEN = replace(
    _QWEN3,
    fields=_LLAMA.fields,
    fixed={**_LLAMA.fixed, "use_qkv_bias": True},
    read=lambda raw, _: {
        **_read_linear(raw, _),
        "sliding_window": raw["sliding_window_size"] if raw["use_sliding_window_attention"] else None,
    },
    write=lambda c: {
        **_write_linear(c),
        "use_sliding_window_attention": c.sliding_window is not None,
        "sliding_window_size": c.sliding_window or 32768,
    },
    heads={None: "QwenBackbone", "causal_lm": "QwenCausalLM"},
)

_MISTRAL = replace(
    _LLAMA,
    fields=(
        *(entry for entry in _LLAMA.fields if entry.ours != "tie_embeddings"),
        Field("sliding_window", "sliding_window", None),
    ),
    fixed={**_LLAMA.fixed, "tie_embeddings": False},
    demanded={},
    read=lambda raw, _: {**_read_linear(raw, _), "head_dim": raw["head_dim"]},
    write=lambda c: {
        **_write_linear(c),
        "head_dim": None if c.head_dim * c.num_heads == c.hidden_dim else c.head_dim,
    },
    heads={None: "MistralBackbone", "causal_lm": "MistralCausalLM"},
)

GPT.keras_hub_dialects = {  # ``to_keras_hub`` takes the first that can represent the config
    "GPT2": _GPT2,
    "Llama": _LLAMA,
    "Llama3": replace(_LLAMA, heads={None: "Llama3Backbone", "causal_lm": "Llama3CausalLM"}),
    "Mistral": _MISTRAL,
    "Qwen": _QWEN,
    "Qwen3": _QWEN3,
    "Phi3": PHI3,
    "Mixtral": MIXTRAL,
    "Gemma": GEMMA,
    "Gemma3": GEMMA3,
}
