"""Take a residual block's branch out of a graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from hwbench.errors import UsageError
from hwbench.graph.linear import constant
from hwbench.structure.blocks import Block, activation_behind
from hwbench.structure.reach import dead_without, remove_nodes


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """What went with a block: nodes and initialisers by name, with their lengths along axis 0 (1 for a number)."""

    nodes: tuple[str, ...]
    initializers: dict[str, int]
    parameters: int
    renamed: tuple[str, str] | None  # a tensor that lived on under another name, and that name


def going_with(model: ir.Model, block: Block) -> tuple[ir.Node, ...]:
    """Return the nodes that dropping a block takes out: the Add, what only it read, and an activation twice in a row.

    A Relu or Clip behind the Add goes where the value that is passed on has just been through the same: doing it
    twice changes nothing.
    """
    follower = activation_behind(block.add)
    gone = [block.add]
    if follower is not None and same_activation(follower, block.passed.producer()):
        gone.append(follower)
    return dead_without(list(model.graph), gone, block.passed)


def drop_block(model: ir.Model, block: Block) -> Dropped:
    """Take the branch of a block out, in place: what the Add gave is from now on what the shortcut brings.

    The value that goes on takes the name of the one that it replaces, so that whoever reads it finds it under the name
    that it has in the original; an input of the network, and a value that is put out already, keep their names.
    Nodes and initialisers that nobody reads any more go. Inputs of the network stay, also unread ones.

    Raises:
        UsageError: the block cannot be dropped, or is not in the graph any more.
    """
    if block.reason is not None or block.shortcut is None:
        raise UsageError(f"block '{block.name}' cannot be dropped: {block.reason}")
    if block.add.graph is not model.graph:
        raise UsageError(f"block '{block.name}' is not in the graph any more: it went with another")
    survivor, going = block.passed, going_with(model, block)
    result = block.end if activation_behind(block.add) in going else block.add.outputs[0]
    return hand_over(model, block.add, going, result, survivor)


def hand_over(model: ir.Model, add: ir.Node, going: Sequence[ir.Node], result: ir.Value, survivor: ir.Value) -> Dropped:
    """Let ``survivor`` be read in place of ``result``, and take out the nodes that go with the Add of a block."""
    renamed = _replace(model, result, survivor, add)
    gone = remove_nodes(model, going)
    shapes = {name: value.const_value.shape.numpy() for name, value in gone.items() if value.const_value is not None}
    counted = sum(int(np.prod(shape)) for name, shape in shapes.items() if constant(gone[name]) is not None)
    return Dropped(
        nodes=tuple(node.name or "" for node in going),
        initializers={name: shape[0] if shape else 1 for name, shape in shapes.items()},
        parameters=counted,
        renamed=renamed,
    )


def _replace(model: ir.Model, result: ir.Value, survivor: ir.Value, add: ir.Node) -> tuple[str, str] | None:
    """Let the survivor be read in place of the result, under the result's name where it can take it."""
    name, old = result.name or "", survivor.name or ""
    bound = survivor.is_graph_output() or survivor.is_graph_input()
    if result.is_graph_output() and bound:
        copy = ir.node("Identity", [survivor], name=f"{add.name}.passed", num_outputs=1)
        copy.outputs[0].shape, copy.outputs[0].type = result.shape, result.type
        model.graph.insert_before(add, copy)
        survivor, old, bound = copy.outputs[0], "", False
    ir.convenience.replace_all_uses_with(result, survivor, replace_graph_outputs=True)
    if bound:
        return None
    result.name = f"{name}.unused"
    survivor.name = name
    return (old, name) if old else None


def same_activation(node: ir.Node, before: ir.Node | None) -> bool:
    """Say whether ``node`` does nothing to what comes out of ``before``."""
    if before is None or before.domain:
        return False
    if node.op_type == "Relu":
        return before.op_type == "Relu" or (before.op_type == "Clip" and _limits(before)[0] >= 0)
    return before.op_type == "Clip" and _limits(node) == _limits(before) and not np.isnan(_limits(node)).any()


def _limits(clip: ir.Node) -> tuple[float, float]:
    """Return the limits of a Clip; NaN for one that is computed."""
    found = []
    for index, name, default in ((1, "min", -np.inf), (2, "max", np.inf)):
        value = clip.inputs[index] if len(clip.inputs) > index else None
        array = constant(value)
        found.append(
            clip.attributes.get_float(name, float(default))
            if value is None
            else np.nan
            if array is None
            else float(array.item())
        )
    return found[0], found[1]
