"""The trace behind an energy, for drawing: found beside the result, its hash checked, its phases named.

A trace that is gone or was changed since is no reason to show nothing: the joules are in the result. It is a reason to
say so, because they can then not be computed again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from hwbench.energy import phases
from hwbench.energy.integrate import Sample
from hwbench.energy.trace import Trace, read_trace
from hwbench.errors import StorageError
from hwbench.files import read_bytes
from hwbench.records.base import Missing
from hwbench.records.energy import Channel, EnergyRun
from hwbench.records.measurement import ProfileResult
from hwbench.report.thinning import SERIES_POINTS, thin_series

Traces = Mapping[str, Trace | Missing]  # by the SHA-256 that the result names
NOT_LOOKED_AT = Missing(
    code="not_looked_at", why="made from the result alone, without its folder", cure="hwbench report on the folder"
)
_COUNTER_PERIODS = 10.0  # the mean over fewer shows the counter's update, not the power
_HOLD_PERIODS = 2.0  # longer without a reading is a gap, as for the integral


def find_traces(result: ProfileResult, folder: Path) -> dict[str, Trace | Missing]:
    """Return the traces that ``result`` names, by hash; ``folder`` is where the result lies.

    :class:`Missing` with ``outside`` (the name leads out of the folder), ``trace_gone``, ``trace_changed`` or
    ``trace_damaged``.
    """
    runs = [m.energy_run for m in result.measurements if not isinstance(m.energy_run, Missing)]
    return {run.trace_sha256: _find(run, folder) for run in runs}


def _find(run: EnergyRun, folder: Path) -> Trace | Missing:
    path = folder / run.trace
    if not path.resolve().is_relative_to(folder.resolve()):
        return Missing(code="outside", why=f"the trace '{run.trace}' is not below the folder of the result")
    try:
        found = hashlib.sha256(read_bytes(path)).hexdigest()
    except StorageError as error:
        why = f"the trace '{run.trace}' cannot be read ({error.message})"
        return Missing(code="trace_gone", why=why, cure="keep it beside the result")
    if found != run.trace_sha256:
        why = f"the trace '{run.trace}' was changed since: its SHA-256 is {found[:12]}…, not {run.trace_sha256[:12]}…"
        return Missing(code="trace_changed", why=why, cure="bring back the file that was recorded")
    try:
        return read_trace(path)
    except StorageError as error:
        return Missing(code="trace_damaged", why=f"the trace '{run.trace}' is damaged: {error.message}")


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of a trace. ``kind`` is one of ``idle``, ``warm-up``, ``window``, ``tail``, ``pulse``."""

    kind: str
    title: str
    start_s: float
    end_s: float


_PHASES = {
    phases.IDLE_BEFORE: "idle",
    phases.WARMUP: "warm-up",
    phases.WINDOW: "window",
    phases.TAIL: "tail",
    phases.IDLE_AFTER: "idle",
    phases.PULSE: "pulse",
}
_TITLES = {phases.IDLE_BEFORE: "idle before", phases.IDLE_AFTER: "idle after"}


def phases_of(trace: Trace) -> tuple[Phase, ...] | Missing:
    """Return the phases in order of time; Missing where one has no end."""
    found = []
    try:
        for name, kind in _PHASES.items():
            spans = phases.spans(trace, name)
            for number, span in enumerate(spans, 1):
                title = f"{kind} {number}" if kind == "window" else _TITLES.get(name, kind)
                found.append(Phase(kind=kind, title=title, start_s=span.start_s, end_s=span.end_s))
    except StorageError as error:
        return Missing(code="open_phase", why=error.message)
    return tuple(sorted(found, key=lambda phase: phase.start_s))


@dataclass(frozen=True, kw_only=True)
class Line:
    """A channel as points; None in ``values`` is a gap. ``over_s``: of a counter, what each mean goes over."""

    channel: Channel
    times_s: tuple[float, ...]
    values: tuple[float | None, ...]
    over_s: float | None = None


def power_lines(trace: Trace) -> tuple[Line, ...]:
    """Return the power of each channel that adds up, and of those that check it, thinned for drawing."""
    wanted = [c for role in ("total", "check") for c in trace.header.channels if c.role == role]
    return tuple(line for channel in wanted if (line := _power(trace, channel)) is not None)


def temperature_lines(trace: Trace) -> tuple[Line, ...]:
    """Return the temperatures that the trace holds, in °C."""
    wanted = [channel for channel in trace.header.channels if channel.quantity == "temperature"]
    return tuple(
        _line(channel, samples, _period_s(channel, samples)) for channel in wanted if (samples := trace.of(channel))
    )


def _power(trace: Trace, channel: Channel) -> Line | None:
    samples = trace.of(channel)
    if len(samples) < 2:
        return None
    period_s = _period_s(channel, samples)
    if channel.quantity == "power":
        return _line(channel, samples, period_s)
    step_s = max(_COUNTER_PERIODS * period_s, (samples[-1].t_s - samples[0].t_s) / (SERIES_POINTS / 4))
    means = list(_means(samples, channel.range, step_s))
    return _line(channel, means, step_s, over_s=step_s) if means else None


def _period_s(channel: Channel, samples: Sequence[Sample]) -> float:
    """Return how often there is something new to read: the update period, or the reader's pace if slower."""
    apart = sorted(b.t_s - a.t_s for a, b in pairwise(samples))
    read_s = apart[len(apart) // 2] if apart else 0.0
    return max(read_s, channel.period_s) if isinstance(channel.period_s, float) else read_s


def _means(samples: Sequence[Sample], range_j: float | None, step_s: float) -> Iterator[Sample]:
    """Return mean powers of a counter, at the middle of at least ``step_s`` each; none over a step back."""
    before = samples[0]
    for sample in samples[1:]:
        elapsed_s = sample.t_s - before.t_s
        if elapsed_s < step_s:
            continue
        rise_j = sample.value - before.value
        rise_j += range_j if rise_j < 0 and range_j is not None else 0.0
        if rise_j >= 0:
            yield Sample((before.t_s + sample.t_s) / 2, rise_j / elapsed_s)
        before = sample


def _line(channel: Channel, samples: Sequence[Sample], period_s: float, over_s: float | None = None) -> Line:
    kept = thin_series([sample.value for sample in samples], SERIES_POINTS)
    gaps = [i for i, (a, b) in enumerate(pairwise(samples)) if b.t_s - a.t_s > _HOLD_PERIODS * period_s * (1 + 1e-9)]
    times: list[float] = []
    values: list[float | None] = []
    waiting = iter(gaps)
    gap = next(waiting, None)
    for index in kept:
        if gap is not None and gap < index:
            times.append(samples[gap].t_s)
            values.append(None)
            while gap is not None and gap < index:
                gap = next(waiting, None)
        times.append(samples[index].t_s)
        values.append(samples[index].value)
    return Line(channel=channel, times_s=tuple(times), values=tuple(values), over_s=over_s)
