"""The rules by which the outputs of a file count as equal to those of Keras, and the results of the checks.

1. *relative*: the difference from Keras is at most `tolerance` times the largest magnitude of the output. Both compute
   in float32, which has seven digits; the remaining differences come from the order of summation.
2. *float64*: if the difference is larger, since real weights amplify rounding errors, the same model computing in
   float64 decides. The file passes if its error against float64 is at most ``FARTHER`` times that of Keras in float32.
   Since Keras may be near to float64 by accident, the file also passes if its error is at most ``FARTHER`` times the
   effect of rounding errors in the weights alone.
3. *cosine*: for a file in reduced precision, whose differences say little, the cosine similarity of the outputs of
   every row decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..precision.cosine import VECTOR, cosines

Arrays = Mapping[str, np.ndarray]

TOLERANCE = 2e-5
FARTHER = 8.0  # for other kernels and orders of summation; 0.1 to 3 were measured
ROUNDING = 2.0**-23  # relative, of float32; Keras is nearer to float64 than this only by accident


@dataclass(frozen=True)
class Closeness:
    """The threshold of rule 3, in place of a tolerance: the lowest accepted cosine, as a mean over the positions of a
    row."""

    cosine: float


@dataclass(frozen=True)
class Check:
    """The result of one comparison, or of the check of one property.

    Attributes:
        difference: from Keras, relative to the largest magnitude of the output; None if no outputs were compared.
        rule: the rule that decided, "relative", "float64" or "cosine"; "" if no outputs were compared.
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
    """Compare the outputs of a file with those of Keras.

    Args:
        name: of the check.
        actual: the outputs of the file, by name.
        expected: the outputs of Keras in float32. Only these outputs of `actual` are compared.
        exact: computes the outputs of Keras in float64, and is called if rule 1 does not hold. If its argument is True,
            the weights have simulated rounding errors.
        tolerance: relative to the largest magnitude of an output, or a ``Closeness`` for rule 3.
        valid: returns which positions of the first two axes of an output count, (batch, length) booleans, or None for
            all; called with the name of the output.
    """
    found: list[_Found] = []
    worst = 0.0
    judged: Arrays | None = None
    shaken: Arrays | None = None
    for output, in_keras in expected.items():
        in_file = actual[output]
        if in_file.shape != in_keras.shape:
            return Check(name, False, None, f"{output} has shape {in_file.shape}; expected {in_keras.shape}")
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
            found.append(_Found(1 - near, near >= tolerance.cosine, f"{output}: lowest cosine {near:.5f}", "cosine"))
            continue
        detail = f"{output}: maximum difference {distance:.1e}, largest magnitude {scale:.1e}"
        if distance <= tolerance * scale:
            found.append(_Found(distance / (tolerance * scale), True, detail, "relative"))
            continue
        judged = exact(False) if judged is None else judged
        truth = np.asarray(judged[output], "float64")[counted]
        own, other = _distance(ours, truth), max(_distance(theirs, truth), ROUNDING * scale)
        detail += f"; error against float64 is {own / other:.1f} times that of Keras"
        if own > FARTHER * other:
            shaken = exact(True) if shaken is None else shaken
            other = max(other, _distance(np.asarray(shaken[output], "float64")[counted], truth))
            detail += f", {own / other:.1f} times the effect of rounding errors in the weights"
        found.append(_Found(1 + own / other, own <= FARTHER * other, detail, "float64"))
    passed = all(one.passed for one in found)
    shown = max(one for one in found if passed or not one.passed)
    outputs = f"{len(found)} outputs, " if len(found) > 1 else ""
    return Check(name, passed, worst, outputs + shown.detail, shown.rule)


class _Found(NamedTuple):
    """The result for one output. `share` is the used fraction of what is allowed; it comes first because results are
    sorted by it."""

    share: float
    passed: bool
    detail: str
    rule: str


def _lowest(one: np.ndarray, other: np.ndarray, counted: np.ndarray, *, centred: bool) -> float:
    """Return the mean cosine of the row of the batch for which it is lowest."""
    if one.ndim < 2 or one.shape[-1] < VECTOR:
        return float(cosines(one[counted], other[counted])[0])
    rows = [cosines(o[c], t[c], centred=centred) for o, t, c in zip(one, other, counted, strict=True) if c.any()]
    return min((float(row.mean()) for row in rows), default=1.0)


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype("float64") - other.astype("float64")).max(initial=0))
