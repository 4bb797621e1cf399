"""Which outputs of a graph consist of one part for each row of the batch that depends on no other row.

A file of a fixed batch runs a larger batch in pieces. That is right for outputs whose parts are those of the rows, and
for no others, such as a mean over the batch or the similarities of all pairs of rows.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ...runtime.inputs import example_inputs
from ...signature import Graph, Signature
from ..frontend.any_keras.model import Foreign
from ..frontend.inference import computing_in

ROWS = 3
TOLERANCE = 1e-3  # relative to the largest magnitude; a row alone is computed with other kernels than in a batch


def with_own_rows(model: Any, graph: Graph) -> Graph:
    """Return the graph with a fixed first dimension for every output that is not made of rows of the batch.

    A third-party model is called with several rows together and one by one, unless the sizes of its inputs are fixed.
    """
    signature, outputs = graph.signature, graph.signature.outputs
    fixed = signature.sizes.get("batch")
    if fixed is None or not isinstance(model, Foreign) or not any(spec.dims[:1] == ("batch",) for spec in outputs):
        return graph
    mixed = _mixed(model, graph, signature)
    changed = []
    for spec in outputs:
        dims = tuple(fixed if dim == "batch" and spec.name in mixed else dim for dim in spec.dims)
        changed.append(replace(spec, dims=dims))
    return Graph(replace(signature, outputs=tuple(changed)), graph.function)


def _mixed(model: Any, graph: Graph, signature: Signature) -> set[str]:
    """Return the names of the outputs that differ between rows of one call and calls of one row.

    The rows of a second call are of different magnitudes, which a limit relative to the largest value of all shows.
    """
    sizes = {**signature.defaults, **signature.examples, **signature.sizes, "batch": ROWS}
    split = {spec.name for spec in signature.inputs if spec.dims[:1] == ("batch",)}
    found: set[str] = set()
    for seed, scales in enumerate(((1, 1, 1), (1e3, 1, 1e-3))):
        inputs = example_inputs(signature, sizes, seed=seed)
        for name, values in inputs.items():
            if name in split and values.dtype.kind == "f":
                inputs[name] = values * np.reshape(scales, (-1, *[1] * (values.ndim - 1))).astype(values.dtype)
        try:
            together = _called(model, graph, inputs)
            pieces = [{name: x[i : i + 1] if name in split else x for name, x in inputs.items()} for i in range(ROWS)]
            alone = [_called(model, graph, piece) for piece in pieces]
        except Exception:  # of any type: layers reject a number of rows or made-up values in different ways
            return found
        found |= {name for name, whole in together.items() if not _is_made_of(whole, [row[name] for row in alone])}
    return found


def _called(model: Any, graph: Graph, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    from keras import ops

    with computing_in(model, "float32"):
        results = graph.function({name: ops.convert_to_tensor(value) for name, value in inputs.items()})
        return {name: ops.convert_to_numpy(value) for name, value in results.items()}


def _is_made_of(whole: np.ndarray, parts: list[np.ndarray]) -> bool:
    if not whole.ndim or not all(part.ndim == whole.ndim for part in parts):
        return False
    if {part.shape[1:] for part in parts} != {whole.shape[1:]} or sum(len(part) for part in parts) != len(whole):
        return False
    joined = np.concatenate(parts)
    if whole.dtype.kind in "iub":
        return whole.size < 4 or float((joined != whole).mean()) < 0.25  # ties in rounding
    return all(_near(one, other) for one, other in zip(joined, whole, strict=True))


def _near(one: np.ndarray, other: np.ndarray) -> bool:
    scale = float(np.abs(other[np.isfinite(other)]).max(initial=0)) or 1.0
    return np.allclose(one, other, rtol=0, atol=TOLERANCE * scale, equal_nan=True)
