"""Timing of calls, and statistics of the times."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

clock = time.perf_counter
WARM = 3  # untimed warm-up runs, as the first runs allocate memory


def timed(call: Callable[[], Any], repeats: int, *, seconds: float = np.inf, least: int = 3) -> list[float]:
    """Return the time of each of `repeats` calls in milliseconds.

    Args:
        call: The function to time.
        repeats: The number of calls.
        seconds: The time after which no further call is made.
        least: The number of calls that are made even if they take longer than `seconds`.
    """
    times: list[float] = []
    for number in range(repeats):
        if number >= least and sum(times) > 1e3 * seconds:
            break
        start = clock()
        call()
        times.append(1e3 * (clock() - start))
    return times


def spread(times: Sequence[float], *percentiles: int) -> dict[str, float]:
    """Return the minimum, the median and the requested percentiles as `min_ms`, `median_ms` and `p{n}_ms`."""
    found = {"min_ms": float(np.min(times)), "median_ms": float(np.median(times))}
    return found | {f"p{n}_ms": float(np.percentile(times, n)) for n in percentiles}
