"""In what order GPTQ rounds the weights of another format: by what the products in the model's ONNX file are given.

ONNX Runtime gives any value of a graph away; LiteRT would have to compute without its fast kernels for that.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ....runtime.onnx.runner import OnnxRunner
from ..gptq import Order
from ..samples import calibration_of
from .graph import products
from .moments import Moments


class Orders:
    """Of weights by their Keras names, which are the names of the products' weights in the file."""

    def __init__(self, runner: OnnxRunner, samples: Any) -> None:
        """
        Args:
            runner: of a model of one graph in float32.
            samples: what the products are given, as ``to_onnx`` takes them; None for what `calibration_of` has.
        """
        import onnx_ir as ir

        graph: Any
        (graph,) = runner.graphs.values()
        self.inputs = {p.weight.name: p.node.inputs[0].name for p in products(ir.load(runner.path).graph)}
        self.moments = Moments(runner.path, graph, list(calibration_of(runner.signature, runner.tokenizer, samples)))

    def __iter__(self) -> Iterator[str]:
        """Names, those of one input next to each other: the order in which asking for them is cheap."""
        return iter(self.inputs)

    def of(self, name: str) -> Order:
        return self.moments.order(self.inputs[name])
