"""``save`` and ``save_weights`` of Keras, written beside the target and renamed.

Keras opens the target itself, so a process that is killed while saving, or a full disk, costs the earlier file.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..files import written, written_files

Write = Callable[[Any, bool], None]  # from the path to write to, and whether to replace a file without asking
FILES, WEIGHTS, SHARDED = (".keras", ".h5", ".hdf5"), ".weights.h5", ("weights.h5", "weights.json")
MOUNTED = ("/cns/", "/cfs/", "/gcs/", "/hdfs/", "/readahead/", "/placer/")  # remote paths of Keras without a scheme


def save_beside(write: Write, path: Any, overwrite: bool, zipped: bool | None) -> None:
    """Save a model by `write`, a file or the folder of ``zipped=False``, so that `path` changes at once or not at all.

    Paths that Keras does not accept, or that are not on this machine, are left to Keras.
    """
    target = _local(path)
    folder = zipped is not None and not zipped
    if target is None or str(path).endswith(".keras" if folder else FILES) == folder:
        return write(path, overwrite)
    if not _may_replace(target, overwrite):
        return None
    if not folder:
        return _file(write, path, target)
    if target.exists() and not target.is_dir():
        return write(path, overwrite)
    assets = [file.relative_to(target).as_posix() for file in (target / "assets").rglob("*") if file.is_file()]
    with written_files(target, "config.json", assets) as new:
        write(new, True)
    return None


def save_weights_beside(write: Write, path: Any, overwrite: bool, sharded: bool) -> None:
    """Save weights by `write`, one file or shards, as ``save_beside`` saves a model."""
    target = _local(path)
    if target is None or not str(path).endswith(SHARDED if sharded else WEIGHTS):
        return write(path, overwrite)
    if not _may_replace(target, overwrite):
        return None
    if not sharded:
        return _file(write, path, target)
    with written_files(target.parent, target.with_suffix(".json").name) as new:
        write(new / target.name, True)
    return None


def _local(path: Any) -> Path | None:
    """Return where a path leads to, or None if it is none of this machine's files."""
    if not isinstance(path, str | os.PathLike) or "://" in (text := os.fspath(path)) or text.startswith(MOUNTED):
        return None
    target = Path(os.path.realpath(text))
    return target if target.is_file() or target.is_dir() or not target.exists() else None


def _may_replace(target: Path, overwrite: bool) -> bool:
    if overwrite or not target.exists():
        return True
    from keras.src.utils import io_utils

    return io_utils.ask_to_proceed_with_overwrite(target)


def _file(write: Write, path: Any, target: Path) -> None:
    if target.is_dir():
        return write(path, True)
    with written(target) as temporary:
        named = temporary.with_name(Path(path).name)  # a link may have a name with the suffix, and its target none
        write(named, True)
        named.replace(temporary)
    return None
