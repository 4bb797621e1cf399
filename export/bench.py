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
from .runtime import load


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

    def to_markdown(self) -> str:
        shape = ", ".join(f"{name} {tuple(sizes)}" for name, sizes in self.shapes.items())
        return (
            f"| file | shape | threads | load | min | median | p90 |\n|---|---|---|---|---|---|---|\n"
            f"| {self.path} | {shape} | {self.threads} | {self.load_ms:.0f} ms | {self.min_ms:.2f} ms "
            f"| {self.median_ms:.2f} ms | {self.p90_ms:.2f} ms |\n\n{self.runtime}, {self.machine}"
        )


def benchmark(
    path: str | os.PathLike[str],
    *,
    batch: int = 1,
    sequence: int | None = None,
    image_size: int | None = None,
    repeats: int = 30,
    threads: int | None = None,
) -> Figures:
    """Latency of an exported file, ours or another's, with random inputs and every position kept.

    Args:
        batch, sequence, image_size: sizes of the inputs where the file leaves them open. Defaults: the model's own.
        repeats: timed runs, after three that are not.
        threads: CPU threads. Default: every core.

    Raises:
        ValueError: an unreadable file, or sizes it does not accept.
    """
    positive_integer("repeats", repeats)
    threads = threads or os.cpu_count() or 1
    start = time.perf_counter()
    runner = load(path, threads=threads)
    load_ms = 1e3 * (time.perf_counter() - start)

    signature = runner.signature
    sizes: dict[str, int] = {**signature.defaults, "batch": batch}
    if sequence is not None:
        sizes["sequence"] = sequence
    if image_size is not None:
        sizes["height"] = sizes["width"] = image_size
    sizes = {**sizes, **{dim: n for dim, n in signature.sizes.items() if dim not in ("batch", "sequence")}}
    # Other people's files name their dimensions at random: the first is the batch, the second the sequence.
    for spec in signature.inputs:
        for axis, dim in enumerate(spec.dims):
            if isinstance(dim, str):
                sizes.setdefault(dim, batch if axis == 0 else sequence or 1)
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
