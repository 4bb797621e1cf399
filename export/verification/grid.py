"""What a file is asked, and what Keras says to the same: shapes, paddings and caches where such software goes wrong.

Caches are those that the file itself filled from tokens. What Keras says is always the model's own call on all tokens
at once, so that a graph with a memory is compared with the model and not with its twin.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...generation.decoder import TOKENS
from ...runtime.inputs import PADDINGS, example_inputs, is_mask, padded_mask
from ...runtime.runner import LoadedGraph, Runner
from ...signature import Signature
from ..frontend.graphs import model_graphs
from ..frontend.spec import Exportable
from .comparison import Check, Closeness, compare
from .reference import Reference

Arrays = dict[str, np.ndarray]

TEXT = ("sequence", "source", "target")
MOST_WORK = 1e11  # multiplications of one case: about a second, and some more in float64


@dataclass(frozen=True)
class Case:
    """Sizes of the inputs, and which of their tokens are none."""

    batch: int
    length: int
    past: int = 0
    padding: str = "none"

    @property
    def name(self) -> str:
        past = f", {self.past} of them before" if self.past else ""
        return f"batch {self.batch}, length {self.length}{past}, padding {self.padding}"


def longest(model: Exportable, limit: int) -> int:
    """The greatest length up to `limit` that can be computed in reasonable time: all of a small model's."""
    c = model.config.to_dict()
    width = sum(int(np.prod(weight.shape)) for weight in model.weights)
    depth = (c.get("num_layers") or 1) * (c.get("hidden_dim") or 1)
    lengths = sorted({limit, *(2**power for power in range(5, 15) if 2**power < limit)}, reverse=True)
    return next((n for n in lengths if n * width + 2 * depth * n**2 <= MOST_WORK), min(limit, 32))


def text_cases(
    model: Exportable, signature: Signature, *, past: bool = False, padding: str | None = None
) -> list[Case]:
    """Of a graph of text: a token, a few, many, all that there is room for; in batches of 1 and 3, padded in every way
    that the graph has a mask for, with tokens before them where it has a cache. With a `padding`, on that side only,
    and tokens behind a cache for one row only."""
    fixed, dims = signature.sizes, {dim for spec in signature.inputs for dim in spec.dims}
    names = [dim for dim in TEXT if dim in dims]
    limit = min((signature.limits.get(dim, fixed.get(dim, 33)) for dim in names), default=33)
    limit = min([limit, *(fixed[dim] for dim in names if dim in fixed)])
    whole = longest(model, limit)
    masked = any(map(is_mask, signature.inputs))
    paddings = (*PADDINGS, "all") if masked else ("none",)
    paddings = paddings if padding is None else ("none", padding)
    batches = [fixed["batch"]] if "batch" in fixed else [1, 3]
    if all(dim in fixed for dim in names):  # of one shape, to which shorter ones are padded
        own = [Case(batches[0], whole, 0, padding) for padding in paddings]
        return own + [Case(batches[0], n, 0, "left" if masked and n > 1 else "none") for n in (1, 7) if n < whole]
    cases = []
    for batch, length, before in itertools.product(batches, sorted({1, min(7, whole), min(33, whole)}), (0, 5)):
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
    if whole > 33:
        cases += [Case(batches[0], whole), Case(batches[-1], whole, 0, (padding or "left") if masked else "none")]
        if past:
            cases.append(Case(1, whole, whole - 1))
    return cases


def length_cases(signatures: Sequence[Signature]) -> list[Case]:
    """Of graphs of one model in several lengths: what just fits into each, and what is a token too long for it."""
    lengths = sorted({min(n for dim, n in s.sizes.items() if dim in TEXT) for s in signatures})
    rows = signatures[0].sizes.get("batch", 1)
    return [Case(rows, length) for last in lengths for length in (last, last + 1)][:-1]


def example(signature: Signature, case: Case) -> Arrays:
    """Inputs of a case without a past."""
    names = [dim for spec in signature.inputs for dim in spec.dims if dim in TEXT]
    sizes = {**signature.defaults, **signature.sizes, "batch": case.batch, "past_sequence": 0}
    sizes |= dict.fromkeys(names, case.length)
    return example_inputs(signature, sizes, padding=case.padding, seed=case.length)


# ---- graphs without a memory --------------------------------------------------------------------------------------


def plain_checks(
    reference: Reference,
    loaded: LoadedGraph | Runner,
    cases: Sequence[Case],
    tolerance: float | Closeness,
    prefix: str = "",
) -> Iterator[Check]:
    """A graph that computes what `reference` computes, from the same inputs."""
    for case in cases:
        inputs = example(loaded.signature, case)
        yield _compared(prefix + case.name, reference, loaded, inputs, tolerance)


def image_checks(
    reference: Reference, loaded: LoadedGraph, tolerance: float | Closeness, *, brief: bool = False
) -> Iterator[Check]:
    """Batches of 1 and 3; the images of the size the model was made for, the smallest, and one that is not square."""
    signature = loaded.signature
    native, fixed = signature.defaults, signature.sizes
    step = {side: signature.multiples.get(side, 7) for side in ("height", "width")}  # 7: as good as any
    images = [(fixed.get("height", native["height"]), fixed.get("width", native["width"]))]
    if "height" not in fixed and not brief:
        images += [(step["height"], step["width"]), (native["height"] + step["height"], step["width"] * 2)]
    batches = [fixed["batch"]] if "batch" in fixed else [2] if brief else [1, 3]
    for batch, (height, width) in itertools.product(batches, images):
        inputs = example_inputs(signature, {"batch": batch, "height": height, "width": width}, seed=height)
        yield _compared(f"batch {batch}, image {height} × {width}", reference, loaded, inputs, tolerance)


def _compared(
    name: str, reference: Reference, loaded: LoadedGraph | Runner, inputs: Arrays, tolerance: float | Closeness
) -> Check:
    return compare(
        name,
        loaded.run(inputs),
        reference(inputs),
        lambda shaken: reference.exact(inputs, shaken),
        tolerance,
        lambda output: _tokens_of(output, loaded.signature, inputs),
    )


def _tokens_of(output: str, signature: Signature, inputs: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """(batch, length) booleans: the positions of an output that are no padding; None where it has none."""
    spec = next(spec for spec in signature.outputs if spec.name == output)
    if len(spec.dims) < 3 or spec.dims[0] != "batch":
        return None
    masks = [given for given in signature.inputs if "mask" in given.name and len(given.dims) == 2]
    return next((inputs[given.name] == 1 for given in masks if given.dims[1] == spec.dims[1]), None)


# ---- a decoder that takes tokens behind a cache -------------------------------------------------------------------


def cached_checks(
    model: Exportable, whole: Reference, loaded: LoadedGraph, cases: Sequence[Case], tolerance: float | Closeness
) -> Iterator[Check]:
    """A causal decoder's graph, called once with some of the tokens and again with the rest: its logits are those of
    the model's call on all of them, its keys and values those of the Keras graph on all of them."""
    signature = loaded.signature
    keys = Reference(model, model.graphs("dynamic")["decoder"].function, signature)
    tokens = next(spec.name for spec in signature.inputs if spec.name in TOKENS)

    def expected(inputs: Arrays, shaken: bool | None = None) -> Arrays:
        given = {name: inputs[name] for name in (tokens, "attention_mask")}
        run, cached = whole, keys
        if shaken is not None:
            run, cached = (functools.partial(of.exact, shaken=shaken) for of in (whole, keys))
        if isinstance(tolerance, Closeness):  # what rounded keys and values are worth, the logits behind them say
            return run(given)
        return _by_length({**cached(inputs), **run(given)}, signature)

    for case in cases:
        inputs = example(signature, case)
        mask = inputs["attention_mask"]
        given = {tokens: inputs[tokens], "attention_mask": mask}
        outputs: Arrays = {}
        if case.past:
            first = loaded.run({name: array[:, : case.past] for name, array in given.items()})
            second = loaded.run(
                {
                    tokens: inputs[tokens][:, case.past :],
                    "attention_mask": mask,
                    **{old: first[new] for old, new in signature.state.items()},
                }
            )
            logits = np.concatenate([first["logits"], second["logits"]], axis=1)
            outputs = {**second, "logits": logits}
        else:
            outputs = loaded.run(given)
        yield compare(
            case.name,
            _by_length(outputs, signature),
            expected(inputs),
            lambda shaken, inputs=inputs: expected(inputs, shaken),
            tolerance,
            lambda _, mask=mask: mask == 1,
        )


def _by_length(outputs: Mapping[str, np.ndarray], signature: Signature) -> Arrays:
    """Keys and values with their length in front of their heads, as logits have it."""
    caches = set(signature.state.values())
    return {name: np.swapaxes(array, 1, 2) if name in caches else array for name, array in outputs.items()}


# ---- a decoder as it is used: a prompt, then token by token -------------------------------------------------------


@dataclass(frozen=True)
class Chain:
    """A prompt (of an encoder-decoder: a source) of so many tokens, and the tokens that follow one by one."""

    rows: int
    prompt: int
    steps: int

    @property
    def name(self) -> str:
        return f"{self.rows} × {self.prompt} tokens, then {self.steps} one by one"


def chains(model: Exportable, runner: Runner) -> list[Chain]:
    """Prompts around every length that the file has a graph for, and up to the last position of the cache."""
    room = min(runner.decoder().max_length, model.config.max_length)
    sizes = [graph.signature.sizes for graph in runner.graphs.values()]
    if "encoder" in runner.layout.roles.values():
        sources = {size["source"] for size in sizes if "source" in size} or {model.config.max_length}
        steps = longest(model, min(room, 128)) - 1  # beside the start token
        found = {(3, min(7, *sources), min(4, steps))} | {(2, longest(model, source), steps) for source in sources}
    else:
        whole = longest(model, room)
        prefills = {size["sequence"] for size in sizes if size.get("sequence", 1) > 1 and size["sequence"] < room - 2}
        found = {(3, min(7, room - 1), 2), (1, 1, 2), (1, whole - min(3, whole - 1), min(3, whole - 1))}
        found |= {(1, size + more, 2) for size in prefills for more in (0, 1, 2)}
    return [Chain(*sizes) for sizes in sorted(found) if sizes[1] >= 1 and sizes[2] >= 1]


def chain_checks(
    model: Exportable, whole: Reference, runner: Runner, chains: Sequence[Chain], tolerance: float | Closeness
) -> Iterator[Check]:
    """The logits of every token, as the model's own call on all of them has them.

    Where there is no encoder, prompts of one row are beginnings of one text, which Keras is called on once.
    """
    vocab = model.config.vocab_size
    encodes = any(spec.name == "decoder_input_ids" for spec in model.signature.inputs)
    longest = max((chain.prompt + chain.steps for chain in chains if chain.rows == 1), default=0)
    text = np.random.default_rng(0).integers(0, vocab, (1, longest))
    of_text = _Logits(whole, {"input_ids": text, "attention_mask": np.ones_like(text)})
    for chain in chains:
        count = chain.prompt + (0 if encodes else chain.steps)
        alone = chain.rows == 1 and not encodes
        rng = np.random.default_rng(chain.prompt)
        ids = text[:, :count] if alone else rng.integers(0, vocab, (chain.rows, count))
        new = rng.integers(0, vocab, (chain.rows, chain.steps)) if encodes else ids[:, chain.prompt :]
        padding = "right" if encodes else "none" if alone else "left"
        mask = padded_mask(chain.rows, chain.prompt, padding)
        decoder = runner.decoder()
        logits = [decoder.prompt(ids[:, : chain.prompt], mask, chain.steps)]
        logits += [decoder.step(new[:, i]) for i in range(chain.steps)]
        expected = of_text
        if not alone:
            inputs = {"input_ids": ids, "attention_mask": mask}
            if encodes:
                start = np.full((chain.rows, 1), decoder.start_token)
                inputs["decoder_input_ids"] = np.concatenate([start, new], 1)
            else:
                inputs["attention_mask"] = np.concatenate([mask, np.ones_like(new, mask.dtype)], 1)
            expected = _Logits(whole, inputs)
        places = slice(0 if encodes else chain.prompt - 1, None if encodes else count)
        yield compare(
            chain.name,
            {"logits": np.stack(logits, axis=1)},
            {"logits": expected.logits[:, places]},
            lambda shaken, expected=expected, places=places: {"logits": expected.exact(shaken)[:, places]},
            tolerance,
        )


class _Logits:
    """Of a call of Keras, made when they are asked for."""

    def __init__(self, whole: Reference, inputs: Arrays) -> None:
        self.whole, self.inputs = whole, inputs
        self.judges: dict[bool, np.ndarray] = {}

    @functools.cached_property
    def logits(self) -> np.ndarray:
        return self.whole(self.inputs)["logits"]

    def exact(self, shaken: bool) -> np.ndarray:
        if shaken not in self.judges:
            self.judges[shaken] = self.whole.exact(self.inputs, shaken)["logits"]
        return self.judges[shaken]


def greedy_check(model: Any, whole: Reference, runner: Runner, tolerance: float | Closeness) -> Check:
    """Three prompts of unequal lengths, continued greedily by the file. Keras, given what the file wrote, must like
    every token best, or as well as rounding can tell: then its own greedy tokens are these."""
    longest = min(runner.decoder().max_length, model.config.max_length)
    source = min((graph.signature.sizes.get("source", 9) for graph in runner.graphs.values()), default=9)
    length = max(1, min(9, source, longest // 2))
    new = min(16, longest - length)
    name = f"greedy, {new} tokens"
    if new < 1:
        return Check(name, True, None, "no room for a token")
    ids = np.random.default_rng(0).integers(0, model.config.vocab_size, (3, length))
    mask = padded_mask(3, length, "left")
    written = runner.generate(ids, mask, max_new_tokens=new, stop_tokens=[])
    if any(spec.name == "decoder_input_ids" for spec in model.signature.inputs):
        inputs = {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": written[:, :-1]}
    else:
        inputs = {
            "input_ids": written[:, :-1],
            "attention_mask": np.concatenate([mask, np.ones((3, new - 1), mask.dtype)], axis=1),
        }
    chosen = written[:, -new:, None]

    def shortfall(outputs: Arrays) -> np.ndarray:  # (3, new): by how much another token is liked better
        logits = outputs["logits"][:, -new:]
        return logits.max(axis=-1) - np.take_along_axis(logits, chosen, axis=-1)[..., 0]

    results = whole(inputs)
    short = shortfall(results)
    same = int((short == 0).sum())
    if same == short.size:
        return Check(name, True, None, "the same in 3 rows")
    if isinstance(tolerance, Closeness):  # other numbers like other tokens; that they are near is said elsewhere
        return Check(name, True, None, f"{same} of {short.size} are Keras' likeliest")
    scale = float(np.abs(results["logits"]).max())
    detail = f"{same} of {short.size} are Keras' likeliest, the others at most {short.max():.1e} below"
    if short.max() <= 2 * tolerance * scale:
        return Check(name, True, None, detail, "relative")
    exact = whole.exact(inputs)
    noise = float(np.abs(results["logits"] - exact["logits"]).max())
    return Check(name, bool(shortfall(exact).max() <= 16 * noise), None, detail, "float64")


def encoder_references(model: Exportable, runner: Runner) -> dict[str, Reference]:
    """Keras' side of the encoder, by its names in the file: none, one, or one for each length."""
    graphs = model_graphs(model, runner.graphs)
    found = {}
    for name, role in runner.layout.roles.items():
        if role == "encoder" and name in graphs:
            signature = runner.graphs[name].signature
            own = graphs[name].signature
            found[name] = Reference(model, graphs[name].function, own, few=bool(signature.sizes))
    return found
