"""The dialect of GGUF files of the llama architecture: llama.cpp's names of config fields and tensors."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from ...weights.gguf_file import shortest
from ...weights.rules import Dialect, Field, Rule, linear
from ...weights.transforms import TRANSPOSED, paired_rows
from ..huggingface import integer, number
from .model import GPTConfig

# Factors of Llama 3's rotary scaling that are recognized: 8 is that of Llama 3.1, 32 that of Llama 3.2.
LLAMA3_FACTORS = (8.0, 32.0, 16.0, 4.0, 2.0, 64.0)


def read_gguf(raw: Mapping[str, Any], shapes: Collection[str]) -> dict[str, Any]:
    """Return the config fields that depend on the tensors of a GGUF file or on several of its metadata fields.

    Args:
        raw: metadata of the file, and the tensor "rope_freqs.weight" as "rope_freqs" if the file has it.
        shapes: shapes of the tensors by name.

    Raises:
        ValueError: the architecture is not llama, a required field or tensor is missing or invalid, only a part of the
            features is rotated, or the scaling of the positions is not supported.
    """
    if "general.architecture" not in raw:  # another value is refused earlier
        raise ValueError("general.architecture: got None; accepted: 'llama'")
    assert isinstance(shapes, Mapping)
    if "token_embd.weight" not in shapes:
        raise ValueError("token_embd.weight: not in the file; accepted: a table of tokens")
    if (heads := integer(raw, "llama.attention.head_count", 0)) < 1:
        raise ValueError(f"llama.attention.head_count: got {heads}; accepted: a positive integer")
    head_dim = integer(raw, "llama.attention.key_length", integer(raw, "llama.embedding_length", 0) // heads)
    for name in ("llama.rope.dimension_count", "llama.attention.value_length"):
        if raw.get(name, head_dim) != head_dim:
            raise ValueError(f"{name}: got {raw[name]}; accepted: {head_dim}")
    if (theta := number(raw, "llama.rope.freq_base", 10_000.0)) <= 0:
        raise ValueError(f"llama.rope.freq_base: got {theta}; accepted: a positive number")
    has_bias = {part: f"blk.0.{part}.bias" in shapes for part in ("attn_output", "attn_q", "ffn_up")}
    return {
        "vocab_size": (shapes["token_embd.weight"] or (0,))[0],
        "tie_embeddings": "output.weight" not in shapes,
        "use_bias": has_bias["attn_output"],
        "use_qkv_bias": has_bias["attn_q"],
        "use_feedforward_bias": has_bias["ffn_up"],
        "rope_scaling": read_scaling(raw, head_dim, theta),
    }


def read_scaling(raw: Mapping[str, Any], head_dim: int, theta: float, prefix: str = "llama.") -> dict[str, Any] | None:
    """Return the scaling of the positions as llama.cpp computes it (llama-model.cpp, llama-context.cpp, ``rope_yarn``).

    A factor without a type is linear, and `attn_factor` multiplies cosines and sines with every type.

    Args:
        raw: the metadata.
        head_dim: number of features of a head.
        theta: base of the frequencies.
        prefix: beginning of the names of `raw`: the architecture and a dot.
    """
    name = f"{prefix}rope.scaling."
    kind = raw.get(name + "type", "linear")
    if kind not in ("none", "linear", "yarn"):
        raise ValueError(f"{name}type: got {kind!r}; accepted: 'none', 'linear', 'yarn'")
    factor = number(raw, name + "factor", number(raw, f"{prefix}rope.scale_linear", 0.0)) or 1.0  # the latter is older
    factor = 1.0 if kind == "none" else factor
    sharper = number(raw, name + "attn_factor", 1.0)
    for entry, value in ((name + "factor", factor), (name + "attn_factor", sharper)):
        if value <= 0:
            raise ValueError(f"{entry}: got {value}; accepted: a positive number")
    factors = raw.get("rope_freqs")  # a tensor that ``load`` adds to the metadata
    if factors is not None and np.shape(factors) != (head_dim // 2,):
        raise ValueError(f"rope_freqs.weight: got {np.size(factors)} factors; accepted: {head_dim // 2}")
    if kind == "yarn":
        if factors is not None:
            raise ValueError(f"{name}type: got 'yarn' beside rope_freqs.weight; accepted: one of them")
        original = integer(raw, name + "original_context_length", 0) or raw[f"{prefix}context_length"]
        scaling = {"rope_type": kind, "factor": factor, "original_max_position_embeddings": original}
        usual = 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0
        return scaling if sharper == 1.0 else {**scaling, "attention_factor": sharper * usual}
    if factors is not None and factor == sharper == 1.0:
        return _llama3(np.asarray(factors), head_dim, theta)
    if factors is not None or sharper != 1.0:
        every = [shortest(each * factor) for each in (np.ones(head_dim // 2) if factors is None else factors)]
        return {"rope_type": "factors", "factors": every, "attention_factor": sharper}
    return None if factor == 1.0 else {"rope_type": "linear", "factor": factor}


def _llama3(factors: np.ndarray, head_dim: int, theta: float) -> dict[str, Any]:
    """Return the Llama 3 scaling that results in these `factors`, one per pair of rotated features.

    A GGUF file contains the factors but not the options they were computed from. The options of published models are
    recognized, so that the model can be saved for transformers; any other factors are kept as they are.
    """
    turns = 8192 * theta ** (-np.arange(0, head_dim, 2) / head_dim) / (2 * math.pi)
    for factor in LLAMA3_FACTORS:
        keep = np.clip((turns - 1) / 3, 0, 1)
        if factors.shape == keep.shape and np.allclose(1 / (keep + (1 - keep) / factor), factors, rtol=1e-4):
            scaling = {"rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
            return {**scaling, "original_max_position_embeddings": 8192}
    return {"rope_type": "factors", "factors": [shortest(factor) for factor in factors]}


def _rules(c: GPTConfig) -> tuple[Rule, ...]:
    """Return the rules for llama.cpp's tensors, in which rotated features of queries and keys are stored in pairs."""
    query, key = paired_rows(c.num_heads), paired_rows(c.num_kv_heads or c.num_heads)
    block, attention = "block_{i}/", "block_{i}/attention/"
    return (
        Rule("token_embd.weight", "embedding/embeddings"),
        Rule("blk.{i}.attn_norm.weight", block + "attention_norm/scale"),
        Rule("blk.{i}.attn_q.weight", attention + "query/kernel", query),
        Rule("blk.{i}.attn_q.bias", attention + "query/bias", query),
        Rule("blk.{i}.attn_k.weight", attention + "key/kernel", key),
        Rule("blk.{i}.attn_k.bias", attention + "key/bias", key),
        *linear("blk.{i}.attn_v", attention + "value"),
        *linear("blk.{i}.attn_output", attention + "output"),
        Rule("blk.{i}.ffn_norm.weight", block + "feedforward_norm/scale"),
        *linear("blk.{i}.ffn_gate", block + "feedforward/gate"),
        *linear("blk.{i}.ffn_up", block + "feedforward/up"),
        *linear("blk.{i}.ffn_down", block + "feedforward/down"),
        Rule("output_norm.weight", "final_norm/scale"),
        Rule("output.weight", "lm_head/kernel", TRANSPOSED, outside=True),
    )


GGUF = Dialect(
    fields=(
        Field("llama.block_count", "num_layers"),
        Field("llama.attention.head_count", "num_heads"),
        Field("llama.attention.head_count_kv", "num_kv_heads", None),
        Field("llama.attention.key_length", "head_dim", None),
        Field("llama.embedding_length", "hidden_dim"),
        Field("llama.feed_forward_length", "intermediate_dim"),
        Field("llama.context_length", "max_length"),
        Field("llama.attention.layer_norm_rms_epsilon", "norm_epsilon"),
        Field("llama.rope.freq_base", "rope_theta", 10_000.0),
        Field("tokenizer.ggml.bos_token_id", "bos_token_id", None),
        Field("tokenizer.ggml.eos_token_id", "eos_token_id", None),
        Field("tokenizer.ggml.padding_token_id", "pad_token_id", None),
    ),
    fixed={"position": "rotary", "norm": "rms_norm", "activation": "swiglu"},
    demanded={
        "general.type": "model",  # and not an adapter or an image encoder
        "general.architecture": "llama",
        "llama.expert_count": 0,
        "llama.attention.causal": True,
    },
    read=read_gguf,
    rules=_rules,
    heads={"causal_lm": "llama"},
    ignored=(r"^rope_freqs\.weight$", r"^blk\.\d+\.attn_rot_embd"),  # the former is read as `rope_scaling`
    tied={"output.weight": "token_embd.weight"},
)
