"""The number of bytes that each token of a tokenizer adds to a text."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np

WORD_MARK = "▁"  # SentencePiece's sign for a space
_BYTE = re.compile("<0x[0-9A-Fa-f]{2}>")


def bytes_per_token(tokenizer: Any) -> np.ndarray:
    """Return the number of bytes in UTF-8 of each id's text, int32 (vocabulary,); 0 for special tokens.

    With SentencePiece's vocabularies the word mark in front of a text counts as a space, which the text may not have.

    Raises:
        ValueError: `tokenizer` is not a ``Tokenizer``, or one whose tokens do not contain the spaces of a text.
    """
    backend = getattr(tokenizer, "backend", None)
    if backend is None:
        raise ValueError(f"tokenizer: got {type(tokenizer).__name__}; accepted: a Tokenizer, such as model.tokenizer")
    kinds = _kinds(json.loads(backend.to_str()).get("decoder"))
    byte_level, marked = "ByteLevel" in kinds, bool(kinds & {"Metaspace", WORD_MARK})
    if byte_level == marked:
        raise ValueError(
            f"tokenizer: got one whose decoder is {sorted(kinds) or None}; accepted: byte-level BPE or SentencePiece, "
            "or bytes_per_token in its place"
        )
    added = backend.get_added_tokens_decoder()
    sizes = np.zeros(tokenizer.vocab_size, "int32")
    for token, number in backend.get_vocab(with_added_tokens=True).items():
        if number in added:
            sizes[number] = 0 if added[number].special else len(added[number].content.encode())
        elif byte_level:  # every byte is one character of GPT-2's alphabet
            sizes[number] = len(token)
        else:
            one = "ByteFallback" in kinds and _BYTE.fullmatch(token)
            sizes[number] = 1 if one else len(token.replace(WORD_MARK, " ").encode())
    return sizes


def _kinds(decoder: Any) -> set[str]:
    """Return the types of a decoder and of its parts, and ``WORD_MARK`` if one of them replaces that by a space."""
    if not decoder:
        return set()
    found = {decoder["type"]}
    if decoder["type"] == "Replace" and decoder.get("pattern") == {"String": WORD_MARK} and decoder["content"] == " ":
        found.add(WORD_MARK)
    for part in decoder.get("decoders", ()):
        found |= _kinds(part)
    return found
