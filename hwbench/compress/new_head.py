"""The layer that decides a network's output, and another in its place for another number of classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from hwbench.compress.base import Array, Subject
from hwbench.compress.channel_units import last_layers
from hwbench.graph.initializers import add_initializer
from hwbench.graph.linear import Linear, set_constant
from hwbench.records.base import Missing

_PASSED = {
    "Add", "AveragePool", "Dropout", "Flatten", "GlobalAveragePool", "Identity", "LogSoftmax", "ReduceMean", "Relu",
    "Reshape", "Softmax", "Squeeze",
}  # fmt: skip


@dataclass(frozen=True)
class Head:
    """A linear layer and what lies between it and the network's output, in order."""

    layer: Linear
    behind: tuple[ir.Node, ...]

    @property
    def size(self) -> int:
        """How many outputs it has."""
        return self.layer.output_channels

    def replace(self, weight: Array, bias: Array | None) -> None:
        """Write weights [outputs, D] and biases [outputs]; the number of outputs may be another than before."""
        before, node = self.size, self.layer.node
        tail = self.layer.weight.shape[2:] if self.layer.spatial else ()
        array = weight.reshape(*weight.shape, *tail) if self.layer.output_axis == 0 else weight.T
        set_constant(node, 1, np.ascontiguousarray(array))
        if bias is not None:
            self.layer.set_bias(bias)
        for value in {*node.outputs, *(output for behind in self.behind for output in behind.outputs)}:
            if value.shape is not None:
                value.shape = ir.Shape(_resized(tuple(value.shape.numpy()), before, len(weight)))
        for reader in self.behind:
            if reader.op_type == "Reshape":
                _resize_constant(reader, before, len(weight))


def heads(subject: Subject) -> dict[str, Head | Missing]:
    """Return the layers that decide an output, by name: how they can be replaced, or why not."""
    last, linear = last_layers(subject.model), subject.layers()
    return {name: _head(layer) for name, layer in linear.items() if name in last}


def _head(layer: Linear) -> Head | Missing:
    behind: list[ir.Node] = []
    value = layer.node.outputs[0]
    while not value.is_graph_output():
        uses = value.uses()
        if len(uses) != 1:
            return Missing(code="branches", why=f"'{value.name}' goes several ways")
        node, index = next(iter(uses))
        if node.op_type not in _PASSED or (index != 0 and node is not layer.add):
            return Missing(code="no_head", why=f"there is a {node.op_type} between it and the output")
        hindrance = _fixed(node, layer)
        if hindrance is not None:
            return hindrance
        behind.append(node)
        value = node.outputs[0]
    if layer.groups > 1 or (layer.spatial and set(layer.weight.shape[2:]) != {1}):
        return Missing(code="no_head", why="it is a convolution in groups or with a kernel larger than one")
    return Head(layer, tuple(behind))


def _fixed(node: ir.Node, layer: Linear) -> Missing | None:
    if node.op_type == "Add" and node is not layer.add:
        return Missing(code="no_head", why="something is added to its output")
    if node.op_type == "Reshape":
        shape = ir.convenience.get_const_tensor(node.inputs[1]) if node.inputs[1] is not None else None
        if shape is None:
            return Missing(code="no_head", why=f"the shape that '{node.name}' gives its output is computed")
        sizes = shape.numpy().tolist()
        if layer.output_channels not in sizes[1:] and -1 not in sizes[1:] and 0 not in sizes[1:]:
            return Missing(code="no_head", why=f"'{node.name}' mixes its classes with another axis")
    return None


def _resized(shape: tuple[int, ...], before: int, after: int) -> tuple[int, ...]:
    """Return a shape with its last axis of the old size, other than the batch's, changed."""
    axes = [axis for axis in range(1, len(shape)) if shape[axis] == before]
    return tuple(after if axis == axes[-1] else size for axis, size in enumerate(shape)) if axes else shape


def _resize_constant(node: ir.Node, before: int, after: int) -> None:
    value = node.inputs[1]
    assert value is not None
    tensor = ir.convenience.get_const_tensor(value)
    assert tensor is not None
    sizes = np.array(_resized(tuple(tensor.numpy().tolist()), before, after), np.int64)
    assert isinstance(node.graph, ir.Graph)
    node.replace_input_with(1, add_initializer(node.graph, f"{value.name}.of.{node.name}", sizes))
