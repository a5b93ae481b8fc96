"""What follows a layer in the graph, channel by channel: its BatchNorm and its activation."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from hwbench.graph.linear import Linear, constant, uses

# fmt: off
ACTIVATIONS = frozenset({
    "Relu", "LeakyRelu", "PRelu", "ThresholdedRelu", "Clip", "Elu", "Celu", "Selu", "Sigmoid", "HardSigmoid",
    "HardSwish", "Swish", "Mish", "Gelu", "Softplus", "Softsign", "Tanh", "Erf",
})
# fmt: on
_GATES = {"Sigmoid", "HardSigmoid"}  # x * gate(x)
_ZEROING = {"Relu", "ThresholdedRelu", "HardSigmoid", "HardSwish"}


@dataclass(frozen=True)
class Behind:
    """The tensors behind a layer that hold its output channels alone, none of them read by anyone else in between.

    ``normed``: with the bias in it and, where a BatchNorm follows, behind that; before any activation. ``activated``:
    behind the activation, or the same where none follows. ``axis`` counts the channels. ``zeroing``: whether the
    activation puts out exact zeros over a range of its input.
    """

    normed: ir.Value
    activated: ir.Value
    axis: int
    norm: ir.Node | None
    activation: ir.Node | None
    zeroing: bool


def behind(layer: Linear) -> Behind:
    """Find the BatchNorm and the activation behind a layer. An addition of two branches ends the walk."""
    axis = 1 if layer.spatial else -1
    value, norm = layer.output, None
    reader = _only_reader(value)
    if reader is not None and reader.op_type == "BatchNormalization" and reader.inputs[0] is value:
        rank = None if value.shape is None else len(value.shape)
        if layer.spatial or rank == 2:  # it takes axis 1 for the channels
            norm, value = reader, reader.outputs[0]
    activation = _activation(value)
    activated = value if activation is None else activation.outputs[0]
    return Behind(value, activated, axis, norm, activation, activation is not None and _zeroing(activation, value))


def _activation(value: ir.Value) -> ir.Node | None:
    """Return the node that puts out the activation of a tensor; of x * sigmoid(x) the product."""
    readers = [node for node, _ in uses(value)]
    if value.is_graph_output() or any(node.domain for node in readers):
        return None
    if len(readers) == 1 and readers[0].op_type in ACTIVATIONS and readers[0].inputs[0] is value:
        return readers[0]
    gates = [node for node in readers if node.op_type in _GATES]
    products = [node for node in readers if node.op_type == "Mul"]
    if len(readers) == 2 and len(gates) == len(products) == 1 and products[0] is _only_reader(gates[0].outputs[0]):
        return products[0]
    return None


def _zeroing(activation: ir.Node, value: ir.Value) -> bool:
    if activation.op_type == "Mul":
        return any(reader.op_type == "HardSigmoid" for reader, _ in uses(value))
    if activation.op_type == "Clip":
        low = constant(activation.inputs[1]) if len(activation.inputs) > 1 else None
        return low is not None and low.size == 1 and float(low.reshape(-1)[0]) == 0
    return activation.op_type in _ZEROING


def _only_reader(value: ir.Value) -> ir.Node | None:
    readers = uses(value)
    if value.is_graph_output() or len(readers) != 1 or readers[0][0].domain:
        return None
    return readers[0][0]
