"""Dialects of Hugging Face checkpoints for GPT with a mixture of experts: Mixtral, Qwen-MoE, OLMoE and gpt-oss.

A file has three tensors for every expert, as published and as ``save_pretrained`` writes them, or two that stack those
of all experts, as transformers 5 has them in memory. Both are read; the former are written. Files of gpt-oss have
stacked tensors only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ....layers.experts import ALPHA, CLAMPED, LIMIT
from ....weights.rules import Field, Rule, linear
from ....weights.transforms import ALTERNATING, TRANSPOSED, joined, permuted
from ...huggingface import flag, integer, labels, number_of_labels
from ...huggingface_layers import layers_of, read_kinds, read_qwen, read_rope, write_kinds, write_qwen, write_rope
from ..config import GPTConfig
from .common import heads_of, reading, special_ids
from .llama import LLAMA, NO_BIAS, NO_CLASSES, fields_with, kv_heads, like, longest, rope

OURS = "block_{i}/feedforward"
DENSE: Any = LLAMA.rules  # of everything but the experts
ROUTING = (
    Field("num_experts_per_tok", "experts_per_token", 2),
    Field("router_aux_loss_coef", "router_loss", 0.001),
)


def _each(layer: str, gate: str, up: str, down: str) -> tuple[Rule, ...]:
    """Return the rules for a router and for the three linear layers, by these names, of every expert in `layer`."""
    names = {"gate": gate, "up": up, "down": down}
    return (
        Rule(f"{layer}.gate.weight", f"{OURS}/router/kernel", TRANSPOSED),
        *(
            Rule(f"{layer}.experts.{{j}}.{theirs}.weight", f"{OURS}/{ours}_kernel", TRANSPOSED)
            for ours, theirs in names.items()
        ),
    )


def _stacked(layer: str) -> tuple[Rule, ...]:
    """Return the rules for a router and for the stacked weights of all experts in `layer`."""
    both = (f"{OURS}/gate_kernel", f"{OURS}/up_kernel")
    return (
        Rule(f"{layer}.gate.weight", f"{OURS}/router/kernel", TRANSPOSED),
        Rule(f"{layer}.experts.gate_up_proj", both, joined(1, transposed=True)),
        Rule(f"{layer}.experts.down_proj", f"{OURS}/down_kernel", permuted(0, 2, 1)),
    )


STACKED = r"\.experts\.gate_up_proj$"


MIXTRAL = replace(
    LLAMA,
    fields=fields_with(
        *ROUTING,
        Field("num_local_experts", "num_experts", 8, synonym="num_experts"),
        Field("num_key_value_heads", "num_kv_heads", 8, nullable=True),
        Field("max_position_embeddings", "max_length", 131_072),
        Field("rms_norm_eps", "norm_epsilon", 1e-5),
        Field("sliding_window", "sliding_window", None),
        without=NO_BIAS,
    ),
    fixed={**LLAMA.fixed, "use_bias": False},
    demanded={"router_jitter_noise": 0.0},
    read=reading("silu", gated=True, more=rope(131_072, 1_000_000.0)),
    rules=(*DENSE, *_each("layers.{i}.block_sparse_moe", "w1", "w3", "w2")),
    layouts={STACKED: lambda _: (*DENSE, *_stacked("layers.{i}.block_sparse_moe"))},
    aliases={r"^(layers\.\d+)\.mlp\.": r"\1.block_sparse_moe."},
    **heads_of("Mixtral"),
)


def _read_dense_layers(raw: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the numbers of the layers without experts."""
    layers, step = integer(raw, "num_hidden_layers", 24), integer(raw, "decoder_sparse_step", 1)
    named = raw.get("mlp_only_layers") or []
    if step < 1:
        raise ValueError(f"decoder_sparse_step: got {step}; accepted: a positive integer")
    if not isinstance(named, list) or not all(isinstance(number, int) for number in named):
        raise ValueError(f"mlp_only_layers: got {named!r}; accepted: a list of numbers of layers")
    return tuple(i for i in range(layers) if i in named or (i + 1) % step)


def _write_qwen(c: GPTConfig) -> dict[str, Any]:
    layers = {"num_hidden_layers": c.num_layers}
    steps = range(1, c.num_layers + 1)
    step = next((s for s in steps if _read_dense_layers({**layers, "decoder_sparse_step": s}) == c.dense_layers), None)
    named = list(c.dense_layers) if step is None else []
    return {**LLAMA.write(c), "decoder_sparse_step": step or 1, "mlp_only_layers": named}


def _read_qwen2(raw: Mapping[str, Any]) -> dict[str, Any]:
    layers = integer(raw, "num_hidden_layers", 24)
    kinds, most = raw.get("layer_types"), integer(raw, "max_window_layers", 28)
    if kinds is None and raw.get("use_sliding_window"):
        kinds = ["full_attention" if i % 2 or i >= most else "sliding_attention" for i in range(layers)]
    return {
        **rope(32_768)(raw),
        **read_qwen({**raw, "layer_types": kinds}),
        "dense_layers": _read_dense_layers(raw),
        "use_qkv_bias": flag(raw, "qkv_bias", True),
    }


def _read_qwen3(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **rope(32_768)(raw),
        **read_qwen({**raw, "layer_types": None, "max_window_layers": 0}),
        "dense_layers": _read_dense_layers(raw),
    }


_MLP = ("layers.{i}.mlp", "gate_proj", "up_proj", "down_proj")
_SHARED = (
    *(
        rule
        for part in ("gate", "up", "down")
        for rule in linear(f"layers.{{i}}.mlp.shared_expert.{part}_proj", f"{OURS}/shared/{part}")
    ),
    *linear("layers.{i}.mlp.shared_expert_gate", f"{OURS}/shared_gate"),
)


def _qwen(*changed: Field, without: tuple[str, ...], experts: int, width: int, chosen: int) -> tuple[Field, ...]:
    return fields_with(
        Field("num_experts_per_tok", "experts_per_token", chosen),
        Field("router_aux_loss_coef", "router_loss", 0.001),
        Field("num_experts", "num_experts", experts, synonym="num_local_experts"),
        Field("moe_intermediate_size", "expert_intermediate_dim", width),
        Field("norm_topk_prob", "normalize_experts", False),
        Field("max_position_embeddings", "max_length", 32_768),
        *special_ids(None, None),
        *changed,
        without=without,
    )


QWEN2_MOE = replace(
    LLAMA,
    fields=_qwen(
        Field("num_key_value_heads", "num_kv_heads", 16, nullable=True),
        Field("intermediate_size", "intermediate_dim", 5632),
        Field("shared_expert_intermediate_size", "shared_expert_dim", 5632),
        without=NO_BIAS,
        **{"experts": 60, "width": 1408, "chosen": 4},
    ),
    fixed={**LLAMA.fixed, "use_bias": False},
    read=reading("silu", gated=True, more=_read_qwen2),
    write=lambda c: {
        **_write_qwen(c),
        "qkv_bias": c.use_qkv_bias,
        **write_qwen(c),
        "sliding_window": c.sliding_window or 0,
    },
    rules=(*DENSE, *_each(*_MLP), *_SHARED),
    layouts={STACKED: lambda _: (*DENSE, *_stacked(_MLP[0]), *_SHARED)},
    **heads_of("Qwen2Moe"),
)
QWEN3_MOE = replace(
    LLAMA,
    fields=_qwen(
        Field("num_key_value_heads", "num_kv_heads", 4),
        Field("intermediate_size", "intermediate_dim", 6144),
        without=("use_feedforward_bias",),
        **{"experts": 128, "width": 768, "chosen": 8},
    ),
    fixed={**LLAMA.fixed, "use_feedforward_bias": False, "qk_norm": True},
    read=reading("silu", gated=True, more=_read_qwen3),
    write=lambda c: {
        **_write_qwen(c),
        "num_local_experts": c.num_experts,  # transformers 5; transformers 4 reads num_experts
        "sliding_window": c.sliding_window,
        "use_sliding_window": c.sliding_window is not None,
    },
    rules=(*DENSE, *_each(*_MLP)),
    layouts={STACKED: lambda _: (*DENSE, *_stacked(_MLP[0]))},
    **heads_of("Qwen3Moe"),
)
OLMOE = like(
    LLAMA,
    "Olmoe",
    *NO_CLASSES,
    fields=fields_with(
        Field("num_experts_per_tok", "experts_per_token", 8),
        Field("router_aux_loss_coef", "router_loss", 0.01),
        Field("num_experts", "num_experts", 64, synonym="num_local_experts"),
        Field("norm_topk_prob", "normalize_experts", False),
        Field("rms_norm_eps", "norm_epsilon", 1e-5),
        *(longest(4096), *special_ids(None, 50_279, 1)),
        without=("use_feedforward_bias",),
    ),
    fixed={"use_feedforward_bias": False, "qk_norm": True, "qk_norm_joined": True},
    demanded={"clip_qkv": None},
    read=reading("silu", gated=True, more=rope(4096)),
    rules=(*DENSE, *_each(*_MLP)),
    layouts={STACKED: lambda _: (*DENSE, *_stacked(_MLP[0]))},
)


def _read_gpt_oss(raw: Mapping[str, Any], _: Any) -> dict[str, Any]:
    if method := (raw.get("quantization_config") or {}).get("quant_method"):
        raise ValueError(
            f"quantization_config: got quant_method {method!r}; accepted: none, as save_pretrained of transformers "
            "writes it for a model that was loaded with Mxfp4Config(dequantize=True)"
        )
    yarn = {"rope_type": "yarn", "factor": 32.0, "truncate": False, "original_max_position_embeddings": 4096}
    scaled = raw.get("rope_parameters") or raw.get("rope_scaling")
    sliding = [i % 2 == 0 for i in layers_of(raw)]
    return {
        "num_classes": number_of_labels(raw),
        **read_rope(raw if scaled else {**raw, "rope_parameters": yarn}, 131_072, 150_000.0),
        **read_kinds(raw, sliding, window=128),
    }


_BOTH = (f"{OURS}/gate", f"{OURS}/up")
GPT_OSS = like(
    LLAMA,
    "GptOss",
    fields=fields_with(
        Field("num_experts_per_tok", "experts_per_token", 4),
        Field("router_aux_loss_coef", "router_loss", 0.001),
        Field("num_local_experts", "num_experts", 128, synonym="num_experts"),
        Field("head_dim", "head_dim", 64, nullable=True),
        Field("attention_bias", "use_bias", True),
        Field("rms_norm_eps", "norm_epsilon", 1e-5),
        *(kv_heads(8), longest(131_072), *special_ids(None, None)),
        without=("use_feedforward_bias",),
    ),
    fixed={
        **{"activation": CLAMPED, "router_bias": True, "use_feedforward_bias": True},
        **{"attention_sinks": True},
    },
    demanded={"swiglu_alpha": ALPHA, "swiglu_limit": LIMIT, "hidden_act": "silu"},
    read=_read_gpt_oss,
    write=lambda c: {**write_rope(c), **labels(c), **write_kinds(c)},
    rules=(
        *DENSE,
        Rule("layers.{i}.self_attn.sinks", "block_{i}/attention/sinks"),
        *linear("layers.{i}.mlp.router", f"{OURS}/router"),
        Rule("layers.{i}.mlp.experts.gate_up_proj", tuple(f"{name}_kernel" for name in _BOTH), ALTERNATING),
        Rule("layers.{i}.mlp.experts.gate_up_proj_bias", tuple(f"{name}_bias" for name in _BOTH), ALTERNATING),
        Rule("layers.{i}.mlp.experts.down_proj", f"{OURS}/down_kernel"),
        Rule("layers.{i}.mlp.experts.down_proj_bias", f"{OURS}/down_bias"),
    ),
)
