"""Rows of encoded documents: one in each row, or several that are packed by best fit."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import Any

import numpy as np

from ...layers.vocabulary import IGNORED
from .batches import Batch, TokenBatches
from .encoded import Array, Pieces


class DocumentRows(TokenBatches):
    """Batches of rows of encoded documents, padded on the right.

    The inputs are "input_ids" (rows, length), and "segment_ids" if rows are packed or else "attention_mask"; the labels
    (rows, length) are -100 at padding. All are int32.

    Args:
        documents: the ids of each document, at most `length`.
        length: tokens of a row.
        pad_token_id: the id of padding; None for 0.
        pack: put several documents into a row.
        options: those of ``TokenBatches``.

    Attributes:
        length: tokens of a row.
        packed: whether rows have several documents.
        tokens: number of tokens of all rows, padding excluded.
        filled: the share of all tokens that are not padding.
    """

    def __init__(self, documents: Pieces, length: int, pad_token_id: int | None, *, pack: bool, **options: Any) -> None:
        self.length, self.packed, self.tokens = length, pack, len(documents.values)
        self._documents, self._pad = documents, pad_token_id or 0
        self._bins = best_fit(documents.lengths, length) if pack else [[i] for i in range(len(documents))]
        self.filled = self.tokens / (len(self._bins) * length)
        super().__init__(len(self._bins), **options)

    def labeled(self, documents: list[int], row: int, epoch: int) -> Iterator[tuple[Array, Array]]:
        """Yield the ids and the labels of each of the `documents` of a row, as they are in `epoch`."""
        raise NotImplementedError

    def rows(self, numbers: Array, epoch: int) -> Batch:
        shape = (len(numbers), self.length)
        ids, segments = np.full(shape, self._pad, "int32"), np.zeros(shape, "int32")
        labels = np.full(shape, IGNORED, "int32")
        for row, number in enumerate(numbers):
            end = 0
            for segment, (tokens, targets) in enumerate(self.labeled(self._bins[number], int(number), epoch), 1):
                start, end = end, end + len(tokens)
                ids[row, start:end], labels[row, start:end], segments[row, start:end] = tokens, targets, segment
        return {"input_ids": ids, "segment_ids" if self.packed else "attention_mask": segments}, labels


def best_fit(lengths: Array, most: int) -> list[list[int]]:
    """Return bins of indices of `lengths` with a sum of at most `most` each: best fit, the longest first."""
    bins: list[list[int]] = []
    rooms: list[int] = []  # the sizes of room that some bin has, in order
    having: dict[int, list[int]] = {}  # the bins by their room
    for index in np.argsort(-lengths, kind="stable"):
        size = int(lengths[index])
        place = bisect_left(rooms, size)
        if place == len(rooms):
            bins.append([])
            number, room = len(bins) - 1, most
        else:
            room = rooms[place]
            number = having[room].pop()
            if not having[room]:
                del having[room], rooms[place]
        bins[number].append(int(index))
        left = room - size
        if left not in having:
            rooms.insert(bisect_left(rooms, left), left)
            having[left] = []
        having[left].append(number)
    return bins
