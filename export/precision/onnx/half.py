"""Conversion of ONNX graphs to float16, except for operators that are not accurate enough in half precision.

Statistics (softmax, norms, means), angles of positions and everything that becomes an integer are computed in float32.
Inputs and outputs stay float32, except for a decoder's key/value cache, which takes most of its memory.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ..half import rounded
from .graph import MOVES, Editor

EXACT = {
    "AveragePool",
    "BatchNormalization",
    "Cos",
    "CumSum",
    "Erf",
    "Exp",
    "GRU",
    "GlobalAveragePool",
    "InstanceNormalization",
    "LRN",
    "LSTM",
    "Log",
    "LogSoftmax",
    "LpNormalization",
    "Pow",
    "RNN",
    "Range",
    "Reciprocal",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSumExp",
    "ReduceMean",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
    "Resize",
    "Sin",
    "Softmax",
    "Softplus",
    "Sqrt",
    "TopK",
}
RECURRENT = ("GRU", "LSTM", "RNN")
ELEMENTWISE = ("Add", "Div", "Mul", "Sub")
STATISTICS = {"Attention": "softmax_precision", "LayerNormalization": "stash_type", "RMSNormalization": "stash_type"}


def to_half(model: Any, state: Collection[str]) -> list[str]:
    """Convert `model`, an ``onnx_ir.Model`` in float32, in place, and return the names of the weights that became
    float16.

    Args:
        state: names of the inputs and outputs that become float16, such as those of a key/value cache.

    Raises:
        ValueError: the graph has a loop or a branch.
    """
    import onnx_ir as ir

    float16, float32 = ir.DataType.FLOAT16, ir.DataType.FLOAT
    graph = model.graph
    _types(model)
    if nested := [node for node in graph if any(a.type == ir.AttributeType.GRAPH for a in node.attributes.values())]:
        raise ValueError(f"precision: got 'fp16' for a graph with {nested[0].op_type}; accepted: 'fp32'")
    exact = _exact_nodes(graph, float32)
    for value in graph.inputs:
        if value.dtype == float32 and value.name in state:
            value.dtype = float16
    weights = []
    for value in list(graph.initializers.values()):
        # The weights of recurrent operators are stored in float16, and cast when the file is loaded.
        read = any(use.node not in exact or use.node.op_type in RECURRENT for use in value.uses())
        if value.dtype == float32 and read:
            value.const_value = ir.tensor(rounded(value.const_value.numpy()), name=value.name)
            value.dtype = float16
            weights.append(value.name)
    editor = Editor(model)
    casts = _Casts(editor)
    for node in list(graph):
        dtype = float32 if node in exact else float16
        casts.into(node, dtype)
        if node.op_type == "Cast" and node not in exact and node.attributes["to"].as_int() == float32.value:
            node.attributes["to"] = ir.AttrInt64("to", float16.value)
        if node.op_type in STATISTICS:
            name = STATISTICS[node.op_type]
            node.attributes[name] = ir.AttrInt64(name, float32.value)
        for value in node.outputs:
            if value.dtype == float32:
                value.dtype = dtype
    for i, value in enumerate(list(graph.outputs)):
        wanted = float16 if value.name in state else float32
        if value.dtype in (float16, float32) and value.dtype != wanted:
            graph.outputs[i] = casts.out_of(value, wanted)
    editor.finish()
    return weights


class _Casts:
    """Casts between the two precisions; each value is cast once."""

    def __init__(self, editor: Editor) -> None:
        self.editor = editor
        self.made: dict[tuple[Any, Any], Any] = {}

    def into(self, node: Any, dtype: Any) -> None:
        """Cast the floating-point inputs of `node` to `dtype`."""
        import onnx_ir as ir

        for i, value in enumerate(node.inputs):
            if value is None or value.dtype not in (ir.DataType.FLOAT16, ir.DataType.FLOAT) or value.dtype == dtype:
                continue
            if (value, dtype) not in self.made:
                (self.made[value, dtype],) = self.editor.before(node, "Cast", [value], (dtype,), to=dtype.value)
            node.replace_input_with(i, self.made[value, dtype])

    def out_of(self, value: Any, dtype: Any) -> Any:
        """Return an output of the graph in `dtype`, under the name of `value`."""
        import onnx_ir as ir

        name, value.name = value.name, f"{value.name}:computed"
        output = ir.Value(name=name, type=ir.TensorType(dtype), shape=value.shape)
        self.editor.graph.append(ir.node("Cast", [value], {"to": dtype.value}, outputs=[output], name=f"{name}/Cast"))
        return output


def _types(model: Any) -> None:
    """Set the dtype of every value, inferred from the operators where the graph does not declare it."""
    import onnx_ir as ir
    from onnx_ir.passes import common

    if any(value.dtype is None for node in model.graph for value in node.outputs):
        stated = {value: value.shape for value in model.graph.outputs}  # keeps names that inference replaces
        common.ShapeInferencePass()(model)
        for node in model.graph:
            # Inference does not know third-party operators: assume that they return the dtype of their inputs.
            floats = [v.dtype for v in node.inputs if v is not None and v.dtype == ir.DataType.FLOAT]
            for value in node.outputs:
                value.shape = stated.get(value)
                value.dtype = (floats[0] if floats else None) if value.dtype is None else value.dtype


def _exact_nodes(graph: Any, float32: Any) -> set[Any]:
    """Return the nodes that compute in float32: statistics, and everything that an angle or an integer depends on.

    Sums and products that only such nodes read are computed in float32 too: the scores of attention with their mask,
    the square of a norm with its epsilon, and what ``erf`` and ``tanh`` of a GELU read. So is the 1 that a GELU adds.
    """
    exact, behind = set(), set()
    for node in reversed(list(graph)):
        floats = [value for value in node.inputs if value is not None and value.dtype == float32]
        makes = [value for value in node.outputs if value.dtype == float32]
        angle = node.op_type in ("Cos", "Sin", "Range")
        integer = node.op_type in ("Cast", "ArgMax", "ArgMin", "Floor", "Ceil", "Round") and floats and not makes
        square = node.op_type == "Mul" and node.inputs[0] is node.inputs[1]
        made = makes and not floats and node.op_type != "Cast"  # creates floats, such as ConstantOfShape
        readers = [use.node for value in node.outputs for use in value.uses()]
        inner = node.op_type in ELEMENTWISE and floats and readers and all(reader in exact for reader in readers)
        if node.op_type in EXACT or node in behind or integer or square or made or inner or _of_gelu(node):
            exact.add(node)
        if angle or integer or node in behind:
            behind |= {value.producer() for value in floats if value.producer() is not None}
    # Nodes that only move float32 results stay in float32, to save two casts. Besides, ONNX Runtime 1.31 crashes while
    # it loads two recurrent layers with a float16 Transpose between them.
    for node in graph:
        floats = [value for value in node.inputs if value is not None and value.dtype == float32]
        if node.op_type in MOVES and floats and all(value.producer() in exact for value in floats):
            exact.add(node)
    return exact


def _of_gelu(node: Any) -> bool:
    """Return whether a node is the ``tanh`` of a GELU, or adds 1 to it or to ``erf``: the sum may be close to zero."""
    if node.op_type == "Tanh":
        return any(_of_gelu(use.node) for use in node.outputs[0].uses())
    if node.op_type != "Add" or not any(value is not None and _is_one(value) for value in node.inputs):
        return False
    producers = [value.producer() for value in node.inputs if value is not None]
    return any(producer is not None and producer.op_type in ("Erf", "Tanh") for producer in producers)


def _is_one(value: Any) -> bool:
    return value.is_initializer() and value.const_value.size == 1 and float(value.const_value.numpy().ravel()[0]) == 1.0
