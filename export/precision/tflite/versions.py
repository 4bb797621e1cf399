"""The operator versions of a quantized TFLite file.

A runtime refuses a file that has a version of an operator which it does not know. AI Edge Quantizer keeps the versions
that TensorFlow's converter wrote for the float32 file, so older runtimes would run kernels that do not know the scales
of the weights, and give wrong results without a message.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

from ....runtime.tflite.flatbuffer import RUNTIME, operators

FLOAT32, FLOAT16, INT16, INT8, INT4 = 0, 1, 7, 9, 17  # of ``schema.TensorType``
# The versions of TensorFlow's op_version.cc for a first input of int8 and of int16, as AI Edge Quantizer writes them.
INT8_INPUT = {
    2: "ADD AVERAGE_POOL_2D BATCH_MATMUL CONCATENATION GATHER LOGISTIC MAXIMUM MAX_POOL_2D MEAN MINIMUM MIRROR_PAD MUL "
    "PACK PAD PADV2 REDUCE_MAX REDUCE_MIN RELU RELU6 RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR RSQRT SLICE SOFTMAX SPLIT "
    "STRIDED_SLICE SUB TANH TRANSPOSE UNPACK",
    3: "CONV_2D DEPTHWISE_CONV_2D TILE",
    4: "FULLY_CONNECTED",
}
INT16_INPUT = {
    3: "ADD AVERAGE_POOL_2D BATCH_MATMUL CONCATENATION LOGISTIC MAX_POOL_2D MEAN PACK PAD PADV2 REDUCE_MAX REDUCE_MIN "
    "RELU RELU6 RSQRT SOFTMAX TANH",
    4: "GATHER MAXIMUM MINIMUM MUL RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR SLICE SPLIT UNPACK",
    5: "SUB TRANSPOSE",
}
BY_INPUT = {
    kind: {name: version for version, names in table.items() for name in names.split()}
    for kind, table in ((INT8, INT8_INPUT), (INT16, INT16_INPUT))
}
# TensorFlow's table has no version for int4 weights in blocks, which runtimes before LiteRT 2.1 read with the scale of
# the first block, nor for int16 activations with one scale per row of the weights, which they multiply wrongly. This
# version is the first that only LiteRT 2.1 and later know.
LITERT_2_1 = 14
# The first release of TensorFlow that knows a version, from runtime_version.cc.
RELEASES = {
    ("CONV_2D", 5): (2, 4, 0),
    ("DEPTHWISE_CONV_2D", 6): (2, 3, 0),
    ("DEQUANTIZE", 5): (2, 8, 0),
    ("DEQUANTIZE", 6): (2, 18, 0),
    ("EMBEDDING_LOOKUP", 4): (2, 18, 0),
    ("FULLY_CONNECTED", 12): (2, 17, 0),
    ("FULLY_CONNECTED", LITERT_2_1): (2, 21, 0),
}


def write_versions(model: Any) -> None:
    """Raise the operator versions of a quantized ``ModelT``, and the runtime version in its metadata, to what its types
    require."""
    codes: dict[tuple[int, int], int] = {}
    release = _release(model)
    for graph, node, operator in operators(model):
        version = _needed(operator, [graph.tensors[i] if i >= 0 else None for i in node.inputs])
        code = model.operatorCodes[node.opcodeIndex]
        release = max(release, RELEASES.get((operator, version), release))
        if version <= code.version:
            continue
        key = (int(node.opcodeIndex), version)
        if key not in codes:
            codes[key] = len(model.operatorCodes)
            model.operatorCodes.append(copy.copy(code))
            model.operatorCodes[-1].version = version
        node.opcodeIndex = codes[key]
    _drop_unused(model)
    for entry in model.metadata or []:
        if entry.name == RUNTIME:
            text = ".".join(map(str, release)).encode()
            model.buffers[entry.buffer].data = np.frombuffer(text.ljust(16, b"\0"), "uint8")


def _needed(operator: str, inputs: Sequence[Any]) -> int:
    """Return the version that an operator with these inputs requires, or 1 if quantization makes no difference."""
    if operator == "SPLIT":  # whose first input is the axis
        inputs = inputs[1:]
    first: Any = inputs[0].type if inputs and inputs[0] is not None else None
    weight = inputs[1] if len(inputs) > 1 else None
    kind, per_channel = (weight.type, _scales(weight) > 1) if weight is not None else (None, False)
    if operator == "FULLY_CONNECTED" and (kind == INT4 or (first == INT16 and kind == INT8 and per_channel)):
        return LITERT_2_1
    if operator == "EMBEDDING_LOOKUP" and (kind == INT4 or (kind == INT8 and per_channel)):
        return 4
    if operator == "DEQUANTIZE" and inputs[0] is not None:
        int8 = 5 if _scales(inputs[0]) > 1 else 2
        return {INT4: 6, INT8: int8, INT16: 3, FLOAT16: 3}.get(first, 1)
    if operator == "QUANTIZE":
        return 1
    if first == FLOAT32 and kind == INT8:
        hybrid = {"FULLY_CONNECTED": (3, 12), "CONV_2D": (2, 5), "DEPTHWISE_CONV_2D": (4, 6), "TRANSPOSE_CONV": (2, 2)}
        return hybrid.get(operator, (1, 1))[per_channel]
    return BY_INPUT.get(first, {}).get(operator, 1)


def _scales(tensor: Any) -> int:
    """Return the number of scales of a tensor."""
    quantization = tensor.quantization
    return 0 if quantization is None or quantization.scale is None else len(quantization.scale)


def _release(model: Any) -> tuple[int, ...]:
    """Return the release of TensorFlow that the converter wrote into the metadata."""
    for entry in model.metadata or []:
        if entry.name == RUNTIME:
            text = bytes(model.buffers[entry.buffer].data).rstrip(b"\0").decode()
            return tuple(int(part) for part in text.split(".") if part.isdigit())
    return ()


def _drop_unused(model: Any) -> None:
    """Remove the operator codes that no node has: a runtime refuses a file for those too."""
    nodes = [node for graph in model.subgraphs for node in graph.operators]
    used = sorted({int(node.opcodeIndex) for node in nodes})
    places = {old: new for new, old in enumerate(used)}
    model.operatorCodes = [model.operatorCodes[old] for old in used]
    for node in nodes:
        node.opcodeIndex = places[int(node.opcodeIndex)]
