"""Energy: what an instrument is, what it recorded, and what follows for a window.

A :class:`Trace` is the data: raw readings of channels, and marks that say what the machine was doing. Every energy that
hwbench prints is a function of one, so it can be computed again from the file.
"""

from __future__ import annotations

import math
from typing import Literal

from hwbench.records.base import Missing, Record, check, check_finite

TRACE_SCHEMA = 1

Provenance = Literal["measured_external", "measured_onboard", "vendor_modelled", "replayed"]
Quantity = Literal["energy", "power", "throttled", "temperature", "frequency", "current", "voltage"]
UNITS: dict[Quantity, str] = {
    "energy": "J",  # cumulative
    "power": "W",
    "throttled": "s",  # cumulative
    "temperature": "°C",
    "frequency": "Hz",
    "current": "A",
    "voltage": "V",
}
Role = Literal["total", "check", "part", "context"]


class Channel(Record, frozen=True, kw_only=True):
    """One thing that an instrument reads, and what is known of its readings.

    ``role``: ``total``, it is added up to the energy; ``check``, another view of that same energy, held against it;
    ``part``, a breakdown that must not be added; ``context``, anything else. ``averaging_s``: each reading is the mean
    over so long a time before it. ``sensed_s``: of each update period, so much is really looked at (NVML on A100 and
    H100: 25 of 100 ms). ``range``: where a cumulative counter restarts from zero. ``gain`` is relative and ``offset``
    in the channel's unit, both standard uncertainties (k=1); ``lsb`` is the size of one step.
    """

    name: str
    quantity: Quantity
    role: Role
    source: str  # path or call
    period_s: float | Missing
    averaging_s: float | Missing = 0.0
    sensed_s: float | Missing = Missing(code="not_known", why="how much of the time is sensed is not documented")
    lsb: float | Missing = Missing(code="not_known", why="the size of a step is not documented")
    range: float | None = None
    max_w: float | None = None  # no such channel draws more: a jump beyond is a fault
    gain: float = 0.0
    offset: float = 0.0
    gain_basis: str = ""
    essential: bool = True  # when no essential total channel moves, there is no reading
    may_mirror: bool = False  # may show the same register as another such channel

    def __post_init__(self) -> None:
        check_finite(self, "period_s", "averaging_s", "sensed_s", "lsb", "range", "max_w", "gain", "offset")
        check(not isinstance(self.period_s, float) or self.period_s > 0, "period_s must be positive")
        summed = self.role in {"total", "check"}
        check(not summed or self.quantity in {"energy", "power"}, f"{self.name}: only energy and power add up")

    @property
    def unit(self) -> str:
        return UNITS[self.quantity]


class TraceHeader(Record, frozen=True, kw_only=True):
    """The first line of a trace file.

    ``settings`` holds the instrument's own, as found; ``not_used`` the other meters, where the choice was left to
    hwbench, and why not they.
    """

    schema_version: int
    meter: str
    boundary: str
    provenance: Provenance
    clock: str
    started_at: str  # UTC; for people: nothing is computed from it
    channels: tuple[Channel, ...]
    settings: dict[str, str] = {}
    not_used: dict[str, str] = {}

    def __post_init__(self) -> None:
        names = [channel.name for channel in self.channels]
        check(len(names) == len(set(names)), "channel names must differ")


class Mark(Record, frozen=True, kw_only=True):
    """A moment that matters, on the clock of the readings: ``window.start``, ``window.end``, ``idle_before.start``."""

    t_s: float
    mark: str
    facts: dict[str, float] = {}

    def __post_init__(self) -> None:
        check_finite(self, "t_s", minimum=None)
        check(all(math.isfinite(value) for value in self.facts.values()), f"{self.mark}: facts must be finite")


class CrossCheck(Record, frozen=True, kw_only=True, tag_field="kind", tag="crosscheck"):
    """The same window through a second channel: ``ratio`` is the first one's energy over the second one's."""

    channel: str
    energy_j: float
    ratio: float

    def __post_init__(self) -> None:
        check_finite(self, "energy_j", "ratio")


class EnergyReading(Record, frozen=True, kw_only=True, tag_field="kind", tag="reading"):
    """Energy over one window from one instrument.

    ``provenance``: ``measured_external`` (a calibrated meter), ``measured_onboard`` (a sensor on the board),
    ``vendor_modelled`` (a vendor's activity model behind a counter). ``relative_uncertainty`` is k=2 (95 %) over
    gain, offset, edges, resolution and gaps (Type B); ``gain_uncertainty`` (k=2) is the part of it that all readings of
    this instrument share: it cancels in their ratios. ``domains_j`` is a breakdown; it need not add up to ``energy_j``.
    ``coverage`` is the part of the window that was really seen.
    """

    meter: str
    boundary: str
    provenance: Provenance
    energy_j: float
    window_s: float
    relative_uncertainty: float
    gain_uncertainty: float = 0.0
    domains_j: dict[str, float] = {}
    update_period_s: float | Missing
    coverage: float = 1.0
    crosscheck: CrossCheck | Missing = Missing(code="no_second_channel", why="the instrument has one view only")
    throttled_s: dict[str, float] = {}  # by reason, inside the window
    not_used: dict[str, str] = {}  # the other meters, where the choice was left to hwbench, and why not they
    clock: str
    flags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_finite(self, "energy_j", "relative_uncertainty", "gain_uncertainty")
        check(self.window_s > 0, "window_s must be positive")
        check(0 < self.coverage <= 1, "coverage must be in (0, 1]")


class Repeated(Record, frozen=True, kw_only=True, tag_field="kind", tag="repeated"):
    """A mean over repeated windows, with its two uncertainties apart.

    ``low`` and ``high``: 95 % interval of the mean by Student's t over the windows (Type A, repeatability: it holds for
    comparisons on this instrument). ``relative_uncertainty``: k=2, of the instrument (Type B: it does not average out,
    and is what the absolute value may be off by).
    """

    value: float
    low: float
    high: float
    stdev: float
    n: int
    relative_uncertainty: float

    def __post_init__(self) -> None:
        check_finite(self, "value", "low", "high", minimum=None)
        check_finite(self, "stdev", "relative_uncertainty")
        check(self.n >= 2 and self.low <= self.value <= self.high, "an interval over windows contains their mean")


class EnergySettings(Record, frozen=True, kw_only=True):
    """How an energy run is to go.

    ``window_s``: of each window, and of the idle phases; None takes the longer of 10 s and 100 update periods of the
    instrument. ``max_warmup_s``: so long is the plateau waited for.
    """

    repeats: int
    window_s: float | None
    max_warmup_s: float

    def __post_init__(self) -> None:
        check(self.repeats >= 2, f"{self.repeats} repeats have no interval; 2 are the least, 5 the rule")
        check_finite(self, "window_s", "max_warmup_s")


class EnergyWindow(Record, frozen=True, kw_only=True):
    """One repeat: inferences back to back, on the clock of the trace.

    ``paused_s``: of it, so long the loop waited on purpose, for a sensor that looks at a part of the time.
    """

    start_s: float
    end_s: float
    inferences: int
    paused_s: float = 0.0
    reading: EnergyReading | Missing


class Idle(Record, frozen=True, kw_only=True, tag_field="kind", tag="idle"):
    """Power without work, before and after, in a named state.

    ``idle_cold``: nothing loaded. ``idle_active``: model loaded, context alive, no work.
    """

    state: Literal["idle_cold", "idle_active"]
    before_w: float | Missing
    after_w: float | Missing
    mean_w: float
    standard_uncertainty_w: float  # k=1: edges, resolution, what the two sides differ by; not gain and offset
    window_s: float  # of each side

    def __post_init__(self) -> None:
        check_finite(self, "before_w", "after_w", "mean_w", "standard_uncertainty_w")


class PowerLevels(Record, frozen=True, kw_only=True, tag_field="kind", tag="power"):
    """Power over the repeats; ``p95_w`` and ``peak_w`` are of means over ``averaging_s`` each."""

    average_w: float
    p95_w: float | Missing
    peak_w: float | Missing
    averaging_s: float | Missing


class Plateau(Record, frozen=True, kw_only=True):
    """Whether the machine had settled before the repeats began, after how long, and by what that was seen."""

    reached: bool
    after_s: float
    by: str


class EnergyRun(Record, frozen=True, kw_only=True, tag_field="kind", tag="energy_run"):
    """Energy by the plateau method: idle, warm up until settled, repeated windows, idle. A function of the trace.

    ``total``: everything the boundary drew. ``dynamic``: less the idle power. Both in joules per inference.
    ``energy_delay_js``: total times the time per inference. ``recorder_cpu_share``: of one core, what recording cost.
    ``settings``: the instrument's own, as found. ``trace``: the file, as seen from the folder of the result, with its
    SHA-256. Each word in ``flags`` is explained in docs/energy.md.
    """

    meter: str
    boundary: str
    provenance: Provenance
    windows: tuple[EnergyWindow, ...]
    plateau: Plateau
    total_j: Repeated | Missing
    dynamic_j: Repeated | Missing
    idle: Idle | Missing
    inferences_per_j: float | Missing
    time_per_inference_s: float
    energy_delay_js: float | Missing
    power: PowerLevels | Missing
    throttled_s: dict[str, float]  # by reason; empty where the instrument does not tell
    start_c: float | Missing
    end_c: float | Missing
    crosscheck: CrossCheck | Missing
    recorder_cpu_share: float | Missing
    settings: dict[str, str] = {}
    not_used: dict[str, str] = {}
    flags: tuple[str, ...] = ()
    trace: str
    trace_sha256: str


class EnergyEstimate(Record, frozen=True, kw_only=True, tag_field="kind", tag="estimate"):
    """A model's guess at the energy, kept apart from every measured value; the band is part of the number."""

    method: str
    boundary: str
    energy_per_inference_j: float
    low_j: float
    high_j: float
    inputs: dict[str, str]

    def __post_init__(self) -> None:
        check(0 <= self.low_j <= self.energy_per_inference_j <= self.high_j, "the band must contain the estimate")
