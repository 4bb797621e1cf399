"""Beam search. NumPy only.

The search is that of transformers (``_beam_search``, version 5.24): the same candidates, scores and ends, so it finds
the same tokens, except where rounding decides between two continuations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .decoder import Decoder
from .options import Options
from .processors import Processors

Array = np.ndarray
Beam = tuple[float, list[int]]  # the score, and the new tokens


def beam_search(
    decoder: Decoder, logits: Array, options: Options, stops: Array, processors: Processors, fill: int
) -> Array:
    """Return the `num_return_sequences` best continuations that beam search finds for every row, the best first.

    Each step considers so many candidates that at least `num_beams` of them do not end with a stop token. A row is
    finished when it has `num_beams` ended continuations and ``_may_win`` is False for its best beam.

    Args:
        decoder: the decoder, which has processed the prompt.
        logits: (batch, vocab_size) after the prompt.
        options: the options of the request.
        stops: ids of the stop tokens.
        processors: the changes of the scores, which are applied to log-probabilities.
        fill: id that fills rows after their end.

    Returns:
        (batch * num_return_sequences, new) int64 ids.
    """
    batch = len(logits)
    ended: list[list[Beam]] = [[] for _ in range(batch)]
    beams: list[list[Beam]] = [[(0.0, [])] for _ in range(batch)]
    rows = np.arange(batch)  # for each beam, the row of `logits` that it continues
    for number in range(1, options.max_new_tokens + 1):
        if number > 1:
            decoder.select(rows)
            logits = decoder.step(np.array([tokens[-1] for row in beams for _, tokens in row]))
        scores = _log_softmax(logits)
        if processors.active:
            sources = [row for row, current in enumerate(beams) for _ in current]
            new = np.array([tokens for row in beams for _, tokens in row], "int64").reshape(len(sources), number - 1)
            scores = processors(scores, sources, new)
        if options.renormalize_logits:
            scores = _log_softmax(scores)
        first, rows = 0, []
        for row, current in enumerate(beams):
            if current:
                totals = scores[first : first + len(current)] + np.array([[score] for score, _ in current])
                beams[row], origins = _extended(current, totals, ended[row], stops, options)
                rows += [first + origin for origin in origins]
                first += len(current)
        rows = np.array(rows, "int64")
        if not len(rows):
            break
    count = options.num_return_sequences
    winners = [tokens for row in ended for _, tokens in (row + [(0.0, [])] * count)[:count]]
    return _filled(winners, fill)


def _extended(
    current: Sequence[Beam], totals: Array, ended: list[Beam], stops: Array, options: Options
) -> tuple[list[Beam], list[int]]:
    """Return the beams of one row after the next token, and for each the index of the beam that it continues.

    Args:
        current: the beams so far, each with its summed log-probability.
        totals: (beams, vocab_size) those of all continuations.
        ended: the best ended continuations so far with their final scores, which is updated.
        stops: ids of the stop tokens.
        options: the options of the request.
    """
    width, number = options.num_beams, len(current[0][1]) + 1
    alive: list[Beam] = []
    origins: list[int] = []
    for rank, flat in enumerate(_best(totals.reshape(-1), max(2, 1 + len(stops)) * width)):
        beam, token = divmod(int(flat), totals.shape[-1])
        total = float(totals[beam, token])
        if rank and total == -np.inf:
            break  # forbidden tokens; at least one candidate is kept
        tokens = [*current[beam][1], token]
        if token in stops or number == options.max_new_tokens:
            if rank < width:
                ended.append((total / number**options.length_penalty, tokens))
        elif len(alive) < width:
            alive.append((total, tokens))
            origins.append(beam)
    ended[:] = sorted(ended, key=lambda pair: -pair[0])[:width]
    if len(ended) == width and alive and not _may_win(alive[0][0], number, ended[-1][0], options):
        return [], []
    return alive, origins


def _filled(rows: Sequence[list[int]], fill: int) -> Array:
    longest = max(map(len, rows))
    return np.array([tokens + [fill] * (longest - len(tokens)) for tokens in rows], "int64")


def _log_softmax(logits: Array) -> Array:
    scores = logits.astype("float64")
    scores = scores - scores.max(-1, keepdims=True)
    return scores - np.log(np.exp(scores).sum(-1, keepdims=True))


def _best(totals: Array, count: int) -> Any:
    """Return the indices of the `count` greatest numbers, the greatest first; of equal ones, lower indices first."""
    if count < len(totals):
        among = np.flatnonzero(totals >= np.partition(totals, -count)[-count])  # includes all ties
        return among[np.argsort(-totals[among], kind="stable")][:count]
    return np.argsort(-totals, kind="stable")


def _may_win(score: float, length: int, worst: float, options: Options) -> bool:
    """Return whether the search of a row goes on that has `num_beams` ended continuations.

    With `early_stopping`, it never does. Otherwise it does while the best beam scores higher than `worst`, the worst
    ended continuation that is kept. Its summed log-probability `score` can only decrease, but its length can grow,
    which increases the final score if the length penalty is positive: "never" takes the greatest length, and False its
    present one.
    """
    if options.early_stopping is True:
        return False
    grows = options.early_stopping == "never" and options.length_penalty > 0
    return score / (options.max_new_tokens if grows else length) ** options.length_penalty > worst
