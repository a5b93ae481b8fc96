"""The energy of layers: what a fit over variants found, or what the share of time would mean."""

from __future__ import annotations

from typing import Literal

from hwbench.records.base import Missing, Record, check, check_finite

LAYER_ENERGY_SCHEMA = 1

LayerMethod = Literal["fit", "time_share"]


class LayerEnergy(Record, frozen=True, kw_only=True):
    """Joules of one layer, or of layers that cannot be told apart, in one inference.

    ``low`` and ``high``: of a ``fit`` a 95 % interval (how the variants scatter; the instrument's gain not included),
    missing for a ``time_share``, which has none of its own.
    """

    layers: tuple[str, ...]
    energy_j: float
    low_j: float | Missing
    high_j: float | Missing

    def __post_init__(self) -> None:
        check_finite(self, "energy_j", "low_j", "high_j")


class LayerEnergies(Record, frozen=True, kw_only=True, tag_field="kind", tag="layer_energies"):
    """A table of layers. ``sum(energy_j) + unattributed_j == total_j``.

    ``fit``: a non-negative least-squares fit of the measured energies of whole-model variants. ``time_share``: the
    total, handed out by time; that every layer draws the same power is its assumption and not a finding.
    """

    method: LayerMethod
    rows: tuple[LayerEnergy, ...]
    total_j: float
    unattributed_j: float  # no layer's: of a fit, the fixed cost of a run and the residual of the whole model
    residual_j: float | Missing  # of a fit: root mean square over the variants
    basis: str  # in words: what was measured, and what is assumed

    def __post_init__(self) -> None:
        check_finite(self, "total_j", "residual_j")
        check_finite(self, "unattributed_j", minimum=None)
        added = sum(row.energy_j for row in self.rows) + self.unattributed_j
        check(abs(added - self.total_j) <= 1e-6 * max(self.total_j, 1e-12), "the rows must add up to the total")


class Variant(Record, frozen=True, kw_only=True):
    """A part of a model that was measured as a whole: which layers it has, and its energy an inference (k=1)."""

    name: str
    layers: tuple[str, ...]
    energy_j: float
    standard_uncertainty_j: float  # of the mean, from the windows: the gain is common to all variants

    def __post_init__(self) -> None:
        check_finite(self, "energy_j", "standard_uncertainty_j")
        check(self.standard_uncertainty_j > 0, f"{self.name}: a measured energy has an uncertainty")


class LayersResult(Record, frozen=True, kw_only=True):
    """What ``hwbench energy layers`` writes: the variants that were measured and the table fitted to them."""

    schema_version: int
    model: str
    engine: str
    precision: str
    variants: tuple[Variant, ...]
    energies: LayerEnergies | Missing


class SharedLayers(Record, frozen=True, kw_only=True):
    """The layers of a saved result by time share, for each of its measurements."""

    measurements: dict[str, LayerEnergies | Missing]
