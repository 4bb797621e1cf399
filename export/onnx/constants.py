"""Values of a graph that depend on constants alone, such as axes and sizes, computed at the export.

Other tools than runtimes do not compute them, and find no axes where a node expects constant ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..initializers import initializer

MOST = 4096  # elements of a value; larger ones, such as masks of all positions, would enlarge the file
# Operators whose results are exact: they move, copy or compare elements, or compute with integers.
EXACT = {
    *("Cast", "Concat", "ConstantOfShape", "Equal", "Expand", "Gather", "GatherND", "Identity", "Not", "Range"),
    *("Reshape", "Shape", "Size", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze", "Where"),
}
INTEGERS = {"BOOL", "INT32", "INT64"}
OF_INTEGERS = {"Abs", "Add", "Div", "Max", "Min", "Mod", "Mul", "Neg", "ReduceProd", "ReduceSum", "Sub"}


def fold_constants(graph: Any, opset: int, *, of_integers: bool = False) -> None:
    """Replace small values that depend on constants alone by initializers, in place.

    Args:
        graph: an ``onnx_ir.Graph`` with sorted nodes, without weights among its initializers unless `of_integers`.
        opset: of its nodes.
        of_integers: whether only integers are computed, so that weights stay as they are.
    """
    import onnx_ir as ir

    for node in list(graph):
        if (source := _times_one(node)) is not None:
            ir.convenience.replace_all_uses_with(node.outputs[0], source)
            graph.remove(node, safe=True)
            continue
        inputs = [value for value in node.inputs if value is not None]
        if node.domain or not all(value.is_initializer() and value.const_value is not None for value in inputs):
            continue
        integers = all(value.const_value.dtype.name in INTEGERS for value in inputs)
        if of_integers and not (integers and inputs):
            continue
        if node.op_type not in EXACT and not (node.op_type in OF_INTEGERS and integers):
            continue
        if any(value.const_value.size > MOST for value in inputs):
            continue
        arrays = _computed(node, inputs, opset)
        if arrays is None or any(array.size > MOST for array in arrays):
            continue
        for value, array in zip(node.outputs, arrays, strict=True):
            constant = initializer(graph, f"{value.name}_constant", array)
            ir.convenience.replace_all_uses_with(value, constant, replace_graph_outputs=True)
        graph.remove(node, safe=True)


def _times_one(node: Any) -> Any:
    """Return the value that a node multiplies by 1, as Keras' SiLU does, or None."""
    if node.op_type != "Mul" or node.domain or node.outputs[0].is_graph_output():
        return None
    for one, other in (node.inputs, node.inputs[::-1]):
        constant: Any = None if one is None else one.const_value
        if constant is None or constant.shape or other is None or other.is_initializer():
            continue
        if constant.numpy() == 1:
            return other
    return None


def _computed(node: Any, inputs: list[Any], opset: int) -> list[np.ndarray] | None:
    """Return the outputs of a node, or None if they cannot be computed."""
    import onnx
    import onnx_ir as ir
    from onnx.reference import ReferenceEvaluator

    feeds = {value.name: value.const_value.numpy() for value in inputs}
    given = [onnx.helper.make_tensor_value_info(v.name, v.const_value.dtype.value, None) for v in dict.fromkeys(inputs)]
    names = [value.name for value in node.outputs]
    results = [onnx.helper.make_tensor_value_info(name, 0, None) for name in names]
    graph = onnx.helper.make_graph([ir.to_proto(node)], "constant", given, results)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)
    try:
        found: Any = ReferenceEvaluator(model).run(names, feeds)
    except Exception:  # of any class: a node that the evaluator cannot compute stays as it is
        return None
    return [np.asarray(array) for array in found]
