"""Reference checkpoints of decoders that differ from Llama and GPT-2 in their tables or in one piece of maths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers as hf

from .common import golden
from .decoders import rope, write_causal

SIZES = {
    **{"vocab_size": 61, "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"num_key_value_heads": 2, "max_position_embeddings": 40, "bos_token_id": 1, "eos_token_id": 2},
    **{"pad_token_id": 0, "tie_word_embeddings": False, "rope_parameters": rope()},
}
KINDS = ["sliding_attention", "full_attention"]
SLIDING = {"sliding_window": 4, "layer_types": KINDS}
BY_KIND = {"sliding_attention": rope(theta=50.0), "full_attention": rope("linear", factor=2.0)}


def write(folder: Path, name: str, without: tuple[str, ...] = (), attention: str = "eager", **changes: Any) -> None:
    """Write a causal model of the transformers classes that begin with `name`."""
    options = {key: value for key, value in {**SIZES, **changes}.items() if key not in without}
    write_causal(
        folder, getattr(hf, f"{name}ForCausalLM"), getattr(hf, f"{name}Config")(**options), attention=attention
    )


def partial(part: float) -> dict[str, Any]:
    return {"rope_parameters": {**rope(), "partial_rotary_factor": part}}


@golden
def phi3(folder: Path) -> None:
    """Join queries, keys and values, and gate and up, in one tensor each; use a window."""
    write(folder, "Phi3", sliding_window=5)


@golden
def phi3_long(folder: Path) -> None:
    """Divide each frequency by a factor of its own, for texts up to the trained length; rotate half of the features."""
    factors = {"short_factor": [1.0, 1.3], "long_factor": [1.5, 6.0], "partial_rotary_factor": 0.5}
    scaling = {"rope_parameters": {**rope("longrope"), **factors}, "original_max_position_embeddings": 40}
    write(folder, "Phi3", **scaling, num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=160)


@golden
def gemma(folder: Path) -> None:
    """Scale the embeddings, and use factors of 1 + weight in the norms; the head_dim is free, the head tied."""
    write(folder, "Gemma", head_dim=6, num_key_value_heads=1, tie_word_embeddings=True)


@golden
def gemma2(folder: Path) -> None:
    """Use soft caps that scores and logits reach, another scale, norms around branches and a window in one layer."""
    caps = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 9}
    write(folder, "Gemma2", head_dim=6, tie_word_embeddings=True, **caps, **SLIDING)


@golden
def gemma3(folder: Path) -> None:
    """Use other rotary positions in layers with a window, and norms of the heads."""
    changes = {"head_dim": 6, "tie_word_embeddings": True, "rope_parameters": BY_KIND, "query_pre_attn_scalar": 5}
    write_causal(folder, hf.Gemma3ForCausalLM, hf.Gemma3TextConfig(**{**SIZES, **changes, **SLIDING}))


@golden
def starcoder2(folder: Path) -> None:
    write(folder, "Starcoder2", sliding_window=5, norm_epsilon=1e-3)


@golden
def gpt_bigcode(folder: Path) -> None:
    """Share one key/value head."""
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 40, "vocab_size": 61, "n_inner": 20}
    config = hf.GPTBigCodeConfig(**sizes, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    write_causal(folder, hf.GPTBigCodeForCausalLM, config)


@golden
def gpt_bigcode_heads(folder: Path) -> None:
    """Give every head its own keys and values, stored head by head."""
    sizes = {"n_embd": 12, "n_layer": 2, "n_head": 3, "n_positions": 40, "vocab_size": 61, "n_inner": 20}
    config = hf.GPTBigCodeConfig(**sizes, bos_token_id=1, eos_token_id=2, pad_token_id=0, multi_query=False)
    write_causal(folder, hf.GPTBigCodeForCausalLM, config)


@golden
def helium(folder: Path) -> None:
    """Rotate neighbouring features."""
    write(folder, "Helium", head_dim=4)


@golden
def seed_oss(folder: Path) -> None:
    """Use biases of queries, keys and values, and none of the output."""
    write(folder, "SeedOss", head_dim=6)


@golden
def ernie4_5(folder: Path) -> None:
    """Rotate neighbouring features, with biases everywhere."""
    write(folder, "Ernie4_5", head_dim=6, use_bias=True)


@golden
def ministral(folder: Path) -> None:
    write(folder, "Ministral", head_dim=4, **SLIDING)


@golden
def opt(folder: Path) -> None:
    """Begin the table of positions at row 2."""
    sizes = {**SIZES, "ffn_dim": 20, "word_embed_proj_dim": 16, "tie_word_embeddings": True}
    kept = {key: value for key, value in sizes.items() if key not in ("intermediate_size", "rope_parameters")}
    write_causal(folder, hf.OPTForCausalLM, hf.OPTConfig(**kept))


@golden
def smollm3(folder: Path) -> None:
    """Rotate nothing in the second of two layers, which has a window."""
    write(folder, "SmolLM3", no_rope_layers=[1, 0], use_sliding_window=True, sliding_window=4, layer_types=None)


@golden
def cohere(folder: Path) -> None:
    """Let both branches read the same normalized input; scale the logits."""
    write(folder, "Cohere", logit_scale=0.3, tie_word_embeddings=True)


@golden
def cohere2(folder: Path) -> None:
    """Rotate only in the layer with a window."""
    write(folder, "Cohere2", logit_scale=0.3, tie_word_embeddings=True, **SLIDING)


@golden
def olmo2(folder: Path) -> None:
    """Normalize the output of each branch, and all query heads together."""
    write(folder, "Olmo2")


@golden
def olmo3(folder: Path) -> None:
    """Scale the positions of layers without a window alone."""
    scaled = {"sliding_attention": rope(), "full_attention": rope("linear", factor=2.0)}
    write(folder, "Olmo3", **{**SLIDING, "rope_parameters": scaled})


@golden
def gpt_neo(folder: Path) -> None:
    """Scale no scores, and use a window in one layer."""
    sizes = {**SIZES, "num_layers": 2, "num_heads": 4, "window_size": 4, "attention_types": [[["local", "global"], 1]]}
    kept = ("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "rope_parameters")
    write_causal(
        folder,
        hf.GPTNeoForCausalLM,
        hf.GPTNeoConfig(**{k: v for k, v in {**sizes, "tie_word_embeddings": True}.items() if k not in kept}),
    )


@golden
def glm(folder: Path) -> None:
    """Rotate half of the features of each head, in neighbouring pairs."""
    write(folder, "Glm", head_dim=8, num_attention_heads=2, num_key_value_heads=1, **partial(0.5))


@golden
def glm4(folder: Path) -> None:
    """Normalize the inputs and the outputs of both branches."""
    changes = {"head_dim": 8, "attention_bias": False, "num_attention_heads": 2, "num_key_value_heads": 1}
    write(folder, "Glm4", **changes, **partial(0.5))


@golden
def phi(folder: Path) -> None:
    """Use a bias of the head, and one norm for both branches."""
    write(folder, "Phi", num_attention_heads=2, num_key_value_heads=1, hidden_act="gelu_new", **partial(0.5))


@golden
def stablelm(folder: Path) -> None:
    write(folder, "StableLm", num_attention_heads=2, num_key_value_heads=1, use_qkv_bias=True, **partial(0.25))


@golden
def stablelm_parallel(folder: Path) -> None:
    changes = {"num_attention_heads": 2, "num_key_value_heads": 2, "use_parallel_residual": True}
    write(folder, "StableLm", **changes, **partial(0.5))


@golden
def nemotron(folder: Path) -> None:
    """Use squared ReLU, and factors of 1 + weight in LayerNorm."""
    write(folder, "Nemotron", head_dim=8, num_attention_heads=2, num_key_value_heads=1, **partial(0.5))


@golden
def gpt_neox(folder: Path) -> None:
    """Use a norm for each of two parallel branches; queries, keys and values are stored head by head."""
    write(folder, "GPTNeoX", ("num_key_value_heads",), num_attention_heads=2, **partial(0.5))


@golden
def gpt_neox_serial(folder: Path) -> None:
    changes = {"num_attention_heads": 2, "use_parallel_residual": False, "attention_bias": False}
    write(folder, "GPTNeoX", ("num_key_value_heads",), **changes, **partial(1.0))


@golden
def gptj(folder: Path) -> None:
    """Rotate half of the features, in neighbouring pairs; use a bias of the head."""
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 40, "vocab_size": 61, "n_inner": 20}
    config = hf.GPTJConfig(**sizes, rotary_dim=4, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    write_causal(folder, hf.GPTJForCausalLM, config)


FALCON = {"ffn_hidden_size": 20, "tie_word_embeddings": True}


@golden
def falcon(folder: Path) -> None:
    """Share one key/value head and one norm, as Falcon 7B does."""
    write(folder, "Falcon", ("num_key_value_heads", "intermediate_size"), **FALCON)


@golden
def falcon_groups(folder: Path) -> None:
    """Store each key/value head behind its query heads, as Falcon 40B does, with two norms and biases."""
    changes = {"new_decoder_architecture": True, "num_kv_heads": 2, "bias": True}
    write(folder, "Falcon", ("num_key_value_heads", "intermediate_size"), **FALCON, **changes)


@golden
def falcon_alibi(folder: Path) -> None:
    """Scale the linear biases like the scores, as Falcon RW does, in two branches one after the other.

    The eager attention of transformers 5.24 adds these biases twice, that of PyTorch once.
    """
    changes = {"alibi": True, "multi_query": False, "parallel_attn": False, "bias": True}
    write(folder, "Falcon", ("num_key_value_heads", "intermediate_size"), **FALCON, **changes, attention="sdpa")


@golden
def granite(folder: Path) -> None:
    factors = {"embedding_multiplier": 3.0, "logits_scaling": 0.7, "residual_multiplier": 0.6}
    write(folder, "Granite", **factors, attention_multiplier=0.4)


@golden
def bloom(folder: Path) -> None:
    """Normalize the embeddings; three heads."""
    sizes = {"hidden_size": 12, "n_layer": 2, "n_head": 3, "vocab_size": 61}
    write_causal(
        folder,
        hf.BloomForCausalLM,
        hf.BloomConfig(**sizes, bos_token_id=1, eos_token_id=2, pad_token_id=0, tie_word_embeddings=False),
    )


@golden
def mpt(folder: Path) -> None:
    sizes = {"d_model": 12, "n_layers": 2, "n_heads": 3, "vocab_size": 61, "max_seq_len": 40}
    write_causal(
        folder,
        hf.MptForCausalLM,
        hf.MptConfig(**sizes, bos_token_id=1, eos_token_id=2, pad_token_id=0, tie_word_embeddings=True),
    )


@golden
def qwen2_windows(folder: Path) -> None:
    """Use a window in one of two layers."""
    write(folder, "Qwen2", use_sliding_window=True, **SLIDING)
