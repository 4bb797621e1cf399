"""Malformed files: how tests load them, within limits of time and memory, and the GGUF files they are derived from."""

from __future__ import annotations

import json
import linecache
import math
import resource
import shutil
import signal
import struct
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import attention_zoo as az
from helpers import ROOT

GOLDENS = ROOT / "tests" / "goldens"
LONGEST = 1000  # characters in an error message
SECONDS = 20  # per file; an error takes milliseconds, the first model of a process seconds
MEMORY = 2**30  # bytes of address space that one test may add


class TooSlow(BaseException):
    pass


@pytest.fixture(autouse=True, scope="module")
def warm() -> None:
    """Load models beforehand, so that TensorFlow's one-time allocations do not count against the memory limit."""
    for name in ("llama", "bert-sequence", "vit"):
        az.load(GOLDENS / name)
    az.load(GOLDENS / "llama-gguf" / "q8_0.gguf")


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    """Limit the address space.

    An allocation whose size was read from a malformed file then fails, with an error other than ValueError.
    """
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def outcome(path: Path, **overrides: Any) -> Any:
    """Return the model or the exception that was raised; raise TooSlow after the time limit."""

    def stop(*_: Any) -> None:
        raise TooSlow(f"{path} took {SECONDS} s")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return az.load(path, **overrides)
    except Exception as error:
        return error
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def refused(path: Path, *parts: str, **overrides: Any) -> str:
    """Check that loading fails with a ValueError and return its message.

    The message must contain all `parts` and state what is accepted.
    """
    around = path if path.is_dir() else path.parent
    before = sorted(around.rglob("*"))
    error = outcome(path, **overrides)
    message = str(error)
    assert type(error) is ValueError, f"{type(error).__name__}: {message[:300]}"
    assert len(message) < LONGEST
    assert "accepted" in message or "does not fit its config" in message or "mistypes" in message, message
    for part in parts:
        assert part in message, message
    assert sorted(around.rglob("*")) == before
    return message


def without_tokenizer(path: Path, *parts: str) -> None:
    """Check that the weights load without the tokenizer, and that one warning with all `parts` says why."""
    with pytest.warns(UserWarning) as told:
        model = az.load(path)
    assert model.tokenizer is None and model.weights
    (message,) = [str(warning.message) for warning in told if "tokenizer=" in str(warning.message)]
    assert told[-1].filename == __file__ and "\n" not in message
    assert linecache.getline(__file__, told[-1].lineno).strip() == "model = az.load(path)"
    for part in (*parts, "the model has no tokenizer, and load(…, tokenizer=…) takes another"):
        assert part in message, message


def copy(name: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDENS / name, tmp_path / name))


def change(folder: Path, values: Mapping[str, Any], file: str = "config.json") -> None:
    """Set entries of a JSON file; the value DROP removes an entry."""
    raw = {**json.loads((folder / file).read_text()), **values}
    (folder / file).write_text(json.dumps({name: value for name, value in raw.items() if value is not DROP}))


DROP: Any = object()


# GGUF


U8, U32, I32, F32, BOOL, STRING, ARRAY, U64 = 0, 4, 5, 6, 7, 8, 9, 10
FORMATS = {U8: "B", U32: "I", I32: "i", F32: "f", BOOL: "?", U64: "Q"}


def string(text: str | bytes) -> bytes:
    content = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(content)) + content


def value(kind: int, content: Any) -> bytes:
    """Pack the type, then the value; an array is given as (type of its items, items)."""
    if isinstance(content, bytes):  # already packed
        return struct.pack("<I", kind) + content
    if kind == STRING:
        return struct.pack("<I", kind) + string(content)
    if kind == ARRAY:
        of, items = content
        packed = [string(item) if of == STRING else struct.pack("<" + FORMATS[of], item) for item in items]
        return struct.pack("<IIQ", kind, of, len(items)) + b"".join(packed)
    return struct.pack("<I" + FORMATS[kind], kind, content)


FIELDS: dict[str, tuple[int, Any]] = {
    "general.architecture": (STRING, "llama"),
    "llama.block_count": (U32, 1),
    "llama.context_length": (U32, 16),
    "llama.embedding_length": (U32, 8),
    "llama.feed_forward_length": (U32, 12),
    "llama.attention.head_count": (U32, 2),
    "llama.attention.layer_norm_rms_epsilon": (F32, 1e-5),
    "tokenizer.ggml.model": (STRING, "gpt2"),
    "tokenizer.ggml.pre": (STRING, "gpt-2"),
    "tokenizer.ggml.tokens": (ARRAY, (STRING, ["a", "b", "c", "d", "ab", "e", "f", "g", "h"])),
    "tokenizer.ggml.token_type": (ARRAY, (I32, [1] * 9)),
    "tokenizer.ggml.merges": (ARRAY, (STRING, ["a b"])),
    "tokenizer.ggml.bos_token_id": (U32, 8),
}
TENSORS: dict[str, tuple[int, ...]] = {  # fastest-varying axis first
    "token_embd.weight": (8, 9),
    **{f"blk.0.attn_{part}.weight": (8, 8) for part in ("q", "k", "v", "output")},
    **{f"blk.0.{part}_norm.weight": (8,) for part in ("attn", "ffn")},
    **{f"blk.0.ffn_{part}.weight": (8, 12) for part in ("gate", "up")},
    "blk.0.ffn_down.weight": (12, 8),
    "output_norm.weight": (8,),
    "output.weight": (8, 9),
}


def gguf(
    fields: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Any] | None = None,
    *,
    version: int = 3,
    counts: tuple[int | None, int | None] = (None, None),
    order: str = "<",
    extra: bytes = b"",
) -> bytes:
    """Return a small Llama file with changed fields, tensors (shape, type, offset) and counts."""
    said = {name: entry for name, entry in {**FIELDS, **(fields or {})}.items() if entry is not DROP}
    head = [string(name) + value(*entry) for name, entry in said.items()]
    data, infos = b"", []
    for name, entry in {**TENSORS, **(tensors or {})}.items():
        if entry is DROP:
            continue
        shape, kind, offset = entry if entry and isinstance(entry[0], tuple) else (entry, 0, None)
        offset = len(data) if offset is None else offset
        infos.append(string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset))
        values = min(math.prod(shape), 1000)
        data += bytes(values * {24: 1, 28: 8}[kind]) if kind in (24, 28) else np.full(values, 0.25, "f4").tobytes()
        data += bytes(-len(data) % 32)
    many = [len(infos) if counts[0] is None else counts[0], len(said) if counts[1] is None else counts[1]]
    header = b"GGUF" + struct.pack(f"{order}IQQ", version, *many) + b"".join(head) + extra + b"".join(infos)
    return header + bytes(-len(header) % 32) + data
