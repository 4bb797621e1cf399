"""The proof: the exported file and the Keras model, side by side, over the shapes and paddings that go wrong."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..zoo.signature import Signature
from .inputs import PADDINGS, example_inputs
from .runtime import Runner, load
from .spec import ExportError, call, exportable

if TYPE_CHECKING:
    from ..zoo.base import ZooModel

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Check:
    """One comparison or property. `difference` is from Keras, None where nothing was compared."""

    name: str
    passed: bool
    difference: float | None
    detail: str


@dataclass(frozen=True)
class VerifyReport:
    """What was checked of one file, and how it went."""

    path: str
    format: str
    sha256: str
    tolerance: float
    seconds: float
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def greatest_difference(self) -> float:
        return max((check.difference for check in self.checks if check.difference is not None), default=float("nan"))

    def to_json(self) -> str:
        summary = {"passed": self.passed, "greatest_difference": self.greatest_difference}
        return json.dumps({**summary, **asdict(self)}, indent=2)

    def to_markdown(self) -> str:
        verdict = "passed" if self.passed else "FAILED"
        head = [
            f"**{self.path}**: {verdict}, {len(self.checks)} checks, greatest difference "
            f"{self.greatest_difference:.1e} (tolerance {self.tolerance:.0e})",
            "",
            "| check | difference | verdict | |",
            "|---|---|---|---|",
        ]
        rows = [
            f"| {c.name} | {'' if c.difference is None else f'{c.difference:.1e}'} | {'pass' if c.passed else 'FAIL'} "
            f"| {c.detail} |"
            for c in self.checks
        ]
        return "\n".join(head + rows)


def verify(model: ZooModel, path: str | os.PathLike[str], *, tolerance: float = TOLERANCE) -> VerifyReport:
    """Compare an exported file with the model it came from, in the file's own runtime.

    ONNX: batches of 1 and 3, sequences of 1, 7 and 33, each without padding and padded right, left and in between,
    or images of three sizes; TFLite: its own static shape. A row without any token, two runs alike, and names and
    dimensions as the model states them.

    Args:
        tolerance: greatest accepted absolute difference at positions that are not padding, times the largest
            magnitude of the Keras output where that is above 1 (float32 has seven digits, not more).

    Raises:
        ValueError: no such file, not a file of this model's family, or not a model of attention_zoo.
    """
    start = time.perf_counter()
    model = exportable(model)
    if not isinstance(tolerance, int | float) or not tolerance > 0:
        raise ValueError(f"tolerance: got {tolerance!r}; accepted: a positive number")
    runner = load(path)
    checks = [_check_names(model, runner)]
    if checks[0].passed:
        checks += [_compare(model, runner, *case, tolerance) for case in _cases(runner.signature)]
        checks.append(_check_repeats(runner))
    return VerifyReport(
        path=str(path),
        format=runner.format,
        sha256=_digest(Path(path)),
        tolerance=tolerance,
        seconds=time.perf_counter() - start,
        checks=tuple(checks),
    )


def quick_check(model: ZooModel, runner: Runner) -> float:
    """The greatest difference from Keras on one left-padded batch.

    Raises:
        ExportError: more than the tolerance, or a number that is none.
    """
    signature = runner.signature
    sizes = {"sequence": min(7, signature.limits.get("sequence", 7)), "batch": 2}
    images = {dim: size for dim, size in signature.defaults.items() if dim != "sequence"}
    inputs = example_inputs(signature, {**sizes, **images, **signature.sizes}, padding="left")
    check = _compare(model, runner, "check", inputs, TOLERANCE)
    if not check.passed or check.difference is None:
        raise ExportError(f"the exported file differs from Keras: {check.detail}")
    return check.difference


def _cases(signature: Signature) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    fixed = signature.sizes
    batches = [fixed["batch"]] if "batch" in fixed else [1, 3]
    if any(spec.name == "input_ids" for spec in signature.inputs):
        limit = signature.limits.get("sequence", 33)
        lengths = [fixed["sequence"]] if "sequence" in fixed else sorted({1, min(7, limit), min(33, limit)})
        for batch, length, padding in itertools.product(batches, lengths, (*PADDINGS, "all")):
            if padding == "none" or (length > 1 or padding == "all"):
                sizes = {"batch": batch, "sequence": length}
                name = f"batch {batch}, sequence {length}, padding {padding}"
                yield name, example_inputs(signature, sizes, padding=padding, seed=length)
        return
    step, native = signature.multiples, signature.defaults
    images = [(native["height"], native["width"])]
    if "height" in fixed:
        images = [(fixed["height"], fixed["width"])]
    else:  # one patch, and one that is not square
        images += [(step["height"], step["width"]), (native["height"] + step["height"], step["width"] * 2)]
    for batch, (height, width) in itertools.product(batches, images):
        sizes = {"batch": batch, "height": height, "width": width}
        yield f"batch {batch}, image {height} × {width}", example_inputs(signature, sizes, seed=height)


def _compare(model: ZooModel, runner: Runner, name: str, inputs: dict[str, np.ndarray], tolerance: float) -> Check:
    # The call an export traces, so that the names are the same; the mask says which positions count.
    expected = call(model, runner.signature, [inputs[spec.name] for spec in runner.signature.inputs])
    actual = runner.run(inputs)
    worst, passed, details = 0.0, True, []
    for spec in runner.signature.outputs:
        theirs, ours = np.asarray(expected[spec.name]), actual[spec.name]
        if ours.shape != theirs.shape:
            return Check(name, False, None, f"{spec.name} has shape {ours.shape} for {theirs.shape}")
        for side, array in (("in Keras", theirs), ("in the file", ours)):
            if not np.isfinite(array).all():
                return Check(name, False, None, f"{spec.name} is not finite {side}")
        if "attention_mask" in inputs and spec.dims[:2] == ("batch", "sequence"):
            valid = inputs["attention_mask"] == 1
            theirs, ours = theirs[valid], ours[valid]
        difference = float(np.abs(ours - theirs).max(initial=0))
        allowed = tolerance * max(1.0, float(np.abs(theirs).max(initial=0)))
        worst, passed = max(worst, difference), passed and difference <= allowed
        details.append(f"{spec.name} {difference:.1e} of {allowed:.1e}")
    return Check(name, passed, worst, ", ".join(details))


def _check_names(model: ZooModel, runner: Runner) -> Check:
    """The file's own inputs and outputs, read from the runtime, are those the model states."""
    signature = model.export_spec().exported(runner.signature.sizes)
    found = runner.runtime_signature()
    problems = []
    for side in ("inputs", "outputs"):
        expected = {spec.name: signature.shape(spec) for spec in getattr(signature, side)}
        actual = {spec.name: spec.dims for spec in getattr(found, side)}
        if set(expected) != set(actual):
            problems.append(f"{side} {sorted(actual)} for {sorted(expected)}")
            continue
        static = bool(signature.sizes)  # then the file has a size where the model has a name
        for name, dims in expected.items():
            sizes = actual[name]
            same = [size == dim or (static and isinstance(dim, str)) for size, dim in zip(sizes, dims, strict=False)]
            if len(sizes) != len(dims) or not all(same):
                problems.append(f"{name} has dimensions {sizes} for {dims}")
    if runner.signature != signature:
        problems.append("the file was made of a model of another signature")
    return Check("names and dimensions", not problems, None, "; ".join(problems))


def _check_repeats(runner: Runner) -> Check:
    _, inputs = next(_cases(runner.signature))
    first, second = runner.run(inputs), runner.run(inputs)
    same = all(np.array_equal(first[name], second[name]) for name in first)
    return Check("two runs alike", same, None, "" if same else "two runs of the same inputs differ")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
