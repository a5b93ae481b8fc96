"""What kind of work an ONNX operator does, where that decides how it is counted; :mod:`hwbench.graph.count` reads this.

To teach hwbench a new operator that does no linear algebra, add its name to the line it belongs to.
"""

from __future__ import annotations

Op = tuple[str, str]  # domain, op type; ONNX's own domain is ""
Kind = str

_ONNX: dict[Kind, str] = {
    # Only the shape changes: no byte has to move. Dropout passes its input on at inference.
    "view": "Dropout Flatten Identity Reshape Squeeze Unsqueeze",
    # Reads what is known about a tensor, and none of its elements.
    "metadata": "ConstantOfShape OptionalHasElement SequenceLength Shape Size",
    # Reads as many elements of its first input as it writes, wherever they lie.
    "selection": "Compress Gather GatherElements GatherND Slice",
    "movement": """CenterCropPad Concat DepthToSpace EyeLike Expand OneHot Pad Range ReverseSequence Scatter
        ScatterElements ScatterND SpaceToDepth Split TensorScatter Tile Transpose Trilu""",
    "pointwise": """Abs Acos Acosh Add And Asin Asinh Atan Atanh BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr
        BitwiseXor Cast CastLike Ceil Celu Clip Cos Cosh Div Elu Equal Erf Exp Floor Gelu Greater
        GreaterOrEqual HardSigmoid HardSwish IsInf IsNaN LeakyRelu Less LessOrEqual Log Max Mean Min Mish
        Mod Mul Neg Not Or PRelu Pow Reciprocal Relu RotaryEmbedding Round Selu Shrink Sigmoid Sign Sin Sinh
        Softplus Softsign Sqrt Sub Sum SwiGLU Swish Tan Tanh ThresholdedRelu Where Xor""",
    "quantisation": "DequantizeLinear DynamicQuantizeLinear QuantizeLinear",
    "reduction": """ArgMax ArgMin CumProd CumSum Hardmax LogSoftmax ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp
        ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Softmax""",
    "normalisation": """BatchNormalization GroupNormalization InstanceNormalization LRN LayerNormalization
        LpNormalization MeanVarianceNormalization RMSNormalization SimplifiedLayerNormalization""",
    "pooling": """AveragePool GlobalAveragePool GlobalLpPool GlobalMaxPool LpPool MaxPool MaxRoiPool MaxUnpool
        RoiAlign""",
    "resampling": "AffineGrid GridSample Resize Upsample",
    "sorting": "NonMaxSuppression NonZero TopK Unique",
    "random": "Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike",
}

_MICROSOFT: dict[Kind, str] = {
    "pointwise": """BiasAdd BiasGelu FastGelu Gelu QLinearAdd QLinearLeakyRelu QLinearMul QLinearSigmoid QuickGelu
        RotaryEmbedding""",
    "movement": "QLinearConcat",
    "quantisation": "DequantizeLinear QuantizeLinear",
    "reduction": "QLinearReduceMean QLinearSoftmax",
    "normalisation": "SkipLayerNormalization SkipSimplifiedLayerNormalization",
    "pooling": "NhwcMaxPool QLinearAveragePool QLinearGlobalAveragePool",
}

CONTROL_FLOW = frozenset({("", "If"), ("", "Loop"), ("", "Scan"), ("", "SequenceMap")})


def _by_op(domain: str, kinds: dict[Kind, str]) -> dict[Op, Kind]:
    return {(domain, op): kind for kind, names in kinds.items() for op in names.split()}


NO_MACS: dict[Op, Kind] = {**_by_op("", _ONNX), **_by_op("com.microsoft", _MICROSOFT)}
"""Operators that count no multiply-adds, and what they do instead."""
