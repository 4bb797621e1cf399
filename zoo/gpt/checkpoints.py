"""GPTs of others: how their files name configs and weights, and the transforms between theirs and ours."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ...layers.feedforward import GATED
from ...weights.gguf_file import shortest
from ...weights.rules import Dialect, Field, Rule, layer_norm, linear
from ...weights.transforms import TRANSPOSED, joined, paired_rows
from .. import keras_hub_rules as hub
from ..huggingface import (
    HF_ACTIVATIONS,
    activation,
    gated_activation,
    integer,
    number,
    qwen_layers,
    qwen_window,
    read_rope,
    write_rope,
)
from .model import GPT, GPTConfig


def _each(name: str) -> tuple[str, ...]:
    """Of queries, keys and values."""
    return tuple(name.replace("{}", part) for part in ("query", "key", "value"))


_END_IDS = (
    Field("bos_token_id", "bos_token_id", None),
    Field("eos_token_id", "eos_token_id", None),
    Field("pad_token_id", "pad_token_id", None),
)

_GPT2 = Dialect(
    fields=(
        Field("vocab_size", "vocab_size", 50257),
        Field("n_layer", "num_layers", 12),
        Field("n_head", "num_heads", 12),
        Field("n_embd", "hidden_dim", 768),
        Field("n_inner", "intermediate_dim", None),
        Field("n_positions", "max_length", 1024),
        Field("layer_norm_epsilon", "norm_epsilon", 1e-5),
        Field("resid_pdrop", "dropout", 0.1),
        Field("attn_pdrop", "attention_dropout", 0.1),
        Field("initializer_range", "initializer_range", 0.02),
        Field("tie_word_embeddings", "tie_embeddings", True),
        *_END_IDS,
    ),
    demanded={"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False},
    read=lambda raw, _: {"activation": activation(raw, "activation_function", "gelu_new")},
    write=lambda c: {"activation_function": HF_ACTIVATIONS[c.activation], "embd_pdrop": c.dropout},
    rules=(
        Rule("wte.weight", "embedding/embeddings"),
        Rule("wpe.weight", "positions/embeddings"),
        *layer_norm("h.{i}.ln_1", "block_{i}/attention_norm"),
        # Conv1D's kernels are (in, out), as ours.
        Rule("h.{i}.attn.c_attn.weight", _each("block_{i}/attention/{}/kernel"), joined(1)),
        Rule("h.{i}.attn.c_attn.bias", _each("block_{i}/attention/{}/bias"), joined(0)),
        Rule("h.{i}.attn.c_proj.weight", "block_{i}/attention/output/kernel"),
        Rule("h.{i}.attn.c_proj.bias", "block_{i}/attention/output/bias"),
        *layer_norm("h.{i}.ln_2", "block_{i}/feedforward_norm"),
        Rule("h.{i}.mlp.c_fc.weight", "block_{i}/feedforward/up/kernel"),
        Rule("h.{i}.mlp.c_fc.bias", "block_{i}/feedforward/up/bias"),
        Rule("h.{i}.mlp.c_proj.weight", "block_{i}/feedforward/down/kernel"),
        Rule("h.{i}.mlp.c_proj.bias", "block_{i}/feedforward/down/bias"),
        *layer_norm("ln_f", "final_norm"),
        Rule("lm_head.weight", "lm_head/kernel", TRANSPOSED, outside=True),
    ),
    prefix="transformer.",
    headless=(None,),
    heads={"causal_lm": "GPT2LMHeadModel", None: "GPT2Model"},
    ignored=(r"\.attn\.(masked_)?bias$",),
    tied={"lm_head.weight": "wte.weight"},
)

_LLAMA = Dialect(
    fields=(
        Field("vocab_size", "vocab_size"),
        Field("num_hidden_layers", "num_layers"),
        Field("num_attention_heads", "num_heads"),
        Field("num_key_value_heads", "num_kv_heads", None),
        Field("head_dim", "head_dim", None),
        Field("hidden_size", "hidden_dim"),
        Field("intermediate_size", "intermediate_dim"),
        Field("max_position_embeddings", "max_length", 2048),
        Field("rms_norm_eps", "norm_epsilon", 1e-6),
        Field("attention_dropout", "attention_dropout", 0.0),
        Field("initializer_range", "initializer_range", 0.02),
        Field("tie_word_embeddings", "tie_embeddings", False),
        Field("attention_bias", "use_bias", False),
        Field("mlp_bias", "use_feedforward_bias", False),
        *_END_IDS,
    ),
    fixed={"position": "rotary", "norm": "rms_norm"},
    demanded={"pretraining_tp": 1},
    read=lambda raw, _: {"activation": gated_activation(raw, "hidden_act", "silu"), **read_rope(raw)},
    write=lambda c: {"hidden_act": HF_ACTIVATIONS[GATED[c.activation]], **write_rope(c)},
    rules=(
        Rule("embed_tokens.weight", "embedding/embeddings"),
        Rule("layers.{i}.input_layernorm.weight", "block_{i}/attention_norm/scale"),
        *linear("layers.{i}.self_attn.q_proj", "block_{i}/attention/query"),
        *linear("layers.{i}.self_attn.k_proj", "block_{i}/attention/key"),
        *linear("layers.{i}.self_attn.v_proj", "block_{i}/attention/value"),
        *linear("layers.{i}.self_attn.o_proj", "block_{i}/attention/output"),
        Rule("layers.{i}.self_attn.q_norm.weight", "block_{i}/attention/query_norm/scale"),
        Rule("layers.{i}.self_attn.k_norm.weight", "block_{i}/attention/key_norm/scale"),
        Rule("layers.{i}.post_attention_layernorm.weight", "block_{i}/feedforward_norm/scale"),
        *linear("layers.{i}.mlp.gate_proj", "block_{i}/feedforward/gate"),
        *linear("layers.{i}.mlp.up_proj", "block_{i}/feedforward/up"),
        *linear("layers.{i}.mlp.down_proj", "block_{i}/feedforward/down"),
        Rule("norm.weight", "final_norm/scale"),
        Rule("lm_head.weight", "lm_head/kernel", TRANSPOSED, outside=True),
    ),
    prefix="model.",
    headless=(None,),
    heads={"causal_lm": "LlamaForCausalLM", None: "LlamaModel"},
    ignored=(r"rotary_emb\.inv_freq$",),
    tied={"lm_head.weight": "embed_tokens.weight"},
)


def _without(*ours: str) -> tuple[Field, ...]:
    return tuple(entry for entry in _LLAMA.fields if entry.ours not in ours)


_MISTRAL = replace(
    _LLAMA,
    fields=(*_without("use_bias", "use_feedforward_bias"), Field("sliding_window", "sliding_window", None)),
    fixed={**_LLAMA.fixed, "use_bias": False},
    demanded={},
    heads={"causal_lm": "MistralForCausalLM", None: "MistralModel"},
)
_QWEN3 = replace(
    _LLAMA,
    fields=_without("use_feedforward_bias"),
    fixed={**_LLAMA.fixed, "use_feedforward_bias": False, "qk_norm": True},
    demanded={},
    read=lambda raw, names: {**_LLAMA.read(raw, names), "sliding_window": qwen_window(raw)},
    write=lambda c: {**_LLAMA.write(c), **qwen_layers(c)},
    heads={"causal_lm": "Qwen3ForCausalLM", None: "Qwen3Model"},
)
_QWEN2 = replace(
    _QWEN3,
    fields=_without("use_bias", "use_feedforward_bias"),
    fixed={**_LLAMA.fixed, "use_bias": False, "use_qkv_bias": True},
    heads={"causal_lm": "Qwen2ForCausalLM", None: "Qwen2Model"},
)


# GGUF, of the llama architecture.

LLAMA3_FACTORS = (8.0, 32.0, 16.0, 4.0, 2.0, 64.0)  # of Llama 3.1, Llama 3.2, and others like them


def read_gguf(raw: Mapping[str, Any], shapes: Collection[str]) -> dict[str, Any]:
    """What a GGUF file says through its tensors and through several fields at once.

    Raises:
        ValueError: another architecture, features rotated in part, or a scaling we do not have.
    """
    if (kind := raw.get("general.architecture")) != "llama":
        raise ValueError(f"general.architecture: got {kind!r}; accepted: 'llama'")
    assert isinstance(shapes, Mapping)
    if "token_embd.weight" not in shapes:
        raise ValueError("token_embd.weight: not in the file; accepted: a table of tokens")
    if (heads := integer(raw, "llama.attention.head_count", 0)) < 1:
        raise ValueError(f"llama.attention.head_count: got {heads}; accepted: a positive integer")
    head_dim = integer(raw, "llama.attention.key_length", integer(raw, "llama.embedding_length", 0) // heads)
    for name in ("llama.rope.dimension_count", "llama.attention.value_length"):
        if raw.get(name, head_dim) != head_dim:
            raise ValueError(f"{name}: got {raw[name]}; accepted: {head_dim}")
    if (theta := number(raw, "llama.rope.freq_base", 10_000.0)) <= 0:
        raise ValueError(f"llama.rope.freq_base: got {theta}; accepted: a positive number")
    has_bias = {part: f"blk.0.{part}.bias" in shapes for part in ("attn_output", "attn_q", "ffn_up")}
    return {
        "vocab_size": (shapes["token_embd.weight"] or (0,))[0],
        "tie_embeddings": "output.weight" not in shapes,
        "use_bias": has_bias["attn_output"],
        "use_qkv_bias": has_bias["attn_q"],
        "use_feedforward_bias": has_bias["ffn_up"],
        "rope_scaling": _scaling(raw, head_dim, theta),
    }


def _scaling(raw: Mapping[str, Any], head_dim: int, theta: float) -> dict[str, Any] | None:
    if (factors := raw.get("rope_freqs")) is not None:  # put there by whoever reads the file
        if np.shape(factors) != (head_dim // 2,):
            raise ValueError(f"rope_freqs.weight: got {np.size(factors)} factors; accepted: {head_dim // 2}")
        return _llama3(np.asarray(factors), head_dim, theta)
    kind = raw.get("llama.rope.scaling.type", "none")
    if kind == "none":
        return None
    if kind not in ("linear", "yarn"):
        raise ValueError(f"llama.rope.scaling.type: got {kind!r}; accepted: 'none', 'linear', 'yarn'")
    scaling = {"rope_type": kind, "factor": raw.get("llama.rope.scaling.factor")}
    if kind == "yarn":
        original = "llama.rope.scaling.original_context_length"
        scaling["original_max_position_embeddings"] = raw.get(original, raw["llama.context_length"])
    return scaling


def _llama3(factors: np.ndarray, head_dim: int, theta: float) -> dict[str, Any]:
    """The scaling whose factors these are: llama.cpp keeps the factors and not what they come from. Those of the
    published models are known again, so that they can be saved for transformers; any others stay factors."""
    turns = 8192 * theta ** (-np.arange(0, head_dim, 2) / head_dim) / (2 * math.pi)
    for factor in LLAMA3_FACTORS:
        keep = np.clip((turns - 1) / 3, 0, 1)
        if factors.shape == keep.shape and np.allclose(1 / (keep + (1 - keep) / factor), factors, rtol=1e-4):
            scaling = {"rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
            return {**scaling, "original_max_position_embeddings": 8192}
    return {"rope_type": "factors", "factors": [shortest(factor) for factor in factors]}


def _gguf_rules(c: GPTConfig) -> tuple[Rule, ...]:
    """llama.cpp's names; queries and keys stand in pairs."""
    query, key = paired_rows(c.num_heads), paired_rows(c.num_kv_heads or c.num_heads)
    block, attention = "block_{i}/", "block_{i}/attention/"
    return (
        Rule("token_embd.weight", "embedding/embeddings"),
        Rule("blk.{i}.attn_norm.weight", block + "attention_norm/scale"),
        Rule("blk.{i}.attn_q.weight", attention + "query/kernel", query),
        Rule("blk.{i}.attn_q.bias", attention + "query/bias", query),
        Rule("blk.{i}.attn_k.weight", attention + "key/kernel", key),
        Rule("blk.{i}.attn_k.bias", attention + "key/bias", key),
        *linear("blk.{i}.attn_v", attention + "value"),
        *linear("blk.{i}.attn_output", attention + "output"),
        Rule("blk.{i}.ffn_norm.weight", block + "feedforward_norm/scale"),
        *linear("blk.{i}.ffn_gate", block + "feedforward/gate"),
        *linear("blk.{i}.ffn_up", block + "feedforward/up"),
        *linear("blk.{i}.ffn_down", block + "feedforward/down"),
        Rule("output_norm.weight", "final_norm/scale"),
        Rule("output.weight", "lm_head/kernel", TRANSPOSED, outside=True),
    )


_GGUF = Dialect(
    fields=(
        Field("llama.block_count", "num_layers"),
        Field("llama.attention.head_count", "num_heads"),
        Field("llama.attention.head_count_kv", "num_kv_heads", None),
        Field("llama.attention.key_length", "head_dim", None),
        Field("llama.embedding_length", "hidden_dim"),
        Field("llama.feed_forward_length", "intermediate_dim"),
        Field("llama.context_length", "max_length"),
        Field("llama.attention.layer_norm_rms_epsilon", "norm_epsilon"),
        Field("llama.rope.freq_base", "rope_theta", 10_000.0),
        Field("tokenizer.ggml.bos_token_id", "bos_token_id", None),
        Field("tokenizer.ggml.eos_token_id", "eos_token_id", None),
        Field("tokenizer.ggml.padding_token_id", "pad_token_id", None),
    ),
    fixed={**_LLAMA.fixed, "activation": "swiglu"},
    demanded={"llama.expert_count": 0},
    read=read_gguf,
    rules=_gguf_rules,
    heads={"causal_lm": "llama"},
    ignored=(r"^rope_freqs\.weight$",),  # rope_scaling has them
    tied={"output.weight": "token_embd.weight"},
)

GPT.dialects = {
    "gpt2": _GPT2,
    "llama": _LLAMA,
    "mistral": _MISTRAL,
    "qwen2": _QWEN2,
    "qwen3": _QWEN3,
    "gguf": _GGUF,
}


# KerasHub.

_KERAS_SILENT = ("initializer_range", "bos_token_id", "eos_token_id", "pad_token_id")

_KERAS_GPT2 = Dialect(
    fields=hub.FIELDS,
    silent=_KERAS_SILENT,
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


# Llama and its like.


def _keras_llama_rules(c: Any) -> tuple[Rule, ...]:
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


_LLAMA3_SCALING = {  # ours: theirs
    "factor": "rope_frequency_adjustment_factor",
    "low_freq_factor": "rope_low_freq_factor",
    "high_freq_factor": "rope_high_freq_factor",
    "original_max_position_embeddings": "rope_pretraining_sequence_length",
}


def _read_keras_llama(raw: Mapping[str, Any], _: Any) -> dict[str, Any]:
    given = {ours: raw.get(theirs) for ours, theirs in _LLAMA3_SCALING.items()}
    if given["factor"] is None:
        return {"rope_scaling": None, "max_length": 2048}
    length = int(given["original_max_position_embeddings"] * given["factor"])
    return {"rope_scaling": {"rope_type": "llama3", **given}, "max_length": length}


def _write_keras_llama(c: Any) -> dict[str, Any]:
    scaling = c.rope_scaling or {}
    if scaling.get("rope_type", "llama3") != "llama3":
        raise ValueError(f"rope_scaling: got rope_type {scaling['rope_type']!r}; accepted: 'llama3', or None")
    return {theirs: scaling.get(ours) for ours, theirs in _LLAMA3_SCALING.items()}


def _read_linear(raw: Mapping[str, Any], _: Any) -> dict[str, Any]:
    factor = raw["rope_scaling_factor"]
    scaling = None if factor == 1 else {"rope_type": "linear", "factor": factor}
    return {"rope_scaling": scaling, "max_length": 2048}


def _write_linear(c: Any) -> dict[str, Any]:
    scaling = c.rope_scaling or {"rope_type": "linear", "factor": 1.0}
    if scaling["rope_type"] != "linear":
        raise ValueError(f"rope_scaling: got rope_type {scaling['rope_type']!r}; accepted: 'linear', or None")
    return {"rope_scaling_factor": scaling["factor"]}


_KERAS_LLAMA = Dialect(
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
    demanded={"rope_position_scaling_factor": 1.0},  # their LlamaRotaryEmbedding computes the same for any value
    read=_read_keras_llama,
    write=_write_keras_llama,
    rules=_keras_llama_rules,
    silent=(*_KERAS_SILENT, "max_length"),
    heads={None: "LlamaBackbone", "causal_lm": "LlamaCausalLM"},
    prefix="backbone.",
    ignored=(r"^token_embedding\.reverse_embeddings$",),  # without a head
)

_KERAS_QWEN3 = replace(
    _KERAS_LLAMA,
    fields=(
        *_KERAS_LLAMA.fields,
        Field("head_dim", "head_dim", None),
        Field("sliding_window_size", "sliding_window", None),
    ),
    fixed={**_KERAS_LLAMA.fixed, "qk_norm": True},
    demanded={},
    read=_read_linear,
    write=_write_linear,
    heads={None: "Qwen3Backbone", "causal_lm": "Qwen3CausalLM"},
)

_KERAS_QWEN = replace(
    _KERAS_QWEN3,
    fields=_KERAS_LLAMA.fields,
    fixed={**_KERAS_LLAMA.fixed, "use_qkv_bias": True},
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

_KERAS_MISTRAL = replace(
    _KERAS_LLAMA,
    fields=(
        *(entry for entry in _KERAS_LLAMA.fields if entry.ours != "tie_embeddings"),
        Field("sliding_window", "sliding_window", None),
    ),
    fixed={**_KERAS_LLAMA.fixed, "tie_embeddings": False},
    demanded={},
    read=lambda raw, _: {**_read_linear(raw, _), "head_dim": raw["head_dim"]},
    write=lambda c: {
        **_write_linear(c),
        "head_dim": None if c.head_dim * c.num_heads == c.hidden_dim else c.head_dim,
    },
    heads={None: "MistralBackbone", "causal_lm": "MistralCausalLM"},
)

GPT.keras_hub_dialects = {  # where several can hold a config, the first is taken
    "GPT2": _KERAS_GPT2,
    "Llama": _KERAS_LLAMA,
    "Llama3": replace(_KERAS_LLAMA, heads={None: "Llama3Backbone", "causal_lm": "Llama3CausalLM"}),
    "Mistral": _KERAS_MISTRAL,
    "Qwen": _KERAS_QWEN,
    "Qwen3": _KERAS_QWEN3,
}
