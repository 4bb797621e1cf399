"""``save`` and ``save_weights`` of Keras, written beside the target and renamed.

Keras opens the target itself, so a process that is killed while saving, or a full disk, costs the earlier file.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from keras.backend import standardize_dtype

from ..files import reserve, written, written_files

Write = Callable[[Any, bool], None]  # from the path to write to, and whether to replace a file without asking
FILES, WEIGHTS, SHARDED = (".keras", ".h5", ".hdf5"), ".weights.h5", ("weights.h5", "weights.json")
MOUNTED = ("/cns/", "/cfs/", "/gcs/", "/hdfs/", "/readahead/", "/placer/")  # remote paths of Keras without a scheme


def stored_bytes(model: Any) -> int:
    """Return an upper bound for the size of a model's weights and of its optimizer's state in an HDF5 file."""
    variables = [*model.variables, *getattr(getattr(model, "optimizer", None), "variables", ())]
    sizes = (math.prod(v.shape) * _width(standardize_dtype(v.dtype)) for v in variables)
    return sum(sizes) + 4096 * len(variables) + 2**16  # names and tables


def _width(dtype: str) -> int:
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


def save_beside(write: Write, path: Any, overwrite: bool, zipped: bool | None, size: int) -> None:
    """Save a model by `write`, a file or the folder of ``zipped=False``, so that `path` changes at once or not at all.

    `size` is that of ``stored_bytes``. Paths that Keras does not accept, or that are not on this machine, are left to
    Keras.
    """
    target = _local(path)
    folder = zipped is not None and not zipped
    if target is None or str(path).endswith(".keras" if folder else FILES) == folder:
        return write(path, overwrite)
    if not _may_replace(target, overwrite):
        return None
    if not folder:
        return _file(write, path, target, 0)  # Keras makes the archive from HDF5 in memory
    if target.exists() and not target.is_dir():
        return write(path, overwrite)
    assets = [file.relative_to(target).as_posix() for file in (target / "assets").rglob("*") if file.is_file()]
    with written_files(target, "config.json", assets) as new:
        reserve(new, size, size)
        write(new, True)
    return None


def save_weights_beside(write: Write, path: Any, overwrite: bool, shard_size: float | None, size: int) -> None:
    """Save weights by `write`, one file or shards of `shard_size` GB, as ``save_beside`` saves a model."""
    target = _local(path)
    if target is None or not str(path).endswith(WEIGHTS if shard_size is None else SHARDED):
        return write(path, overwrite)
    if not _may_replace(target, overwrite):
        return None
    if shard_size is None:
        return _file(write, path, target, size)
    with written_files(target.parent, target.with_suffix(".json").name) as new:
        reserve(new, size, min(size, int(shard_size * 10**9)))
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


def _file(write: Write, path: Any, target: Path, size: int) -> None:
    if target.is_dir():
        return write(path, True)
    with written(target) as temporary:
        reserve(temporary.parent, size, size)
        named = temporary.with_name(Path(path).name)  # a link may have a name with the suffix, and its target none
        write(named, True)
        named.replace(temporary)
    return None
