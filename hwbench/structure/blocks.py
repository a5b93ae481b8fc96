"""Residual blocks: where a value goes around a branch and is added to what comes out of it.

``residual_blocks`` finds them by following the data, so that it needs no names of modules: an Add whose one side
carries the value ``x`` on as it is, and whose other side is computed from ``x`` by something with a product in it. An
Add of two branches that start from one value (a projection or a padding in the shortcut) is found too, and says why it
cannot go. ``whole_layers`` strings blocks of one module together: attention and MLP of a transformer's layer. What
happens to the graph when a block goes is in :mod:`hwbench.structure.drop`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

import onnx_ir as ir

from hwbench.graph.linear import constant
from hwbench.records.base import Missing
from hwbench.structure.reach import Reach, dead_without, known, nodes_of, readers

PRODUCTS = {
    *("Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "Attention", "MultiHeadAttention", "GroupQueryAttention"),
    *("LSTM", "GRU", "RNN", "MatMulInteger", "ConvInteger", "QLinearConv", "QLinearMatMul"),
}
_NORMS = {"LayerNormalization", "RMSNormalization", "BatchNormalization", "GroupNormalization", *("Cast", "Identity")}
_PASSING = {"Identity", "Dropout"}  # at inference


@dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """One Add and the branch that it adds. It stays valid while other blocks are dropped.

    ``name``: the module path that its layers with weights have in common, with the Add's name behind it where several
    blocks share one. ``nodes``: the branch, in graph order, without the Add. ``start``: what the branch is computed
    from. ``end``: the sum, or what a Relu or Clip makes of it that alone reads it. ``reason``: why the block cannot be
    dropped, or None.
    """

    name: str
    add: ir.Node
    shortcut: int | None  # which input of the Add goes on without the branch; None: both sides compute
    nodes: tuple[ir.Node, ...]
    start: ir.Value
    reason: Missing | None

    @property
    def droppable(self) -> bool:
        """Whether the network stays whole without the branch."""
        return self.reason is None

    @property
    def end(self) -> ir.Value:
        """The value that the block ends in."""
        follower = activation_behind(self.add)
        return self.add.outputs[0] if follower is None else follower.outputs[0]

    @property
    def passed(self) -> ir.Value:
        """What goes on when the branch is dropped: ``start``, or ``start`` with other branches added to it."""
        value = self.add.inputs[self.shortcut or 0]
        assert value is not None
        return value

    @property
    def branch(self) -> ir.Value:
        """What comes out of the branch."""
        value = self.add.inputs[1 - (self.shortcut or 0)]
        assert value is not None
        return value


def residual_blocks(model: ir.Model) -> list[Block]:
    """Return the residual blocks of a model of known shapes, in the order of their Adds."""
    reach = Reach(model.graph)
    found = [block for node in reach.nodes if node.op_type == "Add" and (block := _block(node, reach)) is not None]
    bases = [_common_path(block.nodes) for block in found]
    shared = Counter(bases)
    return [
        replace(block, name=base if base and shared[base] == 1 else _with_add(base, block.add))
        for block, base in zip(found, bases, strict=True)
    ]


def whole_layers(blocks: Sequence[Block]) -> dict[str, tuple[Block, ...]]:
    """Return the blocks strung together that belong to one numbered module (``layers.0``); others stand alone.

    Blocks belong together that follow each other and whose common module path ends in a number, where their names do
    not go on with numbers of their own (``stages.0.1`` and ``stages.0.2`` are two layers).
    """
    groups: list[list[Block]] = []
    for block in blocks:
        if groups and _same_layer(groups[-1], block):
            groups[-1].append(block)
        else:
            groups.append([block])
    return {(_path_of_all(group) if len(group) > 1 else group[0].name): tuple(group) for group in groups}


def activation_behind(add: ir.Node) -> ir.Node | None:
    """Return the Relu or Clip that is the only one to read a sum, or None."""
    result = add.outputs[0]
    behind = readers(result)
    if len(behind) != 1 or result.is_graph_output() or behind[0].domain or behind[0].op_type not in {"Relu", "Clip"}:
        return None
    return behind[0] if behind[0].inputs[0] is result else None


def _block(add: ir.Node, reach: Reach) -> Block | None:
    left, right = add.inputs
    if add.domain or left is None or right is None or left is right or not (reach.computed(left, right)):
        return None
    for shortcut, (passed, branch) in enumerate(((left, right), (right, left))):
        for start in _carried(passed, reach):
            inside = reach.between(start, branch) & ~reach.before(passed)
            if start is not branch and _has_product(reach.named(inside)):
                return _identity_block(add, shortcut, start, reach.named(inside), reach)
    return _two_branches(add, reach)


def _carried(value: ir.Value, reach: Reach) -> Iterator[ir.Value]:
    """Go through the values that are in ``value`` as they are: itself, and summands of sums of the same shape."""
    todo = [value]
    for each in todo:
        yield each
        producer = each.producer()
        if producer is None or producer.domain:
            continue
        if producer.op_type in _PASSING:
            todo += [source for source in producer.inputs[:1] if source is not None]
        elif producer.op_type == "Add":
            parts = [part for part in producer.inputs if part is not None and reach.computed(part)]
            todo += [part for part in parts if len(parts) == 2 and part.shape == each.shape and part not in todo]


def _identity_block(
    add: ir.Node, shortcut: int, start: ir.Value, inside: tuple[ir.Node, ...], reach: Reach
) -> Block | None:
    """Return the block of a branch that is added to ``start``, unless that is a mask, or is spread by the Add."""
    block = Block(name="", add=add, shortcut=shortcut, nodes=inside, start=start, reason=None)
    result = add.outputs[0]
    behind = readers(result)
    if behind and all(reader.op_type == "Softmax" for reader in behind):
        return None  # scores of attention, and a mask that an earlier layer has read too
    if not known(block.passed, result):
        return replace(block, reason=Missing(code="unknown_shape", why="the shapes at its ends are not known"))
    if block.passed.shape != result.shape:
        return None
    going = set(dead_without(reach.nodes, [add], block.passed))
    kept = [node for node in inside if node not in going]
    reason = _output_inside(inside)
    if reason is None and (_has_product(kept) or len(kept) == len(inside)):
        reason = _used_outside(kept, {*inside, add} | going)
    return replace(block, nodes=tuple(node for node in inside if reason or node in going), reason=reason)


def _two_branches(add: ir.Node, reach: Reach) -> Block | None:
    left, right = add.inputs
    assert left is not None
    assert right is not None
    start = reach.last_common(left, right)
    if start is None:
        return None
    sides = [reach.named(reach.between(start, side)) for side in (left, right)]
    inside = reach.named(reach.between(start, left) | reach.between(start, right))
    if not _has_product(inside):
        return None
    result = add.outputs[0]
    shorter = min(sides, key=len)
    why = f"neither side of the Add is the value it starts from: its shortcut has {_operators(shorter)} on it"
    if known(start, result) and start.shape != result.shape:
        why += f", and it takes {_text(start)} and gives {_text(result)}"
    reason = Missing(code="no_identity", why=why)
    return Block(name="", add=add, shortcut=None, nodes=inside, start=start, reason=reason)


def _output_inside(inside: Sequence[ir.Node]) -> Missing | None:
    for value in (output for node in inside for output in node.outputs if output.is_graph_output()):
        return Missing(code="graph_output_inside", why=f"the network puts out '{value.name}', which is computed in it")
    return None


def _used_outside(kept: Sequence[ir.Node], inside: set[ir.Node]) -> Missing:
    for value in (output for node in reversed(kept) for output in node.outputs):
        for reader in readers(value):
            if reader not in inside:
                return Missing(code="used_outside", why=f"'{value.name}' of its branch is also read by '{reader.name}'")
    raise AssertionError("a node that does not serve the branch alone serves another")


def _has_product(nodes: Sequence[ir.Node]) -> bool:
    return any(inner.op_type in PRODUCTS for node in nodes for inner in nodes_of(node))


def _operators(nodes: Sequence[ir.Node]) -> str:
    return ", ".join(dict.fromkeys(node.op_type for node in nodes))


def _text(value: ir.Value) -> str:
    return "x".join(str(size) for size in value.shape or ())


def _common_path(nodes: Sequence[ir.Node]) -> str:
    """Return the module path that layers with weights have in common, or all nodes where there are none."""
    weighted = [node for node in nodes if node.op_type in PRODUCTS and any(_is_weight(value) for value in node.inputs)]
    return _common([node.name or "" for node in weighted or nodes])


def _is_weight(value: ir.Value | None) -> bool:
    return constant(value) is not None


def _common(names: Sequence[str]) -> str:
    """Return what paths have in common, in whole parts between dots and slashes."""
    parts = zip(*(re.split(r"([./])", name) for name in names))  # noqa: B905 - up to the shortest
    return "".join(same[0] for same in takewhile(lambda same: len(set(same)) == 1, parts)).rstrip("./")


def _with_add(base: str, add: ir.Node) -> str:
    name = add.name or add.outputs[0].name or "Add"
    return name if not base or name.startswith(base) else f"{base}/{name.rpartition('/')[2]}"


def _same_layer(group: Sequence[Block], block: Block) -> bool:
    if not _follows(block.start, group[-1]):
        return False
    path = _path_of_all([*group, block])
    last = path.replace("/", ".").rpartition(".")[2]
    nexts = [each.name[len(path) :].lstrip("./").replace("/", ".").partition(".")[0] for each in (*group, block)]
    return last.isdigit() and not any(part.isdigit() for part in nexts)


def _follows(value: ir.Value, block: Block) -> bool:
    """Say whether a value is what a block ends in, or a norm of it."""
    if value in {block.end, block.add.outputs[0]}:
        return True
    producer = value.producer()
    source = None if producer is None or producer.op_type not in _NORMS else producer.inputs[0]
    return source is not None and _follows(source, block)


def _path_of_all(blocks: Sequence[Block]) -> str:
    return _common([block.name for block in blocks])
