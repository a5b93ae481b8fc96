"""Times of executed units, booked on clusters and on borders.

A unit goes to the cluster whose product ran in it; one with several products is shared out over their clusters
(:mod:`hwbench.tables.sharing`), and one with none goes to the cluster of the first source layer that it stands for.
What the runtime has inserted (conversions, reorders) goes to the borders. What stands for layers of no cluster is left
out: it is the same in every design, and so part of what the whole takes beyond its clusters.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hwbench.measure.layers import quiet_ones, reconcile
from hwbench.plan.designs import sizes_of
from hwbench.records.base import Missing
from hwbench.records.measurement import BuiltLayer, LayerRun, LayerTable, UnitSamples
from hwbench.records.planning import BorderTime, ClusterTime, Design, Space
from hwbench.records.quantization import Lowered, Scheme
from hwbench.tables.borders import crossings
from hwbench.tables.sharing import shares
from hwbench.tables.variant import Variant

_BY_UNIT: frozenset[Scheme] = frozenset({"float", "int8"})  # what the precision of a unit tells apart
_ONE_TIME = Missing(code="too_few", why="it was profiled in one inference")


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
    assert not isinstance(run.units, Missing)
    ledger = _ledger(space, made, table, run.units, quiet_ones(run.end_to_end_s))
    units = [row.unit for row in table.rows]
    clusters = []
    for cluster in space.clusters:
        sizes = sizes_of(cluster, space, design)
        if sizes is None:
            continue
        unit = _unit_of(made.pieces.get(cluster.name, (cluster.name,))[0], units)
        entry = ledger.entries.get(cluster.name, _Entry())
        clusters.append(
            ClusterTime(
                cluster=cluster.name,
                kind=cluster.kind,
                scheme=built_scheme(cluster.name, design.of(cluster.name), made.pieces, lowered, unit),
                sizes=sizes,
                time_s=entry.time_s,
                kernel=None if unit is None or isinstance(unit.kernel, Missing) else unit.kernel,
                units=entry.units,
                shared=entry.shared,
                spread_s=entry.spread_s,
            )
        )
    elements: Counter[str] = Counter()
    for crossing in crossings(space, design):
        elements[crossing.kind] += crossing.elements
    measured, scaled = (sum(getattr(row, name) for row in table.rows) for name in ("measured_s", "scaled_s"))
    return Booked(
        clusters=tuple(clusters),
        border=BorderTime(
            elements=dict(elements), time_s=ledger.inserted_s, units=sum(not unit.members for unit in units)
        ),
        profiled_s=median_s * measured / scaled,
        units=len(table.rows),
    )


@dataclass(kw_only=True)
class _Entry:
    """What is booked on one cluster. ``times_s``: in each of the quiet inferences."""

    time_s: float = 0.0
    units: int = 0
    shared: int = 1
    times_s: list[float] = field(default_factory=list)

    @property
    def spread_s(self) -> float | Missing:
        return statistics.stdev(self.times_s) if len(self.times_s) > 1 else _ONE_TIME

    def add(self, time_s: float, times_s: Sequence[float], *, shared: int, counts: bool) -> None:
        self.time_s += time_s
        self.units += counts
        self.shared = max(self.shared, shared)
        self.times_s = [sum(both) for both in zip(self.times_s or [0.0] * len(times_s), times_s, strict=True)]


@dataclass(kw_only=True)
class _Ledger:
    """All that is booked: by cluster, and on the borders."""

    entries: dict[str, _Entry] = field(default_factory=dict)
    inserted_s: float = 0.0


def _ledger(
    space: Space, made: Variant, table: LayerTable, samples: Sequence[UnitSamples], quiet: Sequence[int]
) -> _Ledger:
    owner = owners(space, made.pieces)
    products = {
        piece: cluster.name for cluster in space.clusters for piece in made.pieces.get(cluster.name, (cluster.name,))
    }
    layers = {layer.name: layer for layer in made.model.layers}
    place = {name: at for at, name in enumerate(layers)}
    found = _Ledger()
    for row, sampled in zip(table.rows, samples, strict=True):
        parts = shares(row.unit.members, owner, products, layers, place)
        most = max(parts, key=lambda name: parts[name], default=None)  # whose the unit counts as, being one
        for name, share in parts.items():
            found.entries.setdefault(name, _Entry()).add(
                share * row.measured_s,
                [share * sampled.times_s[index] for index in quiet],
                shared=len(parts),
                counts=name == most,
            )
        if not row.unit.members:
            found.inserted_s += row.measured_s
    return found


def owners(space: Space, pieces: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return the cluster of each layer, those of factorised layers too."""
    found = {layer: cluster.name for cluster in space.clusters for layer in cluster.layers}
    found |= {piece: found[layer] for layer, chain in pieces.items() for piece in chain if layer in found}
    return found


def built_scheme(
    layer: str, asked: Scheme, pieces: Mapping[str, Sequence[str]], lowered: Lowered, unit: BuiltLayer | None
) -> Scheme:
    """Return in what a layer was built: as the unit says that it ran in, or else as the engine says it wrote it.

    Where types are those of the graph there is nothing to read back, and what a unit's edges are need not be what is
    multiplied inside: a kernel that quantises its input has a half at its edge.
    """
    names = set(pieces.get(layer, (layer,)))
    wrote = [one.got for one in lowered.layers if one.layer in names]
    got: Scheme = wrote[0] if wrote else "float"
    if got in _BY_UNIT and unit is not None and isinstance(unit.precision, str) and not _as_written(lowered):
        return "int8" if unit.precision == "int8" else "float"
    return got if asked != "float" else "float"


def _as_written(lowered: Lowered) -> bool:
    """Say whether the runtime computes in the very types of the graph: TensorRT's strongly typed networks."""
    return "STRONGLY_TYPED" in lowered.settings.get("network_flags", "").split()


def _unit_of(layer: str, units: Sequence[BuiltLayer]) -> BuiltLayer | None:
    return next((unit for unit in units if layer in unit.members), None)
