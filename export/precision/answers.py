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
    compared = [_compared(precise, rounded, text, ids) for text, ids in _prompts(precise, texts)]
    found = [answer for answer, _ in compared if answer is not None]
    errors = [error for _, several in compared for error in several]
    return Answers(tuple(found), float(np.sqrt(np.mean(np.square(errors))))) if found else None


def _compared(precise: Runner, rounded: Runner, text: str, ids: Array) -> tuple[Answer | None, list[float]]:
    """Return the answers to a prompt, or None if there is no room for one, and the error of the margin at each token.

    Both decoders are fed with the tokens that `precise` chooses, one row at a time: runtimes compute several rows with
    other kernels, and round differently.
    """
    tokenizer: Any = precise.tokenizer
    prompt = ids[None], np.ones((1, len(ids)), "int64")
    one, other = precise.decoder(), rounded.decoder()
    new = min(NEW_TOKENS, one.max_length - (len(ids) if one.start_token is None else 1))
    if new < 1:
        return None, []
    tokens: list[int] = []
    errors: list[float] = []
    equal = margin = None
    logits, others = (decoder.prompt(*prompt, new)[0] for decoder in (one, other))
    while True:
        second, first = np.argsort(logits)[-2:]
        chosen = int(others.argmax())
        tokens.append(int(logits.argmax()))
        errors.append(float((others[first] - others[second]) - (logits[first] - logits[second])))
        if margin is None and chosen != tokens[-1]:
            equal, margin = len(tokens) - 1, float(logits[tokens[-1]] - logits[chosen])
        if len(tokens) == new or tokens[-1] in precise.stop_tokens:
            break
        logits, others = (decoder.step(np.array(tokens[-1:]))[0] for decoder in (one, other))
    answer = tokens if margin is None else _greedy(rounded, *prompt, new)
    said = [tokenizer.decode(side) for side in (tokens, answer)]
    equal = len(tokens) if equal is None else equal
    return Answer(text, *said, equal=equal, tokens=len(tokens), margin=margin), errors


def _greedy(runner: Runner, ids: Array, mask: Array, count: int) -> list[int]:
    """Return the most likely tokens, up to the first end token."""
    decoder = runner.decoder()
    tokens = [int(decoder.prompt(ids, mask, count)[0].argmax())]
    while len(tokens) < count and tokens[-1] not in runner.stop_tokens:
        tokens.append(int(decoder.step(np.array(tokens[-1:]))[0].argmax()))
    return tokens


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
