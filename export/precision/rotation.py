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
MOST_TOKENS, MOST_OUTPUTS = 24, 256  # of one matrix multiplication that are measured, evenly spaced
LOWER = 0.9  # of the squared error: a rotation that leaves more than this is not worth an operator
SUFFICIENT = 0.99  # of the reduction that all rotations together would bring


@dataclass
class RoundingError:
    """Squared errors of the outputs of one matrix multiplication in 8 bits, relative to the squares of its outputs.

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
    return np.matmul(rows.reshape(-1, size), hadamard(size)).reshape(rows.shape)


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

    matrices: dict[str, tuple[Array, Array, Array]] = {}

    def dense(inputs: Any, kernel: Any, bias: Any = None, *, transpose_kernel: bool = False) -> Any:
        name = names.get(tuple(kernel.shape) if transpose_kernel else id(kernel))
        size = block_of(int(inputs.shape[-1]), most)
        if name is not None and size:
            if name not in matrices:
                value = weights.value(name)
                rows = value if transpose_kernel else value.T
                rows = np.ascontiguousarray(rows[:: max(1, len(rows) // MOST_OUTPUTS)])
                matrices[name] = rows, rounded_weights(rows), rounded_weights(rotated(rows, size))
            x = np.ascontiguousarray(keras.ops.convert_to_numpy(inputs), "float32").reshape(-1, inputs.shape[-1])
            x = x[:: max(1, len(x) // MOST_TOKENS)]
            rows, plain, turned = matrices[name]
            wanted = x @ rows.T
            energy = max(float(np.square(wanted).sum()), 1e-30)
            error, part = errors.setdefault(name, RoundingError()), len(x)
            whole = error.tokens + part
            found = [rounded_rows(x) @ plain.T, rounded_rows(rotated(x, size)) @ turned.T]
            one, other = (float(np.square(outputs - wanted).sum()) / energy for outputs in found)
            error.plain = (error.plain * error.tokens + one * part) / whole
            error.rotated = (error.rotated * error.tokens + other * part) / whole
            error.tokens = whole
        return F.PRIMITIVES["dense"](inputs, kernel, bias, transpose_kernel=transpose_kernel)

    return dense


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
