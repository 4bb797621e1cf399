"""Files, read checked and written whole: text and JSON under a limit, and a writer that leaves no half a file."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def written(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary file beside `path`, renamed to it when the block ends well and removed when it does not."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.stem}.", suffix=target.suffix)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp's files are for their owner only
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


LARGEST_JSON = 2**24  # bytes; parsed, they can take thirty times as much. The index of the largest models has half


def read_json(file: Path, kind: type = dict, *, most: int = LARGEST_JSON) -> Any:
    """An object from a JSON file, or with `kind` a list.

    Raises:
        ValueError: no such file, one of more than `most` bytes, not JSON, or something else than an object.
    """
    accepted = "accepted: a JSON object" if kind is dict else "accepted: a JSON list"
    try:
        size = file.stat().st_size
        raw = json.loads(file.read_text(encoding="utf-8")) if size <= most else None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"path: {file} is not JSON: {error}; {accepted}") from error
    if size > most:
        raise ValueError(f"path: {file} has {size} bytes; {accepted} of at most {most}")
    if not isinstance(raw, kind):
        raise ValueError(f"path: {file} holds a {type(raw).__name__}; {accepted}")
    return raw


def read_text(file: Path, *, most: int = LARGEST_JSON) -> str:
    """A file's text, its line ends as they are.

    Raises:
        ValueError: a file that cannot be read, of more than `most` bytes, or not UTF-8.
    """
    try:
        if (size := file.stat().st_size) > most:
            raise ValueError(f"path: {file} has {size} bytes; accepted: a UTF-8 file of at most {most}")
        return file.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"path: {file} cannot be read: {error}; accepted: a UTF-8 file") from error


def write_json(value: Any, file: str | os.PathLike[str]) -> None:
    """`value` as indented JSON, whole or not at all."""
    with written(file) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n")
