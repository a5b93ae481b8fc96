"""The output of a block's branch multiplied by a number, in the weights where that is possible."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hwbench.graph.initializers import add_initializer
from hwbench.graph.linear import Linear, constant, set_constant, uses
from hwbench.structure.blocks import Block
from hwbench.structure.links import link_of

_THROUGH = {  # f(a x) = a f(x) for a > 0
    *("Identity", "Dropout", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Expand", "Pad"),
    *("Relu", "LeakyRelu", "AveragePool", "GlobalAveragePool", "MaxPool", "GlobalMaxPool", "ReduceMean", "ReduceSum"),
}


def fold_factor(model: ir.Model, block: Block, factor: float) -> str | None:
    """Multiply what a block's branch puts out by ``factor``, which is above zero, in its last weights.

    Goes back from the Add through what a factor passes through. Where something else comes first, or a value is read
    elsewhere too, a Mul by the constant is put before the Add.

    Returns:
        The name of the layer whose constants have been scaled, or None for a Mul.
    """
    value = block.branch
    while len(uses(value)) == 1 and not value.is_graph_output():
        node = value.producer()
        if node is None:
            break
        scaled = _scale(value, node, factor)
        if scaled is not None:
            return scaled
        source = node.inputs[0] if node.inputs else None
        zeros = node.op_type != "Pad" or _pads_zeros(node)
        if node.domain or node.op_type not in _THROUGH or source is None or not zeros:
            break
        value = source
    _multiply(model, block, factor)
    return None


def _scale(value: ir.Value, node: ir.Node, factor: float) -> str | None:
    """Scale the constants that a value goes with; return whose they are, or None where there are none."""
    link = link_of(value)
    if link is not None and link.layers:
        _scale_layer(link.layers[0], factor)
        return link.layers[0].name
    if node.domain or node.op_type not in {"BatchNormalization", "LayerNormalization", "Mul"}:
        return None
    places = (0, 1) if node.op_type == "Mul" else (1, 2)
    given = [index for index in places if index < len(node.inputs) and node.inputs[index] is not None]
    constants = {index: array for index in given if (array := constant(node.inputs[index])) is not None}
    if not constants or (node.op_type != "Mul" and len(constants) < len(given)):
        return None
    for index, array in constants.items():
        set_constant(node, index, array * factor)
    return node.name


def _scale_layer(layer: Linear, factor: float) -> None:
    bias = layer.bias()
    layer.set_blocks(layer.blocks() * factor)
    if bias is not None:
        layer.set_bias(bias * factor)


def _pads_zeros(pad: ir.Node) -> bool:
    value = constant(pad.inputs[2]) if len(pad.inputs) > 2 and pad.inputs[2] is not None else np.zeros(1)
    mode = pad.attributes.get("mode")
    return (mode is None or mode.as_string() == "constant") and value is not None and not value.any()


def _multiply(model: ir.Model, block: Block, factor: float) -> None:
    branch = block.branch
    dtype = branch.dtype or ir.DataType.FLOAT
    held = add_initializer(model.graph, f"{block.name}.gate", np.array(factor).astype(dtype.numpy()))
    gated = ir.node("Mul", [branch, held], name=f"{block.name}/gate", num_outputs=1)
    gated.outputs[0].name = f"{branch.name}.gated"
    gated.outputs[0].shape, gated.outputs[0].type = branch.shape, branch.type
    model.graph.insert_before(block.add, gated)
    block.add.replace_input_with(1 - (block.shortcut or 0), gated.outputs[0])
