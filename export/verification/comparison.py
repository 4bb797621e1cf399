"""The rules by which the outputs of a file count as equal to those of Keras, and the results of the checks.

1. *relative*: the difference from Keras is at most `tolerance` times the largest magnitude of the output. Both compute
   in float32, which has seven digits; the remaining differences come from the order of summation.
2. *float64*: if the difference is larger, since real weights amplify rounding errors, the same model computing in
   float64 decides. The file passes if its error against float64 is at most ``FARTHER`` times that of Keras in float32.
   Since Keras may be near to float64 by accident, the file also passes if its error is at most ``FARTHER`` times the
   effect of rounding errors in the weights alone or, for a third-party model, in the outputs of its layers, which may
   decide between equal values.
   If Keras cannot compute the model in float64, its own float32 result takes the place of float64.
3. *cosine*: for a file in reduced precision, whose differences say little, the cosine similarity of the outputs of
   every row decides.

Integers and booleans must be equal, or differ no more than rule 2 allows, since they may be computed from floats.

NaN and infinities of a third-party model are right where Keras has them too, with the same sign. Where Keras has NaN or
an infinity in float32 but not in float64, or the other way around, the range of float32 is too small for the model, and
the values are not compared.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ..precision.cosine import VECTOR, cosines

Arrays = Mapping[str, np.ndarray]

TOLERANCE = 2e-5
FARTHER = 8.0  # for other kernels and orders of summation; 0.1 to 3 were measured
APART = 20  # positions, of which one may be an outlier
ROUNDING = 2.0**-23  # relative, of float32; Keras is nearer to float64 than this only by accident


@dataclass(frozen=True)
class Closeness:
    """The thresholds of rule 3, in place of a tolerance.

    Attributes:
        cosine: the lowest accepted cosine, as a mean over the positions of a row.
        farthest: by output, the highest accepted 1 - cosine of a single position, apart from one of `APART`; no limit
            for other outputs.
    """

    cosine: float
    farthest: Mapping[str, float] = field(default_factory=dict)


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
    exact: Callable[[int], Arrays],
    tolerance: float | Closeness,
    valid: Callable[[str], np.ndarray | None] = lambda _: None,
    *,
    finite: bool = True,
    by_row: Collection[str] = (),
    slack: float = 1.0,
) -> Check:
    """Compare the outputs of a file with those of Keras.

    Args:
        name: of the check.
        actual: the outputs of the file, by name.
        expected: the outputs of Keras in float32. Only these outputs of `actual` are compared.
        exact: computes the outputs of Keras in float64, and is called if rule 1 does not hold. If its argument is 1,
            the weights have simulated rounding errors; if it is 2, the outputs of layers have them, too.
        tolerance: relative to the largest magnitude of an output, or a ``Closeness`` for rule 3.
        valid: returns which positions of the first two axes of an output count, (batch, length) booleans, or None for
            all; called with the name of the output.
        finite: whether every value must be a number. If not, NaN and infinities are right where Keras has them too.
        by_row: names of outputs of which each row is compared by itself, relative to its own largest magnitude.
        slack: by how much `tolerance` is larger for outputs from large values, next to which float32 loses the small
            ones in a sum. If rows are compared by themselves, these are all rows but the first.
    """
    found: list[_Found] = []
    worst = 0.0
    judges = _Judges(exact, 1 if finite else 2)
    for output, in_keras in expected.items():
        in_file = actual[output]
        if in_file.shape != in_keras.shape:
            return Check(name, False, None, f"{output} has shape {in_file.shape}; expected {in_keras.shape}")
        for side, array in (("in Keras", in_keras), ("in the file", in_file)) if finite else ():
            if not np.isfinite(array).all():
                return Check(name, False, None, f"{output} is not finite {side}")
        counted = valid(output)
        if counted is None:
            counted = np.ones(in_keras.shape[:1], bool)
        rows = [(output, counted)]
        if output in by_row and len(in_keras) > 1:
            rows = [(f"{output}, row {row}", np.arange(len(in_keras)) == row) for row in range(len(in_keras))]
        for number, (label, counted) in enumerate(rows):
            limit = tolerance
            if not isinstance(limit, Closeness) and (number or len(rows) == 1):
                limit *= slack
            one, relative = _compared(output, label, in_file, in_keras, counted, judges, limit)
            worst = max(worst, relative)
            found.append(one)
    passed = all(one.passed for one in found)
    shown = max((one for one in found if passed or not one.passed), default=_Found(0.0, True, "no outputs", ""))
    outputs = f"{len(expected)} outputs, " if len(expected) > 1 else ""
    return Check(name, passed, worst, outputs + shown.detail, shown.rule)


class _Judges:
    """The outputs of Keras in float64, computed on first use: without and with simulated rounding errors, in up to
    `most` places; see ``compare``."""

    def __init__(self, exact: Callable[[int], Arrays], most: int) -> None:
        self.exact, self.most = exact, most
        self.results: dict[int, Arrays] = {}

    def __call__(self, output: str, counted: np.ndarray, shaken: int = 0) -> np.ndarray:
        if shaken not in self.results:
            self.results[shaken] = self.exact(shaken)
        values = self.results[shaken][output]
        return (values if values.dtype.kind in "iub" else np.asarray(values, "float64"))[counted]


def _compared(
    output: str,
    label: str,
    in_file: np.ndarray,
    in_keras: np.ndarray,
    counted: np.ndarray,
    judges: _Judges,
    tolerance: float | Closeness,
) -> tuple[_Found, float]:
    """Compare the `counted` rows or positions of one output. Return the result, and the maximum difference relative to
    the largest magnitude in Keras."""
    theirs, ours = in_keras[counted], in_file[counted]
    whole = theirs.dtype.kind in "iub"
    same = _same_kind(ours, theirs)
    numbers = np.isfinite(theirs) & np.isfinite(ours) & ~_overflowed(ours, theirs)
    remark = "" if np.isfinite(theirs).all() else f", {int(numbers.sum())} of {theirs.size} values are finite"
    if not same.all() and not isinstance(tolerance, Closeness):
        wrong = ~same & _same_kind(judges(output, counted), theirs)
        if wrong.any():
            place = np.unravel_index(int(np.argmax(wrong)), wrong.shape)
            detail = f"{label}: {int(wrong.sum())} of {wrong.size} values are not as in Keras, for example "
            return _Found(np.inf, False, f"{detail}{ours[place]} in place of {theirs[place]}", "relative"), np.inf
        remark += f", {int((~same).sum())} of them only in float64 or only in float32"
    if isinstance(tolerance, Closeness):  # a value that is finite on one side only counts as a difference
        one, other = (np.where(np.isfinite(side), side, 0) for side in (in_file, in_keras))
        near = _lowest(one, other, counted, centred=output == "logits")
        far = 1 - _single(one, other, counted, centred=output == "logits")
        scale, distance = _scale(theirs, numbers), _distance(ours, theirs, numbers)
        detail = f"{label}: lowest cosine {near:.5f}{remark}"
        most = tolerance.farthest.get(output, np.inf)
        if far > most:
            detail += f"; at more than one of {APART} positions 1 - cosine is {far:.2g}, and {most:.2g} was measured"
        return _Found(1 - near, near >= tolerance.cosine and far <= most, detail, "cosine"), distance / scale
    scale, distance = _scale(theirs, numbers), _distance(ours, theirs, numbers)
    detail = f"{label}: maximum difference {distance:.1e}, largest magnitude {scale:.1e}{remark}"
    limit = 0.0 if whole else tolerance * scale
    if distance <= limit:
        return _Found(distance / limit if limit else 0.0, True, detail, "relative"), distance / scale
    truth = judges(output, counted)
    numbers &= np.isfinite(truth)
    own = _distance(ours, truth, numbers)
    other = max(_distance(theirs, truth, numbers), 0.0 if whole else ROUNDING * scale)
    detail += f"; error against float64 is {_times(own, other)} that of Keras"
    for shaken, place in enumerate(("weights", "weights and layers")[: judges.most], start=1):
        if own > FARTHER * other:
            moved = judges(output, counted, shaken)
            other = max(other, _distance(moved, truth, numbers & np.isfinite(moved)))
            detail += f", {_times(own, other)} the effect of rounding errors in the {place}"
    return _Found(1 + own / (other or 1.0), own <= FARTHER * other, detail, "float64"), distance / scale


def _same_kind(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return where both values are finite, both NaN, or both the same infinity."""
    finite = np.isfinite(one) & np.isfinite(other)
    return finite | (np.isnan(one) & np.isnan(other)) | (~finite & (one == other))


def _overflowed(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return where both integers are at a limit of their dtype, as floats beyond it become: either may be right."""
    if one.dtype.kind != "i" or one.dtype != other.dtype:
        return np.zeros(one.shape, bool)
    limits = np.iinfo(one.dtype)
    return np.isin(one, (limits.min, limits.max)) & np.isin(other, (limits.min, limits.max))


def _scale(values: np.ndarray, numbers: np.ndarray) -> float:
    values = values if numbers.all() else values[numbers]
    values = values if values.dtype.kind == "f" else values.astype("float64")  # an integer may have no negative
    return float(np.abs(values).max(initial=0)) or 1.0


def _times(one: float, other: float) -> str:
    return f"{one / other:.1f} times" if other else "infinitely more than"


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


def _single(one: np.ndarray, other: np.ndarray, counted: np.ndarray, *, centred: bool) -> float:
    """Return the lowest cosine of a position, apart from one of 20: a language model has single tokens whose logits
    rounding moves much farther than those of all others. It is 1 for vectors that are too short to have a direction.
    """
    if one.ndim < 2 or one.shape[-1] < VECTOR:
        return 1.0
    found = np.sort(cosines(one[counted], other[counted], centred=centred).ravel())
    apart = -(-found.size // APART) if found.size >= APART else 0
    return float(found[apart:].min(initial=1.0))


def _distance(one: np.ndarray, other: np.ndarray, numbers: np.ndarray) -> float:
    """Return the maximum difference at the places of `numbers`."""
    one, other = one[numbers], other[numbers]
    if np.array_equal(one, other):  # also for integers that float64 cannot hold
        return 0.0
    return float(np.abs(one.astype("float64") - other.astype("float64")).max(initial=0)) or 1.0
