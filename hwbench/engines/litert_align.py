"""Which node of the file each of a delegate's operators belongs to.

XNNPACK rewrites the nodes it takes: a padding goes into the convolution behind it, a 1 x 1 convolution may become a
product, an activation fused into an addition becomes a clamp of its own, quantising on the way becomes a conversion,
and what it need not do at all has no operator. It keeps the order. So operators and nodes are aligned like two
sequences (Needleman and Wunsch 1970): the alignment with the highest score, where an operator that can be what a node
asks for scores, and gaps cost. XNNPACK names an operator by kind (``Convolution (NHWC, QC8) IGEMM``); kinds are told
apart by the words before the bracket.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_MATCH, _FOLLOW_ALIKE, _FOLLOW, _OTHER, _EXTRA = 4.0, 2.0, 1.0, -6.0, -3.0
_SKIP_WORK, _SKIP_FREE = -3.0, -0.5

# What an operator of XNNPACK may carry out; the words are those before the first bracket or its data types.
_KINDS: dict[str, frozenset[str]] = {
    "convolution": frozenset({"CONV_2D", "DEPTHWISE_CONV_2D"}),
    "fully connected": frozenset({"FULLY_CONNECTED", "CONV_2D", "BATCH_MATMUL"}),
    "dynamic fully connected": frozenset({"FULLY_CONNECTED", "BATCH_MATMUL"}),
    "batch matrix multiply": frozenset({"BATCH_MATMUL", "FULLY_CONNECTED"}),
    "deconvolution": frozenset({"TRANSPOSE_CONV"}),
    "average pooling": frozenset({"AVERAGE_POOL_2D", "MEAN"}),
    "global average pooling": frozenset({"AVERAGE_POOL_2D", "MEAN"}),
    "max pooling": frozenset({"MAX_POOL_2D"}),
    "mean": frozenset({"MEAN", "AVERAGE_POOL_2D"}),
    "sum": frozenset({"SUM", "MEAN"}),
    "reduce": frozenset({"MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN"}),
    "add": frozenset({"ADD"}),
    "subtract": frozenset({"SUB"}),
    "multiply": frozenset({"MUL"}),
    "divide": frozenset({"DIV"}),
    "maximum": frozenset({"MAXIMUM"}),
    "minimum": frozenset({"MINIMUM"}),
    "squared difference": frozenset({"SQUARED_DIFFERENCE"}),
    "clamp": frozenset({"RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1"}),
    "softmax": frozenset({"SOFTMAX"}),
    "sigmoid": frozenset({"LOGISTIC"}),
    "tanh": frozenset({"TANH"}),
    "elu": frozenset({"ELU"}),
    "gelu": frozenset({"GELU"}),
    "approximate gelu": frozenset({"GELU"}),
    "approxgelu": frozenset({"GELU"}),
    "hardswish": frozenset({"HARD_SWISH"}),
    "leaky relu": frozenset({"LEAKY_RELU"}),
    "prelu": frozenset({"PRELU"}),
    "abs": frozenset({"ABS"}),
    "negate": frozenset({"NEG"}),
    "square": frozenset({"SQUARE"}),
    "square root": frozenset({"SQRT"}),
    "reciprocal square root": frozenset({"RSQRT"}),
    "exp": frozenset({"EXP"}),
    "log": frozenset({"LOG"}),
    "floor": frozenset({"FLOOR"}),
    "ceiling": frozenset({"CEIL"}),
    "bankers rounding": frozenset({"ROUND"}),
    "sine": frozenset({"SIN"}),
    "cosine": frozenset({"COS"}),
    "convert": frozenset({"QUANTIZE", "DEQUANTIZE", "CAST"}),
    "copy": frozenset({"RESHAPE", "SQUEEZE", "EXPAND_DIMS", "CONCATENATION", "SPLIT", "SLICE"}),
    "static reshape": frozenset({"RESHAPE", "SQUEEZE", "EXPAND_DIMS"}),
    "reshape": frozenset({"RESHAPE", "SQUEEZE", "EXPAND_DIMS"}),
    "transpose": frozenset({"TRANSPOSE"}),
    "constant pad": frozenset({"PAD", "PADV2"}),
    "slice": frozenset({"SLICE", "STRIDED_SLICE", "SPLIT"}),
    "concatenate": frozenset({"CONCATENATION"}),
    "resize bilinear": frozenset({"RESIZE_BILINEAR"}),
    "bilinear": frozenset({"RESIZE_BILINEAR"}),
    "depth to space": frozenset({"DEPTH_TO_SPACE"}),
    "space to depth": frozenset({"SPACE_TO_DEPTH"}),
    "broadcast": frozenset({"BROADCAST_TO"}),
}
# Nodes that XNNPACK may carry out with no operator of their own.
_FREE = {"RESHAPE", "SQUEEZE", "EXPAND_DIMS", "PAD", "PADV2", "DEQUANTIZE", "CONCATENATION", "SPLIT", "SLICE", "RELU"}
# Operators that may come on top of the one that does a node's work, behind it (True) or ahead of it (False).
_BEHIND = {"clamp": True, "convert": False, "copy": True, "static reshape": True, "transpose": False}


def kind_of(tag: str) -> str:
    """Return the words of an operator's name that tell its kind, in lower case."""
    words = re.split(r"[(\[]", tag, maxsplit=1)[0]
    return " ".join(words.lower().split())


def align(tags: Sequence[str], ops: Sequence[str]) -> list[int | None]:
    """Return for each operator the node that it belongs to, by its place in ``ops``; None where it fits none.

    Args:
        tags: names of the operators that a delegate ran for one partition, in order.
        ops: kinds of that partition's nodes, in the file's order.

    The result does not decrease.
    """
    kinds = [kind_of(tag) for tag in tags]
    came = _table(kinds, ops)
    found: list[int | None] = [None] * len(tags)
    i, j = len(tags), len(ops)
    while i or j:
        step = came[i][j]
        if step == "skip":
            j -= 1
        else:
            i -= 1
            if step != "extra":
                found[i] = j - 1 if step != "ahead" else j
            j -= step == "match"
    return found


def _table(kinds: Sequence[str], ops: Sequence[str]) -> list[list[str]]:
    """Return the last step to every cell: ``[i][j]`` holds the first ``i`` operators and the first ``j`` nodes.

    Steps: ``match`` both; ``follow``: one more operator of the node just matched; ``ahead``: an operator that prepares
    the next node; ``extra``: an operator of no node; ``skip``: a node without an operator.
    """
    best = [[0.0] * (len(ops) + 1) for _ in range(len(kinds) + 1)]
    came = [[""] * (len(ops) + 1) for _ in range(len(kinds) + 1)]
    for i in range(len(kinds) + 1):
        for j in range(len(ops) + 1):
            if i or j:
                best[i][j], came[i][j] = max(_steps(best, kinds, ops, i, j))
    return came


def _steps(
    best: Sequence[Sequence[float]], kinds: Sequence[str], ops: Sequence[str], i: int, j: int
) -> list[tuple[float, str]]:
    """Return the ways to come to a cell, each with the score it then has."""
    found: list[tuple[float, str]] = []
    if j:
        found.append((best[i][j - 1] + (_SKIP_FREE if ops[j - 1] in _FREE else _SKIP_WORK), "skip"))
    if not i:
        return found
    kind = kinds[i - 1]
    found.append((best[i - 1][j] + _EXTRA, "extra"))
    if j:
        fits = _KINDS.get(kind)
        score = 0.0 if fits is None else _MATCH if ops[j - 1] in fits else _OTHER
        found.append((best[i - 1][j - 1] + score, "match"))
        if _BEHIND.get(kind) is True:
            alike = fits is not None and ops[j - 1] in fits
            found.append((best[i - 1][j] + (_FOLLOW_ALIKE if alike else _FOLLOW), "follow"))
    if j < len(ops) and _BEHIND.get(kind) is False:
        found.append((best[i - 1][j] + _FOLLOW, "ahead"))
    return found
