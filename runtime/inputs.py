"""Inputs made up from a signature, for verification and for timing. NumPy only."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..signature import Signature, TensorSpec

PADDINGS = ("none", "right", "left", "interior")


def example_inputs(
    signature: Signature, sizes: Mapping[str, int], *, padding: str = "none", seed: int = 0
) -> dict[str, np.ndarray]:
    """Random inputs of these sizes; the rows of a padded batch have different lengths."""
    rng = np.random.default_rng(seed)
    sizes = {**sizes, **{dim: sum(sizes[part] for part in parts) for dim, parts in signature.sums.items()}}
    # A cache of fixed size is half full, or as full as leaves room for the new tokens.
    position = max(0, min(sizes.get("slots", 0) // 2, sizes.get("slots", 0) - sizes.get("sequence", 1)))

    def draw(spec: TensorSpec) -> np.ndarray:
        shape = tuple(sizes[dim] if isinstance(dim, str) else dim for dim in spec.dims)
        if spec.name == "cache_position":
            return np.array([position], spec.dtype)
        if spec.name == "input_pos":
            return np.arange(position, position + shape[0], dtype=spec.dtype)
        if spec.name == "mask":  # (batch, 1, sequence, slots)
            rows = position + np.arange(shape[2])[:, None]
            return np.broadcast_to(np.arange(shape[3])[None] <= rows, shape)
        if is_mask(spec):
            return padded_mask(shape[0], shape[1], padding).astype(spec.dtype)
        if spec.below is not None or not spec.dtype.startswith("float"):
            return rng.integers(0, spec.below or (256 if spec.dtype == "uint8" else 2), shape).astype(spec.dtype)
        values = rng.normal(size=shape) if spec.spread is None else rng.uniform(0, spec.spread, shape)
        return values.astype(spec.dtype)

    # What has no dimensions is an option of the graph, and no data.
    return {s.name: draw(s) if s.dims else np.full((), s.fill, s.dtype) for s in signature.inputs}


def is_mask(spec: TensorSpec) -> bool:
    """(batch, sequence) zeros and ones by name, and not rows of a table of more."""
    binary = spec.below in (None, 2) and not spec.dtype.startswith("float")
    return "mask" in spec.name and len(spec.dims) == 2 and binary


def padded_mask(batch: int, sequence: int, padding: str) -> np.ndarray:
    """(batch, sequence) ones, with zeros on one side or inside; "all" leaves the last row without any token."""
    mask = np.ones((batch, sequence), "int32")
    for row in range(batch):
        length = max(1, sequence - 1 - row * sequence // 3)  # every row another
        if padding == "right":
            mask[row, length:] = 0
        elif padding == "left":
            mask[row, : sequence - length] = 0
        elif padding == "interior" and sequence > 2:
            mask[row, 1 : 1 + max(1, (sequence - 2) // (row + 2))] = 0
    if padding == "all":
        mask[-1] = 0
    return mask
