"""What a file of any Keras model is asked: sizes that Keras takes, and paddings where there is a mask."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ...runtime.inputs import PADDINGS, example_inputs, is_mask
from ...runtime.runner import LoadedGraph
from ...signature import Graph, Signature
from ..frontend.any_keras.model import Foreign
from ..frontend.diagnostics import one_line
from ..frontend.graphs import model_graphs
from .comparison import Check, Closeness, compare
from .reference import Reference

LENGTHS = (1, 33, 128, 512)  # beside the one that is known to work
SIDES = (32, 75, 150)


@dataclass(frozen=True)
class AnyCase:
    """Sizes of the open dimensions, and which tokens are none."""

    sizes: dict[str, int]
    padding: str = "none"
    seed: int = 0
    tried: bool = False  # of sizes that Keras may refuse

    @property
    def name(self) -> str:
        shown = ", ".join(f"{dim} {size}" for dim, size in self.sizes.items()) or "its own sizes"
        return shown + (f", padding {self.padding}" if self.padding != "none" else f", draw {self.seed}")


def any_cases(signature: Signature, *, brief: bool = False) -> Iterator[AnyCase]:
    """One where every size is known to work and, unless `brief`, others: a batch of one, other lengths and images where
    Keras takes them, and every padding where there is a mask."""
    open_dims = {dim for spec in signature.inputs for dim in spec.dims if isinstance(dim, str)} - {*signature.sizes}
    own = {dim: signature.examples[dim] for dim in sorted(open_dims) if dim in signature.examples}
    own |= {"batch": 2} if "batch" in open_dims else {}
    masked = any(map(is_mask, signature.inputs))
    if brief:
        yield AnyCase(own, "left" if masked else "none")
        return
    for padding in (*PADDINGS, "all") if masked else ("none",):
        yield AnyCase(own, padding)
    yield AnyCase({**own, "batch": 1} if "batch" in own else own, seed=1)
    for dim in (dim for dim in own if dim != "batch"):
        for size in SIDES if dim in ("height", "width") else LENGTHS:
            if size != own[dim]:
                yield AnyCase({**own, dim: size}, seed=size, tried=True)


def any_checks(
    model: Foreign, graphs: Mapping[str, LoadedGraph], tolerance: float | Closeness, *, brief: bool = False
) -> Iterator[Check]:
    """The file's graphs beside the model's own call."""
    own = model_graphs(model, graphs)
    for name, loaded in graphs.items():
        prefix = f"{name}: " if len(graphs) > 1 else ""
        yield from _graph_checks(model, own[name], loaded, tolerance, brief=brief, prefix=prefix)


def _graph_checks(
    model: Foreign, graph: Graph, loaded: LoadedGraph, tolerance: float | Closeness, *, brief: bool, prefix: str
) -> Iterator[Check]:
    signature = loaded.signature
    reference = Reference(model, graph.function, None if brief or signature.sizes else graph.signature)
    for case in any_cases(signature, brief=brief):
        sizes = {**signature.examples, **signature.sizes, **case.sizes}
        inputs = example_inputs(signature, sizes, padding=case.padding, seed=case.seed)
        name = prefix + case.name
        try:
            expected = reference(inputs)
        except Exception as error:  # of any kind: what a layer says to a length or an image that it has no room for
            if not case.tried:
                raise
            yield Check(name, True, None, f"Keras refuses it: {one_line(error, 80)}")
            continue
        try:
            actual = loaded.run(inputs)
        except Exception as error:  # each runtime has its own
            yield Check(name, False, None, f"the runtime fails: {one_line(error)}")
            continue
        yield compare(
            name,
            actual,
            expected,
            lambda shaken, inputs=inputs: reference.exact(inputs, shaken),
            tolerance,
        )


def example_sizes(signature: Signature) -> dict[str, Any]:
    """Of every dimension one that works."""
    dims = {dim for spec in signature.inputs for dim in spec.dims if isinstance(dim, str)}
    return dict.fromkeys(dims, 2) | {**signature.examples, **signature.defaults, "batch": 1, **signature.sizes}
