"""The proof: the exported file and the Keras model, side by side, over the shapes and paddings that go wrong."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...checks import positive_number
from ...runtime.graph_names import is_prefill
from ...runtime.inputs import example_inputs
from ...runtime.loading import load
from ...runtime.runner import Runner
from ...signature import Graph
from ..frontend.any_keras.model import Foreign
from ..frontend.graphs import model_graphs
from ..frontend.huggingface_view import DIMENSIONS, as_in_file
from ..frontend.inference import one_at_a_time
from ..frontend.pixels import pixels_in_file
from ..frontend.spec import Exportable, exportable
from ..options import LEAST_COSINE
from ..precision.onnx.files import file_signature
from .any_keras import example_sizes
from .cases import longest
from .comparison import TOLERANCE, Check, Closeness
from .contents import content_checks
from .plan import plan


@dataclass(frozen=True)
class VerifyReport:
    """What was checked of one file, and how it went."""

    path: str
    format: str
    sha256: str
    tolerance: float
    seconds: float
    checks: tuple[Check, ...]
    precision: str = "fp32"

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def greatest_difference(self) -> float:
        """From Keras, relative to the largest magnitude of the output."""
        return max((check.difference for check in self.checks if check.difference is not None), default=float("nan"))

    def to_json(self) -> str:
        summary = {"passed": self.passed, "greatest_difference": self.greatest_difference}
        return json.dumps({**summary, **asdict(self)}, indent=2)

    def to_markdown(self) -> str:
        verdict = "passed" if self.passed else "FAILED"
        judged = sum(check.rule == "float64" for check in self.checks)
        rule = f"tolerance {self.tolerance:.0e}; float64 was the judge of {judged}"
        if self.precision != "fp32":
            rule = f"{self.precision}: a cosine of {1 - self.tolerance:g} in every row"
        head = [
            f"**{self.path}**: {verdict}, {len(self.checks)} checks, greatest difference "
            f"{self.greatest_difference:.1e} ({rule})",
            "",
            "| check | difference | rule | verdict | |",
            "|---|---|---|---|---|",
        ]
        rows = [
            f"| {c.name} | {'' if c.difference is None else f'{c.difference:.1e}'} | {c.rule} "
            f"| {'pass' if c.passed else 'FAIL'} | {c.detail} |"
            for c in self.checks
        ]
        return "\n".join(head + rows)


SLACK = 3.0  # a row of a few tokens scatters more than the samples that an export measures


@one_at_a_time
def verify(
    model: Any, path: str | os.PathLike[str], *, tolerance: float | None = None, input_signature: Any = None
) -> VerifyReport:
    """Compare an exported file with the model it came from, in the file's own runtime.

    What Keras says is ``model(...)`` itself, in float32 whatever its dtype policy, so that a method that was overridden
    or a layer that was changed is compared too. Batches of 1 and 3, lengths from 1 up to the last position (of a large
    model: as far as that takes seconds, which a check states), each without padding and padded right, left and in
    between, or images of three sizes; TFLite: its own static shape. A model that generates: prompts and single tokens
    up to the last slot of the cache, which the file fills itself, and the same greedy tokens. Beside that the file's
    bytes, names, dimensions, config and weights, a row without any token, and two runs alike. Of any other Keras model:
    sizes that Keras takes, and every padding where an input is a mask.

    Args:
        tolerance: greatest accepted difference, relative to the largest magnitude of an output. What is over it is
            judged by the same model in float64: see ``comparison.py``. Default: 2e-5 of a file in float32. A file in
            another precision must come within three times the angle that it was exported with instead, for every
            row of every case.
        input_signature: as it was exported with, of any Keras model that does not tell it itself.

    Raises:
        ValueError: no such file, or nothing that could have been exported.
    """
    start = time.perf_counter()
    model = exportable(model, input_signature)
    tolerance = None if tolerance is None else positive_number("tolerance", tolerance)
    runner = load(path)
    model = pixels_in_file(as_in_file(model, runner.signature), runner.metadata)
    limit = _limit(runner) if tolerance is None else tolerance
    graphs = model_graphs(model, runner.graphs)
    checks = [_names(model, runner, graphs)]
    if checks[0].passed:
        checks += content_checks(model, runner)
        checks += _comparisons(model, runner, limit)
        checks.append(_repeats(runner))
    return VerifyReport(
        path=str(path),
        format=runner.format,
        sha256=_digest(Path(path)),
        tolerance=1 - limit.cosine if isinstance(limit, Closeness) else limit,
        precision=runner.precision,
        seconds=time.perf_counter() - start,
        checks=tuple(checks),
    )


def _limit(runner: Runner) -> float | Closeness:
    """What a file of this precision must keep to."""
    if runner.precision == "fp32":
        return TOLERANCE
    least = runner.precision_details.get("least_cosine", LEAST_COSINE.get(runner.precision, 0.0))
    return Closeness(max(0.0, 1 - SLACK * (1 - least)))


def _comparisons(model: Exportable, runner: Runner, tolerance: float | Closeness) -> Iterator[Check]:
    for part in plan(model, runner, quick=False):
        yield from part.check(part.cases, tolerance)
    if isinstance(model, Foreign):
        return
    limits = runner.graphs[runner.layout.main].signature.limits
    limit = runner.decoder().max_length if runner.layout.generates else min(limits.values(), default=0)
    if limit and (reached := longest(model, limit)) < limit:
        yield Check("positions", True, None, f"compared up to {reached} of {limit}, by the size of the model")


def _names(model: Exportable, runner: Runner, graphs: dict[str, Graph]) -> Check:
    """The file's own graphs, inputs and outputs, read from the runtime, are those of the model's signature."""
    problems = []
    if set(graphs) != set(runner.graphs):
        problems.append(f"graphs {sorted(runner.graphs)} for {sorted(graphs)}")
    for name in set(graphs) & set(runner.graphs):
        loaded = runner.graphs[name]
        signature = graphs[name].signature.exported(loaded.signature.sizes)
        if runner.format == "onnx":  # a TFLite file's inputs and outputs are float32 in every precision
            signature = file_signature(signature, runner.precision)
        if is_prefill(name):
            signature = replace(signature, outputs=tuple(s for s in signature.outputs if s.name != "logits"))
        found = loaded.runtime_signature()
        for side in ("inputs", "outputs"):
            expected = {spec.name: signature.shape(spec) for spec in getattr(signature, side)}
            actual = {spec.name: spec.dims for spec in getattr(found, side)}
            if set(expected) != set(actual):
                problems.append(f"{side} {sorted(actual)} for {sorted(expected)}")
                continue
            static = bool(signature.sizes)  # then the file has a size where the model has a name
            for tensor, dims in expected.items():
                sizes = actual[tensor]
                same = [
                    size in (dim, DIMENSIONS.get(dim)) or (static and isinstance(dim, str))
                    for size, dim in zip(sizes, dims, strict=False)
                ]
                if len(sizes) != len(dims) or not all(same):
                    problems.append(f"{tensor} has dimensions {sizes} for {dims}")
        if loaded.signature != signature:
            problems.append("the file was made of a model of another signature")
    return Check("names and dimensions", not problems, None, "; ".join(problems))


def _repeats(runner: Runner) -> Check:
    main = runner.graphs[runner.layout.main]
    signature = main.signature
    inputs = example_inputs(signature, example_sizes(signature))
    first, second = runner.run(inputs), runner.run(inputs)
    same = all(np.array_equal(first[name], second[name]) for name in first)
    return Check("two runs alike", same, None, "" if same else "two runs of the same inputs differ")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
