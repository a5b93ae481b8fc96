"""Where a pattern of pulses lies in a power signal: correlation on a grid, then below the distance of two samples.

Pure arithmetic on arrays; :mod:`hwbench.energy.align` says what the offsets mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MOST_PPM = 500.0  # free-running crystals are within 100; more is another fault
STEPS_PER_PULSE = 20
_FINE_STEPS = 150

Floats = NDArray[np.float64]


class Pulse(NamedTuple):
    """A stretch of strong load, on our clock."""

    start_s: float
    end_s: float

    @property
    def length_s(self) -> float:
        return self.end_s - self.start_s


class Signal(NamedTuple):
    """Power over time; each reading is of ``width_s`` around its time."""

    times_s: Floats
    watts: Floats
    period_s: float
    width_s: float


class Found(NamedTuple):
    """The offset of each group on the grid, the correlation there, and the next best one elsewhere.

    ``quality`` and ``runner_up`` are means over the groups; ``weakest`` is the one group's that fits worse.
    """

    offsets_s: tuple[float, ...]
    quality: float
    weakest: float
    runner_up: float


def coarse(groups: Sequence[Sequence[Pulse]], signal: Signal, shortest_s: float) -> Found | None:
    """Return where one or two groups of pulses fit best; None when the signal is shorter than a pattern.

    Two groups may differ in their offsets by what :data:`MOST_PPM` makes of the time between them.
    """
    step_s = max(signal.period_s, shortest_s / STEPS_PER_PULSE)
    edges_s = np.arange(signal.times_s[0], signal.times_s[-1], step_s)
    joules = np.concatenate([[0.0], np.cumsum(np.diff(signal.times_s) * (signal.watts[1:] + signal.watts[:-1]) / 2)])
    watts = np.asarray(np.diff(np.interp(edges_s, signal.times_s, joules)) / step_s, dtype=np.float64)
    first = _curve(groups[0], edges_s, watts, step_s)
    if first is None:
        return None
    offsets_s, joint = first
    reach = int(np.ceil(MOST_PPM * 1e-6 * (groups[-1][0].start_s - groups[0][0].start_s) / step_s)) + 2
    second = _curve(groups[1], edges_s, watts, step_s) if len(groups) > 1 else None
    if len(groups) > 1 and second is None:
        return None
    if second is not None:
        joint = (joint + _highest(np.interp(offsets_s, *second, left=-1.0, right=-1.0), reach)) / 2
    best = int(np.argmax(joint))
    found = [float(offsets_s[best])]
    weakest = float(first[1][best])
    elsewhere = joint[np.abs(offsets_s - found[0]) > shortest_s + step_s]
    if second is not None:
        near = np.abs(second[0] - found[0]) <= (reach + 0.5) * step_s
        found.append(float(second[0][near][int(np.argmax(second[1][near]))]) if near.any() else found[0])
        weakest = min(weakest, float(second[1][near].max()) if near.any() else -1.0)
    runner_up = max(float(elsewhere.max()), 0.0) if len(elsewhere) else 0.0
    return Found(tuple(found), float(joint[best]), weakest, runner_up)


def _highest(values: Floats, reach: int) -> Floats:
    """Return the highest value within ``reach`` places of each."""
    padded = np.pad(values, reach, mode="edge")
    return np.asarray(np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1).max(axis=1))


def _curve(group: Sequence[Pulse], edges_s: Floats, watts: Floats, step_s: float) -> tuple[Floats, Floats] | None:
    """Return offsets, rising, and the correlation of a group's pattern at each; None where it does not fit in."""
    before_s, after_s = _frame(group)
    count = int((after_s - before_s) / step_s)
    if count < 4 or count > len(watts):
        return None
    centres = np.asarray(before_s + (np.arange(count) + 0.5) * step_s, dtype=np.float64)
    pattern = _pattern(group, centres, step_s)
    pattern = (pattern - pattern.mean()) / np.sqrt(np.sum((pattern - pattern.mean()) ** 2))
    level = watts - watts.mean()
    products = np.correlate(level, pattern, mode="valid")
    ones = np.ones(count)
    sums, squares = np.convolve(level, ones, mode="valid"), np.convolve(level**2, ones, mode="valid")
    spread = np.sqrt(np.maximum(squares - sums**2 / count, 0.0))
    floor = 1e-9 * max(float(spread.max()), 1e-30)
    correlation = np.where(spread > floor, products / np.maximum(spread, floor), 0.0)
    offsets = before_s - edges_s[: len(correlation)]
    return offsets[::-1], correlation[::-1]


def _frame(group: Sequence[Pulse]) -> tuple[float, float]:
    """Return the stretch that a pattern is looked for in: the pulses, and half as much rest at either side."""
    gaps_s = [b.start_s - a.end_s for a, b in pairwise(group)]
    pad_s = min([*gaps_s, group[0].length_s])
    return group[0].start_s - pad_s, group[-1].end_s + pad_s


def _pattern(group: Sequence[Pulse], centres_s: Floats, width_s: float) -> Floats:
    """Return which part of each stretch of ``width_s`` the pulses cover."""
    covered = np.zeros_like(centres_s)
    for pulse in group:
        left = np.maximum(centres_s - width_s / 2, pulse.start_s)
        right = np.minimum(centres_s + width_s / 2, pulse.end_s)
        covered += np.maximum(right - left, 0.0)
    return covered / width_s


def fine(group: Sequence[Pulse], signal: Signal, offset_s: float, reach_s: float) -> float:
    """Return the offset within ``reach_s`` at which the pattern fits the readings best."""
    before_s, after_s = _frame(group)
    kept = (signal.times_s >= before_s - offset_s - reach_s) & (signal.times_s <= after_s - offset_s + reach_s)
    times, watts = signal.times_s[kept], signal.watts[kept]
    if len(times) < 3:
        return offset_s
    tried = offset_s + np.linspace(-reach_s, reach_s, 2 * _FINE_STEPS + 1)
    scores = np.array([_correlation(_pattern(group, times + offset, signal.width_s), watts) for offset in tried])
    high = tried[scores >= scores.max() - 1e-6]  # a step of the pattern between two readings leaves a plateau
    return float((high[0] + high[-1]) / 2)


def _correlation(a: Floats, b: Floats) -> float:
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt(np.sum(a**2) * np.sum(b**2)))
    return float(np.sum(a * b)) / norm if norm > 0 else 0.0
