"""Rotation of the inputs of matrix multiplications, so that 8 bits suffice for their activations.

In a language model a few features of the activations are up to a hundred times as large as the others. The range of a
row, which all of its features share, then leaves the others a few steps only. A Hadamard matrix H of size b, applied
to each b consecutive features, spreads such a feature over b of them. H is orthogonal and symmetric, so the result does
not change in exact arithmetic: ``x @ W = (x @ H) @ (H @ W)``. ``H @ W`` is stored in place of W, and takes no more
bytes. (QuaRot, arXiv:2404.00456, rotates the hidden states of a whole model; blocks can be rotated at any input.)

A rotation costs b multiplications per feature, and an operator that a decode step has to start. Only inputs where it
pays are therefore rotated. Which these are is measured with the Keras model: each matrix multiplication is computed
with rounded activations and weights, rotated and not.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from ...layers import functional as F
from ..frontend.inference import FileWeights, inference
from .answers import questions_as_ids
from .samples import calibration_of

Array = np.ndarray

LEAST_BLOCK = 8  # features
SAMPLES = 2  # of questions, and of other texts
LONGEST = 64  # tokens of a sample
MOST_TOKENS, MOST_OUTPUTS = 32, 256  # of one matrix multiplication that are measured, evenly spaced
LOWER = 0.9  # of the squared error: a rotation that leaves more than this is not worth an operator
SUFFICIENT = 0.999  # of the reduction that all rotations together would bring


@dataclass
class RoundingError:
    """Squared errors of the outputs of one matrix multiplication in 8 bits, relative to the squares of its outputs,
    as a mean over tokens.

    Attributes:
        plain: without a rotation.
        rotated: with one.
        tokens: the number of tokens that were measured.
    """

    plain: float = 0.0
    rotated: float = 0.0
    tokens: int = 0


def hadamard(size: int) -> Array:
    """Return the orthogonal, symmetric Hadamard matrix (size, size) float32; `size` is a power of two."""
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return (matrix / np.sqrt(size)).astype("float32")


def block_of(width: int, most: int) -> int:
    """Return the size of the blocks that `width` features are rotated in: the largest power of two up to `most` that
    divides `width`, or 0 if that is too small to be of use."""
    size = math.gcd(width, most)
    return size if size >= LEAST_BLOCK else 0


def rotated(rows: Array, size: int) -> Array:
    """Return `rows` (..., width) with each `size` consecutive elements multiplied by ``hadamard(size)``."""
    x, step = rows.reshape(-1, size), 1
    while step < size:  # the fast Walsh-Hadamard transform
        pairs = x.reshape(-1, 2, step)
        x = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], axis=1)
        step *= 2
    return x.reshape(rows.shape) * np.float32(1 / np.sqrt(size))


def rounding_errors(model: Any, most: int) -> dict[str, RoundingError]:
    """Measure what rotations in blocks of up to `most` features bring, on built-in questions and calibration data.

    Returns:
        The errors by the name of the kernel, or of the embedding table that is the head; {} for a model that takes more
        than `input_ids`.
    """
    errors: dict[str, RoundingError] = {}
    if any(not spec.optional and spec.name != "input_ids" for spec in model.signature.inputs):
        return errors
    with inference(model) as weights:
        names: dict[Any, str] = {id(variable): name for name, variable in weights.variables.items()}
        # A tied table is cast before it is multiplied, so it is recognized by its shape.
        names |= {tuple(variable.shape): name for name, variable in weights.variables.items()}
        with F.lowering({"dense": _recorded(names, weights, errors, most)}):
            for sample in _samples(model):
                model(sample)
    return errors


def _samples(model: Any) -> Iterator[dict[str, Array]]:
    asked = [] if model.tokenizer is None else questions_as_ids(model.tokenizer)
    rows = [ids[None] for _, ids in asked[:SAMPLES]]
    rows += [sample["input_ids"] for sample in islice(calibration_of(model.signature, model.tokenizer), SAMPLES)]
    longest = min(LONGEST, model.signature.limits.get("sequence", LONGEST))
    for row in rows:
        yield {"input_ids": np.asarray(row)[:1, :longest].astype("int32")}


def _recorded(names: Mapping[Any, str], weights: FileWeights, errors: dict[str, RoundingError], most: int) -> Any:
    """Return a form of the primitive ``dense`` that adds to `errors`."""
    import keras

    known: dict[str, tuple[_Rows, _Rows]] = {}

    def dense(inputs: Any, kernel: Any, bias: Any = None, *, transpose_kernel: bool = False) -> Any:
        outputs = F.PRIMITIVES["dense"](inputs, kernel, None, transpose_kernel=transpose_kernel)
        name = names.get(tuple(kernel.shape) if transpose_kernel else id(kernel))
        size = block_of(int(inputs.shape[-1]), most)
        if name is not None and size:
            if name not in known:
                value = weights.value(name)
                rows = value if transpose_kernel else value.T
                rows = np.ascontiguousarray(rows[:: max(1, len(rows) // MOST_OUTPUTS)])
                known[name] = _Rows(rows), _Rows(rotated(rows, size))
            x, y = (np.asarray(keras.ops.convert_to_numpy(t), "float32") for t in (inputs, outputs))
            x, y = (t.reshape(-1, t.shape[-1])[:: max(1, t[..., 0].size // MOST_TOKENS)] for t in (x, y))
            energy = np.maximum(np.square(y).mean(-1), 1e-30)  # of each token: some are a thousand times the others
            sides = zip(known[name], (x, rotated(x, size)), strict=True)
            plain, turned = (float((side.error(rows) / energy).mean()) for side, rows in sides)
            error = errors.setdefault(name, RoundingError())
            whole = error.tokens + len(x)
            error.plain += (plain - error.plain) * len(x) / whole
            error.rotated += (turned - error.rotated) * len(x) / whole
            error.tokens = whole
        return outputs if bias is None else keras.ops.add(outputs, bias)

    return dense


class _Rows:
    """The weights (out, in) of some outputs, reduced to the effect of rounding errors that are independent."""

    def __init__(self, rows: Array) -> None:
        self.squares = np.square(rows).mean(0)  # (in,)
        self.rounding = np.square(rounded_weights(rows) - rows).mean(0)

    def error(self, x: Array) -> Array:
        """Return the mean squared error of the outputs of each token, with activations `x` (tokens, in) and weights in
        8 bits."""
        return (np.square(rounded_rows(x) - x) * self.squares + np.square(x) * self.rounding).sum(-1)


def rounded_rows(x: Array) -> Array:
    """Round activations (rows, width) to 8 bits with a range for each row, which includes zero, as LiteRT does."""
    low, high = np.minimum(x.min(-1, keepdims=True), 0), np.maximum(x.max(-1, keepdims=True), 0)
    scale = np.maximum((high - low) / 255, np.float32(1e-30))
    zero = np.rint(-128 - low / scale)
    return (np.clip(np.rint(x / scale) + zero, -128, 127) - zero) * scale


def rounded_weights(rows: Array) -> Array:
    """Round weights (out, in) to 8 bits with a scale for each output."""
    scale = np.maximum(np.abs(rows).max(-1, keepdims=True) / 127, np.float32(1e-30))
    return np.rint(rows / scale) * scale


def worth_rotating(
    errors: Mapping[str, RoundingError], products: Iterable[tuple[Sequence[str], int]]
) -> Collection[int]:
    """Choose the fewest rotations that bring most of what rotations can.

    Args:
        errors: by the name of the weight.
        products: for each matrix multiplication the names of its weights, which may be several joined into one, and the
            number of features to rotate.

    Returns:
        The indices of those worth a rotation.
    """
    gains = []
    for place, (names, cost) in enumerate(products):
        found = [errors[name] for name in names if name in errors]
        plain, turned = sum(error.plain for error in found), sum(error.rotated for error in found)
        if turned < LOWER * plain:
            gains.append((plain - turned, cost, place))
    gains.sort(key=lambda gain: gain[0] / gain[1], reverse=True)
    left = sum(gain for gain, _, _ in gains)
    rest = (1 - SUFFICIENT) * left
    chosen = []
    for gain, _, place in gains:
        if left <= rest:
            break
        chosen.append(place)
        left -= gain
    return chosen
