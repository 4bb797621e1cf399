"""Truncation and padding of rows of tokens."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..checks import positive_integer, shown

WIDEST = 2**20  # tokens to which rows are padded without an explicit length


def side(name: str, value: Any) -> str:
    """Check that `value`, of the argument called `name`, is "left" or "right", and return it."""
    if value not in ("left", "right"):
        raise ValueError(f"{name}: got {shown(value)}; accepted: 'left' or 'right'")
    return value


def row_limit(max_length: Any, default: int | None, truncation: Any, padding: Any) -> int | None:
    """Return the length limit of a row, special tokens included, or None, after checking the arguments.

    Args:
        max_length, truncation, padding: as in ``Tokenizer.__call__``.
        default: the limit if `max_length` is None.

    Raises:
        ValueError: a value that is not accepted, or ``padding="max_length"`` without a limit or with a very
            large one that is not `max_length`.
    """
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
    if padding == "max_length" and max_length is None and default is not None and default > WIDEST:
        raise ValueError(f"max_length: got None where model_max_length is {default}; accepted: a positive integer")
    return limit


def truncate(one: Any, other: Any, limit: int | None, framing: int, how: bool | str, direction: str) -> None:
    """Truncate encodings in place, with the same results as the `tokenizers` library's strategies of these names.

    Args:
        one, other: encodings without special tokens; `other` is None if there is no pair.
        limit: longest row, special tokens included, or None for no truncation.
        framing: number of special tokens that will be added.
        how: "only_first", "only_second", or any other value for "longest_first".
        direction: the side that is cut, "left" or "right".

    Raises:
        ValueError: `limit` leaves no room for the special tokens or for the text that is not cut, or there is no
            second text for "only_second".
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
    """Return an int32 array (rows, width) of `rows`, padded with `fill`."""
    result = np.full((len(rows), width), fill, "int32")
    for number, row in enumerate(rows):
        result[number, slice(width - len(row), None) if padding_side == "left" else slice(len(row))] = row
    return result
