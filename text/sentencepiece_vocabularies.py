"""Tokenizers of SentencePiece models (Kudo & Richardson 2018, arXiv:1808.06226) as `tokenizers` backends.

These are Llama's ``tokenizer.model`` (BPE), T5's ``spiece.model`` and Marian's ``source.spm`` (both unigram), and
``sentencepiece.bpe.model`` of M2M-100, in folders without a tokenizer.json. A model is a protocol buffer
(``sentencepiece_model.proto`` of SentencePiece 0.2), of which the few entries needed are read here.
"""

from __future__ import annotations

import json
import re
import string
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checks import is_integer
from .gguf_vocabularies import sentencepiece_bpe
from .languages import M2M_LANGUAGES, language_token
from .vocabularies import LARGEST, backend_class, json_of, split_at_spaces, unigram

UNIGRAM, BPE = 1, 2
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
_ONE_BYTE = 0x7F


@dataclass(frozen=True)
class Model:
    """A SentencePiece model: its pieces in the order of their ids, with scores and types, and its options."""

    pieces: list[str]
    scores: list[float]
    types: list[int]
    kind: int
    charsmap: bytes  # the compiled rules of the normalizer
    space: bool  # whether a space is added before every text
    trimmed: bool  # whether runs of spaces become one, and those at the ends are removed


def read_model(file: Path) -> Model:
    """Read a SentencePiece model.

    Raises:
        ValueError: the file is too large, or is not a SentencePiece model.
    """
    size = file.stat().st_size
    if size > LARGEST:
        raise ValueError(f"path: {file}: got {size} bytes; accepted: at most {LARGEST}")
    try:
        return _model(file.read_bytes())
    except (ValueError, IndexError, struct.error, AttributeError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(f"path: {file}: got {error}; accepted: a SentencePiece model") from error


def _model(content: bytes) -> Model:
    pieces, scores, types = [], [], []
    trainer: dict[int, Any] = {}
    normalizer: dict[int, Any] = {}
    for number, value in _entries(content):
        if number == 1:
            entry = dict(_entries(value))
            pieces.append(entry[1].decode())
            scores.append(struct.unpack("<f", entry[2])[0] if 2 in entry else 0.0)
            types.append(entry.get(3, NORMAL))
        elif number in (2, 3):
            (trainer if number == 2 else normalizer).update(_entries(value))
    if not pieces:
        raise ValueError("no pieces")
    space, trimmed = bool(normalizer.get(3, 1)), bool(normalizer.get(4, 1))
    return Model(pieces, scores, types, trainer.get(3, UNIGRAM), normalizer.get(2, b""), space, trimmed)


def _entries(content: bytes) -> Iterator[tuple[int, Any]]:
    """Yield (field number, value) of a message: an integer for a varint, otherwise bytes."""
    place = 0
    while place < len(content):
        tag, place = _varint(content, place)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, place = _varint(content, place)
            yield number, value
            continue
        if wire == 2:
            length, place = _varint(content, place)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if place + length > len(content):
            raise ValueError(f"an entry of {length} bytes at {place}")
        yield number, content[place : place + length]
        place += length


def _varint(content: bytes, place: int) -> tuple[int, int]:
    """Return the number at `place` and the place behind it."""
    value = shift = 0
    while True:
        byte = content[place]
        value, shift, place = value | (byte & _ONE_BYTE) << shift, shift + 7, place + 1
        if byte <= _ONE_BYTE:
            return value, place
        if shift > 63:
            raise ValueError(f"a number of more than 64 bits at {place}")


def sentencepiece_tokenizer(file: Path, kind: str, config: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the backend of the SentencePiece model `file` and the default special tokens of its kind.

    Args:
        file: the model.
        kind: "llama", "mistral" or "" for Llama's, "t5", "mt5", "siglip", "marian" or "m2m100".
        config: the entries of tokenizer_config.json.

    Raises:
        ValueError: the file is not a model of this kind.
    """
    model = read_model(file)
    if kind in ("", "llama", "mistral") and model.kind == BPE:
        backend, defaults = _llama(model, file)
    elif kind in ("m2m100", "m2m_100"):
        backend, defaults = _m2m(model, file, config)
    elif kind in ("t5", "mt5", "marian") and model.kind == UNIGRAM:
        if kind == "marian" and config.get("separate_vocabs"):
            raise ValueError("separate_vocabs: got true; accepted: one vocabulary, as decode has the one of encode")
        backend, defaults = _marian(model, file) if kind == "marian" else _t5(model, file, config)
    elif kind == "siglip" and model.kind == UNIGRAM:
        backend, defaults = _siglip(model, file, config)
    else:
        raise ValueError(
            f"path: {file}: got a SentencePiece model of type {model.kind} for a tokenizer of kind {kind!r}; accepted: "
            "a BPE model for Llama, a unigram model for T5, SigLIP or Marian, any for M2M-100, or a folder with "
            "tokenizer.json"
        )
    from tokenizers import AddedToken

    whole = [piece for piece, of in zip(model.pieces, model.types, strict=True) if of == USER_DEFINED]
    backend.add_tokens([AddedToken(piece, special=False, normalized=False) for piece in whole])
    return backend, defaults


def _llama(model: Model, file: Path) -> tuple[Any, dict[str, Any]]:
    from tokenizers import decoders, pre_tokenizers

    backend = sentencepiece_bpe(model.pieces, model.scores, model.types, None, str(file))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    undo = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(undo)
    defaults = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "padding_side": "left"}
    return backend, {**defaults, "add_bos_token": True, "add_eos_token": False}


def _t5(model: Model, file: Path, config: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    from tokenizers import pre_tokenizers

    vocabulary = list(zip(model.pieces, model.scores, strict=True))
    extra = config.get("extra_ids", 100)
    if not is_integer(extra) or not 0 <= extra <= 10_000:
        raise ValueError(f"extra_ids: got {extra!r}; accepted: an integer from 0 to 10000")
    vocabulary += [(f"<extra_id_{i}>", 0.0) for i in reversed(range(extra))]  # ids in this order, as in T5
    backend = _unigram(model, vocabulary, "<unk>", file)
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), backend.pre_tokenizer])
    defaults: dict[str, Any] = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    defaults["additional_special_tokens"] = [piece for piece, _ in vocabulary if piece.startswith("<extra_id_")]
    _end_with(backend, "</s>", file)
    return backend, {**defaults, "model_input_names": ["input_ids", "attention_mask"]}


def _siglip(model: Model, file: Path, config: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the backend for SigLIP: that of T5 for texts in lower case and without punctuation, padded with </s>."""
    from tokenizers import Regex, normalizers

    backend, defaults = _t5(model, file, {**config, "extra_ids": 0})
    steps = [normalizers.Lowercase()] if config.get("do_lower_case", True) else []
    steps += [normalizers.Replace(Regex(f"[{re.escape(string.punctuation)}]"), "")]
    steps += [normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    own = [] if backend.normalizer is None else [backend.normalizer]
    backend.normalizer = normalizers.Sequence([*steps, *own])
    return backend, {**defaults, "pad_token": "</s>", "additional_special_tokens": [], "model_max_length": 64}


def _vocabulary(model: Model, file: Path) -> tuple[dict[str, int], dict[str, float]]:
    """Return the ids of vocab.json beside `file`, and the scores of the pieces of the model, which have such ids."""
    ids = json_of(file.with_name("vocab.json"), LARGEST)
    by_id = {number: token for token, number in ids.items() if isinstance(number, int)}
    if sorted(by_id) != list(range(len(ids))) or "<unk>" not in ids:
        raise ValueError(
            f"path: {file.with_name('vocab.json')}: got {len(ids)} tokens; accepted: <unk>, and ids from 0"
        )
    scores = {p: s for p, s, kind in zip(model.pieces, model.scores, model.types, strict=True) if kind == NORMAL}
    if missing := sorted(set(scores) - set(ids)):
        raise ValueError(f"path: {file}: got pieces {missing[:4]} that vocab.json does not have; accepted: its tokens")
    return ids, scores


def _with_ids(model: Model, ids: Mapping[str, int], scores: Mapping[str, float], file: Path) -> Any:
    """Return a unigram backend with the pieces of a model and the ids of a vocab.json."""
    by_id = {number: token for token, number in ids.items()}
    never = min(scores.values(), default=0.0) - 1e4  # tokens of the other language are never found in a text
    vocabulary = [(by_id[i], scores.get(by_id[i], never)) for i in range(len(ids))]
    return _unigram(model, vocabulary, "<unk>", file)


def _m2m(model: Model, file: Path, config: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the backend for M2M-100, whose ids are those of vocab.json, followed by those of the languages."""
    from tokenizers import AddedToken, models

    ids, scores = _vocabulary(model, file)
    if model.kind == BPE:
        own = sentencepiece_bpe(model.pieces, model.scores, model.types, None, str(file))
        merges = [tuple(pair) for pair in json.loads(own.to_str())["model"]["merges"]]
        backend = backend_class()(models.BPE(vocab=ids, merges=merges, unk_token="<unk>", fuse_unk=True))
        _split_at_spaces(backend, model, file)
    else:
        backend = _with_ids(model, ids, scores, file)
    which = config.get("language_codes", "m2m100")
    if which not in M2M_LANGUAGES:
        raise ValueError(f"language_codes: got {which!r}; accepted: {list(M2M_LANGUAGES)}")
    tokens = [language_token("m2m100", code) for code in M2M_LANGUAGES[which].split()]
    backend.add_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])
    _end_with(backend, "</s>", file)
    names = {"bos": "<s>", "eos": "</s>", "sep": "</s>", "unk": "<unk>", "pad": "<pad>"}
    defaults: dict[str, Any] = {f"{name}_token": token for name, token in names.items()}
    return backend, {**defaults, "model_input_names": ["input_ids", "attention_mask"]}


def _marian(model: Model, file: Path) -> tuple[Any, dict[str, Any]]:
    """Return the backend for Marian, whose ids are those of vocab.json and whose pieces are those of source.spm."""
    from tokenizers import AddedToken

    ids, scores = _vocabulary(model, file)
    backend = _with_ids(model, ids, scores, file)
    codes = [token for token in ids if token.startswith(">>") and token.endswith("<<")]  # of target languages
    backend.add_tokens([AddedToken(code, special=False, normalized=False) for code in codes])
    _end_with(backend, "</s>", file)
    defaults: dict[str, Any] = {"eos_token": "</s>", "unk_token": "<unk>", "model_max_length": 512}
    defaults |= {"pad_token": "<pad>"} if "<pad>" in ids else {}
    return backend, {**defaults, "model_input_names": ["input_ids", "attention_mask"]}


def _unigram(model: Model, vocabulary: list[tuple[str, float]], unk: str, file: Path) -> Any:
    options = {"charsmap": model.charsmap, "trimmed": model.trimmed, "space": model.space}
    return unigram(vocabulary, unk, f"path: {file}", **options, byte_fallback=BYTE in model.types)


def _split_at_spaces(backend: Any, model: Model, file: Path) -> None:
    """Set the normalizer of a model and the handling of spaces of SentencePiece."""
    split_at_spaces(backend, f"path: {file}", charsmap=model.charsmap, trimmed=model.trimmed, space=model.space)


def _end_with(backend: Any, end: str, file: Path) -> None:
    """Set the post-processor that adds the token `end` after every text."""
    from tokenizers.processors import TemplateProcessing

    if (number := backend.token_to_id(end)) is None:
        raise ValueError(f"path: {file}: got no piece {end!r}; accepted: a model that has it")
    single, pair = f"$A:0 {end}:0", f"$A:0 {end}:0 $B:0 {end}:0"
    backend.post_processor = TemplateProcessing(single=single, pair=pair, special_tokens=[(end, number)])
