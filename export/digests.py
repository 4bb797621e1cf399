"""SHA-256 digests that detect a file that was damaged or changed after its export.

Every exported file stores the SHA-256 of its own bytes in its metadata, computed with zeros in place of the digest.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from pathlib import Path

import numpy as np

from ..runtime.digests import UNSEALED, file_digest
from ..runtime.metadata import DIGEST
from .frontend.inference import FileWeights

WEIGHTS = "attention_zoo.weights"
INTEGERS = "attention_zoo.integers"  # digests of the weights whose integers GPTQ chose


def weight_digests(weights: FileWeights) -> dict[str, str]:
    """Return the first 16 hexadecimal digits of the SHA-256 of each weight's values in the file, by the weight's
    name."""
    return {name: hashlib.sha256(weights.value(name).data).hexdigest()[:16] for name in weights.variables}


def integers_digest(steps: np.ndarray, scales: np.ndarray) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of a quantized weight.

    Args:
        steps: (groups, size) integers, of which the zero points have been subtracted.
        scales: (groups,).
    """
    found = hashlib.sha256(np.ascontiguousarray(steps, "int16").data)
    found.update(np.ascontiguousarray(scales, "float32").data)
    return found.hexdigest()[:16]


def unsealed(weights: FileWeights) -> dict[str, str]:
    """Return the metadata entries of the digests before ``seal``: a placeholder for the file's own digest, and the
    digests of the weights."""
    return {DIGEST: UNSEALED, WEIGHTS: json.dumps(weight_digests(weights))}


def reseal(file: Path, digest: str, beside: Path | None = None) -> None:
    """Renew the digest of a file whose metadata was changed in place.

    Args:
        file: the file, which contains its former `digest` exactly once.
        beside: the file's external data, or None.
    """
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 0) as content:
        place = content.find(digest.encode())
        content[place : place + len(digest)] = UNSEALED.encode()
    seal(file, beside)


def seal(file: Path, beside: Path | None = None) -> str:
    """Compute the digest of a file, write it over the placeholder ``UNSEALED`` in the file's metadata, and return it.

    Args:
        file: a file that contains ``UNSEALED`` exactly once.
        beside: the file's external data, which the digest includes, or None.

    Raises:
        RuntimeError: the file does not contain the placeholder exactly once.
    """
    digest = f"sha256:{file_digest(file, beside)}"
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 0) as content:
        place = content.find(UNSEALED.encode())
        if place < 0 or content.find(UNSEALED.encode(), place + 1) >= 0:
            raise RuntimeError(f"{file.name} has no place for its digest")
        content[place : place + len(digest)] = digest.encode()
    return digest
