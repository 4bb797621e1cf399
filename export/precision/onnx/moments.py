"""Second moments of the inputs of a graph's matrix multiplications, summed over many tokens, as GPTQ needs them."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ....runtime.onnx.runner import OnnxGraph
from ..gptq import Order, order_of
from .graph import products

Array = np.ndarray

MOST_BYTES = 1_000_000_000  # of the moments that are computed in one pass over the samples


class Moments:
    """Second moments of the inputs of an ONNX file's matrix multiplications, by the name of the input.

    They are computed in several passes over the samples, in the order in which they are requested.
    """

    def __init__(self, file: Path, graph: OnnxGraph, samples: Sequence[Mapping[str, Any]]) -> None:
        """Load the file with the inputs of its matrix multiplications as additional outputs.

        Args:
            graph: the graph of `file`, which fills in the inputs that a sample leaves out.
            samples: inputs by name. Padded positions do not count.
        """
        import onnx_ir as ir

        self.feeds = [graph.feeds(graph.complete(sample)) for sample in samples]
        model: Any = ir.load(file)
        self.widths: dict[str, int] = {}
        values = {}
        for product in products(model.graph):
            value = product.node.inputs[0]
            self.widths[value.name], values[value.name] = product.rows.shape[1], value
        inside = [value for name, value in values.items() if value not in model.graph.inputs]
        model.graph.outputs.extend(value for value in inside if value not in model.graph.outputs)
        for value in inside:
            value.dtype = ir.DataType.FLOAT
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:
            large = Path(f"{file}.data").is_file()
            ir.save(model, probe := Path(folder) / "m.onnx", external_data="m.onnx.data" if large else None)
            self.graph = OnnxGraph(probe)
        self.known: dict[str, Array] = {}
        self.last: tuple[str, Order] | None = None

    def order(self, name: str) -> Order:
        """Return the GPTQ order for the matrix multiplications of an input. Those of one input follow each other in a
        graph, so only the last order is kept."""
        if self.last is None or self.last[0] != name:
            self.last = name, order_of(self.of(name))
        return self.last[1]

    def of(self, name: str) -> Array:
        """Return (features, features) float32: the sums over tokens of the products of two features."""
        if name not in self.known:
            names = list(self.widths)
            chosen, room = [], MOST_BYTES
            for other in names[names.index(name) :]:
                room -= 4 * self.widths[other] ** 2
                if chosen and room < 0:
                    break
                chosen.append(other)
            self.known = self._gathered(chosen)
        return self.known[name]

    def _gathered(self, names: list[str]) -> dict[str, Array]:
        found = {name: np.zeros((self.widths[name],) * 2, "float32") for name in names}
        inside = [name for name in names if name in self.graph.names]
        for feeds in self.feeds:
            arrays = dict(zip(inside, self.graph.session.run(inside, feeds), strict=True)) if inside else {}
            mask = feeds.get("attention_mask")
            for name in names:
                array = np.asarray(arrays.get(name, feeds.get(name)))
                kept = array[mask == 1] if mask is not None and array.shape[:2] == mask.shape else array
                tokens = kept.reshape(-1, array.shape[-1]).astype("float32")
                found[name] += tokens.T @ tokens
        return found
