"""The plan of all comparisons of a file with Keras. An export checks the first cases of it, ``verify`` all cases.

A part of the plan is a list of cases for one graph, or for all graphs of a decoder. Cases that find many faults come
first, and the first `quick` cases of each part are those that a file must pass before it appears.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from keras.layers import RNN

from ...generation.decoder import KEPT
from ...runtime.runner import LoadedGraph, Runner
from ..frontend.any_keras.model import Foreign
from ..frontend.graphs import model_graphs
from ..frontend.spec import Exportable
from ..request import check_samples
from .any_keras import any_cases, any_checks, sample_cases
from .cases import chains, image_cases, length_cases, pair_cases, text_cases
from .checks import cached_checks, chain_checks, greedy_check, image_checks, pair_checks, plain_checks
from .comparison import Check, Closeness
from .reference import Reference
from .states import LOGITS_KEPT, kept_checks, slot_checks

MOST_PROMPTS = 8  # largest number of prompts, or of given samples, that an export checks


@dataclass(frozen=True)
class Part:
    """Cases of one kind.

    Attributes:
        cases: the cases; those that find most faults come first.
        quick: the number of cases, from the first on, that an export checks.
        check: a function of some of the cases and a tolerance, which compares them and yields the checks.
    """

    cases: Sequence[Any]
    quick: int
    check: Callable[[Sequence[Any], float | Closeness], Iterator[Check]]


def plan(model: Exportable, runner: Runner, *, quick: bool, samples: Any = None) -> list[Part]:
    """Return the comparisons of a file with its model.

    Args:
        model: the model.
        runner: the runner of the file.
        quick: whether only the first cases of each part will be run. Keras is then called eagerly, because tracing it
            only saves time over many calls. The cases are the same.
        samples: inputs by name, or several of them, for a third-party model: they take the place of synthetic inputs.

    Raises:
        ValueError: `samples` do not have the names, dtypes, shapes or values of a graph's inputs.
    """
    if isinstance(model, Foreign):
        return list(_of_any_keras(model, runner, quick, samples))
    main = runner.graphs[runner.layout.main]
    dims = {dim for spec in main.signature.inputs for dim in spec.dims}
    if "height" in dims:
        reference = Reference(model, model.by_name)
        if "sequence" in dims:
            return [Part(pair_cases(main.signature), 1, partial(pair_checks, reference, main))]
        return [Part(image_cases(main.signature), 1, partial(image_checks, reference, main))]
    return list(_of_text(model, runner, main, quick))


def _of_any_keras(model: Foreign, runner: Runner, quick: bool, samples: Any) -> Iterator[Part]:
    own = model_graphs(model, runner.graphs)
    given = None if samples is None else [dict(sample) for sample in check_samples(samples, None)]
    # Recurrent layers take their steps in Python, one by one.
    layers = sum(16 if isinstance(layer, RNN) else 1 for layer in model._flatten_layers())
    of_graph = [given] * len(runner.graphs)
    if given is not None and len(runner.graphs) > 1:
        names = [{spec.name for spec in graph.signature.inputs} for graph in runner.graphs.values()]
        of_graph = [[sample for sample in given if {*sample} == inputs] for inputs in names]
        if unknown := [sorted(sample) for sample in given if {*sample} not in names]:
            raise ValueError(
                f"samples: got inputs {unknown[0]}; accepted: those of one graph, {list(map(sorted, names))}"
            )
    for (name, loaded), chosen in zip(runner.graphs.items(), of_graph, strict=True):
        prefix = f"{name}: " if len(runner.graphs) > 1 else ""
        traced = None if quick or loaded.signature.sizes else own[name].signature
        reference = Reference(model, own[name].function, traced)
        if chosen:
            cases = sample_cases(loaded.signature, chosen, MOST_PROMPTS)
        else:
            cases = any_cases(loaded.signature, layers, precise=runner.precision == "fp32")
        quickly = sum(case.quick for case in cases)
        yield Part(cases, quickly, partial(any_checks, reference, loaded, prefix=prefix))


def _of_text(model: Exportable, runner: Runner, main: LoadedGraph, quick: bool) -> Iterator[Part]:
    layout = runner.layout
    open_sizes = layout.kind in ("plain", "dynamic") and not main.signature.sizes
    traced = None if quick else model.signature
    whole = Reference(model, model.by_name, traced, few=not open_sizes)
    if layout.kind == "plain":
        for name, loaded in runner.graphs.items():
            prefix = f"{name}: " if len(runner.graphs) > 1 else ""
            yield Part(text_cases(model, loaded.signature), 1, partial(plain_checks, whole, loaded, prefix=prefix))
        if len(runner.graphs) > 1:
            cases = length_cases([graph.signature for graph in runner.graphs.values()])
            yield Part(cases, 0, partial(plain_checks, whole, runner, prefix="shortest fitting signature: "))
    own = model_graphs(model, runner.graphs)
    encoders = [name for name, role in layout.roles.items() if role == "encoder" and name in own]
    for name in encoders:
        loaded = runner.graphs[name]
        reference = Reference(model, own[name].function, own[name].signature, few=quick or bool(loaded.signature.sizes))
        cases = text_cases(model, loaded.signature)
        yield Part(cases, 1, partial(plain_checks, reference, loaded, prefix=f"{name}: "))
    if not encoders and layout.kind == "dynamic" and not main.signature.sizes:
        cases = text_cases(model, main.signature, past=True, padding=main.padding)
        yield Part(cases, 0, partial(cached_checks, model, whole, main))
        if any(spec.name == KEPT for spec in main.signature.inputs):
            yield Part(LOGITS_KEPT, 0, partial(kept_checks, whole, main))
    if layout.kind == "litert":
        for name, loaded in runner.graphs.items():
            reference = Reference(model, own[name].function)
            yield Part((0, 5, -1), 0, partial(slot_checks, reference, loaded, name))
    if layout.generates:
        found = chains(model, runner)
        quickly = sum(chain.quick for chain in found)
        yield Part(found, min(quickly, MOST_PROMPTS), partial(chain_checks, model, whole, runner))
    if runner.generates:
        yield Part(["greedy"], 0, lambda cases, limit: (greedy_check(model, whole, runner, limit) for _ in cases))
