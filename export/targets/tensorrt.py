"""ONNX operators of TensorRT 10.0, with their input dtypes and limits."""

from __future__ import annotations

SOURCE = "https://github.com/onnx/onnx-tensorrt, docs/operators.md at commit 96e781103cfc4adf4a6bb557e94bac8e693f6f4c"

OPERATORS = """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast CastLike Ceil
    Celu Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DeformConv DepthToSpace
    DequantizeLinear Div Dropout Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor GRU Gather GatherElements
    GatherND Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample
    GroupNormalization HardSigmoid HardSwish Hardmax Identity If InstanceNormalization IsInf IsNaN LRN LSTM
    LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax Loop LpNormalization LpPool MatMul Max MaxPool Mean
    MeanVarianceNormalization Min Mish Mod Mul Neg NonMaxSuppression NonZero Not OneHot Or PRelu Pad Pow
    QuantizeLinear RNN RandomNormal RandomNormalLike RandomUniform RandomUniformLike Range Reciprocal ReduceL1
    ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu
    Reshape Resize ReverseSequence RoiAlign Round Scan Scatter ScatterElements ScatterND Selu Shape Shrink Sigmoid
    Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh
    ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Upsample Where Xor
"""

LIMITS: dict[str, str] = {
    "AveragePool": "2-D or 3-D only; dilations must be 1",
    "Constant": "no sparse values and no strings",
    "DeformConv": "1-D or 2-D only; pads at both ends of an axis must be equal",
    "DequantizeLinear": "x_zero_point must be 0",
    "Dropout": "training_mode must be constant and false",
    "EyeLike": "input must have fixed dimensions",
    "GRU": "activations must be the same in both directions",
    "GridSample": "4-D input only",
    "Hardmax": "the dimension of axis must be fixed",
    "If": "outputs of the two branches must have the same rank and different names",
    "LSTM": "activations must be the same in both directions; input_forget and layout must be 0",
    "LayerNormalization": "first output only",
    "Loop": "fixed length of scan outputs; shapes of carried values must not change",
    "LpPool": "dilations must be 1",
    "MaxPool": "2-D or 3-D only; no second output; dilations must be 1",
    "QuantizeLinear": "y_zero_point must be 0",
    "RNN": "activations must be the same in both directions",
    "RandomNormal": "seed is ignored",
    "RandomNormalLike": "seed is ignored",
    "RandomUniform": "seed is ignored",
    "RandomUniformLike": "seed is ignored",
    "Resize": "modes nearest and linear only; aspect ratio policy stretch only; no antialiasing",
    "ScatterND": "no reduction",
    "TopK": "sorted must be 1; K must be below 3840",
}

HALF = ("float32", "float16")
FLOAT = (*HALF, "bfloat16")
NUMBER = (*FLOAT, "int32", "int64")
ANY = (*NUMBER, "bool")

GROUPS: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        NUMBER,
        """
        Abs Add ArgMax ArgMin DepthToSpace Div Equal Greater GreaterOrEqual IsNaN Less LessOrEqual Max Min
        Mod Mul Neg Pad Range ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin
        ReduceProd ReduceSum ReduceSumSquare Relu Scatter ScatterElements ScatterND Shrink Sign SpaceToDepth
        Sub Sum TopK
    """,
    ),
    (
        FLOAT,
        """
        Acos Acosh Asin Asinh Atan Atanh AveragePool BatchNormalization Ceil Celu Clip Conv ConvTranspose
        Cos Cosh CumSum Dropout Einsum Elu Erf Exp Floor Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool
        GroupNormalization GRU HardSigmoid HardSwish Hardmax InstanceNormalization IsInf LayerNormalization
        LeakyRelu Log LogSoftmax LRN LSTM LpNormalization LpPool MatMul MaxPool MeanVarianceNormalization
        Pow PRelu QuantizeLinear RandomNormal RandomNormalLike RandomUniform RandomUniformLike Reciprocal
        Resize RNN Round Scan Selu Sigmoid Sin Sinh Softmax Softplus Softsign Sqrt Tan Tanh ThresholdedRelu
        Upsample
    """,
    ),
    (
        ("bool",),
        """
        And Not Or Xor
    """,
    ),
    (
        ("float32", "float16", "bfloat16", "int32", "int64", "uint8", "bool"),
        """
        Cast CastLike
    """,
    ),
    (
        ANY,
        """
        Concat Constant ConstantOfShape Expand EyeLike Flatten Gather GatherElements GatherND Identity If
        Loop OneHot Reshape ReverseSequence Shape Size Slice Split Squeeze Tile Transpose Trilu Unsqueeze
        Where
    """,
    ),
    (
        HALF,
        """
        DeformConv GridSample Mish NonMaxSuppression NonZero RoiAlign
    """,
    ),
    (
        ("int8", "fp8", "int4"),
        """
        DequantizeLinear
    """,
    ),
    (
        ("float32", "float16", "bfloat16", "int8", "int32", "int64"),
        """
        Gelu
    """,
    ),
    (
        ("float32", "float16", "bfloat16", "fp8", "int32", "int64"),
        """
        Mean
    """,
    ),
)

DTYPES = {name: dtypes for dtypes, names in GROUPS for name in names.split()}
