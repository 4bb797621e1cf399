"""What the machine can do: bytes read a second, and products of float32 matrices.

A step of a decoder reads every weight once, and a long prompt multiplies matrices; neither can be faster than this.
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

ROUNDS = 5  # of each measurement; the best one counts
USUAL_CACHE = 2**25  # bytes, where the system does not say
# BLAS libraries count their threads when they are loaded, by one of these.
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "BLIS_NUM_THREADS")


@dataclass(frozen=True)
class Limits:
    """What NumPy reaches in this machine's memory and on its cores; the best of five measurements each.

    Attributes:
        read_gb_per_second: 1e9 bytes a second, of all threads together.
        read_bytes: of the array that was read.
        cache_bytes: of the last level of cache, or None where the system does not say. An array of less than four
            times this was partly read from there.
        gemm_gflops: 1e9 float32 operations a second in a product of two square matrices.
        gemm_size: their rows.
        threads: of both.
    """

    read_gb_per_second: float
    read_bytes: int
    cache_bytes: int | None
    gemm_gflops: float
    gemm_size: int
    threads: int

    def reading_ms(self, count: int) -> float:
        """Milliseconds that it takes to read so many bytes."""
        return count / self.read_gb_per_second / 1e6

    def to_text(self) -> str:
        small = self.cache_bytes is None or self.read_bytes < 4 * self.cache_bytes
        cached = ", partly from caches" if small and self.cache_bytes else ""
        return (
            f"this machine: reads {self.read_gb_per_second:.1f} GB/s (of {self.read_bytes / 1e6:.0f} MB{cached}), "
            f"float32 products of {self.gemm_size} {self.gemm_gflops:.0f} GFLOP/s ({self.threads} threads)"
        )


def machine_limits(threads: int, **sizes: int) -> Limits:
    """Measured in a process of its own, whose BLAS has so many threads.

    Args:
        sizes: `read_bytes` and `gemm_size`. Default: four times the last cache as far as a quarter of the free memory
            goes, and 2048.
    """
    environment = {name: str(threads) for name in THREADS}
    with Worker(Prober, environment=environment, threads=threads, **sizes) as worker:
        return Limits(**worker.ask("measure"))


class Prober:
    """Measures `Limits` in the process that it is in."""

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
        """Each thread reads its part: with "or", which costs least beside the reading. NumPy lets go of its lock."""
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
