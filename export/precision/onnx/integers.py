"""ONNX with 8-bit matrix multiplications: activations quantized dynamically, weights with a scale for each output.

The range of the activations is measured at every call. The operators are standard ones, and ONNX Runtime fuses each
group of four into one. The results are the same on every processor and in every ONNX runtime.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...options import Precision
from ..blocks import to_rows
from .graph import Editor, heads_of, lookups, products, stacks

LEAST_TABLE = 4096  # elements; a smaller table of positions or segments is not worth quantizing


def to_integers(model: Any, precision: Precision) -> list[str]:
    """Quantize the matrix multiplications and embedding tables of `model`, an ``onnx_ir.Model`` in float32, in place.

    Returns:
        The names of the weights that became 8-bit integers. An embedding table that is also the head is stored once.
    """
    writer = _Writer(model, precision)
    writer.products()
    writer.tables()
    return writer.finished()


def to_integer_tables(model: Any, precision: Precision) -> list[str]:
    """Quantize the embedding tables of `model` only, in the same way as `to_integers`."""
    writer = _Writer(model, precision)
    writer.tables()
    return writer.finished()


def to_integer_stacks(model: Any, precision: Precision) -> list[str]:
    """Quantize weights of `model` of which the graph looks matrices up, such as the kernels of experts, with a scale
    for each output of each matrix. The matrices that are read become float32 again before they are multiplied."""
    import onnx_ir as ir

    float32, int8 = ir.DataType.FLOAT, ir.DataType.INT8
    editor, made = Editor(model), []
    for node, kernels in stacks(model.graph):
        if precision.kept(kernels.name):
            continue
        name, array = kernels.name, kernels.const_value.numpy()
        number, width, outputs = array.shape
        values, scales = to_rows(array.swapaxes(1, 2).reshape(-1, width), reduce_range=False)
        stored = np.ascontiguousarray(values.reshape(number, outputs, width).swapaxes(1, 2))
        parts = [
            editor.constant(f"{name}_quantized", stored),
            editor.constant(f"{name}_scale", scales.reshape(number, 1, outputs)),
        ]
        (rows,), (scale,) = (
            editor.before(node, "Gather", [part, node.inputs[1]], (dtype,), axis=0)
            for part, dtype in zip(parts, (int8, float32), strict=True)
        )
        (rows,) = editor.before(node, "Cast", [rows], (float32,), to=float32.value)
        (output,) = editor.before(node, "Mul", [rows, scale], (float32,))
        editor.replace(node, output)
        made.append(name)
    editor.finish()
    return made


class _Writer:
    def __init__(self, model: Any, precision: Precision) -> None:
        self.editor, self.graph, self.precision = Editor(model), model.graph, precision
        self.heads = heads_of(self.graph)
        self.integers: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self.activations: dict[Any, list[Any]] = {}

    def products(self) -> None:
        import onnx_ir as ir

        int8, int32, float32 = ir.DataType.INT8, ir.DataType.INT32, ir.DataType.FLOAT
        before = self.editor.before
        for product in products(self.graph):
            name, node = product.weight.name, product.node
            head = name in self.heads or product.transposed
            if self.precision.kept(name) or (head and self.precision.head == "fp32"):
                continue
            values, scales = self._stored(name, product.rows, product.transposed)
            x, x_scale, x_zero = self._activations(node)
            if product.transposed:
                (values,) = before(node, "Transpose", [values], (int8,), perm=[1, 0])
            (total,) = before(node, "MatMulInteger", [x, values, x_zero], (int32,))
            (total,) = before(node, "Cast", [total], (float32,), to=float32.value)
            (scale,) = before(node, "Mul", [x_scale, scales], (float32,))
            (output,) = before(node, "Mul", [total, scale], (float32,))
            self.editor.replace(node, output)

    def tables(self) -> None:
        import onnx_ir as ir

        float32 = ir.DataType.FLOAT
        before = self.editor.before
        for node, table in lookups(self.graph):
            small = table.const_value.size < LEAST_TABLE and table.name not in self.integers
            tied = table.name in self.heads  # such a table has one precision
            numbers = self.precision.head if tied else self.precision.embedding
            if small or self.precision.kept(table.name) or numbers == "fp32":
                continue
            values, scales = self._stored(table.name, table.const_value.numpy(), True)
            ids = node.inputs[1]
            (rows,) = before(node, "Gather", [values, ids], (ir.DataType.INT8,), axis=0)
            (scale,) = before(node, "Gather", [scales, ids], (float32,), axis=0)
            axis = self.editor.constant("last_axis", np.array([-1], "int64"))
            (scale,) = before(node, "Unsqueeze", [scale, axis], (float32,))
            (rows,) = before(node, "Cast", [rows], (float32,), to=float32.value)
            (output,) = before(node, "Mul", [rows, scale], (float32,))
            self.editor.replace(node, output)

    def finished(self) -> list[str]:
        self.editor.finish()
        return list(self.integers)

    def _stored(self, name: str, rows: np.ndarray, as_rows: bool) -> tuple[Any, Any]:
        """Return int8 values as (out, in) or (in, out), and scales (out,)."""
        if name not in self.integers:
            self.integers[name] = to_rows(rows, reduce_range=self.precision.reduce_range)
        values, scales = self.integers[name]
        stored = values if as_rows else np.ascontiguousarray(values.T)
        return self.editor.constant(f"{name}_quantized", stored), self.editor.constant(f"{name}_scale", scales)

    def _activations(self, node: Any) -> list[Any]:
        """Return the node's input as uint8, its scale and its zero point, computed once for all MatMuls that read the
        input."""
        import onnx_ir as ir

        given = node.inputs[0]
        if given not in self.activations:
            kinds = (ir.DataType.UINT8, ir.DataType.FLOAT, ir.DataType.UINT8)
            self.activations[given] = self.editor.before(node, "DynamicQuantizeLinear", [given], kinds)
        return self.activations[given]
