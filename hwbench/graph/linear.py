"""Layers with constant weights, seen alike: Conv, ConvTranspose, Gemm and MatMul as one block of weights per group.

Repairs and compression scale channels, replace weights, cut and add to biases. Where a node keeps its output
channels, whether its weight is transposed, and that the bias of a MatMul is the constant of an Add behind it, is known
here alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from hwbench.graph.initializers import add_initializer

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

_KINDS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A layer that a repair has left alone, and why."""

    layer: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a repair has done: the layers whose weights or bias it changed, and those it left alone, in graph order."""

    changed: tuple[str, ...]
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True)
class Linear:
    """A node that multiplies its input 0 by constant weights; made by :func:`linear_of`.

    ``add``: the Add behind a MatMul that holds its bias, as input ``bias_index``. Biases of Conv and Gemm are input 2.
    """

    node: ir.Node
    groups: int
    add: ir.Node | None = None
    bias_index: int = 2

    @property
    def name(self) -> str:
        """The layer's name in the hub."""
        return self.node.name or ""

    @property
    def input(self) -> ir.Value:
        """What the weights are multiplied with."""
        value = self.node.inputs[0]
        assert value is not None
        return value

    @property
    def output(self) -> ir.Value:
        """The result, with the bias in it."""
        return (self.add or self.node).outputs[0]

    @property
    def spatial(self) -> bool:
        """Whether channels lie on axis 1, with space behind it; otherwise they lie on the last axis."""
        return self.node.op_type in {"Conv", "ConvTranspose"}

    @property
    def output_axis(self) -> int:
        """The axis of :attr:`weight` that counts output channels (of one group, for a ConvTranspose)."""
        return 0 if self.node.op_type == "Conv" or self._transposed else 1

    @property
    def weight(self) -> Array:
        """The weights as the node has them, in float64."""
        array = constant(self.node.inputs[1])
        assert array is not None
        return array

    def blocks(self) -> Array:
        """Return the weights as groups x outputs of a group x inputs of a group x kernel positions."""
        return self.to_blocks(self.weight)

    def to_blocks(self, weight: Array) -> Array:
        """Return an array of the weights' shape as :meth:`blocks` has it."""
        if self.node.op_type == "Conv":
            return weight.reshape(self.groups, weight.shape[0] // self.groups, weight.shape[1], -1)
        if self.node.op_type == "ConvTranspose":
            split = weight.reshape(self.groups, weight.shape[0] // self.groups, weight.shape[1], -1)
            swapped: Array = split.swapaxes(1, 2)
            return swapped
        rows: Array = weight if self._transposed else weight.T
        block: Array = rows.reshape(1, *rows.shape, 1)
        return block

    def from_blocks(self, blocks: Array) -> Array:
        """Return an array of the form that :meth:`blocks` returns as the weights lie in the node."""
        if self.node.op_type == "ConvTranspose":
            blocks = blocks.swapaxes(1, 2)
        elif self.node.op_type != "Conv":
            blocks = blocks[0, :, :, 0] if self._transposed else blocks[0, :, :, 0].T
        return np.ascontiguousarray(blocks).reshape(self._shape)

    def set_blocks(self, blocks: Array) -> None:
        """Write weights of the form that :meth:`blocks` returns."""
        set_constant(self.node, 1, self.from_blocks(blocks))

    @property
    def output_channels(self) -> int:
        """How many channels the result has."""
        return self._shape[self.output_axis] * (self.groups if self.node.op_type == "ConvTranspose" else 1)

    @property
    def input_channels(self) -> int:
        """How many channels the input has."""
        return self._shape[1 - self.output_axis] * (self.groups if self.node.op_type == "Conv" else 1)

    @property
    def takes_bias(self) -> bool:
        """Whether there is a place for a bias: not behind a MatMul without an Add of a constant."""
        return self.add is not None or self.node.op_type != "MatMul"

    def bias(self) -> Array | None:
        """Return the bias, one number for each output channel, or None where there is none."""
        holder = self.add or self.node
        if not self.takes_bias or len(holder.inputs) <= self.bias_index:
            return None
        array = constant(holder.inputs[self.bias_index])
        return None if array is None else np.broadcast_to(array.reshape(-1), (self.output_channels,)).copy()

    def set_bias(self, bias: Array, *, name: str | None = None) -> None:
        """Write a bias, one number for each output channel, also where there is none yet (as ``name``)."""
        holder = self.add or self.node
        assert self.takes_bias
        if len(holder.inputs) > self.bias_index and holder.inputs[self.bias_index] is not None:
            set_constant(holder, self.bias_index, bias)
            return
        weight = self.node.inputs[1]
        assert weight is not None
        holder.resize_inputs(3)
        holder.replace_input_with(2, add_constant(self.node, name or f"{self.name}.repaired_bias", bias, like=weight))

    @property
    def _shape(self) -> tuple[int, ...]:
        value = self.node.inputs[1]
        tensor = None if value is None else ir.convenience.get_const_tensor(value)
        assert tensor is not None
        return tuple(tensor.shape.numpy())

    @property
    def _transposed(self) -> bool:
        return self.node.op_type == "Gemm" and integer(self.node, "transB", 0) == 1


def linear_layers(model: ir.Model) -> Iterator[Linear | Skipped]:
    """Go through the layers that have weights, in graph order; one that is not as the repairs need it says why."""
    for node in model.graph:
        if not node.domain and node.op_type in _KINDS:
            found = linear_of(node)
            if found is not None:
                yield found


def linear_of(node: ir.Node) -> Linear | Skipped | None:
    """Return the layer that a node is, why it is none that can be repaired, or None where it has no weights."""
    if node.domain or node.op_type not in _KINDS:
        return None
    if constant(node.inputs[1]) is None:
        if node.op_type == "MatMul" and constant(node.inputs[0]) is None:
            return None
        return Skipped(layer=node.name or "", reason="its second input is no floating-point constant")
    reason = _unfit(node)
    if reason:
        return Skipped(layer=node.name or "", reason=reason)
    if node.op_type != "MatMul":
        return Linear(node, integer(node, "group", 1) if node.op_type != "Gemm" else 1)
    alone = Linear(node, 1)
    index = _bias_behind(node, alone.output_channels)
    return alone if index is None else Linear(node, 1, uses(node.outputs[0])[0][0], index)


def _unfit(node: ir.Node) -> str | None:
    weight = constant(node.inputs[1])
    assert weight is not None
    if weight.size == 0 or not np.isfinite(weight).all():
        return "its weights are empty or hold NaN or infinity"
    if node.op_type in {"Gemm", "MatMul"} and weight.ndim != 2:
        return f"its weights have {weight.ndim} axes, not 2"
    factors = [attribute.as_float() for name in ("alpha", "beta") if (attribute := node.attributes.get(name))]
    if node.op_type == "Gemm" and (integer(node, "transA", 0) or set(factors) - {1.0}):
        return "it transposes its input, or scales its result"
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None:
        transposed = node.op_type == "Conv" or integer(node, "transB", 0)
        channels = weight.shape[0 if transposed else 1] * (
            integer(node, "group", 1) if node.op_type == "ConvTranspose" else 1
        )
        array = constant(bias)
        if array is None or not per_channel(array, channels):
            return "its bias is not one constant for each output channel"
    return None


def _bias_behind(node: ir.Node, channels: int) -> int | None:
    """Return which input of the Add behind a MatMul is its bias, where there is such an Add and nothing between."""
    result = node.outputs[0]
    readers = uses(result)
    if result.is_graph_output() or len(readers) != 1 or readers[0][0].op_type != "Add" or readers[0][0].domain:
        return None
    add, index = readers[0]
    other = 1 - index
    array = constant(add.inputs[other])
    fits = array is not None and per_channel(array, channels) and array.ndim <= rank(result, default=array.ndim)
    return other if fits else None


def uses(value: ir.Value) -> list[tuple[ir.Node, int]]:
    """Return who reads the numbers of a tensor: nodes, and which of their inputs it is. Reading the shape is none."""
    return [(node, index) for node, index in value.uses() if node.op_type not in {"Shape", "Size"}]


def per_channel(array: Array, channels: int) -> bool:
    """Say whether an array, added or multiplied to a tensor with channels last, is one number a channel (or one)."""
    return array.size in {1, channels} and (array.ndim == 0 or array.size == array.shape[-1])


def rank(value: ir.Value, *, default: int) -> int:
    """Return how many axes a tensor has; ``default`` where that is not known."""
    return default if value.shape is None else len(value.shape)


def integer(node: ir.Node, name: str, default: int) -> int:
    """Return an integer attribute."""
    attribute = node.attributes.get(name)
    return attribute.as_int() if attribute is not None else default


def constant(value: ir.Value | None) -> Array | None:
    """Return a floating-point constant (an initialiser, or what a Constant node makes) in float64, else None."""
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    if tensor is None or not tensor.dtype.is_floating_point():
        return None
    return tensor.numpy().astype(np.float64)


def set_constant(node: ir.Node, index: int, array: Array) -> None:
    """Replace a constant input, in the precision it had and under its name; other readers of it keep the old one."""
    old = node.inputs[index]
    assert old is not None
    assert isinstance(node.graph, ir.Graph)
    if len(old.uses()) > 1 or old.is_graph_output() or node.graph.initializers.get(old.name or "") is not old:
        node.replace_input_with(index, add_constant(node, f"{old.name}.of.{node.name}", array, like=old))
        return
    assert old.const_value is not None
    new = array.astype(old.const_value.dtype.numpy())
    old.const_value = ir.tensor(new, name=old.name)
    old.shape = ir.Shape(new.shape)


def add_constant(node: ir.Node, name: str, array: Array, *, like: ir.Value) -> ir.Value:
    """Return a new initialiser in the graph of ``node``, of the element type of the constant ``like``."""
    graph, tensor = node.graph, ir.convenience.get_const_tensor(like)
    assert isinstance(graph, ir.Graph)
    assert tensor is not None
    return add_initializer(graph, name, array.astype(tensor.dtype.numpy()))
