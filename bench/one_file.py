"""The benchmark of one file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..checks import positive_integer
from ..runtime.runner import usable_cores
from .bundle import Bundle
from .figures import Figures
from .generating import listed
from .limits import machine_limits
from .processes import Worker
from .subject import Subject


def benchmark(
    path: str | os.PathLike[str],
    *,
    batch: int | None = None,
    sequence: int | None = None,
    image_size: int | None = None,
    prompt_lengths: int | Sequence[int] | None = None,
    cache_lengths: int | Sequence[int] | None = None,
    repeats: int = 30,
    threads: int | None = None,
    limits: bool = False,
) -> Figures:
    """Measure latency, throughput and memory of a file of this package or of a third party, in a new process.

    The inputs are random, without padding. Prefill and decode steps are timed through the decoder that ``generate``
    uses. A ``.litertlm`` bundle is timed in its engine, with prompts of English text; its call is one generated token.

    Args:
        path: An ``.onnx``, ``.tflite`` or ``.litertlm`` file.
        batch: The number of rows of the inputs. Default: that of the file if it is static, else 1.
        sequence: The length of the sequences. Default: that of the file if it is static, else the model's own default.
        image_size: The height and width of the images. Default: likewise.
        prompt_lengths: The lengths of the prompts (for an encoder-decoder, of the source) for which prefill is timed;
            [] for none. Default: 128 and 512, as far as they fit.
        cache_lengths: The numbers of cached tokens after which decode steps are timed; [] for none. For an
            encoder-decoder they are target tokens, and the source has the first of `prompt_lengths`. Default: 16 and
            512, as far as they fit.
        repeats: The number of timed runs, which follow three untimed ones, and of decode steps, limited by the maximum
            length. Fewer prompts of one length, but at least three, are timed if they take more than two seconds.
        threads: The number of CPU threads. Default: all cores that this process may use.
        limits: Whether to measure the limits of the machine too.

    Returns:
        ``Figures``, with ``to_text`` and ``to_json``.

    Raises:
        ValueError: If the file cannot be read or does not support the requested sizes, or an argument is not a positive
            integer.
        ImportError: If the runtime is not installed.
        ChildProcessError: If the process that measured the file ended unexpectedly, for example for lack of memory.
    """
    repeats, threads = positive_integer("repeats", repeats), thread_count(threads)
    sizes = {"batch": batch, "sequence": sequence, "image_size": image_size}
    with Worker(subject_of(path), **request(path, threads, sizes, prompt_lengths, cache_lengths)) as worker:
        figures = Figures.from_dict(worker.ask("measure", repeats=repeats))
    return replace(figures, limits=machine_limits(threads)) if limits else figures


def subject_of(path: str | os.PathLike[str]) -> type[Subject]:
    """Return the class that measures this kind of file."""
    return Bundle if Path(path).suffix == ".litertlm" else Subject


def thread_count(threads: int | None) -> int:
    return usable_cores() if threads is None else positive_integer("threads", threads)


def request(path: Any, threads: int, sizes: dict[str, Any], prompts: Any, caches: Any) -> dict[str, Any]:
    """Check the arguments of a ``Subject``, and return them as JSON types."""
    sizes = {name: None if size is None else positive_integer(name, size) for name, size in sizes.items()}
    lengths = {"prompt_lengths": listed("prompt_lengths", prompts), "cache_lengths": listed("cache_lengths", caches)}
    return {"path": os.fspath(path), "threads": threads, "sizes": sizes, **lengths}
