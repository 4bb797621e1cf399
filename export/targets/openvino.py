"""ONNX operators of OpenVINO's ONNX frontend, as of 2025."""

from __future__ import annotations

SOURCE = (
    "https://github.com/openvinotoolkit/openvino, src/frontends/onnx/docs/supported_ops.md at commit "
    "b2cfecf892aeb3359ffa9e5df80bb98bb883a2f9"
)

OPERATORS = """
    Abs Acos Acosh Add AffineGrid And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization BitShift
    BitwiseAnd BitwiseNot BitwiseOr BitwiseXor BlackmanWindow Cast CastLike Ceil Celu Clip Compress Concat Constant
    ConstantOfShape Conv ConvInteger ConvTranspose Cos Cosh CumSum DFT DepthToSpace DequantizeLinear Div Dropout
    DynamicQuantizeLinear Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor GRU Gather GatherElements GatherND
    Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization
    HammingWindow HannWindow HardSigmoid HardSwish Hardmax Identity If InstanceNormalization IsInf IsNaN LRN LSTM
    LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax Loop LpNormalization MatMul MatMulInteger Max
    MaxPool MaxRoiPool Mean MeanVarianceNormalization Min Mish Mod Mul Multinomial Neg NegativeLogLikelihoodLoss
    NonMaxSuppression NonZero Not OneHot Or PRelu Pad Pow QLinearConv QLinearMatMul QuantizeLinear RNN RandomNormal
    RandomNormalLike RandomUniform RandomUniformLike Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp
    ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize ReverseSequence RoiAlign
    Round STFT Scan Scatter ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign SimplifiedLayerNormalization
    Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu
    Tile TopK Transpose Trilu Unique Unsqueeze Upsample Where Xor com.microsoft.Attention com.microsoft.BiasAdd
    com.microsoft.BiasGelu com.microsoft.DequantizeLinear com.microsoft.DynamicQuantizeMatMul
    com.microsoft.EmbedLayerNormalization com.microsoft.FastGelu com.microsoft.FusedConv com.microsoft.FusedGemm
    com.microsoft.FusedMatMul com.microsoft.GatherND com.microsoft.Gelu com.microsoft.GroupQueryAttention
    com.microsoft.MatMulIntegerToFloat com.microsoft.MatMulNBits com.microsoft.Pad com.microsoft.QLinearAdd
    com.microsoft.QLinearAveragePool com.microsoft.QLinearConcat com.microsoft.QLinearLeakyRelu
    com.microsoft.QLinearMul com.microsoft.QLinearReduceMean com.microsoft.QLinearSigmoid
    com.microsoft.QLinearSoftmax com.microsoft.QLinearWhere com.microsoft.QuantizeLinear com.microsoft.QuickGelu
    com.microsoft.Range com.microsoft.RotaryEmbedding com.microsoft.SimplifiedLayerNormalization
    com.microsoft.SkipLayerNormalization com.microsoft.SkipSimplifiedLayerNormalization com.microsoft.Trilu
"""

LIMITS: dict[str, str] = {}
