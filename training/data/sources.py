"""Texts and conversations from lists, text files, JSONL, Parquet and Arrow files, and folders of `datasets`.

Every value keeps the place that it came from, ``train.jsonl:17``, so that an error in it can name that place.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from ...checks import choice, shown
from .tables import is_saved_dataset, saved_files, table_rows

TEXT, JSON_LINES, TABLES = (".txt", ".text", ".md"), (".jsonl", ".ndjson"), (".parquet", ".arrow")
KNOWN = (*TEXT, *JSON_LINES, *TABLES)
BY = ("line", "paragraph", "file")


class Records(Sequence[Any]):
    """Values with the places that they came from.

    Attributes:
        values: the texts or conversations.
        places: one name for each, such as "train.jsonl:17".
    """

    def __init__(self, values: Sequence[Any], places: Sequence[str]) -> None:
        self.values, self.places = list(values), list(places)

    def __len__(self) -> int:
        return len(self.values)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Records: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return Records(self.values[index], self.places[index])
        return self.values[index]


def read(source: Any, column: str = "text", by: str = "line") -> Records:
    """Read texts or conversations.

    Args:
        source: a list of values or of objects with `column`; or a path or paths: text files (.txt, .md), JSON lines
            (.jsonl), Parquet or Arrow files, a folder that ``datasets.Dataset.save_to_disk`` wrote, or a folder of such
            files, read in the order of their names. Parquet and Arrow need the package pyarrow.
        column: the key or column of objects and tables.
        by: what is one text in a text file: "line", "paragraph" (separated by empty lines) or "file".

    Returns:
        The values in order. Empty texts are left out.

    Raises:
        ValueError: no such file, another kind of file, an empty one, a line that is not a JSON object, or a missing
            column; the message begins with the file and the number of the line or row.
    """
    choice("by", by, BY)
    if isinstance(source, Records):
        return source
    if isinstance(source, str | os.PathLike):
        pairs = _of_path(Path(source), column, by)
    elif isinstance(source, Sequence) and source and all(isinstance(each, os.PathLike) for each in source):
        pairs = (pair for path in source for pair in _of_path(Path(path), column, by))
    elif isinstance(source, Sequence) or hasattr(source, "__array__"):
        pairs = ((_value(row, column, f"texts[{i}]"), f"texts[{i}]") for i, row in enumerate(source))
    else:
        raise ValueError(f"texts: got {type(source).__name__}; accepted: a list, or the path of a file or folder")
    found = [(value, place) for value, place in pairs if value not in ("", None)]
    if not found:
        raise ValueError(f"texts: got nothing in {shown(str(source))}; accepted: at least one text that is not empty")
    return Records([value for value, _ in found], [place for _, place in found])


def _of_path(path: Path, column: str, by: str) -> Iterator[tuple[Any, str]]:
    """Yield the values of a file or folder, and their places."""
    if not path.exists():
        raise ValueError(f"{path}: no such file or folder; accepted: {', '.join(KNOWN)}")
    if path.is_dir():
        inside = saved_files(path) if is_saved_dataset(path) else sorted(f for f in path.iterdir() if f.suffix in KNOWN)
        if not inside:
            raise ValueError(f"{path}: got a folder without data; accepted: files of {', '.join(KNOWN)}")
        for file in inside:
            yield from _of_path(file, column, by)
        return
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: got an empty file; accepted: one with data")
    if path.suffix not in KNOWN:
        raise ValueError(f"{path}: got a file of {path.suffix or 'no kind'}; accepted: {', '.join(KNOWN)}")
    if path.suffix in TEXT:
        yield from _of_text(path, by)
    elif path.suffix in JSON_LINES:
        yield from _of_lines(path, column)
    else:
        for number, value in table_rows(path, column):
            yield value, f"{path}:{number}"


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a UTF-8 file, without their ends, and their numbers from 1."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(f"{path}:{number}: got bytes that are not UTF-8; accepted: UTF-8 text") from error
            yield number, line.rstrip("\r\n")


def _of_text(path: Path, by: str) -> Iterator[tuple[str, str]]:
    if by == "file":
        text = "\n".join(line for _, line in _lines(path))
        yield text.strip("\n"), str(path)
        return
    part: list[str] = []
    first = 1
    for number, line in _lines(path):
        if by == "line":
            yield line if line.strip() else "", f"{path}:{number}"
        elif line.strip():
            first = first if part else number
            part.append(line)
        elif part:
            yield "\n".join(part), f"{path}:{first}"
            part = []
    if part:
        yield "\n".join(part), f"{path}:{first}"


def json_lines(path: Path, accepted: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the objects of a file of JSON lines, and their places, such as "train.jsonl:17".

    Args:
        path: the file.
        accepted: what errors say that a line should be.

    Raises:
        ValueError: a line is not UTF-8 or not a JSON object.
    """
    for number, line in _lines(path):
        place = f"{path}:{number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if "\\u" in line:  # which may be half a character
                json.dumps(row, ensure_ascii=False).encode()
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{place}: got {line!r:.60}, which is not JSON ({error}); accepted: {accepted}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{place}: got {line!r:.60}; accepted: {accepted}")
        yield row, place


def _of_lines(path: Path, column: str) -> Iterator[tuple[Any, str]]:
    for row, place in json_lines(path, f"a JSON object with {column!r}"):
        yield _value(row, column, place), place


def _value(row: Any, column: str, place: str) -> Any:
    """Return the value of one row, which is an object with `column` or the value itself."""
    if not isinstance(row, Mapping):
        return row
    if column not in row:
        raise ValueError(f"{place}: got {sorted(map(str, row))}; accepted: an object with the column {column!r}")
    return row[column]
