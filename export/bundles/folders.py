"""Output folders for other engines, which are written completely or not at all."""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from ... import files
from ..result import ExportResult


def written_folder(folder: str | os.PathLike[str], known: Collection[str]) -> AbstractContextManager[Path]:
    """Return the context of a new folder, which replaces `folder` if the block succeeds and is deleted otherwise.

    Args:
        folder: does not exist, is empty, or is an earlier export, which is replaced.
        known: relative paths that an export may contain; a folder with any other file is not touched.

    Raises:
        ValueError: `folder` is a file, or contains other files; or as ``files.written_folder``.
    """
    check_folder(folder, known)
    return files.written_folder(folder)


def check_folder(folder: str | os.PathLike[str], known: Collection[str]) -> None:
    """Raise the ValueError that ``written_folder`` would raise, before an export that takes minutes."""
    target = Path(folder)
    accepted = "accepted: a folder that is not there, an empty one, or an earlier export"
    if target.exists() and not target.is_dir():
        raise ValueError(f"folder: got {folder}, which is a file; {accepted}")
    found = sorted(str(file.relative_to(target)) for file in target.rglob("*") if not file.is_dir())
    found = [name for name in found if not name.startswith(files.ROOM)]  # of killed processes
    if others := [name for name in found if Path(name).as_posix() not in known]:
        raise ValueError(f"folder: got {folder}, which has {', '.join(others[:3])}; {accepted}")


def moved(result: ExportResult, source: Path, target: str | os.PathLike[str], *, format: str) -> ExportResult:
    """Return `result` with the paths that its files have after the folder `source` is moved to `target`."""
    paths = tuple(Path(target) / file.relative_to(source) for file in result.files)
    return replace(result, path=Path(target) / result.path.relative_to(source), format=format, files=paths)


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
