"""The cases of the plan: sizes, paddings and cache lengths at which exported models go wrong.

The first case of every list is the one that an export checks: a batch of a few padded rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...runtime.inputs import PADDINGS, example_inputs, is_mask
from ...runtime.runner import Runner
from ...signature import Signature
from ..frontend.spec import Exportable

Arrays = dict[str, np.ndarray]

TEXT = ("sequence", "source", "target")
MOST_WORK = 1e11  # multiplications of one case: about a second in float32, and several in float64
SHORT, MIDDLE = 7, 33  # tokens: a few, and one more than a block of 32


@dataclass(frozen=True)
class Case:
    """One batch of tokens.

    Attributes:
        batch, length: rows and tokens in each, those of `past` included.
        past: tokens that stand in the key/value cache before the call.
        padding: "none", a side, "gaps", or "all" for a row without any token; see ``runtime.inputs``.
    """

    batch: int
    length: int
    past: int = 0
    padding: str = "none"

    @property
    def name(self) -> str:
        past = f", {self.past} of them in the cache" if self.past else ""
        return f"batch {self.batch}, length {self.length}{past}, padding {self.padding}"


def longest(model: Exportable, limit: int) -> int:
    """Return the greatest length up to `limit` that is computed in reasonable time; for a small model, `limit`."""
    c = model.config.to_dict()
    width = sum(int(np.prod(weight.shape)) for weight in model.weights)
    depth = (c.get("num_layers") or 1) * (c.get("hidden_dim") or 1)
    lengths = sorted({limit, *(2**power for power in range(5, 15) if 2**power < limit)}, reverse=True)
    return next((n for n in lengths if n * width + 2 * depth * n**2 <= MOST_WORK), min(limit, 32))


def text_cases(
    model: Exportable, signature: Signature, *, past: bool = False, padding: str | None = None
) -> list[Case]:
    """Return the cases of a graph of tokens: one, a few, many, and as many as there is room for.

    They come in batches of 1 and 3, with every padding that the graph has a mask for.

    Args:
        past: whether the graph has a key/value cache, so that some tokens can be in it before the call.
        padding: the only side on which the graph takes padding. Tokens behind a cache are then checked for one row.
    """
    fixed, dims = signature.sizes, {dim for spec in signature.inputs for dim in spec.dims}
    names = [dim for dim in TEXT if dim in dims]
    limit = min((signature.limits.get(dim, fixed.get(dim, MIDDLE)) for dim in names), default=MIDDLE)
    limit = min([limit, *(fixed[dim] for dim in names if dim in fixed)])
    whole = longest(model, limit)
    masked = any(map(is_mask, signature.inputs))
    paddings = (*PADDINGS, "all") if masked else ("none",)
    paddings = paddings if padding is None else ("none", padding)
    batches = [fixed["batch"]] if "batch" in fixed else [1, 3]
    few = min(SHORT, whole)
    side = (padding or "left") if masked and few > 1 else "none"
    cases = [Case(batches[-1], few, 0, side)]
    if all(dim in fixed for dim in names):  # a static shape, to which shorter inputs are padded
        cases += [Case(batches[0], whole, 0, padding) for padding in paddings]
        cases += [Case(batches[0], n, 0, "left" if masked and n > 1 else "none") for n in (1, SHORT) if n < whole]
        return list(dict.fromkeys(cases))
    for batch, length, before in itertools.product(batches, sorted({1, few, min(MIDDLE, whole)}), (0, 5)):
        if before and not (past and length + before <= whole):
            continue
        if before and padding is not None:
            cases += [Case(1, length + before, before)] if batch == 1 else []
            continue
        cases += [
            Case(batch, length + before, before, padding)
            for padding in paddings
            if length + before > 1 or padding in ("none", "all")
        ]
    if whole > MIDDLE:
        cases += [Case(batches[0], whole), Case(batches[-1], whole, 0, (padding or "left") if masked else "none")]
        if past:
            cases.append(Case(1, whole, whole - 1))
    return list(dict.fromkeys(cases))


def length_cases(signatures: Sequence[Signature]) -> list[Case]:
    """Return the cases of one model's graphs of several lengths: what just fits into each, and one token more."""
    lengths = sorted({min(n for dim, n in s.sizes.items() if dim in TEXT) for s in signatures})
    rows = signatures[0].sizes.get("batch", 1)
    return [Case(rows, length) for last in lengths for length in (last, last + 1)][:-1]


def image_cases(signature: Signature) -> list[dict[str, int]]:
    """Return sizes of batches of images: the size that the model was made for, the smallest, and one not square."""
    native, fixed = signature.defaults, signature.sizes
    step = {side: signature.multiples.get(side, 7) for side in ("height", "width")}  # 7: no power of two
    images = [(fixed.get("height", native["height"]), fixed.get("width", native["width"]))]
    if "height" not in fixed:
        images += [(step["height"], step["width"]), (native["height"] + step["height"], step["width"] * 2)]
    batches = [fixed["batch"]] if "batch" in fixed else [3, 1]
    return [
        {"batch": batch, "height": height, "width": width}
        for batch, (height, width) in itertools.product(batches, images)
    ]


def example(signature: Signature, case: Case) -> Arrays:
    """Return inputs for a case, with empty caches."""
    names = [dim for spec in signature.inputs for dim in spec.dims if dim in TEXT]
    sizes = {**signature.defaults, **signature.sizes, "batch": case.batch, "past_sequence": 0}
    sizes |= dict.fromkeys(names, case.length)
    return example_inputs(signature, sizes, padding=case.padding, seed=case.length)


@dataclass(frozen=True)
class Chain:
    """A prompt, and tokens that follow it one by one.

    Attributes:
        rows: rows of the batch.
        prompt: tokens of the prompt; of an encoder-decoder, tokens of the source.
        steps: decode steps after the prompt.
        quick: whether an export checks it.
    """

    rows: int
    prompt: int
    steps: int
    quick: bool = False

    @property
    def name(self) -> str:
        return f"{self.rows} × {self.prompt} tokens, then {self.steps} one by one"


def chains(model: Exportable, runner: Runner) -> list[Chain]:
    """Return prompts around every length that the file has a graph for, and up to the last slot of the cache.

    Those that an export checks come first: one for every graph that a prompt or a source can choose.
    """
    room = min(runner.decoder().max_length, model.config.max_length)
    sizes = [graph.signature.sizes for graph in runner.graphs.values()]
    if "encoder" in runner.layout.roles.values():
        sources = sorted({size["source"] for size in sizes if "source" in size}) or [model.config.max_length]
        steps = longest(model, min(room, 128)) - 1  # beside the start token
        shortest = [min(SHORT, sources[0]), *(before + 1 for before in sources[:-1])]  # that choose each graph
        found = [Chain(3, length, min(4, steps), quick=True) for length in shortest]
        found += [Chain(2, longest(model, source), steps) for source in sources if steps]
        return list(dict.fromkeys(found))
    prefills = {size["sequence"] for size in sizes if size.get("sequence", 1) > 1 and size["sequence"] < room - 2}
    last = longest(model, room)
    alone = {(1, 2), (last - min(3, last - 1), min(3, last - 1))}
    alone |= {(size + more, 2) for size in prefills for more in (0, 1, 2)}
    found = [Chain(1, prompt, min(steps, room - prompt), quick=True) for prompt, steps in sorted(alone)]
    found += [Chain(3, min(SHORT, room - 1), min(2, room - min(SHORT, room - 1)))] if room > 1 else []
    return list(dict.fromkeys(found))
