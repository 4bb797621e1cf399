"""The measurements of one file, as data, JSON and text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .limits import Limits
from .machine import INSTRUCTIONS
from .tables import Bar, aligned


@dataclass(frozen=True)
class Pace:
    """The throughput and latency of prefill or decode at one length.

    Attributes:
        length: The prompt length; or the number of cached tokens before the first timed step. Each step adds one.
        rows: The number of rows of the batch.
        runs: The number of timed prompts or steps.
        tokens_per_second: The tokens of all rows and runs, divided by the time of all runs.
        min_ms: The minimum latency of a prompt or step, in milliseconds.
        median_ms: The median latency.
        p95_ms: The 95th percentile of the latency.
    """

    length: int
    rows: int
    runs: int
    tokens_per_second: float
    min_ms: float
    median_ms: float
    p95_ms: float


@dataclass(frozen=True)
class Figures:
    """The result of ``benchmark``: latency, throughput and memory of one file, measured in a new process.

    Attributes:
        path: The path of the file.
        format: "onnx", "tflite" or "litertlm".
        bytes: The size of the file and of the other files of the model.
        shapes: The shapes of the inputs of a call, by name.
        threads: The number of CPU threads.
        repeats: The number of timed calls.
        load_ms: The time to load the file, in milliseconds, without the import of the runtime.
        min_ms: The minimum latency of a call, in milliseconds.
        median_ms: The median latency.
        p90_ms: The 90th percentile of the latency.
        p95_ms: The 95th percentile of the latency.
        prefill: The throughput of prefill at each prompt length; empty if the file does not generate.
        decode: The throughput of decode steps at each cache length; empty if the file does not generate.
        peak_memory_bytes: The peak resident set size of the process, with mapped files; None if not available.
        idle_memory_bytes: The same before the file was loaded: Python, NumPy and the runtime.
        runtime: The name and version of the runtime.
        machine: Architecture, cores, system and Python version.
        cpu: The name of the processor.
        cpu_flags: Its instruction sets for matrix multiplication, as Linux names them.
        limits: The limits of the machine, if requested.
    """

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
    p95_ms: float
    prefill: list[Pace]
    decode: list[Pace]
    peak_memory_bytes: int | None
    idle_memory_bytes: int | None
    runtime: str
    machine: str
    cpu: str
    cpu_flags: list[str]
    limits: Limits | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Figures:
        """Create the figures from the content of ``to_json``."""
        paces = {side: [Pace(**pace) for pace in values[side]] for side in ("prefill", "decode")}
        limits = values.get("limits")
        return cls(**{**values, **paces, "limits": limits and Limits(**limits)})

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)

    def to_text(self) -> str:
        """Return a summary of a few lines."""
        shapes = [f"{name} ({', '.join(map(str, sizes))})" for name, sizes in self.shapes.items()]
        more = [f"{len(shapes) - 4} more"] if len(shapes) > 4 else []
        lines = [
            f"{self.path}: {self.bytes / 1e6:.1f} MB, loaded in {self.load_ms:.0f} ms{self._memory()}",
            f"inputs: {', '.join(shapes[:4] + more)}",
            f"p50 {self.median_ms:.2f} ms, p90 {self.p90_ms:.2f} ms, p95 {self.p95_ms:.2f} ms, "
            f"fastest {self.min_ms:.2f} ms ({self.repeats} runs, {self.threads} threads)",
        ]
        if self.prefill or self.decode:
            rows = [["", "tokens/s", "p50 ms", "p95 ms", "runs"]]
            for name, paces in (("prefill of {}", self.prefill), ("decode at {}", self.decode)):
                for pace in paces:
                    figures = [f"{n:.2f}" for n in (pace.median_ms, pace.p95_ms)]
                    rows.append([name.format(pace.length), f"{pace.tokens_per_second:.1f}", *figures, f"{pace.runs}"])
            lines += aligned(rows)
        if self.limits:
            lines += [self.limits.to_text(), f"reading the file once takes {self.limits.reading_ms(self.bytes):.2f} ms"]
        lines.append(on(self.runtime, self.machine, self.cpu_flags))
        return "\n".join(lines)

    def _memory(self) -> str:
        if self.peak_memory_bytes is None or self.idle_memory_bytes is None:
            return ""
        peak, idle = self.peak_memory_bytes / 1e6, self.idle_memory_bytes / 1e6
        return f", peak memory {peak:.0f} MB ({idle:.0f} idle)"

    def title(self) -> str:
        return f"{self.path}, {self.threads} threads, {self.runtime}"

    def bars(self) -> dict[str, list[Bar]]:
        """Return the bars of a chart: label, value and text of each, by panel title."""
        times = {"fastest": self.min_ms, "p50": self.median_ms, "p90": self.p90_ms, "p95": self.p95_ms}
        found: dict[str, list[Bar]] = {
            "one call, ms": [(name, value, f"{value:.2f}") for name, value in times.items()],
            "prefill, tokens/s": [(f"prompt of {p.length}", *rate(p)) for p in self.prefill],
            "decode, tokens/s": [(f"at {p.length}", *rate(p)) for p in self.decode],
        }
        return {title: bars for title, bars in found.items() if bars}


def rate(pace: Pace) -> tuple[float, str]:
    return pace.tokens_per_second, f"{pace.tokens_per_second:.1f}"


def on(runtime: str, machine: str, flags: list[str]) -> str:
    """Return a line that names the runtime, the machine and its instruction sets."""
    known = list(dict.fromkeys(INSTRUCTIONS[flag] for flag in flags))
    return ", ".join([runtime, machine, *([" ".join(known)] if known else [])])
