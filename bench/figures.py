"""What was measured of one file, as data, JSON and text."""

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
    """How fast tokens went in or came out.

    Attributes:
        length: tokens of each prompt; or tokens in the cache before the first timed step, which grows by one in each.
        rows: of the batch.
        runs: timed prompts or steps.
        tokens_per_second: tokens of all rows and runs, by the time of all runs.
        min_ms, median_ms, p95_ms: of one prompt or step, in milliseconds.
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
    """Latency, memory and pace of one file, in a process that did nothing else. Times in milliseconds.

    Attributes:
        bytes: of the file, and of those that belong to it.
        shapes: inputs of the calls that `min_ms`, `median_ms`, `p90_ms` and `p95_ms` tell of.
        repeats: calls, of those.
        load_ms: from the path to the first call, without the import of the runtime.
        prefill, decode: of a file that generates, as its ``generate`` does it; else empty.
        peak_memory_bytes: greatest resident size of the process until the end, what the file maps included; None where
            the system does not count.
        idle_memory_bytes: the same before the file was opened: Python, NumPy and the runtime.
        runtime: with its version.
        cpu_flags: instructions for products of matrices, as Linux names them.
        limits: what the machine can do, where that was asked for.
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
        """Of what ``to_json`` writes."""
        paces = {side: [Pace(**pace) for pace in values[side]] for side in ("prefill", "decode")}
        limits = values.get("limits")
        return cls(**{**values, **paces, "limits": limits and Limits(**limits)})

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)

    def to_text(self) -> str:
        """A few lines for people."""
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
        """What a picture shows: in each panel a label, a value and a text for every bar."""
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
    """The line that says what ran where."""
    known = list(dict.fromkeys(INSTRUCTIONS[flag] for flag in flags))
    return ", ".join([runtime, machine, *([" ".join(known)] if known else [])])
