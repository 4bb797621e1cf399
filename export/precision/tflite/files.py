"""Conversion of a float32 TFLite file to another precision, by Google's AI Edge Quantizer.

There is one scale per row of weights (int8) or per block of a row (int4). The operators that read the weights measure
the range of their activations at every call, for each row ("dynamic"), have a range that was measured at export
("static"), or dequantize the weights ("float"). An embedding table has a scale for each row, and a lookup dequantizes
the rows that it reads, whatever the activations are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from ....runtime.metadata import DIGEST, PRECISION
from ....runtime.quiet import quiet
from ....runtime.runner import usable_cores
from ....runtime.tflite.flatbuffer import packed, set_metadata, share_buffers, unpacked
from ...digests import INTEGERS, UNSEALED
from ...errors import ExportError
from ...frontend.diagnostics import one_line
from ...frontend.inference import FileWeights
from ...options import Precision
from ...request import TFLITE_BLOCKS, ExportRequest
from ..onnx.orders import Orders
from ..rotation import RoundingError, block_of, worth_rotating
from .blocks import nearest_blocks
from .rotation import rotate
from .static import activations, every_operator, floats_outside, name_outputs, ranges
from .versions import write_versions
from .weights import LOOKUP, PRODUCT, Weight, keras_names, weights_of

DEFAULT_ROTATION = 64  # features, of a decoder in int8
LEAST_TABLE = 4096  # elements; a smaller table of positions or segments is not worth quantizing
Calls = Mapping[str, Iterable[Mapping[str, np.ndarray]]]
QUANTIZER_NAMES = {"TRANSPOSE_CONV": "CONV_2D_TRANSPOSE"}  # operators that the quantizer calls by another name


def import_packages(precision: Precision) -> None:
    """Import the packages that `precision` requires, so that a missing one is reported before the conversion.

    Raises:
        ModuleNotFoundError: AI Edge Quantizer is missing, or a package that the ONNX export of the method "gptq" needs.
    """
    needed = {"ai_edge_quantizer"} if precision.name != "fp32" else set()
    needed |= {"tf2onnx", "onnx_ir", "onnxruntime"} if by_inputs(precision) else set()
    for package in sorted(needed):
        import_module(package)


def by_inputs(precision: Precision) -> bool:
    """Return whether weights are quantized with GPTQ, for which an ONNX file of the model provides the inputs."""
    return precision.name == "int4" and precision.method == "gptq"


def rotates_by_default(precision: Precision) -> bool:
    """Return whether the inputs of a decoder are rotated where that is measured to pay."""
    return precision.name == "int8" and precision.rotation is None and precision.activations in (None, "dynamic")


def round_file(
    content: bytes,
    metadata: Mapping[str, str],
    weights: FileWeights,
    joint: Mapping[str, Sequence[str]],
    request: ExportRequest,
    orders: Orders | None = None,
    calls: Calls | None = None,
    errors: Mapping[str, RoundingError] | None = None,
) -> tuple[Any, float]:
    """Convert a float32 file to the requested precision.

    Args:
        content: the bytes of the float32 file.
        metadata: its metadata, which is kept.
        weights: the weights of the model that the file was made from.
        joint: by name of a weight in the file that is several weights of the model joined into one, the names of
            these, which have the same precision.
        request: the request, with the precision.
        orders: for the method "gptq", the GPTQ orders of the weights.
        calls: for static ranges, calibration inputs by signature.
        errors: the measured rounding errors of matrix multiplications, by the names of the weights, which decide where
            inputs are rotated; None to rotate as the precision states.

    Returns:
        The ``ModelT`` with all signatures, and the share of the weights' values that are not float32.

    Raises:
        ExportError: the quantizer failed.
    """
    precision = request.precision
    found = weights_of(original := unpacked(content))
    names: dict[int, str] = {}
    if precision.keep or precision.name == "int4":
        names = keras_names(found, {name: weights.value(name) for name in weights.variables})
        names = {key: joint.get(name.partition(";")[0], [name])[0] for key, name in names.items()}
    numbers = _numbers(found, names, precision)
    most = precision.rotation or (0 if errors is None else DEFAULT_ROTATION)
    turned = [w for w in found if most and numbers[id(w)] == "int8" and _can_rotate(w, most)]
    if errors is not None:
        products = [(joint.get(name := w.names[0].partition(";")[0], [name]), w.width * (1 + w.table)) for w in turned]
        turned = [turned[i] for i in worth_rotating(errors, products)]
    if turned:
        content = bytes(packed(rotate(original, turned, most)))
        kept = {name: numbers[id(weight)] for weight in found for name in weight.names}
        places = {name: names.get(id(weight)) for weight in found for name in weight.names}
        found = [weight for weight in weights_of(unpacked(content)) if weight.names[0] in kept]
        numbers = {id(weight): kept[weight.names[0]] for weight in found}
        names = {id(weight): name for weight in found if (name := places[weight.names[0]]) is not None}
    model = unpacked(_quantized(content, found, numbers, precision, calls))
    name_outputs(model)
    if precision.integer_only:
        floats_outside(model)
    if precision.method != "rtn":
        chosen = nearest_blocks(model, found, names, orders)
        metadata = {**metadata, INTEGERS: json.dumps(chosen)} if chosen else metadata
    share_buffers(model)
    write_versions(model)
    details: dict[str, Any] = {"name": precision.name, "least_cosine": request.accepted_cosine}
    details |= {"activations": precision.activations or "dynamic"} if precision.name == "int8" else {}
    details |= {"integer_only": True} if precision.integer_only else {}
    details |= {"rotation": most, "rotated": len(turned)} if turned else {}
    set_metadata(model, {**metadata, DIGEST: UNSEALED, PRECISION: json.dumps(details)})
    rounded = sum(weight.array.size for weight in found if numbers[id(weight)] != "fp32")
    return model, min(1.0, 4 * rounded / max(1, weights.bytes))


def _can_rotate(weight: Weight, most: int) -> bool:
    """Return whether the inputs of a weight can be rotated: a matrix that operators multiply or look rows up in."""
    kinds = {operator for operator, _ in weight.readers}
    return (
        PRODUCT in kinds and kinds <= {PRODUCT, LOOKUP} and weight.array.ndim == 2 and block_of(weight.width, most) > 0
    )


def _numbers(found: Iterable[Weight], names: Mapping[int, str], precision: Precision) -> dict[int, str]:
    """Return the precision of each weight ("fp32", "fp16", "int8" or "int4") by its ``id``, as in `names`."""

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
        blocks = weight.width % (precision.block_size or TFLITE_BLOCKS[0]) == 0
        return own if own == "int8" or (blocks and all(kind == PRODUCT for kind, _ in weight.readers)) else "int8"

    return {id(weight): numbers(weight) for weight in found}


def _quantized(
    content: bytes, found: Iterable[Weight], numbers: dict[int, str], precision: Precision, calls: Calls | None
) -> Any:
    """Return the bytes of the quantized file. `numbers` holds the precision of each weight, by its ``id``."""
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
        # The regular expression of a rule selects operators by their outputs, each followed by a semicolon.
        rule = f"^(?:{'|'.join(map(re.escape, outputs))});$"
        name = qtyping.TFLOperationName(QUANTIZER_NAMES.get(operator, operator))
        made.update_quantization_recipe(rule, name, *_rule(operator, kind, precision))
    if not readers:  # there are only small tables
        return content
    with quiet():
        try:
            met = ranges(made, content, calls, usable_cores()) if calls else None
            return made.quantize(met, enable_progress_bar=False, enable_progress_report=False).quantized_model
        except (ValueError, RuntimeError) as error:
            raise ExportError(f"AI Edge Quantizer refuses the file: {one_line(error, 300)}") from error


def _rule(operator: str, numbers: str, precision: Precision) -> tuple[Any, Any]:
    """Return the quantizer's configuration and algorithm for an operator whose weight has the precision `numbers`."""
    from ai_edge_quantizer import qtyping
    from ai_edge_quantizer.algorithm_manager import AlgorithmName

    if numbers == "fp32":
        return None, AlgorithmName.NO_QUANTIZE
    integers, floats = qtyping.ComputePrecision.INTEGER, qtyping.ComputePrecision.FLOAT
    if numbers == "fp16":
        weight = qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT)
        own = {"weight_tensor_config": weight, "compute_precision": floats, "explicit_dequantize": True}
        return qtyping.OpQuantizationConfig(**own), AlgorithmName.FLOAT_CASTING
    size = precision.block_size or TFLITE_BLOCKS[0]
    scales = f"BLOCKWISE_{size}" if numbers == "int4" else "CHANNELWISE"
    weight = qtyping.TensorQuantizationConfig(
        num_bits=int(numbers.removeprefix("int")), symmetric=True, granularity=qtyping.QuantGranularity(scales)
    )
    # An explicitly dequantized table would be dequantized as a whole at every call; a lookup does so row by row.
    dynamic = precision.activations != "float" or operator == LOOKUP
    own = {"compute_precision": integers if dynamic else floats, "explicit_dequantize": not dynamic}
    search = precision.method == "search" and numbers == "int8" and operator != "BATCH_MATMUL"
    algorithm = AlgorithmName.OCTAV if search else AlgorithmName.MIN_MAX_UNIFORM_QUANT
    if precision.static and operator != LOOKUP:
        own["activation_tensor_config"] = activations(precision)
    return qtyping.OpQuantizationConfig(weight_tensor_config=weight, **own), algorithm
