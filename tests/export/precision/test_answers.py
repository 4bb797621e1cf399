"""The comparison of greedy answers, against the same comparison written out for decoders that are tables."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from attention_zoo.export.precision.answers import NEW_TOKENS, QUESTIONS, compare_answers
from attention_zoo.export.precision.report import Accuracy

VOCABULARY, END = 60, 5


class Table:
    """A decoder whose logits depend on the last token only: row `token` of a table (VOCABULARY, VOCABULARY)."""

    start_token, max_length = None, 100

    def __init__(self, table: np.ndarray) -> None:
        self.table = table

    def prompt(self, input_ids: np.ndarray, attention_mask: np.ndarray, room: int) -> np.ndarray:
        assert input_ids.shape == attention_mask.shape and (attention_mask == 1).all()
        return self.table[input_ids[:, -1]]

    def step(self, tokens: np.ndarray) -> np.ndarray:
        return self.table[tokens]


class Letters:
    """A tokenizer whose ids are the lengths of words; its chat template is the question itself."""

    def __init__(self, chat: bool) -> None:
        self.chat_templates = {"default": "x"} if chat else {}

    def __call__(self, text: str) -> dict[str, Any]:
        return {"input_ids": np.array([len(word) + 6 for word in text.split()])[None]}

    def apply_chat_template(self, messages: Any, *, add_generation_prompt: bool, tokenize: bool) -> list[int]:
        assert add_generation_prompt and tokenize
        return self(messages[0]["content"])["input_ids"][0].tolist()

    def decode(self, ids: Any) -> str:
        return " ".join(map(str, ids))


def runner(table: np.ndarray, *, chat: bool = True) -> Any:
    return SimpleNamespace(
        generates=True,
        tokenizer=Letters(chat),
        decoder=lambda: Table(table),
        stop_tokens=[END],
    )


def written_out(
    one: np.ndarray, other: np.ndarray, last: int
) -> tuple[list[int], list[int], float | None, list[float]]:
    """Return both answers, the margin at the first difference, and the errors of the margins."""

    def greedy(table: np.ndarray) -> list[int]:
        said = [int(table[last].argmax())]
        while len(said) < NEW_TOKENS and said[-1] != END:
            said.append(int(table[said[-1]].argmax()))
        return said

    first, errors, margin = greedy(one), [], None
    for before, token in zip([last, *first], first, strict=False):
        best, second = np.argsort(-one[before])[:2]
        errors.append((other[before, best] - other[before, second]) - (one[before, best] - one[before, second]))
        if margin is None and other[before].argmax() != token:
            margin = float(one[before, token] - one[before, other[before].argmax()])
    return first, greedy(other), margin, errors


@pytest.mark.parametrize("noise", [0.0, 0.03, 0.3])
def test_answers_and_margins(noise: float) -> None:
    rng = np.random.default_rng(1)
    table = rng.normal(size=(VOCABULARY, VOCABULARY))
    near = table + noise * rng.normal(size=table.shape)
    found = compare_answers(runner(table), runner(near))
    assert found is not None and [answer.prompt for answer in found.each] == list(QUESTIONS)
    errors = []
    for answer in found.each:
        one, other, margin, error = written_out(table, near, len(answer.prompt.split()[-1]) + 6)
        errors += error
        assert answer.float32 == " ".join(map(str, one)) and answer.tokens == len(one)
        assert answer.rounded == " ".join(map(str, one if margin is None else other))
        assert answer.margin == (None if margin is None else pytest.approx(margin))
        same = [a == b for a, b in zip(one, other, strict=False)]
        assert answer.equal == (len(one) if margin is None else same.index(False))
    assert found.margin_error == pytest.approx(np.sqrt(np.mean(np.square(errors))))
    assert (found.equal == len(QUESTIONS)) == (noise == 0)


def test_without_a_chat_template_texts_are_continued() -> None:
    table = np.random.default_rng(2).normal(size=(VOCABULARY, VOCABULARY))
    given = ["one three five", "a bb ccc dddd"]
    found = compare_answers(runner(table, chat=False), runner(table, chat=False), given)
    assert found is not None and [answer.prompt for answer in found.each] == given
    last = len("one") + 6  # the first half of the tokens
    assert found.each[0].float32 == " ".join(map(str, written_out(table, table, last)[0]))
    assert len(compare_answers(runner(table, chat=False), runner(table, chat=False)).each) == 8  # pyright: ignore


def test_what_gives_no_texts_has_no_answers() -> None:
    one = runner(np.eye(VOCABULARY))
    one.tokenizer = None
    assert compare_answers(one, one) is None
    two = runner(np.eye(VOCABULARY))
    two.generates = False
    assert compare_answers(two, two) is None


def test_report_and_limit() -> None:
    """The report warns of the clearest difference, and a margin error above the limit does not pass."""
    rng = np.random.default_rng(1)
    table = rng.normal(size=(VOCABULARY, VOCABULARY))
    answers = compare_answers(runner(table), runner(table + 0.3 * rng.normal(size=table.shape)))
    assert answers is not None
    surest = max(answer.margin or 0.0 for answer in answers.each)
    accuracy = Accuracy("", 1.0, 1.0, answers=answers, most_margin_error=answers.margin_error * 1.01)
    assert accuracy.passed and len(accuracy.warnings) == 1 and f"margin {surest:.2f} nats" in accuracy.warnings[0]
    assert f"{answers.equal} of 10 equal" in dict(accuracy.rows())["answers"]
    assert not Accuracy("", 1.0, 1.0, answers=answers, most_margin_error=answers.margin_error * 0.99).passed
    assert not Accuracy("", 1.0, 1.0, answers=compare_answers(runner(table), runner(table))).warnings
