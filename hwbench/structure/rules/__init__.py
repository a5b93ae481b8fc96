"""One rule for each operator through which channels can be followed; who has none locks what it reads."""

from __future__ import annotations

from collections.abc import Callable

from hwbench.structure.rules import elementwise, select, shape, statistics, weights
from hwbench.structure.trace import At

Rule = Callable[[At], None]

_POOLS = ("AveragePool", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "LpPool", "MaxPool")
_REDUCTIONS = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSum", "ReduceSumSquare",
)  # fmt: skip

RULES: dict[str, Rule] = {
    **dict.fromkeys((*elementwise.UNARY, *elementwise.LIKE_FIRST), elementwise.unary),
    **dict.fromkeys(elementwise.BROADCAST, elementwise.broadcast),
    **dict.fromkeys(_POOLS, statistics.pool),
    **dict.fromkeys(_REDUCTIONS, statistics.reduce),
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze", "Unsqueeze"), shape.reshape),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"), statistics.layer_norm),
    **dict.fromkeys(("Hardmax", "LogSoftmax", "Softmax"), statistics.softmax),
    **dict.fromkeys(("Resize", "Upsample"), select.resize),
    "ArgMax": statistics.arg,
    "ArgMin": statistics.arg,
    "BatchNormalization": statistics.batch_norm,
    "Concat": select.concat,
    "Conv": weights.conv,
    "ConvTranspose": weights.conv_transpose,
    "DepthToSpace": shape.depth_to_space,
    "Expand": select.expand,
    "Gather": weights.gather,
    "Gemm": weights.gemm,
    "GroupNormalization": statistics.group_norm,
    "InstanceNormalization": statistics.instance_norm,
    "MatMul": weights.matmul,
    "Pad": select.pad,
    "Slice": select.slice_,
    "SpaceToDepth": shape.space_to_depth,
    "Split": select.split,
    "Tile": select.tile,
    "Transpose": shape.transpose,
}
