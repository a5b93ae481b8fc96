"""Where a design takes numbers from one scheme to another, and how many."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hwbench.plan.designs import passed_on, sizes_of
from hwbench.records.planning import Cluster, Design, Sizes, Space
from hwbench.records.quantization import Scheme

FLOAT: Scheme = "float"


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """A tensor whose maker and readers compute in different schemes; None stands for the network's own ends."""

    maker: str | None
    readers: tuple[str | None, ...]
    scheme_from: Scheme
    scheme_to: Scheme
    elements: int

    @property
    def kind(self) -> str:
        """What it is booked under: ``float>int8``."""
        return f"{self.scheme_from}>{self.scheme_to}"


def crossings(space: Space, design: Design) -> tuple[Crossing, ...]:
    """Return the borders of a design. A tensor counts once for each scheme that it is read in, however many read it.

    What the network takes and gives is in float. Readers of a block that is dropped read what the block read;
    those of one that a layer stands for, what that makes.
    """
    there = {each.name: sizes for each in space.clusters if (sizes := sizes_of(each, space, design)) is not None}
    clusters = {each.name: each for each in space.clusters}
    read: set[str] = set()
    found: list[Crossing] = []
    for name, sizes in there.items():
        maker = clusters[name]
        readers = dict.fromkeys(_readers(maker, clusters, there, design))
        read.update(readers)
        found += _from(maker, sizes, list(readers), design)
    entries = [name for name in there if name not in read and design.of(name) != FLOAT]
    found += [
        Crossing(
            maker=None, readers=(name,), scheme_from=FLOAT, scheme_to=design.of(name), elements=there[name].elements_in
        )
        for name in entries
    ]
    return tuple(found)


def _from(maker: Cluster, sizes: Sizes, readers: list[str], design: Design) -> Iterator[Crossing]:
    own = design.of(maker.name)
    if not readers:
        if own != FLOAT:
            yield Crossing(
                maker=maker.name, readers=(None,), scheme_from=own, scheme_to=FLOAT, elements=sizes.elements_out
            )
        return
    share = sizes.channels_out / maker.channels_out
    elements = round(max(maker.readers.values()) * share)
    for scheme in dict.fromkeys(design.of(name) for name in readers):
        if scheme != own:
            mine = tuple(name for name in readers if design.of(name) == scheme)
            yield Crossing(maker=maker.name, readers=mine, scheme_from=own, scheme_to=scheme, elements=elements)


def _readers(maker: Cluster, clusters: dict[str, Cluster], there: dict[str, Sizes], design: Design) -> Iterator[str]:
    """Yield the clusters that read what ``maker`` makes, through those that are not there."""
    todo, seen = list(maker.readers), set[str]()
    for name in todo:
        if name in seen:
            continue
        seen.add(name)
        if name in there:
            yield name
        elif name in clusters and passed_on(clusters[name], maker, design):
            todo += list(clusters[name].readers)
