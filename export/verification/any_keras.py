"""Checks of the files of third-party Keras models: values of every kind, sizes that Keras accepts, and paddings if an
input is a mask."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ...runtime.inputs import PADDINGS, is_mask
from ...runtime.runner import LoadedGraph
from ...signature import Signature, TensorSpec
from ..frontend.diagnostics import one_line
from .comparison import Check, Closeness, compare
from .draws import ALIKE, EDGES, INTEGER_RANGES, WITH_TOKENS, WORDS, drawn, ladder, shaken, wanted
from .reference import Reference

Arrays = dict[str, np.ndarray]
_Accepted = tuple[Arrays, Arrays, dict[str, str]]  # inputs, outputs of Keras, and the ranges of the inputs

FINITE = "finite numbers"  # the check that an output has any
LENGTHS = (1, 33, 128, 512)  # in addition to the one that is known to work
SIDES = (32, 75, 150)
MOST_CALLS = 16  # rows, or calls of one row, with which small inputs get all edge values
FEW = 2048  # values in all of these rows; for larger inputs, their number would cost time and bring no more edge values
LIGHT = 60  # layers; a call of more of them takes a considerable part of the time of an export
# See ``compare``. ONNX Runtime's layer normalization of 49,152 values with large ones was 4 times `TOLERANCE` off, and
# rows of one number have variances of 0, by whose roots rounding errors are divided.
SLACK = 50.0
SMALL = 20_000  # values in a row of a light model


@dataclass(frozen=True)
class AnyCase:
    """One call of Keras and of the file.

    Attributes:
        sizes: of the open dimensions.
        padding: which tokens are padding, if an input is a mask.
        seed: of the random values.
        tried: whether Keras may reject the sizes.
        draw: how values are drawn, one of ``draws.DRAWS``.
        quick: whether an export checks this case.
        given: the inputs, if the user gave them.
        label: the name of a case with `given` inputs.
    """

    sizes: dict[str, int] = field(default_factory=dict)
    padding: str = "none"
    seed: int = 0
    tried: bool = False
    draw: str = "normal"
    quick: bool = False
    given: Arrays | None = None
    label: str = ""

    @property
    def name(self) -> str:
        if self.given is not None:
            return self.label
        shown = ", ".join(f"{dim} {size}" for dim, size in self.sizes.items()) or "fixed sizes"
        shown += f", padding {self.padding}" if self.padding != "none" else f", seed {self.seed}"
        return f"{shown}, {WORDS[self.draw]}" if WORDS[self.draw] else shown


def any_cases(signature: Signature, layers: int = 0, *, precise: bool = True) -> list[AnyCase]:
    """Return the cases for one graph of any Keras model; those that an export checks come first.

    Their sizes are known to work. The others are a batch of one, other lengths and images as far as Keras accepts them,
    and every padding if an input is a mask.

    Args:
        signature: of the graph.
        layers: the number of layers of the model. For many layers, or large inputs, values of all kinds are rows of one
            batch rather than calls of their own, which take time.
        precise: whether the file is in float32. If not, large and tiny values say nothing about its accuracy.
    """
    open_dims = {dim for spec in signature.inputs for dim in spec.dims if isinstance(dim, str)} - {*signature.sizes}
    own = {dim: signature.examples[dim] for dim in sorted(open_dims) if dim in signature.examples}
    own |= {"batch": 2} if "batch" in open_dims else {}
    masked = any(map(is_mask, signature.inputs))
    first = "left" if masked else "none"
    quick, more = _of_values(signature, own, first, layers) if precise else ([AnyCase(own, first, quick=True)], [])
    cases = [*quick, *more]
    cases += [AnyCase(own, padding) for padding in (*PADDINGS, "all") if masked and padding != first]
    cases.append(AnyCase({**own, "batch": 1} if "batch" in own else own, seed=1))
    for dim in (dim for dim in own if dim != "batch"):
        for size in SIDES if dim in ("height", "width") else LENGTHS:
            if size != own[dim]:
                cases.append(AnyCase({**own, dim: size}, seed=size, tried=True))
    return cases


def _of_values(
    signature: Signature, own: dict[str, int], padding: str, layers: int
) -> tuple[list[AnyCase], list[AnyCase]]:
    """Return the cases of values of every kind that an export checks, and further ones."""
    sizes = {**example_sizes(signature), **signature.sizes, **own}
    free = [spec for spec in signature.inputs if ladder(spec)]
    counts = [_size(spec, sizes) for spec in free] or [len(EDGES) * sizes.get("batch", 1)]
    rows = sizes.get("batch", 1)
    per_row = sum(_size(spec, sizes) for spec in signature.inputs) // rows
    batched = "batch" in own
    case = AnyCase(own, padding, quick=True)
    last = replace(case, padding="all" if padding != "none" else "none")
    if layers > LIGHT or per_row > SMALL:
        together = replace(case, draw="mixed")
        return ([together] if batched else [case, together]), [replace(last, draw="edges", quick=False)]
    # The number of rows, or of calls where their number is fixed, after which a small input had all edge values.
    times = min(MOST_CALLS, math.ceil(len(EDGES) / max(1, min(counts) // rows)), max(1, FEW // max(1, per_row)))
    more_rows = {**own, "batch": max(own["batch"], times)} if batched else own
    seeds = range(1 if batched else max(2, math.ceil(times / rows)))
    kinds = ["edges"]
    kinds += ["integers"] if any(ladder(spec) == INTEGER_RANGES for spec in free) else []
    kinds += ["large"] if any("float" in spec.dtype for spec in free) else []
    drawn_so = {kind: case if kind in WITH_TOKENS else last for kind in kinds}
    quick = [
        case,
        *(replace(drawn_so[kind], sizes=more_rows, draw=kind, seed=seed) for kind in kinds for seed in seeds),
    ]
    further = [replace(one, seed=one.seed + len(seeds), quick=False) for one in quick[1:]]
    if any("float" in spec.dtype for spec in free):
        further += [replace(last, draw=kind, seed=2, quick=False) for kind in ("constant", "unit")]
    return quick, further


def _size(spec: TensorSpec, sizes: Mapping[str, int]) -> int:
    return math.prod(sizes[dim] if isinstance(dim, str) else dim for dim in spec.dims)


def sample_cases(signature: Signature, samples: Sequence[Mapping[str, Any]], quickly: int) -> list[AnyCase]:
    """Return the cases for inputs that the user gave. An export checks the first ones, up to `quickly`.

    Samples with the inputs of another graph are left out. A sample with more rows than a file takes in one call becomes
    several cases.

    Raises:
        ValueError: a sample has wrong names, dtypes, shapes or values.
    """
    names = {spec.name for spec in signature.inputs}
    rows = signature.sizes.get("batch")
    cases: list[AnyCase] = []
    for number, sample in enumerate(samples):
        arrays = {name: np.asarray(value) for name, value in sample.items()}
        signature.check_arrays(arrays)
        arrays = {spec.name: arrays[spec.name].astype(spec.dtype) for spec in signature.inputs if spec.name in arrays}
        count = len(next(iter(arrays.values()))) if rows and names else 1
        for start in range(0, count, rows or 1):
            part = {
                spec.name: arrays[spec.name][start : start + rows]
                if rows and spec.dims[:1] == ("batch",)
                else arrays[spec.name]
                for spec in signature.inputs
            }
            label = f"sample {number}" + (f", row {start}" if count > (rows or 1) else "")
            cases.append(AnyCase(given=part, label=label, quick=len(cases) < quickly))
    return cases


class Draws:
    """Inputs for the cases of one graph, with values in the widest ranges that Keras accepts.

    Args:
        reference: the function of the model.
        signature: of the graph in the file.
    """

    def __init__(self, reference: Reference, signature: Signature) -> None:
        self.reference, self.signature = reference, signature
        self.narrowed: dict[str, str] = {}  # the widest accepted range of an input, where it is narrower than wanted
        self.usual = "normal"  # the way to draw that gives finite numbers

    def __call__(self, case: AnyCase) -> tuple[Arrays, Arrays, str]:
        """Return the inputs of a case, the outputs of Keras, and a remark on values that Keras does not accept.

        Raises:
            Exception: what Keras raises for any values.
        """
        if case.given is not None:
            return case.given, self.reference(case.given), ""
        draw = self.usual if case.draw == "normal" else case.draw
        ranges = {spec.name: self._range(spec, draw) for spec in self.signature.inputs if ladder(spec)}
        inputs = self._drawn(case, draw, ranges)
        try:
            return inputs, self.reference(inputs), self._remark(ranges, draw)
        except Exception as error:  # of any class: layers reject a value in different ways
            found = None if case.tried else self._accepted(case, draw, ranges)
            if found is None:
                raise error
        self.narrowed |= {name: kind for name, kind in found[2].items() if kind != ranges[name]}
        return found[0], found[1], self._remark(found[2], draw)

    def _drawn(self, case: AnyCase, draw: str, ranges: Mapping[str, str]) -> Arrays:
        sizes = {**self.signature.examples, **self.signature.sizes, **case.sizes}
        return drawn(self.signature, sizes, ranges, draw, case.padding, case.seed)

    def _range(self, spec: TensorSpec, draw: str) -> str:
        """Return the range for an input: the one that is wanted, or a narrower one if that is not accepted."""
        steps, kind = ladder(spec), wanted(spec, draw)
        widest = {"mixed": steps[0]}.get(kind, ALIKE.get(kind, kind))
        if steps == INTEGER_RANGES and widest == "whole" and self.reference.only_small(spec.name, self.signature):
            kind = widest = "signed"
        limit = self.narrowed.get(spec.name)
        return limit if limit and steps.index(limit) > steps.index(widest) else kind

    def _accepted(self, case: AnyCase, draw: str, first: dict[str, str]) -> _Accepted | None:
        """Return inputs that Keras accepts, its outputs and the ranges of the inputs; None if it rejects all ranges.

        One input after the other gets the widest range that is accepted, while the inputs after it have a narrow one.
        """
        specs = [spec for spec in self.signature.inputs if ladder(spec)]

        def tried(ranges: dict[str, str]) -> _Accepted | None:
            inputs = self._drawn(case, draw, ranges)
            try:
                return inputs, self.reference(inputs), ranges
            except Exception:  # as above
                return None

        found = None
        for integers, floats in itertools.product(("binary", "positive"), ("normal", "unit")):
            narrow = {spec.name: floats if "float" in spec.dtype else integers for spec in specs}
            if found := tried(narrow):
                break
        if found is None:
            return None
        for spec in specs:
            steps, widest = ladder(spec), first[spec.name]
            start = 0 if widest == "mixed" else steps.index(ALIKE.get(widest, widest)) + 1
            for kind in (widest, *steps[start : steps.index(found[2][spec.name])]):
                if other := tried({**found[2], spec.name: kind}):
                    found = other
                    break
        return found

    def _remark(self, ranges: Mapping[str, str], draw: str) -> str:
        asked = {spec.name: wanted(spec, draw) for spec in self.signature.inputs if ladder(spec)}
        found = [
            f"{name} has values from {WORDS[kind] or 'N(0, 1)'} only, as Keras rejects others"
            for name, kind in ranges.items()
            if kind != asked[name] and name in self.narrowed
        ]
        return "; ".join(found)


def any_checks(
    reference: Reference, loaded: LoadedGraph, cases: Sequence[AnyCase], tolerance: float | Closeness, prefix: str = ""
) -> Iterator[Check]:
    """Compare one graph of any Keras model with `reference`, the model's own call."""
    draws = Draws(reference, loaded.signature)
    finite: Counter[str] = Counter()  # values of each output that are neither NaN nor infinite
    empty = {spec.name for spec in loaded.signature.outputs}
    for case in cases:
        try:
            inputs, expected, remark = draws(case)
        except Exception as error:  # of any class: layers reject a size in different ways
            if case.given is not None:
                raise ValueError(
                    f"samples: got {case.name}, which Keras rejects: {one_line(error)}; accepted: inputs that it takes"
                ) from error
            if not case.tried:
                raise ValueError(
                    f"samples: got none, and Keras rejects all inputs that are drawn: {one_line(error)}; accepted: "
                    "samples= of inputs that it takes"
                ) from error
            yield Check(
                prefix + case.name, True, None, f"not compared, since Keras rejects these sizes: {one_line(error, 80)}"
            )
            continue
        compared = [(case, inputs, expected, remark)]
        if case.given is None and draws.usual == "normal" and not case.tried and _share(expected, case) < 0.5:
            compared += _finite(draws, case, _share(expected, case))
        for one, inputs, expected, remark in compared:
            for name, values in expected.items():
                finite[name] += int(np.isfinite(values).sum())
                empty -= {name} if values.size else set()
            check = _compared(prefix + one.name, reference, loaded, inputs, expected, tolerance, one.draw)
            yield replace(check, detail="; ".join(filter(None, (check.detail, remark))))
    if unseen := sorted({name for name in finite if not finite[name]} - empty):
        detail = f"Keras computes NaN or infinity alone in {unseen}; accepted: samples= of inputs for which it does not"
        yield Check(prefix + FINITE, False, None, detail)


def _share(outputs: Arrays, case: AnyCase) -> float:
    """Return the share of finite values in the output where it is lowest. Of mixed rows, only the first one counts."""
    first = [values[:1] if case.draw == "mixed" and values.ndim else values for values in outputs.values()]
    return min((float(np.isfinite(values).mean()) for values in first if values.size), default=1.0)


def _finite(draws: Draws, case: AnyCase, share: float) -> list[tuple[AnyCase, Arrays, Arrays, str]]:
    """Return the same case with inputs above 0, if they give more finite values; all further cases are drawn so, too.
    These are inputs for models with logarithms and square roots."""
    for kind in ("unit", "above"):
        other = replace(case, draw=kind)
        try:
            inputs, expected, remark = draws(other)
        except Exception:  # Keras rejects these values, as in ``Draws``
            continue
        if _share(expected, other) > share:
            draws.usual = kind
            return [(other, inputs, expected, remark)]
    return []


def _compared(
    name: str,
    reference: Reference,
    loaded: LoadedGraph,
    inputs: Arrays,
    expected: Arrays,
    tolerance: float | Closeness,
    draw: str,
) -> Check:
    try:
        actual = loaded.run(inputs)
    except Exception as error:  # every runtime has its own error classes
        return Check(name, False, None, f"the runtime raised an error: {one_line(error)}")
    check = compare(
        name,
        actual,
        expected,
        lambda level: reference.exact(shaken(inputs) if level else inputs, level),
        tolerance,
        finite=False,
        by_row={spec.name for spec in loaded.signature.outputs if draw == "mixed" and spec.dims[:1] == ("batch",)},
        slack=SLACK if draw in ("large", "mixed", "integers", "constant") else 1.0,
    )
    if wrong := _undeclared(loaded.signature, expected):
        return replace(check, passed=False, detail=wrong)
    if check.rule == "float64" and reference.single:
        return replace(check, detail=f"{check.detail} (in float32: Keras cannot compute this model in float64)")
    return check


def _undeclared(signature: Signature, outputs: Arrays) -> str:
    """Return how the rank or a fixed size of an output differs from the signature in the file, or "" if none does.

    The name of an open size says that it was the size of this input where the model was probed, which may be a
    coincidence.
    """
    for spec in signature.outputs:
        shape = outputs[spec.name].shape
        pairs = zip(spec.dims, shape, strict=False)
        if len(spec.dims) != len(shape) or any(dim not in (size, str(dim)) for dim, size in pairs):
            return f"{spec.name} has shape {shape}, where the signature of the file says {spec.dims}"
    return ""


def example_sizes(signature: Signature) -> dict[str, Any]:
    """Return a size that works for every dimension."""
    dims = {dim for spec in signature.inputs for dim in spec.dims if isinstance(dim, str)}
    return dict.fromkeys(dims, 2) | {**signature.examples, **signature.defaults, "batch": 1, **signature.sizes}
