"""ONNX operators of ONNX Runtime's CoreML execution provider for ML Programs, with their limits."""

from __future__ import annotations

SOURCE = (
    "https://github.com/microsoft/onnxruntime, "
    "tools/ci_build/github/apple/coreml_supported_mlprogram_ops.md at commit "
    "04f568d869ec533a48f29f67f9842ddf694d7ab1"
)

OPERATORS = """
    Add ArgMax AveragePool Cast Ceil Clip Concat Conv ConvTranspose Cos DepthToSpace Div Elu Erf Exp GatherND Gelu
    Gemm GlobalAveragePool GlobalMaxPool GridSample GroupNormalization HardSigmoid Identity InstanceNormalization
    LayerNormalization LeakyRelu MatMul Max MaxPool Mul PRelu Pow Range Reciprocal ReduceMax ReduceMean ReduceSum
    Relu Reshape Resize Round Shape Sigmoid Sin Slice Softmax Softplus Split Sqrt Squeeze Sub Tanh Tile Transpose
    Unsqueeze com.microsoft.FusedConv com.microsoft.QuickGelu
"""

LIMITS: dict[str, str] = {
    "AveragePool": "2-D only",
    "Conv": "1-D and 2-D only",
    "ConvTranspose": ("padding SAME_UPPER and SAME_LOWER, output_shape and output_padding are not supported"),
    "DepthToSpace": "mode CRD needs a fixed shape",
    "GatherND": "batch_dims must be 0",
    "GlobalAveragePool": "2-D only",
    "GlobalMaxPool": "2-D only",
    "GridSample": "4-D input only",
    "MaxPool": "2-D only",
    "Pow": "both inputs must be float32",
    "Range": "int32, float16 and float32 only",
    "Tile": "5 dimensions at most",
}
