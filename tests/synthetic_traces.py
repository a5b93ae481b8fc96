"""Synthetic traces of energy runs: a true power over time, sensors of every kind that look at it, marks in between.

The truth is a function ``watts(t_s)``; what a sensor shows of it is computed here, so that a test knows both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import msgspec
from fixtures_results import make_measurement, make_result

from hwbench.energy.integrate import Sample
from hwbench.energy.protocol import TRACE
from hwbench.energy.trace import Trace, write_trace
from hwbench.files import write_record
from hwbench.records.base import Missing
from hwbench.records.energy import TRACE_SCHEMA, Channel, Mark, TraceHeader


def channel(name="board", quantity="power", **changes):
    """A channel that is added up, ideal but for what is said."""
    given = {"role": "total", "source": "synthetic", "period_s": 0.1, "sensed_s": 0.1, "lsb": 1.0}
    return Channel(name=name, quantity=quantity, **(given | changes))


def trace_of(channels, samples, marks=(), **header):
    """A trace of given samples by channel name."""
    given = {
        "schema_version": TRACE_SCHEMA,
        "meter": "synthetic",
        "boundary": "the synthetic board",
        "provenance": "measured_onboard",
        "clock": "FakeClock",
        "started_at": "2026-01-01T00:00:00+00:00",
    }
    made = Trace(TraceHeader(channels=tuple(channels), **(given | header)))
    made.samples = {name: [Sample(*item) for item in items] for name, items in samples.items()}
    made.marks = list(marks)
    return made


def energy_j(watts, start_s, end_s, step_s=0.001):
    """The true energy, by fine midpoints."""
    n = max(1, math.ceil((end_s - start_s) / step_s - 1e-9))
    step = (end_s - start_s) / n
    return math.fsum(watts(start_s + (i + 0.5) * step) for i in range(n)) * step


def power_samples(watts, end_s, period_s=0.1, *, averaging_s=0.0, sensed_s=0.0, start_s=0.0, lsb=0.0, gain=1.0):
    """What a power sensor shows: the mean over the last ``averaging_s`` or ``sensed_s``, else the value of now."""
    over_s = averaging_s or sensed_s
    found = []
    for i in range(round((end_s - start_s) / period_s) + 1):
        t_s = start_s + i * period_s
        value = energy_j(watts, t_s - over_s, t_s, over_s / 50) / over_s if over_s else watts(t_s)
        value *= gain
        found.append(Sample(t_s, round(value / lsb) * lsb if lsb else value))
    return found


def counter_samples(watts, end_s, update_s=0.1, *, read_s=None, start_j=1000.0, range_j=None, gain=1.0):
    """What a counter shows that changes every ``update_s`` and is read every ``read_s``."""
    updates = [start_j]
    for i in range(round(end_s / update_s) + 1):
        updates.append(updates[-1] + gain * energy_j(watts, i * update_s, (i + 1) * update_s, update_s / 5))
    read_s = read_s or update_s
    found = []
    for i in range(round(end_s / read_s) + 1):
        t_s = i * read_s
        value = updates[min(len(updates) - 1, math.floor(t_s / update_s + 1e-6))]
        found.append(Sample(t_s, value % range_j if range_j else value))
    return found


def square(t_s, *, period_s=1.0, high_w=100.0, duty=0.5, low_w=0.0):
    """A load that is on for the first part of each period."""
    return high_w if (t_s + 1e-9) % period_s < duty * period_s else low_w


@dataclass
class Schedule:
    """An energy run as the protocol asks for it: phases with their power, and the marks of them."""

    idle_w: float = 20.0
    load_w: float = 100.0
    idle_s: float = 12.0
    warmup_s: float = 24.0
    window_s: float = 10.0
    windows: int = 5
    tail_s: float = 2.0
    inferences: int = 1000
    paused_s: float = 0.0
    idle_after_w: float | None = None
    drift_w_per_s: float = 0.0  # while loaded
    host: dict[str, float] = field(default_factory=lambda: {"clocks_locked": 1.0})
    host_after: dict[str, float] = field(default_factory=dict)

    def __post_init__(self):
        self.idle_end = 1 + self.idle_s
        self.warm_start = self.idle_end + 1
        self.first_window = self.warm_start + self.warmup_s
        self.last_end = self.first_window + self.windows * self.window_s
        self.load_end = self.last_end + self.tail_s
        self.idle_start = self.load_end + 1
        self.end_s = self.idle_start + self.idle_s + 1

    def watts(self, t_s):
        if self.warm_start <= t_s < self.load_end:
            return self.load_w + self.drift_w_per_s * (t_s - self.warm_start)
        return self.idle_w if t_s < self.warm_start or self.idle_after_w is None else self.idle_after_w

    def marks(self):
        facts = {"inferences": float(self.inferences), "paused_s": self.paused_s}
        made = [*span("idle_before", 1, self.idle_end), *span("warmup", self.warm_start, self.first_window)]
        for i in range(self.windows):
            start_s = self.first_window + i * self.window_s
            made += span("window", start_s, start_s + self.window_s, facts)
        made += span("tail", self.last_end, self.load_end)
        made += span("idle_after", self.idle_start, self.idle_start + self.idle_s)
        made.append(Mark(t_s=0.5, mark="host", facts=self.host))
        made.append(Mark(t_s=self.warm_start - 0.5, mark="host", facts=self.host))
        made.append(Mark(t_s=self.load_end + 0.5, mark="host", facts=self.host | self.host_after))
        made.append(Mark(t_s=self.end_s, mark="host", facts=self.host | self.host_after))
        made.append(Mark(t_s=self.end_s, mark="recorder", facts={"cpu_s": 0.2, "span_s": self.end_s}))
        return sorted(made, key=lambda mark: mark.t_s)

    def trace(self, *channels, samples=None, **header):
        """The trace of ideal sensors, or of ``samples`` where they are given."""
        made = dict(samples or {})
        for one in channels:
            if one.name not in made:
                period = one.period_s if isinstance(one.period_s, float) else 0.1
                make = counter_samples if one.quantity == "energy" else power_samples
                made[one.name] = make(self.watts, self.end_s, period)
        return trace_of(channels, made, self.marks(), **header)


def span(name, start_s, end_s, facts=None):
    """Both marks of a phase."""
    return [Mark(t_s=start_s, mark=f"{name}.start"), Mark(t_s=end_s, mark=f"{name}.end", facts=facts or {})]


LEAD_S = 20.0  # the run begins after the first pulses
ON_S = (2.0, 4.0, 2.0)


class ExternalRun:
    """A run as the energy mode leaves it for an external meter: marks and pulses, no readings."""

    def __init__(self):
        self.schedule = Schedule()
        self.pulses = []
        for begin_s in (4.0, LEAD_S + self.schedule.end_s + 2):
            at_s = begin_s
            for on_s in ON_S:
                self.pulses.append((at_s, at_s + on_s))
                at_s += on_s + 2.0
        self.end_s = self.pulses[-1][1] + 5

    def watts(self, t_s):
        if any(a <= t_s < b for a, b in self.pulses):
            return self.schedule.load_w
        inside = LEAD_S <= t_s < LEAD_S + self.schedule.end_s
        return self.schedule.watts(t_s - LEAD_S) if inside else self.schedule.idle_w

    def trace(self):
        marks = [msgspec.structs.replace(mark, t_s=mark.t_s + LEAD_S) for mark in self.schedule.marks()]
        marks += [mark for a, b in self.pulses for mark in span("pulse", a, b)]
        return trace_of([], {}, sorted(marks, key=lambda mark: mark.t_s), meter="none", not_used={"rapl": "not here"})

    def record(self, path):
        """Write what an external meter would: a table, begun 3 s before the run, on a clock of its own."""
        samples = power_samples(self.watts, self.end_s, 0.05, sensed_s=0.05, start_s=-3.0)
        lines = ["time (s),power (W)", *(f"{s.t_s + 41.3:.4f},{s.value:.4f}" for s in samples)]
        path.write_text("\n".join(lines) + "\n")
        return path


def external_result(folder, run, also=False):
    """Write a result of two engines, the first (or both) measured for an external meter."""
    pending = Missing(code="no_readings", why="marks alone")
    first, second = make_measurement("onnxruntime"), make_measurement("openvino")
    mode = msgspec.structs.replace(first.settings, mode="energy")
    first = msgspec.structs.replace(first, energy_run=pending, settings=mode)
    if also:
        second = msgspec.structs.replace(second, energy_run=pending, settings=mode)
    measurements = (first, second)
    write_record(folder / "result.json", msgspec.structs.replace(make_result(), measurements=measurements))
    path = folder / "runs" / f"onnxruntime-{first.precision_asked}"
    path.mkdir(parents=True)
    write_trace(path / TRACE, run.trace())
    return folder
