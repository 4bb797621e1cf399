"""Reading of text and JSON files with a size limit, and atomic writing of files."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def written(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary file in the folder of `path`, which is created if necessary.

    The file is renamed to `path` at the end of the block, or removed if the block raises.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.stem}.", suffix=target.suffix)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp creates files that only their owner can read
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def no_empty_folder(path: str | os.PathLike[str]) -> Iterator[None]:
    """Remove the folders above `path` that the block created, if it raises and leaves them empty."""
    new = [folder for folder in Path(path).absolute().parents if not folder.exists()]
    try:
        yield
    except BaseException:  # also KeyboardInterrupt
        with suppress(OSError):  # a folder that is not there, or not empty
            for folder in new:
                folder.rmdir()
        raise


LARGEST_JSON = 2**24  # bytes; twice the index of the largest models. Parsed JSON can take 30 times its size


def read_json(file: Path, kind: type = dict, *, most: int = LARGEST_JSON) -> Any:
    """Return the object in a JSON file, or the list if `kind` is ``list``.

    Raises:
        ValueError: the file does not exist, has more than `most` bytes, is not JSON, or contains another type.
    """
    accepted = "accepted: a JSON object" if kind is dict else "accepted: a JSON list"
    try:
        size = file.stat().st_size
        raw = json.loads(file.read_text(encoding="utf-8")) if size <= most else None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"path: {file} is not JSON: {' '.join(str(error).split())}; {accepted}") from error
    if size > most:
        raise ValueError(f"path: {file} has {size} bytes; {accepted} of at most {most}")
    if not isinstance(raw, kind):
        raise ValueError(f"path: {file} holds a {type(raw).__name__}; {accepted}")
    return raw


def read_text(file: Path, *, most: int = LARGEST_JSON) -> str:
    """Return the text of a UTF-8 file, with its line ends unchanged.

    Raises:
        ValueError: the file cannot be read, has more than `most` bytes, or is not UTF-8.
    """
    try:
        if (size := file.stat().st_size) > most:
            raise ValueError(f"path: {file} has {size} bytes; accepted: a UTF-8 file of at most {most}")
        return file.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"path: {file} cannot be read: {error}; accepted: a UTF-8 file") from error


def write_json(value: Any, file: str | os.PathLike[str]) -> None:
    """Write `value` as indented JSON, atomically."""
    with written(file) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n")
