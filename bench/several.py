"""Several files, one measurement of each in turn, so that a slower minute of the machine meets all of them."""

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

REST = 0.05  # seconds between two files: threads of a runtime look for more work for a while before they sleep
FASTER = "tokens/s"  # the unit of which more is better


@dataclass(frozen=True)
class Measure:
    """One quantity of one file.

    Attributes:
        unit: "ms" and "MB" (1e6 bytes), of which less is better, or "tokens/s".
        rounds: its value in each; a single one of what does not change.
        best: of these, the least or, of tokens/s, the most.
        ratio: the median over the rounds of the value by the first file's in the same round; None where the first
            file has no such quantity, or the calls have inputs of other shapes.
        best_ratio: of the best by the first file's best, which a busy machine disturbs least.
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
    """One of the files."""

    path: str
    format: str
    runtime: str
    shapes: dict[str, list[int]]
    measures: list[Measure]


@dataclass(frozen=True)
class Comparison:
    """Files side by side; ratios are to the first one."""

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
        """A table for people: medians of the rounds, those of the best rounds in brackets, ratios."""
        return "\n".join([self._heading(), "", *aligned(self._rows()), "", *self._notes()])

    def to_markdown(self) -> str:
        return "\n".join([self._heading(), "", *markdown(self._rows()), "", *(f"{note}  " for note in self._notes())])

    def bars(self) -> dict[str, list[Bar]]:
        """What a picture shows: in each panel a label, a value and a text for every file."""
        columns = self._by_name()
        found: dict[str, list[Bar]] = {}
        for name in self._names():
            measures = [column.get(name) for column in columns]
            texts = [cell(measure, ratio=i > 0, best=False) for i, measure in enumerate(measures)]
            lengths = [None if measure is None else measure.median for measure in measures]
            found[name] = list(zip(self._labels(), lengths, texts, strict=True))
        return found

    def title(self) -> str:
        """Of the picture."""
        return f"{self._measured()}: median of the rounds, × its ratio to {self._labels()[0]}"

    def _heading(self) -> str:
        return f"{self._measured()}: median (best) of the rounds, × their ratios to {self._labels()[0]}"

    def _measured(self) -> str:
        return f"{self.rounds} rounds of {self.repeats} runs, {self.threads} threads"

    def _labels(self) -> list[str]:
        return labels([file.path for file in self.files])

    def _rows(self) -> list[list[str]]:
        columns = self._by_name()
        rows = [[name, *(cell(c.get(name), ratio=i > 0) for i, c in enumerate(columns))] for name in self._names()]
        return [["", *self._labels()], *rows]

    def _names(self) -> list[str]:
        """Of all measures, as the file that has most of them orders them."""
        columns = sorted(self._by_name(), key=len, reverse=True)
        return list(dict.fromkeys(name for column in columns for name in column))

    def _by_name(self) -> list[dict[str, Measure]]:
        return [{f"{m.name}, {m.unit}": m for m in file.measures} for file in self.files]

    def _notes(self) -> list[str]:
        first, *others = self.files
        notes = []
        if any(not alike(first.shapes, other.shapes) for other in others):
            notes.append("one call: no ratio where inputs have other shapes than the first file's")
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
    """Figures of several files, with their ratios to the first one's.

    Every file is loaded once, in a process of its own that waits while the others are measured; memory must hold all
    of them. The same path twice shows what the ratios of equal files look like on this machine.

    Args:
        paths: at least two.
        rounds: measurements of each file. Every other round goes backwards.
        repeats: timed runs and steps in each round.
        batch, sequence, image_size, threads, limits: as of ``benchmark``.
        prompt_lengths, cache_lengths: as well; by default those that all files have room for.

    Raises:
        ValueError, ImportError, ChildProcessError: as ``benchmark``.
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
    """What a ``Worker`` is to this module."""

    def ask(self, method: str, **options: Any) -> Any: ...


def shared(lengths: Sequence[dict[str, list[int]]]) -> dict[str, list[int]]:
    """Of the lengths that each file would be measured at, those of all that generate; else the longest for all."""
    found = {}
    for name in lengths[0]:
        given = [one[name] for one in lengths if one[name]]
        common = [length for length in (given or [[]])[0] if all(length in others for others in given)]
        found[name] = common or ([min(map(max, given))] if given else [])
    return found


def in_turn(workers: Sequence[Asked], rounds: int, **options: Any) -> list[list[Figures]]:
    """The figures of each worker's rounds, measured with these options: first to last, last to first, and so on."""
    figures: list[list[Figures]] = [[] for _ in workers]
    for number in range(rounds):
        turns = list(enumerate(workers))
        for place, worker in reversed(turns) if number % 2 else turns:
            time.sleep(REST)
            figures[place].append(Figures.from_dict(worker.ask("measure", **options)))
    return figures


def compared(measured: Sequence[Sequence[Figures]], limits: Limits | None = None) -> Comparison:
    """The rounds of each file, beside those of the first."""
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
    """By name and unit: what is the same in all rounds, at its last, and the values of all rounds of the rest."""
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
    """Do inputs have the same shapes? Their names may be another library's."""
    return {tuple(shape) for shape in some.values()} == {tuple(shape) for shape in others.values()}


def cell(found: Measure | None, *, ratio: bool, best: bool = True) -> str:
    """Median, best, and their ratios."""
    if found is None:
        return "-"
    best = best and len(found.rounds) > 1
    text = number(found.median) + (f" ({number(found.best)})" if best else "")
    if not ratio or found.ratio is None:
        return text
    return f"{text} × {found.ratio:.2f}" + (f" ({found.best_ratio:.2f})" if best else "")


def number(value: float) -> str:
    """With three digits at least."""
    return f"{value:.0f}" if value >= 1000 else f"{value:.1f}" if value >= 100 else f"{value:.2f}"


def labels(paths: Sequence[str]) -> list[str]:
    """File names; paths where names are the same, counted where paths are too."""
    names = [Path(path).name for path in paths]
    shown = names if len(set(names)) == len(set(paths)) else list(paths)
    return [
        name if shown.count(name) == 1 else f"{name} ({shown[: i + 1].count(name)})" for i, name in enumerate(shown)
    ]
