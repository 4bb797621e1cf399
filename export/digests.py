"""Digests by which a file that was damaged or changed after its export is recognised.

Every exported file holds the SHA-256 of its own bytes in its metadata, computed with zeros in the place of the digest.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from pathlib import Path

from ..runtime.metadata import DIGEST
from .frontend.inference import FileWeights

WEIGHTS = "attention_zoo.weights"
UNSEALED = "sha256:" + 64 * "0"


def weight_digests(weights: FileWeights) -> dict[str, str]:
    """Name to the beginning of the SHA-256 of its float32 values."""
    return {name: hashlib.sha256(weights.value(name).data).hexdigest()[:16] for name in weights.variables}


def unsealed(weights: FileWeights) -> dict[str, str]:
    """What a file's metadata has of all this before ``seal``."""
    return {DIGEST: UNSEALED, WEIGHTS: json.dumps(weight_digests(weights))}


def seal(file: Path, beside: Path | None = None) -> str:
    """Put the digest of `file`, and of the data `beside` it, where its metadata has ``UNSEALED``; and give it back."""
    digest = f"sha256:{file_digest(file, beside)}"
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 0) as content:
        place = content.find(UNSEALED.encode())
        if place < 0 or content.find(UNSEALED.encode(), place + 1) >= 0:
            raise RuntimeError(f"{file.name} has no place for its digest")
        content[place : place + len(digest)] = digest.encode()
    return digest


def file_digest(file: Path, beside: Path | None, digest: str = "") -> str:
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
