"""Which units of A and which of B stand for the same source layers.

Units and layers form a graph with an edge from each unit to every layer it stands for. A connected component is the
smallest set of layers whose time both sides tell, so it is one row: one unit against one where both fuse alike, several
against one where they do not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hwbench.records.measurement import LayerTime


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Units that stand for ``layers`` together, and for nothing else."""

    layers: tuple[str, ...]
    a: tuple[LayerTime, ...]
    b: tuple[LayerTime, ...]


def align(a: Sequence[LayerTime], b: Sequence[LayerTime], order: Sequence[str]) -> list[Piece]:
    """Return the connected components; each unit that stands for a layer is in exactly one.

    Args:
        a: the units of A. Those that stand for no layer are left out.
        b: the units of B, likewise.
        order: the names of the layers, in the order that a piece is to list them.
    """
    root = _Union()
    for row in (*a, *b):
        for member in row.unit.members[1:]:
            root.join(row.unit.members[0], member)
    rank = {name: position for position, name in enumerate(order)}
    layers: dict[str, set[str]] = {}
    for row in (*a, *b):
        for member in row.unit.members:
            layers.setdefault(root.of(member), set()).add(member)
    sides = tuple(_by_root(rows, root) for rows in (a, b))
    return [
        Piece(
            layers=tuple(sorted(names, key=lambda name: (rank.get(name, len(rank)), name))),
            a=tuple(sides[0].get(key, ())),
            b=tuple(sides[1].get(key, ())),
        )
        for key, names in layers.items()
    ]


def inserted(rows: Iterable[LayerTime]) -> tuple[LayerTime, ...]:
    """Return the units that stand for no layer."""
    return tuple(row for row in rows if not row.unit.members)


def _by_root(rows: Iterable[LayerTime], root: _Union) -> dict[str, list[LayerTime]]:
    found: dict[str, list[LayerTime]] = {}
    for row in rows:
        if row.unit.members:
            found.setdefault(root.of(row.unit.members[0]), []).append(row)
    return found


class _Union:
    """Disjoint sets of layer names."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def of(self, name: str) -> str:
        """Return the name that stands for the set of ``name``."""
        top = name
        while (above := self._parent.get(top, top)) != top:
            top = above
        while name != top:  # what was walked over points to the top from now on
            self._parent[name], name = top, self._parent[name]
        return top

    def join(self, one: str, other: str) -> None:
        """Make one set of two."""
        self._parent[self.of(other)] = self.of(one)
