"""Tokenizers of CLIP and SigLIP from their vocabulary files."""

from __future__ import annotations

import json
import re
import string
from pathlib import Path

import pytest

from attention_zoo.text.tokenizer import Tokenizer

MERGES = ["t h", "th e</w>", "c a", "ca t</w>", "p h", "ph o", "pho t", "phot o</w>"]
# What transformers' CLIPTokenizer makes of them with this vocabulary.
EXPECTED = {
    "The cat": [520, 513, 515, 521],
    "a PHOTO of  the cat!": [520, 320, 519, 78, 325, 513, 515, 256, 521],
    "don't   stop 123": [520, 67, 78, 333, 6, 339, 82, 83, 78, 335, 272, 273, 274, 521],
    "naïve café – ok": [520, 77, 64, 127, 107, 85, 324, 514, 69, 127, 358, 158, 222, 497, 78, 521],
    "": [520, 521],
    "x " * 20: [520, *[343] * 14, 521],
}


def clip_folder(folder: Path, **config: str) -> Path:
    """Write vocab.json and merges.txt: bytes, bytes at the end of a word, merged pieces, the start and the end."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    single = [*map(chr, printable), *(chr(256 + i) for i in range(len(others)))]
    pieces = [*single, *(f"{piece}</w>" for piece in single), *("".join(m.split()) for m in MERGES)]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n")
    options = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 16, **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(options))
    return folder


def test_clip(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(clip_folder(tmp_path))
    for text, ids in EXPECTED.items():
        assert tokenizer([text], truncation=True)["input_ids"][0].tolist() == ids
    padded = tokenizer(["The cat"], padding="max_length", truncation=True)
    assert padded["input_ids"].tolist() == [[*EXPECTED["The cat"], *[521] * 12]]
    tokenizer.save(tmp_path / "again")
    assert Tokenizer.load(tmp_path / "again").encode("The cat").ids == EXPECTED["The cat"]


def test_clip_without_its_end(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="eos_token"):
        Tokenizer.load(clip_folder(tmp_path, eos_token="<end>"))


def test_siglip(tmp_path: Path) -> None:
    """It is T5's tokenizer on a text in lower case, without punctuation and without further spaces."""
    spm = pytest.importorskip("sentencepiece")
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(["a photo of the cat", "two cats and a dog", "naïve café 123", "hello world"] * 20))
    ids = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    more = {"vocab_size": 60, "hard_vocab_limit": False, "minloglevel": 2}
    spm.SentencePieceTrainer.train(input=str(corpus), model_prefix=str(tmp_path / "spiece"), **more, **ids)
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"tokenizer_class": "T5Tokenizer", "extra_ids": 0}))
    t5 = Tokenizer.load(tmp_path)
    for lower in (True, False):
        config.write_text(json.dumps({"tokenizer_class": "SiglipTokenizer", "do_lower_case": lower}))
        tokenizer = Tokenizer.load(tmp_path)
        for text in ("A photo, of the CAT!", "  two   cats & a dog ", "hello-world (again)", "naïve café – 123", ""):
            plain = (text.lower() if lower else text).translate(str.maketrans("", "", string.punctuation))
            plain = re.sub(r"\s+", " ", plain).strip()
            assert tokenizer.encode(text).ids == t5.encode(plain).ids
    padded = tokenizer(["a cat"], padding="max_length")["input_ids"]
    assert padded.shape == (1, 64) and padded[0, -1] == 1
