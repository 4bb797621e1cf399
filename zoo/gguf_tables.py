"""The architectures of GGUF files that are read and written, each a table; see ``gguf_architectures.py``.

The names are those of the ``gguf`` package, and values missing from a file are those of llama.cpp (``src/models``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import checks
from ..weights.gguf_file import shortest
from .gguf_architectures import Architecture, Fields, Shapes
from .gpt.gguf import read_scaling

SIZES = {
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "max_position_embeddings": "context_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
}
BLOCK = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def blocks(parts: Mapping[str, str], theirs: str = "layers.{i}.", own: str = "blk.{i}.") -> dict[str, str]:
    return {theirs + name: own + short for name, short in parts.items()}


DECODER = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output", **blocks(BLOCK)}


# Values that the files do not contain.


def _decoder(raw: Fields, shapes: Shapes) -> dict[str, Any]:
    """Return the entries of decoders that llama.cpp derives if they are missing."""
    for name in ("attention.head_count", "embedding_length"):
        if not checks.is_integer(given := raw.get(name)) or given < 1:
            raise ValueError(f"{name}: got {given!r}; accepted: a positive integer")
    heads, width = raw["attention.head_count"], raw["embedding_length"]
    found = {
        "head_dim": raw.get("attention.key_length", width // heads),
        "num_key_value_heads": raw.get("attention.head_count_kv", heads),
    }
    for name in ("rope.dimension_count", "attention.value_length"):
        if raw.get(name, found["head_dim"]) != found["head_dim"]:
            raise ValueError(f"{name}: got {raw[name]}; accepted: {found['head_dim']}")
    return {**found, "rope_theta": raw.get("rope.freq_base", 10_000.0), "architectures": None}


def _rotary(raw: Fields, shapes: Shapes) -> dict[str, Any]:
    """Return the scaling of the positions."""
    heads, width = raw["attention.head_count"], raw["embedding_length"]
    size = raw.get("attention.key_length", width // heads)
    return {"rope_scaling": read_scaling(raw, size, raw.get("rope.freq_base", 10_000.0), "")}


def _qwen2(raw: Fields, shapes: Shapes) -> dict[str, Any]:
    # All published files have biases. One without is a Llama model converted under this name, with the rows of queries
    # and keys in Llama's paired order.
    return {**_rotary(raw, shapes), "use_qkv_bias": True}


def _bert(raw: Fields, shapes: Shapes) -> dict[str, Any]:
    types = shapes.get("token_types.weight", (0,))[0]
    rows = shapes.get("position_embd.weight", (raw.get("context_length"),))[0]
    return {"type_vocab_size": types, "max_position_embeddings": rows, "hidden_act": "gelu", "architectures": None}


def _nomic(raw: Fields, shapes: Shapes) -> dict[str, Any]:
    rows = raw.get("context_length")
    theta = raw.get("rope.freq_base", 10_000.0)
    return {**_bert(raw, shapes), "max_position_embeddings": rows, "hidden_act": "silu", "rope_theta": theta}


def _bert_written(config: Fields, name: str = "bert") -> dict[str, Any]:
    return {f"{name}.attention.causal": False, "tokenizer.ggml.token_type_count": config["type_vocab_size"]}


def _t5(raw: Fields, shapes: Shapes) -> dict[str, Any]:
    gated = "enc.blk.0.ffn_gate.weight" in shapes
    start = raw.get("decoder_start_token_id", 0)
    feed = "gated-gelu" if gated else "relu"
    return {"feed_forward_proj": feed, "decoder_start_token_id": start, "relative_attention_max_distance": 128}


def _t5_names() -> dict[str, str]:
    found = {"shared": "token_embd", "lm_head": "output"}
    for stack, short in (("encoder", "enc"), ("decoder", "dec")):
        theirs, own = f"{stack}.block.{{i}}.layer.", f"{short}.blk.{{i}}."
        cross = stack == "decoder"
        attentions = {"0.SelfAttention": "attn", **({"1.EncDecAttention": "cross_attn"} if cross else {})}
        for name, ours in attentions.items():
            found |= {f"{theirs}{name}.{part}": f"{own}{ours}_{part}" for part in "qkvo"}
            found[f"{theirs}{name[0]}.layer_norm"] = f"{own}{ours}_norm"
        last = 1 + cross
        inner = {"wi": "ffn_up", "wi_0": "ffn_gate", "wi_1": "ffn_up", "wo": "ffn_down"}
        found |= {f"{theirs}{last}.DenseReluDense.{part}": own + ours for part, ours in inner.items()}
        found[f"{theirs}{last}.layer_norm"] = f"{own}ffn_norm"
        table = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias"
        found |= {table: f"{short}.blk.0.attn_rel_b", f"{stack}.final_layer_norm": f"{short}.output_norm"}
    return found


# Decoders with Llama's names, which differ in a few entries.

AROUND = {  # four norms of each block
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
CAPS = ("attn_logit_softcapping", "final_logit_softcapping")
WINDOW = {"sliding_window": "attention.sliding_window"}
BEHIND = {name: own for name, own in AROUND.items() if name.startswith("post")}
_SCALES = {
    "attention_multiplier": "attention.scale",
    "embedding_multiplier": "embedding_scale",
    "residual_multiplier": "residual_scale",
    "logits_scaling": "logit_scale",
}


def _gemma_scale(raw: Fields, largest: int) -> int:
    """Return `query_pre_attn_scalar`, which llama.cpp derives from the number of layers."""
    heads = raw["attention.head_count"]
    width = raw["embedding_length"] // heads
    return width if raw.get("block_count") == largest else raw.get("attention.key_length", width)


def _gemma2(raw: Fields, shapes: Shapes) -> dict[str, Any]:
    found = _decoder(raw, shapes)
    found |= {
        "query_pre_attn_scalar": _gemma_scale(raw, 46),
        "sliding_window": raw.get("attention.sliding_window", 4096),
    }
    return found | {name: raw.get(name, default) for name, default in zip(CAPS, (50.0, 30.0), strict=True)}


def _gemma3(raw: Fields, shapes: Shapes) -> dict[str, Any]:
    found = {**_decoder(raw, shapes), "query_pre_attn_scalar": _gemma_scale(raw, 62)}
    window = raw.get("attention.sliding_window")
    if not checks.is_integer(window) or window < 1:
        raise ValueError(f"attention.sliding_window: got {window!r}; accepted: a positive integer")
    kind, factor = raw.get("rope.scaling.type", "linear"), raw.get("rope.scaling.factor", 1.0)
    if kind not in ("none", "linear"):
        raise ValueError(f"rope.scaling.type: got {kind!r}; accepted: 'none' or 'linear'")
    scaled = kind == "linear" and factor != 1.0
    return {
        **found,
        "sliding_window": window,
        "final_logit_softcapping": raw.get("final_logit_softcapping"),
        "rope_theta": raw.get("rope.freq_base", 1_000_000.0),
        "rope_local_base_freq": raw.get("rope.freq_base_swa", 10_000.0),
        "rope_scaling": {"rope_type": "linear", "factor": factor} if scaled else None,
    }


def _phi3(raw: Fields, shapes: Shapes) -> dict[str, Any]:
    found = _decoder({name: value for name, value in raw.items() if name != "rope.dimension_count"}, shapes)
    part = raw.get("rope.dimension_count", found["head_dim"])
    if not checks.is_integer(part) or not 0 < part <= found["head_dim"]:
        raise ValueError(f"rope.dimension_count: got {part!r}; accepted: 1 to {found['head_dim']}")
    found |= {"sliding_window": raw.get("attention.sliding_window"), "partial_rotary_factor": part / found["head_dim"]}
    return {**found, **_long(raw, part)} if "rope_factors_long" in raw or "rope_factors_short" in raw else found


def _long(raw: Fields, size: int) -> dict[str, Any]:
    """Return the entries of rotary positions with separate factors for short and long texts, from two tensors."""
    factors: dict[str, Any] = {name: raw.get(f"rope_factors_{name}") for name in ("short", "long")}
    for name, values in factors.items():
        if values is None or np.shape(values) != (size // 2,):
            got = "none" if values is None else f"{np.size(values)} factors"
            raise ValueError(f"rope_factors_{name}.weight: got {got}; accepted: {size // 2}")
    sharper = raw.get("rope.scaling.attn_factor")
    scaling = {f"{name}_factor": [shortest(each) for each in np.asarray(values)] for name, values in factors.items()}
    scaling |= {"type": "longrope"} | ({} if sharper is None else {"attention_factor": sharper})
    trained = raw.get("rope.scaling.original_context_length", raw.get("context_length"))
    return {"rope_scaling": scaling, "original_max_position_embeddings": trained}


def _phi3_fields(raw: Fields, shapes: Shapes) -> dict[str, Any]:
    return {} if "rope_factors_long" in raw else _rotary(raw, shapes)


def _phi3_written(config: Fields) -> dict[str, Any]:
    if config.get("sliding_window") is not None:
        raise ValueError(
            f"sliding_window: got {config['sliding_window']}; accepted: None, as llama.cpp has none for phi3"
        )
    if config["head_dim"] * config["num_attention_heads"] != config["hidden_size"]:
        raise ValueError(f"head_dim: got {config['head_dim']}; accepted: hidden_dim / num_heads")
    return {}


def _starcoder2(raw: Fields, shapes: Shapes) -> dict[str, Any]:
    return {**_decoder(raw, shapes), "use_bias": "blk.0.attn_q.bias" in shapes, "sliding_window": None}


def _granite(raw: Fields, shapes: Shapes) -> dict[str, Any]:
    found = _decoder(raw, shapes)
    if not raw.get("attention.scale"):
        found["attention_multiplier"] = found["head_dim"] ** -0.5
    return found


_BERT_KEYS = {
    **{entry: SIZES[entry] for entry in ("num_hidden_layers", "num_attention_heads", "hidden_size")},
    **{entry: SIZES[entry] for entry in ("intermediate_size", "max_position_embeddings")},
    "layer_norm_eps": "attention.layer_norm_epsilon",
}
_BERT_TABLES = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
}
_T5_KEYS = {
    "num_layers": "block_count",
    "num_decoder_layers": "decoder_block_count",
    "num_heads": "attention.head_count",
    "d_kv": "attention.key_length",
    "d_model": "embedding_length",
    "d_ff": "feed_forward_length",
    "n_positions": "context_length",
    "relative_attention_num_buckets": "attention.relative_buckets_count",
    "layer_norm_epsilon": "attention.layer_norm_rms_epsilon",
    "decoder_start_token_id": "decoder_start_token_id",
}


def _t5_written(config: Fields) -> dict[str, Any]:
    most = config["num_layers"]
    if (number := config.get("num_decoder_layers", most)) > most:  # llama.cpp's lists have the length of the encoder
        raise ValueError(f"num_decoder_layers: got {number}; accepted: at most num_layers, which is {most}")
    return {}


_DECODER: dict[str, Any] = {
    "keys": SIZES,
    "names": DECODER,
    "heads": ("causal_lm", "sentence_embedding"),
    "more": _decoder,
    "fields": _rotary,
    "demanded": {"general.type": "model", "expert_count": 0, "attention.causal": True},
}
ARCHITECTURES = {
    one.name: one
    for one in (
        Architecture("llama", "llama", paired=True, **_DECODER),
        Architecture("qwen2", "qwen2", **{**_DECODER, "fields": _qwen2}),
        Architecture("qwen3", "qwen3", **_DECODER),
        Architecture("granite", "granite", paired=True, **{**_DECODER, "keys": {**SIZES, **_SCALES}, "more": _granite}),
        Architecture("smollm3", "smollm3", paired=True, **_DECODER),
        Architecture("gemma", "gemma", shifted=True, **_DECODER),
        Architecture(
            "gemma2",
            "gemma2",
            shifted=True,
            **{
                **_DECODER,
                "names": {**DECODER, **blocks(AROUND)},
                "keys": {**SIZES, **WINDOW, **{name: name for name in CAPS}},
                "more": _gemma2,
            },
        ),
        Architecture(
            "gemma3",
            "gemma3_text",
            shifted=True,
            **{
                **_DECODER,
                "names": {**DECODER, **blocks(AROUND)},
                "keys": {**SIZES, **WINDOW, CAPS[1]: CAPS[1]},
                "more": _gemma3,
                "fields": lambda raw, shapes: {},
            },
        ),
        Architecture(
            "phi3",
            "phi3",
            **{
                **_DECODER,
                "names": {
                    **{name: own for name, own in DECODER.items() if not name.endswith(("gate_proj", "up_proj"))},
                    **blocks({"self_attn.qkv_proj": "attn_qkv", "mlp.gate_up_proj": "ffn_up"}),
                },
                "more": _phi3,
                "fields": _phi3_fields,
                "written": _phi3_written,
            },
        ),
        Architecture(
            "starcoder2",
            "starcoder2",
            **{
                **_DECODER,
                "names": {
                    **{name: own for name, own in DECODER.items() if ".mlp." not in name},
                    **blocks({"mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}),
                },
                "keys": {**SIZES, "norm_epsilon": "attention.layer_norm_epsilon"},
                "more": _starcoder2,
            },
        ),
        Architecture(
            "olmo2",
            "olmo2",
            **{
                **_DECODER,
                "names": {**DECODER, **blocks(BEHIND)},
                "demanded": {**_DECODER["demanded"], "attention.sliding_window": 0},
            },
        ),
        Architecture(
            "gpt2",
            "gpt2",
            keys={
                "n_layer": "block_count",
                "n_head": "attention.head_count",
                "n_embd": "embedding_length",
                "n_inner": "feed_forward_length",
                "n_positions": "context_length",
                "layer_norm_epsilon": "attention.layer_norm_epsilon",
            },
            names={
                "wte": "token_embd",
                "wpe": "position_embd",
                "ln_f": "output_norm",
                "lm_head": "output",
                **blocks(
                    {
                        "ln_1": "attn_norm",
                        "attn.c_attn": "attn_qkv",
                        "attn.c_proj": "attn_output",
                        "ln_2": "ffn_norm",
                        "mlp.c_fc": "ffn_up",
                        "mlp.c_proj": "ffn_down",
                    },
                    "h.{i}.",
                ),
            },
            demanded={"general.type": "model", "attention.causal": True},
            turned=tuple(f"h.{{i}}.{name}" for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")),
        ),
        Architecture(
            "bert",
            "bert",
            keys=_BERT_KEYS,
            names={
                **_BERT_TABLES,
                "embeddings.LayerNorm": "token_embd_norm",
                **blocks(
                    {
                        "attention.self.query": "attn_q",
                        "attention.self.key": "attn_k",
                        "attention.self.value": "attn_v",
                        "attention.output.dense": "attn_output",
                        "attention.output.LayerNorm": "attn_output_norm",
                        "intermediate.dense": "ffn_up",
                        "output.dense": "ffn_down",
                        "output.LayerNorm": "layer_output_norm",
                    },
                    "encoder.layer.{i}.",
                ),
            },
            heads=(None, "sentence_embedding"),
            more=_bert,
            written=_bert_written,
            demanded={"general.type": "model", "attention.causal": False},
        ),
        Architecture(
            "nomic-bert",
            "nomic_bert",
            keys={**_BERT_KEYS, "rope_theta": "rope.freq_base"},
            names={
                **_BERT_TABLES,
                "emb_ln": "token_embd_norm",
                **blocks(
                    {
                        "attn.Wqkv": "attn_qkv",
                        "attn.out_proj": "attn_output",
                        "norm1": "attn_output_norm",
                        "mlp.fc11": "ffn_up",
                        "mlp.fc12": "ffn_gate",
                        "mlp.fc2": "ffn_down",
                        "norm2": "layer_output_norm",
                    },
                    "encoder.layers.{i}.",
                ),
            },
            heads=(None, "sentence_embedding"),
            more=_nomic,
            fields=_rotary,
            written=lambda config: _bert_written(config, "nomic-bert"),
            demanded={"general.type": "model", "attention.causal": False},
        ),
        Architecture(
            "t5",
            "t5",
            keys=_T5_KEYS,
            names=_t5_names(),
            heads=("seq2seq_lm",),
            more=_t5,
            written=_t5_written,
            demanded={"general.type": "model"},
            ignored=(r"^dec\.blk\.\d+\.cross_attn_rel_b\.",),
        ),
        Architecture(
            "t5encoder",
            "t5",
            keys={entry: key for entry, key in _T5_KEYS.items() if not entry.startswith(("num_decoder", "decoder"))},
            names=_t5_names(),
            heads=(None,),
            more=_t5,
            demanded={"general.type": "model"},
        ),
    )
}
