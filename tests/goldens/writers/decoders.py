"""Reference checkpoints of decoders."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from safetensors.torch import load_file

from .common import (
    LEAST_MARGIN,
    LENGTHS,
    NEW_TOKENS,
    case,
    edit_json,
    golden,
    ids,
    mask_of,
    new,
    pad,
    randomise,
    reread,
    results,
    seed_of,
    stored,
    write_golden,
    write_json,
    write_tensors,
)


def places(mask: torch.Tensor) -> torch.Tensor:
    """Return positions counted along the mask, as in ``generate``."""
    return (mask.cumsum(1) - 1).clamp(min=0)


def causal_cases(folder: Path, model: Any, long: int | None = None) -> list[dict[str, np.ndarray]]:
    """Return cases with right and left padding, and with one `long` row if given."""
    rng = np.random.default_rng(seed_of(folder))
    rows = ids(rng, (len(LENGTHS), max(LENGTHS)), model.config.vocab_size)
    cases: list[dict[str, np.ndarray]] = []
    for name, left in (("right", False), ("left", True)):
        mask = mask_of(LENGTHS, left)
        inputs = {"input_ids": pad(rows, mask, 0), "attention_mask": mask}
        if left:
            inputs["position_ids"] = places(mask)
        cases.append(case(name, inputs, results(model, inputs, ["logits"]), mask))
    right, left = (cases[i][f"{name}/logits"] for i, name in enumerate(("right", "left")))
    for row, length in enumerate(LENGTHS):
        np.testing.assert_allclose(left[row, -length:], right[row, :length], rtol=0, atol=2e-5)
    if long:
        inputs = {"input_ids": ids(rng, (1, long), model.config.vocab_size)}
        cases.append(case("long", inputs, results(model, inputs, ["logits"])))
    return cases


@torch.no_grad()
def greedy(model: Any, prompt: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray] | None:
    """Return the greedy continuation of ``generate``, not stopped by an end token.

    The result is None if two tokens are almost equally likely, or if tokens are too repetitive or special.
    """
    options = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "pad_token_id": model.config.pad_token_id or 0}
    start = getattr(model.config, "decoder_start_token_id", None)
    model.generation_config = hf.GenerationConfig(**options, decoder_start_token_id=start)
    made = model.generate(**prompt, return_dict_in_generate=True, output_logits=True)
    tokens = made.sequences[:, -NEW_TOKENS:]
    assert made.sequences.shape[1] == NEW_TOKENS + (1 if start is not None else prompt["input_ids"].shape[1])
    best, second = torch.stack(made.logits, 1).topk(2).values.unbind(-1)
    margin, different = (best - second).min().item(), min(row.unique().numel() for row in tokens)
    special = {0, model.config.eos_token_id, model.config.pad_token_id, start} & set(tokens.flatten().tolist())
    if margin < LEAST_MARGIN or different < 3 or special:
        return None
    return case("generate", prompt, {"tokens": tokens})


def generating(
    model: Any, prompt: Mapping[str, torch.Tensor], seed: int, dtype: torch.dtype = torch.float32
) -> dict[str, np.ndarray]:
    """Set random weights from the first seed with a meaningful greedy continuation, and return that continuation."""
    own = model.generation_config
    for attempt in range(seed, seed + 10_000):
        continuation = greedy(randomise(model, attempt, dtype), prompt)
        if continuation:
            model.generation_config = own
            return continuation
    raise AssertionError("no seed has a telling continuation")


def write_causal(
    folder: Path,
    cls: Any,
    config: Any,
    long: int | None = None,
    dtype: torch.dtype = torch.float32,
    shard: str = "1GB",
    attention: str = "eager",
) -> Any:
    """Write one decoder: its folder, its outputs, and eight greedy tokens after left-padded prompts."""
    model = new(folder, cls, config, attention)
    rows = ids(np.random.default_rng(seed_of(folder)), (len(LENGTHS), max(LENGTHS)), config.vocab_size)
    mask = mask_of(LENGTHS, left=True)
    prompt = {"input_ids": pad(rows, mask, 0), "attention_mask": mask}
    continuation = generating(model, prompt, seed_of(folder), dtype)
    write_golden(folder, *causal_cases(folder, model, long), continuation)
    model.to(dtype).save_pretrained(folder, max_shard_size=shard)
    reread(folder, cls, attn_implementation=attention)
    return model


def gpt2_config(**changes: Any) -> Any:
    sizes = {"vocab_size": 97, "n_positions": 40, "n_embd": 20, "n_layer": 2, "n_head": 2}
    return hf.GPT2Config(**{**sizes, "bos_token_id": 1, "eos_token_id": 2, **changes})


@golden
def gpt2(folder: Path) -> None:
    """Leave n_inner null, so that the inner size is 4 × n_embd; use gelu_new and a tied head."""
    write_causal(folder, hf.GPT2LMHeadModel, gpt2_config())


@golden
def gpt2_inner(folder: Path) -> None:
    """Use an inner size that is not a multiple of n_embd, exact GELU, another epsilon, and an untied head."""
    changes = {"n_inner": 44, "activation_function": "gelu", "layer_norm_epsilon": 1e-3, "tie_word_embeddings": False}
    write_causal(folder, hf.GPT2LMHeadModel, gpt2_config(n_embd=18, n_head=3, **changes))


@golden
def gpt2_published(folder: Path) -> None:
    """Write names as in openai-community/gpt2: no ``transformer.`` prefix, and the causal masks as buffers."""
    model = write_causal(folder, hf.GPT2LMHeadModel, gpt2_config(n_positions=24, n_embd=16, n_head=2))
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in stored(folder).items()}
    length = model.config.n_positions
    for layer in range(model.config.n_layer):
        tensors[f"h.{layer}.attn.bias"] = torch.ones(1, 1, length, length).tril()
        tensors[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    write_tensors(folder / "model.safetensors", tensors)
    drop = ("dtype", "add_cross_attention", "pad_token_id", "tie_word_embeddings", "n_inner")
    tasks = {"text-generation": {"do_sample": True, "max_length": 50}}
    edit_json(folder / "config.json", drop, n_ctx=length, task_specific_params=tasks)
    reread(folder, hf.GPT2LMHeadModel)


def llama_config(cls: Any = hf.LlamaConfig, **changes: Any) -> Any:
    sizes = {"vocab_size": 97, "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 40}
    return cls(**{**sizes, **heads, "bos_token_id": 1, "eos_token_id": 2, **changes})


def rope(kind: str = "default", theta: float = 500.0, **fields: Any) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": theta, **fields}


def old_rope(folder: Path, cls: Any, name: str = "config.hub.json") -> None:
    """Write the same settings as a config from before transformers 5, read it back and compare."""
    config = json.loads((folder / "config.json").read_text())
    parameters = config.pop("rope_parameters")
    config["rope_theta"] = parameters.pop("rope_theta")
    # The oldest files have "type" instead of "rope_type".
    kind = parameters.pop("rope_type")
    key = "type" if kind == "linear" else "rope_type"
    config["rope_scaling"] = None if kind == "default" else {key: kind, **parameters}
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.40.0"
    now = cls.from_json_file(folder / "config.json")
    write_json(folder / name, config)
    old = cls.from_json_file(folder / name)
    for read in (old, now):
        read.standardize_rope_params()
    same = {key: value for key, value in old.rope_parameters.items() if key != "type"}
    assert same == now.rope_parameters, (old.rope_parameters, now.rope_parameters)


@golden
def llama(folder: Path) -> None:
    """Use a head_dim other than hidden_size / num_attention_heads, two query heads per key head, and an untied head."""
    config = llama_config(head_dim=10, rms_norm_eps=1e-3, rope_parameters=rope())
    write_causal(folder, hf.LlamaForCausalLM, config)
    old_rope(folder, hf.LlamaConfig)


@golden
def llama_tied(folder: Path) -> None:
    """Tie the head as in SmolLM2, with all possible biases and three query heads per key head."""
    config = llama_config(
        num_attention_heads=3, num_key_value_heads=1, tie_word_embeddings=True, attention_bias=True, mlp_bias=True
    )
    write_causal(folder, hf.LlamaForCausalLM, config)


def write_scaled(folder: Path, **scaling: Any) -> None:
    """Write a Llama with scaled rotary positions, computed beyond its original training length."""
    sizes = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 12, "tie_word_embeddings": True}
    config = llama_config(**sizes, rope_parameters=rope(**scaling))
    write_causal(folder, hf.LlamaForCausalLM, config, long=27)
    old_rope(folder, hf.LlamaConfig)


@golden
def llama_linear(folder: Path) -> None:
    write_scaled(folder, kind="linear", factor=2.5)


@golden
def llama_llama3(folder: Path) -> None:
    """Cover wavelengths from 6 to 164: one is kept, two are interpolated, three are scaled."""
    factors = {"factor": 8.0, "low_freq_factor": 0.5, "high_freq_factor": 2.0}
    write_scaled(folder, kind="llama3", theta=50.0, original_max_position_embeddings=20, **factors)


@golden
def llama_yarn(folder: Path) -> None:
    """Use a ramp over features 1 to 4 of 6, and the default attention factor."""
    betas = {"beta_fast": 1.5, "beta_slow": 0.3}
    write_scaled(folder, kind="yarn", theta=50.0, factor=4.0, original_max_position_embeddings=20, **betas)


@golden
def llama_sharded(folder: Path) -> None:
    """Write two files and an index, an old config.json, and the frequency buffers that old files contain."""
    config = llama_config(rope_parameters=rope(theta=10000.0))
    model = write_causal(folder, hf.LlamaForCausalLM, config, shard="28KB")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) == 2, index
    first = folder / "model-00001-of-00002.safetensors"
    tensors = load_file(first)
    for layer in range(config.num_hidden_layers):
        name = f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"
        tensors[name] = model.model.rotary_emb.inv_freq.clone()
        index["weight_map"][name] = first.name
        index["metadata"]["total_size"] += tensors[name].nbytes
    write_tensors(first, tensors)
    write_json(folder / "model.safetensors.index.json", index)
    old_rope(folder, hf.LlamaConfig, "config.json")
    reread(folder, hf.LlamaForCausalLM)


@golden
def llama_bf16(folder: Path) -> None:
    """Store the weights in bfloat16; the outputs are computed from them in float32."""
    write_causal(folder, hf.LlamaForCausalLM, llama_config(rope_parameters=rope()), dtype=torch.bfloat16)


@golden
def llama_fp16(folder: Path) -> None:
    """Same as llama-bf16, but in float16 and with an old config.json."""
    write_causal(folder, hf.LlamaForCausalLM, llama_config(rope_parameters=rope()), dtype=torch.float16)
    old_rope(folder, hf.LlamaConfig, "config.json")
    reread(folder, hf.LlamaForCausalLM)


@golden
def mistral(folder: Path) -> None:
    """Use a window of five keys, including the query's own position, and a head dimension of 14."""
    config = llama_config(
        hf.MistralConfig, sliding_window=5, num_attention_heads=2, num_key_value_heads=1, head_dim=14, rms_norm_eps=1e-5
    )
    write_causal(folder, hf.MistralForCausalLM, config)
    old_rope(folder, hf.MistralConfig)


@golden
def qwen2(folder: Path) -> None:
    """Use biases on query, key and value only, and a tied head."""
    config = llama_config(hf.Qwen2Config, tie_word_embeddings=True, rope_parameters=rope(theta=1e6))
    write_causal(folder, hf.Qwen2ForCausalLM, config)
    old_rope(folder, hf.Qwen2Config)


@golden
def qwen3(folder: Path) -> None:
    """Normalize query and key per head; head_dim is not hidden_size / num_attention_heads; tied."""
    sizes = {"num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 10}
    config = llama_config(hf.Qwen3Config, **sizes, tie_word_embeddings=True, rms_norm_eps=1e-4)
    write_causal(folder, hf.Qwen3ForCausalLM, config)
    old_rope(folder, hf.Qwen3Config)
