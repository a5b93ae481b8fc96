"""Nodes put one behind the other in front of a node of a graph, and a convolution's patches written by such nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from hwbench.graph.initializers import add_initializer
from hwbench.sparse.lowering import Convolution


class Chain:
    """Nodes one behind the other, put in front of a node of the graph; ``value`` is what the last one makes."""

    def __init__(self, graph: ir.Graph, before: ir.Node, start: ir.Value, name: str) -> None:
        self.graph, self.before, self.value, self.name = graph, before, start, name

    def add(self, op: str, shape: Sequence[int], dtype: ir.DataType, *more: ir.Value, **attributes: Any) -> ir.Node:
        """Append a node that reads the last value; ``name`` and ``domain`` among the attributes are the node's."""
        name, domain = attributes.pop("name", f"{self.name}/{op.lower()}_{len(shape)}d"), attributes.pop("domain", "")
        node = ir.node(op, [self.value, *more], attributes=attributes, domain=domain, name=name)
        self.value = node.outputs[0]
        self.value.name, self.value.shape, self.value.type = f"{name}.out", ir.Shape(shape), ir.TensorType(dtype)
        self.graph.insert_before(self.before, node)
        return node

    def reshape(self, shape: Sequence[int], dtype: ir.DataType) -> None:
        """Append a Reshape, unless the last value has that shape."""
        if self.value.shape is not None and tuple(self.value.shape.numpy()) == tuple(shape):
            return
        self.add("Reshape", shape, dtype, self.integers(f"{self.value.name}.shape", shape))

    def integers(self, name: str, values: Sequence[int]) -> ir.Value:
        """Return an initialiser of int64."""
        return add_initializer(self.graph, name, np.array(values, np.int64))


def add_patches(chain: Chain, what: Convolution, shape: Sequence[int], dtype: ir.DataType) -> None:
    """Append what makes rows [N OH OW, C kh kw], kernel positions fastest, of the image [N, C, H, W] in the chain.

    The order is that of :mod:`hwbench.sparse.lowering`: one Slice a kernel position, put together and transposed.
    """
    batch, channels, height, width = shape
    top, left, bottom, right = what.pads
    if any(what.pads):
        padded = (batch, channels, height + top + bottom, width + left + right)
        pads = chain.integers(f"{chain.name}/pads", (0, 0, top, left, 0, 0, bottom, right))
        chain.add("Pad", padded, dtype, pads, name=f"{chain.name}/pad")
    rows, columns = what.output(height, width)
    positions = what.kernel[0] * what.kernel[1]
    image, parts = chain.value, []
    axes, steps = chain.integers(f"{chain.name}/axes", (2, 3)), chain.integers(f"{chain.name}/steps", what.strides)
    for down, across in np.ndindex(*what.kernel):
        name, first = f"{chain.name}/patch_{down}_{across}", (down * what.dilations[0], across * what.dilations[1])
        last = (first[0] + (rows - 1) * what.strides[0] + 1, first[1] + (columns - 1) * what.strides[1] + 1)
        chain.value = image
        starts, ends = chain.integers(f"{name}.starts", first), chain.integers(f"{name}.ends", last)
        chain.add("Slice", (batch, channels, rows, columns), dtype, starts, ends, axes, steps, name=name)
        parts.append(chain.value)
    chain.value = parts[0]
    if positions > 1:
        together = (batch, positions * channels, rows, columns)
        chain.add("Concat", together, dtype, *parts[1:], axis=1, name=f"{chain.name}/patches")
    chain.reshape((batch, positions, channels, rows, columns), dtype)
    swapped = (batch, rows, columns, channels, positions)
    chain.add("Transpose", swapped, dtype, perm=[0, 3, 4, 2, 1], name=f"{chain.name}/patches_last")
