"""The tokenizer in a GGUF file's metadata: byte-level or SentencePiece BPE, BERT's WordPiece, or T5's unigram model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .. import checks
from .splits import FRAMED, SPLITS, WITH_BOS
from .vocabularies import backend_class, byte_level, checked, roberta_frame, unigram, wordpiece

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 1, 2, 3, 4, 6  # GGUF's token types


def gguf_tokenizer(fields: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the backend and the config, as the keys of a tokenizer_config.json; see ``Tokenizer.from_gguf``."""
    kinds = {"gpt2": _gguf_byte_level, "llama": _gguf_sentencepiece, "bert": _gguf_wordpiece, "t5": _gguf_unigram}
    kind = str(fields.get("tokenizer.ggml.model"))
    if kind not in kinds:
        raise ValueError(f"tokenizer.ggml.model: got {kind!r}; accepted: {sorted(kinds)}")
    tokens = _field(fields, "tokens", str)
    if len(set(tokens)) != len(tokens):
        raise ValueError(f"tokenizer.ggml.tokens: got {len(tokens) - len(set(tokens))} twice; accepted: each once")
    types = _field(fields, "token_type", int, [_NORMAL] * len(tokens))
    if len(types) != len(tokens):
        raise ValueError(f"tokenizer.ggml.token_type: got {len(types)}; accepted: one for each of {len(tokens)}")
    found: dict[str, Any] = {"padding_side": "left" if kind in ("gpt2", "llama") else "right"}
    named = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}
    named |= {"sep_token": "seperator", "mask_token": "mask", "cls_token": "cls"}  # the second as llama.cpp spells it
    for name, key in named.items():
        number = fields.get(f"tokenizer.ggml.{key}_token_id")
        if number is None:
            continue
        if not isinstance(number, int | np.integer) or not 0 <= number < len(tokens):
            accepted = f"accepted: an integer below {len(tokens)}"
            raise ValueError(f"tokenizer.ggml.{key}_token_id: got {number!r}; {accepted}")
        found[name] = tokens[number]
    backend, adds_bos = kinds[kind](fields, tokens, types, found)
    if adds_bos is not None:
        found["add_bos_token"] = bool(fields.get("tokenizer.ggml.add_bos_token", adds_bos)) and "bos_token" in found
        adds_eos = bool(fields.get("tokenizer.ggml.add_eos_token", kind == "t5"))
        found["add_eos_token"] = adds_eos and "eos_token" in found
    from tokenizers import AddedToken

    for number, special in ((_CONTROL, True), (_USER_DEFINED, False)):
        added = [token for token, of in zip(tokens, types, strict=True) if of == number]
        backend.add_tokens([AddedToken(token, special=special, normalized=False) for token in added])
    prefix = "tokenizer.chat_template"
    # "tokenizer.chat_templates" is excluded: it lists the names of the additional templates.
    texts = {key: text for key, text in fields.items() if key == prefix or key.startswith(f"{prefix}.")}
    templates = {key[len(prefix) + 1 :] or "default": text for key, text in texts.items() if isinstance(text, str)}
    found["chat_template"] = [{"name": name, "template": text} for name, text in templates.items()] or None
    found["model_max_length"] = fields.get(f"{fields.get('general.architecture')}.context_length")
    return backend, found


def _field(fields: Mapping[str, Any], name: str, kind: type, default: list[Any] | None = None) -> list[Any]:
    """Return the list in the field ``tokenizer.ggml.{name}``.

    Raises:
        ValueError: the field is missing and has no default, or is not a list of `kind`.
    """
    values = fields.get(f"tokenizer.ggml.{name}", default)
    values = values.tolist() if isinstance(values, np.ndarray) else values
    kinds = {int: int | np.integer, float: int | float | np.number}.get(kind, kind)
    if not isinstance(values, list | tuple) or not all(isinstance(value, kinds) for value in values):
        got = type(values).__name__
        raise ValueError(f"tokenizer.ggml.{name}: got {got}; accepted: a list of {kind.__name__}")
    return list(values)


def _gguf_byte_level(
    fields: Mapping[str, Any], tokens: list[str], types: list[int], found: dict[str, Any]
) -> tuple[Any, bool | None]:
    """Return the backend, and whether bos is added to texts if the file does not specify it; None for neither."""
    pre = fields.get("tokenizer.ggml.pre")
    if pre is None:
        checks.warn("tokenizer.ggml.pre: not in the file; texts are split as llama.cpp does by default")
        pre = "default"
    if pre not in SPLITS:
        raise ValueError(f"tokenizer.ggml.pre: got {pre!r}; accepted: {sorted(SPLITS)}")
    merges = [tuple(merge.split(" ")) for merge in _field(fields, "merges", str)]
    backend = byte_level({token: n for n, token in enumerate(tokens)}, merges, pre)
    begin, end = found.get("bos_token"), found.get("sep_token") or found.get("eos_token")
    if pre in FRAMED and begin is not None and end is not None:
        roberta_frame(backend, {"cls_token": begin, "sep_token": end}, False)
        found |= {"cls_token": begin, "sep_token": end, "padding_side": "right"}
        return backend, None
    return backend, pre in WITH_BOS


def _gguf_wordpiece(
    fields: Mapping[str, Any], tokens: list[str], types: list[int], found: dict[str, Any]
) -> tuple[Any, bool | None]:
    """Return the backend for BERT. llama.cpp marks the tokens that begin a word, and BERT those that continue one."""
    if "cls_token" not in found and "bos_token" in found:
        found["cls_token"] = found["bos_token"]
    for name, usual in (("cls_token", "[CLS]"), ("sep_token", "[SEP]"), ("unk_token", "[UNK]"), ("pad_token", "[PAD]")):
        if name not in found and usual in tokens:
            found[name] = usual
    for name in ("bos_token", "eos_token"):
        found.pop(name, None)
    special = {token for name, token in found.items() if name.endswith("_token")}
    own: dict[str, int] = {}
    for number, (token, kind) in enumerate(zip(tokens, types, strict=True)):
        plain = kind in (_CONTROL, _UNKNOWN, _USER_DEFINED) or token in special or re.fullmatch(r"\[unused\d+\]", token)
        own[token if plain else token[1:] if token.startswith("▁") else f"##{token}"] = number
    if len(own) != len(tokens):
        raise ValueError(f"tokenizer.ggml.tokens: got {len(tokens) - len(own)} words twice; accepted: each once")
    lower = bool(fields.get("tokenizer.ggml.normalizer.lowercase", True))
    accents = fields.get("tokenizer.ggml.normalizer.strip_accents")
    return wordpiece(own, found, lowercase=lower, strip_accents=accents, chinese=True), None


def _gguf_unigram(
    fields: Mapping[str, Any], tokens: list[str], types: list[int], found: dict[str, Any]
) -> tuple[Any, bool | None]:
    """Return the backend for T5, and False: eos is added behind a text, and no bos before it."""
    scores = _field(fields, "scores", float)
    if len(scores) != len(tokens):
        raise ValueError(f"tokenizer.ggml.scores: got {len(scores)}; accepted: one for each of {len(tokens)} tokens")
    unk = next((token for token, kind in zip(tokens, types, strict=True) if kind == _UNKNOWN), None)
    unk = found.setdefault("unk_token", unk) if unk is not None else found.get("unk_token")
    charsmap = fields.get("tokenizer.ggml.precompiled_charsmap")
    try:
        data = b"" if charsmap is None else bytes(bytearray(int(value) & 255 for value in charsmap))
    except (TypeError, ValueError) as error:
        raise ValueError(f"tokenizer.ggml.precompiled_charsmap: got {error}; accepted: a list of bytes") from error
    backend = unigram(
        list(zip(tokens, scores, strict=True)),
        unk,
        "tokenizer.ggml.tokens",
        charsmap=data,
        trimmed=bool(fields.get("tokenizer.ggml.remove_extra_whitespaces", True)),
        space=bool(fields.get("tokenizer.ggml.add_space_prefix", True)),
        byte_fallback=_BYTE in types,
    )
    return backend, False


def _gguf_sentencepiece(
    fields: Mapping[str, Any], tokens: list[str], types: list[int], found: dict[str, Any]
) -> tuple[Any, bool | None]:
    """Return the backend for Llama's SentencePiece BPE, and True: bos is added by default.

    A space is added before every text, also after a special token, as in SentencePiece and llama.cpp, unless the field
    "add_space_prefix" is false.
    """
    from tokenizers import decoders, normalizers

    scores = _field(fields, "scores", float)
    if len(scores) != len(tokens):
        raise ValueError(f"tokenizer.ggml.scores: got {len(scores)}; accepted: one for each of {len(tokens)} tokens")
    backend = sentencepiece_bpe(tokens, scores, types, found.get("unk_token"), "tokenizer.ggml.tokens")
    space = bool(fields.get("tokenizer.ggml.add_space_prefix", True))
    steps = [normalizers.Prepend("▁")] * space + [normalizers.Replace(" ", "▁")]
    backend.normalizer = normalizers.Sequence(steps)
    undo = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence(undo + [decoders.Strip(" ", 1, 0)] * space)
    return backend, True


def sentencepiece_bpe(
    tokens: Sequence[str], scores: Sequence[float], types: Sequence[int], unk: str | None, what: str
) -> Any:
    """Return a backend for SentencePiece's BPE (Kudo & Richardson 2018), without a normalizer and a decoder.

    Files store scores instead of merges. As in transformers, every split of a piece into two other pieces becomes a
    merge, and merges are ordered by the score of the whole piece, highest first.

    Args:
        tokens, scores, types: the pieces by id; the types are those of SentencePiece and GGUF.
        unk: the unknown token. Default: the piece of this type.
        what: the field or file, for messages.
    """
    from tokenizers import models

    vocabulary = {token: number for number, token in enumerate(tokens)}
    normal = {token: score for token, score, kind in zip(tokens, scores, types, strict=True) if kind == _NORMAL}
    merges = [
        (-score, len(token[:cut]), len(token[cut:]), vocabulary[token[:cut]], vocabulary[token[cut:]])
        for token, score in normal.items()
        for cut in range(1, len(token))
        if token[:cut] in normal and token[cut:] in normal
    ]
    pairs = [(tokens[left], tokens[right]) for *_, left, right in sorted(merges)]
    unk = unk or next((token for token, kind in zip(tokens, types, strict=True) if kind == _UNKNOWN), None)
    model = checked(
        what, lambda: models.BPE(vocab=vocabulary, merges=pairs, unk_token=unk, fuse_unk=True, byte_fallback=True)
    )
    return backend_class()(model)
