"""Encoding of texts to rows of token ids and to a model's input arrays, and the check of ids before decoding."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from .lengths import padded, truncate
from .vocabularies import checked

Array = np.ndarray


def encoded_rows(
    backend: Any,
    texts: Any,
    pairs: Any,
    *,
    limit: int | None,
    truncation: bool | str,
    truncation_side: str,
    add_special_tokens: bool,
    words: bool,
) -> list[Any]:
    """Return one ``tokenizers.Encoding`` for each text, truncated to `limit` tokens and with its special tokens.

    Args:
        backend: a ``tokenizers.Tokenizer`` without truncation and padding.
        limit: longest row, special tokens included, or None.
        words: each text is a list of words.
        texts, pairs, truncation, truncation_side, add_special_tokens: as in ``Tokenizer.__call__``.

    Raises:
        ValueError: texts of another type, `pairs` of another length than `texts`, or a `limit` that is too small.
    """
    first = _encodings(backend, "texts", texts, words)
    second = [None] * len(first) if pairs is None else _encodings(backend, "pairs", pairs, words)
    if len(second) != len(first):
        raise ValueError(f"pairs: got {len(second)}; accepted: {len(first)}, one for each text")
    framing = backend.num_special_tokens_to_add(pairs is not None) if add_special_tokens else 0
    rows = []
    for one, other in zip(first, second, strict=True):
        if truncation:
            truncate(one, other, limit, framing, truncation, truncation_side)
        rows.append(backend.post_process(one, other, add_special_tokens))
    return rows


def _encodings(backend: Any, name: str, texts: Any, words: bool) -> list[Any]:
    """Return the encodings of `texts`, the argument called `name`, without special tokens."""
    accepted = "lists of words" if words else "a text or texts"
    if words:
        single = isinstance(texts, list | tuple) and bool(texts) and all(isinstance(word, str) for word in texts)
    else:
        single = isinstance(texts, str)
    rows = [texts] if single else texts
    if not isinstance(rows, list | tuple | np.ndarray) or not len(rows):
        raise ValueError(f"{name}: got {type(texts).__name__}, or nothing; accepted: {accepted}")
    rows = [list(row) if words and isinstance(row, list | tuple | np.ndarray) else row for row in rows]
    for row in rows:
        if not (
            isinstance(row, list) and all(isinstance(word, str) for word in row) if words else isinstance(row, str)
        ):
            raise ValueError(f"{name}: got {type(row).__name__} {row!r:.80}; accepted: {accepted}")
    if words and not _encodes_single_words(backend):
        raise ValueError(
            "is_split_into_words: got True for a tokenizer that writes spaces as a part of words; accepted: False, "
            "or a GPT-2 or RoBERTa tokenizer loaded with add_prefix_space=True"
        )
    batch = [str(row) for row in rows] if not words else rows
    return checked(name, lambda: backend.encode_batch(batch, is_pretokenized=words, add_special_tokens=False))


def _encodes_single_words(backend: Any) -> bool:
    """Return whether a word by itself is encoded to the same tokens as the same word after a space."""
    cutter = backend.pre_tokenizer
    if cutter is None:
        return True
    return cutter.pre_tokenize_str("a")[0][0] == cutter.pre_tokenize_str(" a")[0][0]


def with_prompt(texts: Any, prompt: str) -> Any:
    """Return `texts`, one or several, with `prompt` in front of each. Values of other types are left unchanged."""
    if not prompt:
        return texts
    if isinstance(texts, str):
        return prompt + texts
    if isinstance(texts, list | tuple | np.ndarray):
        return [prompt + text if isinstance(text, str) else text for text in texts]
    return texts


def prompt_length(backend: Any, prompt: str, special: Collection[int], *, add_special_tokens: bool) -> int:
    """Return the number of tokens at the start of a row that are those of `prompt`, special tokens before it included.

    As in sentence-transformers, these are the tokens of the prompt alone, without a special token at its end.
    """
    if not prompt:
        return 0
    ids = backend.encode(prompt, add_special_tokens=add_special_tokens).ids
    return len(ids) - (bool(ids) and ids[-1] in special)


def behind_prompt(mask: Array, length: int) -> Array:
    """Return the attention mask `mask`, (rows, tokens), without the first `length` tokens of each row."""
    return (mask * (np.cumsum(mask, axis=1) > length)).astype(mask.dtype)


def row_width(lengths: list[int], limit: int | None, padding: bool | str, pad_token_id: int | None) -> int:
    """Return the length to which rows are padded.

    Args:
        lengths: of the rows, special tokens included.
        limit: longest row, or None.
        padding: as in ``Tokenizer.__call__``.
        pad_token_id: id of the pad token, or None.

    Raises:
        ValueError: rows longer than `limit` with ``padding="max_length"``, or rows that need padding without a pad
            token or with ``padding=False``.
    """
    width = max(lengths)
    if padding == "max_length" and limit is not None:
        if width > limit:
            raise ValueError(f"truncation: got False for {width} tokens; accepted: True, to keep max_length={limit}")
        width = limit
    short = [length for length in lengths if length < width]
    if short and not padding:
        raise ValueError(f"padding: got False for rows of {min(short)} to {width} tokens; accepted: 'longest'")
    if short and pad_token_id is None:
        raise ValueError(
            f"padding: got {padding!r} for rows of {min(short)} to {width} tokens, without a pad token; accepted: "
            'rows of one length, or a tokenizer with one, as load(path, pad_token="…") gives it'
        )
    return width


def input_arrays(
    rows: list[Any], width: int, padding_side: str, *, pad_token_id: int | None, token_types: bool, word_ids: bool
) -> dict[str, Array]:
    """Return int32 arrays (rows, width) by input name, as ``Tokenizer.__call__`` describes them."""
    columns = {"input_ids": ([row.ids for row in rows], pad_token_id or 0)}
    columns["attention_mask"] = ([[1] * len(row.ids) for row in rows], 0)
    if token_types:
        columns["token_type_ids"] = ([row.type_ids for row in rows], 0)
    if word_ids:
        columns["word_ids"] = ([[-1 if word is None else word for word in row.word_ids] for row in rows], -1)
    return {name: padded(values, width, fill, padding_side) for name, (values, fill) in columns.items()}


def id_list(ids: Any) -> list[int]:
    """Return one row of ids as a list of integers.

    Raises:
        ValueError: not a single row of integers from 0 to 2**32 - 1.
    """
    try:
        array = np.asarray(ids)
    except ValueError:
        array = np.empty((0, 0))
    array = array.astype("int64") if not array.size and array.ndim == 1 else np.atleast_1d(array)
    if array.ndim != 1 or array.dtype.kind not in "iu" or (array.size and not 0 <= array.min() <= array.max() < 2**32):
        raise ValueError(f"ids: got {array.dtype} of shape {array.shape}; accepted: one row of ids of 0 and above")
    return [int(number) for number in array]
