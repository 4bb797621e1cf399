"""Folders as others open them: written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from ..result import ExportResult


@contextmanager
def written_folder(folder: str | os.PathLike[str], known: Collection[str]) -> Iterator[Path]:
    """A new folder beside `folder`, which takes its place when the block ends well and is gone when it does not.

    Args:
        folder: not there yet, empty, or an earlier export, which is replaced.
        known: relative paths that an export may have; a folder with any other file is somebody's and stays.

    Raises:
        ValueError: `folder` is a file, or has other files.
    """
    target = Path(os.path.abspath(folder))
    check_folder(folder, known)
    missing = [above for above in target.parents if not above.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as room:
            new = Path(room) / "new"
            new.mkdir()
            yield new
            _put(new, target, Path(room) / "old")
    except BaseException:
        for above in missing:
            with suppress(OSError):  # somebody else has put something there
                above.rmdir()
        raise


def _put(new: Path, target: Path, old: Path) -> None:
    """`new` in the place of `target`, which goes to `old` first: a folder is only renamed to what is not there."""
    if target.exists():
        target.rename(old)
    try:
        new.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise


def check_folder(folder: str | os.PathLike[str], known: Collection[str]) -> None:
    """Raise ValueError where ``written_folder`` would: before an export that takes minutes."""
    target = Path(folder)
    accepted = "accepted: a folder that is not there, an empty one, or an earlier export"
    if target.exists() and not target.is_dir():
        raise ValueError(f"folder: got {folder}, which is a file; {accepted}")
    found = sorted(str(file.relative_to(target)) for file in target.rglob("*") if not file.is_dir())
    if others := [name for name in found if Path(name).as_posix() not in known]:
        raise ValueError(f"folder: got {folder}, which has {', '.join(others[:3])}; {accepted}")


def moved(result: ExportResult, source: Path, target: str | os.PathLike[str], *, format: str) -> ExportResult:
    """`result` of a file in `source`, as it is when that folder is at `target`."""
    files = tuple(Path(target) / file.relative_to(source) for file in result.files)
    return replace(result, path=Path(target) / result.path.relative_to(source), format=format, files=files)


def file_in(folder: str | os.PathLike[str]) -> Path | None:
    """The ONNX file of a folder that has one in the place of a model's weights: of ``to_genai``, or the first of
    ``to_huggingface_onnx`` by precision. None of any other folder."""
    root = Path(folder)
    if (root / "model.safetensors").is_file():
        return None
    names = ["model.onnx"] if (root / "genai_config.json").is_file() else []
    names += [f"onnx/model{suffix}.onnx" for suffix in ("", "_fp16", "_quantized", "_q4")]
    return next((file for name in names if (file := root / name).is_file()), None)
