"""Cosine similarity between the outputs of two files."""

from __future__ import annotations

import numpy as np

VECTOR = 8  # elements; the direction of a shorter vector is not meaningful


def cosines(one: np.ndarray, other: np.ndarray, *, centred: bool = False) -> np.ndarray:
    """Return the cosine similarity of the vectors along the last axis. If that axis is shorter than ``VECTOR``, all
    values form one vector.

    Args:
        centred: subtract each vector's mean first; in logits, it is shared by all classes and does not affect the
            prediction.
    """
    one, other = (np.asarray(side, "float64") for side in (one, other))
    if one.ndim < 2 or one.shape[-1] < VECTOR:
        one, other, centred = one.reshape(1, -1), other.reshape(1, -1), False
    if centred:
        one, other = (side - side.mean(-1, keepdims=True) for side in (one, other))
    product = (one * other).sum(-1)
    lengths = np.linalg.norm(one, axis=-1), np.linalg.norm(other, axis=-1)
    nothing = 1e-3 * max(float(length.max(initial=0)) for length in lengths)
    neither = (lengths[0] <= nothing) & (lengths[1] <= nothing)  # two zero vectors, such as for a row without any token
    return np.where(neither, 1.0, product / np.maximum(lengths[0] * lengths[1], 1e-30))
