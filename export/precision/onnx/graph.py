"""Search and replacement of the nodes of an ONNX graph that read its weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...initializers import initializer

Array = np.ndarray
# Operators whose outputs are elements of their inputs, in another order or shape.
MOVES = {"Concat", "Expand", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}


@dataclass(frozen=True)
class Product:
    """A MatMul with a constant weight; `rows` is the weight as (out, in)."""

    node: Any
    weight: Any
    transposed: bool  # the weight is stored as (out, in), such as an embedding table that is also the head

    @property
    def rows(self) -> Array:
        stored = self.weight.const_value.numpy()
        return stored if self.transposed else np.ascontiguousarray(stored.T)


def products(graph: Any) -> Iterator[Product]:
    """Yield every MatMul with a two-dimensional float32 weight."""
    for node in list(graph):
        if node.op_type != "MatMul" or node.domain:
            continue
        weight, transposed = node.inputs[1], False
        before = weight.producer() if weight is not None else None
        if before is not None and before.op_type == "Transpose" and is_matrix(before.inputs[0]):
            weight, transposed = before.inputs[0], True
        if is_matrix(weight):
            yield Product(node, weight, transposed)


def lookups(graph: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every Gather of rows of a float32 embedding table, and the table."""
    for node in list(graph):
        if node.op_type == "Gather" and not node.domain and is_matrix(node.inputs[0]):
            axis = node.attributes.get("axis")
            if axis is None or axis.as_int() == 0:
                yield node, node.inputs[0]


def stacks(graph: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every Gather of matrices of a three-dimensional float32 weight, such as the kernels of experts, and the
    weight."""
    import onnx_ir as ir

    for node in list(graph):
        weight = node.inputs[0] if node.op_type == "Gather" and not node.domain else None
        if weight is None or not weight.is_initializer() or weight.const_value is None:
            continue
        matrices = weight.const_value.dtype == ir.DataType.FLOAT and len(weight.const_value.shape) == 3
        axis = node.attributes.get("axis")
        if matrices and (axis is None or axis.as_int() == 0):
            yield node, weight


def heads_of(graph: Any) -> set[str]:
    """Return the names of the weights whose MatMul gives the logits, with or without a bias, a factor and a limit."""
    left = [output.producer() for output in graph.outputs if output.name == "logits"]
    reached = set()
    while left:
        node = left.pop()
        if node is None or node in reached:
            continue
        reached.add(node)
        if node.op_type in ("Add", "Mul", "Tanh"):
            left += [value.producer() for value in node.inputs if value is not None]
    return {product.weight.name for product in products(graph) if product.node in reached}


def is_matrix(value: Any) -> bool:
    """Return whether `value` is a two-dimensional float32 initializer."""
    import onnx_ir as ir

    if value is None or not value.is_initializer() or value.const_value is None:
        return False
    return value.const_value.dtype == ir.DataType.FLOAT and len(value.const_value.shape) == 2


class Editor:
    """An editor that adds nodes and initializers to a graph, each initializer once."""

    def __init__(self, model: Any) -> None:
        self.model, self.graph = model, model.graph

    def constant(self, name: str, array: Array) -> Any:
        """Return the initializer of this name, which is created from `array` if it does not exist."""
        return initializer(self.graph, name, array)

    def before(
        self,
        node: Any,
        operator: str,
        inputs: list[Any],
        dtypes: tuple[Any, ...],
        *,
        domain: str = "",
        **attributes: Any,
    ) -> list[Any]:
        """Insert a node in front of `node`, named after it, and return the outputs of the new node."""
        import onnx_ir as ir

        name = f"{node.name}/{operator}"
        number = 2
        while name in self._names():
            name, number = f"{node.name}/{operator}.{number}", number + 1
        self._taken.add(name)
        outputs = [ir.Value(name=f"{name}:{i}", type=ir.TensorType(dtype)) for i, dtype in enumerate(dtypes)]
        new = ir.node(operator, inputs, attributes, domain=domain, outputs=outputs, name=name)
        self.graph.insert_before(node, new)
        if domain:
            self.model.opset_imports.setdefault(domain, 1)
        return outputs

    def _names(self) -> set[str]:
        if not hasattr(self, "_taken"):
            self._taken = {node.name for node in self.graph}
        return self._taken

    def replace(self, node: Any, value: Any) -> None:
        """Replace the only output of `node` by `value`, and remove the node."""
        import onnx_ir as ir

        old = node.outputs[0]
        name, dtype = old.name, value.dtype or old.dtype
        ir.convenience.replace_all_uses_with(old, value, replace_graph_outputs=True)
        self.graph.remove(node, safe=True)
        value.name, value.dtype = name, dtype
        value.shape = old.shape

    def finish(self) -> None:
        """Remove the nodes and initializers that nothing reads any more."""
        from onnx_ir.passes import common

        common.RemoveUnusedNodesPass()(self.model)
        for name in [name for name, value in self.graph.initializers.items() if not value.uses()]:
            if self.graph.initializers[name] not in self.graph.inputs:
                del self.graph.initializers[name]
