"""Positions of a flatbuffer's tables, vectors and strings, read for all tables of one kind at once and checked.

A flatbuffer refers from table to table by offsets (https://flatbuffers.dev/internals), none of which is trusted here:
every function raises a ValueError if it would read outside the file. Requires NumPy only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray
SHARED = 4  # how many times as many vector items as bytes: vectors may be shared, but a file cannot grow without limit


class Flatbuffer:
    """The bytes of a flatbuffer, read as integers at any position.

    Args:
        content: uint8, one-dimensional. Only what is asked for is read, so that it may be a memory map.
    """

    def __init__(self, content: Array) -> None:
        self.content, self.size = content, len(content)
        self._views: dict[str, Array] = {}

    def read(self, positions: Array, dtype: str) -> Array:
        """Return the numbers at these positions, which must have been checked, as int64 (uint64 for "<u8")."""
        if dtype not in self._views:
            size = np.dtype(dtype).itemsize
            self._views[dtype] = np.ndarray((self.size - size + 1,), dtype, self.content, strides=(1,))
        found = self._views[dtype][positions]
        return found if dtype == "<u8" else found.astype("int64")

    def check(self, what: str, positions: Array, sizes: Array | int) -> None:
        """Raise a ValueError unless each of these pieces of `sizes` bytes lies within the file."""
        if len(positions) and (positions.min() < 0 or (positions + sizes).max() > self.size):
            raise ValueError(f"{what} reaches beyond the end")

    def root(self, what: str) -> Tables:
        """Return the table that the file begins with."""
        if self.size < 8:
            raise ValueError(f"it has {self.size} bytes")
        return Tables(self, what, self.read(np.zeros(1, "int64"), "<u4"))


@dataclass(frozen=True)
class Vectors:
    """One vector for each of several tables; a missing vector has no items.

    Attributes:
        starts: The position of the first item of each.
        counts: The number of its items.
        width: The size of an item in bytes.
    """

    file: Flatbuffer
    what: str
    starts: Array
    counts: Array
    width: int

    def places(self) -> tuple[Array, Array]:
        """Return the position of every item, and the index of its vector."""
        total = int(self.counts.sum())
        if total * self.width > SHARED * self.file.size:
            raise ValueError(f"{self.what} has {total} items")
        owners = np.repeat(np.arange(len(self.counts)), self.counts)
        within = np.arange(total) - np.repeat(np.cumsum(self.counts) - self.counts, self.counts)
        return self.starts[owners] + within * self.width, owners

    def items(self, dtype: str) -> tuple[Array, Array]:
        """Return every item as a number, and the index of its vector."""
        places, owners = self.places()
        return self.file.read(places, dtype), owners

    def tables(self) -> tuple[Tables, Array]:
        """Return the tables that the items refer to, and the index of the vector of each."""
        places, owners = self.places()
        return Tables(self.file, self.what, places + self.file.read(places, "<u4")), owners


class Tables:
    """Tables of one kind. A field is named by its number in the schema.

    Args:
        positions: int64, (tables,).
    """

    def __init__(self, file: Flatbuffer, what: str, positions: Array) -> None:
        self.file, self.what, self.positions = file, what, positions
        self._found: dict[tuple[int, int], Vectors] = {}
        file.check(what, positions, 4)
        self.vtables = positions - file.read(positions, "<i4")
        file.check(what, self.vtables, 4)
        self.fields, self.sizes = file.read(self.vtables, "<u2"), file.read(self.vtables + 2, "<u2")
        file.check(what, self.vtables, self.fields)
        file.check(what, positions, self.sizes)
        if ((self.fields < 4) | (self.fields % 2 > 0) | (self.sizes < 4)).any():
            raise ValueError(f"{what} has no fields")

    def __len__(self) -> int:
        return len(self.positions)

    def at(self, chosen: Array) -> Tables:
        """Return some of the tables."""
        return Tables(self.file, self.what, self.positions[chosen])

    def field(self, number: int, width: int) -> Array:
        """Return the position of a field of `width` bytes in each table; 0 where it is missing."""
        place = 4 + 2 * number
        offsets = np.zeros(len(self), "int64")
        known = self.fields > place
        offsets[known] = self.file.read(self.vtables[known] + place, "<u2")
        if (offsets + width > self.sizes)[offsets > 0].any():
            raise ValueError(f"{self.what} has a field outside itself")
        return np.where(offsets > 0, self.positions + offsets, 0)

    def check_fields(self) -> None:
        """Raise a ValueError unless every field of every table begins within the table."""
        counts = (self.fields - 4) // 2
        offsets, owners = Vectors(self.file, self.what, self.vtables + 4, counts, 2).items("<u2")
        if (offsets >= self.sizes[owners]).any():
            raise ValueError(f"{self.what} has a field outside itself")

    def values(self, number: int, dtype: str, default: int = 0) -> Array:
        """Return a number of each table."""
        places = self.field(number, np.dtype(dtype).itemsize)
        found = self.file.read(places, dtype)
        found[places == 0] = default
        return found

    def targets(self, number: int) -> Array:
        """Return the position that a field refers to in each table; 0 where it is missing."""
        places = self.field(number, 4)
        found = np.where(places > 0, places + self.file.read(places, "<u4"), 0)
        self.file.check(self.what, found, 4)
        return found

    def vectors(self, number: int, width: int) -> Vectors:
        """Return a vector of each table, with items of `width` bytes."""
        if (number, width) not in self._found:
            self._found[number, width] = self._vectors(number, width)
        return self._found[number, width]

    def _vectors(self, number: int, width: int) -> Vectors:
        targets = self.targets(number)
        counts = np.where(targets > 0, self.file.read(targets, "<u4"), 0)
        self.file.check(self.what, targets, np.where(targets > 0, 4 + counts * width, 0))
        return Vectors(self.file, self.what, targets + 4, counts, width)

    def children(self, number: int, what: str) -> tuple[Tables, Array]:
        """Return the tables in a vector of each table, and for each the index of the table that it belongs to."""
        found = self.vectors(number, 4)
        return Vectors(self.file, what, found.starts, found.counts, 4).tables()

    def inner(self, number: int, what: str) -> tuple[Tables, Array]:
        """Return the table that a field refers to, where it exists, and the index of the table that it belongs to."""
        targets = self.targets(number)
        owners = np.flatnonzero(targets)
        return Tables(self.file, what, targets[owners]), owners

    def text(self, index: int, number: int) -> str:
        """Return the text of one table's string, for messages."""
        found: Any = self.at(np.array([index])).vectors(number, 1)
        start, count = int(found.starts[0]), min(int(found.counts[0]), 80)
        return bytes(self.file.content[start : start + count]).decode(errors="replace") if count else ""
