"""ONNX with block-wise quantized weights, in ONNX Runtime's own operators or in standard ones.

ONNX Runtime's operators are ``MatMulNBits`` and ``GatherBlockQuantized``. Only the weights are quantized. The kernels
quantize the activations of a block to 8 bits on the fly, without a noticeable loss of accuracy, and read a quarter or
an eighth of the bytes. The speed of decoding token by token is limited by the time to read the weights.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from ...digests import INTEGERS, integers_digest
from ...options import Precision
from ..blocks import Blocks, to_blocks
from ..gptq import with_feedback
from .graph import Editor, heads_of, lookups, products, stacks
from .moments import Moments

MICROSOFT = "com.microsoft"
ACCURACY_LEVEL = 4  # 8-bit activations: the least accurate level, and the only fast one
LEAST_TABLE = 4096


def to_block_weights(model: Any, precision: Precision, target: str, moments: Moments | None = None) -> list[str]:
    """Quantize the weights of `model`, an ``onnx_ir.Model`` in float32, in place.

    Args:
        target: "onnxruntime" or "standard": whose operators read the blocks.
        moments: of the file that `model` was loaded from; if given, 4-bit weights are quantized with GPTQ.

    Returns:
        The names of the quantized weights. An embedding table that is also the output head is stored once.
    """
    editor = Editor(model)
    writer = _Runtime(editor) if target == "onnxruntime" else _Standard(editor)
    made: dict[str, Blocks] = {}
    chosen: dict[str, str] = {}  # digests of what GPTQ chose, since its integers are not the nearest ones
    heads = heads_of(model.graph)

    def blocks(name: str, rows: np.ndarray, numbers: str) -> Blocks:
        if name not in made:
            bits = int(numbers.removeprefix("int"))
            method = precision.method or ("search" if bits == 4 else "rtn")
            made[name] = to_blocks(
                rows,
                bits,
                precision.block_size or _block_size(rows.shape[1], 32 if precision.name == "int4" else 64),
                symmetric=bits == 8 if precision.symmetric is None else precision.symmetric,
                method="search" if method == "gptq" and bits == 4 else method.replace("gptq", "rtn"),
            )
        return made[name]

    tables = {table.name for _, table in lookups(model.graph)}
    for product in products(model.graph):
        name = product.weight.name
        numbers = precision.head if name in heads or name in tables else precision.numbers_of(name)
        if not precision.kept(name) and numbers != "fp32":
            rows = product.rows
            fresh = name not in made
            found = blocks(name, rows, numbers)
            if fresh and moments is not None and found.bits == 4:
                found = made[name] = with_feedback(rows, found, moments.order(product.node.inputs[0].name))
                chosen[name] = _digest(found)
            editor.replace(product.node, writer.product(product, found, rows.shape[1]))
    for node, table in lookups(model.graph):
        numbers = precision.head if table.name in heads else precision.embedding  # a tied table has one precision
        large = table.name in made or table.const_value.size >= LEAST_TABLE
        if large and numbers != "fp32" and not precision.kept(table.name):
            found = blocks(table.name, table.const_value.numpy(), numbers)
            editor.replace(node, writer.lookup(node, table.name, found, table.const_value.shape[1]))
    for node, kernels in stacks(model.graph):
        if not precision.kept(kernels.name):
            shape = tuple(map(int, kernels.const_value.shape))  # (experts, in, out), with blocks along the outputs
            rows = kernels.const_value.numpy().reshape(-1, shape[2])
            # The standard Gather reads no 4-bit integers.
            numbers = precision.numbers_of(kernels.name) if target == "onnxruntime" else "int8"
            found = blocks(kernels.name, rows, numbers)
            editor.replace(node, writer.matrices(node, kernels.name, found, shape))
    editor.finish()
    if chosen:
        model.metadata_props[INTEGERS] = json.dumps(chosen)
    return list(made)


def _digest(blocks: Blocks) -> str:
    zeros = np.float32(2 ** (blocks.bits - 1)) if blocks.zeros is None else blocks.zeros[..., None].astype("int32")
    steps = blocks.values.astype("int32") - zeros
    return integers_digest(steps.reshape(-1, steps.shape[-1]), blocks.scales.reshape(-1))


def _block_size(width: int, size: int) -> int:
    """Return the largest power of two up to `size` that divides `width`, but at least 16."""
    while size > 16 and width % size:
        size //= 2
    return size


class _Runtime:
    """Writer of ONNX Runtime's own operators."""

    def __init__(self, editor: Editor) -> None:
        self.editor = editor

    def product(self, product: Any, blocks: Blocks, width: int) -> Any:
        import onnx_ir as ir

        name = product.weight.name
        inputs = [product.node.inputs[0], *self._stored(name, blocks)]
        if (zeros := blocks.packed_zeros()) is not None:
            inputs.append(self.editor.constant(f"{name}_zero_points", zeros))
        (output,) = self.editor.before(
            product.node,
            "MatMulNBits",
            inputs,
            (ir.DataType.FLOAT,),
            domain=MICROSOFT,
            K=width,
            N=len(blocks.values),
            bits=blocks.bits,
            block_size=blocks.values.shape[-1],
            accuracy_level=ACCURACY_LEVEL,
        )
        return output

    def _stored(self, name: str, blocks: Blocks) -> list[Any]:
        return [
            self.editor.constant(f"{name}_quantized", blocks.packed()),
            self.editor.constant(f"{name}_scales", blocks.scales),
        ]

    def lookup(self, node: Any, name: str, blocks: Blocks, width: int) -> Any:
        import onnx_ir as ir

        editor, float32 = self.editor, ir.DataType.FLOAT
        values, scales = self._stored(name, blocks)
        rows, count, size = blocks.values.shape
        # The same bytes as for ``MatMulNBits``, whose layout has a separate axis for the blocks.
        flat = editor.constant(f"{name}_rows", np.array([rows, -1], "int64"))
        (table,) = editor.before(node, "Reshape", [values, flat], (ir.DataType.UINT8,))
        inputs = [table, node.inputs[1], scales]
        if (zeros := blocks.packed_zeros()) is not None:
            inputs.append(editor.constant(f"{name}_zero_points", zeros))
        (output,) = editor.before(
            node,
            "GatherBlockQuantized",
            inputs,
            (float32,),
            domain=MICROSOFT,
            bits=blocks.bits,
            block_size=size,
            gather_axis=0,
            quantize_axis=1,
        )
        return _cut(editor, node, output, count * size, width)

    def matrices(self, node: Any, name: str, blocks: Blocks, shape: tuple[int, ...]) -> Any:
        """Return the matrices that a Gather reads from weights of `shape` (matrices, in, out)."""
        import onnx_ir as ir

        editor, (_, count, size) = self.editor, blocks.values.shape
        parts = {"quantized": blocks.packed(), "scales": blocks.scales, "zero_points": blocks.packed_zeros()}
        values, scales, *zeros = (
            editor.constant(f"{name}_{part}", array.reshape(*shape[:2], -1))
            for part, array in parts.items()
            if array is not None
        )
        (output,) = editor.before(
            node,
            "GatherBlockQuantized",
            [values, node.inputs[1], scales, *zeros],
            (ir.DataType.FLOAT,),
            domain=MICROSOFT,
            bits=blocks.bits,
            block_size=size,
            gather_axis=0,
            quantize_axis=2,
        )
        return _cut(editor, node, output, count * size, shape[2])


class _Standard:
    """Writer of standard ONNX operators, for which ONNX Runtime has fast kernels with 4 bits only."""

    def __init__(self, editor: Editor) -> None:
        self.editor = editor

    def product(self, product: Any, blocks: Blocks, width: int) -> Any:
        import onnx_ir as ir

        editor, node, float32 = self.editor, product.node, ir.DataType.FLOAT
        table = product.transposed  # stored as (out, in), as lookups need it
        values, scales, zeros = self._stored(product.weight.name, blocks, width, as_rows=table)
        size = blocks.values.shape[-1]
        inputs = [values, scales, zeros]
        (weight,) = editor.before(node, "DequantizeLinear", inputs, (float32,), axis=1 if table else 0, block_size=size)
        if table:
            (weight,) = editor.before(node, "Transpose", [weight], (float32,), perm=[1, 0])
        (output,) = editor.before(node, "MatMul", [node.inputs[0], weight], (float32,))
        return output

    def _stored(
        self, name: str, blocks: Blocks, width: int, *, as_rows: bool, matrices: tuple[int, ...] = ()
    ) -> list[Any]:
        """Return integers, scales and zero points as (out, in) or (in, out), with the blocks along `in`; or, with the
        first two sizes of `matrices`, as (matrices, in, out) with the blocks along `out`."""
        import ml_dtypes

        dtype = ml_dtypes.uint4 if blocks.bits == 4 else np.uint8
        values = blocks.values.reshape(len(blocks.values), -1)[:, :width]
        zeros = np.full(blocks.scales.shape, 2 ** (blocks.bits - 1)) if blocks.zeros is None else blocks.zeros
        arrays = {"quantized": values.astype(dtype), "scales": blocks.scales, "zero_points": zeros.astype(dtype)}
        if matrices:
            arrays = {part: array.reshape(*matrices, -1) for part, array in arrays.items()}
        return [
            self.editor.constant(f"{name}_{part}", array if as_rows else np.ascontiguousarray(array.T))
            for part, array in arrays.items()
        ]

    def matrices(self, node: Any, name: str, blocks: Blocks, shape: tuple[int, ...]) -> Any:
        return self._gathered(node, blocks, self._stored(name, blocks, shape[2], as_rows=True, matrices=shape[:2]))

    def lookup(self, node: Any, name: str, blocks: Blocks, width: int) -> Any:
        return self._gathered(node, blocks, self._stored(name, blocks, width, as_rows=True))

    def _gathered(self, node: Any, blocks: Blocks, stored: list[Any]) -> Any:
        import onnx_ir as ir

        editor = self.editor
        integer = ir.DataType.UINT4 if blocks.bits == 4 else ir.DataType.UINT8
        found = [
            editor.before(node, "Gather", [part, node.inputs[1]], (dtype,), axis=0)[0]
            for part, dtype in zip(stored, (integer, ir.DataType.FLOAT, integer), strict=True)
        ]
        size = blocks.values.shape[-1]
        (output,) = editor.before(node, "DequantizeLinear", found, (ir.DataType.FLOAT,), axis=-1, block_size=size)
        return output


def _cut(editor: Editor, node: Any, rows: Any, padded: int, width: int) -> Any:
    """Remove the padding of the last block from rows."""
    import onnx_ir as ir

    if padded == width:
        return rows
    ends = [
        editor.constant(f"{word}_{n}", np.array([n], "int64")) for word, n in (("from", 0), ("to", width), ("axis", -1))
    ]
    (output,) = editor.before(node, "Slice", [rows, *ends], (ir.DataType.FLOAT,))
    return output
