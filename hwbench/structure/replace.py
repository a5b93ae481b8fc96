"""Residual blocks whose first layer can do the work of the whole block alone.

The block is ``act(x + layer(act(first(x))))``, both activations the same. With other weights the first layer puts out
nearly what the whole block did before its last activation, so that ``act(first(x))`` stands for the block: the second
layer and the Add go. Transformers' blocks have been replaced by linear maps that are fitted to activations, without a
training (ReplaceMe, arXiv:2505.02819); here the layer that is replaced keeps its kernel, and its activation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from hwbench.graph.linear import Array, Linear, linear_of, set_constant
from hwbench.records.base import Missing
from hwbench.structure.blocks import Block, activation_behind
from hwbench.structure.drop import Dropped, hand_over, same_activation
from hwbench.structure.reach import dead_without, readers


@dataclass(frozen=True, kw_only=True, eq=False)
class Replaceable:
    """A block, its two layers, the BatchNormalization behind the first of them, and the activation behind that."""

    block: Block
    first: Linear
    second: Linear
    norm: ir.Node | None
    activation: ir.Node

    @property
    def name(self) -> str:
        """The name of the block."""
        return self.block.name

    @property
    def target(self) -> ir.Value:
        """What the first layer is to put out: what the block adds up, before its activation."""
        return self.block.add.outputs[0]


def replaceable(block: Block) -> Replaceable | Missing:
    """Return how the first layer of a block can stand for it, or why not."""
    if not block.droppable:
        assert block.reason is not None
        return block.reason
    last = activation_behind(block.add)
    if last is None or block.passed is not block.start:
        return Missing(code="no_activation", why="its Add is not one of its input and its branch, with an activation")
    found = _branch(block, last)
    if isinstance(found, Missing):
        return found
    return _unfit(found) or found


def _branch(block: Block, last: ir.Node) -> Replaceable | Missing:
    """Return the parts of a branch of two convolutions, with the block's last activation between them."""
    nodes = list(block.nodes)
    first = _convolution(_only_reader(block.start, nodes))
    if first is None:
        return Missing(code="no_layer", why="its branch does not begin with a convolution of one group")
    norm = _norm(_only_reader(first.output, nodes))
    activation = _only_reader(first.output if norm is None else norm.outputs[0], nodes)
    if activation is None or not (same_activation(activation, last) and same_activation(last, activation)):
        return Missing(code="other_activation", why="the activation in its branch is not the one that it ends in")
    second = _convolution(_only_reader(activation.outputs[0], nodes))
    rest = None if second is None else _norm(_only_reader(second.output, nodes))
    there = {first.node, norm, activation, None if second is None else second.node, rest}
    if second is None or set(nodes) != there - {None}:
        return Missing(code="other_branch", why="its branch is not two convolutions with an activation between")
    return Replaceable(block=block, first=first, second=second, norm=norm, activation=activation)


def delta(layer: Linear) -> Array:
    """Return the weights of a convolution that puts out what it reads, as :meth:`Linear.blocks` has them."""
    found = np.zeros_like(layer.blocks())
    each = np.arange(layer.output_channels)
    found[0, each, each, found.shape[3] // 2] = 1.0
    return found


def replace_block(model: ir.Model, one: Replaceable, blocks: Array, bias: Array) -> Dropped:
    """Let the first layer of a block stand for it, in place.

    What it puts out takes the name of what the block added up, and what is made of that the name of the block's end:
    whoever looks for them finds them under the names that they have in the original.

    Args:
        model: of known shapes.
        one: the block; others may have been replaced or dropped since it was found.
        blocks: the weights of its first layer, as :meth:`Linear.blocks` has them; as many outputs as the block has now.
        bias: one number for each of them.

    Returns:
        What went.
    """
    if one.norm is not None:
        ir.convenience.replace_all_uses_with(one.norm.outputs[0], one.first.output)
    set_constant(one.first.node, 1, blocks[0].reshape(*blocks.shape[1:3], *one.first.weight.shape[2:]))
    one.first.set_bias(bias, name=f"{one.first.name}.bias_of_block")
    last = activation_behind(one.block.add)
    assert last is not None
    survivor = one.activation.outputs[0]
    one.first.output.shape = survivor.shape = one.target.shape
    behind = [] if one.norm is None else [one.norm]
    going = dead_without(list(model.graph), [*behind, one.block.add, last], survivor)
    name = one.target.name
    gone = hand_over(model, one.block.add, going, last.outputs[0], survivor)
    one.target.name = f"{name}.unused"
    one.first.output.name = name
    return gone


def _unfit(one: Replaceable) -> Missing | None:
    """Say why the layers of a block cannot put out what it does."""
    whole, made = one.target.shape, one.activation.outputs[0].shape
    if whole is None or whole != made or not (_in_place(one.first) and _in_place(one.second)):
        return Missing(
            code="other_shape", why="its layers do not put out as much as they read, each position where it was"
        )
    if not (_alone(one.first) and _alone(one.second)):
        return Missing(code="shared_weights", why="another layer reads the weights of one of its own")
    return None


def _convolution(node: ir.Node | None) -> Linear | None:
    layer = None if node is None else linear_of(node)
    if not isinstance(layer, Linear) or layer.node.op_type != "Conv" or layer.groups != 1 or layer.add is not None:
        return None
    return layer


def _norm(node: ir.Node | None) -> ir.Node | None:
    return node if node is not None and node.op_type == "BatchNormalization" and not node.domain else None


def _only_reader(value: ir.Value, inside: list[ir.Node]) -> ir.Node | None:
    """Return the node of some that reads a value, where it is the only one of them that does."""
    found = [node for node in readers(value) if node in inside]
    return found[0] if len(found) == 1 else None


def _in_place(layer: Linear) -> bool:
    """Say whether a convolution can put out what it reads: as many channels, and each position where it was."""
    window = layer.blocks().shape[3]
    shapes = [layer.input.shape, layer.output.shape]
    return None not in shapes and shapes[0] == shapes[1] and window % 2 == 1 and _centred(layer.node)


def _centred(node: ir.Node) -> bool:
    pads, strides = node.attributes.get_ints("pads", ()), node.attributes.get_ints("strides", ())
    half = len(pads) // 2
    told = node.attributes.get_string("auto_pad", "NOTSET") == "NOTSET"
    return told and tuple(pads[:half]) == tuple(pads[half:]) and set(strides) <= {1}


def _alone(layer: Linear) -> bool:
    """Say whether nobody else reads a layer's weights."""
    weight = layer.node.inputs[1]
    return weight is not None and len(weight.uses()) == 1
