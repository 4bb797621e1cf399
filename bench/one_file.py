"""The figures of one file."""

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
    """Latency, memory and pace of an exported file, ours or another's, in a process of its own.

    Inputs are random; every position is kept. What generates is timed through the decoder of its ``generate``, a
    ``.litertlm`` bundle in its engine: prompts of real words, and as its call one token of an answer.

    Args:
        batch, sequence, image_size: sizes of the inputs. Defaults: those the file has for good; else one row of the
            model's own.
        prompt_lengths: tokens of prompts to time, of a source where an encoder reads it; [] for none. Default: 128 and
            512 as far as they fit.
        cache_lengths: tokens before the steps to time; of the target where there is an encoder, behind a source of the
            first of `prompt_lengths`; [] for none. Default: 16 and 512 as far as they fit.
        repeats: timed runs, after three that are not; and steps, or as many as there is room for. Prompts of one
            length are at least three, and no more once they have taken two seconds.
        threads: CPU threads. Default: every core that this process may use.
        limits: measure what the machine can do too.

    Raises:
        ValueError: an unreadable file, or sizes it does not accept.
        ImportError: the runtime is not installed.
        ChildProcessError: the process that timed it ended by itself, such as for want of memory.
    """
    repeats, threads = positive_integer("repeats", repeats), thread_count(threads)
    sizes = {"batch": batch, "sequence": sequence, "image_size": image_size}
    with Worker(subject_of(path), **request(path, threads, sizes, prompt_lengths, cache_lengths)) as worker:
        figures = Figures.from_dict(worker.ask("measure", repeats=repeats))
    return replace(figures, limits=machine_limits(threads)) if limits else figures


def subject_of(path: str | os.PathLike[str]) -> type[Subject]:
    """What times this kind of file."""
    return Bundle if Path(path).suffix == ".litertlm" else Subject


def thread_count(threads: int | None) -> int:
    return usable_cores() if threads is None else positive_integer("threads", threads)


def request(path: Any, threads: int, sizes: dict[str, Any], prompts: Any, caches: Any) -> dict[str, Any]:
    """The arguments of a ``Subject``, as JSON can hold them."""
    sizes = {name: None if size is None else positive_integer(name, size) for name, size in sizes.items()}
    lengths = {"prompt_lengths": listed("prompt_lengths", prompts), "cache_lengths": listed("cache_lengths", caches)}
    return {"path": os.fspath(path), "threads": threads, "sizes": sizes, **lengths}
