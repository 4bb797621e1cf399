"""Tables of models with Llama's names and layer normalization: StarCoder 2, StableLM, Nemotron and Phi."""

from __future__ import annotations

from dataclasses import replace

from ....weights.rules import Field
from ...huggingface import flag
from ...huggingface_layers import (
    read_rope,
    write_rope,
)
from .common import reading, special_ids, writing
from .llama import (
    LLAMA,
    MISTRAL,
    NO_BIAS,
    fields_with,
    kv_heads,
    like,
    llama_rules,
    longest,
    partial_rope,
    rope,
    writing_gated,
)

_LAYER_NORM = {"norm": "layer_norm", "use_bias": False}
STARCODER2 = like(
    MISTRAL,
    "Starcoder2",
    fields=fields_with(
        *(kv_heads(2), longest(4096), Field("sliding_window", "sliding_window", None, nullable=True)),
        *(Field("norm_epsilon", "norm_epsilon", 1e-5), Field("residual_dropout", "dropout", 0.0)),
        *(Field("use_bias", "use_bias", True), Field("tie_word_embeddings", "tie_embeddings", True)),
        Field("initializer_range", "initializer_range", 0.018042),
        *special_ids(50_256, 50_256),
        without=NO_BIAS,
    ),
    read=reading("gelu_pytorch_tanh", more=rope(4096)),
    write=writing(more=lambda c: {**write_rope(c), "embedding_dropout": c.dropout}),
    rules=llama_rules(with_bias=True, up="c_fc", down="c_proj"),
)
STARCODER2 = replace(STARCODER2, fixed={"position": "rotary", "norm": "layer_norm"})
STABLELM = like(
    LLAMA,
    "StableLm",
    fields=fields_with(
        *(kv_heads(32), longest(4096), Field("layer_norm_eps", "norm_epsilon", 1e-5)),
        *(Field("use_qkv_bias", "use_qkv_bias", False), Field("hidden_dropout", "dropout", 0.0)),
        *special_ids(0, 0),
        without=(*NO_BIAS, "head_dim"),
    ),
    fixed=_LAYER_NORM,
    demanded={"qk_layernorm": False},
    read=reading(
        "silu",
        gated=True,
        more=lambda raw: {
            **read_rope(raw, 4096, partial=0.25),
            **dict.fromkeys(("parallel", "shared_norm"), flag(raw, "use_parallel_residual", False)),
        },
    ),
    write=lambda c: {**writing_gated(c, partial_rope(c)), "use_parallel_residual": c.parallel},
    rules=llama_rules(with_bias=True),
)
NEMOTRON = like(
    LLAMA,
    "Nemotron",
    fields=fields_with(
        *(longest(4096), Field("norm_eps", "norm_epsilon", 1e-5)),
        Field("initializer_range", "initializer_range", 0.0134),
        *special_ids(2, 3),
    ),
    fixed={"norm": "layer_norm_unit_offset"},
    read=reading("relu2", more=rope(4096, partial=0.5)),
    write=writing(more=partial_rope),
    rules=llama_rules(with_bias=True),
)
PHI = like(
    LLAMA,
    "Phi",
    fields=fields_with(
        *(kv_heads(None), longest(2048), Field("layer_norm_eps", "norm_epsilon", 1e-5)),
        Field("resid_pdrop", "dropout", 0.0),
        without=(*NO_BIAS, "head_dim", "tie_embeddings"),
    ),
    fixed={
        **{"norm": "layer_norm", "use_bias": True, "use_head_bias": True, "tie_embeddings": False},
        **{"parallel": True, "shared_norm": True},
    },
    demanded={"qk_layernorm": False, "tie_word_embeddings": False},
    read=reading("gelu_new", more=rope(2048, partial=0.5)),
    write=writing(more=lambda c: {**partial_rope(c), "embd_pdrop": c.dropout}),
    rules=llama_rules(
        *({"input_layernorm": "attention_norm"},),
        **{"with_bias": True, "final_norm": "final_layernorm", "output": "dense", "up": "fc1", "down": "fc2"},
    ),
)
