"""ONNX with the weights of recurrent layers as 8-bit integers.

A recurrent operator takes kernels in ONNX's order of gates and shape, which the graph makes from Keras' kernels.
Standard operators dequantize the integers before that. A runtime computes nodes that depend only on weights once, while
it loads the file. So the file is small, and a step is as fast and as accurate as in float32 with these weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...options import Precision
from ..blocks import to_rows
from .graph import MOVES, Editor, is_matrix

LAYERS = ("GRU", "LSTM", "RNN")
KERNELS = slice(1, 3)  # inputs of the operator: the kernel and the recurrent kernel


def to_integer_kernels(model: Any, precision: Precision) -> list[str]:
    """Quantize the kernels of the recurrent layers of `model`, an ``onnx_ir.Model``, in place, with a scale for each
    output.

    Returns:
        The names of the weights that became 8-bit integers.
    """
    import onnx_ir as ir

    editor, made = Editor(model), []
    float32 = ir.DataType.FLOAT
    first = next(iter(model.graph), None)
    for kernel in list(dict.fromkeys(_kernels(model.graph))):
        if precision.kept(kernel.name):
            continue
        values, scales = to_rows(kernel.const_value.numpy().T, reduce_range=False)
        stored = editor.constant(f"{kernel.name}_quantized", values.T.copy())
        users = list(kernel.uses())
        (wide,) = editor.before(first, "Cast", [stored], (float32,), to=float32.value)
        (rows,) = editor.before(first, "Mul", [wide, editor.constant(f"{kernel.name}_scale", scales)], (float32,))
        rows.shape = kernel.shape
        for node, index in users:
            node.replace_input_with(index, rows)
        made.append(kernel.name)
    editor.finish()
    return made


def _kernels(graph: Any) -> Iterator[Any]:
    """Yield the matrices (in, gates · units) that are used only as kernels of recurrent layers."""
    for node in graph:
        if node.op_type in LAYERS and not node.domain:
            for kernel in map(_origin, node.inputs[KERNELS]):
                if is_matrix(kernel) and all(use.node.op_type in MOVES for use in kernel.uses()):
                    yield kernel


def _origin(value: Any) -> Any:
    """Return the value that was reordered to make `value`; for a concatenation, the value that all of its parts were
    split from, or None."""
    node = None if value is None else value.producer()
    if node is None or node.op_type not in MOVES:
        return value
    if node.op_type != "Concat":
        return _origin(node.inputs[0])
    parents = {part.producer() for part in node.inputs}
    parent = parents.pop()
    return _origin(parent.inputs[0]) if not parents and parent is not None and parent.op_type == "Split" else None
