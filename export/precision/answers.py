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
    found: list[Answer] = []
    errors: list[Array] = []
    for text, ids in _prompts(precise, texts):
        decoder = precise.decoder()
        behind = len(ids) if decoder.start_token is None else 1
        new = min(NEW_TOKENS, decoder.max_length - behind)
        if new < 1:
            continue
        tokens, logits = _greedy(decoder, ids, new, precise.stop_tokens)
        others = _forced(rounded.decoder(), ids, tokens)
        best = np.argsort(-logits, axis=-1)[:, :2]
        margins = [np.subtract(*np.take_along_axis(side, best, -1).T) for side in (logits, others)]
        errors.append(margins[1] - margins[0])
        chosen = others.argmax(-1)
        wrong = np.flatnonzero(chosen != tokens)
        equal = int(wrong[0]) if len(wrong) else len(tokens)
        margin, answer = None, tokens
        if len(wrong):
            margin = float(logits[equal, tokens[equal]] - logits[equal, chosen[equal]])
            answer, _ = _greedy(rounded.decoder(), ids, new, precise.stop_tokens)
        said = [precise.tokenizer.decode(list(map(int, side))) for side in (tokens, answer)]
        found.append(Answer(text, *said, equal=equal, tokens=len(tokens), margin=margin))
    if not found:
        return None
    return Answers(tuple(found), float(np.sqrt(np.mean(np.square(np.concatenate(errors))))))


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


def _greedy(decoder: Any, ids: Array, count: int, stops: list[int]) -> tuple[Array, Array]:
    """Return the most likely tokens (T,), up to the first end token, and the log-probabilities (T, vocab_size)."""
    tokens: list[int] = []
    logits = [decoder.prompt(ids[None], np.ones((1, len(ids)), "int64"), count)]
    while True:
        tokens.append(int(logits[-1].argmax()))
        if len(tokens) == count or tokens[-1] in stops:
            return np.asarray(tokens), log_probabilities(np.concatenate(logits))
        logits.append(decoder.step(np.asarray(tokens[-1:])))


def _forced(decoder: Any, ids: Array, tokens: Array) -> Array:
    """Return the log-probabilities (T, vocab_size) of a decoder that is fed with `tokens` (T,)."""
    logits = [decoder.prompt(ids[None], np.ones((1, len(ids)), "int64"), len(tokens))]
    logits += [decoder.step(tokens[i : i + 1]) for i in range(len(tokens) - 1)]
    return log_probabilities(np.concatenate(logits))


def log_probabilities(logits: Array) -> Array:
    """Return the logarithms of the softmax over the last axis, in float64."""
    values = logits.astype("float64")
    values -= values.max(-1, keepdims=True)
    return values - np.log(np.exp(values).sum(-1, keepdims=True))
