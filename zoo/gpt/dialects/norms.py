"""Tables of models with Llama's names that differ in norms, soft caps and positions: Gemma, OLMo, Cohere and GLM."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ....weights.rules import Field
from ...huggingface import integer, number
from ...huggingface_layers import (
    layers_of,
    read_kinds,
    read_rope,
    read_ropes,
    write_kinds,
    write_ropes,
)
from ...layer_kinds import FULL
from ..config import GPTConfig
from .common import reading, special_ids
from .llama import (
    LLAMA,
    NO_BIAS,
    NO_CLASSES,
    NORMS,
    fields_with,
    kv_heads,
    like,
    llama_rules,
    longest,
    partial_rope,
    rope,
    writing_gated,
)

OF_BRANCHES = {
    "post_attention_layernorm": "attention_output_norm",
    "post_feedforward_layernorm": "feedforward_output_norm",
}
AROUND_BRANCHES = {
    **OF_BRANCHES,
    "input_layernorm": "attention_norm",
    "pre_feedforward_layernorm": "feedforward_norm",
}

# Gemma: embeddings times the root of their width, and norms whose factor is 1 + weight.


def _gemma_fields(*changed: Field, heads: int = 4) -> tuple[Field, ...]:
    own = (kv_heads(heads), Field("head_dim", "head_dim", 256), longest(8192), *special_ids(2, 1, 0))
    tied = Field("tie_word_embeddings", "tie_embeddings", True)
    return fields_with(*own, tied, *changed, without=("use_feedforward_bias",))


def _gemma_scale(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {"embedding_scale": math.sqrt(integer(raw, "hidden_size", 1))}


def _no_gelu(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return `raw` with the tanh approximation, which the first files of Gemma call "gelu"."""
    return {**raw, "hidden_act": "gelu_pytorch_tanh"} if raw.get("hidden_act") == "gelu" else raw


_GEMMA = {"norm": "rms_norm_unit_offset", "use_feedforward_bias": False}
_read_gemma = reading("gelu_pytorch_tanh", gated=True, more=lambda raw: {**read_rope(raw, 8192), **_gemma_scale(raw)})
GEMMA = like(
    LLAMA,
    "Gemma",
    fields=_gemma_fields(heads=16),
    fixed=_GEMMA,
    demanded={"use_bidirectional_attention": False},
    read=lambda raw, names: _read_gemma(_no_gelu(raw), names),
    write=lambda c: {**writing_gated(c), "use_bidirectional_attention": None},
)


def _every(raw: Mapping[str, Any], pattern: int) -> list[bool]:
    """Return which layers are local if every `pattern`-th one is not."""
    return [(i + 1) % max(1, pattern) != 0 for i in layers_of(raw)]


def _read_scale(raw: Mapping[str, Any]) -> dict[str, Any]:
    scalar = number(raw, "query_pre_attn_scalar", 256)
    if scalar <= 0:
        raise ValueError(f"query_pre_attn_scalar: got {scalar!r}; accepted: a positive number")
    return {"attention_scale": scalar**-0.5, **_gemma_scale(raw)}


def _write_scale(c: GPTConfig) -> dict[str, Any]:
    scale = (c.head_dim or 1) ** -0.5 if c.attention_scale is None else c.attention_scale
    scalar = next((n for n in (round(scale**-2), scale**-2) if n**-0.5 == scale), scale**-2)
    return {"query_pre_attn_scalar": scalar}


GEMMA2 = like(
    GEMMA,
    "Gemma2",
    fields=_gemma_fields(
        Field("attn_logit_softcapping", "attention_softcap", 50.0, nullable=True),
        Field("final_logit_softcapping", "logits_softcap", 30.0, nullable=True),
    ),
    fixed={"norm_branches": True},
    read=reading(
        "gelu_pytorch_tanh",
        "hidden_activation",
        gated=True,
        more=lambda raw: {
            **read_rope(raw, 8192),
            **read_kinds(raw, _every(raw, 2), window=4096),
            **_read_scale(raw),
        },
    ),
    write=lambda c: {
        **writing_gated(c, entry="hidden_activation"),
        **write_kinds(c),
        **_write_scale(c),
        "use_bidirectional_attention": None,
    },
    rules=llama_rules(AROUND_BRANCHES),
)
GEMMA3 = like(
    GEMMA2,
    "Gemma3",
    *NO_CLASSES,
    fields=_gemma_fields(longest(131_072), Field("final_logit_softcapping", "logits_softcap", None, nullable=True)),
    fixed={"norm_branches": True, "qk_norm": True},
    demanded={"use_bidirectional_attention": False, "attn_logit_softcapping": None},
    read=reading(
        "gelu_pytorch_tanh",
        "hidden_activation",
        gated=True,
        more=lambda raw: {
            **read_ropes(raw, 131_072, 1_000_000.0, 10_000.0),
            **read_kinds(raw, _every(raw, integer(raw, "sliding_window_pattern", 6)), window=4096),
            **_read_scale(raw),
        },
    ),
    write=lambda c: {**writing_gated(c, write_ropes(c), "hidden_activation"), **write_kinds(c), **_write_scale(c)},
)
GEMMA3 = replace(GEMMA3, heads={**GEMMA3.heads, None: "Gemma3TextModel", "sentence_embedding": "Gemma3TextModel"})
GEMMA3 = replace(GEMMA3, other_classes={"Gemma3TextModel": None})

# OLMo 2 and 3: norms of the branches' outputs, and one over all heads of queries or keys.

OLMO2 = like(
    LLAMA,
    "Olmo2",
    "token_classification",
    fields=fields_with(
        Field("rms_norm_eps", "norm_epsilon", 1e-5), *special_ids(None, 50_279, 1), without=("use_feedforward_bias",)
    ),
    fixed={
        **{"use_feedforward_bias": False, "qk_norm": True, "qk_norm_joined": True},
        **{"norm_first": False, "norm_branches": True},
    },
    rules=llama_rules(OF_BRANCHES),
)


def _read_olmo3(raw: Mapping[str, Any]) -> dict[str, Any]:
    ropes = read_ropes(raw, 2048, 500_000.0, 500_000.0, old="")  # rope_theta is that of full attention alone
    same = ropes["rope_scaling"] is None and ropes["sliding_rope_theta"] == ropes["rope_theta"]
    kinds = read_kinds(raw, _every(raw, 4), window=4096)
    return {**ropes, **({"sliding_rope_theta": None} if same else {}), **kinds}


OLMO3 = like(
    OLMO2,
    "Olmo3",
    "token_classification",
    read=reading("silu", gated=True, more=_read_olmo3),
    write=lambda c: {**writing_gated(c, write_ropes(c, None)), **write_kinds(c)},
)

# Cohere: both branches read the same normalized input, and the norm has no bias.

_COHERE = (
    Field("layer_norm_eps", "norm_epsilon", 1e-5),
    Field("logit_scale", "logits_scale", 0.0625),
    Field("tie_word_embeddings", "tie_embeddings", True),
    kv_heads(None),
    longest(8192),
    *special_ids(5, 255_001, 0),
)
COHERE = like(
    LLAMA,
    "Cohere",
    *NO_CLASSES,
    fields=fields_with(*_COHERE, without=("use_feedforward_bias", "head_dim")),
    fixed={
        **{"position": "rotary_interleaved", "norm": "layer_norm_without_bias", "use_feedforward_bias": False},
        **{"parallel": True, "shared_norm": True},
    },
    demanded={"use_qk_norm": False},
    read=reading("silu", gated=True, more=rope(8192, 500_000.0)),
    rules=tuple(
        replace(rule, ours=rule.ours.replace("_norm/scale", "_norm/gamma")) if isinstance(rule.ours, str) else rule
        for rule in llama_rules({"input_layernorm": "attention_norm"})
    ),
)


def _read_cohere2(raw: Mapping[str, Any]) -> dict[str, Any]:
    kinds = read_kinds(raw, _every(raw, integer(raw, "sliding_window_pattern", 4)), window=4096)
    of_layers = kinds["layer_types"] or (FULL if kinds["sliding_window"] is None else "",) * len(layers_of(raw))
    unrotated = tuple(i for i, kind in enumerate(of_layers) if kind == FULL)
    return {**read_rope(raw, 8192), **kinds, "unrotated_layers": unrotated}


COHERE2 = like(
    COHERE,
    "Cohere2",
    *NO_CLASSES,
    demanded={},
    read=reading("silu", gated=True, more=_read_cohere2),
    write=lambda c: {**writing_gated(c), **write_kinds(c)},
)

# GLM: half of the features are rotated, in neighboring pairs.

GLM = like(
    LLAMA,
    "Glm",
    fields=fields_with(
        *(kv_heads(2), Field("head_dim", "head_dim", 128), longest(131_072)),
        *(Field("rms_norm_eps", "norm_epsilon", 1.5625e-07), Field("attention_bias", "use_qkv_bias", True)),
        *special_ids(None, (151_329, 151_336, 151_338), 151_329),
        without=NO_BIAS,
    ),
    fixed={"position": "rotary_interleaved", "use_bias": False},
    read=reading("silu", gated=True, more=rope(131_072, partial=0.5)),
    write=lambda c: writing_gated(c, partial_rope(c)),
    rules=llama_rules(join_gate=True),
)
GLM4 = like(
    GLM,
    "Glm4",
    fixed={"norm_branches": True},
    rules=llama_rules(
        {
            **NORMS,
            "post_self_attn_layernorm": "attention_output_norm",
            "post_mlp_layernorm": "feedforward_output_norm",
        },
        join_gate=True,
    ),
)
