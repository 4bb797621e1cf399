"""Reference checkpoints of decoders with a mixture of experts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers as hf

from .common import edit_json, golden, reread, stored, write_tensors
from .decoders import write_causal


def sizes(cls: Any, **changes: Any) -> Any:
    own = {"vocab_size": 67, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    more = {"num_key_value_heads": 1, "max_position_embeddings": 40, "bos_token_id": 1, "eos_token_id": 2}
    return cls(**{**own, **more, **changes})


def mixtral_config(**changes: Any) -> Any:
    return sizes(hf.MixtralConfig, **{"num_local_experts": 4, "intermediate_size": 8, "head_dim": 6, **changes})


@golden
def mixtral(folder: Path) -> None:
    """Select two of four experts, whose weights sum to 1; use a head_dim other than hidden_size / heads."""
    write_causal(folder, hf.MixtralForCausalLM, mixtral_config(rms_norm_eps=1e-4))


@golden
def mixtral_stacked(folder: Path) -> None:
    """Name tensors as they are in the memory of transformers 5, where those of all experts are stacked."""
    write_causal(folder, hf.MixtralForCausalLM, mixtral_config(num_experts_per_tok=3, sliding_window=5))
    tensors = stored(folder)
    for layer in range(2):
        old, new = f"model.layers.{layer}.block_sparse_moe", f"model.layers.{layer}.mlp"
        w1, w2, w3 = (torch.stack([tensors.pop(f"{old}.experts.{j}.w{n}.weight") for j in range(4)]) for n in (1, 2, 3))
        tensors[f"{new}.experts.gate_up_proj"] = torch.cat([w1, w3], dim=1)
        tensors[f"{new}.experts.down_proj"] = w2
        tensors[f"{new}.gate.weight"] = tensors.pop(f"{old}.gate.weight")
    write_tensors(folder / "model.safetensors", tensors)
    reread(folder, hf.MixtralForCausalLM)


@golden
def qwen2_moe(folder: Path) -> None:
    """Use a shared expert, probabilities that do not sum to 1, biases of the queries, and two dense layers of three."""
    changes = {"num_experts": 5, "moe_intermediate_size": 4, "shared_expert_intermediate_size": 12}
    layers = {"num_hidden_layers": 3, "intermediate_size": 12, "decoder_sparse_step": 2}
    write_causal(folder, hf.Qwen2MoeForCausalLM, sizes(hf.Qwen2MoeConfig, num_experts_per_tok=3, **changes, **layers))


@golden
def qwen3_moe(folder: Path) -> None:
    """Normalize query and key heads and the weights of the experts; name a dense layer; use an old name of an entry."""
    changes = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 8, "norm_topk_prob": True}
    layers = {"intermediate_size": 14, "mlp_only_layers": [1], "head_dim": 10}
    write_causal(folder, hf.Qwen3MoeForCausalLM, sizes(hf.Qwen3MoeConfig, **changes, **layers))
    edit_json(folder / "config.json", ("num_local_experts",), num_experts=6)
    reread(folder, hf.Qwen3MoeForCausalLM)


@golden
def olmoe(folder: Path) -> None:
    """Normalize all query heads together, and all key heads; the probabilities of the experts do not sum to 1."""
    changes = {"num_experts": 4, "num_experts_per_tok": 3, "intermediate_size": 8, "num_key_value_heads": 2}
    write_causal(folder, hf.OlmoeForCausalLM, sizes(hf.OlmoeConfig, **changes, pad_token_id=0))


@golden
def gpt_oss(folder: Path) -> None:
    """Use sinks, a window in one of two layers, YaRN whose ramp is between indices, and biases of all layers."""
    rope = {"rope_type": "yarn", "rope_theta": 50.0, "factor": 2.0, "original_max_position_embeddings": 20}
    more = {"beta_fast": 1.5, "beta_slow": 0.3, "truncate": False}
    changes = {"num_local_experts": 3, "num_experts_per_tok": 2, "intermediate_size": 8, "head_dim": 8}
    config = sizes(hf.GptOssConfig, **changes, sliding_window=4, vocab_size=53, rope_parameters={**rope, **more})
    write_causal(folder, hf.GptOssForCausalLM, config, long=27)
