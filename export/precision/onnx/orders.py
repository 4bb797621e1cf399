"""GPTQ orders for the weights of another file format, computed from the inputs of the MatMuls in the model's ONNX file.

ONNX Runtime can output any value of a graph. LiteRT would have to run without its fast kernels to do that.
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
    """GPTQ orders of weights by their Keras names, which are also the names of the weights in the ONNX file."""

    def __init__(self, runner: OnnxRunner, samples: Any) -> None:
        """Load the ONNX file and the calibration data.

        Args:
            runner: a model with a single graph in float32.
            samples: calibration data as in ``to_onnx``; None for the default of `calibration_of`.
        """
        import onnx_ir as ir

        graph: Any
        (graph,) = runner.graphs.values()
        self.inputs = {p.weight.name: p.node.inputs[0].name for p in products(ir.load(runner.path).graph)}
        self.moments = Moments(runner.path, graph, list(calibration_of(runner.signature, runner.tokenizer, samples)))

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names. Weights that share an input are adjacent, so requesting orders in this sequence is
        cheap."""
        return iter(self.inputs)

    def of(self, name: str) -> Order:
        return self.moments.order(self.inputs[name])
