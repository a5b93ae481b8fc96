"""Constants added to a graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir


def add_initializer(graph: ir.Graph, name: str, array: np.ndarray[Any, np.dtype[Any]]) -> ir.Value:
    """Return a new initialiser, named so or, where the graph has a value of that name, otherwise."""
    taken = {value.name for node in graph for value in node.outputs}
    taken |= {*graph.initializers, *(value.name for value in graph.inputs)}
    while name in taken:
        name += "_again"
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, const_value=tensor, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype))
    graph.initializers[name] = value
    return value
