"""Reading of named tensors, one at a time, from one or several safetensors files, and writing of such a file.

Nothing is ever unpickled or executed.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..files import read_json, written

Shape = tuple[int, ...]


SHOWN = 8  # most problems listed in one message


PORTION = 2**22  # bytes read at a time


class Tensors(Protocol):
    """Interface of a source of named tensors, which are read one at a time."""

    where: str  # path or name of the source, for messages

    @property
    def shapes(self) -> Mapping[str, Shape]: ...

    def read(self, name: str) -> np.ndarray:
        """Return one tensor in its own floating-point dtype.

        Raises:
            ValueError: the tensor is damaged or not floating-point.
        """
        ...


FLOATS = ("F64", "F32", "F16", "BF16")


class SafetensorsFiles:
    """The tensors of ``model.safetensors``, or of the shards listed in ``model.safetensors.index.json``.

    Args:
        folder: the folder of the files.
        weights: the file name that replaces ``model.safetensors``.

    Raises:
        ValueError: a file is missing or damaged, or the index names a file outside of `folder` or does not agree with
            the shards.
    """

    def __init__(self, folder: Path, weights: str = "model.safetensors") -> None:
        self.shapes: dict[str, Shape] = {}
        self.homes: dict[str, Path] = {}
        self.dtypes: dict[str, str] = {}
        self.metadata: dict[str, str] = {}  # of the headers
        self.stamps: dict[Path, tuple[int, int, int]] = {}
        single, index = folder / weights, folder / f"{weights}.index.json"
        self.where = str(single if single.exists() or not index.is_file() else index)
        listed = None if self.where == str(single) else _read_index(index)
        for file in [single] if listed is None else sorted({folder / shard for shard in listed.values()}):
            with _opened(file) as tensors:
                self.stamps[file] = _stamp(file)
                _check_names(file)
                self.metadata |= tensors.metadata() or {}
                for name in tensors.keys():  # noqa: SIM118 (it has no __iter__)
                    view = tensors.get_slice(name)
                    if name in self.homes:
                        raise ValueError(f"path: {file} has {name}, which {self.homes[name].name} has; accepted: one")
                    self.homes[name] = file
                    self.shapes[name], self.dtypes[name] = tuple(view.get_shape()), view.get_dtype()
        if listed is not None and set(listed) != set(self.homes):
            strange = sorted(set(listed) ^ set(self.homes))
            raise ValueError(f"path: {index} and its files differ in {strange[:SHOWN]}; accepted: the same tensors")
        for name, shard in (listed or {}).items():
            if self.homes[name].name != shard:
                has = self.homes[name].name
                raise ValueError(f"path: {index} says that {shard} has {name}; accepted: {has}, which has it")

    def read(self, name: str) -> np.ndarray:
        if self.dtypes[name] not in FLOATS:
            raise ValueError(f"path: {self.homes[name]}: {name} is of {self.dtypes[name]}; accepted: {list(FLOATS)}")
        import ml_dtypes  # noqa: F401 (registers bfloat16 with NumPy)

        if _stamp(self.homes[name]) != self.stamps[self.homes[name]]:  # the other tensors are of another save
            raise ValueError(f"path: {self.homes[name]} was replaced while it was read; accepted: a file that stays")
        shape, itemsize = self.shapes[name], 8 if self.dtypes[name] == "F64" else 4
        rows = max(1, PORTION // (itemsize * max(1, math.prod(shape[1:]))))
        if not shape or rows >= shape[0]:
            with _opened(self.homes[name]) as tensors:
                return tensors.get_tensor(name)
        whole: Any = None
        for start in range(0, shape[0], rows):  # reopened, since mapped pages count as memory in use
            with _opened(self.homes[name]) as tensors:
                part = tensors.get_slice(name)[start : min(start + rows, shape[0])]
            whole = np.empty(shape, part.dtype) if whole is None else whole
            whole[start : start + rows] = part
        return whole


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        raise ValueError(f"path: {file} cannot be read: no such file; accepted: a safetensors file")
    try:
        with safe_open(file, framework="numpy") as tensors:
            yield tensors
    except (SafetensorError, OSError) as error:
        raise ValueError(f"path: {file} cannot be read: {error}; accepted: a safetensors file") from error


def _stamp(file: Path) -> tuple[int, int, int]:
    """Return what distinguishes a file from another one of the same name."""
    found = file.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _check_names(file: Path) -> None:
    """Check that no tensor name occurs twice, which the format forbids but the library accepts.

    The library has already checked that the header is valid JSON.
    """
    with file.open("rb") as stream:
        header = stream.read(int.from_bytes(stream.read(8), "little"))
    names = Counter(name for name, _ in json.loads(header, object_pairs_hook=list))
    if twice := sorted(name for name, times in names.items() if times > 1):
        raise ValueError(f"path: {file} has {twice[:SHOWN]} twice; accepted: each tensor once")


def _read_index(index: Path) -> dict[str, str]:
    listed = read_json(index).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(shard, str) for shard in listed.values()):
        raise ValueError(f"path: {index} has no weight_map from tensors to files; accepted: an index as it is saved")
    if outside := sorted({shard for shard in listed.values() if not re.fullmatch(r"[\w-][\w.-]*\.safetensors", shard)}):
        raise ValueError(f"path: {index} names {outside[:SHOWN]}; accepted: names of .safetensors files beside it")
    return listed


def save_tensors(arrays: Mapping[str, np.ndarray], file: Path, metadata: dict[str, str]) -> None:
    """Write a safetensors file atomically. The same tensors and metadata give the same bytes."""
    import safetensors.numpy

    with written(file) as temporary:
        safetensors.numpy.save_file(dict(arrays), temporary, metadata=metadata)
        if len(metadata) > 1:
            _sort_metadata(temporary)


def _sort_metadata(file: Path) -> None:
    """Sort the metadata in the header of a safetensors file, which the library writes in a random order."""
    with file.open("r+b") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        content = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(size)
        if len(content) == size:  # as long as the library escapes characters as json does
            stream.seek(8)
            stream.write(content)
