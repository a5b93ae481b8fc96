"""What single modes bring back beside samples, and what is computed from several runs of one engine."""

from __future__ import annotations

from typing import Literal

from hwbench.records.base import Missing, Record, check, check_finite


class WarmWindow(Record, frozen=True, kw_only=True):
    """A stretch of the warm-up of mode ``steady``, ``end_s`` after its beginning."""

    end_s: float
    median_s: float
    temperature_c: float | Missing


class SteadyState(Record, frozen=True, kw_only=True, tag_field="kind", tag="steady_state"):
    """How a machine was brought to a plateau before it was timed, and what the plateau was judged by.

    ``median_change``: larger of the last two changes between medians of successive windows, as a share.
    ``temperature_slope_c_per_10s``: over the last ten seconds or more. Each has its limit; a temperature that cannot be
    read is not judged. ``reached`` is false where the longest time ran out first.
    """

    reached: bool
    after_s: float
    median_change: float | Missing
    median_change_limit: float
    temperature_slope_c_per_10s: float | Missing
    temperature_slope_limit_c_per_10s: float
    longest_s: float
    windows: tuple[WarmWindow, ...]

    @property
    def basis(self) -> str:
        """What the plateau was judged by, in words."""
        change, slope = self.median_change, self.temperature_slope_c_per_10s
        median = change.why if isinstance(change, Missing) else f"median changed by {change:.1%}"
        heat = slope.why if isinstance(slope, Missing) else f"temperature by {slope:+.1f} °C in 10 s"
        limits = f"limits {self.median_change_limit:.0%} and {self.temperature_slope_limit_c_per_10s:g} °C"
        return f"{median}, {heat} ({limits})"


class Bin(Record, frozen=True, kw_only=True):
    """One part of a timed window, with the machine read at its end; seconds since the window opened.

    ``clock_hz``: of the GPU where one is measured, else mean over the CPUs, at the end. ``throttle_events``: in this
    part. ``power_w`` and ``throttled_s`` (by reason): of the energy meter, where it resolves so short a time.
    """

    start_s: float
    end_s: float
    inferences: int
    median_s: float
    p90_s: float | Missing
    inferences_per_s: float
    temperature_c: float | Missing
    clock_hz: float | Missing
    throttle_events: int | Missing
    power_w: float | Missing
    throttled_s: dict[str, float] = {}

    def __post_init__(self) -> None:
        check(0 <= self.start_s < self.end_s, "a part of a window has a length")


class Series(Record, frozen=True, kw_only=True, tag_field="kind", tag="series"):
    """A timed window in parts of ``bin_s`` each, after ``rest_s`` of doing nothing.

    ``last_over_first``: median of the last part over that of the first; above 1 it became slower. ``kept_every``: of
    the inferences, so many-th are samples of the measurement (a long run of a fast model would fill the disk); the
    parts are over all of them.
    """

    rest_s: float
    bin_s: float
    kept_every: int
    bins: tuple[Bin, ...]
    last_over_first: float | Missing

    def __post_init__(self) -> None:
        check(bool(self.bins), "a series has parts")


class Spread(Record, frozen=True, kw_only=True):
    """A few statistics of a time; percentiles as in ``LatencySummary``."""

    mean_s: float
    median_s: float
    p90_s: float | Missing
    p99_s: float | Missing
    max_s: float


class TimerError(Record, frozen=True, kw_only=True, tag_field="kind", tag="timer_error"):
    """How late idle workers began: the load generator's own error, which is in the latency of these queries.

    Over the ``waits`` queries that found a worker waiting for them. A busy worker's lateness is queueing, not this.
    """

    method: str
    waits: int
    median_s: float
    p99_s: float | Missing
    max_s: float


class ServerRun(Record, frozen=True, kw_only=True, tag_field="kind", tag="server"):
    """Open-loop load: queries arrive at random moments, whether or not the earlier ones have been answered.

    The samples of the measurement are latencies from the *scheduled* arrival, in order of arrival. Each is
    ``queueing`` (until a worker took it, the timer's error included) plus ``service``. ``offered_load``: arrivals a
    second times the mean service time, over the workers; at 1 a queue grows without end. ``backlog``: queries that had
    arrived and were not answered when the last one arrived. ``unserved``: those given up after as long again; they are
    in no statistic.
    """

    rate_per_s: float
    seed: int
    workers: int
    arrivals: int
    unserved: int
    arrived_per_s: float
    completed_per_s: float
    offered_load: float
    backlog: int
    backlog_grew: bool
    queueing: Spread
    service: Spread
    timer: TimerError | Missing
    arrivals_ns: tuple[int, ...]  # scheduled, since the window opened; one for each sample
    service_ns: tuple[int, ...]  # one for each sample

    def __post_init__(self) -> None:
        check(len(self.arrivals_ns) == len(self.service_ns), "each query has an arrival and a service time")
        check(self.arrivals == len(self.arrivals_ns) + self.unserved, "every arrival is served or not")


class ColdStart(Record, frozen=True, kw_only=True):
    """One process from its start to its first answer, and what the time went into.

    ``interpreter``: until hwbench's worker begins (Python and its imports). ``runtime``: importing the engine's.
    ``other``: reading the inputs, binding, and what hwbench itself does in between. They add up to ``total_s``.
    """

    total_s: float
    interpreter_s: float
    runtime_s: float
    load_s: float | Missing
    compile_s: float | Missing
    first_inference_s: float
    other_s: float


class ColdRun(Record, frozen=True, kw_only=True, tag_field="kind", tag="cold"):
    """Fresh processes, one after the other; the samples of the measurement are their totals."""

    starts: tuple[ColdStart, ...]
    page_cache: str  # in words: what the files were in

    def __post_init__(self) -> None:
        check(bool(self.starts), "there are no starts")


class BuildVariance(Record, frozen=True, kw_only=True, tag_field="kind", tag="builds"):
    """Several builds of one engine, each in a process of its own: how much they differ, and how much each scatters.

    One-way random effects over ``parts`` medians a build (each of a stretch of its run): ``between_s`` and ``within_s``
    are standard deviations, ``icc`` the share of the variance that lies between builds. ``mean_s`` is of the builds'
    medians, ``low_s`` and ``high_s`` its 95 % interval.
    """

    medians_s: tuple[float, ...]
    parts: int
    mean_s: float
    low_s: float
    high_s: float
    between_s: float
    within_s: float
    icc: float | Missing
    method: str

    def __post_init__(self) -> None:
        check(len(self.medians_s) >= 2, "a variance needs two builds")
        check_finite(self, "mean_s", "between_s", "within_s", "icc")
        check_finite(self, "low_s", "high_s", minimum=None)


class EarlyStopping(Record, frozen=True, kw_only=True, tag_field="kind", tag="early_stopping"):
    """The estimate of a percentile that holds with ``confidence`` however few the queries were.

    ``rank`` is from the slowest, 1 being the slowest: the ``rank - 1`` slowest queries are left out.
    """

    percentile: float
    confidence: float
    queries: int
    rank: int
    estimate_s: float


class Requirement(Record, frozen=True, kw_only=True):
    """One rule, and whether it was kept; ``not_checked``: hwbench cannot tell or does not do it."""

    name: str
    verdict: Literal["holds", "does_not_hold", "not_checked"]
    why: str


class PresetCheck(Record, frozen=True, kw_only=True, tag_field="kind", tag="preset"):
    """What became of a preset: its metric, and each of its rules. ``statement`` says what it is not."""

    name: str
    statement: str
    metric: str
    value: float | Missing  # seconds for a latency, queries or samples a second for a rate
    unit: str
    early_stopping: EarlyStopping | Missing
    requirements: tuple[Requirement, ...]
