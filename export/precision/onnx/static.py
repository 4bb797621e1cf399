"""ONNX with 8-bit matrix multiplications and static activation ranges (QDQ), by ONNX Runtime's own quantizer."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ....runtime.onnx.runner import OnnxGraph
from ....runtime.quiet import quiet
from ...options import Precision
from .graph import heads_of, products

OPERATORS = ("Conv", "Gemm", "MatMul")  # its "Attention" is not that of the ONNX standard


def to_static(file: Path, graph: OnnxGraph, samples: Iterable[Mapping[str, Any]], precision: Precision) -> Any:
    """Return `file` as an ``onnx_ir.Model`` with QuantizeLinear and DequantizeLinear around every operator in
    ``OPERATORS``.

    Args:
        graph: the graph of `file` in float32, which fills in the inputs that a sample leaves out.
        samples: calibration data: inputs by name, including masks.
    """
    import onnx_ir as ir
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    feeds = [graph.feeds(graph.complete(sample)) for sample in samples]

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(feeds)

        def get_next(self) -> Any:
            return next(self.left, None)

    original = ir.load(file).graph
    kept = [
        node.name
        for node in original
        if any(value is not None and value.name and precision.kept(value.name) for value in node.inputs)
    ]
    heads = heads_of(original) if precision.head == "fp32" else set()
    # The scores of attention and what they weigh: a range that was measured on some lengths does not hold for others.
    weighted = {product.node for product in products(original)}
    kept += [node.name for node in original if node.op_type == "MatMul" and node not in weighted]
    kept += [p.node.name for p in products(original) if precision.kept(p.weight.name) or p.weight.name in heads]
    with quiet(), tempfile.TemporaryDirectory(dir=file.parent) as folder:
        target = Path(folder) / file.name
        quantize_static(
            file,
            target,
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(OPERATORS),
            nodes_to_exclude=kept,
            per_channel=True,
            reduce_range=precision.reduce_range,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            use_external_data_format=file.with_name(f"{file.name}.data").is_file(),
            extra_options={"MatMulConstBOnly": True},
        )
        model = ir.load(target)
        for value in model.graph.initializers.values():  # read before their file is deleted
            stored: Any = value.const_value
            value.const_value = ir.tensor(np.array(stored.numpy()), dtype=stored.dtype, name=value.name)
    return model
