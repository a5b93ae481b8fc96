"""What a cut leaves of every tensor, worked out before anything is changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import onnx_ir as ir

from hwbench.errors import UsageError
from hwbench.structure.groups import Group, Member
from hwbench.structure.known import Known, sizes

Array = np.ndarray[Any, np.dtype[Any]]
Kept = dict[int, Array]  # by axis: the indices that are left, in order


class Plan:
    """By computed tensor, and by constant as a node reads it: the indices that are left of each axis that is cut."""

    def __init__(self, model: ir.Model, wanted: Iterable[tuple[Group, Array]]) -> None:
        self.model = model
        self.known = Known(model)
        left: dict[tuple[ir.Value | tuple[ir.Node, int], int], Array] = {}
        self.constants: dict[tuple[ir.Node, int], ir.Value] = {}
        for group, keep in wanted:
            removed = np.setdiff1d(np.arange(group.size), _checked(group, keep))
            for member in group.members if len(removed) else ():
                self._drop(member, removed, left)
        self.values: dict[ir.Value, Kept] = {}
        self.uses: dict[tuple[ir.Node, int], Kept] = {}
        for (place, axis), mask in left.items():
            if isinstance(place, tuple):
                self.uses.setdefault(place, {})[axis] = np.flatnonzero(mask)
            else:
                self.values.setdefault(place, {})[axis] = np.flatnonzero(mask)

    def _drop(
        self, member: Member, removed: Array, left: dict[tuple[ir.Value | tuple[ir.Node, int], int], Array]
    ) -> None:
        size = sizes(member.value)[member.axis]
        gone = member.indices[removed].reshape(-1)
        if member.indices.size and member.indices.max() >= size:
            raise UsageError(
                f"'{member.tensor}' has {size} indices on axis {member.axis}, the group is of a larger one",
                hint="find the groups again after a cut",
            )
        if member.reader is not None:
            self.constants[member.reader] = member.value
        mask = left.setdefault((member.reader or member.value, member.axis), np.ones(size, bool))
        mask[gone] = False

    def kept(self, value: ir.Value | None, axis: int) -> Array | None:
        """Return what is left of an axis of a computed tensor; None where nothing is taken away."""
        return None if value is None else self.values.get(value, {}).get(axis)

    def shape(self, value: ir.Value) -> tuple[int, ...]:
        """Return the sizes of a computed tensor after the cut."""
        return after(sizes(value), self.values.get(value, {}))

    def nodes(self) -> Iterator[ir.Node]:
        """Go through the nodes that read or make what is cut."""
        touched = set(self.values)
        for node in self.model.graph:
            if any(value in touched for value in (*node.inputs, *node.outputs) if value is not None):
                yield node


def after(shape: tuple[int, ...], kept: Kept) -> tuple[int, ...]:
    """Return sizes with those of the cut axes replaced."""
    return tuple(len(kept[axis]) if axis in kept else size for axis, size in enumerate(shape))


def sliced(array: Array, kept: Kept) -> Array:
    """Return what is left of an array."""
    for axis, indices in kept.items():
        array = np.take(array, indices, axis)
    return np.ascontiguousarray(array)


def _checked(group: Group, keep: Array) -> Array:
    units = np.unique(np.asarray(keep))
    if not units.size or units[0] < 0 or units[-1] >= group.size or not np.issubdtype(units.dtype, np.integer):
        raise UsageError(
            f"group '{group.name}' is to keep units {units.tolist()[:10]}",
            hint=f"keep at least one of the units 0 to {group.size - 1}",
        )
    return units
