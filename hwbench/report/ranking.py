"""Which measurement of a result is fastest, and whether that can be told at all.

Only measurements that may be believed take part, and of saved engines only those whose accuracy is known: to be fast is
easy for a network that may be wrong. The first by its statistic is the best if its 95 % interval overlaps
no other's; otherwise it is tied with all those that it overlaps. (Intervals that do not overlap differ at well
under 5 %; intervals that overlap a little may still differ, which this leaves open on purpose.)
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hwbench.records.base import Missing
from hwbench.records.measurement import Accuracy, Measurement, Mode
from hwbench.units import format_seconds, format_si

WAIVED = "waived"  # code of a Missing accuracy: the user does not want to know
Mark = Literal["best", "tied"]


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The verdict over the measurements of one mode; indexes count in ``ProfileResult.measurements``."""

    marks: dict[int, Mark]
    first: int | None  # the lowest median (highest rate) that may be believed, tied or not
    sentence: str


@dataclass(frozen=True, kw_only=True)
class _Entry:
    index: int
    cost: float  # lower is better: seconds, or seconds per inference
    low: float
    high: float


def labels(measurements: Sequence[Measurement]) -> tuple[str, ...]:
    """Return a name for each measurement, unique among them: engine and built precision, and more where needed."""
    names = _extend([m.label for m in measurements], [f"(asked {m.precision_asked})" for m in measurements])
    names = _extend(names, [f"{m.settings.mode}" for m in measurements])
    return tuple(_extend(names, [f"#{index + 1}" for index in range(len(names))]))


def rank(measurements: Sequence[Measurement], mode: Mode) -> Ranking:
    """Rank the measurements that were taken in ``mode``."""
    entries = sorted(
        (entry for index, m in enumerate(measurements) if (entry := _entry(index, m, mode)) is not None),
        key=lambda entry: entry.cost,
    )
    silent = _unclaimed(measurements, mode)
    if not entries:
        return Ranking(marks={}, first=None, sentence=silent or _nothing(measurements, mode))
    best = entries[0]
    tied = [entry for entry in entries[1:] if entry.low <= best.high]
    if len(entries) == 1:
        marks: dict[int, Mark] = {}
    elif tied:
        marks = {entry.index: "tied" for entry in (best, *tied)}
    else:
        marks = {best.index: "best"}
    sentence = _sentence(measurements, mode, entries, tied)
    return Ranking(marks=marks, first=best.index, sentence=f"{sentence} {silent}" if silent else sentence)


def unclaimed(measurement: Measurement) -> bool:
    """Say whether nothing may be said of its speed, since nothing is known of its accuracy."""
    accuracy = measurement.accuracy
    known = isinstance(accuracy, Accuracy) and accuracy.artefact_sha256 == measurement.artefact_sha256
    waived = isinstance(accuracy, Missing) and accuracy.code == WAIVED
    return isinstance(measurement.artefact_sha256, str) and not (known or waived)


def value_with_interval(measurement: Measurement) -> str | None:
    """Return the statistic that ranks, with its interval: ``median 2.31 ms (95% interval 2.30 ms to 2.33 ms)``."""
    latency, throughput = measurement.latency, measurement.throughput
    if not isinstance(latency, Missing):
        median, interval = format_seconds(latency.median_s, 4), latency.interval_s
        if isinstance(interval, Missing):
            return f"median {median} (no 95% interval: {latency.n} samples)"
        low, high = (format_seconds(bound, 4) for bound in interval)
        return f"median {median} (95% interval {low} to {high})"
    if not isinstance(throughput, Missing):
        low, high = format_si(throughput.low_per_s, "", 4).strip(), format_si(throughput.high_per_s, "/s", 4)
        return f"{format_si(throughput.inferences_per_s, '/s', 4)} (95% interval {low} to {high})"
    return None


def _entry(index: int, measurement: Measurement, mode: Mode) -> _Entry | None:
    if measurement.settings.mode != mode or measurement.validity.status == "invalid" or unclaimed(measurement):
        return None
    latency, rate = measurement.latency, measurement.throughput
    if not isinstance(latency, Missing):
        interval = latency.interval_s
        low, high = (0.0, math.inf) if isinstance(interval, Missing) else interval  # any value may be the true one
        return _Entry(index=index, cost=latency.median_s, low=low, high=high)
    if not isinstance(rate, Missing) and rate.low_per_s > 0:
        return _Entry(index=index, cost=1 / rate.inferences_per_s, low=1 / rate.high_per_s, high=1 / rate.low_per_s)
    return None


def _sentence(measurements: Sequence[Measurement], mode: Mode, entries: list[_Entry], tied: list[_Entry]) -> str:
    names = labels(measurements)
    best = measurements[entries[0].index]
    name, value = names[entries[0].index], value_with_interval(best)
    reserve = f" {name} is suspect; see the findings." if best.validity.status == "suspect" else ""
    reserve = f"{_accuracy(best)}{reserve}"
    if len(entries) == 1:
        return f"Only {name} gave numbers that may be believed: {value}. There is nothing to rank it against.{reserve}"
    if tied:
        others = ", ".join(names[entry.index] for entry in tied)
        return (
            f"{name} ({value}) is tied with {others}: their 95% intervals overlap, so this run does not tell "
            f"which is faster.{reserve}"
        )
    following = entries[1]
    ratio = following.cost / entries[0].cost
    quantity = {"throughput": "time per inference", "cold": "time to start"}.get(mode, "latency")
    return (
        f"{name} is fastest: {value}. Next is {names[following.index]}, with {ratio:.2f} times the {quantity}.{reserve}"
    )


def _accuracy(measurement: Measurement) -> str:
    """Return what is known of the accuracy of a saved engine, as a sentence."""
    found = measurement.accuracy
    if isinstance(found, Accuracy):
        word = "" if isinstance(found.certificate, Missing) else f", {found.certificate}"
        return f" Its {found.metric}: {found.value:.4g} ({found.low:.4g} to {found.high:.4g}, n = {found.n}{word})."
    return " Its accuracy was not asked for." if found.code == WAIVED else ""


def _unclaimed(measurements: Sequence[Measurement], mode: Mode) -> str:
    """Say of which measurements no speed is claimed; empty where there are none."""
    names = labels(measurements)
    found = [names[index] for index, m in enumerate(measurements) if m.settings.mode == mode and unclaimed(m)]
    if not found:
        return ""
    return (
        f"No speed is claimed of {', '.join(found)}: its accuracy is not known. `hwbench verify` it on labelled data; "
        "`hwbench report --no-accuracy` claims without."
    )


def _nothing(measurements: Sequence[Measurement], mode: Mode) -> str:
    if not any(m.settings.mode == mode for m in measurements):
        return "No engine was measured."
    return "No measurement here may be believed; see the findings."


def _extend(names: Sequence[str], suffixes: Sequence[str]) -> list[str]:
    """Add its suffix to every name that occurs more than once."""
    count = Counter(names)
    return [f"{name} {suffix}" if count[name] > 1 else name for name, suffix in zip(names, suffixes, strict=True)]
