"""The energy of single layers, from energies of whole models: by a fit over variants, or by time share.

No sensor resolves a layer of microseconds. A *fit* measures variants of the model, each as a whole and by the plateau
method, and finds the non-negative energies of layers that explain them: with variants that are prefixes of the graph,
the difference of two neighbours is what lies between. It assumes that a layer costs the same in each variant, which the
cut disturbs at its edge: fusion across it is lost, and the cut tensor is written out. A *time share* hands the total
out by time; that the power is the same in all layers is an assumption of it and no finding.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import cast

import numpy as np

from hwbench.energy.nnls import Floats, nnls
from hwbench.records.base import Missing
from hwbench.records.layer_energy import LayerEnergies, LayerEnergy, Variant
from hwbench.records.measurement import LayerTable

_DRAWS = 400
_OF_TIME = Missing(code="not_measured", why="a share of the time has no interval of its own")


def time_share(table: LayerTable, total_j: float) -> LayerEnergies:
    """Hand the energy of an inference out to the units of a layer table, by their share of the time."""
    rows = [
        LayerEnergy(
            layers=row.unit.members or (row.unit.name,),
            energy_j=row.share * total_j,
            low_j=_OF_TIME,
            high_j=_OF_TIME,
        )
        for row in table.rows
    ]
    return LayerEnergies(
        method="time_share",
        rows=tuple(rows),
        total_j=total_j,
        unattributed_j=total_j - sum(row.energy_j for row in rows),
        residual_j=_OF_TIME,
        basis="the measured energy of an inference, by share of the time; assumes that all layers draw the same power",
    )


def fit_layers(layers: Sequence[str], variants: Sequence[Variant], *, seed: int = 0) -> LayerEnergies | Missing:
    """Fit the energies of layers to those of variants.

    Layers that no variant tells apart are one row. Beside them a fixed cost of a run is fitted where the variants can
    tell it (an intercept). Each variant weighs by its uncertainty. The intervals are percentiles of fits to energies
    drawn anew from each variant's own (a parametric bootstrap).

    Args:
        layers: all layers, in the order of the graph.
        variants: what was measured; the one with the most layers is the whole model.
        seed: of the bootstrap.

    Returns:
        The table, or :class:`Missing` with ``too_few_variants`` (fewer than unknowns) or ``not_identifiable`` (their
        designs hang together).
    """
    groups = _groups(layers, variants)
    design = np.array([[float(group[0] in variant.layers) for group in groups] for variant in variants])
    if len(variants) < len(groups):
        why = f"{len(variants)} variants for {len(groups)} groups of layers"
        return Missing(code="too_few_variants", why=why, cure="measure more variants, or cut into fewer parts")
    if int(np.linalg.matrix_rank(design)) < len(groups):
        why = "some groups of layers occur in the variants in combinations that do not tell them apart"
        return Missing(code="not_identifiable", why=why, cure="choose other variants")
    fixed = np.column_stack([design, np.ones(len(variants))])
    has_fixed = len(variants) > len(groups) and int(np.linalg.matrix_rank(fixed)) > len(groups)
    matrix = cast("Floats", fixed if has_fixed else design)
    seen = np.array([variant.energy_j for variant in variants])
    spread = np.array([variant.standard_uncertainty_j for variant in variants])
    found = nnls(matrix / spread[:, None], seen / spread)
    low, high = _intervals(matrix, seen, spread, seed)
    whole = max(variants, key=lambda variant: len(variant.layers))
    rows = [
        LayerEnergy(
            layers=group,
            energy_j=float(found[i]),
            low_j=min(float(low[i]), float(found[i])),
            high_j=max(float(high[i]), float(found[i])),
        )
        for i, group in enumerate(groups)
    ]
    residuals = matrix @ found - seen
    told = " and a fixed cost" if has_fixed else ""
    return LayerEnergies(
        method="fit",
        rows=tuple(rows),
        total_j=whole.energy_j,
        unattributed_j=whole.energy_j - sum(row.energy_j for row in rows),
        residual_j=float(np.sqrt(statistics.fmean(residuals**2))),
        basis=f"non-negative least squares over {len(variants)} measured variants, {len(groups)} groups of layers"
        f"{told}; assumes that a layer costs the same in each",
    )


def _groups(layers: Sequence[str], variants: Sequence[Variant]) -> list[tuple[str, ...]]:
    """Return the layers that occur in any variant, together where they always occur together."""
    groups: dict[tuple[bool, ...], list[str]] = {}
    sets = [frozenset(variant.layers) for variant in variants]
    for layer in layers:
        pattern = tuple(layer in members for members in sets)
        if any(pattern):
            groups.setdefault(pattern, []).append(layer)
    return [tuple(group) for group in groups.values()]


def _intervals(matrix: Floats, seen: Floats, spread: Floats, seed: int) -> tuple[Floats, Floats]:
    draw = np.random.default_rng(seed)
    fits = [nnls(matrix / spread[:, None], draw.normal(seen, spread) / spread) for _ in range(_DRAWS)]
    low, high = np.percentile(np.array(fits), [2.5, 97.5], axis=0)
    return cast("Floats", low), cast("Floats", high)
