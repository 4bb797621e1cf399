"""Cosine similarity between the outputs of two files."""

from __future__ import annotations

import math

import numpy as np

VECTOR = 8  # elements; the direction of a shorter vector is not meaningful
AT_ONCE = 1 << 22  # numbers that are in float64 at a time


def cosines(one: np.ndarray, other: np.ndarray, *, centred: bool = False) -> np.ndarray:
    """Return the cosine similarity of the vectors along the last axis. If that axis is shorter than ``VECTOR``, all
    values form one vector.

    Args:
        centred: subtract each vector's mean first; in logits, it is shared by all classes and does not affect the
            prediction.
    """
    if one.ndim < 2 or one.shape[-1] < VECTOR:
        one, other, centred = one.reshape(1, -1), other.reshape(1, -1), False
    shape = one.shape[:-1]
    one, other = (side.reshape(math.prod(shape), side.shape[-1]) for side in (one, other))  # -1 needs an element
    found = np.zeros((3, len(one)))  # products and both lengths
    step = max(1, AT_ONCE // max(1, one.shape[-1]))
    for start in range(0, len(one), step):
        rows = slice(start, start + step)
        parts = [side[rows].astype("float64") for side in (one, other)]
        if centred:
            parts = [part - part.mean(-1, keepdims=True) for part in parts]
        found[:, rows] = (parts[0] * parts[1]).sum(-1), *(np.linalg.norm(part, axis=-1) for part in parts)
    product, *lengths = found
    nothing = 1e-3 * max(float(length.max(initial=0)) for length in lengths)
    neither = (lengths[0] <= nothing) & (lengths[1] <= nothing)  # two zero vectors, such as for a row without any token
    return np.where(neither, 1.0, product / np.maximum(lengths[0] * lengths[1], 1e-30)).reshape(shape)
