"""How fast a file takes prompts and writes tokens, through the decoder that its ``generate`` uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..checks import INT32, is_integer, positive_integer
from ..generation.decoder import TOKENS
from ..generation.search import Decoder
from ..runtime.metadata import CONFIG
from ..runtime.runner import Runner
from .figures import Pace
from .timing import WARM, spread, timed

PROMPTS = (128, 512)  # tokens, where nobody says
CACHES = (16, 512)
FEWEST_STEPS = 8  # that must have room behind a usual length
SECONDS = 2.0  # of prompts of one length, unless three take longer


@dataclass(frozen=True)
class Lengths:
    """What is measured of one file.

    Attributes:
        vocabulary: ids lie below.
        longest: prompt that the file takes.
        prompts: tokens of each.
        caches: tokens that are there before the first timed step.
    """

    vocabulary: int
    longest: int
    prompts: list[int]
    caches: list[int]


def listed(name: str, lengths: Any) -> list[int] | None:
    """One length or several as a list; None as it is.

    Raises:
        ValueError: what is no length.
    """
    if lengths is None:
        return None
    found = [lengths] if is_integer(lengths) else lengths
    if isinstance(found, str) or not isinstance(found, Sequence | np.ndarray):
        raise ValueError(f"{name}: got {lengths!r}; accepted: positive integers")
    return [positive_integer(name, length) for length in found]


def can_generate(runner: Runner) -> bool:
    """Another's file may have graphs of the same names, but says nothing of special tokens and lengths."""
    return runner.generates and CONFIG in runner.metadata


def lengths_of(runner: Runner, prompts: list[int] | None, caches: list[int] | None) -> Lengths:
    """Those asked for, or as far as they fit the usual ones.

    Raises:
        ValueError: lengths that do not fit into the file, or are asked of one that does not generate.
    """
    if not can_generate(runner):
        for name, asked in (("prompt_lengths", prompts), ("cache_lengths", caches)):
            if asked:
                raise ValueError(f"{name}: got {asked} for {runner.path.name}, which does not generate; accepted: none")
        return Lengths(0, 0, [], [])
    decoder = runner.decoder()
    most = decoder.max_length
    taken = most - 1 if decoder.start_token is None else longest_source(runner)
    return Lengths(
        vocabulary(runner),
        taken,
        fitting("prompt_lengths", prompts, PROMPTS, taken, taken),
        fitting("cache_lengths", caches, CACHES, most - 1, most - FEWEST_STEPS),
    )


def prefill(decoder: Decoder, ids: np.ndarray, repeats: int) -> Pace:
    """Prompts of (rows, length) `ids`: until the logits of the next token are there."""
    mask = np.ones_like(ids)
    decoder.prompt(ids, mask, 1)
    times = timed(lambda: decoder.prompt(ids, mask, 1), repeats, seconds=SECONDS)
    return pace(ids.shape[1], len(ids), ids.shape[1], times)


def decode(decoder: Decoder, ids: np.ndarray, length: int, repeats: int) -> Pace:
    """Steps behind `length` tokens, one token a row each: as many as `repeats`, or as there is room for.

    Args:
        ids: (rows, prompt) tokens: all of `length` but some at the end, which are fed step by step; or a source, behind
            whose target's first token all of `length` is fed so.
    """
    steps = min(repeats, decoder.max_length - length)
    there = ids.shape[1] if decoder.start_token is None else 1
    decoder.prompt(ids, np.ones_like(ids), length - there + steps)
    tokens = ids[:, -1]
    for _ in range(length - there):
        decoder.step(tokens)
    return pace(length, len(ids), 1, timed(lambda: decoder.step(tokens), steps))


def paces(decoder: Decoder, lengths: Lengths, rows: int, repeats: int) -> tuple[list[Pace], list[Pace]]:
    """Prefill and decode at all lengths."""
    rng = np.random.default_rng(0)

    def drawn(length: int) -> np.ndarray:
        return rng.integers(0, lengths.vocabulary, (rows, length))

    taken = [prefill(decoder, drawn(length), repeats) for length in lengths.prompts]
    written = []
    for length in lengths.caches:
        first = max(1, length - WARM)
        if decoder.start_token is not None:  # the cache is the target's, behind a source of the first length
            first = (lengths.prompts or [min(PROMPTS[0], lengths.longest)])[0]
        written.append(decode(decoder, drawn(first), length, repeats))
    return taken, written


def pace(length: int, rows: int, tokens: int, times: Sequence[float]) -> Pace:
    """`tokens` a row and run, in `times` milliseconds."""
    return Pace(
        length=length,
        rows=rows,
        runs=len(times),
        tokens_per_second=1e3 * rows * tokens * len(times) / sum(times),
        **spread(times, 95),
    )


def vocabulary(runner: Runner) -> int:
    """How many ids every graph of the file takes."""
    specs = (spec for graph in runner.graphs.values() for spec in graph.signature.inputs)
    return min(spec.below for spec in specs if spec.name in (*TOKENS, "tokens") and spec.below is not None)


def longest_source(runner: Runner) -> int:
    """Tokens that an encoder takes."""
    name = next(name for name, role in runner.layout.roles.items() if role == "encoder")
    signature = runner.graphs[name].signature
    dim = next(spec.dims[1] for spec in signature.inputs if spec.name == "input_ids")
    if isinstance(dim, int):
        return dim
    return min(known.get(dim, INT32) for known in (signature.limits, signature.sizes))


def fitting(name: str, asked: list[int] | None, usual: Sequence[int], most: int, roomy: int) -> list[int]:
    """`asked`, up to `most`; or of the `usual` those up to `roomy`, and where there are none the longest."""
    if asked is None:
        longest = min(most, max(1, roomy))
        return [length for length in usual if length <= roomy] or ([longest] if longest > 0 else [])
    for length in asked:
        if length > most:
            raise ValueError(f"{name}: got {length}; accepted: at most {most}, as this file has room for")
    return asked
