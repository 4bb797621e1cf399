"""A decoder whose logits are computed by a function, for tests of decoding strategies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Logits = Callable[[Sequence[int]], np.ndarray]  # argument: one row's tokens so far


class Fake:
    """A ``Decoder`` that computes logits with a function.

    It keeps each row's tokens, and all token sequences for which logits were requested.
    """

    def __init__(self, logits: Logits, *, start: int | None = None, **tokens: Any) -> None:
        self.logits, self.start_token, self.max_length = logits, start, tokens.get("max_length", 10_000)
        self.eos_token, self.pad_token = tokens.get("eos"), tokens.get("pad")
        self.steps = 0
        self.asked: set[tuple[int, ...]] = set()

    def prompt(self, input_ids: np.ndarray, attention_mask: np.ndarray, room: int) -> np.ndarray:
        kept = [[int(token) for token in row[keep == 1]] for row, keep in zip(input_ids, attention_mask, strict=True)]
        self.rows = kept if self.start_token is None else [[*row, -1, self.start_token] for row in kept]
        self.room = room
        return self._answer()

    def step(self, tokens: np.ndarray) -> np.ndarray:
        self.steps += 1
        self.rows = [[*row, int(token)] for row, token in zip(self.rows, tokens, strict=True)]
        return self._answer()

    def select(self, rows: np.ndarray) -> None:
        self.rows = [self.rows[row] for row in rows]

    def _answer(self) -> np.ndarray:
        self.asked |= {tuple(row) for row in self.rows}
        return np.stack([self.logits(row) for row in self.rows])
