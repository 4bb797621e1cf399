"""The proof: the exported file and the Keras model, side by side, over the shapes and paddings that go wrong."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ..checks import positive_number
from ..signature import Graph, Signature, TensorSpec
from ..zoo.base import ZooModel
from .graph_names import is_prefill, model_graphs
from .inputs import PADDINGS, example_inputs, padded_mask
from .result import ExportError
from .runtime import LoadedGraph, Runner, load
from .spec import exportable, input_specs

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

    Every graph of the file. ONNX: batches of 1 and 3, sequences of 1, 7 and 33, each without padding and padded right,
    left and in between, with and without a past, or images of three sizes; TFLite: its own static shape. A row without
    any token, two runs alike, the signature's names and dimensions, and for a model that generates, the same
    greedy tokens for three prompts of unequal lengths.

    Args:
        tolerance: greatest accepted absolute difference at positions that are not padding, times the largest
            magnitude of the Keras output where that is above 1 (float32 has seven digits, not more).

    Raises:
        ValueError: no such file, not a file of this model's family, or not a model of attention_zoo.
    """
    start = time.perf_counter()
    model = exportable(model)
    tolerance = positive_number("tolerance", tolerance)
    runner = load(path)
    graphs = model_graphs(model, runner.graphs)
    checks = [_check_names(model, runner, graphs)]
    if checks[0].passed:
        for name, graph in graphs.items():
            prefix = f"{name}: " if len(graphs) > 1 else ""
            loaded = runner.graphs[name]
            keras_side = _compiled(graph, loaded.signature) if _of_many_shapes(loaded.signature) else graph
            checks += [
                _compare(keras_side, loaded, prefix + case, inputs, tolerance)
                for case, inputs in _cases(loaded.signature)
            ]
        checks.append(_check_repeats(runner))
        if runner.generates:
            checks.append(_check_generation(model, runner, tolerance))
    return VerifyReport(
        path=str(path),
        format=runner.format,
        sha256=_digest(Path(path)),
        tolerance=tolerance,
        seconds=time.perf_counter() - start,
        checks=tuple(checks),
    )


def quick_check(model: ZooModel, runner: Runner) -> float:
    """The greatest difference from Keras on one left-padded batch for every graph.

    Raises:
        ExportError: more than the tolerance, or a number that is none.
    """
    worst = 0.0
    for name, graph in model_graphs(model, runner.graphs).items():
        signature = runner.graphs[name].signature
        limits = signature.limits
        small = {dim: min(7, limits.get(dim, 7)) for dim in ("sequence", "source", "target")}
        others = {dim: size for dim, size in signature.defaults.items() if dim not in small}
        sizes = {"batch": 2, **others, **small, **signature.sizes}
        if "past_sequence" in sizes:
            sizes["past_sequence"] = min(4, limits.get("total_sequence", 4) - sizes["sequence"])
        check = _compare(graph, runner.graphs[name], name, example_inputs(signature, sizes, padding="left"), TOLERANCE)
        if not check.passed or check.difference is None:
            raise ExportError(f"the exported file differs from Keras: {check.name}: {check.detail}")
        worst = max(worst, check.difference)
    return worst


def _cases(signature: Signature) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    fixed = signature.sizes
    dims = {dim for spec in signature.inputs for dim in spec.dims}
    batches = [fixed["batch"]] if "batch" in fixed else [1, 3]
    if "height" not in dims:
        text = [dim for dim in ("sequence", "source", "target") if dim in dims]
        limit = min((signature.limits.get(dim, 33) for dim in text), default=33)
        pasts = [0, min(5, limit - 1)] if "past_sequence" in dims and limit > 1 else [0]
        lengths = sorted({1, min(7, limit), min(33, limit)})
        if all(dim in fixed for dim in text):
            lengths = [0]
        masked = any("mask" in spec.name and len(spec.dims) == 2 for spec in signature.inputs)
        paddings = (*PADDINGS, "all") if masked else ("none",)
        for batch, length, past, padding in itertools.product(batches, lengths, pasts, paddings):
            if length + past > limit or (length == 1 and not past and padding not in ("none", "all")):
                continue
            sizes = {**signature.defaults, "batch": batch, **dict.fromkeys(text, length), "past_sequence": past}
            sizes.update(fixed)
            named = [f"{dim} {sizes[dim]}" for dim in ("batch", *text)] + ([f"past {past}"] if len(pasts) > 1 else [])
            yield (
                f"{', '.join(named)}, padding {padding}",
                example_inputs(signature, sizes, padding=padding, seed=length),
            )
        return
    native = signature.defaults
    step = {side: signature.multiples.get(side, 7) for side in ("height", "width")}  # 7: as good as any
    images = [(native["height"], native["width"])]
    if "height" in fixed:
        images = [(fixed["height"], fixed["width"])]
    else:  # the smallest, and one that is not square
        images += [(step["height"], step["width"]), (native["height"] + step["height"], step["width"] * 2)]
    for batch, (height, width) in itertools.product(batches, images):
        sizes = {"batch": batch, "height": height, "width": width}
        yield f"batch {batch}, image {height} × {width}", example_inputs(signature, sizes, seed=height)


def _of_many_shapes(signature: Signature) -> bool:
    """Whether `_cases` has dozens of shapes: a file of text whose lengths are open."""
    dims = {dim for spec in signature.inputs for dim in spec.dims}
    return bool(dims & {"sequence", "source", "target"}) and not signature.sizes


def _compiled(graph: Graph, signature: Signature) -> Graph:
    """`graph` traced by TensorFlow once for all sizes, since eager Keras takes most of the time of a check. Every
    export has compared its file with eager Keras before."""
    import tensorflow as tf

    specs = {spec.name: spec for spec in input_specs(signature, "int32")}
    return replace(graph, function=tf.function(graph.function, input_signature=[specs], autograph=False))


def _compare(graph: Graph, loaded: LoadedGraph, name: str, inputs: dict[str, np.ndarray], tolerance: float) -> Check:
    # The function an export traces, so that the names are the same; the masks say which positions count.
    integers = {spec.name for spec in graph.signature.inputs if spec.dtype.startswith("int")}
    given = {key: array.astype("int32") if key in integers else array for key, array in inputs.items()}
    expected = graph.function({key: keras.ops.convert_to_tensor(array) for key, array in given.items()})
    actual = loaded.run(inputs)
    worst, passed, details = 0.0, True, []
    for spec in loaded.signature.outputs:
        theirs, ours = keras.ops.convert_to_numpy(expected[spec.name]), actual[spec.name]
        if ours.shape != theirs.shape:
            return Check(name, False, None, f"{spec.name} has shape {ours.shape} for {theirs.shape}")
        for side, array in (("in Keras", theirs), ("in the file", ours)):
            if not np.isfinite(array).all():
                return Check(name, False, None, f"{spec.name} is not finite {side}")
        valid = _valid(spec, loaded.signature, inputs)
        if valid is not None:
            theirs, ours = theirs[valid], ours[valid]
        difference = float(np.abs(ours - theirs).max(initial=0))
        allowed = tolerance * max(1.0, float(np.abs(theirs).max(initial=0)))
        worst, passed = max(worst, difference), passed and difference <= allowed
        details.append(f"{spec.name} {difference:.1e} of {allowed:.1e}")
    return Check(name, passed, worst, details[0] if len(details) == 1 else f"{len(details)} outputs, {_worst(details)}")


def _worst(details: list[str]) -> str:
    """The entry with the greatest share of what is allowed."""
    return max(details, key=lambda text: float(text.split()[-3]) / float(text.split()[-1]))


def _valid(spec: TensorSpec, signature: Signature, inputs: dict[str, np.ndarray]) -> np.ndarray | None:
    """(batch, length) booleans: the positions of an output that are no padding; None where it has none."""
    if len(spec.dims) < 3 or spec.dims[0] != "batch":
        return None
    for given in signature.inputs:
        if "mask" in given.name and len(given.dims) == 2:
            mask = inputs[given.name] == 1
            if given.dims[1] == spec.dims[1]:
                return mask
            if spec.dims[1] in signature.sums.get(str(given.dims[1]), ()):  # the new tokens are the last
                length = inputs[signature.inputs[0].name].shape[1]
                return mask[:, mask.shape[1] - length :]
    return None


def _check_names(model: ZooModel, runner: Runner, graphs: dict[str, Graph]) -> Check:
    """The file's own graphs, inputs and outputs, read from the runtime, are those of the model's signature."""
    problems = []
    if set(graphs) != set(runner.graphs):
        problems.append(f"graphs {sorted(runner.graphs)} for {sorted(graphs)}")
    for name in set(graphs) & set(runner.graphs):
        loaded = runner.graphs[name]
        signature = graphs[name].signature.exported(loaded.signature.sizes)
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
                    size == dim or (static and isinstance(dim, str)) for size, dim in zip(sizes, dims, strict=False)
                ]
                if len(sizes) != len(dims) or not all(same):
                    problems.append(f"{tensor} has dimensions {sizes} for {dims}")
        if loaded.signature != signature:
            problems.append("the file was made of a model of another signature")
    return Check("names and dimensions", not problems, None, "; ".join(problems))


def _check_generation(model: Any, runner: Runner, tolerance: float) -> Check:
    """Three prompts of unequal lengths, continued greedily by the file. Keras, given what the file wrote, must like
    every token best, or as well as rounding can tell: then its own greedy tokens are these."""
    inputs = {spec.name for spec in model.signature.inputs}
    tokens = "decoder_input_ids" if "decoder_input_ids" in inputs else "input_ids"
    longest = min(runner.decoder().max_length, model.config.max_length)
    source = min((graph.signature.sizes.get("source", 9) for graph in runner.graphs.values()), default=9)
    length = max(1, min(9, source, longest // 2))
    new = min(16, longest - length)
    ids = np.random.default_rng(0).integers(0, model.config.vocab_size, (3, length))
    mask = padded_mask(3, length, "left")
    name = f"greedy, {new} tokens"
    if new < 1:
        return Check(name, True, None, "no room for a token")
    written = runner.generate(ids, mask, max_new_tokens=new, stop_tokens=[])
    given = {"input_ids": ids, "attention_mask": mask}
    if tokens == "input_ids":
        given["attention_mask"] = np.concatenate([mask, np.ones((3, new - 1), mask.dtype)], axis=1)
    given[tokens] = written[:, :-1]
    results = model.by_name({key: keras.ops.convert_to_tensor(array.astype("int32")) for key, array in given.items()})
    logits = keras.ops.convert_to_numpy(results["logits"])[:, -new:]  # (3, new, vocab_size)
    chosen = np.take_along_axis(logits, written[:, -new:, None], axis=-1)[..., 0]
    gaps = logits.max(axis=-1) - chosen
    row, column = np.unravel_index(gaps.argmax(), gaps.shape)
    same = int((gaps == 0).sum())
    detail = f"{same} of {gaps.size} are Keras' likeliest, the others at most {gaps[row, column]:.1e} below"
    if same == gaps.size:
        detail = "the same in 3 rows"
    passed = bool(gaps[row, column] <= 2 * tolerance * max(1.0, float(np.abs(logits).max())))
    return Check(name, passed, None, detail)


def _check_repeats(runner: Runner) -> Check:
    _, inputs = next(_cases(runner.signature))
    first, second = runner.run(inputs), runner.run(inputs)
    same = all(np.array_equal(first[name], second[name]) for name in first)
    return Check("two runs alike", same, None, "" if same else "two runs of the same inputs differ")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
