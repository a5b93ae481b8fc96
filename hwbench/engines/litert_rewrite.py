"""Small rewrites, exact in floating point, to what the converter and the XNNPACK delegate have kernels for."""

from __future__ import annotations

import math
from typing import Any

import onnx_ir as ir

from hwbench.engines.litert_graph import FileGraph

_NOT_NEGATIVE = frozenset({"RELU", "RELU6", "RELU_0_TO_1"})
_PLACED = frozenset(["MEAN", "PAD", "PADV2", "REDUCE_MAX", "RESHAPE", "SLICE", "STRIDED_SLICE", "SUM", "TRANSPOSE"])
_PASS_ON = frozenset({"CONCATENATION", "MAX_POOL_2D"})


def fuse_gelu(model: ir.Model) -> None:
    """Write x/2 (1 + erf(x/sqrt 2)), which the torch exporter spells out, as one Gelu again, in place.

    The converter knows Gelu; of Erf it makes some thirty operators.
    """
    from onnxscript.rewriter import pattern, rewrite

    def outside(op: Any, x: Any) -> Any:
        return op.Mul(op.Mul(x, op.Add(op.Erf(op.Div(x, math.sqrt(2))), 1.0)), 0.5)

    def inside(op: Any, x: Any) -> Any:
        return op.Mul(x, op.Mul(op.Add(op.Erf(op.Div(x, math.sqrt(2))), 1.0), 0.5))

    def first(op: Any, x: Any) -> Any:
        return op.Mul(op.Mul(x, 0.5), op.Add(op.Erf(op.Div(x, math.sqrt(2))), 1.0))

    def gelu(op: Any, x: Any) -> Any:
        return op.Gelu(x)

    rules = [rule for form in (outside, inside, first) for rule in pattern.RewriteRule(form, gelu).commute()]
    rewrite(model, pattern_rewrite_rules=pattern.RewriteRuleSet(rules))
    for node in model.graph:
        if not node.name and node.outputs:
            node.name = f"{node.outputs[0].name}.fused"


def narrow_places(graph: FileGraph) -> None:
    """Store in 32 bits where to pad, cut and reduce: XNNPACK leaves operators that have it in 64."""
    readers: dict[int, set[str]] = {}
    for op in graph.ops:
        for tensor in op.constants:
            readers.setdefault(tensor, set()).add(op.kind)
    for tensor, kinds in readers.items():
        if graph.is_wide(tensor) and kinds <= _PLACED:
            graph.narrow(tensor)


def zero_padded_pools(graph: FileGraph) -> None:
    """Pad with zeros, not minus infinity, before a maximum over what is never negative: XNNPACK can do that."""
    writers = {op.output: op for op in graph.ops}
    readers = {tensor: {op.kind for op in graph.ops if tensor in op.inputs} for tensor in writers}

    def never_negative(tensor: int) -> bool:
        op = writers.get(tensor)
        if op is None:
            return False
        passes_on = op.kind in _PASS_ON and not op.constants and bool(op.inputs)
        return graph.activation(op) in _NOT_NEGATIVE or (passes_on and all(map(never_negative, op.inputs)))

    for op in graph.ops:
        if op.kind == "PADV2" and readers[op.output] == {"MAX_POOL_2D"} and never_negative(op.inputs[0]):
            graph.pad_with_zeros(op)
