"""ONNX operators of ONNX Runtime's QNN execution provider, with their limits."""

from __future__ import annotations

SOURCE = (
    "https://github.com/microsoft/onnxruntime, "
    "onnxruntime/core/providers/qnn/builder/op_builder_factory.cc at commit "
    "00cd7c6df0a66cd628a5ab7e682cb870134a27ee; limits: docs/execution-providers/QNN-ExecutionProvider.md "
    "at commit 019bde6f7220135944e05098247fddab9b00974b"
)

OPERATORS = """
    Abs Add And ArgMax ArgMin Asin Atan AveragePool BatchNormalization Cast Ceil Clip Concat Conv ConvTranspose Cos
    CumSum DepthToSpace DequantizeLinear Div Einsum Elu Equal Exp Expand Flatten Floor Gather GatherElements
    GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual GridSample HardSigmoid HardSwish
    InstanceNormalization LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization
    MatMul Max MaxPool Mean Min Mod Mul Neg Not Or PRelu Pad Pow QuantizeLinear RMSNormalization RandomUniformLike
    Reciprocal ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum Relu Reshape Resize Round STFT
    ScatterElements ScatterND Sigmoid Sign Sin Slice Softmax SpaceToDepth Split Sqrt Squeeze Sub Sum Tanh
    ThresholdedRelu Tile TopK Transpose Unsqueeze Upsample Where com.microsoft.DequantizeLinear
    com.microsoft.FusedMatMul com.microsoft.Gelu com.microsoft.Inverse com.microsoft.QuantizeLinear
"""

LIMITS: dict[str, str] = {
    "Gather": "non-negative indices only",
    "LpNormalization": "p must be 2",
}
