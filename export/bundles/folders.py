"""Output folders for other engines, which are written completely or not at all."""

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
    """Create a new folder beside `folder`, which replaces it if the block succeeds and is deleted otherwise.

    Args:
        folder: does not exist, is empty, or is an earlier export, which is replaced.
        known: relative paths that an export may contain; a folder with any other file is not touched.

    Raises:
        ValueError: `folder` is a file, or contains other files.
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
            with suppress(OSError):  # something else was put there meanwhile
                above.rmdir()
        raise


def _put(new: Path, target: Path, old: Path) -> None:
    """Move `new` to `target`. An existing `target` is moved to `old` first, since a folder cannot be renamed to an
    existing one."""
    if target.exists():
        target.rename(old)
    try:
        new.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise


def check_folder(folder: str | os.PathLike[str], known: Collection[str]) -> None:
    """Raise the ValueError that ``written_folder`` would raise, before an export that takes minutes."""
    target = Path(folder)
    accepted = "accepted: a folder that is not there, an empty one, or an earlier export"
    if target.exists() and not target.is_dir():
        raise ValueError(f"folder: got {folder}, which is a file; {accepted}")
    found = sorted(str(file.relative_to(target)) for file in target.rglob("*") if not file.is_dir())
    if others := [name for name in found if Path(name).as_posix() not in known]:
        raise ValueError(f"folder: got {folder}, which has {', '.join(others[:3])}; {accepted}")


def moved(result: ExportResult, source: Path, target: str | os.PathLike[str], *, format: str) -> ExportResult:
    """Return `result` with the paths that its files have after the folder `source` is moved to `target`."""
    files = tuple(Path(target) / file.relative_to(source) for file in result.files)
    return replace(result, path=Path(target) / result.path.relative_to(source), format=format, files=files)


def file_in(folder: str | os.PathLike[str]) -> Path | None:
    """Return the ONNX file of a folder that has one instead of a model's weights, or None for any other folder.

    It is the file of ``to_genai``, or the first by precision of ``to_huggingface_onnx``.
    """
    root = Path(folder)
    if (root / "model.safetensors").is_file():
        return None
    names = ["model.onnx"] if (root / "genai_config.json").is_file() else []
    names += [f"onnx/model{suffix}.onnx" for suffix in ("", "_fp16", "_quantized", "_q4")]
    return next((file for name in names if (file := root / name).is_file()), None)
