"""A clock, and what is said of the times that it took."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

clock = time.perf_counter
WARM = 3  # runs that are not timed: the first ones allocate


def timed(call: Callable[[], Any], repeats: int, *, seconds: float = np.inf, least: int = 3) -> list[float]:
    """Milliseconds of each of `repeats` calls; fewer, but `least`, where they took more than `seconds` together."""
    times: list[float] = []
    for number in range(repeats):
        if number >= least and sum(times) > 1e3 * seconds:
            break
        start = clock()
        call()
        times.append(1e3 * (clock() - start))
    return times


def spread(times: Sequence[float], *percentiles: int) -> dict[str, float]:
    """`min_ms`, `median_ms`, and a `p{n}_ms` that so many in a hundred do not exceed."""
    found = {"min_ms": float(np.min(times)), "median_ms": float(np.median(times))}
    return found | {f"p{n}_ms": float(np.percentile(times, n)) for n in percentiles}
