"""Texts with masked words, for the training of masked language models.

    model = az.create("bert-base", head="masked_lm")
    model.compile("adamw", az.losses.TokenCrossEntropy())
    model.fit(az.data.masked("corpus.txt", tokenizer, length=128))

15 % of the tokens are chosen, as whole words. Of these, 80 % become the mask token, 10 % a random token, and 10 % stay
(Devlin et al. 2018, arXiv:1810.04805, section 3.1). Which ones they are depends on the seed, the epoch and the row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ...checks import fraction
from ...layers.vocabulary import IGNORED
from .encoded import Array, Pieces, checked_length, checked_tokenizer, encodings, too_long
from .rows import DocumentRows
from .sources import read


class MaskedRows(DocumentRows):
    """Rows of texts whose words are masked anew in every epoch; see ``masked``."""

    def __init__(
        self, documents: Pieces, words: Pieces, tokenizer: Any, length: int, *, rate: float, pack: bool, **options: Any
    ) -> None:
        self.rate, self._words, self._mask = rate, words, tokenizer.mask_token_id
        special = sorted(tokenizer.special_token_ids)
        self._plain = np.setdiff1d(np.arange(tokenizer.vocab_size), special).astype("int32")
        super().__init__(documents, length, tokenizer.pad_token_id, pack=pack, **options)

    def labeled(self, documents: list[int], row: int, epoch: int) -> Iterator[tuple[Array, Array]]:
        random = self.generator(epoch, row)
        for document in documents:
            tokens = self._documents[document]
            chosen = chosen_tokens(self._words[document], self.rate, random)
            labels = np.where(chosen, tokens, IGNORED)
            yield self._changed(tokens, chosen, random), labels

    def _changed(self, tokens: Array, chosen: Array, random: np.random.Generator) -> Array:
        """Return `tokens` with the `chosen` ones masked, replaced by a random token, or kept."""
        draw = random.uniform(size=len(tokens))
        replaced = np.where(draw < 0.8, self._mask, random.choice(self._plain, len(tokens)))
        return np.where(chosen & (draw < 0.9), replaced, tokens)


def chosen_tokens(words: Array, rate: float, random: np.random.Generator) -> Array:
    """Choose whole words at random until they have the share `rate` of all tokens that belong to words, at least one.

    Args:
        words: (tokens,), the number of each token's word; below 0 for special tokens, which are never chosen.
        rate: from 0 to 1.
        random: the generator.

    Returns:
        A boolean (tokens,).
    """
    inside = words[words >= 0]
    chosen = np.zeros(len(words), bool)
    if not len(inside) or not rate:
        return chosen
    names, sizes = np.unique(inside, return_counts=True)
    left = max(1, round(rate * len(inside)))
    for place in random.permutation(len(names)):
        if sizes[place] <= left or not chosen.any():
            chosen |= words == names[place]
            left -= int(sizes[place])
        if left <= 0:
            break
    return chosen


def masked(
    texts: Any,
    tokenizer: Any,
    length: int,
    *,
    rate: float = 0.15,
    split: bool = False,
    pack: bool = False,
    column: str = "text",
    by: str = "line",
    **options: Any,
) -> MaskedRows:
    """Return rows of texts with masked words: inputs, and labels for ``TokenCrossEntropy``.

    Args:
        texts: as for ``read``: a list, or the path of a file or folder.
        tokenizer: a ``Tokenizer`` with a mask token; its special tokens are added to every text and never chosen.
        length: tokens of a row.
        rate: the share of tokens that are chosen.
        split: cut longer texts, special tokens around each part. Otherwise they are an error.
        pack: put several texts into a row, each a document of its own, with "segment_ids"; otherwise one, padded, with
            "attention_mask".
        column, by: as for ``read``.
        options: `batch_size`, `shuffle`, `seed`, `shard`, `drop_remainder` and others of ``TokenBatches``.

    Returns:
        A ``keras.utils.PyDataset``; labels (batch, length) are -100 except at chosen tokens.

    Raises:
        ValueError: wrong arguments, a tokenizer without a mask token, texts that cannot be read, or a text longer than
            `length` without `split`.
    """
    tokenizer, length, rate = checked_tokenizer(tokenizer), checked_length(length), fraction("rate", rate)
    if tokenizer.mask_token_id is None:
        raise ValueError("tokenizer: got one without a mask token; accepted: one with it, such as BERT's")
    rows: list[list[int]] = []
    words: list[list[int]] = []
    special = tokenizer.special_token_ids
    room = length - tokenizer.backend.num_special_tokens_to_add(False)
    source = read(texts, column, by)
    for text, (encoding, place) in zip(source.values, encodings(source, tokenizer), strict=True):
        if len(encoding.ids) > length and (not split or room < 1):
            raise too_long(place, len(encoding.ids), length, "split=True")
        for part in _parts(encoding, text, tokenizer.backend, room):
            if any(word is not None for word in part.word_ids):
                rows.append(part.ids)
                pairs = zip(part.ids, part.word_ids, strict=True)
                words.append([-1 if word is None or number in special else word for number, word in pairs])
    if not rows:
        raise ValueError("texts: got no text with a word; accepted: at least one")
    return MaskedRows(Pieces(rows), Pieces(words), tokenizer, length, rate=rate, pack=bool(pack), **options)


def _parts(encoding: Any, text: str, backend: Any, room: int) -> list[Any]:
    """Return the encoding of `text`, or its parts of at most `room` tokens with special tokens around each."""
    added = backend.num_special_tokens_to_add(False)
    if len(encoding.ids) <= room + added:
        return [encoding]
    plain = backend.encode(text, add_special_tokens=False)
    plain.truncate(room)
    return [backend.post_process(part, None, True) for part in (plain, *plain.overflowing)]
