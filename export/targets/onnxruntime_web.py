"""ONNX operators that ONNX Runtime Web runs on the GPU with WebGPU, with their limits."""

from __future__ import annotations

SOURCE = (
    "https://github.com/microsoft/onnxruntime, js/web/docs/webgpu-operators.md, as copied in "
    "https://github.com/vividsnow/onnxruntime at commit 53a85f4c6f7b14ee0344a2c855a6bb2c56e94bef"
)

OPERATORS = """
    Abs Acos Acosh Add ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast Ceil Clip Concat Conv
    ConvTranspose Cos Cosh CumSum DepthToSpace Div Einsum Elu Equal Erf Exp Expand Flatten Floor Gather
    GatherElements Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual HardSigmoid If InstanceNormalization
    LayerNormalization LeakyRelu Less LessOrEqual Log MatMul MaxPool Mul Neg Not Pad Pow Range Reciprocal ReduceL1
    ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu
    Reshape Resize Shape Sigmoid SimplifiedLayerNormalization Sin Sinh Slice Softmax Split Sqrt Squeeze Sub Tan Tanh
    ThresholdedRelu Tile Transpose Unsqueeze Where com.microsoft.Attention com.microsoft.BiasAdd
    com.microsoft.BiasSplitGelu com.microsoft.FastGelu com.microsoft.FusedConv com.microsoft.Gelu
    com.microsoft.GroupQueryAttention com.microsoft.MatMulNBits com.microsoft.MultiHeadAttention
    com.microsoft.RotaryEmbedding com.microsoft.SkipLayerNormalization
    com.microsoft.SkipSimplifiedLayerNormalization
"""

LIMITS: dict[str, str] = {
    "Conv": "1-D and 2-D only",
    "ConvTranspose": "1-D and 2-D only",
    "Resize": "align_corners is not supported with downsampling",
    "com.microsoft.Attention": "mask and past values are not supported",
    "com.microsoft.GroupQueryAttention": "mask and past values are not supported",
    "com.microsoft.MultiHeadAttention": "mask and past values are not supported",
}
