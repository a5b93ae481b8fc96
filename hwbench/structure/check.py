"""A cut graph held against what was planned: operators, shapes and types."""

from __future__ import annotations

import onnx_ir as ir

from hwbench.errors import ModelError
from hwbench.graph.onnx_file import infer_shapes
from hwbench.structure.cut import CutMade
from hwbench.structure.known import is_static, sizes


def verify_cut(model: ir.Model, made: CutMade) -> None:
    """Infer all shapes and types anew, from the inputs alone, and hold them against those that the cut has set.

    Raises:
        ModelError: a shape, a type or the number of nodes is not what was planned. The model must not be used.
    """
    count = sum(1 for _ in model.graph)
    if count != made.nodes:
        raise ModelError(f"the cut graph has {count} nodes, {made.nodes} were planned")
    fresh = model.clone()
    for node in fresh.graph:
        for value in node.outputs:
            value.shape = None
    inferred = {value.name: value for node in infer_shapes(fresh).graph for value in node.outputs}
    for node in model.graph:
        for value in node.outputs:
            found = inferred.get(value.name)
            if found is None or not is_static(found) or not is_static(value):
                continue
            if sizes(found) != sizes(value) or (value.dtype is not None and found.dtype != value.dtype):
                raise ModelError(
                    f"after the cut '{value.name}' of {node.op_type} '{node.name}' is {found.dtype} {found.shape}, "
                    f"planned was {value.dtype} {value.shape}"
                )
