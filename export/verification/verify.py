"""Verification of an exported file: a comparison with the Keras model over many shapes and paddings."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from ...checks import choice, fraction, positive_number
from ...runtime.graph_names import is_prefill
from ...runtime.inputs import example_inputs
from ...runtime.loading import load
from ...runtime.runner import Runner
from ...signature import Graph, Signature, TensorSpec
from ..frontend.any_keras.channels_first import layout_in_file
from ..frontend.any_keras.model import Foreign
from ..frontend.diagnostics import one_line
from ..frontend.graphs import model_graphs
from ..frontend.huggingface_view import DIMENSIONS, as_in_file
from ..frontend.inference import FileWeights
from ..frontend.pixels import pixels_in_file
from ..frontend.spec import Exportable, exportable
from ..options import LEAST_COSINE, NAMES
from ..precision.onnx.files import file_signature
from ..precision.spread import farthest, spread_of
from ..request import check_samples
from .any_keras import example_sizes
from .cases import longest
from .comparison import TOLERANCE, Check, Closeness
from .contents import content_checks, precision_check, weight_checks
from .places import NEAR, first_difference
from .plan import plan
from .twin import twin_of


@dataclass(frozen=True)
class VerifyReport:
    """The result of ``verify`` for one file.

    Attributes:
        path: path of the file.
        format: "onnx" or "tflite".
        sha256: SHA-256 of the file at `path`, in hexadecimal digits.
        tolerance: largest accepted difference, relative to the largest magnitude of an output; for a file in reduced
            precision that was verified without a `tolerance`, 1 minus the lowest accepted cosine.
        seconds: duration of the verification.
        checks: results of the checks.
        precision: "fp32", "fp16", "int8" or "int4".
        by_cosine: whether the cosine decides, and not the difference.
    """

    path: str
    format: str
    sha256: str
    tolerance: float
    seconds: float
    checks: tuple[Check, ...]
    precision: str = "fp32"
    by_cosine: bool = False

    @property
    def passed(self) -> bool:
        """Whether all checks passed."""
        return all(check.passed for check in self.checks)

    @property
    def failures(self) -> int:
        """The number of checks that failed."""
        return sum(not check.passed for check in self.checks)

    @property
    def greatest_difference(self) -> float:
        """Maximum difference from Keras, relative to the largest magnitude of the output; NaN if none was compared."""
        return max((check.difference for check in self.checks if check.difference is not None), default=float("nan"))

    def to_json(self) -> str:
        """Return all fields, `passed` and `greatest_difference` as JSON."""
        summary = {"passed": self.passed, "greatest_difference": self.greatest_difference}
        return json.dumps({**summary, **asdict(self)}, indent=2)

    def to_markdown(self) -> str:
        """Return a summary and a Markdown table with a row for each check, or for the first ones that failed."""
        verdict = "passed" if self.passed else f"FAILED in {self.failures}"
        judged = sum(check.rule == "float64" for check in self.checks)
        rule = f"tolerance {self.tolerance:.0e}, {judged} checks decided by float64"
        if self.by_cosine:
            rule = f"{self.precision}: cosine of at least {1 - self.tolerance:g} for every row"
        head = [
            f"**{self.path}**: {verdict}{', ' if self.passed else ' of '}{len(self.checks)} checks, maximum difference "
            f"{self.greatest_difference:.1e} ({rule})",
            "",
            "| check | difference | rule | result | details |",
            "|---|---|---|---|---|",
        ]
        shown = self.checks if self.passed else [check for check in self.checks if not check.passed][:SHOWN]
        rows = [
            f"| {c.name} | {'' if c.difference is None else f'{c.difference:.1e}'} | {c.rule} "
            f"| {'pass' if c.passed else 'FAIL'} | {c.detail} |"
            for c in shown
        ]
        if hidden := self.failures - len(shown) if not self.passed else 0:
            rows.append(f"| … | | | FAIL | {hidden} more |")
        return "\n".join(head + rows)


# Where two experts are almost equally likely, rounding selects the other one, and a short row differs by more.
ROUTED = 0.1
TOLERANCE_OF_HALF = 5e-3  # of the twin of a float16 ONNX file with large constants, such as angles, which stay rounded
SHOWN = 8  # failed checks in the report
SLACK = 3.0  # the cosine of a row of a few tokens varies more than that of the samples measured at export


@dataclass(frozen=True)
class Asked:
    """The arguments of ``export.verify`` that concern a file; see there."""

    tolerance: float | None = None
    input_signature: Any = None
    samples: Any = None
    precision: str | None = None
    least_cosine: float | None = None


@dataclass(frozen=True)
class Opened:
    """An ``.onnx`` or ``.tflite`` file to be compared.

    Attributes:
        model: the model, as it is in the file.
        runner: of the file.
        limit: for its outputs.
        asked: what is asked for.
    """

    model: Exportable
    runner: Runner
    limit: float | Closeness
    asked: Asked

    def checks(self) -> Iterator[Check]:
        """Yield the checks of the file, each of which is computed when it is taken."""
        model, runner, samples = self.model, self.runner, self.asked.samples
        names = _names(model, runner, model_graphs(model, runner.graphs))
        yield names
        if names.passed:
            yield from content_checks(model, runner)
            yield from _weights(model, runner, samples, self.asked.precision)
            yield from _comparisons(model, runner, self.limit, samples)
            yield _repeats(runner, samples)

    def report(self, path: Path, format: str, start: float, checks: tuple[Check, ...]) -> VerifyReport:
        """Return the report on a file, or on the folder or bundle at `path` that holds it.

        Args:
            start: ``time.perf_counter()`` when the verification began.
        """
        return VerifyReport(
            path=str(path),
            format=format,
            sha256=digest_of(self.runner.path if path.is_dir() else path),
            tolerance=1 - self.limit.cosine if isinstance(self.limit, Closeness) else self.limit,
            precision=self.runner.precision,
            by_cosine=isinstance(self.limit, Closeness),
            seconds=time.perf_counter() - start,
            checks=checks,
        )


def opened(model: Any, path: Path, asked: Asked) -> Opened:
    """Open a file to be compared with its model.

    Raises:
        ValueError: see ``export.verify``.
    """
    choice("precision", asked.precision, (None, *NAMES))
    model = exportable(model, asked.input_signature)
    tolerance = None if asked.tolerance is None else positive_number("tolerance", asked.tolerance)
    if asked.least_cosine is not None:
        fraction("least_cosine", asked.least_cosine)
    if asked.samples is not None and not isinstance(model, Foreign):
        raise ValueError(
            f"samples: got some for a {model.family}, whose inputs are known; accepted: None, or a model that is not "
            "of attention_zoo"
        )
    runner = load(path)
    model = layout_in_file(pixels_in_file(as_in_file(model, runner.signature), runner.metadata), runner.metadata)
    limit = _limit(model, runner, asked.least_cosine) if tolerance is None else tolerance
    return Opened(model, runner, limit, asked)


def _weights(model: Exportable, runner: Runner, samples: Any, precision: str | None) -> Iterator[Check]:
    """Check the stored weights, and compare the float32 twin of a file in another precision with Keras."""
    weights = FileWeights(model)
    with tempfile.TemporaryDirectory() as folder:
        try:
            twin = twin_of(runner, weights, Path(folder))
        except Exception as error:  # of any class: a changed graph may have any form
            yield Check("weights", False, None, f"cannot be read: {one_line(error, 200)}")
            return
        yield from weight_checks(weights, runner, twin)
        yield precision_check(runner, twin, precision)
        twin.stored.clear()  # twice the size of the weights, which the comparisons do not need
        if twin.reason:
            yield Check("in float32", True, None, f"not compared: {twin.reason}")
        if twin.runner is not None:
            tolerance = TOLERANCE_OF_HALF if twin.coarse else TOLERANCE
            try:
                for check in _comparisons(model, twin.runner, tolerance, samples):
                    yield replace(check, name=f"in float32: {check.name}")
            except RuntimeError as error:  # of the runtime: the graph contradicts the model's weights
                yield Check("in float32", False, None, f"cannot be computed: {one_line(error, 200)}")


def _limit(model: Exportable, runner: Runner, least_cosine: float | None) -> float | Closeness:
    """Return the tolerance for a float32 file, or the lowest accepted cosine for a file in reduced precision.

    What a file says of its own accuracy does not lower the limit.
    """
    if runner.precision == "fp32":
        return TOLERANCE
    least = LEAST_COSINE.get(runner.precision, 1.0) if least_cosine is None else least_cosine
    routed = ROUTED if getattr(getattr(model, "config", None), "num_experts", None) else 0.0
    known = {} if routed or isinstance(model, Foreign) else spread_of(runner)
    return Closeness(max(0.0, 1 - SLACK * (1 - least) - routed), farthest(known, runner.precision))


def _comparisons(model: Exportable, runner: Runner, tolerance: float | Closeness, samples: Any) -> Iterator[Check]:
    placed = isinstance(tolerance, Closeness)  # rounding makes every layer differ
    for part in plan(model, runner, quick=False, samples=samples):
        for check in part.check(part.cases, tolerance):
            where = "" if check.passed or placed else _place(model, runner, tolerance)  # of the first difference only
            placed |= not check.passed
            yield replace(check, detail=f"{check.detail}{where}")
    if isinstance(model, Foreign):
        return
    limits = runner.graphs[runner.layout.main].signature.limits
    limit = runner.decoder().max_length if runner.layout.generates else min(limits.values(), default=0)
    if limit and (reached := longest(model, limit)) < limit:
        yield Check("positions", True, None, f"compared up to {reached} of {limit}; more would take too long")


def _place(model: Exportable, runner: Runner, tolerance: float | Closeness) -> str:
    """Return the first layer that differs, as the end of a sentence, or "" if it cannot be found."""
    try:
        found = first_difference(model, runner, max(NEAR, cast(float, tolerance)))
    except Exception:  # of any class: of the runtime, or of a layer that is not computed eagerly
        return ""
    return f"; the first layer that differs is {found}" if found else ""


def _names(model: Exportable, runner: Runner, graphs: dict[str, Graph]) -> Check:
    """Check that the graphs, inputs and outputs that the runtime reports are those of the model's signature."""
    problems = []
    if set(graphs) != set(runner.graphs):
        problems.append(f"graphs are {sorted(runner.graphs)}, expected {sorted(graphs)}")
    for name in set(graphs) & set(runner.graphs):
        loaded = runner.graphs[name]
        signature = graphs[name].signature.exported(loaded.signature.sizes)
        if runner.format == "onnx":  # the cache of a TFLite file is float32 in every precision
            signature = file_signature(signature, runner.precision)
        if is_prefill(name):
            signature = replace(signature, outputs=tuple(s for s in signature.outputs if s.name != "logits"))
        found = loaded.runtime_signature()
        for side in ("inputs", "outputs"):
            expected = {spec.name: signature.shape(spec) for spec in getattr(signature, side)}
            actual = {spec.name: spec.dims for spec in getattr(found, side)}
            if set(expected) != set(actual):
                problems.append(f"{side} are {sorted(actual)}, expected {sorted(expected)}")
                continue
            static = bool(signature.sizes)  # the file then has sizes in place of the model's names
            for tensor, dims in expected.items():
                sizes = actual[tensor]
                if side == "outputs" and isinstance(model, Foreign) and len(sizes) == len(dims):
                    continue  # the results are compared with `dims`; the sizes that a runtime infers may be wrong
                named = {dim for spec in signature.inputs for dim in spec.dims} if side == "outputs" else {*dims}
                same = [  # a size that no input names may be a number
                    size in (dim, DIMENSIONS.get(dim)) or ((static or dim not in named) and isinstance(dim, str))
                    for size, dim in zip(sizes, dims, strict=False)
                ]
                if len(sizes) != len(dims) or not all(same):
                    problems.append(f"{tensor} has dimensions {sizes}, expected {dims}")
        if loaded.signature != _with_fixed_outputs(signature, loaded.signature):
            problems.append("the signature in the file's metadata differs from the model's")
    return Check("names and dimensions", not problems, None, "; ".join(problems))


def _with_fixed_outputs(signature: Signature, in_file: Signature) -> Signature:
    """Return `signature` with the batch size of a file of static shapes for outputs that are not rows of the batch."""
    fixed, files = in_file.sizes.get("batch"), {spec.name: spec.dims for spec in in_file.outputs}

    def dims(spec: TensorSpec) -> tuple[Any, ...]:
        with_size = tuple(fixed if dim == "batch" else dim for dim in spec.dims)
        return with_size if with_size == files.get(spec.name) else spec.dims

    outputs = tuple(replace(spec, dims=dims(spec)) for spec in signature.outputs)
    return signature if fixed is None else replace(signature, outputs=outputs)


def _repeats(runner: Runner, samples: Any) -> Check:
    main = runner.graphs[runner.layout.main]
    signature = main.signature
    inputs = example_inputs(signature, example_sizes(signature))
    for sample in () if samples is None else check_samples(samples, None):
        if {*sample} == {*inputs}:
            inputs = {name: np.asarray(value) for name, value in sample.items()}
    first, second = runner.run(inputs), runner.run(inputs)
    same = all(np.array_equal(first[name], second[name], equal_nan=first[name].dtype.kind == "f") for name in first)
    return Check("determinism", same, None, "" if same else "two runs with the same inputs differ")


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
