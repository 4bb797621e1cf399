"""Block-wise quantized weights, with one scale per block, as in ``MatMulNBits`` and GGUF. Needs only NumPy."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from ...runtime.runner import usable_cores

Array = np.ndarray

SHRUNK = np.linspace(0.7, 1.05, 15, dtype="float32")  # factors of the scale that spans a block, which "search" tries
AT_ONCE = 1 << 16  # weights quantized at a time, which fit into the processor's cache


class Blocks(NamedTuple):
    """A matrix (rows, width) quantized in blocks along its width, the last of which may be padded.

    Attributes:
        values: (rows, blocks, block_size) uint8 from 0 to 2^bits - 1.
        scales: (rows, blocks) float32.
        zeros: (rows, blocks) uint8 zero points, or None if all are 2^(bits - 1). A weight is (value - zero) · scale.
        bits: 4 or 8.
    """

    values: Array
    scales: Array
    zeros: Array | None
    bits: int

    def packed(self) -> Array:
        """Return the values as (rows, blocks, bytes per block). With 4 bits, a byte holds two values, the first in the
        lower half."""
        return _packed(self.values) if self.bits == 4 else self.values

    def packed_zeros(self) -> Array | None:
        """Return the zero points as (rows, bytes), or None."""
        if self.zeros is None or self.bits == 8:
            return self.zeros
        odd = self.zeros.shape[1] % 2
        return _packed(np.pad(self.zeros, ((0, 0), (0, odd))))

    def numbers(self, width: int) -> Array:
        """Return the dequantized matrix (rows, width) in float32."""
        zeros = np.float32(2 ** (self.bits - 1)) if self.zeros is None else self.zeros[..., None].astype("float32")
        numbers = (self.values.astype("float32") - zeros) * self.scales[..., None]
        return numbers.reshape(len(self.values), -1)[:, :width]


def to_blocks(
    matrix: Array, bits: int, block_size: int, *, symmetric: bool, method: str = "rtn", positive: bool = False
) -> Blocks:
    """Quantize `matrix` (rows, width) to `bits`, with a scale for each block, and with a zero point unless `symmetric`.

    Args:
        method: "rtn" takes the scale from the extremes of a block. "search" takes the scale with the smallest squared
            error out of several, each refined by least squares, as llama.cpp does for its k-quants.
        positive: allow no negative scales, although a symmetric block has one more step on one side, which a negative
            scale can give to either sign.
    """
    rows, width = matrix.shape
    blocks = -(-width // block_size)
    padded = np.pad(np.asarray(matrix, "float32"), ((0, 0), (0, blocks * block_size - width)))
    flat = padded.reshape(-1, block_size)
    starts = range(0, len(flat), AT_ONCE // block_size)
    with ThreadPoolExecutor(usable_cores()) as threads:  # NumPy releases the GIL
        parts = list(
            threads.map(
                lambda start: _quantized(
                    flat[start : start + AT_ONCE // block_size], bits, symmetric, method, positive
                ),
                starts,
            )
        )
    values, scales, zeros = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Blocks(
        values.reshape(rows, blocks, block_size),
        scales.reshape(rows, blocks),
        None if symmetric else zeros.reshape(rows, blocks),
        bits,
    )


def _quantized(x: Array, bits: int, symmetric: bool, method: str, positive: bool) -> tuple[Array, Array, Array]:
    """Return values (blocks, size) uint8, and scales and zero points (blocks, 1)."""
    top, half = np.float32(2**bits - 1), np.float32(2 ** (bits - 1))
    low, high = np.minimum(x.min(-1, keepdims=True), 0), np.maximum(x.max(-1, keepdims=True), 0)

    def zero(scale: Array) -> Array:
        if symmetric:
            return np.broadcast_to(half, scale.shape)
        return np.clip(np.rint(top / 2 - (low + high) / 2 / scale), 0, top)  # aligns the middles of both ranges

    def rounded(scale: Array, zero: Array) -> Array:
        return np.clip(np.rint(x / scale + zero), 0, top)

    # Symmetric: the weight of greatest magnitude becomes 0, which is one step farther from the middle than `top`.
    ends = np.maximum(high, -low) / (half - 1) if positive else np.where(high > -low, high, low) / -half
    span = _nonzero(ends if symmetric else (high - low) / top)
    scale, offset = span, zero(span) if symmetric else np.clip(np.rint(-low / span), 0, top)
    values = rounded(scale, offset)
    if method == "rtn":
        return values.astype("uint8"), scale, offset.astype("uint8")
    error = np.square(x - (values - offset) * scale).sum(-1, keepdims=True)
    for share in SHRUNK:
        offset_2 = zero(span * share)
        steps = rounded(span * share, offset_2) - offset_2
        # The least-squares scale for these steps, then the nearest steps for that scale.
        scale_2 = _nonzero((x * steps).sum(-1, keepdims=True) / np.maximum(np.square(steps).sum(-1, keepdims=True), 1))
        values_2 = rounded(scale_2, offset_2)
        error_2 = np.square(x - (values_2 - offset_2) * scale_2).sum(-1, keepdims=True)
        better = error_2 < error
        error, scale = np.where(better, error_2, error), np.where(better, scale_2, scale)
        offset, values = np.where(better, offset_2, offset), np.where(better, values_2, values)
    return values.astype("uint8"), scale, offset.astype("uint8")


def _nonzero(scale: Array) -> Array:
    return np.where(scale == 0, np.float32(1), scale).astype("float32")


def _packed(values: Array) -> Array:
    return values[..., ::2] | (values[..., 1::2] << 4)


def to_rows(matrix: Array, *, reduce_range: bool) -> tuple[Array, Array]:
    """Quantize every row of `matrix` (rows, width) to int8 with its own scale: (rows, width) int8, (rows,) float32.

    Processors without VNNI multiply pairs of neighbors (2i, 2i + 1), unsigned activations by signed weights, and sum
    them in 16 bits, where 255 · 129 does not fit. With `reduce_range`, the magnitudes of a pair sum to at most 128.
    That keeps more precision than the usual 7 bits, since two large weights are seldom neighbors.
    """
    matrix = np.asarray(matrix, "float32")
    magnitude = np.abs(matrix)
    largest = magnitude.max(-1, initial=0) / 127
    if reduce_range:
        even = np.pad(magnitude, ((0, 0), (0, magnitude.shape[1] % 2)))
        pairs = (even[:, ::2] + even[:, 1::2]).max(-1, initial=0)
        largest = np.maximum(largest, pairs / 127)  # rounding adds at most one to the sum
    scales = _nonzero(largest)
    return np.clip(np.rint(matrix / scales[:, None]), -127, 127).astype("int8"), scales
