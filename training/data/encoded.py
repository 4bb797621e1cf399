"""Texts as rows of ids, encoded once and kept in one array."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ...checks import integer
from .sources import Records

Array = np.ndarray
BATCH = 1000  # texts that the tokenizer encodes together, on all cores


class Pieces:
    """Rows of unequal length in one array.

    Attributes:
        values: all rows, one after another.
        starts: where each row begins, and where the last one ends.
    """

    def __init__(self, rows: Sequence[Sequence[int]]) -> None:
        lengths = np.fromiter((len(row) for row in rows), "int64", len(rows))
        self.starts = np.concatenate([[0], np.cumsum(lengths)])
        self.values = np.zeros(int(self.starts[-1]), "int32")
        for i, row in enumerate(rows):
            self.values[self.starts[i] : self.starts[i + 1]] = row

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, i: int) -> Array:
        return self.values[self.starts[i] : self.starts[i + 1]]

    @property
    def lengths(self) -> Array:
        return np.diff(self.starts)


def encodings(texts: Records, tokenizer: Any) -> Iterator[tuple[Any, str]]:
    """Yield the ``tokenizers.Encoding`` of each text, special tokens included, and the text's place.

    Raises:
        ValueError: a value that is not a text, or a text that is not UTF-8; the message begins with its place.
    """
    for first in range(0, len(texts), BATCH):
        some, places = texts.values[first : first + BATCH], texts.places[first : first + BATCH]
        for text, place in zip(some, places, strict=True):
            if not isinstance(text, str):
                raise ValueError(f"{place}: got {type(text).__name__}; accepted: a text")
        try:
            found = tokenizer.backend.encode_batch(some, add_special_tokens=True)
        except Exception:  # the library raises several kinds; ``encode`` has the messages
            found = []
            for text, place in zip(some, places, strict=True):
                try:
                    found.append(tokenizer.encode(text))
                except ValueError as error:
                    raise ValueError(f"{place}: {error}") from error
        yield from zip(found, places, strict=True)


def checked_tokenizer(tokenizer: Any) -> Any:
    """Return `tokenizer`, or raise ValueError if it is not a ``Tokenizer``."""
    if not hasattr(tokenizer, "backend"):
        raise ValueError(f"tokenizer: got {type(tokenizer).__name__}; accepted: a Tokenizer, such as model.tokenizer")
    return tokenizer


def checked_length(length: Any) -> int:
    """Return the `length` of rows; at least 2, because one token alone has nothing to predict."""
    return integer("length", length, least=2)


def too_long(place: str, tokens: int, length: int, instead: str) -> ValueError:
    """Return the error of a text with more `tokens` than fit into a row."""
    return ValueError(f"{place}: got {tokens} tokens; accepted: at most length={length}, or {instead}")
