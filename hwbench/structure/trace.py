"""Labels on the indices of every axis: what carries the same label can only be removed together.

Each axis of each value has one label for each index: a number, or :data:`STAYS` where nothing may be removed. Rules,
one for each operator, carry labels from the inputs of a node to its outputs, make new ones where weights make new
channels, say which labels are the same thing (:meth:`Trace.unify`) and which must stay after all (:meth:`Trace.lock`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from hwbench.records.base import Missing
from hwbench.structure.known import Known, is_static, sizes

Labels = np.ndarray[Any, np.dtype[np.int64]]

STAYS = -1


@dataclass
class Use:
    """A constant as one node reads it: ``reader`` and ``index`` say where, ``axes`` which labels lie on which axis."""

    constant: ir.Value
    reader: ir.Node
    index: int
    axes: dict[int, Labels] = field(default_factory=dict)


@dataclass
class Choice:
    """A place where labels can be carried on in several ways, and the labels that the way taken concerns."""

    ways: int
    taken: int
    labels: list[Labels] = field(default_factory=list)


class Trace:
    """What the rules have said of one model. ``choices``: by node, which way to take where there are several."""

    def __init__(self, model: ir.Model, choices: Mapping[ir.Node, int]) -> None:
        self.model = model
        self.known = Known(model)
        self.axes: dict[ir.Value, list[Labels]] = {}
        self.uses: dict[tuple[ir.Node, int], Use] = {}
        self.shared: dict[tuple[ir.Value, int], Labels] = {}
        self.produced: dict[ir.Node, Labels] = {}
        self.consumed: dict[ir.Node, Labels] = {}
        self.heads: list[Labels] = []
        self.embedded: list[Labels] = []
        self.locks: list[tuple[Labels, Missing]] = []
        self.choices: dict[ir.Node, Choice] = {}
        self.count = 0
        self._wanted = choices
        self._pairs: list[tuple[Labels, Labels]] = []

    def fresh(self, count: int) -> Labels:
        """Return new labels."""
        self.count += count
        return np.arange(self.count - count, self.count)

    def unify(self, one: Labels, other: Labels, where: str) -> None:
        """Say that labels are the same thing, pair by pair. What is paired with something that stays, stays."""
        both = (one >= 0) & (other >= 0)
        if both.any():
            self._pairs.append((one[both], other[both]))
        reason = Missing(code="tied", why=f"{where} joins it with channels that must stay")
        self.lock(np.concatenate((one[other < 0], other[one < 0])), reason)

    def lock(self, labels: Labels, reason: Missing) -> None:
        """Say that these must stay, and why."""
        labels = labels[labels >= 0]
        if labels.size:
            self.locks.append((labels, reason))

    def choose(self, node: ir.Node, ways: int) -> Choice:
        """Return which of several ways to take at a node."""
        choice = Choice(ways=ways, taken=min(self._wanted.get(node, 0), ways - 1))
        self.choices[node] = choice
        return choice

    def components(self) -> Labels:
        """Return for each label the smallest label that it is the same thing as."""
        root = np.arange(self.count)
        if not self._pairs:
            return root
        one, other = (np.concatenate(side) for side in zip(*self._pairs, strict=True))
        while True:
            low = np.minimum(root[one], root[other])
            if (root[one] == low).all() and (root[other] == low).all():
                return root
            np.minimum.at(root, root[one], low)
            np.minimum.at(root, root[other], low)
            while (root[root] != root).any():
                root = root[root]


class At:
    """One node before its rule: what goes in, and what the rule says."""

    def __init__(self, trace: Trace, node: ir.Node) -> None:
        self.trace = trace
        self.node = node
        self.what = f"{node.op_type} '{node.name}'"

    def has(self, index: int) -> bool:
        """Say whether an input is there."""
        return index < len(self.node.inputs) and self.node.inputs[index] is not None

    def value(self, index: int) -> ir.Value:
        """Return an input that is there."""
        value = self.node.inputs[index]
        assert value is not None
        return value

    def computed(self, index: int) -> bool:
        """Say whether an input is there and is no constant."""
        return self.has(index) and self.value(index) not in self.trace.known

    def shape(self, index: int) -> tuple[int, ...]:
        """Return the sizes of an input."""
        return sizes(self.value(index))

    def out_shape(self, index: int = 0) -> tuple[int, ...]:
        """Return the sizes of an output."""
        return sizes(self.node.outputs[index])

    def labels(self, index: int) -> list[Labels]:
        """Return the labels of an input, by axis; those of a constant all stay."""
        return self.trace.axes.get(self.value(index)) or [stays(size) for size in self.shape(index)]

    def array(self, index: int) -> np.ndarray[Any, np.dtype[Any]] | None:
        """Return a constant input, None where it is computed or left out."""
        return self.trace.known.array(self.value(index)) if self.has(index) else None

    def integer(self, name: str, default: int) -> int:
        """Return an attribute."""
        attribute = self.node.attributes.get(name)
        return attribute.as_int() if attribute is not None else default

    def integers(self, name: str, index: int) -> list[int] | None:
        """Return what is an attribute in old opsets and an input in newer ones; None where neither is there.

        Raises:
            NotKnown: it is computed from data.
        """
        attribute = self.node.attributes.get(name)
        if attribute is not None:
            return [int(number) for number in attribute.as_ints()]
        if not self.has(index):
            return None
        array = self.array(index)
        if array is None:
            raise NotKnown(name)
        return [int(number) for number in array.reshape(-1)]

    def set(self, axes: Sequence[Labels], index: int = 0) -> None:
        """Give an output its labels."""
        value = self.node.outputs[index]
        assert [len(labels) for labels in axes] == list(sizes(value)), (self.what, value.name)
        self.trace.axes[value] = list(axes)

    def unify(self, one: Labels, other: Labels) -> None:
        """Say that labels are the same thing, because of this node."""
        self.trace.unify(one, other, self.what)

    def lock(self, labels: Labels, code: str, why: str) -> None:
        """Say that labels must stay, because of this node: ``why`` goes on after its name."""
        self.trace.lock(labels, Missing(code=code, why=f"{self.what} {why}"))

    def constant(self, index: int, axis: int, labels: Labels, *, weight: bool = False) -> None:
        """Say which labels lie on an axis of a constant input. ``weight``: all who read it must cut it alike."""
        if (labels < 0).all():
            return
        value, reader, position, axis = self._stored(index, axis)
        if self.trace.known.array(value) is None:
            self.lock(labels, "no_rule", f"reads the constant '{value.name}', which cannot be computed here")
            return
        use = self.trace.uses.setdefault((reader, position), Use(value, reader, position))
        if axis in use.axes:
            self.unify(use.axes[axis], labels)
        use.axes[axis] = labels
        if weight:
            before = self.trace.shared.setdefault((value, axis), labels)
            if before is not labels:
                self.unify(before, labels)

    def _stored(self, index: int, axis: int) -> tuple[ir.Value, ir.Node, int, int]:
        """Return the tensor that an input is a transposed form of, who reads it where, and its axis."""
        value, reader = self.value(index), self.node
        axis %= len(self.shape(index))
        producer = value.producer()
        while producer is not None and producer.op_type in {"Transpose", "Identity"}:
            source = producer.inputs[0]
            assert source is not None
            permutation = producer.attributes.get("perm")
            if permutation is not None:
                axis = permutation.as_ints()[axis]
            elif producer.op_type == "Transpose":
                axis = len(sizes(source)) - 1 - axis
            value, reader, index, producer = source, producer, 0, source.producer()
        return value, reader, index, axis


class NotKnown(Exception):
    """Sizes or indices that a rule needs are computed from data."""


def stays(count: int) -> Labels:
    """Return labels of an axis of which nothing may be removed."""
    return np.full(count, STAYS, np.int64)


def fixed(value: ir.Value) -> list[Labels]:
    """Return the labels of a value of which nothing may be removed."""
    return [stays(size) for size in sizes(value)] if is_static(value) else []
