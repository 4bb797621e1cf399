"""The sizes and data of ``train.py``, and the time of a matrix product, for every framework."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

ROWS, LENGTH, WORDS, WIDTH, HEADS, INNER, LAYERS = 8, 256, 2048, 256, 8, 1024, 4
IMAGES = {"num_layers": 6, "num_heads": 3, "hidden_dim": 192}
SHAPES = ((ROWS * LENGTH, WIDTH), (WIDTH, INNER))


def data(model: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    if model == "vit":
        return rng.uniform(-1, 1, (64, 32, 32, 3)).astype("float32"), rng.integers(0, 10, 64)
    ids = rng.integers(1, WORDS, (ROWS, LENGTH)).astype("int32")
    return ids, ids if model == "gpt" else rng.integers(0, 2, ROWS)


def best_product(product: Callable[[], Any]) -> float:
    """Return the GFLOP/s of a product of `SHAPES`."""
    took = []
    for _ in range(30):
        start = time.perf_counter()
        product()
        took.append(time.perf_counter() - start)
    return 2 * ROWS * LENGTH * WIDTH * INNER / min(took) / 1e9
