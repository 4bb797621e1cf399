"""Comparison of several files, measured in alternation so that slow phases of the machine affect all of them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..checks import positive_integer
from .figures import Figures, on
from .limits import Limits, machine_limits
from .one_file import request, subject_of, thread_count
from .processes import Worker
from .tables import Bar, aligned, markdown

REST = 0.05  # seconds between two files: the threads of a runtime spin for a while before they sleep
FASTER = "tokens/s"  # the unit for which higher values are better


@dataclass(frozen=True)
class Measure:
    """One measured quantity of one file.

    Attributes:
        name: The name of the quantity, such as "one call".
        unit: "ms" or "MB" (1e6 bytes), for which lower values are better, or "tokens/s".
        rounds: The value in each round; a single value for a quantity that is constant.
        best: The best of these: the lowest or, for tokens/s, the highest.
        median: The median of these.
        ratio: The median over the rounds of the ratio to the first file's value in the same round; None if the first
            file has no such quantity, or its calls have inputs of other shapes.
        best_ratio: The ratio of the best value to the first file's best value, which is least affected by other load
            on the machine.
    """

    name: str
    unit: str
    rounds: list[float]
    best: float
    median: float
    ratio: float | None
    best_ratio: float | None


@dataclass(frozen=True)
class Compared:
    """The measured quantities of one of the compared files."""

    path: str
    format: str
    runtime: str
    shapes: dict[str, list[int]]
    measures: list[Measure]


@dataclass(frozen=True)
class Comparison:
    """The result of ``compare``.

    Attributes:
        files: The files in the given order. Their ratios refer to the first file.
        rounds: The number of measurements of each file.
        repeats: The number of timed runs in each round.
        threads: The number of CPU threads.
        machine: Architecture, cores, system and Python version.
        cpu: The name of the processor.
        cpu_flags: Its instruction sets for matrix multiplication, as Linux names them.
        limits: The limits of the machine, if requested.
    """

    files: list[Compared]
    rounds: int
    repeats: int
    threads: int
    machine: str
    cpu: str
    cpu_flags: list[str]
    limits: Limits | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)

    def to_text(self) -> str:
        """Return a table as text: the median and (in parentheses) the best of the rounds, and the ratios of both."""
        return "\n".join([self._heading(), "", *aligned(self._rows()), "", *self._notes()])

    def to_markdown(self) -> str:
        return "\n".join([self._heading(), "", *markdown(self._rows()), "", *(f"{note}  " for note in self._notes())])

    def bars(self) -> dict[str, list[Bar]]:
        """Return the bars of a chart: label, value and text for every file, by panel title."""
        columns = self._by_name()
        found: dict[str, list[Bar]] = {}
        for name in self._names():
            measures = [column.get(name) for column in columns]
            texts = [cell(measure, ratio=i > 0, best=False) for i, measure in enumerate(measures)]
            lengths = [None if measure is None else measure.median for measure in measures]
            found[name] = list(zip(self._labels(), lengths, texts, strict=True))
        return found

    def title(self) -> str:
        """Return the title of the chart."""
        return f"{self._measured()}: median over the rounds, × ratio to {self._labels()[0]}"

    def _heading(self) -> str:
        return f"{self._measured()}: median (best) over the rounds, × ratios to {self._labels()[0]}"

    def _measured(self) -> str:
        return f"{self.rounds} rounds of {self.repeats} runs, {self.threads} threads"

    def _labels(self) -> list[str]:
        return labels([file.path for file in self.files])

    def _rows(self) -> list[list[str]]:
        columns = self._by_name()
        rows = [[name, *(cell(c.get(name), ratio=i > 0) for i, c in enumerate(columns))] for name in self._names()]
        return [["", *self._labels()], *rows]

    def _names(self) -> list[str]:
        """Return the names of all measures, in the order of the file that has the most."""
        columns = sorted(self._by_name(), key=len, reverse=True)
        return list(dict.fromkeys(name for column in columns for name in column))

    def _by_name(self) -> list[dict[str, Measure]]:
        return [{f"{m.name}, {m.unit}": m for m in file.measures} for file in self.files]

    def _notes(self) -> list[str]:
        first, *others = self.files
        notes = []
        if any(not alike(first.shapes, other.shapes) for other in others):
            notes.append("one call: no ratio for files whose input shapes differ from those of the first file")
        if self.limits:
            notes.append(self.limits.to_text())
        runtimes = ", ".join(dict.fromkeys(file.runtime for file in self.files))
        return [*notes, on(runtimes, self.machine, self.cpu_flags)]


def compare(
    paths: Sequence[str | os.PathLike[str]],
    *,
    batch: int | None = None,
    sequence: int | None = None,
    image_size: int | None = None,
    prompt_lengths: int | Sequence[int] | None = None,
    cache_lengths: int | Sequence[int] | None = None,
    rounds: int = 5,
    repeats: int = 10,
    threads: int | None = None,
    limits: bool = False,
) -> Comparison:
    """Measure several files in alternation, and compare them with the first one.

    Every file is loaded once, in its own process, which waits while the others are measured. Memory must therefore be
    sufficient for all files at once. The noise of the ratios can be estimated by passing the same path twice.

    Args:
        paths: Two or more files.
        batch: See ``benchmark``.
        sequence: See ``benchmark``.
        image_size: See ``benchmark``.
        prompt_lengths: See ``benchmark``. Default: the default lengths that fit all files that generate.
        cache_lengths: Likewise.
        rounds: The number of measurements of each file. Every second round measures the files in reverse order.
        repeats: The number of timed runs and decode steps in each round.
        threads: See ``benchmark``.
        limits: Whether to measure the limits of the machine too.

    Returns:
        A ``Comparison``, with ``to_text``, ``to_markdown`` and ``to_json``.

    Raises:
        ValueError: If there are fewer than two paths, a file cannot be read or does not support the requested sizes, or
            an argument is not a positive integer.
        ImportError: If a runtime is not installed.
        ChildProcessError: If a process that measured a file ended unexpectedly, for example for lack of memory.
    """
    if isinstance(paths, str | os.PathLike) or len(paths) < 2:
        raise ValueError(f"paths: got {paths!r}; accepted: at least two files")
    rounds, repeats = positive_integer("rounds", rounds), positive_integer("repeats", repeats)
    threads = thread_count(threads)
    sizes = {"batch": batch, "sequence": sequence, "image_size": image_size}
    requests = [request(path, threads, sizes, prompt_lengths, cache_lengths) for path in paths]
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(subject_of(options["path"]), **options)) for options in requests]
        lengths = shared([worker.ask("usual_lengths") for worker in workers])
        measured = in_turn(workers, rounds, repeats=repeats, **lengths)
    return compared(measured, machine_limits(threads) if limits else None)


class Asked(Protocol):
    """The interface of ``Worker`` that this module uses."""

    def ask(self, method: str, **options: Any) -> Any: ...


def shared(lengths: Sequence[dict[str, list[int]]]) -> dict[str, list[int]]:
    """Return the lengths at which to measure all files.

    Args:
        lengths: The default lengths of each file, by name; empty for a file that does not generate.

    Returns:
        By name, the lengths that all files that generate have in common. If there are none, it is the greatest length
        that fits all of them.
    """
    found = {}
    for name in lengths[0]:
        given = [one[name] for one in lengths if one[name]]
        common = [length for length in (given or [[]])[0] if all(length in others for others in given)]
        found[name] = common or ([min(map(max, given))] if given else [])
    return found


def in_turn(workers: Sequence[Asked], rounds: int, **options: Any) -> list[list[Figures]]:
    """Measure the workers in each round, alternately from first to last and from last to first.

    Returns:
        For each worker, the figures of its rounds.
    """
    figures: list[list[Figures]] = [[] for _ in workers]
    for number in range(rounds):
        turns = list(enumerate(workers))
        for place, worker in reversed(turns) if number % 2 else turns:
            time.sleep(REST)
            figures[place].append(Figures.from_dict(worker.ask("measure", **options)))
    return figures


def compared(measured: Sequence[Sequence[Figures]], limits: Limits | None = None) -> Comparison:
    """Compare the rounds of each file with those of the first file."""
    first = values(measured[0])
    files = []
    for figures in measured:
        one, comparable = figures[0], alike(figures[0].shapes, measured[0][0].shapes)
        files.append(
            Compared(
                path=one.path,
                format=one.format,
                runtime=one.runtime,
                shapes=one.shapes,
                measures=[
                    measure(*key, found, first.get(key) if comparable or not key[0].startswith("one call") else None)
                    for key, found in values(figures).items()
                ],
            )
        )
    one = measured[0][0]
    return Comparison(
        files=files,
        rounds=len(measured[0]),
        repeats=one.repeats,
        threads=one.threads,
        machine=one.machine,
        cpu=one.cpu,
        cpu_flags=one.cpu_flags,
        limits=limits,
    )


def values(figures: Sequence[Figures]) -> dict[tuple[str, str], list[float]]:
    """Return the values of all rounds by name and unit; for size, load time and peak memory only the last value."""
    last = figures[-1]
    found = {("size", "MB"): [last.bytes / 1e6], ("load", "ms"): [last.load_ms]}
    if last.peak_memory_bytes is not None:
        found["peak memory", "MB"] = [last.peak_memory_bytes / 1e6]
    found["one call", "ms"] = [one.median_ms for one in figures]
    found["one call p95", "ms"] = [one.p95_ms for one in figures]
    for i, pace in enumerate(last.prefill):
        found[f"prefill of {pace.length}", FASTER] = [one.prefill[i].tokens_per_second for one in figures]
    for i, pace in enumerate(last.decode):
        found[f"decode at {pace.length}", FASTER] = [one.decode[i].tokens_per_second for one in figures]
        found[f"decode at {pace.length} p95", "ms"] = [one.decode[i].p95_ms for one in figures]
    return found


def measure(name: str, unit: str, found: list[float], first: list[float] | None) -> Measure:
    best: Callable[..., float] = max if unit == FASTER else min
    ratio, best_ratio = None, None
    if first is not None:
        ratio, best_ratio = float(np.median(np.array(found) / np.array(first))), best(found) / best(first)
    return Measure(name, unit, found, best(found), float(np.median(found)), ratio, best_ratio)


def alike(some: dict[str, list[int]], others: dict[str, list[int]]) -> bool:
    """Return whether the inputs have the same shapes. Names are ignored, as they differ between exporters."""
    return {tuple(shape) for shape in some.values()} == {tuple(shape) for shape in others.values()}


def cell(found: Measure | None, *, ratio: bool, best: bool = True) -> str:
    """Return the text of a table cell: median, best, and their ratios."""
    if found is None:
        return "-"
    best = best and len(found.rounds) > 1
    text = number(found.median) + (f" ({number(found.best)})" if best else "")
    if not ratio or found.ratio is None:
        return text
    return f"{text} × {found.ratio:.2f}" + (f" ({found.best_ratio:.2f})" if best else "")


def number(value: float) -> str:
    """Format a value with zero to two decimals, depending on its magnitude."""
    return f"{value:.0f}" if value >= 1000 else f"{value:.1f}" if value >= 100 else f"{value:.2f}"


def labels(paths: Sequence[str]) -> list[str]:
    """Return the file names; the paths if different files have the same name. Equal labels are numbered."""
    names = [Path(path).name for path in paths]
    shown = names if len(set(names)) == len(set(paths)) else list(paths)
    return [
        name if shown.count(name) == 1 else f"{name} ({shown[: i + 1].count(name)})" for i, name in enumerate(shown)
    ]
