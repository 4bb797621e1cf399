"""Operators that LiteRT's two GPU runtimes support, according to the source of google-ai-edge/LiteRT of 2026-08-21.

`ACCELERATOR` lists the operators of ``CompiledModel`` (``ml_drift_delegate/tflite/model_builder.cc``:
``NewOperationParser``, and the dtypes of ``GetOpsToReplaceWithOptions``). `DELEGATE` lists those of the older GPU
delegate, which ``Interpreter`` and MediaPipe use (``tflite/delegates/gpu/common/model_builder.cc``,
``tflite/tools/versioning/gpu_compatibility.cc``). Neither supports tensors of five dimensions. Tensors that are not
constants must have a dtype that the operator supports.
"""

from __future__ import annotations


def _names(text: str) -> set[str]:
    return set(text.split())


FLOATS = {"float32", "float16"}
QUANTIZED = {"int8", "uint8"}
INTEGERS = {"int8", "int16", "int32"}
MOST_DIMENSIONS = 4

COMPARISONS = _names("EQUAL NOT_EQUAL GREATER GREATER_EQUAL LESS LESS_EQUAL")
LOGICAL = _names("LOGICAL_AND LOGICAL_OR LOGICAL_NOT BITWISE_XOR")
SELECTIONS = {"SELECT", "SELECT_V2"}

# All of these but DENSIFY are supported by both runtimes.
DELEGATE = (
    COMPARISONS
    | SELECTIONS
    | _names(
        "ABS ADD ADD_N AVERAGE_POOL_2D BATCH_MATMUL CAST CONCATENATION CONV_2D COS CUMSUM DENSIFY "
        "DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE DIV ELU EXP FLOOR FLOOR_DIV FLOOR_MOD FULLY_CONNECTED GATHER "
        "GELU HARD_SWISH LOGISTIC LOG LOGICAL_AND LSTM MAXIMUM MAX_POOL_2D MEAN MINIMUM MIRROR_PAD MUL NEG "
        "ONE_HOT PACK PAD PADV2 POW REDUCE_MAX REDUCE_MIN REDUCE_PROD QUANTIZE RELU RELU6 RELU_0_TO_1 "
        "RELU_N1_TO_1 LEAKY_RELU PRELU RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR RSQRT SIGN SIN SLICE "
        "SOFTMAX SPACE_TO_DEPTH SPLIT SPLIT_V SQRT SQUARE SQUARED_DIFFERENCE STRIDED_SLICE SUB SUM TANH TILE "
        "TRANSPOSE TRANSPOSE_CONV UNPACK"
    )
)
ACCELERATOR = (
    (DELEGATE - {"DENSIFY"})
    | LOGICAL
    | _names(
        "ARG_MAX ATAN2 BITCAST CEIL DYNAMIC_UPDATE_SLICE EMBEDDING_LOOKUP REDUCE_ALL REDUCE_ANY REVERSE_V2 "
        "RIGHT_SHIFT ROUND STABLEHLO_BROADCAST_IN_DIM STABLEHLO_CBRT STABLEHLO_CLAMP STABLEHLO_COMPOSITE "
        "STABLEHLO_REMAINDER STABLEHLO_SHIFT_LEFT TOPK_V2"
    )
)
# Operators for which the accelerator supports integer tensors, and those for which it supports almost every dtype.
WITH_INTEGERS = _names(
    "ABS ADD ATAN2 COS DIV FLOOR_DIV FLOOR_MOD MAXIMUM MINIMUM MUL NEG REDUCE_MAX REDUCE_MIN REDUCE_PROD "
    "RIGHT_SHIFT SIGN STABLEHLO_CLAMP SIN SUB SUM STABLEHLO_REMAINDER TILE"
)
WITH_ALL = SELECTIONS | _names(
    "STABLEHLO_BROADCAST_IN_DIM BITCAST CAST CONCATENATION DYNAMIC_UPDATE_SLICE GATHER PACK PAD PADV2 RESHAPE "
    "REVERSE_V2 SLICE STRIDED_SLICE TRANSPOSE"
)


def accelerator_dtypes(operator: str) -> tuple[set[str], set[str]]:
    """Return the dtypes that the accelerator supports for inputs, except constants, and outputs of an operator.

    64-bit integers are never supported.
    """
    if operator in WITH_ALL:
        both = FLOATS | INTEGERS | {"uint8", "uint16", "uint32", "bool", "bfloat16"}
        return both, both
    if operator in LOGICAL:
        return INTEGERS | {"bool"}, INTEGERS | {"bool"}
    if operator in ("REDUCE_ANY", "REDUCE_ALL"):
        return {"bool"}, {"bool"}
    taken, given = FLOATS | QUANTIZED | {"bool"}, FLOATS | QUANTIZED
    if operator in WITH_INTEGERS:
        taken, given = taken | INTEGERS, given | INTEGERS
    if operator in COMPARISONS:
        taken, given = taken | INTEGERS, given | {"bool"}
    if operator in ("EMBEDDING_LOOKUP", "ONE_HOT"):
        taken = taken | {"int32"}
    if operator in ("ARG_MAX", "TOPK_V2"):
        given = given | {"int32"}
    return taken, given


def delegate_dtypes(operator: str) -> tuple[set[str], set[str]]:
    """Return the same for the older GPU delegate; see ``accelerator_dtypes``."""
    taken, given = FLOATS | QUANTIZED, FLOATS | QUANTIZED
    if operator in COMPARISONS:
        given = given | {"bool"}
    if operator == "CAST":
        taken, given = taken | {"bool", "int32"}, given | {"bool", "int32"}
    if operator == "LOGICAL_AND":
        taken, given = taken | {"bool"}, given | {"bool"}
    if operator in SELECTIONS:
        taken = taken | {"bool"}
    if operator in ("ONE_HOT", "GATHER"):
        taken = taken | {"int32"}
    return taken, given


def delegate_broadcasts(one: list[int], other: list[int]) -> bool:
    """Return whether ADD and MUL of the older GPU delegate support two tensors of these shapes.

    Source: ``CheckAddMulBroadcastCompatibility``.
    """
    longer, shorter = (one, other) if len(one) >= len(other) else (other, one)
    if len(shorter) <= 1 or len(longer) == len(shorter):
        return True
    if len(longer) != MOST_DIMENSIONS:
        return False
    if len(shorter) == 3:
        return longer[0] == 1
    return (longer[0] == 1 and shorter == [1, 1]) or (longer[0] == shorter[0] and longer[3] == shorter[1])
