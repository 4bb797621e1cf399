"""What a run will need: memory and time, from three steps of it on its own data."""

from __future__ import annotations

import resource
import sys
import time
from typing import Any

from keras import ops

from .plan import Plan
from .training import Prepared

STEPS = 3  # the first compiles; the fastest of the others counts


def forecast(plan: Plan) -> dict[str, Any]:
    """Return what the run of a plan needs. The model is loaded and trained for three steps; nothing is written.

    Returns:
        "parameters" (trained and all), "rows", "tokens", "length", "cut", "steps", "seconds_per_step", "seconds" of the
        whole training, the first step and the loading included but not validation, samples and exports, and
        "peak_bytes", the most memory that this process has used so far, which is what the training uses.

    Raises:
        ValueError: as in ``training.train``.
    """
    start = time.perf_counter()
    prepared = Prepared(plan)
    loaded = time.perf_counter() - start
    times = []
    for step in range(STEPS):
        inputs, labels = prepared.train[step % len(prepared.train)]
        start = time.perf_counter()
        ops.convert_to_numpy(prepared.model.train_on_batch(inputs, labels))
        times.append(time.perf_counter() - start)
    step, counts = min(times[1:]), prepared.model.parameter_counts
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "parameters": {"trained": counts.trainable, "all": counts.total},
        "rows": prepared.train.number,
        "tokens": prepared.tokens,
        "length": prepared.train.length,
        "cut": prepared.cut,
        "steps": prepared.steps,
        "seconds_per_step": round(step, 4),
        "seconds": round(loaded + times[0] + step * (prepared.steps - 1), 1),
        "peak_bytes": peak,
    }
