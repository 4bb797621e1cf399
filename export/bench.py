"""How fast a file runs, with what was measured beside the figure."""

from __future__ import annotations

import json
import os
import platform
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from ..checks import positive_integer
from .inputs import example_inputs
from .runtime import load, usable_cores


@dataclass(frozen=True)
class Figures:
    """Latency of one file at one shape. Times in milliseconds."""

    path: str
    format: str
    bytes: int
    shapes: dict[str, list[int]]
    threads: int
    repeats: int
    load_ms: float
    min_ms: float
    median_ms: float
    p90_ms: float
    runtime: str
    machine: str

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)

    def to_text(self) -> str:
        """A few lines for people."""
        shapes = [f"{name} ({', '.join(map(str, sizes))})" for name, sizes in self.shapes.items()]
        more = [f"{len(shapes) - 4} more"] if len(shapes) > 4 else []
        return (
            f"{self.path}: {self.bytes / 1e6:.1f} MB, loaded in {self.load_ms:.0f} ms\n"
            f"inputs: {', '.join(shapes[:4] + more)}\n"
            f"median {self.median_ms:.2f} ms, fastest {self.min_ms:.2f} ms, nine of ten within {self.p90_ms:.2f} ms "
            f"({self.repeats} runs, {self.threads} threads)\n"
            f"{self.runtime}, {self.machine}"
        )


def benchmark(
    path: str | os.PathLike[str],
    *,
    batch: int | None = None,
    sequence: int | None = None,
    image_size: int | None = None,
    repeats: int = 30,
    threads: int | None = None,
) -> Figures:
    """Latency of an exported file, ours or another's, with random inputs and every position kept.

    Args:
        batch, sequence, image_size: sizes of the inputs. Defaults: those the file has for good; else one row of the
            model's own.
        repeats: timed runs, after three that are not.
        threads: CPU threads. Default: every core that this process may use.

    Raises:
        ValueError: an unreadable file, or sizes it does not accept.
    """
    repeats = positive_integer("repeats", repeats)
    threads = threads or usable_cores()
    start = time.perf_counter()
    runner = load(path, threads=threads)
    load_ms = 1e3 * (time.perf_counter() - start)

    signature = runner.signature
    sizes: dict[str, int] = {**signature.examples, **signature.defaults, "batch": 1, **signature.sizes}
    for name, value, dims in (
        ("batch", batch, ("batch",)),
        ("sequence", sequence, ("sequence", "source")),
        ("image_size", image_size, ("height", "width")),
    ):
        if value is not None:
            sizes |= dict.fromkeys(dims, positive_integer(name, value))
    # Other people's files name their dimensions at random: the first is the batch, the second the sequence.
    for spec in signature.inputs:
        for axis, dim in enumerate(spec.dims):
            if isinstance(dim, str):
                sizes.setdefault(dim, sizes["batch"] if axis == 0 else sequence or 1)
    inputs = example_inputs(signature, sizes)
    for _ in range(3):
        runner.run(inputs)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        runner.run(inputs)
        times.append(1e3 * (time.perf_counter() - start))
    package = {"onnx": "onnxruntime", "tflite": "ai-edge-litert"}[runner.format]
    file = Path(path)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    return Figures(
        path=str(path),
        format=runner.format,
        bytes=sum(f.stat().st_size for f in (file, file.with_name(f"{file.name}.data")) if f.exists()),
        shapes={name: list(array.shape) for name, array in inputs.items()},
        threads=threads,
        repeats=repeats,
        load_ms=load_ms,
        min_ms=float(np.min(times)),
        median_ms=float(np.median(times)),
        p90_ms=float(np.percentile(times, 90)),
        runtime=f"{package} {version(package)}",
        machine=machine,
    )
