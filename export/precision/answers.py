"""Greedy answers of a text model's file in reduced precision, compared with those of the same file in float32.

Cosines and divergences are means over all tokens, and hide the few tokens that decide an answer. Built-in questions,
in the model's own chat template, show what a user will read. Needs only NumPy and the file's own runtime.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ...runtime.runner import Runner
from .report import Answer, Answers
from .samples import PROSE

Array = np.ndarray

NEW_TOKENS = 20
PROMPT = 24  # tokens of a text that a model without a chat template continues
QUESTIONS = (
    "What is the capital of France?",
    "What is the largest planet in the solar system?",
    "Who wrote Romeo and Juliet?",
    "How many days are in a week?",
    "What color is the sky on a clear day?",
    "What do bees make?",
    "What is the opposite of hot?",
    "Name three fruits.",
    "How do I boil an egg?",
    "Tell me about the sea in one sentence.",
)


def compare_answers(precise: Runner, rounded: Runner, texts: Any = None) -> Answers | None:
    """Compare the greedy answers of `rounded` with those of `precise`, the same model in float32.

    Args:
        texts: texts of the user's, which a model without a chat template continues. None: built-in prose.

    Returns:
        The comparison, or None if the model generates no texts or has no tokenizer.
    """
    if not precise.generates or precise.tokenizer is None:
        return None
    prompts = list(_prompts(precise, texts))
    at_once = 1 if precise.layout.kind == "litert" else max(1, len(prompts))  # a LiteRT cache has a single row
    found: list[Answer] = []
    errors: list[Array] = []
    for start in range(0, len(prompts), at_once):
        answers, error = _compared(precise, rounded, prompts[start : start + at_once])
        found += answers
        errors += error
    if not errors:
        return None
    return Answers(tuple(found), float(np.sqrt(np.mean(np.square(np.concatenate(errors))))))


def _compared(precise: Runner, rounded: Runner, prompts: list[tuple[str, Array]]) -> tuple[list[Answer], list[Array]]:
    """Return the answers to several prompts, and the errors of the margins of each step.

    Both decoders are fed with the tokens that `precise` chooses.
    """
    tokenizer: Any = precise.tokenizer
    ids, mask = _padded([row for _, row in prompts])
    one, other = precise.decoder(), rounded.decoder()
    new = min(NEW_TOKENS, one.max_length - (ids.shape[1] if one.start_token is None else 1))
    if new < 1:
        return [], []
    rows, running = np.arange(len(ids)), np.ones(len(ids), bool)
    said: list[list[int]] = [[] for _ in prompts]
    equal, margins, errors = np.full(len(ids), -1), np.zeros(len(ids)), []
    logits, others = (decoder.prompt(ids, mask, new) for decoder in (one, other))
    for step in range(new):
        tokens, chosen = logits.argmax(-1), others.argmax(-1)
        second = np.argpartition(-logits, 1, axis=-1)[:, :2]
        second = np.where(second[:, 0] == tokens, second[:, 1], second[:, 0])
        sure, unsure = (side[rows, tokens] - side[rows, second] for side in (logits, others))
        errors.append((unsure - sure)[running])
        differs = running & (chosen != tokens) & (equal < 0)
        equal[differs], margins[differs] = step, (logits[rows, tokens] - logits[rows, chosen])[differs]
        for row in np.flatnonzero(running):
            said[row].append(int(tokens[row]))
        running = running & ~np.isin(tokens, precise.stop_tokens)
        if step + 1 == new or not running.any():
            break
        _end(~running, one, other)
        logits, others = one.step(tokens), other.step(tokens)
    different = np.flatnonzero(equal >= 0).tolist()
    written = dict(zip(different, _greedy(rounded, ids[different], mask[different], new), strict=True))
    return [
        Answer(
            text,
            tokenizer.decode(said[row]),
            tokenizer.decode(written.get(row, said[row])),
            equal=len(said[row]) if equal[row] < 0 else int(equal[row]),
            tokens=len(said[row]),
            margin=None if equal[row] < 0 else float(margins[row]),
        )
        for row, (text, _) in enumerate(prompts)
    ], errors


def _greedy(runner: Runner, ids: Array, mask: Array, count: int) -> list[list[int]]:
    """Return the most likely tokens of each row, up to its first end token."""
    if not len(ids):
        return []
    said: list[list[int]] = [[] for _ in ids]
    running = np.ones(len(ids), bool)
    decoder = runner.decoder()
    logits = decoder.prompt(ids, mask, count)
    for step in range(count):
        tokens = logits.argmax(-1)
        for row in np.flatnonzero(running):
            said[row].append(int(tokens[row]))
        running = running & ~np.isin(tokens, runner.stop_tokens)
        if step + 1 == count or not running.any():
            break
        _end(~running, decoder)
        logits = decoder.step(tokens)
    return said


def _end(rows: Array, *decoders: Any) -> None:
    for decoder in decoders:
        if hasattr(decoder, "ended"):
            decoder.ended(rows)


def _padded(rows: list[Array]) -> tuple[Array, Array]:
    """Return rows of ids as arrays (rows, longest), padded on the left, and their mask."""
    width = max(map(len, rows))
    ids = np.stack([np.pad(row, (width - len(row), 0)) for row in rows])
    return ids, np.stack([np.arange(width) >= width - len(row) for row in rows]).astype("int64")


def questions_as_ids(tokenizer: Any) -> list[tuple[str, Array]]:
    """Return the built-in questions and their ids in the chat template; [] without a template that takes a question."""
    if not tokenizer.chat_templates:
        return []
    found = []
    for question in QUESTIONS:
        messages = [{"role": "user", "content": question}]
        try:
            ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True)
        except ValueError:  # a template for other conversations, such as one that requires tools
            return []
        found.append((question, np.asarray(ids, "int64")))
    return found


def _prompts(runner: Runner, texts: Any) -> Iterator[tuple[str, Array]]:
    """Yield texts and their ids: questions if the model has a chat template, else beginnings of texts. An encoder gets
    the texts as a whole."""
    tokenizer: Any = runner.tokenizer
    encoder = runner.decoder().start_token is not None
    asked = [] if encoder else questions_as_ids(tokenizer)
    if asked:
        yield from asked
        return
    given = [texts] if isinstance(texts, str) else texts or PROSE
    for text in given[: len(QUESTIONS)]:
        ids = np.asarray(tokenizer(text)["input_ids"], "int64").ravel()
        limit = PROMPT if encoder else min(PROMPT, max(1, min(len(ids), runner.decoder().max_length) // 2))
        if len(ids):
            yield text, ids[:limit]
