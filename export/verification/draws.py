"""Synthetic inputs with which the files of third-party Keras models are compared. Requires NumPy only.

Little is known about the inputs of such a model, so they are drawn in several ways, each in a comparison of its own: a
value of 1e4 would hide small differences of the other values, since a difference counts relative to the largest
magnitude of the output. ``DRAWS`` lists the ways.

Keras may reject a value, for example an index that is out of range. Inputs therefore have ranges, from wide to narrow
(``FLOAT_RANGES``, ``INTEGER_RANGES``), and ``Draws`` finds the widest that Keras accepts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ...runtime.inputs import is_mask, padded_mask
from ...signature import Signature, TensorSpec

# The values at which implementations differ; the first ones occur in small inputs, too. The zeros of both signs are in
# different lists, since it is arbitrary which of them is the larger one.
EDGES = (0.0, -1.0, 1.0, 0.5, -0.5, 2.5, -1.5, 3.0, -7.0, 1e-6, -1e-6, 10.0, -10.0, 1.5, -2.5, 1e-30)
LARGE = (120.0, -0.0, -120.0, 1e4, -1e4, 100.0, -100.0, 1e3, -1e3)
SIGNED = (-1, 0, 1, -7, 5, 2, -2, 9, -3, 3, -9, 7)
WHOLE = (-1, 0, 2**31 - 1, -(2**31) + 1, 2**24 + 1, -(2**24) - 1, 1, -7, 255, 256, -32769, 65536, 1000, -1001)
CONSTANTS = (0.7, -1.3, 3.1, 0.0)

# Ranges of the values of an input, from wide to narrow.
FLOAT_RANGES = ("large", "edges", "normal", "unit", "binary")
INTEGER_RANGES = ("whole", "signed", "small", "binary", "positive")
# The range of integers and of floats in each way to draw. "above", "constant" and "mixed" are beside the ladder.
DRAWS: Mapping[str, tuple[str, str]] = {
    "normal": ("signed", "normal"),
    "edges": ("signed", "edges"),
    "large": ("whole", "large"),
    "integers": ("whole", "normal"),
    "constant": ("signed", "constant"),
    "unit": ("signed", "unit"),
    "above": ("signed", "above"),
    "mixed": ("mixed", "mixed"),  # a first row as "normal", other rows as "large" and "edges" together
}
# Ways to draw without a row of padding: nobody uses what attention computes for a row of masked large values.
WITH_TOKENS = ("normal", "large", "mixed")
WORDS: Mapping[str, str] = {
    "normal": "",
    "edges": "zeros, halves and tiny numbers",
    "large": "large numbers",
    "integers": "integers of the whole range",
    "constant": "rows of one number",
    "unit": "numbers from 0 to 1",
    "above": "numbers from 1 to 3",
    "mixed": "numbers of every size in the last row",
    "whole": "the whole range",
    "signed": "-9 to 9",
    "small": "0 to 9",
    "binary": "0 and 1",
    "positive": "1 to 9",
}
# The range of the ladder that is as wide as one beside it.
ALIKE = {"constant": "normal", "above": "normal"}
SHAKE = 2.0**-22  # relative; see ``reference.SHAKE``
_SPECIAL = np.array([*EDGES, *LARGE], "float32")


def ladder(spec: TensorSpec) -> tuple[str, ...]:
    """Return the ranges that the values of an input may have, from wide to narrow; empty if nothing can be chosen, as
    for a mask, of which models combine the values 0 and 1 in different ways."""
    if spec.dtype.startswith("bool") or spec.below is not None or spec.spread is not None or is_mask(spec):
        return ()
    return FLOAT_RANGES if "float" in spec.dtype else INTEGER_RANGES


def wanted(spec: TensorSpec, draw: str) -> str:
    """Return the range of the values of an input with a ``ladder``, in a way to draw, one of ``DRAWS``."""
    integers, floats = DRAWS[draw]
    return floats if "float" in spec.dtype else integers


def drawn(
    signature: Signature,
    sizes: Mapping[str, int],
    ranges: Mapping[str, str],
    draw: str = "normal",
    padding: str = "none",
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Return synthetic inputs, by name.

    Args:
        signature: of the graph of a third-party model.
        sizes: the size of every named dimension.
        ranges: the range of the values of every input that has a ``ladder``, by name.
        draw: one of ``DRAWS``, which selects ids and booleans.
        padding: of masks; see ``padded_mask``.
        seed: of the random values. Inputs of a few values get other edge values with each seed.
    """
    rng = np.random.default_rng(seed)
    found = {}
    for index, spec in enumerate(signature.inputs):
        shape = tuple(sizes[dim] if isinstance(dim, str) else dim for dim in spec.dims)
        turn = seed * int(np.prod(shape)) + 5 * index  # where a small input starts in the list of edge values
        kind = ranges.get(spec.name, "")
        if is_mask(spec):
            values: Any = padded_mask(shape[0], shape[1], padding)
        elif spec.dtype.startswith("bool"):
            values = _booleans(rng, shape, draw, seed)
        elif not kind:
            values = _ids(rng, spec, shape, spec.end(sizes), draw, seed)
        elif "float" in spec.dtype:
            values = _floats(rng, shape, kind, turn)
        else:
            values = _integers(rng, shape, kind, turn, spec.dtype)
        found[spec.name] = np.asarray(values).astype(spec.dtype)
    return found


def shaken(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the inputs with every float changed by ``SHAKE``, up or down, except for edge values, which are exact."""
    rng = np.random.default_rng(1)

    def moved(array: np.ndarray) -> np.ndarray:
        if array.dtype.kind != "f":
            return array
        change = 1 + SHAKE * rng.choice((-1.0, 1.0), array.shape)
        return np.where(np.isin(array, _SPECIAL), array, array * change).astype(array.dtype)

    return {name: moved(array) for name, array in inputs.items()}


def _floats(rng: np.random.Generator, shape: tuple[int, ...], kind: str, turn: int) -> np.ndarray:
    if kind in ("unit", "above"):
        return rng.uniform(0.05, 0.95, shape) if kind == "unit" else rng.uniform(1.1, 3.0, shape)
    if kind == "binary":
        return rng.integers(0, 2, shape)
    if kind == "constant":
        rows = np.array([CONSTANTS[(turn + row) % len(CONSTANTS)] for row in range(shape[0] if shape else 1)])
        return np.broadcast_to(rows.reshape(-1, *[1] * (len(shape) - 1)) if shape else rows[0], shape)
    values = rng.normal(size=shape)
    if kind == "mixed":
        return _rest(values, lambda rest: _with(rng, rest, (*LARGE, *EDGES), turn))
    if kind == "large":  # of every magnitude, and none twice, since the order of equal values is often arbitrary
        chosen = rng.random(shape) < 0.25
        # From 100 on: near 88, where exp overflows, implementations may differ.
        values = np.where(chosen, np.sign(values) * 10 ** rng.uniform(2, 4, shape), values)
    return values if kind == "normal" else _with(rng, values, EDGES if kind == "edges" else LARGE, turn)


def _integers(rng: np.random.Generator, shape: tuple[int, ...], kind: str, turn: int, dtype: str) -> np.ndarray:
    if kind == "mixed":
        signed = _integers(rng, shape, "signed", turn, dtype)
        return _rest(signed, lambda rest: _integers(rng, rest.shape, "whole", turn, dtype))
    limits = np.iinfo(dtype)
    low, high = max(int(limits.min), -int(limits.max)), int(limits.max)
    if kind == "whole" or (dtype == "uint8" and kind == "signed"):
        magnitude = np.exp(rng.uniform(0, np.log(min(high, 2**31 - 1)), shape))
        values = np.clip(_with(rng, (magnitude * rng.choice((-1, 1), shape)).astype("int64"), WHOLE, turn), low, high)
        return _summable(rng, values) if high >= 2**31 - 1 else values % 256 if low == 0 else values
    if kind == "signed":
        return np.clip(_with(rng, rng.integers(-9, 10, shape), SIGNED, turn), low, high)
    first, last = {"small": (0, 9), "binary": (0, 1), "positive": (1, 9)}[kind]
    return rng.integers(first, last + 1, shape)


def _summable(rng: np.random.Generator, values: np.ndarray) -> np.ndarray:
    """Return the integers with one sign in each row, and with sums that 32 bits hold.

    Large numbers of both signs cancel in a sum of floats, and runtimes differ in sums that overflow.
    """
    size = values[0].size if values.ndim else 1
    if size < 2:
        return values
    rows = values.reshape(len(values), -1)
    signs = np.where((np.arange(len(rows)) + rng.integers(2)) % 2, -1, 1)[:, None]
    limits = np.full(rows.shape, 2**30 // size)
    limits[np.arange(len(rows)), np.abs(rows).argmax(axis=1)] = 2**30
    return (signs * np.minimum(np.abs(rows), limits)).reshape(values.shape)


def _rest(values: np.ndarray, others: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Return `values` with all rows but the first one replaced; with a single row, this one is replaced."""
    if not values.ndim or len(values) < 2:
        return others(values)
    return np.concatenate([values[:1], others(values[1:])])


def _with(rng: np.random.Generator, values: np.ndarray, edges: tuple[Any, ...], turn: int) -> np.ndarray:
    """Return `values` with each of `edges`, or as many as there is room for, at random places."""
    count = min(values.size, len(edges))
    flat = values.reshape(-1).copy()
    start = turn if values.size < len(edges) else 0
    flat[rng.permutation(values.size)[:count]] = [edges[(start + i) % len(edges)] for i in range(count)]
    return flat.reshape(values.shape)


def _ids(
    rng: np.random.Generator, spec: TensorSpec, shape: tuple[int, ...], end: int | None, draw: str, seed: int
) -> np.ndarray:
    """Return ids as in texts, up to the last one, with zeros at the end of every second row. Unless `draw` is "normal",
    other rows have zeros at the beginning and, except for ``WITH_TOKENS``, the last one has zeros only; a single row,
    for every second seed."""
    if spec.spread is not None:
        return rng.uniform(0, spec.spread, shape)
    least, most = spec.least, (end or 1) - 1
    values = rng.integers(least, most + 1, shape)
    first = (most, least) if seed % 2 == (draw != "normal") else (least, most)
    values.reshape(-1)[rng.permutation(values.size)[:2]] = first[: values.size]
    if len(shape) != 2 or shape[1] < 3 or not least <= 0 <= most:
        return values
    third = shape[1] // 3
    for row in range(shape[0]):
        if (row + seed) % 2:
            values[row, -third:] = 0
        elif draw != "normal" and row:
            values[row, :third] = 0
    if draw not in WITH_TOKENS and (shape[0] > 1 or seed % 2 == 0):
        values[-1] = 0
    if draw in WITH_TOKENS or shape[0] > 1:
        values[0, 1] = most
    return values


def _booleans(rng: np.random.Generator, shape: tuple[int, ...], draw: str, seed: int) -> np.ndarray:
    """Return booleans of either value; for "large", a last row of True, and except for ``WITH_TOKENS``, of False. A
    single row is such a row for every second seed only."""
    values = rng.integers(0, 2, shape).astype(bool)
    first = seed % 2 == (draw != "normal")
    values.reshape(-1)[rng.permutation(values.size)[:2]] = [first, not first][: values.size]
    if draw not in ("normal", "mixed") and shape and (shape[0] > 1 or seed % 2 == 0):
        values[-1] = draw == "large"
        values.reshape(-1)[: values.size - values[-1].size][:1] = draw != "large"
    return values
