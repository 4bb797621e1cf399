"""Malformed files: each raises one short ValueError, in little time and memory, executes no code and writes no files.

Every file is derived from one that loads by a single change, so that the error is caused by that change.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import random
import shutil
import struct
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

import attention_zoo as az
from bad_files import (  # noqa: F401 (little_memory and warm are fixtures)
    DROP,
    GOLDENS,
    LONGEST,
    SECONDS,
    change,
    copy,
    gguf,
    little_memory,
    outcome,
    refused,
    warm,
    without_tokenizer,
)
from helpers import numpy, tiny

# model.safetensors


def parts_of(file: Path) -> tuple[dict[str, Any], bytes]:
    """Return the header and the data."""
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def assembled(header: Any, data: bytes, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def first(header: dict[str, Any]) -> str:
    return next(name for name in header if name != "__metadata__")


def with_entry(**changes: Any) -> Callable[[dict[str, Any], bytes], bytes]:
    """Return a function that changes values in the first tensor's entry."""
    return lambda h, d: assembled({**h, first(h): {**h[first(h)], **changes}}, d)


def duplicated(header: dict[str, Any], data: bytes) -> bytes:
    text, entry = json.dumps(header), json.dumps({first(header): header[first(header)]})
    return assembled(f"{text[:-1]}, {entry[1:]}".encode(), data)


def overlapping(header: dict[str, Any], data: bytes) -> bytes:
    names = [name for name in header if name != "__metadata__"]
    by_size = sorted(names, key=lambda name: header[name]["data_offsets"])
    one, other = by_size[0], by_size[1]
    return assembled({**header, other: {**header[one]}}, data)


BAD_HEADERS: dict[str, Callable[[dict[str, Any], bytes], bytes]] = {
    "longer than the file": lambda h, d: assembled(h, d, length=10**6),
    "longer by one": lambda h, d: assembled(h, b"", length=len(json.dumps(h)) + 1),
    "of 2^60 bytes": lambda h, d: assembled(h, d, length=2**60),
    "of 2^64 - 1 bytes": lambda h, d: assembled(h, d, length=2**64 - 1),
    "of no bytes": lambda h, d: assembled(b"", d),
    "not JSON": lambda h, d: assembled(b"{" + b"a" * 100, d),
    "not UTF-8": lambda h, d: assembled(b"\xff" * 100, d),
    "a list": lambda h, d: assembled([1, 2], d),
    "deep": lambda h, d: assembled(b'{"a":' * 100_000, d),
    "an entry of another type": lambda h, d: assembled({**h, first(h): 3}, d),
    "overlap": overlapping,
    "twice": duplicated,
    "past the end": with_entry(data_offsets=[0, 2**40]),
    "backwards": with_entry(data_offsets=[100, 0]),
    "negative offset": with_entry(data_offsets=[-4, 0]),
    "negative size": with_entry(shape=[-1]),
    "huge size": with_entry(shape=[2**40, 2**40]),
    "size that is no number": with_entry(shape=["a"]),
    "unknown dtype": with_entry(dtype="F31"),
    "dtype of another size": with_entry(dtype="F64"),
    "no dtype": lambda h, d: assembled({**h, first(h): {"shape": [1], "data_offsets": [0, 4]}}, d),
    "data left over": lambda h, d: assembled(h, d + bytes(8)),
}


@pytest.mark.parametrize("problem", BAD_HEADERS)
def test_header(problem: str, tmp_path: Path) -> None:
    folder = copy("llama", tmp_path)
    file = folder / "model.safetensors"
    file.write_bytes(BAD_HEADERS[problem](*parts_of(file)))
    what = "has ['lm_head.weight'] twice" if problem == "twice" else "cannot be read"
    refused(folder, f"path: {file} {what}", "accepted: ")


def test_truncated(tmp_path: Path) -> None:
    folder = copy("bert-sequence", tmp_path)
    file = folder / "model.safetensors"
    content = file.read_bytes()
    for length in (*range(64), *range(64, len(content), 499), *range(len(content) - 9, len(content))):
        file.write_bytes(content[:length])
        refused(folder, f"{file} cannot be read")


def with_tensors(folder: Path, values: Mapping[str, Any]) -> None:
    """Set tensors; the value DROP removes a tensor."""
    file = folder / "model.safetensors"
    tensors = {**safetensors.numpy.load_file(file), **values}
    safetensors.numpy.save_file({name: value for name, value in tensors.items() if value is not DROP}, file)


QUERY = "model.layers.1.self_attn.q_proj.weight"  # (40, 24)


@pytest.mark.parametrize("dtype", ["int64", "int32", "int8", "bool", "float8_e4m3fn", "float8_e5m2", "complex64"])
def test_dtype(dtype: str, tmp_path: Path) -> None:
    folder = copy("llama", tmp_path)
    file = folder / "model.safetensors"
    known = {"int64": "I64", "int32": "I32", "int8": "I8", "bool": "BOOL", "complex64": "C64"}
    name = known.get(dtype, dtype.replace("float8", "F8").upper().removesuffix("FN"))
    width = 1 if "8" in dtype or dtype == "bool" else np.dtype(dtype).itemsize
    # Written by hand: safetensors can write some of these dtypes from torch only.
    header, data = parts_of(file)
    start, end = header[QUERY]["data_offsets"]
    grown = 40 * 24 * width - (end - start)
    for key, entry in header.items():
        if key != "__metadata__" and entry["data_offsets"][0] >= end:
            entry["data_offsets"] = [offset + grown for offset in entry["data_offsets"]]
    header[QUERY] = {"dtype": name, "shape": [40, 24], "data_offsets": [start, end + grown]}
    file.write_bytes(assembled(header, data[:start] + bytes(40 * 24 * width) + data[end:]))
    refused(folder, f"{file}: {QUERY} is of {name}; accepted: ", "'F32'", "'BF16'")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_not_finite(value: float, dtype: str, tmp_path: Path) -> None:
    """Such a model loads, with a warning that names only the tensor that contains the value."""
    folder = copy("llama", tmp_path)
    known = {"bfloat16": ml_dtypes.bfloat16}
    tensor = np.full((40, 24), 0.5, known.get(dtype, dtype))
    tensor[3, 5] = value
    with_tensors(folder, {QUERY: tensor})
    with pytest.warns(UserWarning, match=r"model\.safetensors: not every number is finite in \['model\.layers\.1\.s"):
        model = az.load(folder)
    found = numpy(model.blocks[1].attention.query_dense.kernel)
    assert found.shape == (24, 40) and np.isnan(found[5, 3]) == np.isnan(value) and not np.isfinite(found[5, 3])
    assert np.isfinite(found).sum() == found.size - 1
    others = [w for w in model.weights if w is not model.blocks[1].attention.query_dense.kernel]
    assert all(np.isfinite(numpy(weight)).all() for weight in others)


def shaped(*shape: int) -> np.ndarray:
    return np.ones(shape, "float32")


BAD_TENSORS: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "transposed": ("llama", {QUERY: shaped(24, 40)}, [f"{QUERY} has shape (24, 40) for (40, 24)"]),
    "a row less": ("llama", {QUERY: shaped(39, 24)}, [f"{QUERY} has shape (39, 24) for (40, 24)"]),
    "flat": ("llama", {QUERY: shaped(960)}, [f"{QUERY} has shape (960,) for (40, 24)"]),
    "of no axis": ("llama", {"model.norm.weight": shaped()}, ["model.norm.weight has shape () for (24,)"]),
    "empty": ("llama", {"model.norm.weight": shaped(0)}, ["model.norm.weight has shape (0,) for (24,)"]),
    "an axis more": ("llama", {"model.norm.weight": shaped(1, 24)}, ["model.norm.weight has shape (1, 24) for (24,)"]),
    "missing": ("llama", {QUERY: DROP}, [f"missing {QUERY.removeprefix('model.')}"]),
    "surplus": ("llama", {"model.extra": shaped(3)}, ["surplus model.extra"]),
    "a bias that the config lacks": (
        "llama",
        {QUERY.replace("weight", "bias"): shaped(40)},
        [f"surplus {QUERY.replace('weight', 'bias')}"],
    ),
    "two at once": ("llama", {QUERY: shaped(1), "model.norm.weight": DROP}, [QUERY, "missing norm.weight"]),
    "an old name and a new one": (
        "bert-sequence",
        {"bert.embeddings.LayerNorm.gamma": shaped(16)},
        ["bert.embeddings.LayerNorm.gamma", "bert.embeddings.LayerNorm.weight", "the same tensor"],
    ),
    "with and without prefix": ("llama", {"norm.weight": shaped(24)}, ["norm.weight", "are the same tensor"]),
    "joined": (
        "gpt2",
        {"transformer.h.0.attn.c_attn.weight": shaped(60, 20)},
        ["transformer.h.0.attn.c_attn.weight has shape (60, 20) for (20, 60)"],
    ),
    "a kernel of patches": (
        "vit",
        {"vit.embeddings.patch_embeddings.projection.weight": shaped(4, 4, 3, 16)},
        ["projection.weight has shape (4, 4, 3, 16) for (16, 3, 4, 4)"],
    ),
    "a long name": ("llama", {"model." + "x" * 5000: shaped(1)}, ["surplus model.xxx"]),
    "a thousand": ("llama", {f"extra.{i}": shaped(1) for i in range(1000)}, ["surplus extra.", "and 992 more"]),
}


@pytest.mark.parametrize("problem", BAD_TENSORS)
def test_tensors(problem: str, tmp_path: Path) -> None:
    name, values, parts = BAD_TENSORS[problem]
    folder = copy(name, tmp_path)
    with_tensors(folder, values)
    refused(folder, "model.safetensors does not fit its config", *parts)


# config.json


FIT = "does not fit its config"
CONTRADICTIONS: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "a layer more": ("llama", {"num_hidden_layers": 3}, [FIT, "missing layers.2."]),
    "10^7 layers": ("llama", {"num_hidden_layers": 10**7}, ["config.json: got num_layers=10000000"]),
    "2^31 layers of BERT": (
        "bert-sequence",
        {"num_hidden_layers": 2**31 - 1},
        ["config.json: got num_layers=2147483647", "more layers than tensors"],
    ),
    "2^30 layers that share weights": (
        "albert",
        {"num_hidden_layers": 2**30},
        ["num_hidden_layers (our num_layers): got 1073741824 that share weights; accepted: at most 1000"],
    ),
    "10^9 layers": ("gpt2", {"n_layer": 10**9}, ["config.json: got num_layers=1000000000"]),
    "10^9 layers with and without window": (
        "qwen2",
        {"num_hidden_layers": 10**9, "layer_types": None, "use_sliding_window": True, "sliding_window": 4},
        ["num_hidden_layers: got 1000000000"],
    ),
    "a token more": ("llama", {"vocab_size": 98}, [FIT, "embed_tokens.weight has shape (97, 24) for (98, 24)"]),
    "10^9 tokens": ("llama", {"vocab_size": 10**9}, ["config.json: got", "vocab_size=1000000000"]),
    "a wider head": ("llama", {"head_dim": 12}, [FIT, "q_proj.weight has shape (40, 24) for (48, 24)"]),
    "an odd head": ("llama", {"head_dim": 11}, ["config.json", "head_dim", "11"]),
    "a head of 10^8": ("llama", {"head_dim": 10**8}, ["config.json: got", "head_dim=100000000"]),
    "no width of heads": ("llama", {"head_dim": None}, [FIT, "q_proj.weight has shape (40, 24) for (24, 24)"]),
    "fewer keys": ("llama", {"num_key_value_heads": 1}, [FIT, "k_proj.weight has shape (20, 24) for (10, 24)"]),
    "keys for all": ("llama", {"num_key_value_heads": None}, [FIT, "k_proj.weight has shape (20, 24) for (40, 24)"]),
    "three keys": ("llama", {"num_key_value_heads": 3}, ["num_key_value_heads", "got 3; accepted: a divisor of"]),
    "fewer queries": ("llama", {"num_attention_heads": 2}, [FIT, "q_proj.weight has shape (40, 24) for (20, 24)"]),
    "10^8 heads": ("llama", {"num_attention_heads": 10**8}, ["config.json: got", "num_heads=100000000"]),
    "wider": ("llama", {"hidden_size": 32}, [FIT, "embed_tokens.weight has shape (97, 24) for (97, 32)"]),
    "10^8 wide": ("llama", {"hidden_size": 10**8}, ["config.json: got", "hidden_dim=100000000"]),
    "10^9 inside": ("llama", {"intermediate_size": 10**9}, ["config.json: got", "intermediate_dim=1000000000"]),
    "biases": ("llama", {"attention_bias": True}, [FIT, "missing layers.0.self_attn.q_proj.bias"]),
    "not tied, without a head": ("llama-tied", {"tie_word_embeddings": False}, [FIT, "missing lm_head.weight"]),
    "untied GPT-2": ("gpt2", {"tie_word_embeddings": False}, [FIT, "missing lm_head.weight"]),
    "inner width": ("gpt2", {"n_inner": 81}, [FIT, "mlp.c_fc.weight has shape (20, 80) for (20, 81)"]),
    "no inner width": ("gpt2-inner", {"n_inner": None}, [FIT, "mlp.c_fc.weight has shape"]),
    "heads that do not divide": ("gpt2", {"n_head": 3}, ["n_head", "got 3; accepted: a divisor of hidden_dim=20"]),
    "more positions": ("gpt2", {"n_positions": 64}, [FIT, "wpe.weight has shape (40, 20) for (64, 20)"]),
    "10^9 positions": ("gpt2", {"n_positions": 10**9}, ["config.json: got", "max_length=1000000000"]),
    "a class less": ("bert-sequence", {"id2label": {"0": "a", "1": "b"}}, [FIT, "classifier.weight has shape (3, 16)"]),
    "10^9 classes": (
        "bert-sequence",
        {"id2label": None, "num_labels": 10**9},
        ["config.json: got", "num_classes=1000000000"],
    ),
    "another class": (
        "bert-sequence",
        {"architectures": ["BertForQuestionAnswering"]},
        [FIT, "missing qa_outputs.weight", "surplus classifier.weight"],
    ),
    "another model type": ("llama", {"model_type": "gpt2", "architectures": None}, [FIT, "missing wpe.weight"]),
    "BERT as DistilBERT": ("bert-sequence", {"model_type": "distilbert"}, ["architectures", "BertForSequenceClass"]),
    "10^9 token types": ("bert-sequence", {"type_vocab_size": 10**9}, ["type_vocab_size=1000000000"]),
    "10^9 columns": ("bert-sequence", {"max_position_embeddings": 10**9}, ["max_length=1000000000"]),
    "positions for padding alone": ("roberta", {"max_position_embeddings": 2}, ["max_position_embeddings: got 2"]),
    "padding of 10^9": (
        "roberta",
        {"pad_token_id": 10**9},
        ["got 42; accepted: more than pad_token_id + 1 = 1000000001"],
    ),
    "larger images": ("vit", {"image_size": 16}, [FIT, "position_embeddings has shape (1, 10, 16) for (1, 17, 16)"]),
    "patches that do not divide": ("vit", {"patch_size": 5}, ["patch_size: got 5; accepted: a divisor of image_size"]),
    "images of 10^6": ("vit", {"image_size": 4 * 10**6}, ["config.json: got", "image_size=4000000"]),
    "10^9 channels": ("vit", {"num_channels": 10**9}, ["config.json: got", "num_channels=1000000000"]),
    "two sides": ("vit", {"image_size": [12, 16]}, ["image_size: got [12, 16]; accepted: one size for both sides"]),
    "a register more": ("dinov2-registers", {"num_register_tokens": 9}, [FIT, "register_tokens has shape"]),
    "10^9 registers": ("dinov2-registers", {"num_register_tokens": 10**9}, ["num_registers=1000000000"]),
    "10^9 fold": ("dinov2", {"mlp_ratio": 10**8}, ["config.json: got", "intermediate_dim="]),
    "decoders": ("marian", {"decoder_layers": 3}, [FIT, "missing decoder.layers.2."]),
    "10^9 decoders": ("marian", {"decoder_layers": 10**9}, ["num_decoder_layers=1000000000"]),
    "sides that differ": ("marian", {"decoder_ffn_dim": 10}, [FIT, "decoder.layers.0.fc1.weight has shape"]),
    "vocabularies that differ": ("marian", {"decoder_vocab_size": 10}, ["decoder_vocab_size: got 10; accepted: 97"]),
    "buckets": ("t5", {"relative_attention_num_buckets": 10**9}, ["num_buckets=1000000000"]),
    "an ungated T5": ("t5", {"feed_forward_proj": "relu"}, [FIT, "missing encoder.block.0.layer.1.DenseReluDense.wi."]),
    "a decoder alone": (
        "marian",
        {"architectures": ["MarianForCausalLM"]},
        ["accepted: ['MarianMTModel', 'MarianModel']"],
    ),
}


@pytest.mark.parametrize("problem", CONTRADICTIONS)
def test_config_that_its_tensors_contradict(problem: str, tmp_path: Path) -> None:
    name, values, parts = CONTRADICTIONS[problem]
    folder = copy(name, tmp_path)
    change(folder, values)
    refused(folder, f"path: {folder}", *parts)


LONG = "x" * 5000
BAD: dict[str, list[Any]] = {
    "size": ["4", LONG, [4] * 5000, {}, {"a": [1]}, -1, 0, 1.5, True, 10**12, 10**30, math.nan],
    "rate": ["0.1", LONG, [0.1], {}, -0.1, 1.0, 10**400, math.nan, math.inf],
    "number": [-1, "1e-5", LONG, [], [1.0], {}, {"a": 1}, 10**30, math.nan, math.inf, True],
    "flag": ["true", LONG, [], [True], {}, 0, 1, 0.5],
    "word": ["selu", LONG, [], ["relu"], {}, {"a": "relu"}, 0, 1, False, True],
    "token": ["1", LONG, {}, {"a": 1}, 1.0, True, math.nan],
    "needed token": ["1", LONG, {}, {"a": 1}, -1, 1.0, True, 97, 10**30, math.nan],
    "rope": [
        "linear",
        LONG,
        [],
        [1],
        3,
        {"rope_type": "su"},
        {"rope_type": ["linear"]},
    ]
    + [{"rope_type": "linear", "factor": factor} for factor in ("2", -1, 0, [2], {}, math.nan, math.inf)]
    + [{"rope_type": "linear"}, {"rope_type": "linear", "factor": 2.0, "colour": 3}, {"full_attention": {}}]
    + [{"rope_type": "yarn"}, {"rope_type": "default", "rope_theta": "10"}, {"rope_type": "default", "rope_theta": -1}]
    + [{"rope_type": "dynamic"}, {"rope_type": "yarn", "factor": 2.0, "truncate": "no"}]
    + [{"rope_type": "yarn", "factor": 2.0, "mscale": "1"}, {"rope_type": "linear", "partial_rotary_factor": 0.5}]
    + [{"rope_type": "longrope", "short_factor": [1.0] * 5}],
    "classes": ["LlamaForCausalLM", 3, {"a": 1}, [3], [["LlamaForCausalLM"]], True],
    "labels": ["a", 3, ["a", "b", "c"], {}, True],
}
ENTRIES: dict[str, dict[str, str]] = {
    "llama": {
        **dict.fromkeys(("num_hidden_layers", "num_attention_heads", "hidden_size", "intermediate_size"), "size"),
        **dict.fromkeys(("vocab_size", "num_key_value_heads", "head_dim", "max_position_embeddings"), "size"),
        "rms_norm_eps": "number",
        "initializer_range": "number",
        "attention_dropout": "rate",
        **dict.fromkeys(("attention_bias", "mlp_bias", "tie_word_embeddings"), "flag"),
        "hidden_act": "word",
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), "token"),
        "rope_parameters": "rope",
        "architectures": "classes",
    },
    "llama-sharded": {"rope_theta": "number", "rope_scaling": "rope"},
    "gpt2": {
        **dict.fromkeys(("n_layer", "n_head", "n_embd", "n_inner", "n_positions", "vocab_size"), "size"),
        **dict.fromkeys(("resid_pdrop", "attn_pdrop"), "rate"),
        "layer_norm_epsilon": "number",
        "tie_word_embeddings": "flag",
        "activation_function": "word",
    },
    "bert-sequence": {
        **dict.fromkeys(("num_hidden_layers", "num_attention_heads", "hidden_size", "intermediate_size"), "size"),
        **dict.fromkeys(("vocab_size", "max_position_embeddings"), "size"),
        **dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), "rate"),
        "layer_norm_eps": "number",
        "hidden_act": "word",
        "pad_token_id": "token",
        "id2label": "labels",
        "architectures": "classes",
    },
    "roberta": {"max_position_embeddings": "size", "pad_token_id": "token"},
    "vit": {
        **dict.fromkeys(("num_hidden_layers", "num_attention_heads", "hidden_size", "intermediate_size"), "size"),
        **dict.fromkeys(("num_channels", "image_size", "patch_size"), "size"),
        "layer_norm_eps": "number",
        "qkv_bias": "flag",
        "hidden_act": "word",
        "id2label": "labels",
        "architectures": "classes",
    },
    "deit-teacher": {"architectures": "classes"},
    "dinov2": {"mlp_ratio": "number", "hidden_size": "size", "layerscale_value": "number"},
    "dinov2-registers": {"num_register_tokens": "size"},
    "marian": {
        **dict.fromkeys(("encoder_layers", "decoder_layers", "d_model", "vocab_size"), "size"),
        **dict.fromkeys(("encoder_attention_heads", "encoder_ffn_dim", "max_position_embeddings"), "size"),
        "scale_embedding": "flag",
        "activation_function": "word",
        **dict.fromkeys(("eos_token_id", "pad_token_id"), "token"),
        "decoder_start_token_id": "needed token",
    },
    "t5": {
        **dict.fromkeys(("num_layers", "num_decoder_layers", "num_heads", "d_kv", "d_model", "d_ff"), "size"),
        **dict.fromkeys(("relative_attention_num_buckets", "relative_attention_max_distance"), "size"),
        "dropout_rate": "rate",
        "feed_forward_proj": "word",
    },
    "qwen3": {"layer_types": "word", "num_hidden_layers": "size"},
    "mistral": {"sliding_window": "size"},
}
# Accepted although the other values of this kind are not: a model may have 0 registers, and no sliding window.
# So may a ViT have no classes, which the tensors of this file contradict.
FINE = [("dinov2-registers", "num_register_tokens", 0), ("mistral", "sliding_window", None), ("vit", "id2label", {})]


@pytest.mark.parametrize("name", ENTRIES)
def test_values_of_wrong_types(name: str, tmp_path: Path) -> None:
    """The error names the entry, and values that are false in Python are not replaced by the default."""
    folder = copy(name, tmp_path)
    before = json.loads((folder / "config.json").read_text())
    for entry, kind in ENTRIES[name].items():
        for value in BAD[kind]:
            if (name, entry, value) in [fine for fine in FINE if type(fine[2]) is type(value)]:
                continue
            with_value = json.dumps({**before, entry: 0}).replace(f'"{entry}": 0', f'"{entry}": {written(value)}')
            (folder / "config.json").write_text(with_value)
            message = refused(folder, "config.json")
            known = (entry, "rope", "not JSON", "got num_layers=")
            assert any(word in message for word in known), (entry, value, message)


def written(value: Any) -> str:
    return "1" + "0" * 400 if isinstance(value, int) and value == 10**400 else json.dumps(value)


REQUIRED = {
    "llama": ("vocab_size", "num_hidden_layers", "num_attention_heads", "hidden_size", "intermediate_size"),
    "t5": ("vocab_size", "num_layers", "num_heads", "d_kv", "d_model", "d_ff"),
}


@pytest.mark.parametrize("name", REQUIRED)
def test_required_entries(name: str, tmp_path: Path) -> None:
    folder = copy(name, tmp_path)
    content = (folder / "config.json").read_bytes()
    for entry in REQUIRED[name]:
        for value in (DROP, None):
            change(folder, {entry: value})
            refused(folder, f"{folder / 'config.json'}: {entry}: not in the config; accepted: a value")
            (folder / "config.json").write_bytes(content)


def nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


BAD_CONFIGS: dict[str, tuple[Any, list[str]]] = {
    "empty": (b"", ["is not JSON"]),
    "half": (b'{"model_type": "lla', ["is not JSON"]),
    "binary": (bytes(range(256)), ["is not JSON"]),
    "UTF-16": ('{"model_type": "llama"}'.encode("utf-16"), ["is not JSON"]),
    "a list": (b"[1, 2]", ["holds a list; accepted: a JSON object"]),
    "a number": (b"1" * 4000, ["holds a int; accepted: a JSON object"]),
    "a number of 10^6 digits": (b'{"a": ' + b"1" * 10**6 + b"}", ["is not JSON"]),
    "deep": (nested(10**6), ["is not JSON", "recursion"]),
    "open": (b"[" * 10**7, ["is not JSON", "recursion"]),
    "100 MB of nesting": (lambda: nested(16_000_000), ["bytes; accepted: a JSON object of at most 16777216"]),
    "neither ours nor theirs": (b"{}", ["has an unknown format; accepted: a folder with config.json"]),
    "no model type": ({"model_type": DROP}, ["has an unknown format"]),
    "unknown model type": ({"model_type": "xlnet"}, ["has model_type 'xlnet'; accepted: ['albert', "]),
    "null model type": ({"model_type": None}, ["has model_type None; accepted: ['albert', "]),
    "listed model type": ({"model_type": ["llama"]}, ["has model_type ['llama']; accepted: ['albert', "]),
    "long model type": ({"model_type": LONG}, ["has model_type 'xxx"]),
    "unknown class": (
        {"architectures": ["LlamaForQuestionAnswering"]},
        ["architectures: got ['LlamaForQuestionAnswering']; accepted: ['LlamaForCausalLM', ", "'LlamaModel'], or a"],
    ),
    "features rotated in part": (
        {"partial_rotary_factor": 0.5, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        ["partial_rotary_factor: got 0.5; accepted: 1.0"],
    ),
    "unknown activation": ({"hidden_act": "mish"}, ["hidden_act: got 'mish'; accepted: ["]),
    "an activation that gates nothing": ({"hidden_act": "tanh"}, ["hidden_act: got 'tanh'; accepted: ["]),
    "unknown scaling": ({"rope_parameters": {"rope_type": "ntk2"}}, ["got rope_type 'ntk2'; accepted: ["]),
    "ours of a later version": ({"format": "attention_zoo", "version": 9}, ["got format version 9; accepted: 1"]),
}


@pytest.mark.parametrize("problem", BAD_CONFIGS)
def test_config(problem: str, tmp_path: Path) -> None:
    content, parts = BAD_CONFIGS[problem]
    content = content() if callable(content) else content
    folder = copy("llama", tmp_path)
    if isinstance(content, bytes):
        (folder / "config.json").write_bytes(content)
    else:
        change(folder, content)
    refused(folder, "path: ", *parts)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("qwen3", {"layer_types": ["sliding_attention"] * 2, "sliding_window": 4}),
        ("qwen3", {"layer_types": ["full_attention"] * 3}),
        ("qwen2", {"layer_types": ["full_attention", "chunked_attention"], "sliding_window": 4}),
    ],
)
def test_mixed_layers(name: str, values: dict[str, Any], tmp_path: Path) -> None:
    folder = copy(name, tmp_path)
    change(folder, values)
    refused(folder, "config.json: ", "layer_types", "accepted: a", "sliding_attention")


def test_a_given_head_helps_a_class_we_lack(tmp_path: Path) -> None:
    """The body is read; the file's own head, which this package does not support, is ignored."""
    folder = copy("llama", tmp_path)
    with_tensors(folder, {"lm_head.weight": DROP, "qa_outputs.weight": shaped(2, 24)})
    change(folder, {"architectures": ["LlamaForQuestionAnswering"]})
    refused(folder, "or a head given to load")
    model = az.load(folder, head=None)
    stored = safetensors.numpy.load_file(folder / "model.safetensors")[QUERY]
    np.testing.assert_array_equal(numpy(model.blocks[1].attention.query_dense.kernel), stored.T)


# Shards


ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return copy("llama-sharded", tmp_path)


def index(folder: Path, values: Any) -> None:
    """Set entries of the weight map; the value DROP removes an entry."""
    weights = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    kept = {name: value for name, value in {**weights, **values}.items() if value is not DROP}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": kept}))


@pytest.mark.parametrize(
    "shard",
    [
        "../llama/model.safetensors",
        "/etc/passwd",
        "/tmp/model.safetensors",
        "sub/model.safetensors",
        "sub\\model.safetensors",
        "..",
        "../model.safetensors",
        ".hidden.safetensors",
        "model.bin",
        "model.safetensors -> ../x",
        "model.safetensors\n",
        "model\0.safetensors",
        "~/model.safetensors",
        "file:///model.safetensors",
        "https://example.org/model.safetensors",
        "",
        "-" * 5000,
    ],
)
def test_shards_elsewhere(shard: str, sharded: Path, tmp_path: Path) -> None:
    """Other paths are rejected even if such a file exists."""
    (tmp_path / "llama").mkdir()
    shutil.copy(sharded / ONE, tmp_path / "llama" / "model.safetensors")
    (sharded / "sub").mkdir()
    shutil.copy(sharded / ONE, sharded / "sub" / "model.safetensors")
    index(sharded, {QUERY: shard})
    refused(sharded, "index.json names [", "accepted: names of .safetensors files beside it")


@pytest.mark.parametrize("value", [3, None, ["a"], {"a": "b"}, True])
def test_shards_of_another_type(value: Any, sharded: Path) -> None:
    index(sharded, {QUERY: value})
    refused(sharded, "index.json has no weight_map from tensors to files; accepted: an index")


@pytest.mark.parametrize("raw", [{}, {"weight_map": None}, {"weight_map": []}, {"weight_map": "a"}, {"weight_map": 3}])
def test_index_without_a_map(raw: Any, sharded: Path) -> None:
    (sharded / "model.safetensors.index.json").write_text(json.dumps(raw))
    refused(sharded, "index.json has no weight_map from tensors to files; accepted: an index")


@pytest.mark.parametrize("content", [b"", b"[]", b"{", nested(10**6), b"\xff\xfe"])
def test_index_that_is_no_object(content: bytes, sharded: Path) -> None:
    (sharded / "model.safetensors.index.json").write_bytes(content)
    refused(sharded, "model.safetensors.index.json", "accepted: a JSON object")


def test_shards_that_contradict_their_index(sharded: Path) -> None:
    file = sharded / "model.safetensors.index.json"
    good = file.read_text()
    home = json.loads(good)["weight_map"][QUERY]
    other = {ONE: TWO, TWO: ONE}[home]
    for values, parts in (
        ({QUERY: DROP}, ["its files differ in", QUERY]),
        ({"model.extra": ONE}, ["its files differ in ['model.extra']"]),
        ({QUERY: other}, [f"says that {other} has {QUERY}; accepted: {home}"]),
        ({QUERY: "model-00003.safetensors"}, ["model-00003.safetensors cannot be read"]),
    ):
        index(sharded, values)
        refused(sharded, *parts)
        file.write_text(good)
    file.write_text(json.dumps({"weight_map": {}}))
    refused(sharded, "does not fit its config: missing")
    file.write_text(good)
    content = (sharded / TWO).read_bytes()
    (sharded / TWO).write_bytes(content[:-1])
    refused(sharded, f"{TWO} cannot be read")
    (sharded / TWO).write_bytes((sharded / ONE).read_bytes())
    refused(sharded, TWO, f"which {ONE} has; accepted: one")
    (sharded / TWO).unlink()
    refused(sharded, f"{TWO} cannot be read")
    (sharded / TWO).mkdir()
    refused(sharded, f"{TWO} cannot be read")
    (sharded / TWO).rmdir()
    os.mkfifo(sharded / TWO)  # opening it would block forever
    refused(sharded, f"{TWO} cannot be read")


def test_links_as_in_a_cache(tmp_path: Path) -> None:
    """The hub's cache consists of symbolic links to files with other names elsewhere, and such a folder loads."""
    blobs = copy("llama-sharded", tmp_path)
    folder = tmp_path / "snapshot"
    folder.mkdir()
    for number, file in enumerate(sorted(blobs.iterdir())):
        file.rename(blobs / str(number))
        (folder / file.name).symlink_to(blobs / str(number))
    expected = az.load(GOLDENS / "llama-sharded")
    for one, another in zip(az.load(folder).weights, expected.weights, strict=True):
        np.testing.assert_array_equal(numpy(one), numpy(another))
    (blobs / "0").unlink()  # the target of config.json
    refused(folder, "without config.json")


# Formats that can hold code


class Evil:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.trace),)


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    evil = pickle.dumps(Evil(trace))
    for name in ("pytorch_model.bin", "model.pt", "tf_model.h5", "flax_model.msgpack", "model.ckpt", "model.pkl"):
        folder = copy("llama", tmp_path)
        (folder / "model.safetensors").unlink()
        (folder / name).write_bytes(evil)
        refused(folder, f"only ['{name}'], which can hold code and are never opened; accepted: a folder")
        refused(folder / name, "a format that can hold code and is never opened; accepted: a folder")
        (folder / name).rename(folder / "model.safetensors")
        refused(folder, "model.safetensors cannot be read", "accepted: a safetensors file")
        (folder / "model.safetensors").rename(folder / "model.gguf")
        refused(folder / "model.gguf", "and not with b'GGUF'; accepted: a whole GGUF file")
        shutil.rmtree(folder)
    folder = copy("llama-sharded", tmp_path)
    (folder / ONE).write_bytes(evil)
    refused(folder, f"{ONE} cannot be read")
    for name in ("model.safetensors.index.json", "config.json"):
        (folder / name).write_bytes(evil)
        refused(folder, name)
    assert not trace.exists()
    pickle.loads(evil)
    assert trace.exists()  # loading a pickle would have created it


@pytest.mark.parametrize("name", ["model.onnx", "model.safetensors", "absent", "pytorch_model.BIN"])
def test_files_of_other_formats(name: str, tmp_path: Path) -> None:
    if name != "absent":
        (tmp_path / name).write_bytes(pickle.dumps(Evil(tmp_path / "executed")))
    why = "which does not exist" if name == "absent" else "without config.json"
    refused(tmp_path / name, f"path: got {tmp_path / name}, {why}; accepted: a folder")
    assert not (tmp_path / "executed").exists()


# Files beside the model


MODULE = "sentence_transformers.models."
BODY = {"path": "", "type": MODULE + "Transformer"}
POOLING = {"path": "1_Pooling", "type": MODULE + "Pooling"}
OPTIONS = "config_sentence_transformers.json"
BAD_MODULES: dict[str, tuple[Any, list[str]]] = {
    "not JSON": (b"[", ["modules.json is not JSON"]),
    "empty": (b"", ["modules.json is not JSON"]),
    "deep": (b"[" * 10**6, ["modules.json is not JSON", "recursion"]),
    "an object": ({}, ["modules.json holds a dict; accepted: a JSON list"]),
    "none": ([], ["got paths []; accepted: names of folders in it"]),
    "words": (["a"], ["modules.json: got TypeError", "accepted: a list of objects with type and path"]),
    "without type": ([{"path": ""}], ["modules.json: got KeyError('type'); accepted: a list"]),
    "unknown": ([BODY, POOLING, {"path": "2_CNN", "type": MODULE + "CNN"}], ["'CNN']; accepted: Transformer"]),
    "a projection that is not there": (
        [BODY, POOLING, {"path": "2_Dense", "type": MODULE + "Dense"}],
        ["2_Dense/config.json: out_features: got None; accepted: a positive integer"],
    ),
    "a module of one's own": ([BODY, {"path": "1", "type": "evil.Module"}], ["'Module']; accepted: Transformer"]),
    "no pooling": ([BODY], ["got ['Transformer']; accepted: Transformer and Pooling"]),
    "two poolings": ([BODY, POOLING, POOLING], ["accepted: Transformer and Pooling"]),
    "the wrong way round": ([POOLING, BODY], ["got paths ['1_Pooling', '']; accepted: names of folders in it"]),
    **{
        f"path {path}": ([BODY, {**POOLING, "path": path}], ["modules.json: got paths", "accepted: names of folders"])
        for path in ("../1_Pooling", "/etc", "a/b", "..", ".", "", "1_Pooling\n", "a" * 5000 + "/")
    },
    "the body elsewhere": ([{**BODY, "path": "../llama"}, POOLING], ["modules.json: got paths"]),
    "no such folder": ([BODY, {**POOLING, "path": "2_Pooling"}], ["2_Pooling", "is not JSON"]),
    "10^4 modules": ([BODY, *[POOLING] * 10_000], ["accepted: Transformer and Pooling"]),
}


@pytest.mark.parametrize("problem", BAD_MODULES)
def test_modules(problem: str, tmp_path: Path) -> None:
    content, parts = BAD_MODULES[problem]
    folder = copy("sentence-mean", tmp_path)
    shutil.copytree(folder / "1_Pooling", tmp_path / "1_Pooling")
    (folder / "modules.json").write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    refused(folder, f"path: {folder}", *parts)


@pytest.mark.parametrize(
    ("file", "values", "parts"),
    [
        (
            "1_Pooling/config.json",
            {"pooling_mode": "median"},
            ["pooling_mode: got 'median'; accepted: ['cls', 'max', "],
        ),
        ("1_Pooling/config.json", {"pooling_mode": ["cls", 1]}, ["pooling_mode: got ['cls', 1]"]),
        ("1_Pooling/config.json", {"pooling_mode": []}, ["pooling_mode: got []"]),
        ("1_Pooling/config.json", {"pooling_mode": ["cls", "cls"]}, ["pooling: got ('first', 'first')"]),
        ("1_Pooling/config.json", {"include_prompt": "no"}, ["include_prompt: got 'no'; accepted: true or false"]),
        (OPTIONS, {"truncate_dim": 0}, [f"{OPTIONS}: truncate_dim: got 0; accepted: a positive"]),
        (OPTIONS, {"prompts": ["query: "]}, ["prompts: got ['query: ']; accepted: an object of texts"]),
        (OPTIONS, {"prompts": {"a": "b"}, "default_prompt_name": "query"}, ["default_prompt_name: got 'query'"]),
        ("sentence_bert_config.json", {"max_seq_length": 0}, ["max_seq_length: got 0"]),
        (
            "sentence_bert_config.json",
            {"transformer_task": "retrieval"},
            ["for 'retrieval'; accepted: Transformer and"],
        ),
    ],
)
def test_sentence_options(file: str, values: dict[str, Any], parts: list[str], tmp_path: Path) -> None:
    folder = copy("sentence-mean", tmp_path)
    change(folder, values, file)
    refused(folder, f"path: {folder}", *parts)


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"out_features": 0}, ["out_features: got 0; accepted: a positive integer"]),
        ({"activation_function": "evil.Module"}, ["activation_function: got 'evil.Module'; accepted: ['torch.nn."]),
        (
            {"module_input_name": "token_embeddings"},
            ["module_input_name: got 'token_embeddings'; accepted: 'sentence_e"],
        ),
        ({"use_residual": 1}, ["'use_residual': 1}; accepted: true or false"]),
        ({"out_features": 7}, ["does not fit its config", "projection.0.linear.weight has shape"]),
    ],
)
def test_projections(values: dict[str, Any], parts: list[str], tmp_path: Path) -> None:
    az.to_huggingface(tiny("bert", "sentence_max", projections=[{"units": 6, "activation": "tanh"}]), tmp_path)
    change(tmp_path, values, "2_Dense/config.json")
    refused(tmp_path, f"path: {tmp_path}", *parts)
    if values.get("out_features") == 7:
        (tmp_path / "2_Dense" / "model.safetensors").unlink()
        refused(tmp_path, f"got {tmp_path / '2_Dense'} without model.safetensors; accepted: one")


BAD_TOKENIZERS: dict[str, bytes] = {
    "empty": b"",
    "not JSON": b"{",
    "a list": b"[]",
    "nothing in it": b"{}",
    "binary": b"\xff\xfe\x00",
    "deep": nested(10**6),
    "no vocabulary": b'{"version": "1.0", "model": {"type": "BPE"}}',
    "unknown model": b'{"version": "1.0", "model": {"type": "Evil", "vocab": {}, "merges": []}}',
    "negative ids": b'{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}',
    "huge ids": b'{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 4294967295}, "merges": []}}',
    "merges of nothing": b'{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["x y"]}}',
}


@pytest.mark.parametrize("problem", BAD_TOKENIZERS)
def test_tokenizer(problem: str, tmp_path: Path) -> None:
    folder = copy("llama", tmp_path)
    (folder / "tokenizer.json").write_bytes(BAD_TOKENIZERS[problem])
    without_tokenizer(folder, ("huge" in problem and "vocabulary") or f"path: {folder / 'tokenizer.json'}")


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", nested(10**6), b'{"pad_token": "no such token"}'])
def test_tokenizer_config(content: bytes, tmp_path: Path) -> None:
    folder = copy("llama", tmp_path)
    shutil.copy(GOLDENS / "llama-gguf" / "tokenizer.json", folder)
    assert az.load(folder).tokenizer is not None
    (folder / "tokenizer_config.json").write_bytes(content)
    without_tokenizer(folder, "pad_token" if b"pad" in content else "tokenizer_config.json")
    own = az.load(folder, tokenizer=GOLDENS / "llama-gguf" / "tokenizer.json").tokenizer  # without its folder's config
    assert own.encode("abc").ids == az.load(folder, tokenizer=own).tokenizer.encode("abc").ids
    for wrong, part in ((tmp_path / "none", "which does not exist"), (3, "got int; accepted: a path, or an att")):
        refused(folder, f"tokenizer: got {wrong if wrong != 3 else 'int'}", part, tokenizer=wrong)


@pytest.mark.parametrize("content", [b"{", b"[]", b"", nested(10**6)])
def test_preprocessor(content: bytes, tmp_path: Path) -> None:
    folder = copy("vit", tmp_path)
    (folder / "preprocessor_config.json").write_bytes(content)
    refused(folder, "preprocessor_config.json", "accepted: a JSON object")


# Random bytes and values: loading returns a model or raises a ValueError


CASES = 100  # per parametrized case


@pytest.fixture(scope="module")
def small(tmp_path_factory: Any) -> Path:
    """Write models with one layer, which load as fast as possible."""
    folder = tmp_path_factory.mktemp("small")
    az.to_huggingface(tiny("gpt", "llama", num_layers=1), folder / "llama")
    az.to_huggingface(tiny("bert", "sequence_classification", num_layers=1), folder / "bert")
    (folder / "m.gguf").write_bytes(gguf())
    return folder


def damaged(content: bytes, generator: random.Random, end: int) -> bytes:
    """Change up to three of the first `end` bytes of `content`, or remove, duplicate or move a span of them."""
    at, other = sorted(generator.sample(range(end), 2))
    span = content[at : min(other, at + 40)]
    kind = generator.choice(["flip", "flip", "flip", "digits", "cut", "double", "move"])
    if kind == "flip":
        changed = bytearray(content)
        for _ in range(generator.randint(1, 3)):
            changed[generator.randrange(end)] ^= 1 << generator.randrange(8)
        return bytes(changed)
    if kind == "digits":
        digits = [i for i in range(end) if content[i : i + 1].isdigit()] or [at]
        at = generator.choice(digits)
        return content[:at] + generator.choice([b"-1", b"99999999999", b"1e9", b"[]"]) + content[at + 1 :]
    if kind == "cut":
        return content[:at] + content[at + len(span) :]
    if kind == "double":
        return content[:at] + span + content[at:]
    return content[:other] + span + content[other:] if generator.random() < 0.5 else content[:at] + content[other:]


def survives(path: Path, case: Any) -> bool:
    """Return whether the file loaded; fail on any outcome other than a model or one short ValueError."""
    begin = time.perf_counter()
    found = outcome(path)
    taken = time.perf_counter() - begin
    assert taken < SECONDS / 2, (case, taken)
    if isinstance(found, Exception):
        assert type(found) is ValueError, (case, type(found), str(found)[:300])
        assert len(str(found)) < LONGEST, case
    else:
        assert all(weight.shape is not None and numpy(weight).shape == tuple(weight.shape) for weight in found.weights)
    return not isinstance(found, Exception)


def header_end(file: Path) -> int:
    content = file.read_bytes()
    if content[:4] == b"GGUF":
        return content.index(b"output.weight") + 50
    return 8 + int.from_bytes(content[:8], "little") if file.suffix == ".safetensors" else len(content)


@pytest.mark.parametrize("name", ["llama/model.safetensors", "llama/config.json", "bert/config.json", "m.gguf"])
def test_damaged_bytes(name: str, small: Path) -> None:
    file = small / name
    content, end = file.read_bytes(), header_end(file)
    generator = random.Random(name)
    try:
        loaded = 0
        for case in range(CASES):
            file.write_bytes(damaged(content, generator, end))
            loaded += survives(file if name.endswith("gguf") else file.parent, (name, case))
    finally:
        file.write_bytes(content)
    assert loaded < CASES * 0.8  # the damage has an effect


STRANGE = [None, True, -1, 0, 1, 3, 2**31, 10**9, 1e308, 0.5, "", "relu", LONG, [], [1], [[]], {}, {"a": {}}, math.nan]


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_strange_values(name: str, small: Path) -> None:
    """Set several entries at once to values of all types."""
    file = small / name / "config.json"
    content = file.read_text()
    raw = json.loads(content)
    generator = random.Random(name)
    try:
        for case in range(CASES):
            chosen = {key: generator.choice(STRANGE) for key in generator.sample(sorted(raw), generator.randint(1, 3))}
            file.write_text(json.dumps({**raw, **chosen}))
            survives(file.parent, (name, case, chosen))
    finally:
        file.write_text(content)
    assert survives(file.parent, name)
