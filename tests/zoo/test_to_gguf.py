"""``to_gguf``: the model and tokenizer that are read back, and what is refused as a GGUF file cannot hold it.

tests/goldens/llama-cpp has what llama.cpp computes from files that ``to_gguf`` wrote for other reference checkpoints.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

import attention_zoo as az
from helpers import ROOT, close, numpy, tiny

GOLDENS = ROOT / "tests" / "goldens"
MODELS = {
    **{
        name: GOLDENS / name
        for name in ("llama", "llama-llama3", "llama-linear", "llama-yarn", "qwen2", "qwen3", "gpt2")
    },
    **{name: GOLDENS / "gguf-architectures" / f"{name}.gguf" for name in ("bert", "bert-mean", "t5", "t5-relu")},
    "sentence-mean": GOLDENS / "sentence-mean",
    "embedding": GOLDENS / "sentences" / "qwen3_embedding",
}
# Decoders whose reference checkpoints have what GGUF files cannot hold, and the fields without it.
CHANGED: dict[str, dict[str, Any]] = {
    "gemma": {},
    "gemma2": {"attention_scale": 6**-0.5},
    "gemma3": {"attention_scale": 6**-0.5, "sliding_rope_theta": 10_000.0, "layer_types": ("sliding_attention",) * 2},
    "granite": {},
    "olmo2": {},
    "phi3": {"sliding_window": None},
    "smollm3": {"unrotated_layers": (), "layer_types": None, "sliding_window": None},
    "starcoder2": {"sliding_window": None},
    "nomic-bert-backbone": {},
}
MODELS |= {name: GOLDENS / name for name in CHANGED if (GOLDENS / name).is_dir()}
IDS = np.arange(3, 10, dtype="int32")[None]
TEXTS = ["Hello world, it's 12 o'clock", "  été 你好", "the thin inn"]
LLAMA_CPP = GOLDENS / "llama-cpp" / "llama_cpp.npz"


def result(model: Any) -> np.ndarray:
    """Return the first output for ids 3 to 9; of an encoder-decoder, for the first three of them in its decoder."""
    feed = {"input_ids": IDS} | ({"decoder_input_ids": IDS[:, :3]} if model.family == "transformer" else {})
    return numpy(next(iter(model.by_name(feed).values())))[0]


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (i % 2)) for i, n in enumerate(MODELS)])
def test_read_back(name: str, tmp_path: Path) -> None:
    """The same results, also those of llama.cpp, which computes GELU from a table of float16."""
    model = az.load(MODELS[name], **CHANGED.get(name, {}))
    file = az.to_gguf(model, tmp_path / "m.gguf")
    again = az.load(file)
    close(result(again), result(model), atol=1e-5)
    assert [each.name for each in tmp_path.iterdir()] == ["m.gguf"]
    theirs = np.load(LLAMA_CPP)[f"{name}-f32"]
    theirs = theirs / np.linalg.norm(theirs) if getattr(model.config, "normalize", False) else theirs
    rough = name.startswith("bert") or name == "sentence-mean" or name.startswith(("gpt2", "t5", "gemma", "starcoder2"))
    close(result(again), theirs.reshape(result(again).shape), atol=2e-3 if rough else 1e-5)
    if model.tokenizer is not None:
        for text in TEXTS:
            assert again.tokenizer.encode(text).ids == model.tokenizer.encode(text).ids


@pytest.mark.parametrize("dtype", ["f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"])
def test_types(dtype: str, tmp_path: Path) -> None:
    """Rows of 32 numbers are quantized as the gguf package does, and vectors are not."""
    import gguf

    model = tiny("gpt", "llama", hidden_dim=32, num_heads=2, num_kv_heads=2, intermediate_dim=48)
    file = az.to_gguf(model, tmp_path / "m.gguf", dtype)
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    up = found["blk.0.ffn_up.weight"]
    assert up.tensor_type.name == dtype.upper()
    own = numpy(model.blocks[0].feedforward.up.kernel).T
    expected = gguf.dequantize(gguf.quantize(np.ascontiguousarray(own), up.tensor_type), up.tensor_type)
    close(gguf.dequantize(up.data, up.tensor_type).reshape(own.shape), expected, atol=0)
    assert found["blk.0.attn_norm.weight"].tensor_type.name == "F32"
    down = found["blk.0.ffn_down.weight"].tensor_type.name
    assert down == (dtype.upper() if dtype in ("f16", "bf16") else "F16")  # rows of 48 are not made of blocks of 32
    assert az.load(file).config.hidden_dim == 32


def test_tokenizer(tmp_path: Path) -> None:
    """Special tokens, chat templates and the way in which texts are split."""
    model = az.load(GOLDENS / "sentences" / "qwen3_embedding", head="causal_lm")
    model.tokenizer.chat_templates = {"default": "{{ messages[0].content }}", "tool_use": "{{ tools }}"}
    again = az.load(az.to_gguf(model, tmp_path / "m.gguf")).tokenizer
    assert again.chat_templates == model.tokenizer.chat_templates
    for name in ("bos_token", "eos_token", "pad_token"):
        assert getattr(again, name) == getattr(model.tokenizer, name)
    assert again.backend.get_vocab().items() >= model.tokenizer.backend.get_vocab().items()  # and unused rows


def test_frequencies_of_long_texts(tmp_path: Path) -> None:
    """Both sets of them, for a head of which a part is rotated. llama.cpp takes them from the same tensors."""
    reference = GOLDENS / "phi3-long"
    file = az.to_gguf(az.load(reference), tmp_path / "m.gguf")
    for length in (40, 120):
        one, other = (az.load(path, max_length=length) for path in (reference, file))
        ids = np.random.default_rng(0).integers(3, 60, (1, length)).astype("int32")
        close(numpy(other(ids)), numpy(one(ids)), atol=1e-5)


@pytest.mark.parametrize("scaled", [True, False])
def test_tied_outputs_of_t5(scaled: bool, tmp_path: Path) -> None:
    """A GGUF file does not state whether they are scaled."""
    fields = {"attention_scale": 1.0, "numbering": "columns", "activation": "relu", "max_length": 512}
    model = tiny("transformer", "t5", tie_embeddings=True, scale_outputs=scaled, **fields)
    close(result(az.load(az.to_gguf(model, tmp_path / "m.gguf"))), result(model), atol=1e-5)


REFUSED: dict[str, tuple[Any, str]] = {
    "activation": (lambda: tiny("bert", "backbone", activation="relu"), "activation='relu'"),
    "head": (lambda: tiny("bert", "masked_lm"), "head: got 'masked_lm'"),
    "window": (lambda: tiny("gpt", "llama", sliding_window=3), "sliding_window=3"),
    "scale": (lambda: tiny("gpt", "gpt2", attention_scale=1.0), "attention_scale=1.0"),
    "a deep decoder": (
        lambda: tiny("transformer", "t5", num_layers=1, num_decoder_layers=2, numbering="columns", attention_scale=1.0),
        "num_decoder_layers: got 2; accepted: at most num_layers, which is 1",
    ),
    "a ViT": (lambda: az.create("vit-tiny-16", num_layers=1), "got a vit that a GGUF file cannot hold"),
    "projections": (
        lambda: tiny("bert", "backbone", head="sentence_embedding", projections=[{"units": 4}]),
        "pooling: got 'mean', or layers after it",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, tmp_path: Path) -> None:
    make, part = REFUSED[case]
    with pytest.raises(ValueError) as caught:
        az.to_gguf(make(), tmp_path / "m.gguf")
    message = str(caught.value)
    assert "\n" not in message and part in message and "accepted:" in message, message
    assert not list(tmp_path.iterdir())


def test_bad_arguments(tmp_path: Path) -> None:
    model, other = tiny("gpt", "llama"), cast("Any", "model")
    for call, part in (
        (lambda: az.to_gguf(model, tmp_path / "m.gguf", "q3_k"), "dtype: got 'q3_k'"),
        (lambda: az.to_gguf(model, tmp_path / "m.bin"), r"file: got .*; accepted: a name that ends in \.gguf"),
        (lambda: az.to_gguf(other, tmp_path / "m.gguf"), "model: got str"),
    ):
        with pytest.raises(ValueError, match=part):
            call()
    model.tokenizer = az.load(GOLDENS / "sentences" / "body").tokenizer
    with pytest.raises(ValueError, match=r"tokenizer: got .* tokens; accepted: at most"):
        az.to_gguf(model, tmp_path / "m.gguf")
    assert not list(tmp_path.iterdir())


def test_splits() -> None:
    """Every pre-tokenizer cuts a text as llama.cpp does. The merges are of one vocabulary, so only the cuts differ."""
    stored = json.loads((GOLDENS / "llama-cpp" / "splits.json").read_text())
    from attention_zoo.text.splits import SPLITS
    from attention_zoo.text.vocabularies import byte_level

    vocabulary = {token: number for number, token in enumerate(stored["tokens"])}
    merges = [tuple(merge.split(" ")) for merge in stored["merges"]]
    ids = {name: cut["ids"] for cut in stored["cuts"] for name in cut["names"]}
    assert set(ids) == set(SPLITS)
    # llama.cpp's own regular expressions tell only ASCII's lower-case letters from upper-case ones, or none.
    ascii_only = {"tekken", "gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2", "granite-embed-multi-97m"}
    for name in sorted(set(SPLITS) - {"tiny_aya", "cohere2moe", "youtu"}):
        backend = byte_level(vocabulary, merges, name)
        backend.normalizer = None  # llama.cpp normalizes no text
        for text, expected in list(zip(stored["texts"], ids[name], strict=True))[: 1 if name in ascii_only else 2]:
            assert backend.encode(text).ids == expected, name
