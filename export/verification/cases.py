"""The cases of the plan: sizes, paddings and cache lengths at which exported models tend to fail.

The cases that an export checks come first in every list. For a text model this is a batch of a few padded rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...runtime.inputs import PADDINGS, example_inputs, is_mask
from ...runtime.runner import Runner
from ...signature import Signature, TensorSpec
from ..frontend.spec import Exportable

Arrays = dict[str, np.ndarray]

TEXT = ("sequence", "source", "target")
MOST_WORK = 1e11  # multiplications in one case, which take about a second in float32 and several seconds in float64
SHORT, MIDDLE = 7, 33  # tokens; `MIDDLE` is one more than a block of 32


@dataclass(frozen=True)
class Case:
    """One batch of tokens.

    Attributes:
        batch: number of rows.
        length: number of tokens in each row, including `past`.
        past: number of tokens that are in the key/value cache before the call.
        padding: "none", "right", "left", "interior", or "all" for one row of padding only; see ``padded_mask``.
    """

    batch: int
    length: int
    past: int = 0
    padding: str = "none"

    @property
    def name(self) -> str:
        past = f" ({self.past} cached)" if self.past else ""
        return f"batch {self.batch}, length {self.length}{past}, padding {self.padding}"


def longest(model: Exportable, limit: int) -> int:
    """Return the greatest length up to `limit` that a model computes in reasonable time; `limit` for a small model."""
    c = model.config.to_dict()
    width = sum(int(np.prod(weight.shape)) for weight in model.weights)
    depth = (c.get("num_layers") or 1) * (c.get("hidden_dim") or 1)
    lengths = sorted({limit, *(2**power for power in range(5, 15) if 2**power < limit)}, reverse=True)
    return next((n for n in lengths if n * width + 2 * depth * n**2 <= MOST_WORK), min(limit, 32))


def text_cases(
    model: Exportable, signature: Signature, *, past: bool = False, padding: str | None = None
) -> list[Case]:
    """Return the cases of a graph that takes tokens: lengths of one, a few, many, and the maximum number of tokens.

    They come in batches of 1 and 3, and with every padding if the graph has a mask.

    Args:
        model: the model, whose size limits the length.
        signature: of the graph.
        past: whether the graph has a key/value cache, which can hold some of the tokens before the call.
        padding: the only padding side that the graph accepts, or None for any. With a side, calls after a filled cache
            have a single row.
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
    exact = any(dim in fixed and dim not in signature.padded for dim in names)  # no input may be shorter
    few = whole if exact else min(SHORT, whole)
    side = (padding or "left") if masked and few > 1 else "none"
    cases = [Case(batches[-1], few, 0, side)]
    if all(dim in fixed for dim in names):  # static shapes, to which the runner pads shorter inputs
        cases += [Case(batches[0], whole, 0, padding) for padding in paddings]
        cases += [
            Case(batches[0], n, 0, "left" if masked and n > 1 else "none")
            for n in (1, SHORT)
            if n < whole and not exact
        ]
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
    """Return the cases of a model exported for several lengths: inputs of each length, and one token longer."""
    lengths = sorted({min(n for dim, n in s.sizes.items() if dim in TEXT) for s in signatures})
    rows = signatures[0].sizes.get("batch", 1)
    return [Case(rows, length) for last in lengths for length in (last, last + 1)][:-1]


def image_cases(signature: Signature) -> list[dict[str, int]]:
    """Return sizes of batches of images: the size that the model was made for, the smallest, and a non-square one."""
    native, fixed = signature.defaults, signature.sizes
    step = {side: signature.multiples.get(side, 7) for side in ("height", "width")}  # 7 is not a power of two
    images = [(fixed.get("height", native["height"]), fixed.get("width", native["width"]))]
    if "height" not in fixed:
        images += [(step["height"], step["width"]), (native["height"] + step["height"], step["width"] * 2)]
    batches = [fixed["batch"]] if "batch" in fixed else [3, 1]
    return [
        {"batch": batch, "height": height, "width": width}
        for batch, (height, width) in itertools.product(batches, images)
    ]


def pair_cases(signature: Signature) -> list[dict[str, int]]:
    """Return sizes of batches of texts and images that a model compares: the two batches need not be equal."""
    texts, images = (signature.sizes.get(f"{kind}_batch") for kind in ("text", "image"))
    length = signature.sizes.get("sequence", min(SHORT, signature.limits["sequence"]))
    batches = [(texts or 3, images or 2), (texts or 1, images or 3), (texts or 2, images or 1)]
    native, *others = [{k: size[k] for k in ("height", "width")} for size in image_cases(signature)]
    whole = signature.sizes.get("sequence", signature.limits["sequence"])
    lengths = [length, whole, 1 if "sequence" not in signature.sizes else whole]
    shapes = [native, *(other for other in others if other != native), native, native]
    return [
        {"text_batch": rows, "image_batch": pictures, "sequence": tokens, **shape}
        for tokens, shape in zip(lengths, shapes, strict=False)
        for rows, pictures in dict.fromkeys(batches)
    ]


def example(signature: Signature, case: Case) -> Arrays:
    """Return synthetic inputs for a case, with empty caches."""
    names = [dim for spec in signature.inputs for dim in spec.dims if dim in TEXT]
    sizes = {**signature.defaults, **signature.sizes, "batch": case.batch, "past_sequence": 0}
    sizes |= dict.fromkeys(names, case.length)
    return example_inputs(signature, sizes, padding=case.padding, seed=case.length)


@dataclass(frozen=True)
class Chain:
    """A prompt and the decode steps after it.

    Attributes:
        rows: number of rows.
        prompt: number of tokens of the prompt; for an encoder-decoder, of the source.
        steps: number of decode steps after the prompt.
        quick: whether an export checks this chain.
    """

    rows: int
    prompt: int
    steps: int
    quick: bool = False

    @property
    def name(self) -> str:
        return f"batch {self.rows}, prompt {self.prompt}, {self.steps} decode steps"


def features_of(model: Exportable) -> TensorSpec | None:
    """Return the input with the features of speech, or None for a model that reads tokens."""
    return next((spec for spec in model.signature.inputs if spec.name == "input_features"), None)


def source_of(model: Exportable, ids: np.ndarray, mask: np.ndarray) -> Arrays:
    """Return the inputs of the encoder: `ids` and `mask`, or random features for a model of speech."""
    spec = features_of(model)
    if spec is None:
        return {"input_ids": ids, "attention_mask": mask}
    shape = [size for size in spec.dims[1:] if isinstance(size, int)]
    return {spec.name: np.random.default_rng(len(ids)).normal(size=(len(ids), *shape)).astype("float32")}


def rows_of(runner: Runner) -> int:
    """Return the number of rows of a batch of prompts: 3, or fewer if the file has a cache of fixed size for fewer."""
    sizes = [graph.signature.sizes for graph in runner.graphs.values()]
    return min([3, *(size["batch"] for size in sizes if "past_sequence" in size)])


def chains(model: Exportable, runner: Runner) -> list[Chain]:
    """Return chains with prompts around each length that the file has a graph for, and up to the last cache slot.

    The chains that an export checks come first: one for every graph that a prompt or a source can select.
    """
    room = min(runner.decoder().max_length, model.config.max_length)
    sizes = [graph.signature.sizes for graph in runner.graphs.values()]
    if "encoder" in runner.layout.roles.values():
        sources = sorted({size["source"] for size in sizes if "source" in size}) or [model.config.max_length]
        if features_of(model) is not None:  # which all have the same length
            sources = [1]
        steps = longest(model, min(room, 128)) - 1  # without the start token
        shortest = [min(SHORT, sources[0]), *(before + 1 for before in sources[:-1])]  # one for each graph
        found = [Chain(3, length, min(4, steps), quick=True) for length in shortest]
        found += [Chain(2, longest(model, source), steps) for source in sources if steps]
        return list(dict.fromkeys(found))
    prefills = {size["sequence"] for size in sizes if size.get("sequence", 1) > 1 and size["sequence"] < room - 2}
    last = longest(model, room)
    alone = {(1, 2), (last - min(3, last - 1), min(3, last - 1))}
    alone |= {(size + more, 2) for size in prefills for more in (0, 1, 2)}
    found = [Chain(1, prompt, min(steps, room - prompt), quick=True) for prompt, steps in sorted(alone)]
    rows = rows_of(runner)
    found += [Chain(rows, min(SHORT, room - 1), min(2, room - min(SHORT, room - 1)))] if room > 1 else []
    return list(dict.fromkeys(found))
