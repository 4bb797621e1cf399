"""ONNX with the weights of recurrent layers as 8-bit integers.

Standard operators dequantize the integers in front of the recurrent operator. A runtime computes nodes that depend only
on weights once, while it loads the file. So the file is small, and a step is as fast and as accurate as in float32 with
these weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ...options import Precision
from ..blocks import to_rows
from .graph import Editor

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
        values, scales = to_rows(kernel.const_value.numpy()[0], reduce_range=False)
        stored = editor.constant(f"{kernel.name}_quantized", values[None])
        users = list(kernel.uses())
        (wide,) = editor.before(first, "Cast", [stored], (float32,), to=float32.value)
        scale = editor.constant(f"{kernel.name}_scale", np.reshape(scales, (1, -1, 1)))
        (rows,) = editor.before(first, "Mul", [wide, scale], (float32,))
        rows.shape = kernel.shape
        for node, index in users:
            node.replace_input_with(index, rows)
        made.append(kernel.name)
    editor.finish()
    return made


def _kernels(graph: Any) -> Iterator[Any]:
    """Yield the kernels (1, gates · units, in) that only recurrent layers read, directly or with a further input."""
    for node in graph:
        if node.op_type in LAYERS and not node.domain:
            for kernel in node.inputs[KERNELS]:
                before = kernel.producer()
                value = before.inputs[0] if before is not None and before.op_type == "Concat" else kernel
                if value.is_initializer() and all(use.node.op_type in (*LAYERS, "Concat") for use in value.uses()):
                    yield value
