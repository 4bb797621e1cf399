"""GGUF files of several architectures, with names from the gguf package and results from transformers."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from safetensors.torch import load_file

from .common import case, golden, ids, mask_of, new, pad, results, write_golden

SIZES = {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
SPECIAL = {"vocab_size": 67, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def write(path: Path, arch: str, model: Any, metadata: dict[str, Any], skipped: tuple[str, ...] = ("none.",)) -> None:
    """Write the weights of `model`, without a tokenizer. Matrices of Conv1D are transposed, as llama.cpp has them."""
    import gguf

    number = next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == arch)
    names = gguf.get_tensor_name_map(number, 4)
    writer = gguf.GGUFWriter(path, arch)
    for key, value in metadata.items():
        kinds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        kinds[type(value)](f"{arch}.{key}" if not key.startswith("tokenizer.") else key, value)
    with tempfile.TemporaryDirectory() as saved:  # with the names of published files
        model.save_pretrained(saved)
        tensors = load_file(Path(saved) / "model.safetensors")
    for name, value in tensors.items():
        short = name.removeprefix("bert.")
        if name.startswith(skipped):
            continue
        found = names.get_name(short, try_suffixes=(".weight", ".bias"))
        assert found is not None, name
        conv = arch == "gpt2" and value.ndim == 2 and ".h." in name
        writer.add_tensor(found, np.ascontiguousarray((value.T if conv else value).numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def decoder(folder: Path, name: str, cls: Any, config: Any, metadata: dict[str, Any]) -> dict[str, np.ndarray]:
    model = new(folder, cls, config)
    write(folder / f"{name}.gguf", name.partition("-")[0], model, metadata)
    mask = mask_of((6, 2))
    rows = ids(np.random.default_rng(0), mask.shape, config.vocab_size)
    inputs = {"input_ids": pad(rows, mask, 0), "attention_mask": mask}
    return case(name, inputs, results(model, inputs, ["logits"]), mask)


@golden
def gguf_architectures(folder: Path) -> None:
    """Qwen2 with YaRN, Qwen3 with heads of another width, GPT-2, a BERT with its pooling type, and two T5."""
    tokens = {"tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.padding_token_id": 0}
    common = {"block_count": 2, "embedding_length": 16, "feed_forward_length": 24, "attention.head_count": 2, **tokens}
    llm = {**common, "context_length": 40, "attention.head_count_kv": 1, "rope.freq_base": 500.0}
    llm["attention.layer_norm_rms_epsilon"] = 1e-3
    small = {**SIZES, **SPECIAL, "num_key_value_heads": 1, "max_position_embeddings": 40, "rms_norm_eps": 1e-3}
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 10, "rope_theta": 500.0}
    scaled = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 10}
    plain = {"rope_type": "default", "rope_theta": 500.0}
    cases = [
        decoder(
            folder,
            "qwen2",
            hf.Qwen2ForCausalLM,
            hf.Qwen2Config(**small, rope_parameters=yarn),
            {**llm, **scaled},
        ),
        decoder(
            folder,
            "qwen3",
            hf.Qwen3ForCausalLM,
            hf.Qwen3Config(**small, head_dim=12, rope_parameters=plain, tie_word_embeddings=True),
            {**llm, "attention.key_length": 12, "attention.value_length": 12},
        ),
        decoder(
            folder,
            "gpt2",
            hf.GPT2LMHeadModel,
            hf.GPT2Config(
                **SPECIAL, n_layer=2, n_head=2, n_embd=16, n_inner=24, n_positions=40, layer_norm_epsilon=1e-3
            ),
            {**common, "context_length": 40, "attention.layer_norm_epsilon": 1e-3},
        ),
    ]
    bert = hf.BertConfig(**SIZES, vocab_size=67, max_position_embeddings=40, layer_norm_eps=1e-3)
    model = new(folder, hf.BertModel, bert)
    encoder = {**common, "context_length": 40, "attention.layer_norm_epsilon": 1e-3, "attention.causal": False}
    write(folder / "bert.gguf", "bert", model, encoder, skipped=("pooler.",))
    write(folder / "bert-mean.gguf", "bert", model, {**encoder, "pooling_type": 1}, skipped=("pooler.",))
    mask = mask_of((6, 2))
    inputs = {"input_ids": pad(ids(np.random.default_rng(1), mask.shape, 67), mask, 0), "attention_mask": mask}
    found = results(model, inputs, ["last_hidden_state"])
    cases.append(case("bert", inputs, found, mask))
    kept = mask[..., None]
    mean = (found["last_hidden_state"] * kept).sum(1) / kept.sum(1)
    cases.append(case("bert-mean", inputs, {"sentence_embedding": mean}, None))
    nomic = hf.NomicBertConfig(
        **SIZES, vocab_size=67, max_position_embeddings=40, layer_norm_eps=1e-3, rope_parameters=plain
    )
    model = new(folder, hf.NomicBertModel, nomic)
    rotary = {**encoder, "rope.freq_base": 500.0, "tokenizer.ggml.token_type_count": 2}
    rotary.pop("pooling_type", None)
    write(folder / "nomic-bert.gguf", "nomic-bert", model, rotary, skipped=("pooler.",))
    cases.append(case("nomic-bert", inputs, results(model, inputs, ["last_hidden_state"]), mask))
    for name, feed, tied in (("t5", "gated-gelu", False), ("t5-relu", "relu", True)):
        t5 = hf.T5Config(
            vocab_size=67, d_model=16, d_kv=6, d_ff=24, num_layers=2, num_decoder_layers=1, num_heads=2,
            relative_attention_num_buckets=8, feed_forward_proj=feed, tie_word_embeddings=tied, n_positions=40,
            layer_norm_epsilon=1e-3, decoder_start_token_id=0,
        )  # fmt: skip
        model = new(folder, hf.T5ForConditionalGeneration, t5)
        if not tied:
            model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.flip(0).clone())
            model.all_tied_weights_keys.pop("lm_head.weight", None)
        metadata = {
            **{k: v for k, v in common.items() if "bos" not in k and "eos" not in k},
            "tokenizer.ggml.eos_token_id": 1,
            "decoder_block_count": 1,
            "context_length": 40,
            "attention.key_length": 6,
            "attention.value_length": 6,
            "attention.relative_buckets_count": 8,
            "attention.layer_norm_rms_epsilon": 1e-3,
            "decoder_start_token_id": 0,
        }
        skipped = ("encoder.embed_tokens", "decoder.embed_tokens")
        write(folder / f"{name}.gguf", "t5", model, metadata, skipped)
        given = {**inputs, "decoder_input_ids": torch.tensor([[0, 5, 9], [0, 8, 3]])}
        cases.append(case(name, given, results(model, given, ["logits"]), None))
    write_golden(folder, *cases)
