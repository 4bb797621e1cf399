"""Malformed GGUF files: each raises one short ValueError, or loads without its tokenizer and with a warning.

Every file is derived from one that loads by a single change, so that the error is caused by that change.
"""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import attention_zoo as az
from bad_files import (  # noqa: F401 (little_memory and warm are fixtures)
    ARRAY,
    BOOL,
    DROP,
    F32,
    FIELDS,
    GOLDENS,
    I32,
    STRING,
    TENSORS,
    U8,
    U32,
    U64,
    gguf,
    little_memory,
    refused,
    string,
    value,
    warm,
    without_tokenizer,
)
from helpers import numpy

NUMBER, TEXT = (F32, 1.5), (STRING, "two")
LYING = struct.pack("<Q", 2**40)  # a false length
BAD_GGUF: dict[str, tuple[Any, list[str]]] = {
    "empty": (b"", ["begins with b'' and not with b'GGUF'"]),
    "other magic": (b"GGML" + gguf()[4:], ["begins with b'GGML' and not with b'GGUF'"]),
    "magic alone": (b"GGUF", ["of 4 bytes says 4 bytes at byte 4"]),
    "version 1": (gguf(version=1), ["is of version 1 and not"]),
    "version 0": (gguf(version=0), ["is of version 0 and not"]),
    "version 99": (gguf(version=99), ["is of version 99 and not"]),
    "big-endian": (gguf(order=">"), ["is big-endian and not little-endian"]),
    "2^63 tensors": (gguf(counts=(2**63, None)), [f"says {2**63} tensors"]),
    "2^40 fields": (gguf(counts=(None, 2**40)), [f"says {2**40} fields"]),
    "a tensor more": (gguf(counts=(len(TENSORS) + 1, None)), []),
    "a tensor less": (gguf(counts=(len(TENSORS) - 1, None)), ["behind its tensors"]),
    "a field more": (gguf(counts=(None, len(FIELDS) + 1)), []),
    "a field less": (gguf(counts=(None, len(FIELDS) - 1)), []),
    "no tensors": (gguf(counts=(0, None)), ["behind its tensors"]),
    "no fields": (gguf(counts=(None, 0)), []),
    "string of 2^40": (gguf({"a": (STRING, LYING)}), [f"says {2**40} bytes"]),
    "string of 2^64 - 1": (gguf({"a": (STRING, b"\xff" * 8)}), [f"says {2**64 - 1} bytes"]),
    "key of 2^40": (gguf(extra=LYING, counts=(None, len(FIELDS) + 1)), [f"says {2**40} bytes"]),
    **{
        f"2^40 items of type {kind}": (gguf({"a": (ARRAY, struct.pack("<I", kind) + LYING)}), [f"says {2**40} items"])
        for kind in (U8, U32, STRING, BOOL, U64)
    },
    "2^25 items": (
        lambda: gguf({"a": (ARRAY, struct.pack("<IQ", U8, 2**25) + bytes(2**25))}),
        [f"an array of {2**25} items, more than {2**24}"],
    ),
    "an array of arrays": (gguf({"a": (ARRAY, struct.pack("<I", ARRAY) + LYING)}), ["an array of type 9"]),
    "arrays in arrays": (gguf({"a": (ARRAY, struct.pack("<IQ", ARRAY, 1) * 10**5)}), ["an array of type 9"]),
    "field of type 99": (gguf({"a": (99, b"")}), ["has a field of type 99"]),
    "the same field twice": (
        gguf(extra=string("llama.block_count") + value(U32, 7), counts=(None, len(FIELDS) + 1)),
        ["Duplicate llama.block_count"],
    ),
    "key that is not UTF-8": (gguf(extra=string(b"\xff") + value(U32, 7), counts=(None, len(FIELDS) + 1)), ["utf-8"]),
    "string that is not UTF-8": (gguf({"general.name": (STRING, b"\1" + bytes(7) + b"\xff")}), ["utf-8"]),
    "an alignment of 3": (
        gguf({"general.alignment": (U32, 3)}),
        ["says general.alignment=3, which is no power of two"],
    ),
    "an alignment of 0": (
        gguf({"general.alignment": (U32, 0)}),
        ["says general.alignment=0, which is no power of two"],
    ),
    "an alignment of 2^31": (
        gguf({"general.alignment": (U32, 2**31)}),
        [f"attn_q.weight begins at 288 and not at {2**31}"],
    ),
    "tensor of type 99": (gguf(tensors={"output.weight": ((8, 9), 99, None)}), ["output.weight is of type 99, which"]),
    "tensor of type I8": (
        gguf(tensors={"output.weight": ((8, 9), 24, None)}),
        ["output.weight is of type I8: ", "accepted: F32"],
    ),
    "tensor of type F64": (
        gguf(tensors={"blk.0.attn_norm.weight": ((8,), 28, None)}),
        ["blk.0.attn_norm.weight is of type F64"],
    ),
    "blocks that do not fit": (
        gguf(tensors={"output.weight": ((8, 9), 8, None)}),
        ["output.weight of [8, 9] is in blocks of 32"],
    ),
    "offset past the end": (
        gguf(tensors={"output.weight": ((8, 9), 0, 2**20)}),
        ["output.weight begins at 1048576 and not at 2560"],
    ),
    "offset of 2^63": (
        gguf(tensors={"output.weight": ((8, 9), 0, 2**63)}),
        ["output.weight begins at 9223372036854775808 and"],
    ),
    "tensor of 2^64": (
        gguf(tensors={"output.weight": ((2**32, 2**32), 0, None)}),
        ["bytes ends before ['output.weight']"],
    ),
    "tensor of 2^40": (gguf(tensors={"output.weight": ((2**40,), 0, None)}), ["bytes ends before ['output.weight']"]),
    "overlap": (gguf(tensors={"output.weight": ((8, 9), 0, 0)}), ["output.weight begins at 0 and not at 2560"]),
    "bytes left over": (gguf() + bytes(10_000), ["behind its tensors"]),
    "tensor of 0": (gguf(tensors={"output.weight": ((0, 2**40), 0, None)}), ["output.weight has shape"]),
    "tensor of no axis": (gguf(tensors={"output_norm.weight": ((), 0, None)}), ["output_norm.weight has shape ()"]),
    "tensor of 2^31 axes": (
        gguf(counts=(1, None), extra=string("a") + struct.pack("<I", 2**31)),
        [f"says that a has {2**31} axes"],
    ),
    "a name of several lines": (
        gguf(counts=(1, None), extra=string("a\nb" * 99) + struct.pack("<I", 2**31)),
        [f"says that {('a?b' * 99)[:80]} has {2**31} axes"],
    ),
    "transposed": (gguf(tensors={"blk.0.ffn_up.weight": (12, 8)}), ["ffn_up.weight has shape (8, 12) for (12, 8)"]),
    "missing": (gguf(tensors={"blk.0.ffn_up.weight": DROP}), ["does not fit its config: missing blk.0.ffn_up.weight"]),
    "surplus": (gguf(tensors={"blk.0.extra.weight": (8,)}), ["does not fit its config: surplus blk.0.extra.weight"]),
    "no table": (gguf(tensors={"token_embd.weight": DROP}), ["token_embd.weight: not in the file"]),
    "a flat table": (gguf(tensors={"token_embd.weight": (72,)}), ["token_embd.weight"]),
    "another architecture": (
        gguf({"general.architecture": (STRING, "mamba")}),
        ["general.architecture: got 'mamba'; accepted: ['bert', ", "'llama', ", "'qwen3', "],
    ),
    "no architecture": (gguf({"general.architecture": DROP}), ["general.architecture: got None; accepted: ["]),
    "experts": (gguf({"llama.expert_count": (U32, 8)}), ["llama.expert_count: got 8; accepted: 0"]),
    "rotated in part": (
        gguf({"llama.rope.dimension_count": (U32, 2)}),
        ["llama.rope.dimension_count: got 2; accepted: 4"],
    ),
    "another width of values": (gguf({"llama.attention.value_length": (U32, 2)}), ["attention.value_length: got 2"]),
    "unknown scaling": (gguf({"llama.rope.scaling.type": (STRING, "longrope")}), ["rope.scaling.type: got 'longrope'"]),
    "a factor below 0": (gguf({"llama.rope.scaling.factor": (F32, -2.0)}), ["llama.rope.scaling.factor: got -2.0"]),
    "a sharpness of 0": (gguf({"llama.rope.scaling.attn_factor": (F32, 0.0)}), ["scaling.attn_factor: got 0.0"]),
    "YaRN and frequencies": (
        gguf({"llama.rope.scaling.type": (STRING, "yarn")}, {"rope_freqs.weight": (2,)}),
        ["llama.rope.scaling.type: got 'yarn' beside rope_freqs.weight"],
    ),
    "an adapter": (gguf({"general.type": (STRING, "adapter")}), ["general.type: got 'adapter'; accepted: 'model'"]),
    "an encoder": (gguf({"llama.attention.causal": (BOOL, False)}), ["llama.attention.causal: got False"]),
    "a part of two": (
        gguf({"split.no": (U32, 0), "split.count": (U32, 2)}),
        ["is part 1 of 2 of a split file; accepted: all parts in one folder", "-00001-of-00002.gguf"],
    ),
    "frequencies of another width": (
        gguf(tensors={"rope_freqs.weight": (3,)}),
        ["rope_freqs.weight: got 3 factors; accepted: 2"],
    ),
    "frequencies in a table": (gguf(tensors={"rope_freqs.weight": (2, 2)}), ["factors"]),
    "no heads": (gguf({"llama.attention.head_count": (U32, 0)}), ["llama.attention.head_count"]),
    "heads per layer": (gguf({"llama.attention.head_count": (ARRAY, (U32, [2]))}), ["llama.attention.head_count"]),
    "10^9 layers": (gguf({"llama.block_count": (U32, 10**9)}), ["num_layers=1000000000"]),
    "10^9 wide": (gguf({"llama.embedding_length": (U32, 10**9)}), ["hidden_dim=1000000000"]),
    "2^32 - 1 wide": (gguf({"llama.embedding_length": (U32, 2**32 - 1)}), ["llama.embedding_length"]),
    "theta of 0": (gguf({"llama.rope.freq_base": (F32, 0.0)}), ["rope.freq_base"]),
    "theta that is no number": (gguf({"llama.rope.freq_base": (F32, math.nan)}), ["rope.freq_base"]),
    **{
        f"no {name}": (gguf({f"llama.{name}": DROP}), [f"llama.{name}: not in the config"])
        for name in ("block_count", "context_length", "embedding_length", "feed_forward_length")
    },
    **{
        f"{name} {kind}": (gguf({f"llama.{name}": entry}), [f"llama.{name}"])
        for name in ("block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count")
        for kind, entry in {"of 1.5": NUMBER, "in words": TEXT, "of several": (ARRAY, (U32, [1, 2]))}.items()
    },
    "bos_token_id of another type": (
        gguf({"tokenizer.ggml.bos_token_id": (STRING, "a")}),
        ["tokenizer.ggml.bos_token_id"],
    ),
}
BAD_GGUF_TOKENIZERS: dict[str, tuple[bytes, list[str]]] = {
    **{
        f"{name} of another type": (gguf({f"tokenizer.ggml.{name}": entry}), [f"tokenizer.ggml.{name}"])
        for name, entry in {
            "model": (U32, 3),
            "pre": (U32, 3),
            "tokens": (ARRAY, (U32, [1, 2])),
            "token_type": (ARRAY, (STRING, ["a"] * 9)),
            "merges": (ARRAY, (U32, [1])),
        }.items()
    },
    "tokens in words": (gguf({"tokenizer.ggml.tokens": TEXT}), ["tokenizer.ggml.tokens"]),
    "fewer types than tokens": (gguf({"tokenizer.ggml.token_type": (ARRAY, (I32, [1]))}), ["token_type: got 1"]),
    "a token twice": (gguf({"tokenizer.ggml.tokens": (ARRAY, (STRING, ["a"] * 9))}), ["tokens: got 8 twice"]),
    "no tokens": (gguf({"tokenizer.ggml.tokens": DROP}), ["tokenizer.ggml.tokens"]),
    "a merge of no token": (
        gguf({"tokenizer.ggml.merges": (ARRAY, (STRING, ["a z"]))}),
        ["Token `z` out of vocabulary"],
    ),
    "an unknown cut": (gguf({"tokenizer.ggml.pre": (STRING, "kimi-k2")}), ["tokenizer.ggml.pre: got 'kimi-k2'"]),
    "an unknown tokenizer": (gguf({"tokenizer.ggml.model": (STRING, "rwkv")}), ["tokenizer.ggml.model: got 'rwkv'"]),
}


def test_the_good_gguf(tmp_path: Path) -> None:
    """The file from which the malformed ones are derived loads, with the file's values as weights."""
    (tmp_path / "m.gguf").write_bytes(gguf())
    model = az.load(tmp_path / "m.gguf")
    assert all(np.all(numpy(weight) == 0.25) for weight in model.weights) and model.count_params() == 712
    assert model.tokenizer.encode("abe").ids == [4, 5]


@pytest.mark.parametrize("problem", BAD_GGUF)
def test_gguf(problem: str, tmp_path: Path) -> None:
    content, parts = BAD_GGUF[problem]
    made: Any = content() if callable(content) else content
    (tmp_path / "m.gguf").write_bytes(made)
    refused(tmp_path / "m.gguf", f"path: {tmp_path / 'm.gguf'}", *parts)


@pytest.mark.parametrize("problem", BAD_GGUF_TOKENIZERS)
def test_gguf_without_its_tokenizer(problem: str, tmp_path: Path) -> None:
    content, parts = BAD_GGUF_TOKENIZERS[problem]
    (tmp_path / "m.gguf").write_bytes(content)
    without_tokenizer(tmp_path / "m.gguf", f"path: {tmp_path / 'm.gguf'}", *parts)


def test_gguf_in_parts(tmp_path: Path) -> None:
    """Any part stands for the whole, and the metadata are those of the first."""
    tensors = ("output.weight", "blk.0.ffn_down.weight")
    count = {"split.count": (U32, 2), "split.tensors.count": (U32, 12)}
    first = gguf({**count, "split.no": (U32, 0)}, dict.fromkeys(tensors, DROP))
    every = {**dict.fromkeys(TENSORS, DROP), "output.weight": (8, 9), "blk.0.ffn_down.weight": (12, 8)}
    fields = dict.fromkeys(("llama.block_count", "tokenizer.ggml.model"), DROP)
    second = gguf({**fields, **count, "split.no": (U32, 1)}, every)
    parts = [tmp_path / f"m-0000{number}-of-00002.gguf" for number in (1, 2)]
    parts[0].write_bytes(first)
    with pytest.raises(ValueError, match=r"is part 1 of 2 .* no m-00002-of-00002\.gguf beside it; accepted: all parts"):
        az.load(parts[0])
    parts[1].write_bytes(second)
    for part in parts:
        model = az.load(part)
        assert model.count_params() == 712 and model.tokenizer.encode("abe").ids == [4, 5]
    parts[1].write_bytes(gguf({**count, "split.no": (U32, 1)}, every | {"token_embd.weight": (8, 9)}))
    with pytest.raises(ValueError, match=r"got token_embd\.weight, which another part has too"):
        az.load(parts[0])


def test_gguf_of_another_kind(tmp_path: Path) -> None:
    """The architecture is named before the fields that its files do not have."""
    (tmp_path / "m.gguf").write_bytes(gguf({"general.architecture": (STRING, "mamba2"), "llama.block_count": DROP}))
    with pytest.raises(ValueError, match=r"general\.architecture: got 'mamba2'; accepted: \['bert'"):
        az.load(tmp_path / "m.gguf")


def test_gguf_scaling_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(gguf({"llama.rope.scale_linear": (F32, 4.0)}))
    assert az.load(tmp_path / "m.gguf").config.rope_scaling == {"rope_type": "linear", "factor": 4.0}


def test_gguf_with_special_ids_outside(tmp_path: Path) -> None:
    """The model and the tokenizer omit these ids, and a single warning reports them."""
    file, outside = tmp_path / "m.gguf", {"bos": 9, "eos": 2**32 - 1}
    file.write_bytes(gguf({f"tokenizer.ggml.{name}_token_id": (U32, number) for name, number in outside.items()}))
    with pytest.warns(UserWarning, match="bos_token_id=9, eos_token_id=4294967295: outside") as told:
        model = az.load(file)
    assert len(told) == 1 and model.tokenizer is not None
    for holder in (model.config, model.tokenizer):
        assert holder.bos_token_id is None and holder.eos_token_id is None


@pytest.mark.parametrize("name", ["q4_0", "f32-llama3"])
def test_truncated_gguf(name: str, tmp_path: Path) -> None:
    content = (GOLDENS / "llama-gguf" / f"{name}.gguf").read_bytes()
    file = tmp_path / "m.gguf"
    end = len(content) - next(n for n in range(64) if content[-n - 1])  # padding after the last tensor may be missing
    for length in (*range(64), *range(64, end, 301), *range(end - 8, end)):
        file.write_bytes(content[:length])
        refused(file, str(file), "accepted: a whole GGUF file")


def test_gguf_not_finite(tmp_path: Path) -> None:
    content = bytearray(gguf())
    content[-300:-296] = struct.pack("<f", math.nan)
    (tmp_path / "m.gguf").write_bytes(content)
    with pytest.warns(UserWarning, match=r"m\.gguf: not every number is finite in \['o"):
        az.load(tmp_path / "m.gguf")


def test_gguf_that_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "folder.gguf").mkdir()
    os.mkfifo(tmp_path / "pipe.gguf")
    for name in ("folder.gguf", "absent.gguf", "pipe.gguf"):
        refused(tmp_path / name, f"{tmp_path / name} cannot be read", "accepted: a whole GGUF file")
