"""Groups of coupled channels: what can be taken out of a network, one unit at a time, and what cannot and why.

Every index of every axis gets a label (:mod:`hwbench.structure.trace`), and rules of the operators say which labels
are the same thing (:mod:`hwbench.structure.rules`). Indices of the same thing are one *unit*: a channel with all that
is added to it, a head with its queries, keys and values, a hidden unit of an MLP. Units that lie in the same tensors
are one *group*. The same idea for torch's autograd graphs: Fang et al. 2023, DepGraph, arXiv:2301.12900.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from hwbench.records.base import Missing
from hwbench.structure.follow import follow
from hwbench.structure.trace import Labels, Trace

Array = np.ndarray[Any, np.dtype[np.int64]]
Kind = Literal["channels", "heads", "columns"]


@dataclass(frozen=True, kw_only=True)
class Member:
    """An axis of a tensor in which the units of a group lie; ``indices`` [units, indices of a unit].

    ``reader``: for a constant, the node and which of its inputs it is; None for a computed tensor. A constant that
    several nodes read is a member for each of them.
    """

    value: ir.Value
    axis: int
    indices: Array
    reader: tuple[ir.Node, int] | None

    @property
    def tensor(self) -> str:
        """The tensor's name."""
        return self.value.name or ""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Units of which each can be removed alone, as long as one is left.

    ``channels``: output channels of convolutions or linear layers, a residual stream with all who add to it.
    ``heads``: heads of attention; a head of keys and values goes with its heads of queries. ``columns``: hidden units
    between linear layers that nothing else is added to.

    ``producers``: by layer, the output channels of each unit [units, channels of a unit]; ``consumers``: by layer, the
    input channels. A depthwise convolution is both.
    """

    name: str
    kind: Kind
    size: int
    members: tuple[Member, ...]
    producers: dict[str, Array]
    consumers: dict[str, Array]


@dataclass(frozen=True, kw_only=True)
class Groups:
    """The groups of a model, in graph order, and by layer (whose channels are in no group) why it must stay whole."""

    groups: list[Group]
    locked: dict[str, Missing]


def channel_groups(model: ir.Model) -> Groups:
    """Return what can be cut out of a model with fixed shapes, and what cannot."""
    best = _Answer(follow(model, {}))
    answer, choices = best, dict[ir.Node, int]()
    while blamed := answer.blamed():
        choices |= blamed
        answer = _Answer(follow(model, choices))
        if answer.removable > best.removable:
            best = answer
    return Groups(groups=best.groups, locked=best.locked())


@dataclass(frozen=True, eq=False)
class _Site:
    """An axis with labels: of a computed tensor, or of a constant as one node reads it."""

    value: ir.Value
    axis: int
    labels: Labels
    reader: tuple[ir.Node, int] | None


class _Answer:
    """What one trace amounts to."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.unit = trace.components()
        self.locked_units = np.zeros(trace.count, bool)
        for labels, _ in trace.locks:
            self.locked_units[self.unit[labels]] = True
        self.sites = list(_sites(trace))
        self.groups = self._groups()
        self.free = {unit for group in self.groups for unit in self._units[group.name]}

    @property
    def removable(self) -> int:
        return sum(group.size - 1 for group in self.groups)

    def blamed(self) -> dict[ir.Node, int]:
        """Return the next way at each place where the way taken has led to nothing that could be cut."""
        found = {}
        for node, choice in self.trace.choices.items():
            nothing = all(not self.free & set(self.unit[labels[labels >= 0]].tolist()) for labels in choice.labels)
            if nothing and choice.taken + 1 < choice.ways:
                found[node] = choice.taken + 1
        return found

    def locked(self) -> dict[str, Missing]:
        """Return the layers none of whose channels are in a group, with the first reason in graph order."""
        reasons: dict[int, Missing] = {}
        for labels, reason in self.trace.locks:
            for unit in set(self.unit[labels].tolist()):
                reasons.setdefault(unit, reason)
        single = Missing(code="one_unit", why="all of its channels go together, or it has one alone: one has to stay")
        found = {}
        for node, labels in self.trace.produced.items():
            units = self.unit[labels[labels >= 0]].tolist()
            if not self.free.intersection(units):
                found[node.name or ""] = next((reasons[unit] for unit in units if unit in reasons), single)
        return found

    def _groups(self) -> list[Group]:
        self._units: dict[str, list[int]] = {}
        places: dict[int, list[tuple[int, int]]] = {}
        for index, site in enumerate(self.sites):
            for unit, count in self._counted(site.labels):
                places.setdefault(unit, []).append((index, count))
        produced = {unit for labels in self.trace.produced.values() for unit, _ in self._counted(labels)}
        alike: dict[tuple[tuple[int, int], ...], list[int]] = {}
        for unit, where in places.items():
            if unit in produced:
                alike.setdefault(tuple(where), []).append(unit)
        return [
            self._group(units, [self.sites[index] for index, _ in where])
            for where, units in alike.items()
            if len(units) > 1
        ]

    def _counted(self, labels: Labels) -> list[tuple[int, int]]:
        units = self.unit[labels[labels >= 0]]
        found, counts = np.unique(units[~self.locked_units[units]], return_counts=True)
        return list(zip(found.tolist(), counts.tolist(), strict=True))

    def _group(self, units: Sequence[int], sites: Sequence[_Site]) -> Group:
        makers = {node: labels for node, labels in self.trace.produced.items() if self._has(labels, units[0])}
        first = next(iter(makers.values()))
        wanted = set(units)
        units = [unit for unit in dict.fromkeys(self._of(first).tolist()) if unit in wanted]
        name = self._name(next(iter(makers)))
        self._units[name] = units
        readers = {node: labels for node, labels in self.trace.consumed.items() if self._has(labels, units[0])}
        return Group(
            name=name,
            kind=self._kind(makers, readers, units[0]),
            size=len(units),
            members=tuple(
                Member(value=site.value, axis=site.axis, indices=self._indices(site.labels, units), reader=site.reader)
                for site in sites
            ),
            producers={node.name or "": self._indices(labels, units) for node, labels in makers.items()},
            consumers={node.name or "": self._indices(labels, units) for node, labels in readers.items()},
        )

    def _kind(self, makers: dict[ir.Node, Labels], readers: dict[ir.Node, Labels], unit: int) -> Kind:
        if any(self._has(labels, unit) for labels in self.trace.heads):
            return "heads"
        linear = all(node.op_type in {"Gemm", "MatMul"} for node in makers)
        stream = makers.keys() & readers.keys() or any(self._has(labels, unit) for labels in self.trace.embedded)
        return "columns" if linear and not stream else "channels"

    def _name(self, node: ir.Node) -> str:
        name, count = node.name or "", 1
        while name in self._units:
            count += 1
            name = f"{node.name}#{count}"
        return name

    def _has(self, labels: Labels, unit: int) -> bool:
        return bool((self._of(labels) == unit).any())

    def _of(self, labels: Labels) -> Labels:
        """Return the units of labels, -1 where there is none."""
        return np.where(labels >= 0, self.unit[labels], -1) if self.trace.count else labels

    def _indices(self, labels: Labels, units: Sequence[int]) -> Array:
        """Return for each unit where it lies, in order."""
        rank = np.full(self.trace.count + 1, -1)  # the last place is for labels that stay
        rank[np.array(units)] = np.arange(len(units))
        ranks = rank[self._of(labels)]
        order = np.argsort(ranks, kind="stable")
        return order[np.count_nonzero(ranks < 0) :].reshape(len(units), -1)


def _sites(trace: Trace) -> list[_Site]:
    found = [
        _Site(value, axis, labels, None)
        for value, axes in trace.axes.items()
        for axis, labels in enumerate(axes)
        if (labels >= 0).any()
    ]
    for use in trace.uses.values():
        found += [
            _Site(use.constant, axis, labels, (use.reader, use.index))
            for axis, labels in use.axes.items()
            if (labels >= 0).any()
        ]
    return found
