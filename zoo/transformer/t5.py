"""Dialects of Hugging Face checkpoints for T5, mT5 and UMT5: the whole model, and the encoder alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from ...layers.feedforward import GATED
from ...weights.rules import Dialect, Field, Rule
from ...weights.transforms import TRANSPOSED
from ..huggingface import HF_ACTIVATIONS, activation, flag, gated_activation
from .config import TransformerConfig


def _t5_stack(stack: str, layers: tuple[str, ...], *, gated: bool, shared: bool) -> tuple[Rule, ...]:
    rules = []
    apart: dict[str, Any] = {"outside": stack == "decoder"}  # an encoder alone does not have it
    for number, name in enumerate(layers):
        theirs, ours = f"{stack}.block.{{i}}.layer.{number}.", f"{stack}_block_{{i}}/"
        attention = {"SelfAttention": "attention", "EncDecAttention": "cross_attention"}.get(name)
        rules.append(Rule(theirs + "layer_norm.weight", f"{ours}{attention or 'feedforward'}_norm/scale", **apart))
        if attention is None:
            inner = {"wi_0": "gate", "wi_1": "up"} if gated else {"wi": "up"}
            for part, mine in {**inner, "wo": "down"}.items():
                rules.append(
                    Rule(f"{theirs}{name}.{part}.weight", f"{ours}feedforward/{mine}/kernel", TRANSPOSED, **apart)
                )
            continue
        for part in ("query", "key", "value", "output"):
            rules.append(
                Rule(f"{theirs}{name}.{part[0]}.weight", f"{ours}{attention}/{part}/kernel", TRANSPOSED, **apart)
            )
    block, own = ("0", "") if shared else ("{i}", "_{i}")
    table = f"{stack}.block.{block}.layer.0.SelfAttention.relative_attention_bias.weight"
    last = Rule(f"{stack}.final_layer_norm.weight", f"{stack}_norm/scale", **apart)
    return (*rules, Rule(table, f"{stack}_positions{own}/embeddings", **apart), last)


def _read_t5(raw: Mapping[str, Any], names: Collection[str], default: str, *, scaled: bool) -> dict[str, Any]:
    """Return the activation, and whether the output projection is tied and scaled.

    Args:
        raw: the third-party config.
        names: names of the tensors; the output projection is tied to the embedding table if the file has none. The
            config does not show it: transformers 5 writes ``tie_word_embeddings: true`` for every T5.
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
    kind = {"gated": c.activation in GATED, "shared": c.share_position_bias}
    return (
        Rule("shared.weight", "embedding/embeddings"),
        *_t5_stack("encoder", ("SelfAttention", "DenseReluDense"), **kind),
        *_t5_stack("decoder", ("SelfAttention", "EncDecAttention", "DenseReluDense"), **kind),
        Rule("lm_head.weight", "lm_head/kernel", TRANSPOSED, outside=True),
    )


def _heads(name: str) -> dict[str, Any]:
    """Return the classes of transformers for a model whose classes begin with `name`."""
    heads = {"seq2seq_lm": f"{name}ForConditionalGeneration", None: f"{name}EncoderModel"}
    return {"heads": heads, "other_classes": {f"{name}Model": "seq2seq_lm"}}


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
        "numbering": "columns",
    },
    demanded={"is_decoder": False},
    read=lambda raw, names: _read_t5(raw, names, "relu", scaled=True),
    write=_write_t5_ties,
    rules=_t5_rules,
    silent=("numbering",),  # no effect, unless a mask has gaps
    heads=_heads("T5")["heads"],
    # A T5Model is the body, to which transformers ties the output. The second name is from before transformers 4.
    other_classes={"T5Model": "seq2seq_lm", "T5WithLMHeadModel": "seq2seq_lm"},
    ignored=(r"^decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight$",),
    tied={
        "lm_head.weight": "shared.weight",
        "encoder.embed_tokens.weight": "shared.weight",
        "decoder.embed_tokens.weight": "shared.weight",
    },
    output="lm_head.weight",
)
_MT5 = replace(
    _T5,
    read=lambda raw, names: _read_t5(raw, names, "gated-gelu", scaled=False),
    write=lambda c: {**_write_t5(c), "tie_word_embeddings": False},  # obeyed by versions before 5 only
    **_heads("MT5"),
)
_UMT5 = replace(
    _T5,
    fixed={**_T5.fixed, "share_position_bias": False},
    read=lambda raw, names: _read_t5(raw, names, "gated-gelu", scaled=True),
    **_heads("UMT5"),
)

T5_DIALECTS = {"t5": _T5, "mt5": _MT5, "umt5": _UMT5}
