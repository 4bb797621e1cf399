"""When a number of a file is Keras' number: the rules, and the table they end in.

1. *relative*: no farther from Keras than `tolerance` times the largest magnitude of the output. Both compute in
   float32, which has seven digits; what is left over is the order of sums.
2. *float64*: where the distance is greater, since real weights amplify rounding, the same model computing in float64
   is the judge. The file passes if it is no farther from that than ``FARTHER`` times Keras' own float32, or, since
   that may be near by accident, than ``FARTHER`` times as far as rounded weights alone lead.
3. *cosine*: of a file with smaller numbers, whose distance says little, the angle of every row's outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..precision.cosine import VECTOR, cosines

Arrays = Mapping[str, np.ndarray]

TOLERANCE = 2e-5
FARTHER = 8.0  # other kernels and orders of sums: measured are 0.3 to 3 times
ROUNDING = 2.0**-23  # of float32, relative: Keras is no nearer to float64 than that, but by accident


@dataclass(frozen=True)
class Closeness:
    """Rule 3, in place of a tolerance: the least cosine, as a mean over the positions of one row of a batch."""

    cosine: float


@dataclass(frozen=True)
class Check:
    """One comparison or property.

    Attributes:
        difference: from Keras, relative to the largest magnitude of the output; None where nothing was compared.
        rule: which decided, "relative", "float64" or "cosine"; "" where nothing was compared.
    """

    name: str
    passed: bool
    difference: float | None
    detail: str
    rule: str = ""


def compare(
    name: str,
    actual: Arrays,
    expected: Arrays,
    exact: Callable[[bool], Arrays],
    tolerance: float | Closeness,
    valid: Callable[[str], np.ndarray | None] = lambda _: None,
) -> Check:
    """The outputs of a file beside Keras'.

    Args:
        name: of the case.
        actual: the file's outputs by name.
        expected: Keras' in float32. Of `actual`, exactly these are compared.
        exact: Keras' in float64, asked for where rule 1 does not do; given True, with weights that rounding may make.
        valid: by an output's name, which of its first two axes count, (batch, length) booleans; None for all.
    """
    found: list[_Found] = []
    worst = 0.0
    judged: Arrays | None = None
    shaken: Arrays | None = None
    for output, in_keras in expected.items():
        in_file = actual[output]
        if in_file.shape != in_keras.shape:
            return Check(name, False, None, f"{output} has shape {in_file.shape} for {in_keras.shape}")
        for side, array in (("in Keras", in_keras), ("in the file", in_file)):
            if not np.isfinite(array).all():
                return Check(name, False, None, f"{output} is not finite {side}")
        counted = valid(output)
        if counted is None:
            counted = np.ones(in_keras.shape[:1], bool)
        theirs, ours = in_keras[counted], in_file[counted]
        scale = float(np.abs(theirs).max(initial=0)) or 1.0
        distance = _distance(ours, theirs)
        worst = max(worst, distance / scale)
        if isinstance(tolerance, Closeness):
            near = _lowest(in_file, in_keras, counted, centred=output == "logits")
            found.append(_Found(1 - near, near >= tolerance.cosine, f"{output} cosine {near:.5f}", "cosine"))
            continue
        detail = f"{output} {distance:.1e} of {scale:.1e}"
        if distance <= tolerance * scale:
            found.append(_Found(distance / (tolerance * scale), True, detail, "relative"))
            continue
        judged = exact(False) if judged is None else judged
        truth = np.asarray(judged[output], "float64")[counted]
        own, other = _distance(ours, truth), max(_distance(theirs, truth), ROUNDING * scale)
        detail += f": {own / other:.1f} times as far from float64 as Keras"
        if own > FARTHER * other:
            shaken = exact(True) if shaken is None else shaken
            other = max(other, _distance(np.asarray(shaken[output], "float64")[counted], truth))
            detail += f", {own / other:.1f} times as far as rounding leads"
        found.append(_Found(1 + own / other, own <= FARTHER * other, detail, "float64"))
    passed = all(one.passed for one in found)
    shown = max(one for one in found if passed or not one.passed)
    outputs = f"{len(found)} outputs, " if len(found) > 1 else ""
    return Check(name, passed, worst, outputs + shown.detail, shown.rule)


class _Found(NamedTuple):
    """Of one output; `share` of what is allowed comes first, as they are ordered by it."""

    share: float
    passed: bool
    detail: str
    rule: str


def _lowest(one: np.ndarray, other: np.ndarray, counted: np.ndarray, *, centred: bool) -> float:
    """The mean cosine of the row of a batch that is farthest off."""
    if one.ndim < 2 or one.shape[-1] < VECTOR:
        return float(cosines(one[counted], other[counted])[0])
    rows = [cosines(o[c], t[c], centred=centred) for o, t, c in zip(one, other, counted, strict=True) if c.any()]
    return min((float(row.mean()) for row in rows), default=1.0)


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype("float64") - other.astype("float64")).max(initial=0))
