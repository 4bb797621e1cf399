"""Finding and replacing in an ONNX graph what holds its weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray
# Operators whose outputs are numbers of their inputs, in another order or shape.
MOVES = {"Concat", "Expand", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}


@dataclass(frozen=True)
class Product:
    """A MatMul with a weight, whose `rows` are (out, in)."""

    node: Any
    weight: Any
    transposed: bool  # the weight is stored as (out, in), as a token table that is also the head

    @property
    def rows(self) -> Array:
        stored = self.weight.const_value.numpy()
        return stored if self.transposed else np.ascontiguousarray(stored.T)


def products(graph: Any) -> Iterator[Product]:
    """All of them, with float32 weights of two dimensions."""
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
    """Every Gather of rows of a float32 table, and the table."""
    for node in list(graph):
        if node.op_type == "Gather" and not node.domain and is_matrix(node.inputs[0]):
            axis = node.attributes.get("axis")
            if axis is None or axis.as_int() == 0:
                yield node, node.inputs[0]


def is_matrix(value: Any) -> bool:
    """A float32 weight of two dimensions."""
    import onnx_ir as ir

    if value is None or not value.is_initializer() or value.const_value is None:
        return False
    return value.const_value.dtype == ir.DataType.FLOAT and len(value.const_value.shape) == 2


class Editor:
    """Puts nodes and initializers into a graph, each initializer once."""

    def __init__(self, model: Any) -> None:
        self.model, self.graph = model, model.graph

    def constant(self, name: str, array: Array) -> Any:
        """The initializer of this name, made of `array` where there is none yet."""
        import onnx_ir as ir

        if name in self.graph.initializers:
            return self.graph.initializers[name]
        tensor: Any = ir.tensor(array)
        tensor.name = name
        value = ir.Value(name=name, const_value=tensor)
        value.shape, value.dtype = ir.Shape(tensor.shape), tensor.dtype
        self.graph.register_initializer(value)
        return value

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
        """The outputs of a new node that comes before `node`, named after it."""
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
        """`value` takes the place of the only output of `node`, which goes."""
        import onnx_ir as ir

        old = node.outputs[0]
        name, dtype = old.name, value.dtype or old.dtype
        ir.convenience.replace_all_uses_with(old, value, replace_graph_outputs=True)
        self.graph.remove(node, safe=True)
        value.name, value.dtype = name, dtype
        value.shape = old.shape

    def finish(self) -> None:
        """Drop what nothing reads any more."""
        from onnx_ir.passes import common

        common.RemoveUnusedNodesPass()(self.model)
        for name in [name for name, value in self.graph.initializers.items() if not value.uses()]:
            if self.graph.initializers[name] not in self.graph.inputs:
                del self.graph.initializers[name]
