"""The measurement of one file, in the process that loads it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ..checks import positive_integer
from ..runtime.inputs import example_inputs
from ..runtime.loading import load
from ..runtime.runner import Runner
from .figures import Figures, Pace
from .generating import Lengths, can_generate, lengths_of, paces
from .machine import machine, peak_memory, processor
from .timing import WARM, clock, spread, timed

RUNTIMES = {
    ".onnx": ("onnxruntime", "onnxruntime"),
    ".tflite": ("ai_edge_litert.interpreter", "ai-edge-litert"),
    ".litertlm": ("litert_lm", "litert-lm-api"),
}


class Subject:
    """A loaded file with the inputs for its measurement.

    Args:
        path: The file.
        threads: The number of CPU threads.
        sizes: The requested `batch`, `sequence` and `image_size`, or None; see ``benchmark``.
        prompt_lengths: See ``benchmark``.
        cache_lengths: See ``benchmark``.

    Raises:
        ValueError, ImportError: The same errors as ``benchmark``.
    """

    def __init__(
        self,
        path: str,
        threads: int,
        sizes: Mapping[str, int | None],
        prompt_lengths: list[int] | None = None,
        cache_lengths: list[int] | None = None,
    ) -> None:
        self.check(sizes)
        loaded_runtime(path)
        self.path, self.threads, self.idle = path, threads, peak_memory()
        start = clock()
        self.open()
        self.load_ms = 1e3 * (clock() - start)
        self.prepare(sizes, prompt_lengths, cache_lengths)

    def check(self, sizes: Mapping[str, int | None]) -> None:
        """Raise ValueError for sizes that files of this kind do not have. Other sizes are checked after loading."""

    def open(self) -> None:
        self.runner = load(self.path, threads=self.threads)

    def prepare(
        self, sizes: Mapping[str, int | None], prompt_lengths: list[int] | None, cache_lengths: list[int] | None
    ) -> None:
        """Create the inputs and choose the prompt and cache lengths."""
        self.inputs, self.rows = inputs_of(self.runner, sizes)
        self.shapes = {name: list(array.shape) for name, array in self.inputs.items()}
        self.lengths = lengths_of(self.runner, prompt_lengths, cache_lengths)

    def usual_lengths(self) -> dict[str, list[int]]:
        """Return the default lengths of ``measure``."""
        return {"prompt_lengths": self.lengths.prompts, "cache_lengths": self.lengths.caches}

    def measure(
        self, repeats: int, prompt_lengths: list[int] | None = None, cache_lengths: list[int] | None = None
    ) -> dict[str, Any]:
        """Measure the file and return the ``Figures`` as a dictionary.

        Args:
            repeats: The number of timed runs.
            prompt_lengths: The lengths of the prompts, if the file generates. Default: see ``usual_lengths``.
            cache_lengths: The numbers of cached tokens before the timed steps. Default: see ``usual_lengths``.
        """
        prompts = self.lengths.prompts if prompt_lengths is None else prompt_lengths
        caches = self.lengths.caches if cache_lengths is None else cache_lengths
        times, taken, written = self.time(repeats, replace(self.lengths, prompts=prompts, caches=caches))
        name, flags = processor()
        latency: Any = spread(times, 90, 95)
        package = RUNTIMES[self.runner.path.suffix][1]
        figures = Figures(
            path=self.path,
            format=self.runner.format,
            bytes=size_of(self.runner),
            shapes=self.shapes,
            threads=self.threads,
            repeats=repeats,
            load_ms=self.load_ms,
            **latency,
            prefill=taken,
            decode=written,
            peak_memory_bytes=peak_memory(),
            idle_memory_bytes=self.idle,
            runtime=f"{package} {version(package)}",
            machine=machine(),
            cpu=name,
            cpu_flags=flags,
        )
        return asdict(figures)

    def time(self, repeats: int, lengths: Lengths) -> tuple[list[float], list[Pace], list[Pace]]:
        """Return the time of each call in milliseconds, and the ``Pace`` of each prompt length and cache length."""
        for _ in range(WARM):
            self.runner.run(self.inputs)
        times = timed(lambda: self.runner.run(self.inputs), repeats)
        if not can_generate(self.runner):
            return times, [], []
        return times, *paces(self.runner.decoder(), lengths, self.rows, repeats)


def loaded_runtime(path: str) -> None:
    """Import the runtime of a file, so that the load time does not include it."""
    module, _ = RUNTIMES.get(Path(path).suffix, ("numpy", ""))
    with suppress(ImportError):  # `load` raises it
        importlib.import_module(module)


def inputs_of(runner: Runner, asked: Mapping[str, int | None]) -> tuple[dict[str, np.ndarray], int]:
    """Return random inputs of the requested sizes (default: those of the file), and the number of rows of the batch."""
    signature = runner.signature
    sizes: dict[str, int] = {**signature.examples, **signature.defaults, "batch": 1, **signature.sizes}
    meant = {"batch": ("batch",), "sequence": ("sequence", "source"), "image_size": ("height", "width")}
    for name, dims in meant.items():
        value = asked.get(name)
        if value is not None:
            sizes |= dict.fromkeys(dims, positive_integer(name, value))
    # Third-party files have arbitrary dimension names: assume the batch first, and sequences in all other places.
    for spec in signature.inputs:
        for axis, dim in enumerate(spec.dims):
            if isinstance(dim, str):
                sizes.setdefault(dim, sizes["batch"] if axis == 0 else asked.get("sequence") or 1)
    return example_inputs(signature, sizes), sizes["batch"]


def size_of(runner: Runner) -> int:
    """Return the total size in bytes of the files of the model, including external weights."""
    files = [file for path in runner.files for file in (path, path.with_name(f"{path.name}.data"))]
    return sum(file.stat().st_size for file in files if file.exists())
