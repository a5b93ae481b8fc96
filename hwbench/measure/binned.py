"""A timed window in parts: the latency in each, and the machine at its end."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hwbench.energy.recorder import Window
from hwbench.measure.loop import CHUNK_NS, Tick, sample
from hwbench.measure.session import Edges, Session, energy_of
from hwbench.measure.stop import Duration
from hwbench.records.base import Missing
from hwbench.records.device import HostState
from hwbench.records.modes import Bin, Series
from hwbench.stats import quantile, supported_percentile

MOST_SAMPLES = 1_000_000  # of those kept
_CHUNKS = 20  # in a part, at the least: it ends that exactly


@dataclass(frozen=True, kw_only=True)
class _Part:
    """What is kept of a part until the window has closed."""

    span_s: tuple[float, float]
    inferences: int
    median_s: float
    p90_s: float | Missing
    hosts: tuple[HostState, HostState]
    recorded: Window


def sample_in_bins(session: Session, seconds: float, bin_s: float, rest_s: float) -> tuple[array[int], Edges, Series]:
    """Sample one stream for ``seconds``, and look at the machine after every ``bin_s``; the looks are in no sample.

    The parts lie on a fixed grid: what a slow inference takes from the next part is not made up for. A part that an
    inference outlasts is left out. Inside the window no more is done with a part's samples than to pick their quantiles
    in place: the load must not pause, nor the peak of memory be that of the statistics.
    """
    kept, parts = array("q"), list[_Part]()
    every, chunk_ns = 0, min(CHUNK_NS, round(bin_s * 1e9 / _CHUNKS))
    with session.window() as edges:
        before = edges.host_before
        number = 0
        while number * bin_s < seconds - 1e-9:
            number += 1
            start_s = _since(session, edges)
            edge_s = min(number * bin_s, seconds)
            if start_s >= edge_s:
                continue
            with session.recorder.window("bin") as recorded:
                samples = sample(
                    session.calls[0],
                    session.clock,
                    Duration(seconds=edge_s - start_s),
                    _within(session.tick("measure"), start_s / seconds, edge_s / seconds),
                    longest_chunk_ns=chunk_ns,
                )
                end_s = _since(session, edges)
            after = session.host()
            every = every or max(1, math.ceil(len(samples) * (seconds / bin_s) / MOST_SAMPLES))
            kept.extend(samples[::every])
            median_s, p90_s = _quantiles(samples)
            parts.append(
                _Part(
                    span_s=(start_s, end_s),
                    inferences=len(samples),
                    median_s=median_s,
                    p90_s=p90_s,
                    hosts=(before, after),
                    recorded=recorded,
                )
            )
            before = after
    bins = [_bin(part, session) for part in parts]
    series = Series(
        rest_s=rest_s, bin_s=bin_s, kept_every=every, bins=tuple(bins), last_over_first=_last_over_first(bins)
    )
    return kept, edges, series


def _since(session: Session, edges: Edges) -> float:
    return (session.clock.now_ns() - edges.opened_ns) / 1e9


def _quantiles(samples: array[int]) -> tuple[float, float | Missing]:
    """Return median and p90 in seconds; the samples are put out of order, in place and in linear time."""
    view, last = np.frombuffer(samples, dtype=np.int64), len(samples) - 1
    view.partition(sorted({min(math.floor(last * p) + more, last) for p in (0.5, 0.9) for more in (0, 1)}))
    p90_ns = supported_percentile(view, 0.9)  # type: ignore[arg-type]  # it is asked for its length and two items
    p90_s = p90_ns if isinstance(p90_ns, Missing) else float(p90_ns) / 1e9
    return float(quantile(view, 0.5)) / 1e9, p90_s  # type: ignore[arg-type]


def _bin(part: _Part, session: Session) -> Bin:
    before, after = (host.throttle_events for host in part.hosts)
    host = part.hosts[1]
    reading = energy_of(session.chosen, part.recorded)
    events = before if isinstance(before, Missing) else after
    if not isinstance(before, Missing) and not isinstance(after, Missing):
        events = after - before
    return Bin(
        start_s=part.span_s[0],
        end_s=part.span_s[1],
        inferences=part.inferences,
        median_s=part.median_s,
        p90_s=part.p90_s,
        inferences_per_s=part.inferences / (part.span_s[1] - part.span_s[0]),
        temperature_c=host.heat_c,
        clock_hz=host.clock_hz,
        throttle_events=events,
        power_w=reading if isinstance(reading, Missing) else reading.energy_j / reading.window_s,
        throttled_s={} if isinstance(reading, Missing) else dict(reading.throttled_s),
    )


def _last_over_first(bins: Sequence[Bin]) -> float | Missing:
    if len(bins) < 2:
        return Missing(code="one_part", why="one part has nothing to be compared with", cure="run longer (--duration)")
    return (
        bins[-1].median_s / bins[0].median_s
        if bins[0].median_s > 0
        else Missing(code="near_clock", why="the first part's median is zero by this clock")
    )


def _within(tick: Tick, low: float, high: float) -> Tick:
    """Return what tells of a part that goes from ``low`` to ``high`` of the whole."""
    return lambda fraction: tick(low + fraction * (high - low))
