"""Comparisons of single calls of graphs with a key/value cache, in float32: every output, the new cache among them.

Whole generations are compared in ``checks.py``. They say nothing about what no generation of this package reads, such
as the names of two caches that are exchanged in all graphs, or all logits of a prompt but the last.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ...generation.decoder import KEPT, TOKENS
from ...runtime.inputs import slot_mask
from ...runtime.runner import LoadedGraph
from ...signature import Signature
from .comparison import Check, Closeness, compare
from .reference import Reference

Arrays = dict[str, np.ndarray]

LOGITS_KEPT = (1, 3)


def kept_checks(
    whole: Reference, loaded: LoadedGraph, counts: Sequence[int], tolerance: float | Closeness
) -> Iterator[Check]:
    """Compare the logits of the last tokens only, which an optional input selects.

    Args:
        whole: the model's own call.
        loaded: the graph of the file.
        counts: the numbers of tokens.
        tolerance: the largest accepted relative difference, or a limit of the cosine.
    """
    tokens = next(spec for spec in loaded.signature.inputs if spec.name in TOKENS)
    length = min(7, loaded.signature.limits.get("total_sequence", 7))
    ids = np.random.default_rng(3).integers(0, tokens.end({}) or 2, (2, length))
    mask = np.ones_like(ids)
    mask[0, -1 if loaded.padding == "right" else 0] = 0
    given = {tokens.name: ids, "attention_mask": mask}
    for count in counts:
        if count >= length:
            continue
        found = loaded.run({**given, KEPT: np.array(count)})
        yield compare(
            f"the logits of the last {count} tokens",
            {"logits": found["logits"]},
            {"logits": whole(given)["logits"][:, -count:]},
            lambda shaken, count=count: {"logits": whole.exact(given, shaken)["logits"][:, -count:]},
            tolerance,
            lambda _, count=count: mask[:, -count:] == 1,
        )


def slot_checks(
    reference: Reference, loaded: LoadedGraph, name: str, starts: Sequence[int], tolerance: float | Closeness
) -> Iterator[Check]:
    """Compare one call of a graph whose cache has slots, with numbers in the slots before.

    Args:
        reference: the model's graph of this kind; see ``frontend/graphs.py``.
        loaded: the graph of the file.
        name: of the graph.
        starts: the slots of the first token; the last one may be negative, and then counts from the end.
        tolerance: the largest accepted relative difference. Nothing is compared by the cosine: the cache of a file in
            reduced precision has other numbers.
    """
    if isinstance(tolerance, Closeness):
        return
    signature = loaded.signature
    size, slots = signature.sizes["sequence"], signature.sizes["slots"]
    for start in dict.fromkeys(at if at >= 0 else slots - size for at in starts):
        if start + size > slots:
            continue
        inputs = slot_inputs(signature, start)
        names = [spec.name for spec in signature.outputs]

        def some(outputs: dict[str, Any], names: list[str] = names) -> Arrays:
            return {name: outputs[name] for name in names}

        yield compare(
            f"{name}, from slot {start} on",
            some(loaded.run(inputs)),
            some(reference(inputs)),
            lambda shaken, inputs=inputs, some=some: some(reference.exact(inputs, shaken)),
            tolerance,
        )


def slot_inputs(signature: Signature, start: int) -> Arrays:
    """Return random tokens for the slots from `start` on, and a cache of random numbers, for a graph with slots."""
    rng = np.random.default_rng(start)
    size, slots = signature.sizes["sequence"], signature.sizes["slots"]
    positions = np.arange(start, start + size, dtype="int32")
    specs = {spec.name: spec for spec in signature.inputs}
    visible = np.arange(slots)[None] <= positions[:, None]
    inputs: Arrays = {"input_pos": positions, "mask": slot_mask(visible[None, None], specs["mask"].dtype)}
    inputs["tokens"] = rng.integers(0, specs["tokens"].end({}) or 2, (1, size)).astype("int32")
    for name in signature.state:
        shape = [int(n) for n in signature.shape(specs[name])]
        inputs[name] = rng.normal(size=shape).astype("float32")
    return inputs
