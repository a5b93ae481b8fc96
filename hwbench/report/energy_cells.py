"""Cells of the energy tables: one function a column, from a row to text with footnotes.

A function takes the row and the footnotes; where a quantity can be one of several, a maker takes its name first.
"""

from __future__ import annotations

from collections.abc import Callable

from hwbench.records.base import Missing
from hwbench.report import energy_words as say
from hwbench.report.energy_rows import EnergyRow, Joules
from hwbench.report.table import Cell, Notes, between
from hwbench.report.words import DASH, PROVENANCE
from hwbench.units import format_seconds, format_si

Make = Callable[[EnergyRow, Notes], Cell]


def shown(value: object, notes: Notes, show: Callable[..., str]) -> Cell:
    """Return a value as text, or a dash with the reason."""
    return notes.missing(value) if isinstance(value, Missing) else Cell(show(value))


def watts(value: float) -> str:
    """Return a power in four digits."""
    return format_si(value, "W", 4)


def joules_text(value: float) -> str:
    """Return an energy in four digits."""
    return format_si(value, "J", 4)


def setting(row: EnergyRow, notes: Notes) -> Cell:
    """Return the power setting; when nothing of it is known, all the reasons."""
    setting = row.subject.setting
    reasons = [v for v in (setting.mode, setting.limit_w, setting.governor) if isinstance(v, Missing)]
    numbers = tuple(notes.number(str(reason)) for reason in reasons)
    return Cell(setting.words or DASH, () if setting.words else numbers)


def source(row: EnergyRow, notes: Notes) -> Cell:
    """Return the instrument and what it is, with its settings and the other meters in footnotes."""
    facts = {"the instrument's settings": row.settings, "other meters, and why they were not used": row.not_used}
    texts = (f"{t}: {'; '.join(f'{name}: {text}' for name, text in told.items())}" for t, told in facts.items() if told)
    return Cell(f"{row.meter}, {PROVENANCE[row.provenance]}", tuple(notes.number(text) for text in texts))


def load(row: EnergyRow, _: Notes) -> Cell:
    """Return how the engine was run."""
    subject = row.subject
    return Cell(f"{subject.mode}, {subject.threads} threads, {subject.streams} in flight")


def temperature(row: EnergyRow, notes: Notes) -> Cell:
    """Return the temperature at the start and at the end."""
    cells = [shown(value, notes, lambda c: f"{c:.1f} °C") for value in (row.start_c, row.end_c)]
    if all(cell.text == DASH for cell in cells):
        return cells[0]
    return Cell(" → ".join(cell.text for cell in cells), tuple(n for cell in cells for n in cell.notes))


def throttled(row: EnergyRow, notes: Notes) -> Cell:
    """Return by reason how long the device was held back during the windows."""
    if not row.throttled_s:
        return Cell(DASH, (notes.number("the instrument does not tell how long the device was held back"),))
    held = [f"{format_seconds(s)} {reason}" for reason, s in row.throttled_s.items() if s > 0]
    return Cell(", ".join(held) or f"0 s ({', '.join(row.throttled_s)})")


def settled(row: EnergyRow, notes: Notes) -> Cell:
    """Return whether the machine had settled before the windows began."""
    if isinstance(row.settled, Missing):
        return notes.missing(row.settled)
    return Cell(f"{'yes' if row.settled else 'NO'}, {row.settled_by}")


def latency(field: str) -> Make:
    """Make the column of a latency statistic."""

    def make(row: EnergyRow, notes: Notes) -> Cell:
        latency = row.subject.latency
        value = latency if isinstance(latency, Missing) else getattr(latency, field)
        return shown(value, notes, format_seconds)

    return make


def rate(row: EnergyRow, notes: Notes) -> Cell:
    """Return inferences per second over the windows."""
    return shown(row.time_per_inference_s, notes, lambda s: format_si(1 / s, "/s", 4) if s > 0 else DASH)


def windows(row: EnergyRow, notes: Notes) -> Cell:
    """Return number and mean length of the windows, and how many have a reading."""
    text, numbers = f"{row.windows} × {format_seconds(row.window_s)}", []
    if row.windows_read < row.windows:
        text = f"{row.windows_read} of {text}"
        numbers.append(notes.number("windows without a reading count for nothing; the flags and the trace say why"))
    if row.paused_s > 0:
        paused = f"of it {format_seconds(row.paused_s)} in all paused on purpose, for a sensor that looks now and then"
        numbers.append(notes.number(paused))
    return Cell(text, tuple(numbers))


def value(which: str) -> Make:
    """Make the column of an energy."""

    def make(row: EnergyRow, notes: Notes) -> Cell:
        joules = getattr(row, which)
        return shown(joules, notes, lambda j: joules_text(j.value))

    return make


def type_a(which: str) -> Make:
    """Make the column of an energy's repeatability: half of the 95 % interval, relative, and the number of windows."""

    def make(row: EnergyRow, notes: Notes) -> Cell:
        joules: Joules | Missing = getattr(row, which)
        half = joules if isinstance(joules, Missing) else say.half_width(joules)
        return shown(half, notes, lambda value: f"{say.percent(value)}, n={getattr(joules, 'n', 0)}")

    return make


def interval(which: str) -> Make:
    """Make the column of an energy's 95 % interval over the windows."""

    def make(row: EnergyRow, notes: Notes) -> Cell:
        joules: Joules | Missing = getattr(row, which)
        if isinstance(joules, Missing):
            return notes.missing(joules)
        low, high = joules.low, joules.high
        if isinstance(low, Missing):
            return notes.missing(low)
        return shown(high, notes, lambda edge: between(joules_text(low), joules_text(edge)))

    return make


def type_b(which: str) -> Make:
    """Make the column of what the instrument adds: relative, k=2."""

    def make(row: EnergyRow, notes: Notes) -> Cell:
        return shown(getattr(row, which), notes, lambda j: say.percent(j.instrument))

    return make


def level(field: str) -> Make:
    """Make the column of a power level."""

    def make(row: EnergyRow, notes: Notes) -> Cell:
        value = row.power if isinstance(row.power, Missing) else getattr(row.power, field)
        return shown(value, notes, format_seconds if field == "averaging_s" else watts)

    return make


def idle(row: EnergyRow, notes: Notes) -> Cell:
    """Return the idle power and its uncertainty, k=2."""
    return shown(row.idle, notes, lambda idle: f"{watts(idle.mean_w)} ±{watts(2 * idle.standard_uncertainty_w)} (k=2)")


def idle_sides(row: EnergyRow, notes: Notes) -> Cell:
    """Return the idle power before and after."""
    idle = row.idle
    if isinstance(idle, Missing):
        return notes.missing(idle)
    sides = [shown(side, notes, watts) for side in (idle.before_w, idle.after_w)]
    return Cell(" → ".join(side.text for side in sides), tuple(n for side in sides for n in side.notes))


def idle_share(row: EnergyRow, notes: Notes) -> Cell:
    """Return the idle power's share of the mean power."""
    for value in (row.idle, row.power):
        if isinstance(value, Missing):
            return notes.missing(value)
    assert not isinstance(row.idle, Missing)
    assert not isinstance(row.power, Missing)
    mean_w = row.power.average_w
    return Cell(f"{row.idle.mean_w / mean_w * 100:.0f}%") if mean_w > 0 else notes.missing(say.ZERO)


def crosscheck(row: EnergyRow, notes: Notes) -> Cell:
    """Return the ratio to a second channel."""
    return shown(row.crosscheck, notes, lambda check: f"{check.ratio:.3f} of {check.channel}")


def flags(row: EnergyRow, _: Notes) -> Cell:
    """Return the flags; ``none`` is said, not left blank."""
    return Cell(", ".join(row.flags) or "none")


def percentage(value: float) -> str:
    """``0.004`` -> ``0.4%``."""
    return f"{value * 100:.3g}%"
