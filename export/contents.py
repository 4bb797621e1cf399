"""What a file holds beside arithmetic: its bytes, the model's weights and config, and the file that belongs to it.

Every file has a digest of itself in its metadata, of the bytes with zeros where the digest stands. So a file that was
damaged or changed after its export is found out wherever that was, and a decoder knows its own encoder.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime.metadata import CONFIG, DIGEST, FAMILY, STOP_TOKENS, TOKENIZER_FILES
from ..runtime.runner import Runner
from .comparison import Check
from .computing import FileWeights
from .precision.half import rounded
from .spec import Exportable, texts

WEIGHTS = "attention_zoo.weights"
UNSEALED = "sha256:" + 64 * "0"
SHOWN = 4  # names in a message


def weight_digests(weights: FileWeights) -> dict[str, str]:
    """Name to the beginning of the SHA-256 of its float32 values."""
    return {name: hashlib.sha256(weights.value(name).data).hexdigest()[:16] for name in weights.variables}


def unsealed(weights: FileWeights) -> dict[str, str]:
    """What a file's metadata has of all this before ``seal``."""
    return {DIGEST: UNSEALED, WEIGHTS: json.dumps(weight_digests(weights))}


def seal(file: Path, beside: Path | None = None) -> str:
    """Put the digest of `file`, and of the data `beside` it, where its metadata has ``UNSEALED``; and give it back."""
    digest = f"sha256:{_sha256(file, beside)}"
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 0) as content:
        place = content.find(UNSEALED.encode())
        if place < 0 or content.find(UNSEALED.encode(), place + 1) >= 0:
            raise RuntimeError(f"{file.name} has no place for its digest")
        content[place : place + len(digest)] = digest.encode()
    return digest


def _sha256(file: Path, beside: Path | None, digest: str = "") -> str:
    """Of a file, with zeros where its own `digest` stands."""
    found = hashlib.sha256()
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        place = content.find(digest.encode()) if digest else -1
        if place < 0:
            found.update(content)
        else:
            with memoryview(content) as view:
                found.update(view[:place])
                found.update(UNSEALED.encode())
                found.update(view[place + len(digest) :])
    if beside is not None:
        with beside.open("rb") as opened:
            found.update(hashlib.file_digest(opened, "sha256").digest())
    return found.hexdigest()


def content_checks(model: Exportable, runner: Runner) -> list[Check]:
    """The file's bytes, config, tokenizer and weights, each against what it should be."""
    metadata = runner.metadata
    return [_bytes(runner), _config(model, metadata), *_texts(model, metadata), _weights(model, runner)]


def _bytes(runner: Runner) -> Check:
    bad, known = [], 0
    for file, metadata in runner.files.items():
        digest, data = metadata.get(DIGEST, ""), file.with_name(f"{file.name}.data")
        if digest:
            known += 1
            actual = _sha256(file, data if data.is_file() else None, digest)
            bad += [file.name] if f"sha256:{actual}" != digest else []
    if bad:
        return Check("bytes", False, None, f"{', '.join(bad)} changed after the export")
    return Check("bytes", True, None, f"as exported, {known} files" if known else "no digest in the file")


def _config(model: Exportable, metadata: Mapping[str, str]) -> Check:
    ours = json.loads(json.dumps(model.config.to_dict()))
    try:
        theirs = json.loads(metadata.get(CONFIG, "null"))
    except ValueError:
        theirs = None
    if metadata.get(FAMILY) != model.family or not isinstance(theirs, dict):
        return Check("config", False, None, f"of a {metadata.get('attention_zoo.family')}, for a {model.family}")
    names = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
    shown = ", ".join(f"{name} {theirs.get(name)!r} for {ours.get(name)!r}" for name in names[:SHOWN])
    return Check("config", not names, None, shown or "the model's")


def _texts(model: Exportable, metadata: Mapping[str, str]) -> list[Check]:
    """Of a file with a tokenizer or end tokens, for a model that has some too."""
    ours = texts(model)
    kept = {*TOKENIZER_FILES.values(), STOP_TOKENS}
    theirs = {name: value for name, value in metadata.items() if name in kept}
    if not ours or not theirs:
        return []
    wrong = sorted(name.partition(".")[2] for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
    return [Check("tokenizer", not wrong, None, f"not the model's: {', '.join(wrong)}" if wrong else "the model's")]


def _weights(model: Exportable, runner: Runner) -> Check:
    """By the digests that the export left, and by name where the format keeps names: bit for bit."""
    weights = FileWeights(model)
    ours = weight_digests(weights)
    theirs = json.loads(runner.metadata.get(WEIGHTS, "null"))
    if theirs is None:
        return Check("weights", True, None, "not named in the file")
    wrong = {name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name)}
    named = 0
    if runner.format == "onnx":
        for name, array in _initializers(runner.files):
            if name in weights.variables:
                named += 1
                value = weights.value(name)
                value = rounded(value) if array.dtype == "float16" else value
                wrong |= {name} if not np.array_equal(array, value) else set()
    if wrong:
        names = ", ".join(sorted(wrong)[:SHOWN])
        return Check("weights", False, None, f"{len(wrong)} of {len(ours)} are not the model's: {names}")
    return Check(
        "weights", True, None, f"{len(ours)} are the model's" + (f", {named} of them by name" if named else "")
    )


def _initializers(files: Mapping[Path, Any]) -> Any:
    import onnx_ir as ir

    for file in files:
        for name, value in ir.load(os.fspath(file)).graph.initializers.items():
            if value.const_value is not None:
                yield name, value.const_value.numpy()
