"""Reference GGUF files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf

from .common import case, golden, ids, mask_of, new, pad, results, write_golden, write_json
from .decoders import llama_config, rope

QUANTISED = ("F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1")
# The gguf package can only read these: bytes per block, and the values of its float16 scales by offset.
RANDOM_BLOCKS = {
    "Q2_K": (84, {80: 0.02, 82: 0.03}),
    "Q3_K": (110, {108: 0.003}),
    "Q4_K": (144, {0: 0.001, 2: 0.0075}),
    "Q5_K": (176, {0: 0.0005, 2: 0.0075}),
    "Q6_K": (210, {208: 0.00015}),
    "IQ4_XS": (136, {0: 0.0001}),
}
GGUF_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def gguf_name(name: str) -> str:
    outer = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    if not name.startswith("model.layers."):
        return {**outer, "lm_head.weight": "output.weight"}[name]
    layer, _, part = name.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{GGUF_NAMES[part.removesuffix('.weight')]}.weight"


def permute(weight: np.ndarray, heads: int) -> np.ndarray:
    """Reorder each head's rows from halves to pairs, as convert_hf_to_gguf.py does for Llama's query and key."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def unpermute(weight: np.ndarray, heads: int) -> np.ndarray:
    return weight.reshape(heads, weight.shape[0] // heads // 2, 2, -1).swapaxes(1, 2).reshape(weight.shape)


def heads_of(name: str, config: Any) -> int:
    """Return the number of heads whose rows are permuted in the file, or 0 for weights that are not permuted."""
    if "q_proj" in name:
        return config.num_attention_heads
    return config.num_key_value_heads if "k_proj" in name else 0


def random_blocks(kind: str, rows: int, width: int, seed: int) -> np.ndarray:
    """Return raw blocks of 256 values: all bits but the scales are random, so that values are finite and about 0.2."""
    size, scales = RANDOM_BLOCKS[kind]
    blocks = np.random.default_rng(seed).integers(0, 256, (rows, width // 256, size), "uint8")
    for offset, value in scales.items():
        blocks[..., offset : offset + 2] = np.frombuffer(np.float16(value).tobytes(), "uint8")
    return blocks.reshape(rows, -1)


def byte_level() -> tuple[list[str], list[str]]:
    """Return 101 tokens and their four merges: start, end, the space as Ġ, printable ASCII, and the merged tokens."""
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    merges = ["t h", "th e", "Ġ the", "i n"]
    return ["<s>", "</s>", "Ġ", *letters, *(merge.replace(" ", "") for merge in merges)], merges


def write_gguf(path: Path, config: Any, weights: Mapping[str, np.ndarray], kinds: Callable[[str], str]) -> None:
    """Write a Llama as convert_hf_to_gguf.py does; `kinds` returns each matrix's type. Vectors are always F32."""
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(path.stem)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    if config.rope_parameters["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(config.rope_parameters["factor"])
    tokens, merges = byte_level()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    control = [gguf.TokenType.CONTROL] * 2
    writer.add_token_types([*control, *[gguf.TokenType.NORMAL] * (len(tokens) - 2)])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(False)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for index, (name, weight) in enumerate(weights.items()):
        kind = kinds(name) if weight.ndim == 2 else "F32"
        heads = heads_of(name, config)
        values = permute(weight, heads) if heads else weight
        if kind in RANDOM_BLOCKS:
            data = random_blocks(kind, *weight.shape, seed=index)
        else:
            data = gguf.quantize(values, gguf.GGMLQuantizationType[kind])
        own = name if name == "rope_freqs.weight" else gguf_name(name)
        writer.add_tensor(own, data, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def dequantised(path: Path) -> dict[str, np.ndarray]:
    import gguf

    tensors = gguf.GGUFReader(path).tensors
    return {tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type) for tensor in tensors}


def gguf_case(path: Path, config: Any) -> dict[str, np.ndarray]:
    """Return transformers' outputs for the weights that the gguf package reads; transformers must read the same."""
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    read = dequantised(path)
    model = hf.LlamaForCausalLM(config).eval()
    for name, parameter in model.named_parameters():
        weight = read[gguf_name(name)]
        heads = heads_of(name, config)
        parameter.data.copy_(torch.tensor(unpermute(weight, heads) if heads else weight))
    mask = mask_of((6, 2))
    rows = ids(np.random.default_rng(0), mask.shape, config.vocab_size)
    inputs = {"input_ids": pad(rows, mask, 0), "attention_mask": mask}
    outputs = results(model, inputs, ["logits"])
    for name, weight in load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model)["tensors"].items():
        torch.testing.assert_close(weight.float(), model.state_dict()[name], rtol=0, atol=0, msg=f"{path.name} {name}")
    return case(path.stem, inputs, outputs, mask)


@golden
def llama_gguf(folder: Path) -> None:
    """Write a Llama in every type that the gguf package writes, some with scaled positions, one with K-quants.

    The arrays of ``q8_0.gguf`` form the case "q8_0". ``blocks.gguf`` is not a model: it contains two rows of 256 values
    in each type, and golden.npz has those values as "blocks/<type>". tokenizer.json is the vocabulary of all files as
    tokenizers would save it, and tokens.json contains a text and its token ids.
    """
    import gguf

    tokens, merges = byte_level()
    sizes = {"vocab_size": len(tokens), "hidden_size": 32, "intermediate_size": 32, "rms_norm_eps": 1e-3}
    tokens_ids = {"bos_token_id": 0, "eos_token_id": 1, "attn_implementation": "eager"}

    def config(theta: float = 500.0, **changes: Any) -> Any:
        scaling = changes.pop("scaling", {})
        return llama_config(**{**sizes, **tokens_ids, **changes}, rope_parameters=rope(theta=theta, **scaling))

    def weights(of: Any) -> dict[str, np.ndarray]:
        model = new(folder, hf.LlamaForCausalLM, of)
        return {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}

    cases = []
    for kind in QUANTISED:
        path = folder / f"{kind.lower()}.gguf"
        each = config(num_hidden_layers=1 if kind in ("F16", "BF16") else 2)
        write_gguf(path, each, weights(each), lambda name, kind=kind: kind)
        cases.append(gguf_case(path, each))

    factors = {"factor": 8.0, "low_freq_factor": 0.5, "high_freq_factor": 2.0, "original_max_position_embeddings": 20}
    llama3 = config(theta=50.0, scaling={"kind": "llama3", **factors}, tie_word_embeddings=True, num_hidden_layers=1)
    plain = config(theta=50.0)
    slowed, kept = (hf.LlamaModel(each).rotary_emb.inv_freq.numpy() for each in (llama3, plain))
    path = folder / "f32-llama3.gguf"
    write_gguf(path, llama3, {**weights(llama3), "rope_freqs.weight": kept / slowed}, lambda name: "F32")
    cases.append(gguf_case(path, llama3))

    linear = config(scaling={"kind": "linear", "factor": 2.5}, num_hidden_layers=1)
    path = folder / "q8_0-linear.gguf"
    write_gguf(path, linear, weights(linear), lambda name: "Q8_0")
    cases.append(gguf_case(path, linear))

    wide = config(intermediate_size=256)
    down = {"model.layers.0.mlp.down_proj.weight": "Q4_K", "model.layers.1.mlp.down_proj.weight": "Q6_K"}
    path = folder / "k-quants.gguf"
    write_gguf(path, wide, weights(wide), lambda name: down.get(name, "Q4_0"))
    cases.append(gguf_case(path, wide))

    path = folder / "blocks.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    rng = np.random.default_rng(0)
    for kind in ("F16", "BF16", *QUANTISED[2:], *RANDOM_BLOCKS):
        blocks = (
            random_blocks(kind, 2, 256, seed=1)
            if kind in RANDOM_BLOCKS
            else gguf.quantize(rng.normal(0, 0.2, (2, 256)).astype("float32"), gguf.GGMLQuantizationType[kind])
        )
        writer.add_tensor(kind.lower(), blocks, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    write_golden(folder, *cases, case("blocks", {}, dequantised(path)))
    write_tokenizer(folder, tokens, merges)


def write_tokenizer(folder: Path, vocabulary: Sequence[str], merges: Sequence[str]) -> None:
    import tokenizers as tk

    pairs = [tuple(merge.split(" ")) for merge in merges]
    tokenizer = tk.Tokenizer(tk.models.BPE({token: i for i, token in enumerate(vocabulary)}, pairs))
    tokenizer.pre_tokenizer = tk.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tk.decoders.ByteLevel()
    tokenizer.add_special_tokens(list(vocabulary[:2]))
    tokenizer.save(str(folder / "tokenizer.json"))
    text = "in the thin inn, 42!  then</s>"
    write_json(folder / "tokens.json", {"text": text, "ids": tokenizer.encode(text).ids})
