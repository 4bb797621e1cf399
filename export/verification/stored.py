"""Weights as a file stores them, compared with those of the model, number by number.

An integer stands for ``(value - zero) · scale``. It is right if no other integer is nearer to the weight, and its scale
is right if the weights of its group need it: a larger one wastes steps, a much smaller one cuts weights off.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..digests import integers_digest
from ..precision.half import rounded

Array = np.ndarray

HALF = 0.502  # of a step: half, and the rounding error of the division
BOTTOM = {4: 0.5, 8: 0.2}  # of the scale that spans a group: the smallest that a search for the least error chooses
TOP = {4: 1.25, 8: 2.1}  # least squares; 8-bit weights that leave room for sums of 16 bits
FEEDBACK = 4.0  # root mean square of the errors of a row that GPTQ chose, in those of the nearest integers
AT_ONCE = 1 << 22  # numbers compared at a time


@dataclass(frozen=True)
class Stored:
    """A weight of a file, in groups that share a scale.

    Attributes:
        name: of the weight in Keras, or of several that the file joins into one.
        values: (groups, size) integers, or float32 or float16 for a weight without scales.
        expected: (groups, size) float32, the model's own; None if the model has no such weight.
        scales: (groups,) float32, or None.
        zeros: (groups,) float32 zero points, or None.
        bits: of an integer.
        limits: the smallest and the largest integer.
        blocks: the number of groups in a row.
    """

    name: str
    values: Array
    expected: Array | None
    scales: Array | None = None
    zeros: Array | None = None
    bits: int = 32
    limits: tuple[int, int] = (0, 0)
    blocks: int = 1

    @property
    def numbers(self) -> Array:
        """(groups, size) float32: what the stored numbers stand for."""
        if self.scales is None:
            return self.values.astype("float32")
        zeros = np.float32(0) if self.zeros is None else self.zeros[:, None]
        return (self.values.astype("float32") - zeros) * self.scales[:, None]

    @property
    def digest(self) -> str:
        """The digest of the integers and their scales."""
        zeros = 0 if self.zeros is None else self.zeros[:, None]
        scales = np.zeros(0) if self.scales is None else self.scales
        return integers_digest(self.values - zeros, scales)

    def place(self, group: int) -> str:
        row, block = divmod(int(group), self.blocks)
        return f"{self.name}, row {row}" + (f", block {block}" if self.blocks > 1 else "")


def fault(stored: Stored, *, feedback: bool = False) -> str | None:
    """Return what is wrong with a stored weight, with the row and the block where that is seen first, or None.

    Args:
        stored: the weight.
        feedback: whether GPTQ chose the integers. They are then not the nearest ones, but the errors of a row stay of
            the size of a step.
    """
    if stored.expected is None:
        return f"{stored.name} is no weight of the model"
    if stored.scales is None:
        return _of_floats(stored)
    if stored.zeros is not None:
        low, high = stored.limits
        if (bad := _first((stored.zeros < low) | (stored.zeros > high) | (stored.zeros % 1 != 0))) is not None:
            return f"{stored.place(bad)}: zero point {stored.zeros[bad]:g} is not in {low} to {high}"
    if (bad := _first(~np.isfinite(stored.scales) | (stored.scales == 0))) is not None:
        return f"{stored.place(bad)}: the scale is {stored.scales[bad]:g}"
    check = _of_feedback if feedback and stored.bits == 4 else _of_nearest
    rows = max(1, AT_ONCE // max(1, stored.values.shape[1]) // stored.blocks) * stored.blocks
    for start in range(0, len(stored.values), rows):
        found = check(stored, slice(start, start + rows)) or _of_scales(stored, slice(start, start + rows))
        if found is not None:
            group, said = found
            return f"{stored.place(start + group)}: {said}"
    return None


def _of_floats(stored: Stored) -> str | None:
    assert stored.expected is not None
    expected = rounded(stored.expected) if stored.values.dtype == "float16" else stored.expected
    different = (stored.values != expected).reshape(len(expected), -1)
    if (bad := _first(different.any(-1))) is None:
        return None
    place = int(np.argmax(different[bad]))
    ours, theirs = (side.reshape(len(expected), -1)[bad, place] for side in (expected, stored.values))
    return (
        f"{stored.place(bad)}: {int(different.sum())} numbers differ, for example {theirs:.6g} in place of {ours:.6g}"
    )


def _of_nearest(stored: Stored, groups: slice) -> tuple[int, str] | None:
    """Check that every integer is the nearest one."""
    assert stored.expected is not None and stored.scales is not None
    expected, values, scales = stored.expected[groups], stored.values[groups], stored.scales[groups]
    exact = expected / scales[:, None]
    if stored.zeros is not None:
        exact += stored.zeros[groups][:, None]
    off = np.abs(values - np.clip(exact, *stored.limits))
    if (bad := _first(~(np.max(off, -1, initial=0) <= HALF))) is None:
        return None
    place = int(np.argmax(off[bad]))
    return bad, f"weight {expected[bad, place]:.4g} is stored {off[bad, place]:.2g} steps off"


def _of_feedback(stored: Stored, groups: slice) -> tuple[int, str] | None:
    """Check that the errors of each row are of the size of a step."""
    assert stored.expected is not None and stored.scales is not None
    steps = (stored.numbers[groups] - stored.expected[groups]) / stored.scales[groups][:, None]
    each = np.sqrt(np.square(steps).reshape(-1, stored.blocks * steps.shape[1]).mean(-1))
    if (bad := _first(each > FEEDBACK / np.sqrt(12))) is None:
        return None
    return bad * stored.blocks, f"the weights are {each[bad]:.2g} steps off, as a root mean square"


def _of_scales(stored: Stored, groups: slice) -> tuple[int, str] | None:
    """Check that scales are about as small as the weights of their groups allow."""
    assert stored.expected is not None and stored.scales is not None
    if stored.bits not in TOP:
        return None
    x, (low, high) = stored.expected[groups], stored.limits
    least, most = np.minimum(x.min(-1), 0), np.maximum(x.max(-1), 0)
    middle = (high - low + 1) // 2
    symmetric = np.maximum(most, -least) / middle
    if stored.zeros is not None and len(np.unique(stored.zeros)) > 1:  # a zero point for each group
        symmetric = (most - least) / (high - low)
    scales = np.abs(stored.scales[groups])
    wrong = (symmetric > 0) & ((scales > TOP[stored.bits] * symmetric) | (scales < BOTTOM[stored.bits] * symmetric))
    if (bad := _first(wrong & (symmetric > 1e-12))) is None:
        return None
    return bad, f"the scale is {scales[bad] / symmetric[bad]:.2g} times the one that its weights need"


def _first(wrong: Array) -> int | None:
    return int(np.argmax(wrong)) if wrong.any() else None


def unpacked_nibbles(data: Array) -> Array:
    """Return bytes (..., n) as 4-bit integers (..., 2n), of which the first is in the lower half of a byte."""
    data = np.asarray(data, "uint8")
    return np.stack([data & 15, data >> 4], axis=-1).reshape(*data.shape[:-1], -1)
