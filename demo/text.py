"""The text: Python's own reference, who may read which part of it, and how it becomes ids. No Keras."""

from __future__ import annotations

import importlib.util
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

END, PAD, CLS, SEP, MASK = SPECIALS = ("<|endoftext|>", "[PAD]", "[CLS]", "[SEP]", "[MASK]")
END_ID, PAD_ID, CLS_ID, SEP_ID, MASK_ID = range(len(SPECIALS))  # the tokenizer gives them the first ids

# After a full stop, closed quotes and brackets included, where a capital follows.
SENTENCE_END = r"""(?:(?<=[.!?:])|(?<=[.!?:]["”’)]))\s+(?=["“(]?[A-Z])"""

# Topics by what they are about. A topic that this version of Python does not have is simply not there.
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
    topic: str
    text: str  # as printed, with its line breaks and indentation

    @property
    def folded(self) -> str:
        return " ".join(self.text.split())


def held_out(key: str, one_in: int) -> bool:
    """A coin that always falls the same for `key`: another Python with another topic moves nobody else's."""
    return zlib.crc32(key.encode()) % one_in == 0


def read_topics() -> list[Paragraph]:
    """Every paragraph of the reference once. Topics quote each other ("compound" has all of "if"): the shortest keeps.

    Raises:
        ValueError: a Python whose standard library comes without its reference.
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
    """For GPT: whole topics are held out, about one in seven."""
    return _split(paragraphs, lambda paragraph: held_out(paragraph.topic, 7))


def paragraph_split(paragraphs: Sequence[Paragraph]) -> tuple[list[Paragraph], list[Paragraph]]:
    """For both BERTs: one paragraph in five is held out, so the body never read what the classifier is asked."""
    return _split(paragraphs, lambda paragraph: held_out(paragraph.folded, 5))


def _split(items: Sequence[Any], is_held_out: Callable[[Any], bool]) -> tuple[list[Any], list[Any]]:
    return [item for item in items if not is_held_out(item)], [item for item in items if is_held_out(item)]


def sentences(paragraphs: Sequence[Paragraph]) -> list[tuple[str, int]]:
    """(sentence, index of its group), each sentence once; code, grammar and headings are not sentences."""
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
    """Sentences to train on and to test on, by paragraph; one that is in both is in the first only."""
    train, test = (sentences(part) for part in paragraph_split(paragraphs))
    known = {sentence.casefold() for sentence, _ in train}
    return train, [(sentence, label) for sentence, label in test if sentence.casefold() not in known]


def train_tokenizer(paragraphs: Sequence[Paragraph], vocab_size: int) -> Any:
    """Byte-level BPE, so that no text is unknown."""
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
    """A copy of `tokenizer` for a model of `length` tokens to take with it; `framed` texts become [CLS] text [SEP]."""
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
    """All texts in one row of ids, each followed by the end-of-text token."""
    rows = [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
    return np.array([token for row in rows for token in (*row, END_ID)], "int32")


def topic_texts(paragraphs: Sequence[Paragraph]) -> list[str]:
    topics: dict[str, list[str]] = {}
    for paragraph in paragraphs:
        topics.setdefault(paragraph.topic, []).append(paragraph.text)
    return ["\n\n".join(texts) for texts in topics.values()]


def crops(ids: np.ndarray, count: int, length: int, rng: np.random.Generator) -> np.ndarray:
    """(count, length) pieces of `ids` from random places: training sees every alignment of the text."""
    starts = rng.integers(0, len(ids) - length + 1, count)
    return ids[starts[:, None] + np.arange(length)]


def tiles(ids: np.ndarray, length: int) -> np.ndarray:
    """(n, length) pieces side by side, every token once: for measuring. What is left at the end is dropped."""
    return ids[: len(ids) // length * length].reshape(-1, length)


def mask_tokens(
    ids: np.ndarray, vocab_size: int, rng: np.random.Generator, rate: float = 0.15
) -> tuple[np.ndarray, np.ndarray]:
    """BERT's rule: of the chosen 15 %, 80 % become [MASK], 10 % a random token, 10 % stay (arXiv:1810.04805, 3.1).

    Returns:
        the ids to show, and where a token was chosen, as float weights of the loss; special tokens never are.
    """
    chosen = (rng.random(ids.shape) < rate) & (ids >= len(SPECIALS))
    fate = rng.random(ids.shape)
    shown = np.where(chosen & (fate < 0.8), MASK_ID, ids)
    anything = rng.integers(len(SPECIALS), vocab_size, ids.shape)
    shown = np.where(chosen & (fate >= 0.8) & (fate < 0.9), anything, shown)
    return shown.astype("int32"), chosen.astype("float32")


def framed(ids: np.ndarray) -> np.ndarray:
    """[CLS] ids [SEP], per row."""
    return np.pad(np.pad(ids, ((0, 0), (1, 0)), constant_values=CLS_ID), ((0, 0), (0, 1)), constant_values=SEP_ID)


def encode_sentences(tokenizer: Any, texts: Sequence[str], length: int) -> dict[str, np.ndarray]:
    """[CLS] sentence [SEP], cut or padded to `length`."""
    ids = np.full((len(texts), length), PAD_ID, "int32")
    for row, encoding in zip(ids, tokenizer.encode_batch(list(texts)), strict=True):
        tokens = [CLS_ID, *encoding.ids[: length - 2], SEP_ID]
        row[: len(tokens)] = tokens
    return {"input_ids": ids, "attention_mask": (ids != PAD_ID).astype("int32")}
