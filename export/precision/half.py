"""Numbers in float16 that stay numbers."""

from __future__ import annotations

import numpy as np

LARGEST = 65504.0  # of float16
MASKED = 3e4  # for numbers that are out of range, masks all of them: exp(-3e4) is 0, and a score added to it is no NaN
SMALLEST = 6.104e-5  # of normal numbers: an epsilon that became 0 would divide by it


def rounded(array: np.ndarray) -> np.ndarray:
    """`array` in float16: what is too large becomes ``MASKED`` of its sign, and a single small number no zero."""
    array = np.where(np.abs(array) > LARGEST, np.sign(array) * np.float32(MASKED), array)
    if array.size == 1 and array.item() and abs(array.item()) < SMALLEST:
        array = np.sign(array) * np.float32(SMALLEST)
    return array.astype("float16")
