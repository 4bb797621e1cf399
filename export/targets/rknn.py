"""ONNX operators of RKNN-Toolkit2, with their limits."""

from __future__ import annotations

SOURCE = (
    "https://github.com/airockchip/rknn-toolkit2, doc/RKNNToolKit2_OP_Support-2.3.2.md at commit "
    "59a913d172e7f5ff03c9076e2ec7b1b1288ffd08"
)

OPERATORS = """
    Add And ArgMax ArgMin AveragePool BatchNormalization Cast Clip Concat Constant ConstantOfShape Conv
    ConvTranspose Cos DepthToSpace DequantizeLinear Div Dropout Elu Equal Erf Exp Expand EyeLike Flatten Floor GRU
    Gather GatherElements Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual HardSigmoid HardSwish Identity
    If InstanceNormalization LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization
    MatMul Max MaxPool MaxRoiPool MaxUnpool MeanVarianceNormalization Min Mish Mod Mul PRelu Pad Pow QuantizeLinear
    ReduceMax ReduceMean ReduceMin ReduceSum Relu Reshape Resize ReverseSequence RoiAlign ScatterND Shape Sigmoid
    Sin Size Slice Softmax Softplus SpaceToDepth Split Sqrt Squeeze Sub Tanh Tile Transpose Unsqueeze Where
"""

LIMITS: dict[str, str] = {
    "EyeLike": "only support constant input",
    "GRU": "batchsize: 1; release 2.5.0 computed NaN in the files that were tried",
    "If": "only support constant input",
    "LogSoftmax": "batchsize: 1",
    "Resize": "mode: nearest2d/bilinear",
    "RoiAlign": "pool type: average; batchsize: 1",
    "Slice": "batchsize: 1",
    "Softmax": "batchsize: 1",
    "Tile": "batchsize: 1; not support broadcast",
}
