"""Dialects of KerasHub's Gemma, Gemma 3 (text), Phi-3 and Mixtral, after keras-hub 0.32 as in ``keras_hub.py``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...weights.rules import Dialect, Field, Rule
from ...weights.tensors import Shape
from ...weights.transforms import Transform
from .. import keras_hub_rules as hub
from ..layer_kinds import FULL, SLIDING

SILENT = ("initializer_range", "scale_initial_outputs", "bos_token_id", "eos_token_id", "pad_token_id")
_SIZES = (
    Field("vocabulary_size", "vocab_size"),
    Field("num_layers", "num_layers"),
    Field("num_query_heads", "num_heads"),
    Field("num_key_value_heads", "num_kv_heads"),
    Field("hidden_dim", "hidden_dim"),
    Field("dropout", "dropout"),
)


def _heads_first(heads: int) -> Transform:
    """Return a transform from KerasHub's (heads, width, dim) to (width, heads · dim)."""

    def shape(ours: Shape) -> Shape:
        return heads, ours[0], ours[1] // heads

    return Transform(
        lambda theirs, shapes: [theirs.transpose(1, 0, 2).reshape(shapes[0])],
        lambda ours: ours[0].reshape(ours[0].shape[0], heads, -1).transpose(1, 0, 2),
        lambda shapes: shape(shapes[0]),
    )


# Gemma 1 and 2, and Gemma 3: norms whose factor is 1 + weight, with an epsilon of 1e-6 in all blocks.


def _gemma_rules(c: Any) -> tuple[Rule, ...]:
    layer, attention = "transformer_layers.{i}.", "transformer_layers.{i}.attention."
    norms = {
        "pre_attention_norm": "attention_norm",
        "post_attention_norm": "attention_output_norm",
        "pre_ffw_norm": "feedforward_norm",
        "post_ffw_norm": "feedforward_output_norm",
        "attention.query_norm": "attention/query_norm",
        "attention.key_norm": "attention/key_norm",
    }
    heads = {"query": c.num_heads, "key": c.num_kv_heads, "value": c.num_kv_heads}
    parts = {"gating_ffw": "gate", "gating_ffw_2": "up", "ffw_linear": "down"}
    return (
        Rule("token_embedding.embeddings", "embedding/embeddings"),
        *(
            Rule(f"{attention}{part}_dense.kernel", f"block_{{i}}/attention/{part}/kernel", _heads_first(number))
            for part, number in heads.items()
        ),
        Rule(f"{attention}output_dense.kernel", "block_{i}/attention/output/kernel", hub.split_heads(0, c.num_heads)),
        *(Rule(f"{layer}{theirs}.scale", f"block_{{i}}/{ours}/scale") for theirs, ours in norms.items()),
        *(Rule(f"{layer}{theirs}.kernel", f"block_{{i}}/feedforward/{ours}/kernel") for theirs, ours in parts.items()),
        Rule("layer_norm.scale", "final_norm/scale"),
    )


def _read_gemma(raw: Mapping[str, Any], every: int, width: int = 1) -> dict[str, Any]:
    """Return the fields of a model; if it has a window, it applies to all layers but each `every`-th one."""
    if raw["use_post_ffw_norm"] != raw["use_post_attention_norm"]:
        given = raw["use_post_ffw_norm"]
        raise ValueError(f"use_post_ffw_norm: got {given}; accepted: use_post_attention_norm, {not given}")
    if not raw["query_head_dim_normalize"]:
        raise ValueError("query_head_dim_normalize: got False; accepted: True, as KerasHub 0.32 computes for False too")
    if raw["intermediate_dim"] % width:
        raise ValueError(f"intermediate_dim: got {raw['intermediate_dim']}; accepted: a multiple of {width}")
    windowed, layers = raw["use_sliding_window_attention"], range(raw["num_layers"])
    kinds = [FULL if (i + 1) % every == 0 else SLIDING for i in layers] if windowed else None
    return {
        "intermediate_dim": raw["intermediate_dim"] // width,
        "norm_branches": raw["use_post_ffw_norm"],
        "sliding_window": raw["sliding_window_size"] if windowed else None,
        "layer_types": kinds,
        "embedding_scale": math.sqrt(raw["hidden_dim"]),
        "max_length": 8192,
    }


def _write_gemma(c: Any, window: int, width: int = 1) -> dict[str, Any]:
    if c.attention_scale is not None and not math.isclose(c.attention_scale, c.head_dim**-0.5):
        raise ValueError(f"attention_scale: got {c.attention_scale}; accepted: {c.head_dim**-0.5}, or None")
    return {
        "query_head_dim_normalize": True,
        "intermediate_dim": c.intermediate_dim * width,
        "use_post_ffw_norm": c.norm_branches,
        "use_post_attention_norm": c.norm_branches,
        "use_sliding_window_attention": c.sliding_window is not None,
        "sliding_window_size": c.sliding_window or window,
    }


GEMMA = Dialect(
    fields=(
        *_SIZES,
        Field("head_dim", "head_dim"),
        Field("attention_logit_soft_cap", "attention_softcap", None),
        Field("final_logit_soft_cap", "logits_softcap", None),
    ),
    fixed={
        **{"position": "rotary", "rope_theta": 10_000.0, "activation": "geglu", "use_bias": False},
        **{"norm": "rms_norm_unit_offset", "norm_epsilon": 1e-6, "tie_embeddings": True},
    },
    demanded={"layer_norm_epsilon": 1e-6},  # KerasHub gives it to the last norm alone
    read=lambda raw, _: _read_gemma(raw, 2, width=2),
    write=lambda c: _write_gemma(c, 4096, width=2),
    rules=_gemma_rules,
    silent=(*SILENT, "max_length", "attention_scale"),  # the scale is checked by ``_write_gemma``
    heads={None: "GemmaBackbone", "causal_lm": "GemmaCausalLM"},
    prefix="backbone.",
)


def _read_gemma3(raw: Mapping[str, Any], _: Any) -> dict[str, Any]:
    if raw.get("vision_encoder") is not None:
        raise ValueError("vision_encoder: got one; accepted: None, for a model of texts")
    factor = raw["global_rope_scaling_factor"]
    return {
        **_read_gemma(raw, 6),
        "rope_scaling": None if factor == 1 else {"rope_type": "linear", "factor": factor},
        "sliding_rope_theta": 10_000.0,
    }


def _write_gemma3(c: Any) -> dict[str, Any]:
    return {
        **_write_gemma(c, 1024),
        **{"image_size": 896, "vision_encoder": None, f"{hub.TASK}preprocessor": None},
        "global_rope_scaling_factor": write_linear(c),
    }


def write_linear(c: Any) -> float:
    """Return the factor of linearly scaled positions, 1 for none."""
    scaling = c.rope_scaling or {"rope_type": "linear", "factor": 1.0}
    if scaling["rope_type"] != "linear":
        raise ValueError(f"rope_scaling: got rope_type {scaling['rope_type']!r}; accepted: 'linear', or None")
    return scaling["factor"]


GEMMA3 = replace(
    GEMMA,
    fields=(*GEMMA.fields, Field("use_query_key_norm", "qk_norm")),
    fixed={**GEMMA.fixed, "rope_theta": 1_000_000.0},
    demanded={
        "layer_norm_epsilon": 1e-6,
        "local_rope_scaling_factor": 1.0,
        "use_bidirectional_attention": False,
        "is_embedding_model": False,
    },
    read=_read_gemma3,
    write=_write_gemma3,
    heads={None: "Gemma3Backbone", "causal_lm": "Gemma3CausalLM"},
)


# Phi-3: as Llama, with one factor for each frequency; long texts have other factors.


def _read_phi3(raw: Mapping[str, Any], _: Any) -> dict[str, Any]:
    if raw["rope_scaling_type"] is None:
        return {"rope_scaling": None, "max_length": raw["max_sequence_length"]}
    scaling = {
        "rope_type": "longrope",
        "short_factor": list(raw["rope_scaling_short_factor"]),
        "long_factor": list(raw["rope_scaling_long_factor"]),
        "original_max_position_embeddings": raw["pretraining_sequence_length"],
        "max_position_embeddings": raw["max_sequence_length"],
    }
    return {"rope_scaling": scaling, "max_length": raw["pretraining_sequence_length"]}


def _write_phi3(c: Any) -> dict[str, Any]:
    scaling = c.rope_scaling
    if scaling is None:
        return {"rope_scaling_type": None, "max_sequence_length": c.max_length, "pretraining_sequence_length": 4096}
    if scaling["rope_type"] != "longrope":
        raise ValueError(f"rope_scaling: got rope_type {scaling['rope_type']!r}; accepted: 'longrope', or None")
    return {
        "rope_scaling_type": "su",
        "rope_scaling_short_factor": list(scaling["short_factor"]),
        "rope_scaling_long_factor": list(scaling["long_factor"]),
        "pretraining_sequence_length": scaling["original_max_position_embeddings"],
        "max_sequence_length": scaling["max_position_embeddings"],
    }


def _phi3_rules(c: Any) -> tuple[Rule, ...]:
    layer, heads = "transformer_layers.{i}.", {"query": c.num_heads, "key": c.num_kv_heads, "value": c.num_kv_heads}
    parts = {"gate": "gate", "intermediate": "up", "output": "down"}
    return (
        Rule("token_embedding.embeddings", "embedding/embeddings"),
        Rule("token_embedding.reverse_embeddings", "lm_head/kernel", outside=True),
        *(
            Rule(f"{layer}attention.{part}_dense.kernel", f"block_{{i}}/attention/{part}/kernel", hub.split_heads(1, n))
            for part, n in heads.items()
        ),
        Rule(
            f"{layer}attention.output_dense.kernel",
            "block_{i}/attention/output/kernel",
            hub.split_heads(0, c.num_heads),
        ),
        Rule(f"{layer}pre_attention_layernorm.scale", "block_{i}/attention_norm/scale"),
        Rule(f"{layer}post_attention_layernorm.scale", "block_{i}/feedforward_norm/scale"),
        *(
            Rule(f"{layer}feedforward_{theirs}_dense.kernel", f"block_{{i}}/feedforward/{ours}/kernel")
            for theirs, ours in parts.items()
        ),
        Rule("layer_norm.scale", "final_norm/scale"),
    )


PHI3 = Dialect(
    fields=(
        *_SIZES,
        Field("intermediate_dim", "intermediate_dim"),
        Field("rope_max_wavelength", "rope_theta"),
        Field("layer_norm_epsilon", "norm_epsilon"),
    ),
    fixed={
        **{"position": "rotary", "norm": "rms_norm", "activation": "swiglu", "use_bias": False},
        "tie_embeddings": False,
    },
    read=_read_phi3,
    write=_write_phi3,
    rules=_phi3_rules,
    silent=(*SILENT, "max_length"),
    heads={None: "Phi3Backbone", "causal_lm": "Phi3CausalLM"},
    prefix="backbone.",
    ignored=(r"^token_embedding\.reverse_embeddings$",),
)


# Mixtral: stacked kernels of experts.


def _mixtral_rules(c: Any) -> tuple[Rule, ...]:
    layer, ours = "transformer_layers.{i}.", "block_{i}/feedforward/"
    bank = f"{layer}_sparse_moe_block.expert_bank._expert_feedforward_"
    parts = {"gate": "gate", "intermediate": "up", "output": "down"}
    renamed = {
        "attention.": "_self_attention_layer.",
        "pre_attention_layernorm": "_self_attention_layernorm",
        "post_attention_layernorm": "_feedforward_layernorm",
    }
    rules = [rule for rule in _phi3_rules(c) if "feedforward/" not in str(rule.ours)]
    for old, new in renamed.items():
        rules = [replace(rule, theirs=rule.theirs.replace(layer + old, layer + new)) for rule in rules]
    return (
        *rules,
        Rule(f"{layer}_sparse_moe_block._sparse_feedforward_gate_dense.kernel", f"{ours}router/kernel"),
        *(Rule(f"{bank}{theirs}_dense", f"{ours}{mine}_kernel") for theirs, mine in parts.items()),
    )


def _read_mixtral(raw: Mapping[str, Any], _: Any) -> dict[str, Any]:
    factor = raw["rope_scaling_factor"]
    scaling = None if factor == 1 else {"rope_type": "linear", "factor": factor}
    return {"rope_scaling": scaling, "max_length": 2048, "expert_intermediate_dim": raw["intermediate_dim"]}


def _write_mixtral(c: Any) -> dict[str, Any]:
    if c.num_experts is None:
        raise ValueError("num_experts: got None; accepted: a number")
    return {"rope_scaling_factor": write_linear(c), "intermediate_dim": c.expert_intermediate_dim}


MIXTRAL = replace(
    PHI3,
    fields=(
        *PHI3.fields,
        Field("num_experts", "num_experts"),
        Field("top_k", "experts_per_token"),
        Field("router_aux_loss_coef", "router_loss"),
        Field("sliding_window", "sliding_window", None),
    ),
    fixed={**PHI3.fixed, "normalize_experts": True, "router_bias": False},
    demanded={"router_jitter_noise": 0.0},
    read=_read_mixtral,
    write=_write_mixtral,
    rules=_mixtral_rules,
    silent=(*SILENT, "max_length", "router_loss"),
    heads={None: "MixtralBackbone", "causal_lm": "MixtralCausalLM"},
)
