"""Rows as batches for ``fit``, in an order that depends on the seed and the epoch alone."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

from ..layers.vocabulary import IGNORED


class Rows(keras.utils.PyDataset):
    """Batches of (ids, labels), shuffled anew in every epoch.

    A last batch that is smaller than the others is filled with rows without targets.

    Args:
        ids, labels: (rows, length), as ``rows.encoded`` returns them.
        batch_size: rows of a batch.
        seed: of the order; None for the given order.
    """

    def __init__(self, ids: np.ndarray, labels: np.ndarray, batch_size: int, seed: int | None) -> None:
        super().__init__()
        self.ids, self.labels, self.batch_size, self.seed = ids, labels, batch_size, seed
        self.epoch = 0
        self._order = self._ordered()  # Keras reads a few batches before the first epoch, for their shapes

    def __len__(self) -> int:
        return math.ceil(len(self.ids) / self.batch_size)

    def __getitem__(self, index: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        chosen = self._order[index * self.batch_size : (index + 1) * self.batch_size]
        filled = np.resize(chosen, self.batch_size)
        labels = self.labels[filled]
        labels[len(chosen) :] = IGNORED
        return {"input_ids": self.ids[filled]}, labels

    def on_epoch_begin(self) -> None:
        self._order = self._ordered()

    def on_epoch_end(self) -> None:
        self.epoch += 1  # Keras also calls this once before the first epoch

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch = state["epoch"]

    def _ordered(self) -> np.ndarray:
        rows = np.arange(len(self.ids))
        return rows if self.seed is None else np.random.default_rng((self.seed, self.epoch)).permutation(rows)
