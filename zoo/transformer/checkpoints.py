"""Dialects of Hugging Face checkpoints for Transformer: Marian, T5 and mT5.

Each dialect maps the entries of a config.json and the names of the tensors to those of this package.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from ...layers.feedforward import GATED
from ...weights.rules import Dialect, Field, Rule, layer_norm, linear
from ...weights.transforms import ROW, TRANSPOSED
from ..huggingface import HF_ACTIVATIONS, activation, flag, gated_activation
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
        Field("encoder_layers", "num_layers", synonym="num_hidden_layers"),
        Field("decoder_layers", "num_decoder_layers"),
        Field("encoder_attention_heads", "num_heads", synonym="num_attention_heads"),
        Field("decoder_attention_heads", "num_decoder_heads", 16),
        Field("d_model", "hidden_dim", synonym="hidden_size"),
        Field("encoder_ffn_dim", "intermediate_dim"),
        Field("decoder_ffn_dim", "decoder_intermediate_dim", 4096),
        Field("max_position_embeddings", "max_length", 1024),
        Field("dropout", "dropout", 0.1),
        Field("attention_dropout", "attention_dropout", 0.0),
        Field("scale_embedding", "scale_embeddings", False),
        Field("decoder_start_token_id", "decoder_start_token_id", 58100),
        Field("eos_token_id", "eos_token_id", 0),
        Field("pad_token_id", "pad_token_id", 58100),
    ),
    fixed={"position": "sinusoidal_halves", "use_logits_bias": True, "norm_epsilon": 1e-5},
    demanded={"normalize_embedding": False, "share_encoder_decoder_embeddings": True, "tie_word_embeddings": True},
    read=_read_marian,
    write=_write_marian,
    rules=(
        Rule("shared.weight", "embedding/embeddings"),
        *_stack("encoder.layers.{i}.", "encoder_block_{i}/", decoder=False),
        *_stack("decoder.layers.{i}.", "decoder_block_{i}/", decoder=True),
        Rule("final_logits_bias", "logits_bias", ROW, outside=True, optional=True),
    ),
    prefix="model.",
    headless=(),
    heads={None: "MarianMTModel"},
    ignored=(r"^(en|de)coder\.embed_positions\.weight$",),  # sinusoids, which the model computes
    tied=dict.fromkeys(
        ("lm_head.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"), "shared.weight"
    ),
)


def _t5_stack(stack: str, layers: tuple[str, ...], *, gated: bool) -> tuple[Rule, ...]:
    rules = []
    for number, name in enumerate(layers):
        theirs, ours = f"{stack}.block.{{i}}.layer.{number}.", f"{stack}_block_{{i}}/"
        attention = {"SelfAttention": "attention", "EncDecAttention": "cross_attention"}.get(name)
        rules.append(Rule(theirs + "layer_norm.weight", f"{ours}{attention or 'feedforward'}_norm/scale"))
        if attention is None:
            inner = {"wi_0": "gate", "wi_1": "up"} if gated else {"wi": "up"}
            for part, mine in {**inner, "wo": "down"}.items():
                rules.append(Rule(f"{theirs}{name}.{part}.weight", f"{ours}feedforward/{mine}/kernel", TRANSPOSED))
            continue
        for part in ("query", "key", "value", "output"):
            rules.append(Rule(f"{theirs}{name}.{part[0]}.weight", f"{ours}{attention}/{part}/kernel", TRANSPOSED))
    table = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    last = Rule(f"{stack}.final_layer_norm.weight", f"{stack}_norm/scale")
    return (*rules, Rule(table, f"{stack}_positions/embeddings"), last)


def _read_t5(raw: Mapping[str, Any], names: Collection[str], default: str, *, scaled: bool) -> dict[str, Any]:
    """Return the activation, and whether the output projection is tied and scaled.

    Args:
        raw: the third-party config.
        names: names of the tensors; the output projection is tied to the embedding table if the file has none. The
            config does not tell: transformers 5 writes ``tie_word_embeddings: true`` for every T5.
        default: transformers' default of `feed_forward_proj`.
        scaled: whether transformers scales the outputs unless the config says otherwise.
    """
    given = raw.get("feed_forward_proj")
    given = default if given is None else given
    gate, _, name = given.rpartition("-") if isinstance(given, str) else ("", "", None)
    entries = {"is_gated_act": gate == "gated", "dense_act_fn": "gelu_new" if given == "gated-gelu" else name}
    if gate not in ("", "gated") or not name:
        raise ValueError(f"feed_forward_proj: got {given!r}; accepted: the name of an activation, or gated- and a name")
    entries |= {entry: raw[entry] for entry in entries if raw.get(entry) is not None}  # transformers prefers these
    read = gated_activation if flag(entries, "is_gated_act", False) else activation
    try:
        found = read(entries, "dense_act_fn", "relu")
    except ValueError as error:
        entry = "feed_forward_proj" if raw.get("dense_act_fn") is None else "dense_act_fn"
        raise ValueError(f"{entry}: got {raw.get(entry, given)!r}; {str(error).partition('; ')[2]}") from None
    tied = flag(raw, "tie_word_embeddings", True)
    scaled = scaled and flag(raw, "scale_decoder_outputs", tied)
    return {
        "activation": found,
        "tie_embeddings": "lm_head.weight" not in names,
        "scale_outputs": scaled,
    }


def _write_t5(c: TransformerConfig) -> dict[str, Any]:
    gated = c.activation in GATED
    name = HF_ACTIVATIONS[GATED[c.activation] if gated else c.activation]
    feed = f"gated-{name}" if gated else name
    return {
        "feed_forward_proj": "gated-gelu" if feed == "gated-gelu_new" else feed,
        "dense_act_fn": name,
        "is_gated_act": gated,
    }


def _write_t5_ties(c: TransformerConfig) -> dict[str, Any]:
    # Versions of transformers before 5 scale the outputs if, and only if, they are tied.
    return {**_write_t5(c), "tie_word_embeddings": c.scale_outputs, "scale_decoder_outputs": c.scale_outputs}


def _t5_rules(c: TransformerConfig) -> tuple[Rule, ...]:
    gated = c.activation in GATED
    return (
        Rule("shared.weight", "embedding/embeddings"),
        *_t5_stack("encoder", ("SelfAttention", "DenseReluDense"), gated=gated),
        *_t5_stack("decoder", ("SelfAttention", "EncDecAttention", "DenseReluDense"), gated=gated),
        Rule("lm_head.weight", "lm_head/kernel", TRANSPOSED),
    )


_T5 = Dialect(
    fields=(
        Field("vocab_size", "vocab_size"),
        Field("num_layers", "num_layers", synonym="num_hidden_layers"),
        Field("num_decoder_layers", "num_decoder_layers", None),
        Field("num_heads", "num_heads", synonym="num_attention_heads"),
        Field("d_kv", "head_dim", synonym="head_dim"),
        Field("d_model", "hidden_dim", synonym="hidden_size"),
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
    },
    demanded={"is_decoder": False},
    read=lambda raw, names: _read_t5(raw, names, "relu", scaled=True),
    write=_write_t5_ties,
    rules=_t5_rules,
    headless=(),
    heads={None: "T5ForConditionalGeneration"},
    other_classes={"T5WithLMHeadModel": None},  # the name before transformers 4
    ignored=(r"^decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight$",),
    tied={"lm_head.weight": "shared.weight", **_SIDES},
    output="lm_head.weight",
)
_MT5 = replace(
    _T5,
    read=lambda raw, names: _read_t5(raw, names, "gated-gelu", scaled=False),
    write=lambda c: {**_write_t5(c), "tie_word_embeddings": False},  # obeyed by versions before 5 only
    heads={None: "MT5ForConditionalGeneration"},
    other_classes={},
)

Transformer.dialects = {"marian": _MARIAN, "t5": _T5, "mt5": _MT5}
