"""Channels taken out: weights sliced, and every size that stands in the graph rewritten."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from hwbench.graph.initializers import add_initializer
from hwbench.structure.edits import Rewrite, rewrites
from hwbench.structure.groups import Group
from hwbench.structure.known import Known
from hwbench.structure.plan import Kept, Plan, sliced

Array = np.ndarray[Any, np.dtype[Any]]


# By reader: what a constant that is computed from shapes must be, and how it is written where it is not.
_Expected = dict[tuple[ir.Node, int], tuple[Array, Array]]


@dataclass(frozen=True, kw_only=True)
class CutMade:
    """What a cut has left.

    ``kept``: by tensor and axis, the indices that are left, counted as before the cut; tensors that are whole are not
    in it. ``copies``: by name of a new initialiser, the shared constant that it is a part of. ``nodes``: how many
    nodes the graph must have now.
    """

    kept: dict[tuple[str, int], Array]
    copies: dict[str, str]
    nodes: int


def cut(model: ir.Model, group: Group, keep: Array) -> CutMade:
    """Keep only some units of one group, in place; groups found before are void afterwards.

    Raises:
        UsageError: ``keep`` is empty or has units that are not there, or the group is of another model.
    """
    return cut_groups(model, [(group, keep)])


def cut_groups(model: ir.Model, wanted: Iterable[tuple[Group, Array]]) -> CutMade:
    """Keep only some units of several groups at once; see :func:`cut`."""
    plan = Plan(model, wanted)
    before = sum(1 for _ in model.graph)
    todo, expected = rewrites(plan), _derived(plan)
    shapes = {value: plan.shape(value) for value in plan.values}
    writer = _Writer(plan)
    writer.slice_constants()
    for rewrite in todo:
        writer.rewrite(rewrite, expected)
    for value, shape in shapes.items():
        value.shape = ir.Shape(shape)
        writer.note(value.name or "", plan.values[value])
    writer.pin(expected)
    orphans = writer.drop_orphans()
    return CutMade(kept=writer.kept, copies=writer.copies, nodes=before - orphans)


def _derived(plan: Plan) -> _Expected:
    """Return the constants that nodes read and that follow from shapes, as they are before the cut."""
    found: _Expected = {}
    for value in plan.known.hanging(set()):
        for node, index in value.uses():
            if not all(output in plan.known for output in node.outputs):
                array = plan.known.array(value)
                if array is not None:
                    found[node, index] = (array, array)
    return found


class _Writer:
    """Writes into the graph, and into the books what it has written."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.graph = plan.model.graph
        self.kept: dict[tuple[str, int], Array] = {}
        self.copies: dict[str, str] = {}
        self._fixed: set[tuple[ir.Node, int]] = set()
        self._loose: list[ir.Value] = []
        self._changed: set[ir.Value] = set()

    def note(self, tensor: str, kept: Kept) -> None:
        """Enter what is left of a tensor."""
        for axis, indices in kept.items():
            self.kept[tensor, axis] = indices

    def slice_constants(self) -> None:
        """Slice the constants. One that is cut alike wherever it is read stays one; else each reader gets its own."""
        by_constant: dict[ir.Value, list[tuple[ir.Node, int]]] = {}
        for place, value in self.plan.constants.items():
            by_constant.setdefault(value, []).append(place)
        for value, places in by_constant.items():
            array = self.plan.known.array(value)
            assert array is not None
            first = self.plan.uses[places[0]]
            alone = len(places) == len(value.uses()) and not value.is_graph_output()
            alike = all(_same(self.plan.uses[place], first) for place in places)
            if alone and alike and _holds(value):
                _overwrite(value, sliced(array, first))
                self._changed.add(value)
                self.note(value.name or "", first)
                self._fixed.update(places)
                continue
            for node, index in places:
                kept = self.plan.uses[node, index]
                self.note(self._own(node, index, sliced(array, kept)), kept)

    def rewrite(self, rewrite: Rewrite, expected: _Expected) -> None:
        """Write sizes and attributes into a node; inputs that are computed from shapes may come out right alone."""
        node = rewrite.at.node
        for index, array in rewrite.inputs.items():
            if (node, index) in expected:
                expected[node, index] = (array, rewrite.open_inputs.get(index, array))
            else:
                self.put(node, index, array)
        for name, value in rewrite.attributes.items():
            if value is None:
                node.attributes.pop(name)
            else:
                attribute = ir.AttrInt64(name, value) if isinstance(value, int) else ir.AttrInt64s(name, value)
                node.attributes[name] = attribute

    def put(self, node: ir.Node, index: int, array: Array) -> None:
        """Write a constant input of a node; what else reads the old one keeps it."""
        old = node.inputs[index] if index < len(node.inputs) else None
        if old is not None and len(old.uses()) == 1 and not old.is_graph_output() and _holds(old):
            _overwrite(old, array)
            self._fixed.add((node, index))
        else:
            self._own(node, index, array)

    def pin(self, expected: _Expected) -> None:
        """Write out what would follow from shapes and be another number now.

        The shapes of what still follows, from shapes or from constants that were sliced, are set.
        """
        known = Known(self.plan.model)
        for (node, index), (wanted, written) in expected.items():
            if (node, index) in self._fixed:
                continue
            now = known.array(node.inputs[index])
            if now is None or not np.array_equal(now, wanted, equal_nan=now.dtype.kind == "f"):
                self._own(node, index, written)
        for value in known.hanging(self._changed):
            if (array := known.array(value)) is not None:
                value.shape = ir.Shape(array.shape)

    def drop_orphans(self) -> int:
        """Remove the nodes that made nothing but constants which nobody reads any more; return how many."""
        count = 0
        while self._loose:
            value = self._loose.pop()
            node = value.producer()
            if value.uses() or value.is_graph_output():
                continue
            if node is None:
                self.graph.initializers.pop(value.name or "", None)
            elif node.graph is not None and not any(out.uses() or out.is_graph_output() for out in node.outputs):
                self._loose += [source for source in node.inputs if source is not None and source in self.plan.known]
                self.graph.remove(node, safe=True)
                count += 1
        return count

    def _own(self, node: ir.Node, index: int, array: Array) -> str:
        """Give a node a constant of its own, and return its name."""
        if index >= len(node.inputs):
            node.resize_inputs(index + 1)
        old = node.inputs[index]
        stem = old.name if old is not None else f"input_{index}"
        value = add_initializer(self.graph, f"{stem}.of.{node.name}", array)
        name = value.name or ""
        node.replace_input_with(index, value)
        if old is not None:
            self.copies[name] = old.name or ""
            self._loose.append(old)
        self._fixed.add((node, index))
        return name


def _holds(value: ir.Value) -> bool:
    """Say whether a value is itself a constant that can be overwritten."""
    producer = value.producer()
    if producer is None:
        return value.is_initializer() and not value.is_graph_input()
    return producer.op_type == "Constant"


def _overwrite(value: ir.Value, array: Array) -> None:
    tensor = ir.tensor(array, name=value.name)
    producer = value.producer()
    if producer is not None:
        producer.attributes.clear()
        producer.attributes["value"] = ir.AttrTensor("value", tensor)
    if producer is None or value.const_value is not None:
        value.const_value = tensor
    value.shape = ir.Shape(array.shape)


def _same(one: Kept, other: Kept) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[axis], other[axis]) for axis in one)
