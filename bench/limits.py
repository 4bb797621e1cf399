"""Limits of the machine: memory bandwidth and throughput of float32 matrix multiplication.

A decode step reads every weight once, and the prefill of a long prompt multiplies matrices. Neither can be faster than
these limits.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .machine import free_memory, last_cache
from .processes import Worker
from .timing import timed

ROUNDS = 5  # repetitions of each measurement, of which the best is used
USUAL_CACHE = 2**25  # bytes; assumed if the system does not report the size of the cache
# The environment variables from which BLAS libraries read their number of threads when they are loaded.
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "BLIS_NUM_THREADS")


@dataclass(frozen=True)
class Limits:
    """Memory bandwidth and matrix multiplication throughput that NumPy reaches: the best of five measurements each.

    Attributes:
        read_gb_per_second: The read bandwidth of all threads together, in 1e9 bytes per second.
        read_bytes: The size of the array that was read.
        cache_bytes: The size of the last-level cache, or None if the system does not report it. An array of less than
            four times this size was partly read from the cache.
        gemm_gflops: The throughput of the multiplication of two square matrices, in 1e9 float32 operations per second.
        gemm_size: The number of rows of these matrices.
        threads: The number of threads of both measurements.
    """

    read_gb_per_second: float
    read_bytes: int
    cache_bytes: int | None
    gemm_gflops: float
    gemm_size: int
    threads: int

    def reading_ms(self, count: int) -> float:
        """Return the time in milliseconds that it takes to read `count` bytes."""
        return count / self.read_gb_per_second / 1e6

    def to_text(self) -> str:
        small = self.cache_bytes is None or self.read_bytes < 4 * self.cache_bytes
        cached = ", partly cached" if small and self.cache_bytes else ""
        return (
            f"this machine: read bandwidth {self.read_gb_per_second:.1f} GB/s (array of {self.read_bytes / 1e6:.0f} MB"
            f"{cached}), {self.gemm_size}x{self.gemm_size} float32 matmul {self.gemm_gflops:.0f} GFLOP/s "
            f"({self.threads} threads)"
        )


def machine_limits(threads: int, **sizes: int) -> Limits:
    """Measure the limits in a new process, whose BLAS library uses `threads` threads.

    Args:
        threads: The number of threads.
        sizes: `read_bytes` (default: four times the last-level cache, but at most a quarter of the free memory) and
            `gemm_size` (default: 2048).
    """
    environment = {name: str(threads) for name in THREADS}
    with Worker(Prober, environment=environment, threads=threads, **sizes) as worker:
        return Limits(**worker.ask("measure"))


class Prober:
    """The measurement of ``Limits`` in the current process."""

    def __init__(self, threads: int, read_bytes: int | None = None, gemm_size: int = 2048) -> None:
        self.threads, self.gemm_size, self.cache = threads, gemm_size, last_cache()
        wanted, free = 4 * (self.cache or USUAL_CACHE), free_memory()
        self.read_bytes = read_bytes or (wanted if free is None else min(wanted, free // 4))

    def measure(self) -> dict[str, Any]:
        return asdict(
            Limits(
                read_gb_per_second=self.read_bytes / best_seconds(self._reader()) / 1e9,
                read_bytes=self.read_bytes,
                cache_bytes=self.cache,
                gemm_gflops=2 * self.gemm_size**3 / best_seconds(self._product()) / 1e9,
                gemm_size=self.gemm_size,
                threads=self.threads,
            )
        )

    def _reader(self) -> Callable[[], Any]:
        """Return a function in which each thread reads its part of an array.

        It reduces the part by "or", which adds the least cost to reading. NumPy releases the GIL meanwhile.
        """
        parts = np.array_split(np.ones(self.read_bytes // 8, "uint64"), self.threads)
        pool = ThreadPoolExecutor(self.threads)
        return lambda: list(pool.map(np.bitwise_or.reduce, parts))

    def _product(self) -> Callable[[], Any]:
        square = np.random.default_rng(0).random((self.gemm_size, self.gemm_size), "float32")
        result = np.empty_like(square)
        return lambda: np.matmul(square, square, out=result)


def best_seconds(call: Callable[[], Any]) -> float:
    call()
    return min(timed(call, ROUNDS)) / 1e3
