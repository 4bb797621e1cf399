"""Dialects of Hugging Face checkpoints for GPT: GPT-2, Llama, Mistral, Qwen2 and Qwen3.

Each dialect maps the entries of a config.json and the names of the tensors to those of this package. ``GPT.dialects``
also includes the GGUF dialect of ``gguf.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ...layers.feedforward import GATED
from ...weights.rules import Dialect, Field, Rule, layer_norm, linear
from ...weights.transforms import TRANSPOSED, joined
from ..huggingface import (
    HF_ACTIVATIONS,
    activation,
    flag,
    gated_activation,
    labels,
    number_of_labels,
    qwen_layers,
    qwen_window,
    read_rope,
    write_rope,
)
from ..sentence_transformers import PROJECTION_RULES
from ..sentences import SILENT
from .gguf import GGUF
from .model import GPT, GPTConfig


def _each(name: str) -> tuple[str, ...]:
    """Return `name` three times, with "query", "key" and "value" in place of ``{}``."""
    return tuple(name.replace("{}", part) for part in ("query", "key", "value"))


def _special_ids(bos: int | None, eos: int | None) -> tuple[Field, ...]:
    """Return the entries of the special tokens, with transformers' defaults."""
    return (
        Field("bos_token_id", "bos_token_id", bos),
        Field("eos_token_id", "eos_token_id", eos),
        Field("pad_token_id", "pad_token_id", None),
    )


def _heads(name: str) -> dict[str | None, str]:
    """Return the classes of transformers by head, for a model whose classes begin with `name`."""
    classes = {"sequence_classification": "ForSequenceClassification", "token_classification": "ForTokenClassification"}
    ends = {"causal_lm": "ForCausalLM", None: "Model", "sentence_embedding": "Model", **classes}
    return {head: name + end for head, end in ends.items()}


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


_GPT2 = Dialect(
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
        *_special_ids(50256, 50256),
    ),
    demanded={"add_cross_attention": False},
    read=_read_gpt2,
    write=_write_gpt2,
    rules=lambda c: (
        Rule("wte.weight", "embedding/embeddings"),
        Rule("wpe.weight", "positions/embeddings"),
        *layer_norm("h.{i}.ln_1", "block_{i}/attention_norm"),
        # Kernels of transformers' Conv1D are (in, out), as in this package, so they are not transposed.
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
        *linear("classifier" if c.head == "token_classification" else "score", "classifier", outside=True),
        *PROJECTION_RULES,
    ),
    prefix="transformer.",
    silent=(*SILENT, "score_activation"),  # stored in the files of sentence-transformers
    heads={**_heads("GPT2"), "causal_lm": "GPT2LMHeadModel"},
    other_classes={"GPT2Model": None},
    ignored=(r"\.attn\.(masked_)?bias$",),
    tied={"lm_head.weight": "wte.weight"},
    output="lm_head.weight",
)


def _read_llama_of(max_length: int) -> Callable[[Mapping[str, Any], Any], dict[str, Any]]:
    """Return the ``read`` of a dialect like Llama's with this default of ``max_position_embeddings``."""
    return lambda raw, _: {
        "activation": gated_activation(raw, "hidden_act", "silu"),
        "num_classes": number_of_labels(raw),
        **read_rope(raw, max_length),
    }


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
        *_special_ids(1, 2),
    ),
    fixed={"position": "rotary", "norm": "rms_norm"},
    read=_read_llama_of(2048),
    write=lambda c: {"hidden_act": HF_ACTIVATIONS[GATED[c.activation]], **write_rope(c), **labels(c)},
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
        *linear("score", "classifier", outside=True),
        *PROJECTION_RULES,
    ),
    prefix="model.",
    silent=(*SILENT, "score_activation"),  # stored in the files of sentence-transformers
    heads=_heads("Llama"),
    other_classes={"LlamaModel": None},
    ignored=(r"rotary_emb\.inv_freq$",),
    tied={"lm_head.weight": "embed_tokens.weight"},
    output="lm_head.weight",
)


def _fields(*changed: Field, without: tuple[str, ...] = ()) -> tuple[Field, ...]:
    """Return the entries of Llama's config with those of `changed` in place of their own, except those in `without`."""
    others = {entry.ours: entry for entry in changed}
    kept = [others.pop(entry.ours, entry) for entry in _LLAMA.fields if entry.ours not in without]
    return (*kept, *others.values())


_MISTRAL = replace(
    _LLAMA,
    fields=_fields(
        Field("num_key_value_heads", "num_kv_heads", 8, nullable=True),
        Field("max_position_embeddings", "max_length", 131_072),
        Field("sliding_window", "sliding_window", 4096, nullable=True),
        without=("use_bias", "use_feedforward_bias"),
    ),
    fixed={**_LLAMA.fixed, "use_bias": False},
    read=_read_llama_of(131_072),
    heads=_heads("Mistral"),
    other_classes={"MistralModel": None},
)
_QWEN = (
    Field("num_key_value_heads", "num_kv_heads", 32, nullable=True),
    Field("max_position_embeddings", "max_length", 32_768),
    *_special_ids(None, None),
)
_QWEN3 = replace(
    _LLAMA,
    fields=_fields(*_QWEN, Field("head_dim", "head_dim", 128), without=("use_feedforward_bias",)),
    fixed={**_LLAMA.fixed, "use_feedforward_bias": False, "qk_norm": True},
    read=lambda raw, names: {**_read_llama_of(32_768)(raw, names), "sliding_window": qwen_window(raw)},
    write=lambda c: {**_LLAMA.write(c), **qwen_layers(c)},
    heads=_heads("Qwen3"),
    other_classes={"Qwen3Model": None},
)
_QWEN2 = replace(
    _QWEN3,
    fields=_fields(*_QWEN, without=("use_bias", "use_feedforward_bias")),
    fixed={**_LLAMA.fixed, "use_bias": False, "use_qkv_bias": True},
    heads=_heads("Qwen2"),
    other_classes={"Qwen2Model": None},
)

GPT.dialects = {
    "gpt2": _GPT2,
    "llama": _LLAMA,
    "mistral": _MISTRAL,
    "qwen2": _QWEN2,
    "qwen3": _QWEN3,
    "gguf": GGUF,
}
