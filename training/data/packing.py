"""Documents packed into rows of one length, for the training of causal language models.

    model.compile("adamw", az.losses.CausalLM())
    model.fit(az.data.pack("corpus.jsonl", tokenizer, length=1024, batch_size=8))

No token sees another document: the models read "segment_ids", attend within a document and count positions anew in
each. The logits of a document are thus those that it has alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...layers.vocabulary import IGNORED
from .encoded import Array, Pieces, checked_length, checked_tokenizer, encodings, too_long
from .rows import DocumentRows
from .sources import read


class PackedRows(DocumentRows):
    """Rows of packed documents; see ``pack``."""

    def labeled(self, documents: list[int], row: int, epoch: int) -> Iterator[tuple[Array, Array]]:
        for document in documents:
            tokens = self._documents[document]
            labels = tokens.copy()
            labels[0] = IGNORED  # nothing comes before a document's first token
            yield tokens, labels


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
    return PackedRows(Pieces(documents), length, tokenizer.pad_token_id, pack=True, **options)
