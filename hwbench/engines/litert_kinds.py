"""What LiteRT and its XNNPACK delegate can do with each operator in each scheme.

Found by asking: each operator was quantised alone between two convolutions, and the delegate took it or left it
(LiteRT 2.3, x86-64). What the delegate leaves runs in LiteRT's own kernels, which are slower by far, and cuts the graph
in two.
"""

from __future__ import annotations

from typing import Literal

from hwbench.records.quantization import Scheme

SCHEMES = ("fp32", "fp16", "int8", "int8-dynamic", "int8-weights", "int4-weights", "auto")  # what can be built

Verdict = Literal["yes", "slow", "no"]  # slow: LiteRT has it, XNNPACK does not, so only a plan that names it gets it

_NONE_WEIGHT = "LiteRT quantises products with stored weights, and both factors of this one are computed"
_OWN_KERNEL = "XNNPACK has no kernel for it in {scheme}, and LiteRT's own is slower than floating point"

_YES: dict[Scheme, frozenset[str]] = {
    "int8": frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"}),
    "int8-dynamic": frozenset({"CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"}),
    "int8-weights": frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"}),
    "int4-weights": frozenset({"FULLY_CONNECTED"}),
}
_SLOW: dict[Scheme, frozenset[str]] = {
    "int8": frozenset({"BATCH_MATMUL"}),
    "int8-dynamic": frozenset({"DEPTHWISE_CONV_2D"}),
    "int8-weights": frozenset(),
    "int4-weights": frozenset({"CONV_2D"}),
}

WEIGHTED = frozenset().union(*_YES.values(), *_SLOW.values())

# Run in int8 between two int8 layers; the first line only moves values, and so may go before the rounding as well.
MOVES = frozenset({"PAD", "RESHAPE", "SLICE", "TRANSPOSE", "MAX_POOL_2D"})
CARRIES = MOVES | {"ADD", "SUB", "MUL", "CONCATENATION", "MEAN", "SUM", "RESIZE_BILINEAR", "LOGISTIC", "TANH"}

# The quantiser's names, where they are not LiteRT's.
TOOL_NAMES = {"TRANSPOSE_CONV": "CONV_2D_TRANSPOSE"}


def verdict(kind: str, scheme: Scheme, *, has_weight: bool) -> tuple[Verdict, str]:
    """Say whether an operator can have a scheme, and why not, or why it should not."""
    if scheme == "float":
        return "yes", ""
    if not has_weight and not (scheme == "int8" and kind == "BATCH_MATMUL"):
        return "no", _NONE_WEIGHT
    if kind in _YES[scheme]:
        return "yes", ""
    if kind in _SLOW[scheme]:
        return "slow", _OWN_KERNEL.format(scheme=scheme)
    return "no", f"LiteRT has no {kind} in {scheme}"
