"""Energy as rows: one for each model, runtime, precision, batch, device and power setting.

A row holds what was measured and nothing else. An :class:`EnergyEstimate` never becomes one: estimates have rows of
their own type, which no ranking, curve or front accepts.

Two kinds of rows are kept apart: ``plateau``, repeated windows after the machine had settled, with idle power before
and after; ``window``, one reading over one window of a run that had another purpose. The second has no repeats, so
nothing can be said of its scatter. ``energy_gather.py`` makes the rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hwbench.records.base import Missing
from hwbench.records.energy import CrossCheck, EnergyEstimate, Idle, PowerLevels, Provenance
from hwbench.records.measurement import LatencySummary, Mode
from hwbench.report.energy_setting import PowerSetting

Kind = Literal["plateau", "window"]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What was measured: ``result`` counts in the results given, ``index`` in ``ProfileResult.measurements``."""

    result: int
    index: int
    run_id: str
    name: str  # unique among the rows
    model: str
    network: str  # the same: the same work in one inference
    family: str  # the same: the same network up to the batch size
    engine: str
    version: str
    precision: str
    mode: Mode
    threads: int
    streams: int
    batch_size: int | Missing
    device: str
    fingerprint: str
    setting: PowerSetting
    validity: str
    latency: LatencySummary | Missing


@dataclass(frozen=True, kw_only=True)
class Joules:
    """Energy per inference with its two uncertainties apart.

    ``low`` and ``high``: 95 % interval of the mean of ``n`` windows (Type A). ``instrument``: relative, k=2 (Type B).
    """

    value: float
    low: float | Missing
    high: float | Missing
    stdev: float | Missing
    n: int
    instrument: float


@dataclass(frozen=True, kw_only=True)
class EnergyRow:
    """One measurement's energy. ``domains_j`` and all ``Joules`` are per inference; ``window_s`` is a mean length."""

    subject: Subject
    kind: Kind
    meter: str
    boundary: str
    provenance: Provenance
    settings: dict[str, str]  # the instrument's own
    not_used: dict[str, str]
    total: Joules | Missing
    dynamic: Joules | Missing
    idle: Idle | Missing
    inferences_per_j: float | Missing
    energy_delay_js: float | Missing
    j_per_op: float | Missing
    power: PowerLevels | Missing
    time_per_inference_s: float | Missing
    windows: int
    windows_read: int
    window_s: float
    paused_s: float  # in all windows together, on purpose
    inferences: int | Missing
    coverage: float | Missing
    crosscheck: CrossCheck | Missing
    throttled_s: dict[str, float]
    start_c: float | Missing
    end_c: float | Missing
    settled: bool | Missing
    settled_by: str
    recorder_cpu_share: float | Missing
    domains_j: dict[str, float]
    flags: tuple[str, ...]
    trace: str | Missing
    trace_sha256: str | Missing

    @property
    def name(self) -> str:
        return self.subject.name

    @property
    def instrument(self) -> tuple[str, str]:
        """What two rows must share for the instrument's gain to cancel between them."""
        return self.subject.fingerprint, self.meter


@dataclass(frozen=True, kw_only=True)
class EstimateRow:
    """A model's guess, which is no measurement."""

    result: int
    index: int
    name: str
    model: str
    device: str
    estimate: EnergyEstimate


@dataclass(frozen=True, kw_only=True)
class AbsentRow:
    """A measurement without measured energy, and why."""

    result: int
    index: int
    name: str
    reason: Missing


@dataclass(frozen=True, kw_only=True)
class Energies:
    """Everything about energy in some results."""

    rows: tuple[EnergyRow, ...]
    estimates: tuple[EstimateRow, ...]
    absent: tuple[AbsentRow, ...]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Rows of one kind with one boundary: the only ones whose joules mean the same."""

    kind: Kind
    boundary: str
    rows: tuple[EnergyRow, ...]


def grouped(rows: tuple[EnergyRow, ...]) -> tuple[Group, ...]:
    """Return the rows by kind and boundary, plateau runs first; least energy first among those, the rest as given."""
    keys = sorted({(row.kind, row.boundary): None for row in rows}, key=lambda key: key[0] != "plateau")
    found = []
    for kind, boundary in keys:
        members = [row for row in rows if (row.kind, row.boundary) == (kind, boundary)]
        if kind == "plateau":
            members.sort(key=_least_first)
        found.append(Group(kind=kind, boundary=boundary, rows=tuple(members)))
    return tuple(found)


def _least_first(row: EnergyRow) -> tuple[str, bool, float]:
    missing = isinstance(row.total, Missing)
    return row.subject.model, missing, 0.0 if isinstance(row.total, Missing) else row.total.value
