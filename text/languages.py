"""The languages of translation models: the token of the source's language is part of the encoder's input.

These are mBART (Liu et al. 2020, arXiv:2001.08210), mBART-50 (arXiv:2008.00401), M2M-100 (arXiv:2010.11125) and NLLB
(arXiv:2207.04672). The token of the target's language is the first one that the decoder generates.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# By the kind of tokenizer: whether the language stands before the text or behind its end, and the default language.
KINDS: dict[str, tuple[bool, str]] = {
    "nllb": (True, "eng_Latn"),
    "mbart50": (True, "en_XX"),
    "mbart": (False, "en_XX"),
    "m2m100": (True, "en"),
}
# The languages of M2M-100 and of its successor for WMT 2021, whose tokens follow the vocabulary in this order.
M2M_LANGUAGES = {
    "m2m100": "af am ar ast az ba be bg bn br bs ca ceb cs cy da de el en es et fa ff fi fr fy ga gd gl gu ha he hi hr "
    "ht hu hy id ig ilo is it ja jv ka kk km kn ko lb lg ln lo lt lv mg mk ml mn mr ms my ne nl no ns oc or pa pl ps "
    "pt ro ru sd si sk sl so sq sr ss su sv sw ta th tl tn tr uk ur uz vi wo xh yi yo zh zu",
    "wmt21": "en ha is ja cs ru zh de",
}
CLASSES = {name.lower(): f"{name}Tokenizer" for name in ("Nllb", "MBart50", "MBart", "M2M100")}


def language_token(kind: str, code: str) -> str:
    """Return the token of a language: its code, except in M2M-100."""
    return f"__{code}__" if kind == "m2m100" else code


def language_id(backend: Any, kind: str, name: str, code: Any) -> int:
    """Return the id of the token of language `code`.

    Args:
        backend: the tokenizer's backend.
        kind: a key of `KINDS`; another value is that of a tokenizer without languages.
        name: the argument with the code, for the error message.
        code: the code, such as "fr" or "fra_Latn".

    Raises:
        ValueError: the tokenizer has no languages, or not this one.
    """
    if kind not in KINDS:
        raise ValueError(
            f"{name}: got {code!r} for a tokenizer without languages; accepted: None, or {list(CLASSES.values())}"
        )
    number = backend.token_to_id(language_token(kind, code)) if isinstance(code, str) else None
    if number is None:
        shape = KINDS[kind][1]
        raise ValueError(
            f"{name}: got {code!r}, which has no token; accepted: a code of its vocabulary, such as {shape!r}"
        )
    return number


def set_source_language(backend: Any, kind: str, code: str, end: str, *, behind: bool) -> None:
    """Set the post-processor that adds the token of language `code` and the end token to every text.

    Args:
        backend: the tokenizer's backend.
        kind: a key of `KINDS`.
        code: the language.
        end: the end token.
        behind: whether the language stands behind the end token, and not before the text.
    """
    from tokenizers.processors import TemplateProcessing

    token = language_token(kind, code)
    special = [(token, language_id(backend, kind, "src_lang", code)), (end, backend.token_to_id(end))]
    frame = ([], [end, token]) if behind else ([token], [end])
    single, pair = ([*frame[0], *texts, *frame[1]] for texts in (["$A"], ["$A", "$B"]))
    backend.post_processor = TemplateProcessing(single=single, pair=pair, special_tokens=special)


class Languages:
    """Mixin of a tokenizer whose models translate.

    Attributes:
        src_lang: code of the source's language, or None for a tokenizer without languages. Assigning another one
            changes the token that is added to every text.
        tgt_lang: code of the target's language, or None. ``generate_text`` begins with its token.
    """

    backend: Any
    eos_token: str | None
    tgt_lang: str | None

    def _set_languages(self, kind: str, config: Mapping[str, Any]) -> None:
        """Take the languages from `config`, the entries of a tokenizer_config.json."""
        before, default = KINDS.get(kind, (True, ""))
        given = config.get("src_lang")
        self._kind = kind if kind in KINDS else ""
        self._behind = not before or bool(config.get("legacy_behaviour"))
        self._source: str | None = None
        code = default if given is None else given
        known = kind in KINDS and self.eos_token is not None
        if given is not None or (known and self.backend.token_to_id(language_token(kind, code)) is not None):
            self.src_lang = code
        self.tgt_lang = config.get("tgt_lang")
        if self.tgt_lang is not None:
            language_id(self.backend, kind, "tgt_lang", self.tgt_lang)

    @property
    def src_lang(self) -> str | None:
        return self._source

    @src_lang.setter
    def src_lang(self, code: str) -> None:
        language_id(self.backend, self._kind, "src_lang", code)
        set_source_language(self.backend, self._kind, code, str(self.eos_token), behind=self._behind)
        self._source = code

    def language_id(self, code: str) -> int:
        """Return the id of the token of language `code`, for the option `forced_bos_token_id` of ``generate``.

        Raises:
            ValueError: the tokenizer has no languages, or not this one.
        """
        return language_id(self.backend, self._kind, "code", code)

    def _language_config(self) -> dict[str, Any]:
        """Return the entries of a tokenizer_config.json with which the languages are read again."""
        if self._source is None:
            return {}
        # The class of M2M-100 does not read a tokenizer.json.
        own = {"languages": self._kind} if self._kind == "m2m100" else {"tokenizer_class": CLASSES[self._kind]}
        found = {**own, "src_lang": self._source}
        if self.tgt_lang is not None:
            found["tgt_lang"] = self.tgt_lang
        return found | ({"legacy_behaviour": True} if self._kind == "nllb" and self._behind else {})
