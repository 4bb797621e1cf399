"""Rows of tokens of lengths that a model takes: what is cut where one is too long, and filled where it is too short."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..checks import positive_integer


def side(name: str, value: Any) -> str:
    if value not in ("left", "right"):
        raise ValueError(f"{name}: got {value!r}; accepted: 'left' or 'right'")
    return value


def row_limit(max_length: Any, default: int | None, truncation: Any, padding: Any) -> int | None:
    """The longest row, special tokens included, or None; `truncation` and `padding` are checked with it."""
    if max_length is not None:
        max_length = positive_integer("max_length", max_length)
    if truncation not in (True, False, "longest_first", "only_first", "only_second"):
        accepted = "accepted: True, False, 'longest_first', 'only_first' or 'only_second'"
        raise ValueError(f"truncation: got {truncation!r}; {accepted}")
    if padding not in (True, False, "longest", "max_length"):
        raise ValueError(f"padding: got {padding!r}; accepted: 'longest', 'max_length', True or False")
    limit = default if max_length is None else max_length
    if padding == "max_length" and limit is None:
        raise ValueError("max_length: got None with padding='max_length'; accepted: a positive integer")
    return limit


def truncate(one: Any, other: Any, limit: int | None, framing: int, how: bool | str, direction: str) -> None:
    """Cut encodings in place, as the library's own strategies of these names would.

    Args:
        one, other: encodings without special tokens; `other` is None where there are no pairs.
        framing: special tokens that come to them and count too.
    """
    if limit is None:
        return
    room = limit - framing
    if room < 0:
        raise ValueError(f"max_length: got {limit}; accepted: at least {framing}, for the special tokens")
    lengths = [len(one.ids), 0 if other is None else len(other.ids)]
    if sum(lengths) <= room:
        return
    if how in ("only_first", "only_second"):
        cut = int(how == "only_second")
        kept = room - lengths[1 - cut]
        if kept < 0 or (cut and other is None):
            raise ValueError(f"truncation: got {how!r} for {lengths} tokens and room for {room}; accepted: True")
        targets = [kept if number == cut else lengths[number] for number in (0, 1)]
    else:
        shorter = min(*lengths, room // 2)
        targets = [shorter, room - shorter] if lengths[0] <= lengths[1] else [room - shorter, shorter]
    for encoding, target in zip((one, other), targets, strict=True):
        if encoding is not None:
            encoding.truncate(target, direction=direction)


def padded(rows: list[list[int]], width: int, fill: int, padding_side: str) -> np.ndarray:
    result = np.full((len(rows), width), fill, "int32")
    for number, row in enumerate(rows):
        result[number, slice(width - len(row), None) if padding_side == "left" else slice(len(row))] = row
    return result
