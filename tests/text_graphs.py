"""Small graphs in ONNX's text form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir

from hwbench.graph.onnx_file import infer_shapes


def text_graph(
    body: str,
    constants: Mapping[str, np.ndarray] | None = None,
    *,
    x: Sequence[int],
    outputs: Sequence[str] = ("y",),
    opset: int = 17,
) -> ir.Model:
    """Make a model with a float input ``x`` of a body such as ``y = Relu(x)``; nodes are called n0, n1, ..."""
    given = ",".join(str(size) for size in x)
    results = ", ".join(f"float[m_{name}] {name}" for name in outputs)
    head = f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[{given}] x) => ({results})'
    proto = onnx.parser.parse_model(f"{head} {{ {body} }}")
    for index, node in enumerate(proto.graph.node):
        node.name = f"n{index}"
    for name, array in (constants or {}).items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    model = ir.from_proto(proto)
    for value in model.graph.outputs:
        value.shape = None
    return infer_shapes(model)


def operators(model: ir.Model) -> list[str]:
    """Return the operators of a graph in order."""
    return [node.op_type for node in model.graph]
