"""Small rewrites, exact in floating point, to what the converter and the XNNPACK delegate have kernels for."""

from __future__ import annotations

import math
from typing import Any

import onnx_ir as ir

from hwbench.engines.litert_graph import FileGraph

_NOT_NEGATIVE = frozenset({"RELU", "RELU6", "RELU_0_TO_1"})


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


def zero_padded_pools(graph: FileGraph) -> None:
    """Pad with zeros, not minus infinity, before a maximum over what is never negative: XNNPACK has that in int8."""
    activation = {op.output: graph.activation(op) for op in graph.ops}
    readers = {
        tensor: [op.kind for op in graph.ops if tensor in op.inputs] for op in graph.ops for tensor in op.outputs
    }
    for op in graph.ops:
        if op.kind != "PADV2" or not op.inputs:
            continue
        if activation.get(op.inputs[0]) in _NOT_NEGATIVE and set(readers[op.output]) == {"MAX_POOL_2D"}:
            graph.pad_with_zeros(op)
