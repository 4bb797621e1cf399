"""Throughput of prefill and decode, measured through the decoder that ``generate`` uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..checks import INT32, is_integer, positive_integer
from ..generation.decoder import TOKENS, Decoder
from ..runtime.metadata import CONFIG
from ..runtime.runner import Runner
from .figures import Pace
from .timing import WARM, spread, timed

PROMPTS = (128, 512)  # default prompt lengths
CACHES = (16, 512)  # default cache lengths
FEWEST_STEPS = 8  # decode steps that must fit after a default cache length
SECONDS = 2.0  # time limit for the prompts of one length, of which at least three are timed


@dataclass(frozen=True)
class Lengths:
    """The lengths at which prefill and decode of a file are measured.

    Attributes:
        vocabulary: The upper bound (exclusive) of token ids.
        longest: The greatest prompt length that the file supports.
        prompts: The prompt lengths.
        caches: The numbers of cached tokens before the first timed step.
    """

    vocabulary: int
    longest: int
    prompts: list[int]
    caches: list[int]


def listed(name: str, lengths: Any) -> list[int] | None:
    """Return one length or several as a list, and None unchanged.

    Raises:
        ValueError: If a length is not a positive integer.
    """
    if lengths is None:
        return None
    found = [lengths] if is_integer(lengths) else lengths
    if isinstance(found, str) or not isinstance(found, Sequence | np.ndarray):
        raise ValueError(f"{name}: got {lengths!r}; accepted: positive integers")
    return [positive_integer(name, length) for length in found]


def can_generate(runner: Runner) -> bool:
    """Return whether generation can be timed. Third-party files do not declare the special tokens that it needs."""
    return runner.generates and CONFIG in runner.metadata


def lengths_of(runner: Runner, prompts: list[int] | None, caches: list[int] | None) -> Lengths:
    """Return the requested lengths, or the default lengths that fit.

    Raises:
        ValueError: If a length is greater than the file supports, or the file does not generate.
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
    """Time the prefill of (rows, length) `ids`, up to the logits of the next token."""
    mask = np.ones_like(ids)
    decoder.prompt(ids, mask, 1)
    times = timed(lambda: decoder.prompt(ids, mask, 1), repeats, seconds=SECONDS)
    return pace(ids.shape[1], len(ids), ids.shape[1], times)


def decode(decoder: Decoder, ids: np.ndarray, length: int, repeats: int) -> Pace:
    """Time `repeats` decode steps, or as many as fit, after `length` cached tokens.

    Args:
        decoder: The decoder.
        ids: (rows, prompt) tokens of the prompt, at most `length` per row, or of the source of an encoder-decoder. The
            remaining tokens, up to `length`, are processed in untimed steps.
        length: The number of cached tokens (for an encoder-decoder, target tokens) before the first timed step.
        repeats: The number of timed steps.
    """
    steps = min(repeats, decoder.max_length - length)
    there = ids.shape[1] if decoder.start_token is None else 1
    decoder.prompt(ids, np.ones_like(ids), length - there + steps)
    tokens = ids[:, -1]
    for _ in range(length - there):
        decoder.step(tokens)
    return pace(length, len(ids), 1, timed(lambda: decoder.step(tokens), steps))


def paces(decoder: Decoder, lengths: Lengths, rows: int, repeats: int) -> tuple[list[Pace], list[Pace]]:
    """Time prefill and decode at all lengths."""
    rng = np.random.default_rng(0)

    def drawn(length: int) -> np.ndarray:
        return rng.integers(0, lengths.vocabulary, (rows, length))

    taken = [prefill(decoder, drawn(length), repeats) for length in lengths.prompts]
    written = []
    for length in lengths.caches:
        first = max(1, length - WARM)
        if decoder.start_token is not None:  # the cache holds target tokens; the source has the first prompt length
            first = (lengths.prompts or [min(PROMPTS[0], lengths.longest)])[0]
        written.append(decode(decoder, drawn(first), length, repeats))
    return taken, written


def pace(length: int, rows: int, tokens: int, times: Sequence[float]) -> Pace:
    """Return the ``Pace`` of runs that take `times` milliseconds and process `tokens` tokens per row each."""
    return Pace(
        length=length,
        rows=rows,
        runs=len(times),
        tokens_per_second=1e3 * rows * tokens * len(times) / sum(times),
        **spread(times, 95),
    )


def vocabulary(runner: Runner) -> int:
    """Return the number of token ids that every graph of the file accepts."""
    specs = (spec for graph in runner.graphs.values() for spec in graph.signature.inputs)
    return min(spec.below for spec in specs if spec.name in (*TOKENS, "tokens") and isinstance(spec.below, int))


def longest_source(runner: Runner) -> int:
    """Return the greatest source length that the encoder accepts."""
    name = next(name for name, role in runner.layout.roles.items() if role == "encoder")
    signature = runner.graphs[name].signature
    dim = next(spec.dims[1] for spec in signature.inputs if spec.name == "input_ids")
    if isinstance(dim, int):
        return dim
    return min(known.get(dim, INT32) for known in (signature.limits, signature.sizes))


def fitting(name: str, asked: list[int] | None, usual: Sequence[int], most: int, roomy: int) -> list[int]:
    """Return the requested lengths, or the default lengths that fit.

    Args:
        name: The name of the argument, for error messages.
        asked: The requested lengths, or None.
        usual: The default lengths.
        most: The greatest length that may be requested.
        roomy: The greatest length to use by default. It is used itself if it is less than all of `usual`.

    Raises:
        ValueError: If a requested length is greater than `most`.
    """
    if asked is None:
        longest = min(most, max(1, roomy))
        return [length for length in usual if length <= roomy] or ([longest] if longest > 0 else [])
    for length in asked:
        if length > most:
            raise ValueError(f"{name}: got {length}; accepted: at most {most}, as this file has room for")
    return asked
