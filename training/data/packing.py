"""Documents packed into rows of one length, for the training of causal language models.

    model.compile("adamw", az.losses.CausalLM())
    model.fit(az.data.pack("corpus.jsonl", tokenizer, length=1024, batch_size=8))

No token sees another document: the models read "segment_ids", attend within a document and count positions anew in
each. The logits of a document are thus those that it has alone.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

import numpy as np

from ...layers.vocabulary import IGNORED
from .batches import Batch, TokenBatches
from .encoded import Array, Pieces, checked_length, checked_tokenizer, encodings, too_long
from .sources import read


class PackedRows(TokenBatches):
    """Rows of packed documents; see ``pack``.

    Attributes:
        length: tokens of a row.
        filled: the share of all tokens that are not padding.
    """

    def __init__(self, documents: Pieces, length: int, pad_token_id: int, **options: Any) -> None:
        self.length = length
        self._documents, self._pad = documents, pad_token_id
        self._bins = best_fit(documents.lengths, length)
        super().__init__(len(self._bins), **options)
        self.filled = len(documents.values) / (len(self._bins) * length)

    def rows(self, numbers: Array, epoch: int) -> Batch:
        shape = (len(numbers), self.length)
        ids, segments = np.full(shape, self._pad, "int32"), np.zeros(shape, "int32")
        labels = np.full(shape, IGNORED, "int32")
        for row, number in enumerate(numbers):
            end = 0
            for segment, document in enumerate(self._bins[number], 1):
                tokens = self._documents[document]
                start, end = end, end + len(tokens)
                ids[row, start:end], segments[row, start:end] = tokens, segment
                labels[row, start + 1 : end] = tokens[1:]  # nothing comes before a document's first token
        return {"input_ids": ids, "segment_ids": segments}, labels


def pack(
    texts: Any,
    tokenizer: Any,
    length: int,
    *,
    split: bool = True,
    eos: bool = True,
    column: str = "text",
    by: str = "line",
    **options: Any,
) -> PackedRows:
    """Pack texts into rows of `length` tokens: inputs "input_ids" and "segment_ids", and labels for ``CausalLM``.

    All texts are encoded at once and kept as ids in memory, 4 bytes for each token. Rows are filled by best fit, the
    longest texts first (Ding et al. 2024, arXiv:2404.10830), which leaves little padding and cuts only texts that are
    longer than a row.

    Args:
        texts: as for ``read``: a list, or the path of a file or folder.
        tokenizer: a ``Tokenizer``; its special tokens are added to every text.
        length: tokens of a row, at least 2.
        split: cut longer texts into documents of `length` tokens. Otherwise they are an error.
        eos: end every text with the tokenizer's eos token, if it has one and does not add it itself.
        column, by: as for ``read``.
        options: `batch_size`, `shuffle`, `seed`, `shard`, `drop_remainder` and others of ``TokenBatches``.

    Returns:
        A ``keras.utils.PyDataset``; labels (batch, length) are -100 at padding and at the first token of a document.

    Raises:
        ValueError: wrong arguments, texts that cannot be read, or a text longer than `length` without `split`.
    """
    tokenizer, length = checked_tokenizer(tokenizer), checked_length(length)
    end = tokenizer.eos_token_id if eos else None
    documents: list[list[int]] = []
    for encoding, place in encodings(read(texts, column, by), tokenizer):
        ids = list(encoding.ids)
        if end is not None and ids[-1:] != [end]:
            ids.append(end)
        if len(ids) > length and not split:
            raise too_long(place, len(ids), length, "split=True")
        parts = [ids[first : first + length] for first in range(0, len(ids), length)]
        documents += [part for part in parts if len(part) > 1]  # one token alone has nothing to predict
    if not documents:
        raise ValueError("texts: got no text of at least two tokens; accepted: longer ones")
    pad = tokenizer.pad_token_id
    return PackedRows(Pieces(documents), length, 0 if pad is None else pad, **options)


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
