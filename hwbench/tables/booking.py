"""Times of executed units, booked on clusters and on borders.

A unit goes to the cluster of the first source layer that it stands for, in graph order; what the runtime has inserted
(conversions, reorders), to the borders. What stands for layers of no cluster is left out: it is the same in every
design, and so part of what the whole takes beyond its clusters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hwbench.measure.layers import reconcile
from hwbench.plan.designs import sizes_of
from hwbench.records.base import Missing
from hwbench.records.measurement import BuiltLayer, LayerRun, LayerTime
from hwbench.records.planning import BorderTime, ClusterTime, Design, Space
from hwbench.records.quantization import Lowered, Scheme
from hwbench.tables.borders import crossings
from hwbench.tables.variant import Variant

_BY_UNIT: frozenset[Scheme] = frozenset({"float", "int8"})  # what the precision of a unit tells apart


@dataclass(frozen=True, kw_only=True)
class Booked:
    """Times of the quiet inferences of a profile: as a whole, by cluster, and of what was inserted."""

    clusters: tuple[ClusterTime, ...]
    border: BorderTime
    profiled_s: float
    units: int


def booked(
    space: Space, design: Design, made: Variant, lowered: Lowered, run: LayerRun, median_s: float
) -> Booked | Missing:
    """Return what each cluster took and what borders took, of a network that takes ``median_s`` from end to end.

    Times are the profiler's own, and not scaled to ``median_s``: a profiler's overhead is one for each unit and no
    share of its time. A cluster that no unit stands for took nothing: it ran inside another's.
    """
    table = reconcile(run, made.model.layers, median_s)
    if isinstance(table, Missing):
        return table
    owner = owners(space, made.pieces)
    place = {layer.name: at for at, layer in enumerate(made.model.layers)}
    times: dict[str, float] = {}
    counts: Counter[str] = Counter()
    inserted = 0.0
    for row in table.rows:
        first = _first(row, owner, place)
        if first is not None:
            times[first] = times.get(first, 0.0) + row.measured_s
            counts[first] += 1
        elif not row.unit.members:
            inserted += row.measured_s
    units = [row.unit for row in table.rows]
    clusters = []
    for cluster in space.clusters:
        sizes = sizes_of(cluster, space, design)
        if sizes is None:
            continue
        unit = _unit_of(made.pieces.get(cluster.name, (cluster.name,))[0], units)
        clusters.append(
            ClusterTime(
                cluster=cluster.name,
                kind=cluster.kind,
                scheme=built_scheme(cluster.name, design.of(cluster.name), made.pieces, lowered, unit),
                sizes=sizes,
                time_s=times.get(cluster.name, 0.0),
                kernel=None if unit is None or isinstance(unit.kernel, Missing) else unit.kernel,
                units=counts[cluster.name],
            )
        )
    elements: Counter[str] = Counter()
    for crossing in crossings(space, design):
        elements[crossing.kind] += crossing.elements
    measured, scaled = (sum(getattr(row, name) for row in table.rows) for name in ("measured_s", "scaled_s"))
    return Booked(
        clusters=tuple(clusters),
        border=BorderTime(elements=dict(elements), time_s=inserted, units=sum(not unit.members for unit in units)),
        profiled_s=median_s * measured / scaled,
        units=len(table.rows),
    )


def owners(space: Space, pieces: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return the cluster of each layer, those of factorised layers too."""
    found = {layer: cluster.name for cluster in space.clusters for layer in cluster.layers}
    found |= {piece: found[layer] for layer, chain in pieces.items() for piece in chain if layer in found}
    return found


def built_scheme(
    layer: str, asked: Scheme, pieces: Mapping[str, Sequence[str]], lowered: Lowered, unit: BuiltLayer | None
) -> Scheme:
    """Return in what a layer was built: as the unit says that it ran in, or else as the engine says it wrote it."""
    names = set(pieces.get(layer, (layer,)))
    wrote = [one.got for one in lowered.layers if one.layer in names]
    got: Scheme = wrote[0] if wrote else "float"
    if got in _BY_UNIT and unit is not None and isinstance(unit.precision, str):
        return "int8" if unit.precision == "int8" else "float"
    return got if asked != "float" else "float"


def _first(row: LayerTime, owner: Mapping[str, str], place: Mapping[str, int]) -> str | None:
    members = [name for name in row.unit.members if name in owner]
    return owner[min(members, key=lambda name: place.get(name, 0))] if members else None


def _unit_of(layer: str, units: Sequence[BuiltLayer]) -> BuiltLayer | None:
    return next((unit for unit in units if layer in unit.members), None)
