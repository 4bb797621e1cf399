"""Tokenizers of translation models: the languages of source and target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers

from attention_zoo import Tokenizer

WORDS = ("<s>", "<pad>", "</s>", "<unk>", "red", "sea", "eng_Latn", "deu_Latn", "en_XX", "de_DE", "__en__", "__de__")
ID = {word: number for number, word in enumerate(WORDS)}


def tokenizer(kind: str, **config: Any) -> Tokenizer:
    backend = Backend(models.WordLevel(ID, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return Tokenizer(backend, tokenizer_class=kind, eos_token="</s>", pad_token="<pad>", unk_token="<unk>", **config)


@pytest.mark.parametrize(
    ("kind", "config", "codes", "framed"),
    [
        ("NllbTokenizerFast", {}, ("eng_Latn", "deu_Latn"), "L red sea </s>"),
        ("NllbTokenizer", {"legacy_behaviour": True}, ("eng_Latn", "deu_Latn"), "red sea </s> L"),
        ("MBart50Tokenizer", {}, ("en_XX", "de_DE"), "L red sea </s>"),
        ("MBartTokenizer", {}, ("en_XX", "de_DE"), "red sea </s> L"),
        ("M2M100Tokenizer", {}, ("en", "de"), "L red sea </s>"),
    ],
)
def test_the_language_of_the_source(kind: str, config: Any, codes: Any, framed: str, tmp_path: Path) -> None:
    """The framing is that of transformers' classes; another language can be chosen, and is kept by ``save``."""
    made = tokenizer(kind, **config)
    for code in codes:
        made.src_lang = code
        token = f"__{code}__" if kind.startswith("M2M") else code
        expected = [ID[token if word == "L" else word] for word in framed.split()]
        assert made.encode("red sea").ids == expected
        assert made.language_id(code) == ID[token]
        again = Tokenizer.load(made.save(tmp_path))
        assert again.src_lang == code and again.encode("red sea").ids == expected
        assert again.language_id(codes[0]) == made.language_id(codes[0])
    assert tokenizer(kind, **config).src_lang == codes[0]  # the default
    assert tokenizer(kind, src_lang=codes[1], tgt_lang=codes[0], **config).tgt_lang == codes[0]


def test_languages_that_are_not_there() -> None:
    made = tokenizer("NllbTokenizer")
    with pytest.raises(ValueError, match=r"^src_lang: got 'xx', which has no token; accepted: .*'eng_Latn'"):
        made.src_lang = "xx"
    with pytest.raises(ValueError, match=r"^tgt_lang: got 'de_XX', which has no token"):
        tokenizer("NllbTokenizer", tgt_lang="de_XX")
    plain = tokenizer("BartTokenizer")
    assert plain.src_lang is None and plain.tgt_lang is None
    with pytest.raises(ValueError, match=r"^code: got 'fr' for a tokenizer without languages"):
        plain.language_id("fr")


def test_marian_with_two_vocabularies_has_no_tokenizer(tmp_path: Path) -> None:
    """A text would be decoded with the vocabulary of the source."""
    (tmp_path / "source.spm").write_bytes(b"\x0a\x05\x0a\x03abc")
    (tmp_path / "vocab.json").write_text('{"abc": 0, "<unk>": 1, "</s>": 2}')
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "MarianTokenizer", "separate_vocabs": true}')
    with pytest.raises(ValueError, match=r"^separate_vocabs: got true; accepted: one vocabulary"):
        Tokenizer.load(tmp_path)
