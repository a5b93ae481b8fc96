"""What costs look like, for people: uniform networks, kinds of clusters in each scheme, borders."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hwbench.plan.designs import sizes_of, uniform
from hwbench.records.planning import Design, Space
from hwbench.records.quantization import Scheme
from hwbench.tables.borders import crossings
from hwbench.tables.model import CostModel
from hwbench.units import format_seconds

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]
"""Headings, and rows."""


def kinds(model: CostModel, space: Space, schemes: Sequence[Scheme] = ("float", "int8")) -> Table:
    """Return by kind of cluster how many there are, and what they take together at full size in each scheme."""
    whole = Design()
    found: dict[str, list[float]] = {}
    for cluster in space.clusters:
        sizes = sizes_of(cluster, space, whole)
        if sizes is None:
            continue
        row = found.setdefault(cluster.kind, [0.0] * (1 + len(schemes)))
        row[0] += 1
        for at, scheme in enumerate(schemes, 1):
            known = model.knows(cluster, scheme) and model.built(cluster, scheme) == scheme
            row[at] += float(model.cluster(cluster, [sizes], scheme)[0]) if known else np.nan
    rows = [
        (kind, str(int(row[0])), *("refused" if np.isnan(time) else format_seconds(time) for time in row[1:]))
        for kind, row in sorted(found.items(), key=lambda item: -np.nan_to_num(item[1][1]))
    ]
    return ("layers", "count", *schemes), rows


def uniforms(model: CostModel, space: Space, schemes: Sequence[Scheme] = ("float", "int8")) -> Table:
    """Return what the network takes in each scheme, and how that is made up."""
    rows: list[tuple[str, ...]] = []
    for scheme in schemes:
        design = uniform(space, scheme, floating=model.platform.floating)
        predicted = model.predict(space, design)
        borders = sum(
            model.border(each.scheme_from, each.scheme_to, each.elements) for each in crossings(space, design)
        )
        clusters = predicted.value - borders - model.start_s
        between = f"{format_seconds(predicted.low)} to {format_seconds(predicted.high)}"
        parts = (format_seconds(clusters), format_seconds(borders), format_seconds(model.start_s))
        rows.append((str(scheme), format_seconds(predicted.value), between, *parts))
    return ("all layers in", "latency", "90 % interval", "clusters", "borders", "start"), rows


def borders(model: CostModel, space: Space) -> Table:
    """Return what it takes to go from one scheme to the other, at tensors as they lie between clusters."""
    sizes = sorted(elements for cluster in space.clusters for elements in cluster.readers.values())
    ends: tuple[tuple[Scheme, Scheme], ...] = (("float", "int8"), ("int8", "float"))
    if not sizes:
        return ("border",), []
    shown = sorted({sizes[0], sizes[len(sizes) // 2], sizes[-1]})
    rows = [
        (f"{before} to {after}", *(format_seconds(model.border(before, after, each)) for each in shown))
        for before, after in ends
    ]
    return ("border", *(f"{each} elements" for each in shown)), rows


def describe(model: CostModel, space: Space) -> dict[str, Table]:
    """Return the tables of the costs of a network, by title."""
    title = f"{model.platform.engine} {model.platform.version}, {model.platform.threads} thread(s)"
    return {
        f"uniform networks ({title})": uniforms(model, space),
        f"clusters at full size ({title})": kinds(model, space),
        f"borders ({title})": borders(model, space),
    }
