"""Comparisons of a file's graphs with Keras, case by case.

Key/value caches are filled by the file itself, from tokens. The reference is always the model's own call on all tokens
at once, so that a graph with a cache is compared with the model and not with another graph with a cache.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ...generation.decoder import TOKENS
from ...generation.search import generate
from ...runtime.inputs import PADDINGS, example_inputs, padded_mask
from ...runtime.runner import LoadedGraph, Runner
from ...signature import Signature
from ..frontend.spec import Exportable
from .cases import Case, Chain, example, rows_of, source_of
from .comparison import Check, Closeness, compare
from .reference import Reference

Arrays = dict[str, np.ndarray]


def plain_checks(
    reference: Reference,
    loaded: LoadedGraph | Runner,
    cases: Sequence[Case],
    tolerance: float | Closeness,
    prefix: str = "",
) -> Iterator[Check]:
    """Compare a graph with `reference` on the same inputs, and yield a check for each case.

    Args:
        reference: the function of the model that the graph computes.
        loaded: the graph of the file, or a runner that selects a graph by the length of its inputs.
        cases: the cases.
        tolerance: the largest accepted relative difference, or a limit of the cosine.
        prefix: the beginning of the names of the checks.
    """
    for case in cases:
        inputs = example(loaded.signature, case)
        yield _compared(prefix + case.name, reference, loaded, inputs, tolerance)


def image_checks(
    reference: Reference, loaded: LoadedGraph, cases: Sequence[dict[str, int]], tolerance: float | Closeness
) -> Iterator[Check]:
    """Compare a graph of an image model with `reference`, for batches and images of these sizes."""
    for sizes in cases:
        inputs = example_inputs(loaded.signature, sizes, seed=sizes["height"])
        name = f"batch {sizes['batch']}, image {sizes['height']} × {sizes['width']}"
        yield _compared(name, reference, loaded, inputs, tolerance)


def pair_checks(
    reference: Reference, loaded: LoadedGraph, cases: Sequence[dict[str, int]], tolerance: float | Closeness
) -> Iterator[Check]:
    """Compare a graph of a model of texts and images with `reference`, with every padding of the texts."""
    for number, sizes in enumerate(cases):
        padding = PADDINGS[number % len(PADDINGS)] if sizes["sequence"] > 1 else "none"
        inputs = example_inputs(loaded.signature, sizes, padding=padding, seed=number)
        shape = f"{sizes['height']} × {sizes['width']}"
        name = f"{sizes['text_batch']} texts of {sizes['sequence']}, padding {padding}, "
        name += f"{sizes['image_batch']} images {shape}"
        rows = None  # the cosine of a few logits says little about a file in reduced precision: it has the embeddings
        if isinstance(tolerance, Closeness):
            rows = {spec.name for spec in loaded.signature.outputs if isinstance(spec.dims[-1], int)}
        yield _compared(name, reference, loaded, inputs, tolerance, rows)


def _compared(
    name: str,
    reference: Reference,
    loaded: LoadedGraph | Runner,
    inputs: Arrays,
    tolerance: float | Closeness,
    names: set[str] | None = None,
) -> Check:
    """Compare the outputs, or those with one of the `names`, for these inputs."""

    def some(outputs: Arrays) -> Arrays:
        return {name: array for name, array in outputs.items() if names is None or name in names}

    return compare(
        name,
        some(loaded.run(inputs)),
        some(reference(inputs)),
        lambda shaken: some(reference.exact(inputs, shaken)),
        tolerance,
        lambda output: _tokens_of(output, loaded.signature, inputs),
    )


def _tokens_of(output: str, signature: Signature, inputs: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Return (batch, length) booleans, True for the positions of an output that are not padding; None if the output has
    no positions, or no mask belongs to them."""
    spec = next(spec for spec in signature.outputs if spec.name == output)
    if len(spec.dims) < 3 or spec.dims[0] != "batch":
        return None
    masks = [given for given in signature.inputs if "mask" in given.name and len(given.dims) == 2]
    return next((inputs[given.name] == 1 for given in masks if given.dims[1] == spec.dims[1]), None)


def cached_checks(
    model: Exportable, whole: Reference, loaded: LoadedGraph, cases: Sequence[Case], tolerance: float | Closeness
) -> Iterator[Check]:
    """Compare the graph of a causal decoder, called with some of the tokens and then with the rest, with Keras.

    The logits are compared with the model's own call on all tokens, the keys and values with the model's graph on all
    tokens.

    Args:
        model: the model.
        whole: the model's own call.
        loaded: the graph of the file.
        cases: the cases; `past` is the number of tokens in the first call.
        tolerance: the largest accepted relative difference, or a limit of the cosine.
    """
    signature = loaded.signature
    keys = Reference(model, model.graphs("dynamic")["decoder"].function, signature)
    tokens = next(spec.name for spec in signature.inputs if spec.name in TOKENS)

    def expected(inputs: Arrays, shaken: int | None = None) -> Arrays:
        given = {name: inputs[name] for name in (tokens, "attention_mask")}
        run, cached = whole, keys
        if shaken is not None:
            run, cached = (functools.partial(of.exact, shaken=shaken) for of in (whole, keys))
        if isinstance(tolerance, Closeness):  # the logits show the effect of quantized keys and values
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
    """Return the outputs with the axes of keys and values swapped, so that the length is axis 1 as in the logits."""
    caches = set(signature.state.values())
    return {name: np.swapaxes(array, 1, 2) if name in caches else array for name, array in outputs.items()}


def chain_checks(
    model: Exportable, whole: Reference, runner: Runner, chains: Sequence[Chain], tolerance: float | Closeness
) -> Iterator[Check]:
    """Compare the logits of a prompt and of every decode step with those of the model's own call on all tokens.

    Without an encoder, the prompts of one row are the beginnings of one text, so that Keras is called only once.

    Args:
        model: the model.
        whole: the model's own call.
        runner: the runner of the file.
        chains: prompts and numbers of decode steps.
        tolerance: the largest accepted relative difference, or a limit of the cosine.
    """
    vocab = min(spec.below for spec in model.signature.inputs if spec.name in TOKENS and isinstance(spec.below, int))
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
        source = source_of(model, ids[:, : chain.prompt], mask)
        logits = [decoder.prompt(next(iter(source.values())), mask, chain.steps)]
        logits += [decoder.step(new[:, i]) for i in range(chain.steps)]
        expected = of_text
        if not alone:
            inputs = source if encodes else {"input_ids": ids, "attention_mask": mask}
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
    """The logits of one call of Keras, which is made on first use."""

    def __init__(self, whole: Reference, inputs: Arrays) -> None:
        self.whole, self.inputs = whole, inputs
        self.judges: dict[int, np.ndarray] = {}

    @functools.cached_property
    def logits(self) -> np.ndarray:
        return self.whole(self.inputs)["logits"]

    def exact(self, shaken: int) -> np.ndarray:
        if shaken not in self.judges:
            self.judges[shaken] = self.whole.exact(self.inputs, shaken)["logits"]
        return self.judges[shaken]


def greedy_check(model: Any, whole: Reference, runner: Runner, tolerance: float | Closeness) -> Check:
    """Check greedy decoding by the file, for a batch of prompts of different lengths.

    Keras gets the tokens that the file generated. Each of them must have the largest logit in Keras too, or the same
    logit within rounding errors. Greedy decoding in Keras then gives the same tokens.

    Args:
        model: the model.
        whole: the model's own call.
        runner: the runner of the file.
        tolerance: the largest accepted relative difference, or a limit of the cosine, with which the check always
            passes.
    """
    longest = min(runner.decoder().max_length, model.config.max_length)
    source = min((graph.signature.sizes.get("source", 9) for graph in runner.graphs.values()), default=9)
    length = max(1, min(9, source, longest // 2))
    new = min(16, longest - length)
    name = f"greedy decoding, {new} tokens"
    if new < 1:
        return Check(name, True, None, "not compared: there is no room for a new token")
    rows = rows_of(runner)
    ids = np.random.default_rng(0).integers(0, model.config.vocab_size, (rows, length))
    mask = padded_mask(rows, length, "left")
    source = source_of(model, ids, mask)
    decoder: Any = runner.decoder()
    decoder.defaults = {}  # greedy decoding, whatever the model's generation config
    written = generate(decoder, next(iter(source.values())), mask, max_new_tokens=new, stop_tokens=[])
    if any(spec.name == "decoder_input_ids" for spec in model.signature.inputs):
        inputs = {**source, "decoder_input_ids": written[:, :-1]}
    else:
        inputs = {
            "input_ids": written[:, :-1],
            "attention_mask": np.concatenate([mask, np.ones((rows, new - 1), mask.dtype)], axis=1),
        }
    chosen = written[:, -new:, None]

    def shortfall(outputs: Arrays) -> np.ndarray:  # (3, new): how far each logit is below the largest one
        logits = outputs["logits"][:, -new:]
        return logits.max(axis=-1) - np.take_along_axis(logits, chosen, axis=-1)[..., 0]

    results = whole(inputs)
    short = shortfall(results)
    same = int((short == 0).sum())
    if same == short.size:
        return Check(name, True, None, "identical in 3 rows")
    if isinstance(tolerance, Closeness):  # quantized logits select other tokens; the other checks compare the logits
        return Check(name, True, None, f"{same} of {short.size} are most likely in Keras")
    scale = float(np.abs(results["logits"]).max())
    detail = f"{same} of {short.size} are most likely in Keras, logits of the others at most {short.max():.1e} lower"
    if short.max() <= 2 * tolerance * scale:
        return Check(name, True, None, detail, "relative")
    exact = whole.exact(inputs)
    noise = float(np.abs(results["logits"] - exact["logits"]).max())
    return Check(name, bool(shortfall(exact).max() <= 16 * noise), None, detail, "float64")
