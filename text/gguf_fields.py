"""The metadata of a GGUF file for a tokenizer: the inverse of ``gguf_vocabularies.py``."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from .splits import SPLITS, WHOLE

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # GGUF's token types
PREFIX = "tokenizer.ggml."
ACCEPTED = "accepted: byte-level or SentencePiece BPE, WordPiece or a unigram model; or a model without tokenizer"
# Texts that every way of splitting cuts in another way: letters of two cases and alphabets, marks, digits, spaces.
SAMPLE = (
    "Hello wORLDs, it's I'M we'LL 1 12 1234 12345678 a1b22 x==y; $5.00 (=> ~`^|<>) \n\n  \n end\n\t\ttab  \r\n   4    "
    "Ünïcode étÉ Привет мИр 你好，世界。 こんにちは カタカナ "
    "한국어 हिन्दी ไทย عربي، ۔ ½ ① 🙂🚀 '' \"quoted\" don’t CamelCaseHTTPServer "
    "/* c */ //x #!/bin … ！ e\u0301a   \n  <sentinel:12> \x0b \u3000全角　. 3,141,592 ++i -- ___ v1.2.3\n"
)
# Of several names for the same split, the first is written.
PREFERRED = ("gpt-2", "smollm", "llama-bpe", "qwen2", "tekken", "gpt-4o", "falcon", "deepseek-llm", "deepseek-v3")


def gguf_fields(tokenizer: Any, rows: int) -> dict[str, Any]:
    """Return the metadata by key for a ``Tokenizer`` of a model whose table of tokens has `rows` rows.

    Raises:
        ValueError: llama.cpp has no vocabulary of this kind, or more tokens than `rows`.
    """
    raw = json.loads(tokenizer.backend.to_str())
    kinds = {"BPE": _bpe, "WordPiece": _wordpiece, "Unigram": _unigram}
    if (kind := raw["model"]["type"]) not in kinds:
        raise ValueError(f"tokenizer: got a {kind} model; {ACCEPTED}")
    if tokenizer.vocab_size > rows:
        raise ValueError(f"tokenizer: got {tokenizer.vocab_size} tokens; accepted: at most {rows}, those of the model")
    vocabulary = tokenizer.backend.get_vocab()
    tokens = {number: token for token, number in vocabulary.items()}
    types = dict.fromkeys(tokens, NORMAL)
    for number, token in tokenizer.backend.get_added_tokens_decoder().items():
        types[number] = CONTROL if token.special else USER_DEFINED
    if tokenizer.unk_token_id is not None and kind != "WordPiece":
        types[tokenizer.unk_token_id] = UNKNOWN
    found = kinds[kind](tokenizer, raw, tokens, types)
    every = range(rows)
    found["tokens"] = [tokens.get(i, f"[PAD{i}]") for i in every]
    found["token_type"] = [types.get(i, UNUSED) for i in every]
    if "scores" in found:
        found["scores"] = [found["scores"].get(i, -1e4) for i in every]
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "sep": "seperator", "pad": "padding", "mask": "mask"}
    for name, theirs in names.items():
        if (number := getattr(tokenizer, f"{name}_token_id")) is not None:
            found[f"{theirs}_token_id"] = number
    if kind == "WordPiece":
        if (number := tokenizer.cls_token_id) is not None:  # llama.cpp begins texts with bos
            found |= {"cls_token_id": number, "bos_token_id": number}
    else:
        framed = tokenizer.encode("a").ids
        found["add_bos_token"] = tokenizer.bos_token_id is not None and framed[:1] == [tokenizer.bos_token_id]
        found["add_eos_token"] = tokenizer.eos_token_id is not None and framed[-1:] == [tokenizer.eos_token_id]
    fields = {PREFIX + name: value for name, value in found.items()}
    for name, text in tokenizer.chat_templates.items():
        fields["tokenizer.chat_template" + ("" if name == "default" else f".{name}")] = text
    return fields


def _bpe(tokenizer: Any, raw: Mapping[str, Any], tokens: dict[int, str], types: dict[int, int]) -> dict[str, Any]:
    merges = [pair if isinstance(pair, list) else pair.split(" ") for pair in raw["model"]["merges"]]
    if not raw["model"].get("byte_fallback"):
        pre = _split_of(tokenizer.backend, raw)
        return {"model": "gpt2", "pre": pre, "merges": [" ".join(pair) for pair in merges]}
    numbers = {token: number for number, token in tokens.items()}
    scores = dict.fromkeys(tokens, 0.0)
    for rank, (left, right) in enumerate(merges):
        whole = numbers[left + right]
        if scores[whole] == 0.0:  # the first of the merges that make it
            scores[whole] = -1.0 - rank
    lowest = -2.0 - len(merges)
    for number, token in tokens.items():
        if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            types[number] = BYTE
        elif scores[number] == 0.0 and types[number] == NORMAL:
            scores[number] = lowest
    return {"model": "llama", "pre": "default", "scores": scores, "add_space_prefix": _adds_space(tokenizer)}


def _split_of(backend: Any, raw: Mapping[str, Any]) -> str:
    """Return the name of the split that cuts texts as `backend` does.

    Raises:
        ValueError: there is none.
    """
    from .vocabularies import NORMALIZED, byte_level

    accepted = f"accepted: those of {list(PREFERRED)}, …; or a model without tokenizer"
    if backend.pre_tokenizer is None:
        raise ValueError(f"tokenizer: got BPE without a pre-tokenizer; {accepted}")
    whole, normal = bool(raw["model"].get("ignore_merges")), (raw.get("normalizer") or {}).get("type")
    if normal not in (None, "NFC"):
        raise ValueError(f"tokenizer: got byte-level BPE with a normalizer {normal!r}; accepted: NFC or none")
    pieces = [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(SAMPLE)]
    found = []
    for name in dict.fromkeys((*PREFERRED, *SPLITS)):
        cutter = byte_level({}, [], name).pre_tokenizer
        if pieces == [piece for piece, _ in cutter.pre_tokenize_str(SAMPLE)]:
            found.append(name)
    if not found:
        raise ValueError(f"tokenizer: got a pre-tokenizer that llama.cpp does not have; {accepted}")
    exact = [name for name in found if (name in WHOLE) == whole and (name in NORMALIZED) == (normal == "NFC")]
    return next(iter((*exact, *(name for name in found if (name in WHOLE) == whole), *found)))


def _adds_space(tokenizer: Any) -> bool:
    """Return whether a space is added before a text."""
    plain = tokenizer.encode("a", add_special_tokens=False)
    return bool(plain.tokens) and plain.tokens[0].startswith("▁")


def _wordpiece(_: Any, raw: Mapping[str, Any], tokens: dict[int, str], types: dict[int, int]) -> dict[str, Any]:
    """Write the tokens as llama.cpp has them: marked where a word begins, and not where it goes on."""
    mark = raw["model"]["continuing_subword_prefix"]
    for number, token in list(tokens.items()):
        if types[number] == NORMAL:
            tokens[number] = token.removeprefix(mark) if mark and token.startswith(mark) else f"▁{token}"
    normal = raw.get("normalizer") or {}
    if normal.get("type") != "BertNormalizer":
        raise ValueError(f"tokenizer: got WordPiece with a normalizer {normal.get('type')!r}; accepted: BertNormalizer")
    lower, accents = normal["lowercase"], normal["strip_accents"]
    found: dict[str, Any] = {"model": "bert", "pre": "default", "normalizer.lowercase": lower}
    return found | {"normalizer.strip_accents": lower if accents is None else accents}


def _unigram(tokenizer: Any, raw: Mapping[str, Any], tokens: dict[int, str], types: dict[int, int]) -> dict[str, Any]:
    scores = {number: float(score) for number, (_, score) in enumerate(raw["model"]["vocab"])}
    steps, charsmap = [raw.get("normalizer")], None
    while steps:
        step = steps.pop() or {}
        steps += step.get("normalizers", [])
        charsmap = step.get("precompiled_charsmap") or charsmap
    for number, token in tokens.items():
        if len(token) == 6 and token.startswith("<0x") and token.endswith(">") and raw["model"].get("byte_fallback"):
            types[number] = BYTE
    found = {"model": "t5", "pre": "default", "scores": scores, "add_space_prefix": _adds_space(tokenizer)}
    one, several = (tokenizer.encode(text, add_special_tokens=False).ids for text in ("a b", " a  b "))
    found["remove_extra_whitespaces"] = one == several
    data = charsmap if isinstance(charsmap, list) else list(base64.b64decode(charsmap)) if charsmap else None
    return found if data is None else {**found, "precompiled_charsmap": data}
