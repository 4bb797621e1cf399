"""The tokenizer that ``load`` reads with a model: that of its folder, or one that the caller gives."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import checks
from ..text.tokenizer import Tokenizer
from .base import ZooModel
from .sentence_transformers import SentenceFiles

LONGEST = 900  # characters; longer error messages are shortened
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model", "source.spm")
TOKENIZER_FILES += ("sentencepiece.bpe.model",)


def sentence_options(sentences: SentenceFiles, model: ZooModel) -> dict[str, Any]:
    """Return the tokenizer options that the files of sentence-transformers specify."""
    options = dict(sentences.tokenizer)
    if "model_max_length" in options:
        options["model_max_length"] = min(options["model_max_length"], model.config.max_length)
    return {**options, **({"lowercase": True} if sentences.lowercase else {})}


def readable_tokenizer(path: Path, make: Callable[[], Tokenizer]) -> Tokenizer | None:
    """Return the tokenizer that `make` reads from `path`, or warn and return None if it cannot be read.

    So the weights can be loaded even if the tokenizer is of a kind that is not supported.
    """
    try:
        return make()
    except ValueError as error:
        why = str(error) if str(error).startswith("path: ") else f"path: {path}: {error}"
        why = " ".join(why.split())
        why = why if len(why) <= LONGEST else f"{why[:LONGEST]} …"
        checks.warn(f"{why}; the model has no tokenizer, and load(…, tokenizer=…) takes another")
        return None


def given_tokenizer(tokenizer: Any) -> Tokenizer:
    if isinstance(tokenizer, Tokenizer):
        return tokenizer
    if not isinstance(tokenizer, str | os.PathLike):
        raise ValueError(f"tokenizer: got {type(tokenizer).__name__}; accepted: a path, or an attention_zoo.Tokenizer")
    if not Path(tokenizer).exists():
        raise ValueError(
            f"tokenizer: got {tokenizer}, which does not exist; accepted: a folder, a file, or a Tokenizer"
        )
    return Tokenizer.load(tokenizer)
