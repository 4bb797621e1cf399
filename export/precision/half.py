"""Conversion of arrays to float16 without overflow to infinity or underflow of constants to zero."""

from __future__ import annotations

import numpy as np

LARGEST = 65504.0  # the largest finite float16
MASKED = 3e4  # replaces values out of range, which are all masks: exp(-3e4) is 0, and the sum with a score is finite
SMALLEST = 6.104e-5  # the smallest normal float16; an epsilon must not become 0


def rounded(array: np.ndarray) -> np.ndarray:
    """Return `array` in float16. A value out of range becomes ``MASKED`` with its sign, and a single nonzero value
    keeps a magnitude of at least ``SMALLEST``."""
    array = np.where(np.abs(array) > LARGEST, np.sign(array) * np.float32(MASKED), array)
    if array.size == 1 and array.item() and abs(array.item()) < SMALLEST:
        array = np.sign(array) * np.float32(SMALLEST)
    return array.astype("float16")
