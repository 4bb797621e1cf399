"""Synthetic (random) inputs for a signature, used by verification and benchmarks. Requires NumPy only."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..signature import Signature, TensorSpec

MASKED = -1e9  # of an additive mask
PADDINGS = ("none", "right", "left", "interior")


def example_inputs(
    signature: Signature, sizes: Mapping[str, int], *, padding: str = "none", seed: int = 0
) -> dict[str, np.ndarray]:
    """Return random inputs for `signature`.

    Args:
        signature: Names, dtypes, dimensions and value ranges of the inputs.
        sizes: The size of each named dimension.
        padding: The padding of the attention mask; see ``padded_mask``.
        seed: The seed of the random values.

    Returns:
        Arrays by name of the input. The rows of a padded batch have different lengths.
    """
    rng = np.random.default_rng(seed)
    sizes = {**sizes, **{dim: sum(sizes[part] for part in parts) for dim, parts in signature.sums.items()}}
    # A cache of fixed size is filled to one half, or less if the new tokens need more room than that.
    position = max(0, min(sizes.get("slots", 0) // 2, sizes.get("slots", 0) - sizes.get("sequence", 1)))
    cached = bool(signature.state)  # only then do the names of inputs have a meaning: a third party may use any

    def draw(spec: TensorSpec) -> np.ndarray:
        shape = tuple(sizes[dim] if isinstance(dim, str) else dim for dim in spec.dims)
        if cached and spec.name == "cache_position":
            return np.array([position], spec.dtype)
        if cached and spec.name == "input_pos":
            return np.arange(position, position + shape[0], dtype=spec.dtype)
        if cached and spec.name == "mask":  # (batch, 1, sequence, slots)
            rows = position + np.arange(shape[2])[:, None]
            return slot_mask(np.broadcast_to(np.arange(shape[3])[None] <= rows, shape), spec.dtype)
        if is_mask(spec):
            return padded_mask(shape[0], shape[1], padding).astype(spec.dtype)
        if spec.below is not None or not spec.dtype.startswith("float"):
            end = spec.end(sizes) or (256 if spec.dtype == "uint8" else 2)
            return rng.integers(spec.least, end, shape).astype(spec.dtype)
        values = rng.normal(size=shape) if spec.spread is None else rng.uniform(0, spec.spread, shape)
        return values.astype(spec.dtype)

    # A scalar input is an option of the graph rather than data: it keeps its default value.
    return {s.name: draw(s) if s.dims else np.full((), s.fill, s.dtype) for s in signature.inputs}


def slot_mask(visible: np.ndarray, dtype: str) -> np.ndarray:
    """Return which cache slots a token attends to as a file takes it: booleans, or float32 values to add to scores."""
    return visible if dtype == "bool" else np.where(visible, 0, MASKED).astype(dtype)


def is_mask(spec: TensorSpec) -> bool:
    """Return whether an input is an attention mask: (batch, sequence) integers 0 and 1 with "mask" in its name."""
    binary = spec.below in (None, 2) and not spec.dtype.startswith("float")
    return "mask" in spec.name and len(spec.dims) == 2 and binary


def padded_mask(batch: int, sequence: int, padding: str) -> np.ndarray:
    """Return a (batch, sequence) int32 mask: 1 = token, 0 = padding.

    Args:
        batch: The number of rows, which have different lengths.
        sequence: The number of columns.
        padding: "none", "right", "left" or "interior" for the position of the zeros; "all" for a last row of zeros.
    """
    mask = np.ones((batch, sequence), "int32")
    for row in range(batch):
        length = max(1, sequence - 1 - row * sequence // 3)  # differs between rows
        if padding == "right":
            mask[row, length:] = 0
        elif padding == "left":
            mask[row, : sequence - length] = 0
        elif padding == "interior" and sequence > 2:
            mask[row, 1 : 1 + max(1, (sequence - 2) // (row + 2))] = 0
    if padding == "all":
        mask[-1] = 0
    return mask
