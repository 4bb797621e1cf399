"""Checks of the files of third-party Keras models: sizes that Keras accepts, and paddings if an input is a mask."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ...runtime.inputs import PADDINGS, example_inputs, is_mask
from ...runtime.runner import LoadedGraph
from ...signature import Signature
from ..frontend.diagnostics import one_line
from .comparison import Check, Closeness, compare
from .reference import Reference

LENGTHS = (1, 33, 128, 512)  # in addition to the one that is known to work
SIDES = (32, 75, 150)


@dataclass(frozen=True)
class AnyCase:
    """Sizes of the open dimensions, and which tokens are padding."""

    sizes: dict[str, int]
    padding: str = "none"
    seed: int = 0
    tried: bool = False  # whether Keras may reject the sizes

    @property
    def name(self) -> str:
        shown = ", ".join(f"{dim} {size}" for dim, size in self.sizes.items()) or "fixed sizes"
        return shown + (f", padding {self.padding}" if self.padding != "none" else f", seed {self.seed}")


def any_cases(signature: Signature) -> list[AnyCase]:
    """Return the cases for one graph of any Keras model; the first is the one that an export checks.

    Its sizes are known to work. The others are a batch of one, other lengths and images as far as Keras accepts them,
    and every padding if an input is a mask.
    """
    open_dims = {dim for spec in signature.inputs for dim in spec.dims if isinstance(dim, str)} - {*signature.sizes}
    own = {dim: signature.examples[dim] for dim in sorted(open_dims) if dim in signature.examples}
    own |= {"batch": 2} if "batch" in open_dims else {}
    masked = any(map(is_mask, signature.inputs))
    first = "left" if masked else "none"
    cases = [AnyCase(own, first)]
    cases += [AnyCase(own, padding) for padding in (*PADDINGS, "all") if masked and padding != first]
    cases.append(AnyCase({**own, "batch": 1} if "batch" in own else own, seed=1))
    for dim in (dim for dim in own if dim != "batch"):
        for size in SIDES if dim in ("height", "width") else LENGTHS:
            if size != own[dim]:
                cases.append(AnyCase({**own, dim: size}, seed=size, tried=True))
    return cases


def any_checks(
    reference: Reference, loaded: LoadedGraph, cases: Sequence[AnyCase], tolerance: float | Closeness, prefix: str = ""
) -> Iterator[Check]:
    """Compare one graph of any Keras model with `reference`, the model's own call."""
    signature = loaded.signature
    for case in cases:
        sizes = {**signature.examples, **signature.sizes, **case.sizes}
        inputs = example_inputs(signature, sizes, padding=case.padding, seed=case.seed)
        name = prefix + case.name
        try:
            expected = reference(inputs)
        except Exception as error:  # of any class: layers reject a size in different ways
            if not case.tried:
                raise
            yield Check(name, True, None, f"not compared, since Keras rejects these sizes: {one_line(error, 80)}")
            continue
        try:
            actual = loaded.run(inputs)
        except Exception as error:  # every runtime has its own error classes
            yield Check(name, False, None, f"the runtime raised an error: {one_line(error)}")
            continue
        yield compare(
            name,
            actual,
            expected,
            lambda shaken, inputs=inputs: reference.exact(inputs, shaken),
            tolerance,
        )


def example_sizes(signature: Signature) -> dict[str, Any]:
    """Return a size that works for every dimension."""
    dims = {dim for spec in signature.inputs for dim in spec.dims if isinstance(dim, str)}
    return dict.fromkeys(dims, 2) | {**signature.examples, **signature.defaults, "batch": 1, **signature.sizes}
