"""Dialects of Hugging Face checkpoints for Transformer: Marian and T5 1.1.

Each dialect maps the entries of a config.json and the names of the tensors to those of this package.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...weights.rules import Dialect, Field, Rule, layer_norm, linear
from ...weights.transforms import ROW, TRANSPOSED
from ..huggingface import HF_ACTIVATIONS, activation
from .model import Transformer, TransformerConfig


def _stack(theirs: str, ours: str, *, decoder: bool) -> tuple[Rule, ...]:
    """Return the rules of the blocks of Marian's encoder or decoder."""
    attentions = {"self_attn": "attention", **({"encoder_attn": "cross_attention"} if decoder else {})}
    rules = [*linear(theirs + "fc1", ours + "feedforward/up"), *linear(theirs + "fc2", ours + "feedforward/down")]
    for name, attention in attentions.items():
        for part in ("query", "key", "value"):
            rules += linear(f"{theirs}{name}.{part[0]}_proj", f"{ours}{attention}/{part}")
        rules += linear(f"{theirs}{name}.out_proj", f"{ours}{attention}/output")
        rules += layer_norm(f"{theirs}{name}_layer_norm", f"{ours}{attention}_norm")
    return (*rules, *layer_norm(theirs + "final_layer_norm", ours + "feedforward_norm"))


def _read_marian(raw: Mapping[str, Any], _: Any) -> dict[str, Any]:
    if raw.get("decoder_vocab_size") not in (None, raw.get("vocab_size")):
        raise ValueError(f"decoder_vocab_size: got {raw['decoder_vocab_size']}; accepted: {raw.get('vocab_size')}")
    return {"activation": activation(raw, "activation_function", "gelu")}


def _write_marian(c: TransformerConfig) -> dict[str, Any]:
    names = {**HF_ACTIVATIONS, "silu": "swish"}
    return {"activation_function": names[c.activation], "decoder_vocab_size": c.vocab_size}


_SIDES: dict[str, str] = dict.fromkeys(("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"), "shared.weight")

_MARIAN = Dialect(
    fields=(
        Field("vocab_size", "vocab_size"),
        Field("encoder_layers", "num_layers"),
        Field("decoder_layers", "num_decoder_layers"),
        Field("encoder_attention_heads", "num_heads"),
        Field("decoder_attention_heads", "num_decoder_heads", 16),
        Field("d_model", "hidden_dim"),
        Field("encoder_ffn_dim", "intermediate_dim"),
        Field("decoder_ffn_dim", "decoder_intermediate_dim", 4096),
        Field("max_position_embeddings", "max_length", 1024),
        Field("dropout", "dropout", 0.1),
        Field("attention_dropout", "attention_dropout", 0.0),
        Field("scale_embedding", "scale_embeddings", False),
        Field("decoder_start_token_id", "decoder_start_token_id"),
        Field("eos_token_id", "eos_token_id", 0),
        Field("pad_token_id", "pad_token_id"),
    ),
    fixed={"position": "sinusoidal_halves", "use_logits_bias": True, "norm_epsilon": 1e-5},
    demanded={"normalize_embedding": False, "share_encoder_decoder_embeddings": True, "tie_word_embeddings": True},
    read=_read_marian,
    write=_write_marian,
    rules=(
        Rule("shared.weight", "embedding/embeddings"),
        *_stack("encoder.layers.{i}.", "encoder_block_{i}/", decoder=False),
        *_stack("decoder.layers.{i}.", "decoder_block_{i}/", decoder=True),
        Rule("final_logits_bias", "logits_bias", ROW, outside=True),
    ),
    prefix="model.",
    headless=(),
    heads={None: "MarianMTModel"},
    ignored=(r"^(en|de)coder\.embed_positions\.weight$",),  # sinusoids, which the model computes
    tied=dict.fromkeys(
        ("lm_head.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"), "shared.weight"
    ),
)


def _t5_stack(stack: str, layers: tuple[str, ...]) -> tuple[Rule, ...]:
    rules = []
    for number, name in enumerate(layers):
        theirs, ours = f"{stack}.block.{{i}}.layer.{number}.", f"{stack}_block_{{i}}/"
        attention = {"SelfAttention": "attention", "EncDecAttention": "cross_attention"}.get(name)
        rules.append(Rule(theirs + "layer_norm.weight", f"{ours}{attention or 'feedforward'}_norm/scale"))
        if attention is None:
            for part, mine in {"wi_0": "gate", "wi_1": "up", "wo": "down"}.items():
                rules.append(Rule(f"{theirs}{name}.{part}.weight", f"{ours}feedforward/{mine}/kernel", TRANSPOSED))
            continue
        for part in ("query", "key", "value", "output"):
            rules.append(Rule(f"{theirs}{name}.{part[0]}.weight", f"{ours}{attention}/{part}/kernel", TRANSPOSED))
    table = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    last = Rule(f"{stack}.final_layer_norm.weight", f"{stack}_norm/scale")
    return (*rules, Rule(table, f"{stack}_positions/embeddings"), last)


_T5_FEED = {"gated-gelu": "geglu", "gated-silu": "swiglu"}
_T5 = Dialect(  # version 1.1; version 1.0 scales the hidden states before its tied output projection
    fields=(
        Field("vocab_size", "vocab_size"),
        Field("num_layers", "num_layers"),
        Field("num_decoder_layers", "num_decoder_layers", None),
        Field("num_heads", "num_heads"),
        Field("d_kv", "head_dim"),
        Field("d_model", "hidden_dim"),
        Field("d_ff", "intermediate_dim"),
        Field("n_positions", "max_length", 512),
        Field("relative_attention_num_buckets", "num_buckets", 32),
        Field("relative_attention_max_distance", "max_distance", 128),
        Field("layer_norm_epsilon", "norm_epsilon", 1e-6),
        Field("dropout_rate", "dropout", 0.1),
        Field("decoder_start_token_id", "decoder_start_token_id", 0),
        Field("eos_token_id", "eos_token_id", 1),
        Field("pad_token_id", "pad_token_id", 0),
    ),
    fixed={
        "position": "relative",
        "norm": "rms_norm",
        "norm_first": True,
        "use_bias": False,
        "attention_scale": 1.0,
        "scale_embeddings": False,
        "tie_embeddings": False,
    },
    demanded={"tie_word_embeddings": False},
    read=lambda raw, _: {"activation": activation(raw, "feed_forward_proj", "relu", _T5_FEED)},
    write=lambda c: {"feed_forward_proj": {ours: theirs for theirs, ours in _T5_FEED.items()}[c.activation]},
    rules=(
        Rule("shared.weight", "embedding/embeddings"),
        *_t5_stack("encoder", ("SelfAttention", "DenseReluDense")),
        *_t5_stack("decoder", ("SelfAttention", "EncDecAttention", "DenseReluDense")),
        Rule("lm_head.weight", "lm_head/kernel", TRANSPOSED),
    ),
    headless=(),
    heads={None: "T5ForConditionalGeneration"},
    tied=_SIDES,
)

Transformer.dialects = {"marian": _MARIAN, "t5": _T5}
