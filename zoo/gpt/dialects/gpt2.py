"""Tables of GPT-2 and of models with learned positions or linear biases: GPT-BigCode, GPT-Neo, OPT, BLOOM and MPT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ....weights.rules import Dialect, Field, Rule, layer_norm, linear
from ....weights.transforms import TRANSPOSED, grouped_heads, joined
from ...huggingface import HF_ACTIVATIONS, activation, flag, integer, labels, number_of_labels
from ...huggingface_layers import layers_of, read_kinds
from ...sentence_transformers import PROJECTION_RULES
from ..config import GPTConfig
from .common import QUIET, classifiers, each, heads_of, reading, special_ids, writing


def _read_gpt2(raw: Mapping[str, Any], _: Any) -> dict[str, Any]:
    return {
        "activation": activation(raw, "activation_function", "gelu_new"),
        "attention_scale": None if flag(raw, "scale_attn_weights", True) else 1.0,
        "scale_by_layer": flag(raw, "scale_attn_by_inverse_layer_idx", False),
        "num_classes": number_of_labels(raw),
    }


def _write_gpt2(c: GPTConfig) -> dict[str, Any]:
    return {
        "activation_function": HF_ACTIVATIONS[c.activation],
        "embd_pdrop": c.dropout,
        "scale_attn_weights": c.attention_scale is None,
        "scale_attn_by_inverse_layer_idx": c.scale_by_layer,
        **labels(c),
    }


GPT2 = Dialect(
    fields=(
        Field("vocab_size", "vocab_size", 50257),
        Field("n_layer", "num_layers", 12, synonym="num_hidden_layers"),
        Field("n_head", "num_heads", 12, synonym="num_attention_heads"),
        Field("n_embd", "hidden_dim", 768, synonym="hidden_size"),
        Field("n_inner", "intermediate_dim", None),
        Field("n_positions", "max_length", 1024, synonym="max_position_embeddings"),
        Field("layer_norm_epsilon", "norm_epsilon", 1e-5),
        Field("resid_pdrop", "dropout", 0.1),
        Field("attn_pdrop", "attention_dropout", 0.1),
        Field("initializer_range", "initializer_range", 0.02),
        Field("tie_word_embeddings", "tie_embeddings", True),
        *special_ids(50256, 50256),
    ),
    demanded={"add_cross_attention": False},
    read=_read_gpt2,
    write=_write_gpt2,
    rules=lambda c: (
        Rule("wte.weight", "embedding/embeddings"),
        Rule("wpe.weight", "positions/embeddings"),
        *layer_norm("h.{i}.ln_1", "block_{i}/attention_norm"),
        # Kernels of transformers' Conv1D are (in, out), as in this package, so they are not transposed.
        Rule("h.{i}.attn.c_attn.weight", each("block_{i}/attention/{}/kernel"), joined(1)),
        Rule("h.{i}.attn.c_attn.bias", each("block_{i}/attention/{}/bias"), joined(0)),
        Rule("h.{i}.attn.c_proj.weight", "block_{i}/attention/output/kernel"),
        Rule("h.{i}.attn.c_proj.bias", "block_{i}/attention/output/bias"),
        *layer_norm("h.{i}.ln_2", "block_{i}/feedforward_norm"),
        Rule("h.{i}.mlp.c_fc.weight", "block_{i}/feedforward/up/kernel"),
        Rule("h.{i}.mlp.c_fc.bias", "block_{i}/feedforward/up/bias"),
        Rule("h.{i}.mlp.c_proj.weight", "block_{i}/feedforward/down/kernel"),
        Rule("h.{i}.mlp.c_proj.bias", "block_{i}/feedforward/down/bias"),
        *layer_norm("ln_f", "final_norm"),
        Rule("lm_head.weight", "lm_head/kernel", TRANSPOSED, outside=True),
        *classifiers(c),
        *PROJECTION_RULES,
    ),
    prefix="transformer.",
    silent=QUIET,
    heads={**heads_of("GPT2")["heads"], "causal_lm": "GPT2LMHeadModel"},
    other_classes={"GPT2Model": None},
    ignored=(r"\.attn\.(masked_)?bias$",),
    tied={"lm_head.weight": "wte.weight"},
    output="lm_head.weight",
)


def _mlp(theirs: str, up: str, down: str) -> tuple[Rule, ...]:
    """Return the rules of a feed-forward network without a gate, whose layers are called `up` and `down`."""
    return *linear(f"{theirs}.{up}", "block_{i}/feedforward/up"), *linear(
        f"{theirs}.{down}", "block_{i}/feedforward/down"
    )


def _bigcode_rules(c: GPTConfig) -> tuple[Rule, ...]:
    shared = c.num_kv_heads == 1 and c.num_heads > 1
    kernel = joined(0, transposed=True) if shared else grouped_heads(c.num_heads, c.num_heads)
    bias = joined(0) if shared else grouped_heads(c.num_heads, c.num_heads)
    return (
        Rule("wte.weight", "embedding/embeddings"),
        Rule("wpe.weight", "positions/embeddings"),
        *layer_norm("h.{i}.ln_1", "block_{i}/attention_norm"),
        Rule("h.{i}.attn.c_attn.weight", each("block_{i}/attention/{}/kernel"), kernel),
        Rule("h.{i}.attn.c_attn.bias", each("block_{i}/attention/{}/bias"), bias),
        *linear("h.{i}.attn.c_proj", "block_{i}/attention/output"),
        *layer_norm("h.{i}.ln_2", "block_{i}/feedforward_norm"),
        *_mlp("h.{i}.mlp", "c_fc", "c_proj"),
        *layer_norm("ln_f", "final_norm"),
        Rule("lm_head.weight", "lm_head/kernel", TRANSPOSED, outside=True),
        *classifiers(c),
        *PROJECTION_RULES,
    )


GPT_BIGCODE = replace(
    GPT2,
    demanded={"add_cross_attention": False},
    read=lambda raw, _: {
        "activation": activation(raw, "activation_function", "gelu_pytorch_tanh"),
        "attention_scale": None if flag(raw, "scale_attn_weights", True) else 1.0,
        "num_kv_heads": 1 if flag(raw, "multi_query", True) else None,
        "num_classes": number_of_labels(raw),
    },
    write=lambda c: {
        "activation_function": HF_ACTIVATIONS[c.activation],
        "embd_pdrop": c.dropout,
        "scale_attn_weights": c.attention_scale is None,
        "multi_query": c.num_kv_heads == 1,
        **labels(c),
    },
    rules=_bigcode_rules,
    **heads_of("GPTBigCode"),
)


def _attention_types(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the kinds of the layers, which GPT-Neo stores as lists that are to be repeated."""
    given = raw.get("attention_types")
    given = [[["global", "local"], 12]] if given is None else given
    try:
        kinds = [kind for names, times in given for _ in range(times) for kind in names]
    except (TypeError, ValueError):
        kinds = []
    entry = "num_hidden_layers" if "num_hidden_layers" in raw else "num_layers"
    if not set(kinds) <= {"global", "local"} or len(kinds) != len(layers_of(raw, entry, 24)):
        raise ValueError(f"attention_types: got {given!r}; accepted: 'global' and 'local', one for each layer")
    window = {"sliding_window": integer(raw, "window_size", 256)}
    return read_kinds(window, [kind == "local" for kind in kinds], window=None)


GPT_NEO = Dialect(
    fields=(
        Field("vocab_size", "vocab_size", 50257),
        Field("num_layers", "num_layers", 24, synonym="num_hidden_layers"),
        Field("num_heads", "num_heads", 16, synonym="num_attention_heads"),
        Field("hidden_size", "hidden_dim", 2048),
        Field("intermediate_size", "intermediate_dim", None),
        Field("max_position_embeddings", "max_length", 2048),
        Field("layer_norm_epsilon", "norm_epsilon", 1e-5),
        Field("resid_dropout", "dropout", 0.0),
        Field("attention_dropout", "attention_dropout", 0.0),
        Field("initializer_range", "initializer_range", 0.02),
        Field("tie_word_embeddings", "tie_embeddings", True),
        *special_ids(50256, 50256),
    ),
    fixed={"attention_scale": 1.0, "use_qkv_bias": False},
    read=reading("gelu_new", "activation_function", more=_attention_types),
    write=writing(
        "activation_function",
        lambda c: {
            "embed_dropout": c.dropout,
            "window_size": c.sliding_window or 256,
            "attention_types": [[["local" if sliding else "global" for sliding in c.sliding_layers], 1]],
        },
    ),
    rules=lambda c: (
        Rule("wte.weight", "embedding/embeddings"),
        Rule("wpe.weight", "positions/embeddings"),
        *layer_norm("h.{i}.ln_1", "block_{i}/attention_norm"),
        *linear("h.{i}.attn.attention.q_proj", "block_{i}/attention/query"),
        *linear("h.{i}.attn.attention.k_proj", "block_{i}/attention/key"),
        *linear("h.{i}.attn.attention.v_proj", "block_{i}/attention/value"),
        *linear("h.{i}.attn.attention.out_proj", "block_{i}/attention/output"),
        *layer_norm("h.{i}.ln_2", "block_{i}/feedforward_norm"),
        *_mlp("h.{i}.mlp", "c_fc", "c_proj"),
        *layer_norm("ln_f", "final_norm"),
        Rule("lm_head.weight", "lm_head/kernel", TRANSPOSED, outside=True),
        *classifiers(c),
        *PROJECTION_RULES,
    ),
    prefix="transformer.",
    silent=QUIET,
    ignored=(r"\.attn\.attention\.(masked_)?bias$",),
    tied={"lm_head.weight": "wte.weight"},
    output="lm_head.weight",
    **heads_of("GPTNeo"),
)


def _read_opt(raw: Mapping[str, Any]) -> dict[str, Any]:
    width = raw.get("word_embed_proj_dim")
    if width not in (None, raw.get("hidden_size", 768)):
        raise ValueError(f"word_embed_proj_dim: got {width!r}; accepted: hidden_size={raw.get('hidden_size', 768)}")
    return {}


OPT = Dialect(
    fields=(
        Field("vocab_size", "vocab_size", 50272),
        Field("num_hidden_layers", "num_layers", 12),
        Field("num_attention_heads", "num_heads", 12),
        Field("hidden_size", "hidden_dim", 768),
        Field("ffn_dim", "intermediate_dim", 3072),
        Field("max_position_embeddings", "max_length", 2048),
        Field("dropout", "dropout", 0.1),
        Field("attention_dropout", "attention_dropout", 0.0),
        Field("init_std", "initializer_range", 0.02),
        Field("enable_bias", "use_bias", True),
        Field("tie_word_embeddings", "tie_embeddings", True),
        *special_ids(2, 2, 1),
    ),
    fixed={"position_offset": 2, "norm_epsilon": 1e-5},
    demanded={"do_layer_norm_before": True, "_remove_final_layer_norm": False, "layer_norm_elementwise_affine": True},
    read=reading("relu", "activation_function", more=_read_opt),
    write=writing("activation_function", lambda c: {"word_embed_proj_dim": c.hidden_dim}),
    rules=(
        Rule("decoder.embed_tokens.weight", "embedding/embeddings"),
        Rule("decoder.embed_positions.weight", "positions/embeddings"),
        *layer_norm("decoder.layers.{i}.self_attn_layer_norm", "block_{i}/attention_norm"),
        *linear("decoder.layers.{i}.self_attn.q_proj", "block_{i}/attention/query"),
        *linear("decoder.layers.{i}.self_attn.k_proj", "block_{i}/attention/key"),
        *linear("decoder.layers.{i}.self_attn.v_proj", "block_{i}/attention/value"),
        *linear("decoder.layers.{i}.self_attn.out_proj", "block_{i}/attention/output"),
        *layer_norm("decoder.layers.{i}.final_layer_norm", "block_{i}/feedforward_norm"),
        *_mlp("decoder.layers.{i}", "fc1", "fc2"),
        *layer_norm("decoder.final_layer_norm", "final_norm"),
        Rule("lm_head.weight", "lm_head/kernel", TRANSPOSED, outside=True),
        *linear("score", "classifier", outside=True),
        *PROJECTION_RULES,
    ),
    prefix="model.",
    silent=QUIET,
    tied={"lm_head.weight": "decoder.embed_tokens.weight"},
    output="lm_head.weight",
    **heads_of("OPT", "token_classification"),
)


def _read_bloom(raw: Mapping[str, Any], _: Any) -> dict[str, Any]:
    if flag(raw, "slow_but_exact", False) and (parts := integer(raw, "pretraining_tp", 1)) > 1:
        raise ValueError(f"slow_but_exact: got true with pretraining_tp {parts}; accepted: false, or one part")
    return {"num_classes": number_of_labels(raw)}


def _bloom_rules(c: GPTConfig) -> tuple[Rule, ...]:
    together = grouped_heads(c.num_heads, c.num_heads)
    return (
        Rule("word_embeddings.weight", "embedding/embeddings"),
        *layer_norm("word_embeddings_layernorm", "embedding_norm"),
        *layer_norm("h.{i}.input_layernorm", "block_{i}/attention_norm"),
        Rule("h.{i}.self_attention.query_key_value.weight", each("block_{i}/attention/{}/kernel"), together),
        Rule("h.{i}.self_attention.query_key_value.bias", each("block_{i}/attention/{}/bias"), together),
        *linear("h.{i}.self_attention.dense", "block_{i}/attention/output"),
        *layer_norm("h.{i}.post_attention_layernorm", "block_{i}/feedforward_norm"),
        *_mlp("h.{i}.mlp", "dense_h_to_4h", "dense_4h_to_h"),
        *layer_norm("ln_f", "final_norm"),
        Rule("lm_head.weight", "lm_head/kernel", TRANSPOSED, outside=True),
        *classifiers(c),
        *PROJECTION_RULES,
    )


BLOOM = Dialect(
    fields=(
        Field("vocab_size", "vocab_size", 250_880),
        Field("n_layer", "num_layers", 2, synonym="num_hidden_layers"),
        Field("n_head", "num_heads", 8, synonym="num_attention_heads"),
        Field("hidden_size", "hidden_dim", 64, synonym="n_embed"),
        Field("seq_length", "max_length", 2048),  # transformers does not read it: BLOOM has no maximum length
        Field("layer_norm_epsilon", "norm_epsilon", 1e-5),
        Field("hidden_dropout", "dropout", 0.0),
        Field("attention_dropout", "attention_dropout", 0.0),
        Field("initializer_range", "initializer_range", 0.02),
        Field("tie_word_embeddings", "tie_embeddings", True),
        *special_ids(1, 2),
    ),
    fixed={"position": "alibi", "embedding_norm": True, "activation": "gelu_tanh"},
    demanded={"apply_residual_connection_post_layernorm": False},
    read=_read_bloom,
    write=labels,
    rules=_bloom_rules,
    prefix="transformer.",
    silent=QUIET,
    tied={"lm_head.weight": "word_embeddings.weight"},
    output="lm_head.weight",
    **heads_of("Bloom"),
)
_MPT_ATTENTION = {"alibi": True, "alibi_bias_max": 8, "qk_ln": False, "prefix_lm": False, "clip_qkv": None}


def _read_mpt(raw: Mapping[str, Any], _: Any) -> dict[str, Any]:
    attention = raw.get("attn_config") or {}
    if not isinstance(attention, Mapping):
        raise ValueError(f"attn_config: got {attention!r}; accepted: an object")
    for name, value in _MPT_ATTENTION.items():
        if attention.get(name, value) != value:
            raise ValueError(f"attn_config: got {name} {attention[name]!r}; accepted: {value!r}")
    return {
        "attention_scale": attention.get("softmax_scale"),
        "attention_dropout": attention.get("attn_pdrop", 0.0),
        "num_classes": number_of_labels(raw),
    }


MPT = Dialect(
    fields=(
        Field("vocab_size", "vocab_size", 50368),
        Field("n_layers", "num_layers", 24, synonym="num_hidden_layers"),
        Field("n_heads", "num_heads", 16, synonym="num_attention_heads"),
        Field("d_model", "hidden_dim", 2048, synonym="hidden_size"),
        Field("max_seq_len", "max_length", 2048),
        Field("layer_norm_epsilon", "norm_epsilon", 1e-5),
        Field("resid_pdrop", "dropout", 0.0),
        Field("initializer_range", "initializer_range", 0.02),
        Field("tie_word_embeddings", "tie_embeddings", True),
        *special_ids(None, None),
    ),
    fixed={"position": "alibi", "norm": "layer_norm_without_bias", "use_bias": False, "activation": "gelu"},
    demanded={"expansion_ratio": 4, "no_bias": True, "logit_scale": None},
    read=_read_mpt,
    write=lambda c: {
        "attn_config": {**_MPT_ATTENTION, "softmax_scale": c.attention_scale, "attn_pdrop": c.attention_dropout},
        **labels(c),
    },
    rules=lambda c: (
        Rule("wte.weight", "embedding/embeddings"),
        Rule("blocks.{i}.norm_1.weight", "block_{i}/attention_norm/gamma"),
        Rule("blocks.{i}.attn.Wqkv.weight", each("block_{i}/attention/{}/kernel"), joined(0, transposed=True)),
        *linear("blocks.{i}.attn.out_proj", "block_{i}/attention/output"),
        Rule("blocks.{i}.norm_2.weight", "block_{i}/feedforward_norm/gamma"),
        *_mlp("blocks.{i}.ffn", "up_proj", "down_proj"),
        Rule("norm_f.weight", "final_norm/gamma"),
        Rule("lm_head.weight", "lm_head/kernel", TRANSPOSED, outside=True),
        *classifiers(c),
        *PROJECTION_RULES,
    ),
    prefix="transformer.",
    silent=QUIET,
    tied={"lm_head.weight": "wte.weight"},
    output="lm_head.weight",
    **heads_of("Mpt"),
)
