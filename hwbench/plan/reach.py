"""Who reads the tensor that a cluster makes, and which blocks have to be dropped or replaced for that.

Where a residual block is dropped, its readers read what the block read; where one layer stands for it, what that makes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hwbench.records.planning import Cluster

FURTHEST = 4  # blocks that are dropped one behind the other: what lies further on is not followed


@dataclass(frozen=True)
class Reader:
    """A cluster, and the sites of blocks that must go so that it reads the tensor."""

    name: str
    through: frozenset[str]


def reached(maker: Cluster, clusters: Mapping[str, Cluster], depths: Mapping[str, int]) -> tuple[Reader, ...]:
    """Return who may read what ``maker`` makes.

    Args:
        maker: of the tensor.
        clusters: all, by name.
        depths: the names of depth and replace sites; what they are mapped to does not matter.
    """
    own = set(maker.blocks)
    todo = [Reader(name, frozenset()) for name in maker.readers if name in clusters]
    seen = set(todo)
    found: list[Reader] = []
    for at in todo:
        blocks = {name for name in clusters[at.name].blocks if name in depths}
        blocks = {name for name in blocks if not name.startswith("replace:") or name == maker.replace}
        gone = bool(blocks & at.through)
        if not gone:
            found.append(at)
        for through in [at.through] if gone else [at.through | {block} for block in sorted(blocks - own)]:
            behind = {Reader(name, through) for name in clusters[at.name].readers if name in clusters}
            if len(through) <= FURTHEST:
                todo += sorted(behind - seen, key=lambda each: each.name)
                seen |= behind
    return tuple(found)
