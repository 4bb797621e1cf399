"""Tables of decoders whose two branches read the same input: GPT-NeoX, GPT-J and Falcon."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....weights.rules import Dialect, Field, Rule, layer_norm, linear
from ....weights.transforms import grouped_heads
from ...huggingface import HF_ACTIVATIONS, activation, flag, integer, labels, number_of_labels
from ...huggingface_layers import read_rope, write_rope
from ...sentence_transformers import PROJECTION_RULES
from ..config import GPTConfig
from .common import QUIET, classifiers, each, heads_of, reading, special_ids, writing


def _read_neox(raw: Mapping[str, Any]) -> dict[str, Any]:
    # Outside of rope_parameters, transformers reads these two entries, not rope_theta and partial_rotary_factor.
    old = {"rope_theta": raw.get("rotary_emb_base"), "partial_rotary_factor": raw.get("rotary_pct")}
    return {
        **read_rope({"hidden_size": 6144, "num_attention_heads": 64, **raw, **old}, 2048, partial=0.25),
        "parallel": flag(raw, "use_parallel_residual", True),
    }


def _write_neox(c: GPTConfig) -> dict[str, Any]:
    rope = write_rope(c, partial=True)
    old = {"rotary_emb_base": rope["rope_theta"], "rotary_pct": rope["partial_rotary_factor"]}
    return {**rope, **old, "use_parallel_residual": c.parallel}


def _neox_rules(c: GPTConfig) -> tuple[Rule, ...]:
    together = grouped_heads(c.num_heads, c.num_heads)
    return (
        Rule("embed_in.weight", "embedding/embeddings"),
        *layer_norm("layers.{i}.input_layernorm", "block_{i}/attention_norm"),
        *layer_norm("layers.{i}.post_attention_layernorm", "block_{i}/feedforward_norm"),
        Rule("layers.{i}.attention.query_key_value.weight", each("block_{i}/attention/{}/kernel"), together),
        Rule("layers.{i}.attention.query_key_value.bias", each("block_{i}/attention/{}/bias"), together),
        *linear("layers.{i}.attention.dense", "block_{i}/attention/output"),
        *linear("layers.{i}.mlp.dense_h_to_4h", "block_{i}/feedforward/up"),
        *linear("layers.{i}.mlp.dense_4h_to_h", "block_{i}/feedforward/down"),
        *layer_norm("final_layer_norm", "final_norm"),
        *linear("embed_out", "lm_head", outside=True),
        *classifiers(c),
        *PROJECTION_RULES,
    )


GPT_NEOX = Dialect(
    fields=(
        Field("vocab_size", "vocab_size", 50_432),
        Field("num_hidden_layers", "num_layers", 44),
        Field("num_attention_heads", "num_heads", 64),
        Field("hidden_size", "hidden_dim", 6144),
        Field("intermediate_size", "intermediate_dim", 24_576),
        Field("max_position_embeddings", "max_length", 2048),
        Field("layer_norm_eps", "norm_epsilon", 1e-5),
        Field("attention_dropout", "attention_dropout", 0.0),
        Field("hidden_dropout", "dropout", 0.0),
        Field("initializer_range", "initializer_range", 0.02),
        Field("attention_bias", "use_bias", True),
        Field("tie_word_embeddings", "tie_embeddings", False),
        *special_ids(0, 2),
    ),
    fixed={"position": "rotary", "use_feedforward_bias": True},
    read=reading("gelu", more=_read_neox),
    write=writing(more=_write_neox),
    rules=_neox_rules,
    prefix="gpt_neox.",
    silent=QUIET,
    ignored=(r"attention\.(bias|masked_bias|rotary_emb\.inv_freq)$",),
    tied={"embed_out.weight": "embed_in.weight"},
    output="embed_out.weight",
    **heads_of("GPTNeoX"),
)
GPTJ = Dialect(
    fields=(
        Field("vocab_size", "vocab_size", 50_400),
        Field("n_layer", "num_layers", 28, synonym="num_hidden_layers"),
        Field("n_head", "num_heads", 16, synonym="num_attention_heads"),
        Field("n_embd", "hidden_dim", 4096, synonym="hidden_size"),
        Field("n_inner", "intermediate_dim", None),
        Field("n_positions", "max_length", 2048, synonym="max_position_embeddings"),
        Field("rotary_dim", "rotary_dim", 64),
        Field("layer_norm_epsilon", "norm_epsilon", 1e-5),
        Field("resid_pdrop", "dropout", 0.0),
        Field("attn_pdrop", "attention_dropout", 0.0),
        Field("initializer_range", "initializer_range", 0.02),
        *special_ids(50_256, 50_256),
    ),
    fixed={
        **{"position": "rotary_interleaved", "parallel": True, "shared_norm": True, "tie_embeddings": False},
        **{"use_bias": False, "use_feedforward_bias": True, "use_head_bias": True},
    },
    demanded={"tie_word_embeddings": False},
    read=reading("gelu_new", "activation_function"),
    write=writing("activation_function", lambda c: {"embd_pdrop": c.dropout}),
    rules=(
        Rule("wte.weight", "embedding/embeddings"),
        *layer_norm("h.{i}.ln_1", "block_{i}/attention_norm"),
        *linear("h.{i}.attn.q_proj", "block_{i}/attention/query"),
        *linear("h.{i}.attn.k_proj", "block_{i}/attention/key"),
        *linear("h.{i}.attn.v_proj", "block_{i}/attention/value"),
        *linear("h.{i}.attn.out_proj", "block_{i}/attention/output"),
        *linear("h.{i}.mlp.fc_in", "block_{i}/feedforward/up"),
        *linear("h.{i}.mlp.fc_out", "block_{i}/feedforward/down"),
        *layer_norm("ln_f", "final_norm"),
        *linear("lm_head", "lm_head", outside=True),
        *linear("score", "classifier", outside=True),
        *PROJECTION_RULES,
    ),
    prefix="transformer.",
    silent=QUIET,
    ignored=(r"\.attn\.(masked_)?bias$", r"\.attn\.embed_positions$"),
    **heads_of("GPTJ", "token_classification"),
)


# Falcon: the published sizes differ in which heads share keys, and in the number of norms.


def _read_falcon(raw: Mapping[str, Any], _: Any) -> dict[str, Any]:
    new, parallel = flag(raw, "new_decoder_architecture", False), flag(raw, "parallel_attn", True)
    norms = integer(raw, "num_ln_in_parallel_attn", 2 if new else 1)
    if (new and not parallel) or norms not in ((1, 2) if new else (1,)):
        accepted = "parallel_attn, and 1 or 2 norms with new_decoder_architecture"
        raise ValueError(f"num_ln_in_parallel_attn: got {norms}, parallel_attn {parallel}; accepted: {accepted}")
    heads = integer(raw, "num_attention_heads", 71)
    shared = 1 if flag(raw, "multi_query", True) else heads
    fields = {
        "activation": activation(raw, "activation", "gelu"),
        "num_kv_heads": integer(raw, "num_kv_heads", heads) if new else shared,
        "parallel": parallel,
        "shared_norm": parallel and norms == 1,
        "num_classes": number_of_labels(raw),
        **read_rope(raw, 2048),
    }
    if flag(raw, "alibi", False):  # the bias is added before the scores are scaled
        head_dim = integer(raw, "hidden_size", 4544) // max(1, heads)
        fields |= {"position": "alibi", "alibi_scale": max(1, head_dim) ** -0.5}
    return fields


def _write_falcon(c: GPTConfig) -> dict[str, Any]:
    two = c.parallel and not c.shared_norm
    new = two or (c.parallel and c.num_kv_heads not in (1, c.num_heads))
    return {
        "activation": HF_ACTIVATIONS[c.activation],
        "new_decoder_architecture": new,
        "parallel_attn": c.parallel,
        "num_ln_in_parallel_attn": (2 if two else 1) if new else None,
        "multi_query": new or c.num_kv_heads == 1,
        "num_kv_heads": c.num_kv_heads if new else c.num_heads,  # without effect in the old architecture
        "alibi": c.position == "alibi",
        **write_rope(c),
        **labels(c),
    }


def _falcon_rules(c: GPTConfig) -> tuple[Rule, ...]:
    together = grouped_heads(c.num_heads, c.num_kv_heads or c.num_heads)
    names = (
        ("ln_attn", "ln_mlp") if c.parallel and not c.shared_norm else ("input_layernorm", "post_attention_layernorm")
    )
    return (
        Rule("word_embeddings.weight", "embedding/embeddings"),
        *layer_norm(f"h.{{i}}.{names[0]}", "block_{i}/attention_norm"),
        *layer_norm(f"h.{{i}}.{names[1]}", "block_{i}/feedforward_norm"),
        Rule("h.{i}.self_attention.query_key_value.weight", each("block_{i}/attention/{}/kernel"), together),
        Rule("h.{i}.self_attention.query_key_value.bias", each("block_{i}/attention/{}/bias"), together),
        *linear("h.{i}.self_attention.dense", "block_{i}/attention/output"),
        *linear("h.{i}.mlp.dense_h_to_4h", "block_{i}/feedforward/up"),
        *linear("h.{i}.mlp.dense_4h_to_h", "block_{i}/feedforward/down"),
        *layer_norm("ln_f", "final_norm"),
        *linear("lm_head", "lm_head", outside=True),
        *classifiers(c),
        *PROJECTION_RULES,
    )


FALCON = Dialect(
    fields=(
        Field("vocab_size", "vocab_size", 65_024),
        Field("num_hidden_layers", "num_layers", 32, synonym="n_layer"),
        Field("num_attention_heads", "num_heads", 71, synonym="n_head"),
        Field("hidden_size", "hidden_dim", 4544, synonym="n_embed"),
        Field("ffn_hidden_size", "intermediate_dim", None),
        Field("max_position_embeddings", "max_length", 2048),
        Field("layer_norm_epsilon", "norm_epsilon", 1e-5),
        Field("hidden_dropout", "dropout", 0.0),
        Field("attention_dropout", "attention_dropout", 0.0),
        Field("initializer_range", "initializer_range", 0.02),
        Field("bias", "use_bias", False),
        Field("tie_word_embeddings", "tie_embeddings", True),
        *special_ids(11, 11),
    ),
    fixed={"position": "rotary"},
    read=_read_falcon,
    write=_write_falcon,
    rules=_falcon_rules,
    prefix="transformer.",
    silent=QUIET,
    ignored=(r"self_attention\.rotary_emb\.inv_freq$",),
    tied={"lm_head.weight": "word_embeddings.weight"},
    output="lm_head.weight",
    **heads_of("Falcon"),
)
