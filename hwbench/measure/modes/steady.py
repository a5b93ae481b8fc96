"""Latency on a machine that has settled: warm up until temperature and running median stand still, then as latency.

What the plateau is judged by is in :mod:`hwbench.measure.plateau`, its course in the result.
"""

from __future__ import annotations

from array import array

from hwbench.measure.loop import sample
from hwbench.measure.modes import latency
from hwbench.measure.plateau import PlateauDetector
from hwbench.measure.session import Seen, Session
from hwbench.measure.stop import Duration
from hwbench.records.modes import SteadyState
from hwbench.stats import quantile

_LEAST = 3  # inferences in a window: one alone has no median


def run(session: Session) -> Seen:
    """Wait for the plateau, then measure whether or not it came."""
    last, state = warm_up(session)
    return latency.measure(session, last, {"steady_state": state})


def warm_up(session: Session) -> tuple[array[int], SteadyState]:
    """Run windows until the machine has settled or the longest time is over; return the last window's samples.

    The samples of the others are not kept: minutes of warm-up would be most of the result.
    """
    given, clock = session.settings.mode_settings, session.clock
    shortest_s = session.settings.warmup.settings["seconds"]
    detector = PlateauDetector(
        median_change=given["median_change"], slope_c_per_10s=given["temperature_slope_c_per_10s"]
    )
    tick, started = session.tick("warm-up"), clock.now_ns()
    while True:
        window = sample(session.calls[0], clock, Duration(seconds=given["window_s"], min_count=_LEAST), _silent)
        after_s = (clock.now_ns() - started) / 1e9
        median_s = quantile(sorted(window), 0.5) / 1e9
        settled = detector.add(after_s, median_s, session.host().heat_c) and after_s >= shortest_s
        tick(min(1.0, after_s / given["max_warmup_s"]))
        if settled or after_s >= given["max_warmup_s"]:
            break
    return window, SteadyState(
        reached=settled,
        after_s=after_s,
        median_change=detector.change,
        median_change_limit=detector.median_change,
        temperature_slope_c_per_10s=detector.slope,
        temperature_slope_limit_c_per_10s=detector.slope_c_per_10s,
        longest_s=given["max_warmup_s"],
        windows=tuple(detector.windows),
    )


def _silent(fraction: float) -> None:
    """Progress is towards the longest time, and told after each window."""
