"""Sizes in int64, as ONNX has them, where TensorFlow computes with them in int32.

TensorFlow's shapes are int32, and those of ONNX's operators int64, so every computed size is cast there and back.
Runtimes that follow sizes symbolically, such as tract, lose them on the way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..initializers import initializer

MOVES = {"Concat", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Unsqueeze"}
SIZES = MOVES | {"Add", "Div", "Max", "Min", "Mul", "Range", "ReduceProd", "Sub"}
# Operators that read sizes from this input on, and whose outputs have another dtype.
READERS = {"Equal": 0, "Greater": 0, "GreaterOrEqual": 0, "Less": 0, "LessOrEqual": 0, "Slice": 1}
# Inputs that say where or how, and not what: they are int64 already.
ARGUMENTS = {"Gather": 1, "ReduceProd": 1, "Reshape": 1, "Slice": 1, "Squeeze": 1, "Unsqueeze": 1}


def keep_sizes_wide(graph: Any) -> None:
    """Compute sizes in int64 from the shape to the operator that reads them, in place.

    Args:
        graph: an ``onnx_ir.Graph`` with sorted nodes.
    """
    import onnx_ir as ir

    int32, int64 = ir.DataType.INT32.value, ir.DataType.INT64.value
    sizes: dict[Any, None] = {}  # int64 values that depend on shapes alone
    wide: dict[Any, Any] = {}  # for int32 values that do, the same in int64
    for node in [node for node in graph if not node.domain and node.inputs]:
        source, result = node.inputs[0], node.outputs[0]
        to = node.attributes["to"].as_int() if node.op_type == "Cast" else None
        if node.op_type in ("Shape", "Size"):
            sizes[result] = None
        elif to == int32 and source in sizes:
            wide[result] = source
        elif to == int64 and source in wide:
            ir.convenience.replace_all_uses_with(result, wide[source], replace_graph_outputs=False)
        elif node.op_type in READERS:
            _read_wide(graph, node, READERS[node.op_type], wide)
        if node.op_type in SIZES:
            read = [value for value in node.inputs[: ARGUMENTS.get(node.op_type)] if value is not None]
            if _are(read, sizes):
                sizes[result] = None
            elif _are(read, wide):
                wide[result] = _widened(graph, node, read, wide)
                sizes[wide[result]] = None


def _are(values: list[Any], known: Mapping[Any, Any]) -> bool:
    """Return whether all values are known or constants, and one of them is no constant."""
    return any(value in known for value in values) and all(value in known or _is_constant(value) for value in values)


def _read_wide(graph: Any, node: Any, first: int, wide: dict[Any, Any]) -> None:
    """Let a node read sizes in int64, if all of its inputs from `first` on are sizes or constants."""
    values = [value for value in node.inputs[first:] if value is not None]
    if _are(values, wide):
        for i, value in enumerate(node.inputs):
            if i >= first and value is not None:
                node.replace_input_with(i, _in_int64(graph, value, wide))


def _is_constant(value: Any) -> bool:
    return value.is_initializer() and value.const_value is not None


def _in_int64(graph: Any, value: Any, wide: dict[Any, Any]) -> Any:
    """Return a size or a constant in int64."""
    if value in wide:
        return wide[value]
    return initializer(graph, f"{value.name}/int64", np.asarray(value.const_value.numpy(), "int64"))


def _widened(graph: Any, node: Any, read: list[Any], wide: dict[Any, Any]) -> Any:
    """Insert the node in int64, and return its output."""
    import onnx_ir as ir

    inputs = [_in_int64(graph, value, wide) if value in read else value for value in node.inputs]
    copy = ir.node(node.op_type, inputs, dict(node.attributes), name=f"{node.name}/int64")
    output = copy.outputs[0]
    output.name, output.dtype, output.shape = f"{node.outputs[0].name}/int64", ir.DataType.INT64, node.outputs[0].shape
    graph.insert_after(node, copy)
    return output
