"""A TFLite file in float32 once more in another precision, by Google's AI Edge Quantizer.

One scale is for a row of weights (int8), or for a block of a row (int4). What reads them measures its activations at
every call, row by row (``dynamic``), has their ranges from export (``static``), or takes the weights as floats again
(``float``). A table has a scale for each row, and its rows become floats as they are read, whatever activations are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from ....checks import choice
from ....runtime.metadata import DIGEST, PRECISION
from ....runtime.quiet import quiet
from ....runtime.runner import usable_cores
from ....runtime.tflite.flatbuffer import set_metadata, share_buffers, unpacked
from ...digests import UNSEALED
from ...errors import ExportError
from ...frontend.diagnostics import one_line
from ...frontend.inference import FileWeights
from ..onnx.orders import Orders
from ..options import Precision
from .blocks import nearest_blocks
from .static import activations, every_operator, floats_outside, ranges
from .weights import LOOKUP, PRODUCT, Weight, keras_names, weights_of

LEAST_TABLE = 4096  # numbers; below that a table of positions or segments is not worth it
BLOCKS = (32, 64, 128, 256)
ACCEPTED: dict[str, tuple[Any, ...]] = {  # of LiteRT's kernels, less than of ``Precision``
    "activations": (None, "dynamic", "float", "static", "static16"),
    "symmetric": (None, True),
    "method": (None, "rtn", "search", "gptq"),
    "reduce_range": (True,),  # no kernel of LiteRT adds products in 16 bits
}
Calls = Mapping[str, Iterable[Mapping[str, np.ndarray]]]
QUANTIZER_NAMES = {"TRANSPOSE_CONV": "CONV_2D_TRANSPOSE"}


def check_tflite(precision: Precision) -> None:
    """Refuse what a TFLite file cannot be in.

    Raises:
        ValueError: naming what is accepted.
        ModuleNotFoundError: without AI Edge Quantizer, or what an ONNX file needs where one is made on the way.
    """
    for name, accepted in ACCEPTED.items():
        choice(f"precision.{name}", getattr(precision, name), accepted)
    blocks = (None, *BLOCKS) if precision.name == "int4" else (None,)
    choice("precision.block_size", precision.block_size, blocks)
    for name in ("head", "embedding"):
        choice(f"precision.{name}", getattr(precision, name), ("int8", "fp32"))
    needed = {"ai_edge_quantizer"} if precision.name != "fp32" else set()
    needed |= {"tf2onnx", "onnx_ir", "onnxruntime"} if by_inputs(precision) else set()
    for package in sorted(needed):
        import_module(package)  # if it is missing, before the work and not behind it


def by_inputs(precision: Precision) -> bool:
    """Are weights rounded by what the products of the model's ONNX file are given?"""
    return precision.name == "int4" and precision.method == "gptq"


def round_file(
    content: bytes,
    metadata: Mapping[str, str],
    weights: FileWeights,
    joint: Mapping[str, Sequence[str]],
    precision: Precision,
    least_cosine: float,
    orders: Orders | None = None,
    calls: Calls | None = None,
) -> tuple[Any, float]:
    """The ``ModelT`` of a file in another precision, with all its signatures, and the share of the weights' numbers
    that are not float32 then.

    Args:
        content: of the file in float32.
        metadata: its entries, which are kept.
        weights: of the model it was made of.
        joint: by the name of a weight in the file, those that are in it, which go the same way.
        least_cosine: that the file will have, for who verifies it.
        orders: of the method "gptq".
        calls: by the name of a signature what it is given, of static ranges.

    Raises:
        ExportError: the quantiser failed.
    """
    found = weights_of(unpacked(content))
    names: dict[int, str] = {}
    if precision.keep or precision.name == "int4":
        names = keras_names(found, {name: weights.value(name) for name in weights.variables})
        names = {key: joint.get(name.partition(";")[0], [name])[0] for key, name in names.items()}
    numbers = _numbers(found, names, precision)
    model = unpacked(_quantized(content, found, numbers, precision, calls))
    if precision.integer_only:
        floats_outside(model)
    if precision.method != "rtn":
        nearest_blocks(model, found, names, orders)
    share_buffers(model)
    said: dict[str, Any] = {"name": precision.name, "least_cosine": least_cosine}
    said |= {"activations": precision.activations or "dynamic"} if precision.name == "int8" else {}
    said |= {"integer_only": True} if precision.integer_only else {}
    set_metadata(model, {**metadata, DIGEST: UNSEALED, PRECISION: json.dumps(said)})
    rounded = sum(weight.array.size for weight in found if numbers[id(weight)] != "fp32")
    return model, min(1.0, 4 * rounded / max(1, weights.bytes))


def _numbers(found: Iterable[Weight], names: Mapping[int, str], precision: Precision) -> dict[int, str]:
    """By the ``id`` of a weight, as `names` are: "fp32", "fp16", "int8" or "int4"."""

    def numbers(weight: Weight) -> str:
        name = names.get(id(weight), weight.names[0])
        small = weight.array.size < LEAST_TABLE and not precision.integer_only
        if precision.kept(name) or (weight.table and not weight.head and small):
            return "fp32"
        if precision.name == "fp16":
            return "fp16" if all(operator != "BATCH_MATMUL" for operator, _ in weight.readers) else "fp32"
        if weight.head:
            return precision.head
        if weight.table:
            return precision.embedding
        own = precision.numbers_of(name)
        blocks = weight.width % (precision.block_size or BLOCKS[0]) == 0
        return own if own == "int8" or (blocks and all(kind == PRODUCT for kind, _ in weight.readers)) else "int8"

    return {id(weight): numbers(weight) for weight in found}


def _quantized(
    content: bytes, found: Iterable[Weight], numbers: dict[int, str], precision: Precision, calls: Calls | None
) -> Any:
    """The quantiser's own bytes of a file."""
    from ai_edge_quantizer import qtyping, quantizer

    readers: dict[tuple[str, str], list[str]] = {}
    for weight in found:
        for operator, output in weight.readers:
            if numbers[id(weight)] != "fp32" or precision.integer_only:
                readers.setdefault((operator, numbers[id(weight)]), []).append(output)
    made = quantizer.Quantizer(content)
    if precision.integer_only:
        every_operator(made, unpacked(content), _rule(PRODUCT, "int8", precision))
    for (operator, kind), outputs in readers.items():
        # A rule is for the operators whose outputs it names, each with a semicolon behind it.
        rule = f"^(?:{'|'.join(map(re.escape, outputs))});$"
        name = qtyping.TFLOperationName(QUANTIZER_NAMES.get(operator, operator))
        made.update_quantization_recipe(rule, name, *_rule(operator, kind, precision))
    if not readers:  # nothing but small tables
        return content
    with quiet():
        try:
            met = ranges(made, content, calls, usable_cores()) if calls else None
            return made.quantize(met, enable_progress_bar=False, enable_progress_report=False).quantized_model
        except (ValueError, RuntimeError) as error:
            raise ExportError(f"AI Edge Quantizer refuses the file: {one_line(error, 300)}") from error


def _rule(operator: str, numbers: str, precision: Precision) -> tuple[Any, Any]:
    """How an operator's weight is rounded: a configuration, and an algorithm."""
    from ai_edge_quantizer import qtyping
    from ai_edge_quantizer.algorithm_manager import AlgorithmName

    if numbers == "fp32":
        return None, AlgorithmName.NO_QUANTIZE
    integers, floats = qtyping.ComputePrecision.INTEGER, qtyping.ComputePrecision.FLOAT
    if numbers == "fp16":
        weight = qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT)
        own = {"weight_tensor_config": weight, "compute_precision": floats, "explicit_dequantize": True}
        return qtyping.OpQuantizationConfig(**own), AlgorithmName.FLOAT_CASTING
    size = precision.block_size or BLOCKS[0]
    scales = f"BLOCKWISE_{size}" if numbers == "int4" else "CHANNELWISE"
    weight = qtyping.TensorQuantizationConfig(
        num_bits=int(numbers.removeprefix("int")), symmetric=True, granularity=qtyping.QuantGranularity(scales)
    )
    # A table that became floats again would be that whole at every call: its rows are, as they are read.
    dynamic = precision.activations != "float" or operator == LOOKUP
    own = {"compute_precision": integers if dynamic else floats, "explicit_dequantize": not dynamic}
    search = precision.method == "search" and numbers == "int8" and operator != "BATCH_MATMUL"
    algorithm = AlgorithmName.OCTAV if search else AlgorithmName.MIN_MAX_UNIFORM_QUANT
    if precision.static and operator != LOOKUP:
        own["activation_tensor_config"] = activations(precision)
    return qtyping.OpQuantizationConfig(weight_tensor_config=weight, **own), algorithm
