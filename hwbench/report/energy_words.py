"""Facts about an energy value as short sentences, the same in the terminal and on the page."""

from __future__ import annotations

from collections.abc import Sequence

from hwbench.energy.flags import explain
from hwbench.records.base import Missing
from hwbench.report.energy_rank import EnergyVerdict
from hwbench.report.energy_rows import AbsentRow, EnergyRow, EstimateRow, Group, Joules
from hwbench.report.words import PROVENANCE
from hwbench.units import format_seconds, format_si

IDLE = {
    "idle_cold": "idle_cold: nothing loaded",
    "idle_active": "idle_active: model loaded, no work",
}
PLATEAU = (
    "Plateau method: repeated windows of back-to-back inferences after the machine had settled. Repeatability (Type A) "
    "is the 95% interval of the mean over the windows: it is what counts when rows of one instrument are compared. "
    "The instrument's uncertainty (Type B, k=2, 95%) is what the absolute value may be off by; it does not average out."
)
WINDOW = (
    "One plain window each, not the plateau method: no repeats, so no interval, and no idle power to take off. Shown "
    "in the order given, not ranked, and never held against plateau runs; --mode energy measures those."
)
NO_TWO = (
    "No two rows that may be believed ran the same network with the same batch size, so joules per inference are not "
    "ranked here."
)
BOUNDARIES = "Rows with different boundaries count different things, so they are never ranked against each other."
ESTIMATES = (
    "Nothing below was measured. An estimate is a formula over a data sheet and the CPU time: it cannot see clocks, "
    "instructions or memory, so it can put two engines in the wrong order and takes part in no ranking, curve or "
    "front. The band is part of the number."
)


def half_width(joules: Joules) -> float | Missing:
    """Return the half width of the repeatability interval, relative to the value."""
    if isinstance(joules.low, Missing):
        return joules.low
    if isinstance(joules.high, Missing):
        return joules.high
    return (joules.high - joules.low) / 2 / joules.value if joules.value > 0 else ZERO


ZERO = Missing(code="no_energy", why="the value is 0, so nothing is relative to it")


def percent(share: float) -> str:
    """``0.0043`` -> ``±0.43%``."""
    return f"±{share * 100:.2g}%"


def source(row: EnergyRow) -> str:
    """Return the instrument and what stands behind its numbers."""
    return f"{row.meter}: {PROVENANCE[row.provenance]}"


def glance(row: EnergyRow) -> str:
    """Return the number, what it was measured with, and how sure it is, in one line."""
    total = row.total
    if isinstance(total, Missing):
        return f"no energy: {total}"
    repeat = half_width(total)
    again = (
        "repeatability not known (one window)" if isinstance(repeat, Missing) else f"repeats within {percent(repeat)}"
    )
    several = f"{total.n} windows of" if total.n > 1 else "one window of"
    return (
        f"{format_si(total.value, 'J', 4)} per inference, {PROVENANCE[row.provenance]} ({row.meter}); {again}; "
        f"absolute within {percent(total.instrument)} (k=2); {several} {format_seconds(row.window_s)}{_reserve(row)}"
    )


def _reserve(row: EnergyRow) -> str:
    parts = [] if row.settled is not False else ["NOT SETTLED"]
    if row.subject.validity != "valid":
        parts.append(f"{row.subject.validity}, see the findings")
    if row.flags:
        parts.append(f"{len(row.flags)} flag{'s' if len(row.flags) > 1 else ''}")
    return f"; {'; '.join(parts)}" if parts else ""


def flag_lines(row: EnergyRow) -> list[tuple[str, str]]:
    """Return each flag of a row, what it means, and its cure."""
    lines = []
    for flag in row.flags:
        known = explain(flag)
        meaning = f"{known.when}. Cure: {known.cure}" if known else "set by the instrument; hwbench does not know it"
        lines.append((flag, meaning))
    return lines


def heading(group: Group) -> str:
    """Return the title of a group: its boundary, and the kind of measurement."""
    kind = "" if group.kind == "plateau" else " (plain windows)"
    return f"Boundary: {group.boundary}{kind}"


def verdict_lines(group: Group, verdicts: tuple[EnergyVerdict, ...]) -> list[str]:
    """Return what may be said over a group."""
    if group.kind != "plateau":
        return [WINDOW]
    if len(verdicts) > 1 and not any(verdict.best or verdict.tied for verdict in verdicts):
        return [NO_TWO]
    return [verdict.sentence for verdict in verdicts]


def absent_lines(rows: Sequence[AbsentRow]) -> tuple[tuple[str, str], ...]:
    """Return each reason once, with the names of those it holds for."""
    names: dict[str, list[str]] = {}
    for row in rows:
        names.setdefault(str(row.reason), []).append(row.name)
    return tuple((", ".join(found), reason) for reason, found in names.items())


def estimate_value(row: EstimateRow) -> str:
    """``~210 mJ``: the mark belongs to every estimated number."""
    return f"~{format_si(row.estimate.energy_per_inference_j, 'J')}"


def estimate_band(row: EstimateRow) -> str:
    """Return the band of an estimate."""
    return f"between {format_si(row.estimate.low_j, 'J')} and {format_si(row.estimate.high_j, 'J')}"


def estimate_inputs(row: EstimateRow) -> str:
    """Return what an estimate was computed from."""
    return "; ".join(f"{name}: {value}" for name, value in row.estimate.inputs.items()) or "none stated"
