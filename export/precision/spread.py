"""How far rounding moves each output of a file, position by position, which the file's metadata keeps.

``verify`` compares later results with it. The measurement takes place after the file was written, so that its metadata
first has a placeholder of the same size.
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ...runtime.metadata import DIGEST, MEASURED, stated
from ...runtime.runner import Runner
from ..digests import reseal

PLACE = "measured later "  # the beginning of the placeholder; dots follow it
LEAST = 1e-12  # of 1 - cosine: below, it is the rounding of float64
OTHER_KERNELS = 4.0  # errors twice as large, of which 1 - cosine is the square
DEVIATIONS = 4.0  # of the logarithms: one of 30,000 normal ones is larger than that
FLOOR = {"fp16": 3e-4}  # of sums in float16, which some processors compute and others do not


@dataclass(frozen=True)
class Spread:
    """The distances of an output from float32 over many positions: 1 - cosine of the vector at each of them.

    Attributes:
        worst: the largest one.
        mean: the mean of their logarithms.
        deviation: the standard deviation of their logarithms.
        positions: their number.
    """

    worst: float
    mean: float
    deviation: float
    positions: int

    @classmethod
    def of(cls, cosines: np.ndarray) -> Spread:
        """Return the spread of (n,) cosines."""
        logs = np.log(np.maximum(1 - cosines, LEAST))
        return cls(float(1 - cosines.min()), float(logs.mean()), float(logs.std()), len(logs))


def placeholder(runner: Runner) -> dict[str, str]:
    """Return the metadata entry that ``write_spread`` replaces, for a file with the outputs of `runner`."""
    names = {spec.name for graph in runner.graphs.values() for spec in graph.signature.outputs}
    longest = _text(dict.fromkeys(names, Spread(-1.234e-100, -1.234e-100, -1.234e-100, 10**9)))
    return {MEASURED: PLACE.ljust(len(PLACE) + len(_escaped(longest)), ".")}


def write_spread(runner: Runner, spread: Mapping[str, Spread]) -> None:
    """Write what was measured over the placeholder in a file's metadata, and renew the file's digest.

    Args:
        runner: of the ONNX or TFLite file. Other files of the model do not change.
        spread: by output.
    """
    file, text = runner.path, _text(spread)
    if runner.format == "tflite":  # whose metadata is a JSON text in which this one is a string
        text = _escaped(text)
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 0) as content:
        start = content.find(PLACE.encode())
        if start < 0:
            raise RuntimeError(f"{file.name} has no place for what was measured")
        end = start + len(PLACE)
        while content[end : end + 1] == b".":
            end += 1
        content[start:end] = text.ljust(end - start).encode()
    data = file.with_name(f"{file.name}.data")
    reseal(file, runner.metadata[DIGEST], data if data.is_file() else None)


def _text(spread: Mapping[str, Spread]) -> str:
    rounded = {name: [float(f"{n:.4g}") for n in (of.worst, of.mean, of.deviation)] for name, of in spread.items()}
    return json.dumps({name: [*numbers, spread[name].positions] for name, numbers in rounded.items()})


def _escaped(text: str) -> str:
    return json.dumps(text)[1:-1]


def spread_of(runner: Runner) -> dict[str, Spread]:
    """Return what the metadata of a file says was measured at its export, by output; {} if it says nothing.

    Raises:
        ValueError: the metadata cannot be read.
    """
    found = {}
    for name, numbers in stated(runner.path, runner.metadata, MEASURED, dict).items():
        known = isinstance(numbers, list) and len(numbers) == 4 and all(isinstance(n, int | float) for n in numbers)
        if not known or not all(map(math.isfinite, numbers)):
            raise ValueError(
                f"path: the measured in {runner.path} cannot be read: got {numbers!r:.40}; accepted: a file as "
                "attention_zoo.export writes it"
            )
        found[name] = Spread(*numbers)
    return found


def farthest(spread: Mapping[str, Spread], precision: str) -> dict[str, float]:
    """Return the highest 1 - cosine that ``verify`` accepts at a single position, by output.

    Args:
        spread: what was measured at the export.
        precision: of the file.
    """
    floor = FLOOR.get(precision, 0.0)
    return {
        name: max(floor, LEAST, OTHER_KERNELS * max(of.worst, np.exp(of.mean + DEVIATIONS * of.deviation)))
        for name, of in spread.items()
    }
