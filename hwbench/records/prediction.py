"""What a network is expected to cost on a device that nobody has measured it on, and what a probe of one brought back.

Nothing here is a measurement of the network: every prediction says of which tier it is, and on how many residuals its
interval rests.
"""

from __future__ import annotations

import math
from typing import Literal

from hwbench.records.base import Missing, Record, check, check_finite
from hwbench.records.planning import Interval
from hwbench.records.quantization import Scheme

PREDICTION_SCHEMA = 1
PROBE_SCHEMA = 1
PRIORS_SCHEMA = 1

Family = Literal["conv", "depthwise", "matmul", "elementwise", "function"]
Bound = Literal["arithmetic", "memory", "launch"]


class Work(Record, frozen=True, kw_only=True):
    """What one executed unit has to do: a layer that multiplies with what is fused to it, or a layer that does not.

    The product is of ``positions`` rows, ``channels_in`` deep and ``channels_out`` wide, ``groups`` times; all of them
    are 1 where nothing is multiplied. ``function``: many instructions an element (Softmax, LayerNormalization, GELU).
    ``reads``: the works whose results it takes, with the elements that pass; ``ends``: elements that come from outside
    the network or leave it.
    """

    name: str
    layers: tuple[str, ...]
    family: Family
    scheme: Scheme
    macs: int
    positions: int
    channels_in: int
    channels_out: int
    groups: int
    elements_in: int
    elements_out: int
    weights: int
    reads: dict[str, int] = {}
    ends: int = 0


class UnitPrediction(Record, frozen=True, kw_only=True):
    """The time of one unit: ``launch_s`` and the longer of ``arithmetic_s`` and ``memory_s``; ``bound``: the longest.

    ``arithmetic``: what it is computed in. ``level``: the memory level that its tensors fit.
    """

    name: str
    layers: tuple[str, ...]
    family: Family
    arithmetic: str
    time_s: float
    arithmetic_s: float
    memory_s: float
    launch_s: float
    bound: Bound
    level: str

    def __post_init__(self) -> None:
        check_finite(self, "time_s", "arithmetic_s", "memory_s", "launch_s")


class PredictedEnergy(Record, frozen=True, kw_only=True, tag_field="kind", tag="predicted"):
    """Energy of one inference of the whole device, with its interval; ``basis``: the prior it comes from, in words."""

    value_j: float
    low_j: float
    high_j: float
    coverage: float
    basis: str

    def __post_init__(self) -> None:
        check(0 <= self.low_j <= self.value_j <= self.high_j < math.inf, "the interval must contain the value")


class Prediction(Record, frozen=True, kw_only=True):
    """What ``hwbench predict`` writes: one network on one kind of device, not measured.

    ``device`` is a profile's name. ``borders_s``: conversions between precisions, which is part of the latency.
    ``assumptions``: what was taken to be so where nobody publishes it. ``not_counted``: operators of unknown cost.
    """

    schema_version: int
    model: str
    hub_sha256: str
    device: str
    title: str
    engine: str
    precision: str
    threads: int
    power_mode: str | Missing
    probe: str | Missing
    latency: Interval
    energy: PredictedEnergy | Missing
    fixed_s: float
    borders_s: float
    units: tuple[UnitPrediction, ...]
    assumptions: tuple[str, ...] = ()
    not_counted: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_finite(self, "fixed_s", "borders_s")


class Ordering(Record, frozen=True, kw_only=True):
    """Two networks on one device: ``ratio`` is the time of ``a`` over that of ``b``.

    What is common to both (the device, the runtime) cancels, so the ratio is better known than either time.
    """

    a: str
    b: str
    ratio: Interval
    a_is_faster_probability: float

    def __post_init__(self) -> None:
        check(0 <= self.a_is_faster_probability <= 1, "a probability lies between 0 and 1")


class EnginePriors(Record, frozen=True, kw_only=True):
    """What was fitted on one runtime on one machine: natural logarithms of shares of the roof and of seconds.

    ``n``: networks. ``spread``: root mean square of log residuals, each network predicted from all others.
    """

    engine: str
    version: str
    device: str
    threads: int
    n: int
    logs: dict[str, float]
    spread: float


class Priors(Record, frozen=True, kw_only=True):
    """What efficiency to expect of a class of device: fitted where it could be measured, by runtime.

    ``held_out``: log of measured over predicted, one mean a runtime, predicted from the other runtimes alone.
    """

    schema_version: int
    about: str
    engines: tuple[EnginePriors, ...]
    held_out: dict[str, float]
    within_spread: float


class ProbePoint(Record, frozen=True, kw_only=True):
    """One anchor that was run on the device; ``samples_ns`` as they came, after ``warmup`` runs that are not in it."""

    anchor: str
    precision: str
    warmup: int
    samples_ns: tuple[int, ...]
    median_s: float

    def __post_init__(self) -> None:
        check(len(self.samples_ns) >= 3 and min(self.samples_ns) > 0, f"{self.anchor}: too few samples, or not times")
        check(math.isfinite(self.median_s) and self.median_s > 0, f"{self.anchor}: median_s must be a positive number")
        ordered = sorted(self.samples_ns)
        middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2e9
        check(abs(self.median_s / middle - 1) < 1e-6, f"{self.anchor}: median_s is not the median of its samples")


class Probe(Record, frozen=True, kw_only=True):
    """``probe.json``: what the program of a probe pack measured on a device.

    ``pack``: the version of the anchors. ``clock``: ``cpu`` is the time that one thread was running, taken on a machine
    that others use. ``facts``: what the system told (CPU, governor, versions), in its own words.
    ``sha256``: over everything else, as JSON with sorted keys.
    """

    schema_version: int
    program: Literal["hwbench-probe"]
    pack: int
    runtime: str
    runtime_version: str
    provider: str
    threads: int
    clock: Literal["wall", "cpu"]
    started_at: str
    peak_rss_bytes: int | None
    facts: dict[str, str]
    points: tuple[ProbePoint, ...]
    failed: dict[str, str]
    sha256: str

    def __post_init__(self) -> None:
        check(bool(self.points), "no anchor was measured")
        names = [(point.anchor, point.precision) for point in self.points]
        check(len(names) == len(set(names)), "an anchor is there twice")
