"""GGUF files, read with the ``gguf`` package: metadata and dequantized tensors.

The format is described at https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The names of the tensors and the
order of the rotary features are those of llama.cpp; see ``zoo/gguf_architectures.py``.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import is_integer
from ..needs import named_extras

if TYPE_CHECKING:
    from .tensors import Shape

PORTION = 2**20  # bytes read at a time
ACCEPTED = "accepted: a whole GGUF file"


def shortest(value: Any) -> float:
    """Return a float32 as the shortest decimal number that rounds to it: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))


class GGUFFile:
    """The metadata and the tensors of one GGUF file, or of all parts of a split one, with the interface of ``Tensors``.

    Attributes:
        fields: the metadata by name, of a split file those of its first part.
        shapes: the shape of every tensor, by name.

    Raises:
        ValueError: a file is not a GGUF file, is damaged, or has counts or offsets that do not fit its size, or a part
            of a split file is missing. ``read`` raises it for a type that the gguf package cannot dequantize.
    """

    def __init__(self, file: Path) -> None:
        self.where = str(file)
        self.fields: dict[str, Any] = {}
        shapes: dict[str, Shape] = {}
        self.extents: dict[str, tuple[str, int, int, Any]] = {}  # file, offset, bytes, type
        given = _one_file(file)
        parts = _parts(file, given[0])
        for part in parts or [file]:
            own, tensors = given if part == file else _one_file(part)
            self.fields = self.fields or own
            if again := sorted(set(tensors) & set(shapes)):
                raise ValueError(f"path: {part}: got {again[0]}, which another part has too; {ACCEPTED}")
            # The first axis in GGUF is the fastest varying, NumPy's last.
            shapes |= {name: tuple(int(size) for size in reversed(t.shape)) for name, t in tensors.items()}
            self.extents |= {
                name: (str(part), int(t.data_offset), int(t.n_bytes), t.tensor_type) for name, t in tensors.items()
            }
        self.shapes: Mapping[str, Shape] = shapes
        if parts and len(shapes) != self.fields.get("split.tensors.count", len(shapes)):
            count = self.fields["split.tensors.count"]
            raise ValueError(f"path: {file} has {len(shapes)} tensors in all parts; accepted: {count}, as it says")

    def read(self, name: str) -> np.ndarray:
        from gguf import GGML_QUANT_SIZES
        from gguf.quants import dequantize

        file, offset, size, kind = self.extents[name]
        step = max(1, PORTION // GGML_QUANT_SIZES[kind][1]) * GGML_QUANT_SIZES[kind][1]
        whole, filled = np.empty(math.prod(self.shapes[name]), "float32"), 0
        try:
            with open(file, "rb") as stream:
                stream.seek(offset)
                for start in range(0, size, step):  # as one long row, since the library loops over rows
                    blocks = np.frombuffer(stream.read(min(step, size - start)), "uint8")
                    part = dequantize(blocks[None], kind)[0]
                    whole[filled : filled + part.size] = part
                    filled += part.size
            if filled != whole.size:
                raise ValueError(f"{filled} numbers for {whole.size}")
        except (NotImplementedError, ValueError, OSError) as error:
            accepted = "accepted: F32, F16, BF16 and what the gguf package dequantises"
            raise ValueError(f"path: {file}: {name} is of type {kind.name}: {error}; {accepted}") from error
        return whole.reshape(self.shapes[name])


def _one_file(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the metadata and the library's descriptions of the tensors of one file, by name.

    The reader is not kept, since the pages of the file that it maps count as memory in use.
    """
    with named_extras():
        import gguf
    _check_header(file, {int(kind): sizes for kind, sizes in gguf.GGML_QUANT_SIZES.items()}, ACCEPTED)
    try:
        reader = gguf.GGUFReader(file)
        fields = {
            name: shortest(value) if field.types == [gguf.GGUFValueType.FLOAT32] else value
            for name, field in reader.fields.items()
            for value in [field.contents()]
        }
    except Exception as error:  # the reader raises many types for damaged files
        raise ValueError(f"path: {file} cannot be read: {error}; {ACCEPTED}") from error
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    if len(tensors) != fields.get("GGUF.tensor_count"):
        raise ValueError(f"path: {file} has {len(tensors)} tensors and says otherwise; {ACCEPTED}")
    return fields, tensors


def _parts(file: Path, fields: Mapping[str, Any]) -> list[Path]:
    """Return the paths of all parts of a split file, or [] if `file` is whole. llama.cpp names them after their number.

    Raises:
        ValueError: `file` is not named in this way, or a part is missing.
    """
    number, count = fields.get("split.no", 0), fields.get("split.count", 0)
    if not (is_integer(number) and is_integer(count) and 1 < count < 10**5 and 0 <= number < count):
        return []
    ending = f"-{number + 1:05d}-of-{count:05d}.gguf"
    what = f"path: {file} is part {number + 1} of {count} of a split file"
    if not file.name.endswith(ending):
        raise ValueError(f"{what}; accepted: all parts in one folder, named as llama.cpp does, such as …{ending}")
    start = file.name.removesuffix(ending)
    parts = [file.with_name(f"{start}-{i + 1:05d}-of-{count:05d}.gguf") for i in range(count)]
    if missing := [part.name for part in parts if not part.is_file()]:
        raise ValueError(f"{what}, and there is no {missing[0]} beside it; accepted: all parts in one folder")
    return parts


# Size in bytes of a metadata value, by its type. Strings and arrays are preceded by their length.
_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_UINT32, _STRING, _ARRAY = 4, 8, 9
_MOST_ITEMS = 2**24  # in one array: the library creates several Python objects for each item
_MOST_AXES = 4  # GGML_MAX_DIMS


def _check_header(file: Path, blocks: Mapping[int, tuple[int, int]], accepted: str) -> None:
    """Check all lengths, counts and offsets against the file's size, before the library allocates memory for them.

    The library reads empty arrays past the end of a file and continues, so an array of 2**40 items would hang it.
    """
    if not file.is_file():
        raise ValueError(f"path: {file} cannot be read: no such file; {accepted}")
    try:
        with file.open("rb") as stream:
            size = file.stat().st_size
            if (magic := stream.read(4)) != b"GGUF":
                raise ValueError(f"path: {file} begins with {magic!r} and not with b'GGUF'; {accepted}")
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
                _Header(data, size).check(blocks)
    except OSError as error:
        raise ValueError(f"path: {file} cannot be read: {error}; {accepted}") from error
    except _DamagedError as error:
        raise ValueError(f"path: {file} {error}; {accepted}") from error


class _DamagedError(Exception):
    """An error whose message continues a sentence that begins with the file's name."""


class _Header:
    """A cursor over the header of a file: the metadata and the descriptions of the tensors."""

    def __init__(self, data: mmap.mmap, size: int) -> None:
        self.data, self.size, self.at = data, size, 4

    def skip(self, count: int) -> int:
        """Move past the next `count` bytes and return where they begin."""
        begin = self.at
        if count > self.size - begin:
            raise _DamagedError(f"of {self.size} bytes says {count} bytes at byte {begin}")
        self.at += count
        return begin

    def number(self, width: int) -> int:
        begin = self.skip(width)
        return int.from_bytes(self.data[begin : begin + width], "little")

    def count(self, what: str, least: int) -> int:
        """Read the number of items, `what`, that take at least `least` bytes each."""
        found = self.number(8)
        if found * least > self.size - self.at:
            raise _DamagedError(f"of {self.size} bytes says {found} {what}")
        return found

    def name(self) -> str:
        """Read a string, for messages: at most 80 characters, all printable. The library checks that it is UTF-8."""
        length = self.number(8)
        begin = self.skip(length)
        text = self.data[begin : begin + min(length, 80)].decode(errors="replace")
        return "".join(letter if letter.isprintable() else "?" for letter in text)

    def check(self, blocks: Mapping[int, tuple[int, int]]) -> None:
        """Check the whole header; `blocks` has the values and the bytes per block of every tensor type."""
        version = self.number(4)
        if version not in (2, 3):
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
            found = "big-endian" if swapped in (1, 2, 3) else f"of version {version}"
            raise _DamagedError(f"is {found} and not little-endian of version 2 or 3")
        tensors, alignment, next_offset = self.count("tensors", 24), 32, 0
        ends: list[tuple[str, int]] = []
        for _ in range(self.count("fields", 13)):
            key, kind = self.name(), self.number(4)
            if key == "general.alignment" and kind == _UINT32:
                alignment = int.from_bytes(self.data[self.at : self.at + 4], "little")
            self.value(kind)
        if alignment <= 0 or alignment & (alignment - 1):
            raise _DamagedError(f"says general.alignment={alignment}, which is no power of two")
        for _ in range(tensors):
            name = self.name()
            if (axes := self.number(4)) > _MOST_AXES:
                raise _DamagedError(f"says that {name} has {axes} axes")
            sizes = [self.number(8) for _ in range(axes)]
            if (kind := self.number(4)) not in blocks:
                raise _DamagedError(f"says that {name} is of type {kind}, which the gguf package does not know")
            values, width = blocks[kind]
            if (sizes[0] if sizes else 1) % values:
                raise _DamagedError(f"says that {name} of {sizes} is in blocks of {values}")
            if (offset := self.number(8)) != next_offset:  # llama.cpp requires this too
                raise _DamagedError(f"says that the data of {name} begins at {offset} and not at {next_offset}")
            end = offset + math.prod(sizes) // values * width
            ends.append((name, end))
            next_offset = -(-end // alignment) * alignment
        start = -(-self.at // alignment) * alignment
        if outside := [name for name, end in ends if start + end > self.size]:
            raise _DamagedError(f"of {self.size} bytes ends before {outside[:8]}")
        if self.size - start - next_offset >= alignment:  # if the count of tensors is too low, all data is misplaced
            raise _DamagedError(f"of {self.size} bytes has {self.size - start - next_offset} behind its tensors")

    def value(self, kind: int) -> None:
        if kind in _BYTES:
            self.skip(_BYTES[kind])
        elif kind == _STRING:
            self.skip(self.number(8))
        elif kind == _ARRAY:
            of = self.number(4)
            if of not in _BYTES and of != _STRING:  # no known field has nested arrays
                raise _DamagedError(f"has an array of type {of} at byte {self.at}")
            items = self.count("items in an array", _BYTES.get(of, 8))
            if items > _MOST_ITEMS:
                raise _DamagedError(f"has an array of {items} items, more than {_MOST_ITEMS}")
            if of in _BYTES:
                self.skip(items * _BYTES[of])
                return
            for _ in range(items):
                self.skip(self.number(8))
        else:
            raise _DamagedError(f"has a field of type {kind} at byte {self.at}")
