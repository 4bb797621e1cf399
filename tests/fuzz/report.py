"""The totals of the tries of ``run.py``, as a table for docs/security.md."""

from __future__ import annotations

from collections import Counter
from typing import Any

OUTCOMES = ("accepted", "refused", "exception", "long message", "signal", "over a minute", "over 1 GB")
GOOD = OUTCOMES[:2]


class Report:
    """The totals of all tries, and the findings."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = {}
        self.peaks: Counter[str] = Counter()
        self.seconds: Counter[str] = Counter()  # of the time of a processor
        self.findings: list[str] = []

    def add(self, kind: str, outcome: str, message: str, used: int, number: int) -> None:
        """Add a try, which used so many bytes of memory."""
        self.counts.setdefault(kind, Counter())[outcome] += 1
        self.peaks[kind] = max(self.peaks[kind], used)
        if outcome not in GOOD:
            self.findings.append(f"{kind} {number}: {outcome}: {message}")

    def merge(self, other: dict[str, Any]) -> None:
        for kind, counts in other["counts"].items():
            self.counts.setdefault(kind, Counter()).update(counts)
        self.peaks |= Counter(other["peaks"])
        self.seconds.update(other["seconds"])
        self.findings += other["findings"]

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("counts", "peaks", "seconds", "findings")}

    def to_markdown(self) -> str:
        """Return a table with a row for each kind, and a line for each finding below it."""
        names = ("kind", "tries", *OUTCOMES, "most memory of a try", "time of a try")
        lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
        total: Counter[str] = Counter()
        for kind in self.counts:
            total.update(self.counts[kind])
            lines.append(self._row(kind, self.counts[kind], self.peaks[kind], self.seconds[kind]))
        lines.append(self._row("all", total, max(self.peaks.values(), default=0), self.seconds.total()))
        return "\n".join([*lines, *([""] if self.findings else []), *self.findings])

    def _row(self, name: str, counts: Counter[str], peak: int, seconds: float) -> str:
        tries = counts.total()
        found = (f"{value:,}" for value in (tries, *(counts[outcome] for outcome in OUTCOMES)))
        return f"| {name} | {' | '.join(found)} | {peak / 2**20:.0f} MB | {1000 * seconds / max(tries, 1):.1f} ms |"
