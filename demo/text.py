"""The text data, which is Python's own reference: its splits, the tokenizer and the encoding to ids. Without Keras."""

from __future__ import annotations

import importlib.util
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

END, PAD, CLS, SEP, MASK = SPECIALS = ("<|endoftext|>", "[PAD]", "[CLS]", "[SEP]", "[MASK]")
END_ID, PAD_ID, CLS_ID, SEP_ID, MASK_ID = range(len(SPECIALS))  # special tokens get the first ids

# The space after the end of a sentence (and its closing quote or bracket), if a capital letter follows.
SENTENCE_END = r"""(?:(?<=[.!?:])|(?<=[.!?:]["”’)]))\s+(?=["“(]?[A-Z])"""

# Topics of each class. Topics that the running version of Python does not have are ignored.
GROUPS: dict[str, tuple[str, ...]] = {
    "statements": (
        *("assert", "assignment", "async", "augassign", "break", "class", "compound", "continue", "del", "else"),
        *("for", "function", "global", "if", "import", "nonlocal", "pass", "raise", "return", "try", "while", "with"),
    ),
    "expressions": (
        *("atom-identifiers", "atom-literals", "attribute-references", "await", "binary", "bitwise", "booleans"),
        *("calls", "comparisons", "conversions", "dict", "exprlists", "in", "lambda", "lists", "operator-summary"),
        *("power", "shifting", "slicings", "subscriptions", "unary", "yield"),
    ),
    "data model": (
        *("attribute-access", "callable-types", "context-managers", "customization", "numeric-types", "objects"),
        *("sequence-types", "specialnames", "types"),
    ),
    "built-in types": (
        *("bltin-code-objects", "bltin-ellipsis-object", "bltin-null-object", "bltin-type-objects", "formatstrings"),
        *("specialattrs", "string-methods", "truth", "typesfunctions", "typesmapping", "typesmethods"),
        *("typesmodules", "typesseq", "typesseq-mutable"),
    ),
    "debugger": ("debugger",),
}


@dataclass(frozen=True)
class Paragraph:
    """One paragraph of the reference."""

    topic: str
    text: str  # with the original line breaks and indentation

    @property
    def folded(self) -> str:
        """The text on one line, with single spaces."""
        return " ".join(self.text.split())


def held_out(key: str, one_in: int) -> bool:
    """Select about one key in `one_in` by a hash of the key alone.

    The selection of a topic or paragraph therefore does not depend on which others the version of Python has.
    """
    return zlib.crc32(key.encode()) % one_in == 0


def read_topics() -> list[Paragraph]:
    """Return every paragraph of the reference once.

    Some topics contain others ("compound" contains all of "if"); a repeated paragraph belongs to the shortest topic.

    Raises:
        ValueError: the standard library of this Python lacks ``pydoc_data.topics``.
    """
    if importlib.util.find_spec("pydoc_data") is None:
        raise ValueError("pydoc_data.topics: not in this Python's standard library; accepted: a complete one")
    from pydoc_data.topics import topics

    paragraphs: dict[str, Paragraph] = {}
    for topic in sorted(topics, key=lambda name: (len(topics[name]), name)):
        for text in re.split(r"\n\s*\n", topics[topic].strip("\n")):
            paragraph = Paragraph(topic, text)
            if paragraph.folded:
                paragraphs.setdefault(paragraph.folded, paragraph)
    return list(paragraphs.values())


def topic_split(paragraphs: Sequence[Paragraph]) -> tuple[list[Paragraph], list[Paragraph]]:
    """Split into training and held-out paragraphs by topic, for the GPT: about one topic in seven is held out."""
    return _split(paragraphs, lambda paragraph: held_out(paragraph.topic, 7))


def paragraph_split(paragraphs: Sequence[Paragraph]) -> tuple[list[Paragraph], list[Paragraph]]:
    """Split into training and held-out paragraphs, for both BERTs: about one paragraph in five is held out.

    Both use the same split, so the classifier is tested on paragraphs that its pretrained body has not seen either.
    """
    return _split(paragraphs, lambda paragraph: held_out(paragraph.folded, 5))


def _split(items: Sequence[Any], is_held_out: Callable[[Any], bool]) -> tuple[list[Any], list[Any]]:
    return [item for item in items if not is_held_out(item)], [item for item in items if is_held_out(item)]


def sentences(paragraphs: Sequence[Paragraph]) -> list[tuple[str, int]]:
    """Return (sentence, index of its class) of every sentence once, without code, grammar and headings."""
    labels = {topic: index for index, topics in enumerate(GROUPS.values()) for topic in topics}
    found: dict[str, tuple[str, int]] = {}
    for paragraph in paragraphs:
        if paragraph.topic not in labels or "::=" in paragraph.text or ">>>" in paragraph.text:
            continue
        for sentence in re.split(SENTENCE_END, paragraph.folded.lstrip("*- ")):
            words = re.findall(r"[A-Za-z]{2,}", sentence)
            if len(words) >= 6 and sentence[0] in '"“(ABCDEFGHIJKLMNOPQRSTUVWXYZ' and sentence[-1] in ".!?:":
                found.setdefault(sentence.casefold(), (sentence, labels[paragraph.topic]))
    return list(found.values())


def labelled_sentences(paragraphs: Sequence[Paragraph]) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """Return the training and the test sentences with their classes, split by paragraph.

    A sentence that is in both parts is left out of the test part.
    """
    train, test = (sentences(part) for part in paragraph_split(paragraphs))
    known = {sentence.casefold() for sentence, _ in train}
    return train, [(sentence, label) for sentence, label in test if sentence.casefold() not in known]


def train_tokenizer(paragraphs: Sequence[Paragraph], vocab_size: int) -> Any:
    """Train a byte-level BPE tokenizer, which needs no unknown token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=list(SPECIALS), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator((paragraph.text for paragraph in paragraphs), trainer)
    return tokenizer


def shipped(tokenizer: Any, length: int, *, framed: bool = False) -> Any:
    """Return a copy of `tokenizer` to save with a model of at most `length` tokens.

    With `framed`, it encodes a text as [CLS] text [SEP] and pads on the right; otherwise it pads on the left.
    """
    from tokenizers import Tokenizer as Backend
    from tokenizers.processors import TemplateProcessing

    from ..text.tokenizer import Tokenizer

    backend = Backend.from_str(tokenizer.to_str())
    special = {"pad_token": PAD, "eos_token": END}
    if framed:
        special = {"pad_token": PAD, "cls_token": CLS, "sep_token": SEP, "mask_token": MASK}
        backend.post_processor = TemplateProcessing(
            single=f"{CLS} $A {SEP}", special_tokens=[(CLS, CLS_ID), (SEP, SEP_ID)]
        )
    return Tokenizer(backend, model_max_length=length, padding_side="right" if framed else "left", **special)


def stream(tokenizer: Any, texts: Sequence[str]) -> np.ndarray:
    """Return the ids of all texts in one row, (tokens,) int32, with the end-of-text token after each text."""
    rows = [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
    return np.array([token for row in rows for token in (*row, END_ID)], "int32")


def topic_texts(paragraphs: Sequence[Paragraph]) -> list[str]:
    """Join the paragraphs of each topic to one text."""
    topics: dict[str, list[str]] = {}
    for paragraph in paragraphs:
        topics.setdefault(paragraph.topic, []).append(paragraph.text)
    return ["\n\n".join(texts) for texts in topics.values()]


def crops(ids: np.ndarray, count: int, length: int, rng: np.random.Generator) -> np.ndarray:
    """Cut pieces, (count, length), from random positions of `ids`, so that training sees every alignment of a text."""
    starts = rng.integers(0, len(ids) - length + 1, count)
    return ids[starts[:, None] + np.arange(length)]


def tiles(ids: np.ndarray, length: int) -> np.ndarray:
    """Cut `ids` into consecutive pieces, (n, length), for evaluation. The remainder at the end is dropped."""
    return ids[: len(ids) // length * length].reshape(-1, length)


def mask_tokens(
    ids: np.ndarray, vocab_size: int, rng: np.random.Generator, rate: float = 0.15
) -> tuple[np.ndarray, np.ndarray]:
    """Mask tokens as BERT does (arXiv:1810.04805, section 3.1).

    Tokens are chosen with probability `rate`; 80 % of them become [MASK], 10 % a random token, and 10 % stay. Special
    tokens are never chosen.

    Returns:
        The masked ids, int32, and the loss weights, float32: 1 for a chosen token and 0 elsewhere.
    """
    chosen = (rng.random(ids.shape) < rate) & (ids >= len(SPECIALS))
    fate = rng.random(ids.shape)
    shown = np.where(chosen & (fate < 0.8), MASK_ID, ids)
    anything = rng.integers(len(SPECIALS), vocab_size, ids.shape)
    shown = np.where(chosen & (fate >= 0.8) & (fate < 0.9), anything, shown)
    return shown.astype("int32"), chosen.astype("float32")


def framed(ids: np.ndarray) -> np.ndarray:
    """Return [CLS] ids [SEP] for every row of ids."""
    return np.pad(np.pad(ids, ((0, 0), (1, 0)), constant_values=CLS_ID), ((0, 0), (0, 1)), constant_values=SEP_ID)


def encode_sentences(tokenizer: Any, texts: Sequence[str], length: int) -> dict[str, np.ndarray]:
    """Return the model inputs of [CLS] sentence [SEP], truncated or padded to `length`."""
    ids = np.full((len(texts), length), PAD_ID, "int32")
    for row, encoding in zip(ids, tokenizer.encode_batch(list(texts)), strict=True):
        tokens = [CLS_ID, *encoding.ids[: length - 2], SEP_ID]
        row[: len(tokens)] = tokens
    return {"input_ids": ids, "attention_mask": (ids != PAD_ID).astype("int32")}
