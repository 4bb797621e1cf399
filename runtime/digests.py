"""The SHA-256 of an exported file, which its metadata holds; see ``export/digests.py``."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Mapping
from pathlib import Path

from .metadata import DIGEST

UNSEALED = "sha256:" + 64 * "0"


def changed_files(files: Mapping[Path, Mapping[str, str]]) -> list[str] | None:
    """Return the names of the files that were changed after their export; None if none of them has a digest.

    Args:
        files: The metadata of every file by its path, as ``Runner.files``.
    """
    known = {file: metadata[DIGEST] for file, metadata in files.items() if DIGEST in metadata}
    changed = []
    for file, digest in known.items():
        data = file.with_name(f"{file.name}.data")
        if f"sha256:{file_digest(file, data if data.is_file() else None, digest)}" != digest:
            changed.append(file.name)
    return changed if known else None


def file_digest(file: Path, beside: Path | None, digest: str = "") -> str:
    """Return the SHA-256 of a file, computed with zeros in place of the `digest` that it stores of itself.

    Args:
        beside: the file's external data, which the digest includes, or None.
        digest: the stored digest as in the metadata ("sha256:…"); "" for a file whose digest is not written yet.
    """
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
