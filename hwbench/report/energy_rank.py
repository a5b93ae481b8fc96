"""What may be said over several rows of energy: which needs least, the front of energy and time, the knee of a curve.

Only plateau runs take part whose instrument does not contradict itself, only within one boundary, and joules per
inference only of the same network. Every point is a measured one: nothing is said of batch sizes, limits or engines
between them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hwbench.records.base import Missing
from hwbench.report.energy_rows import EnergyRow, Group, Joules
from hwbench.units import format_si

KNEE = 0.95  # of the best that was measured
_DOUBTS = {"counter_power_mismatch", "sensor_stale", "counter_constant"}  # the instrument contradicts itself
_LEAST_POINTS = 3  # two points have no knee

REPEAT_ONLY = "one instrument, so its gain cancels between them; intervals are repeatability"
BOTH = "different instruments or devices, so intervals hold repeatability and the instruments' own uncertainty"

NOT_INTERLEAVED = "; measured one after the other, so drift between the runs is in no interval"


@dataclass(frozen=True, kw_only=True)
class EnergyVerdict:
    """Which of the rows of one network in one group needs the least energy; ``best`` only if it can be told."""

    best: EnergyRow | None
    tied: tuple[EnergyRow, ...]
    sentence: str


def eligible(row: EnergyRow) -> Missing | None:
    """Return why a row is not ranked; None if it is."""
    if row.kind != "plateau":
        return Missing(code="one_window", why="one window has no repeats")
    if row.provenance == "replayed":
        return Missing(code="replayed", why="replayed from a recording, not of this run")
    if row.subject.validity == "invalid":
        return Missing(code="invalid", why="the measurement is invalid; see its findings")
    if isinstance(row.total, Missing):
        return row.total
    doubts = [flag for flag in row.flags if flag.partition(":")[0] in _DOUBTS]
    if doubts:
        return Missing(code="doubtful", why=f"its energy is in doubt: {', '.join(doubts)}")
    return None if row.total.value > 0 else Missing(code="no_energy", why="it is 0 J")


def verdicts(group: Group) -> tuple[EnergyVerdict, ...]:
    """Return one verdict a network of a group of plateau runs; none for plain windows."""
    if group.kind != "plateau":
        return ()
    networks = list(dict.fromkeys(row.subject.network for row in group.rows))
    return tuple(_verdict([row for row in group.rows if row.subject.network == network]) for network in networks)


def _verdict(rows: Sequence[EnergyRow]) -> EnergyVerdict:
    ranked = sorted((row for row in rows if eligible(row) is None), key=lambda row: _joules(row).value)
    out = "".join(f" Not ranked: {row.name} ({why.why})." for row in rows if (why := eligible(row)) is not None)
    if not ranked:
        return EnergyVerdict(best=None, tied=(), sentence=f"Nothing to rank.{out}")
    first = ranked[0]
    value = f"{format_si(_joules(first).value, 'J', 4)} per inference"
    if len(ranked) == 1:
        sentence = f"{first.name} needs {value}. There is nothing to rank it against.{out}"
        return EnergyVerdict(best=None, tied=(), sentence=sentence)
    basis = REPEAT_ONLY if len({row.instrument for row in ranked}) == 1 else BOTH
    basis += NOT_INTERLEAVED if len({row.subject.result for row in ranked}) > 1 else ""
    tied = tuple(row for row in ranked[1:] if _overlap(first, row))
    if tied:
        sentence = (
            f"{first.name} ({value}) is tied with {', '.join(row.name for row in tied)}: their 95% intervals overlap, "
            f"so this does not tell which needs less ({basis}).{out}"
        )
        return EnergyVerdict(best=None, tied=(first, *tied), sentence=sentence)
    ratio = _joules(ranked[1]).value / _joules(first).value
    sentence = (
        f"{first.name} needs the least energy: {value}. Next is {ranked[1].name}, with {ratio:.2f} times as much "
        f"({basis}).{out}"
    )
    return EnergyVerdict(best=first, tied=(), sentence=sentence)


def _overlap(low: EnergyRow, high: EnergyRow) -> bool:
    same = low.instrument == high.instrument
    return interval(_joules(low), whole=not same)[1] >= interval(_joules(high), whole=not same)[0]


def interval(joules: Joules, *, whole: bool) -> tuple[float, float]:
    """Return the 95 % interval: repeatability, or with ``whole`` the instrument's part added in squares.

    Both are expanded uncertainties (JCGM 100:2008, 6.2); without repeats only the instrument's part is known.
    """
    low = 0.0 if isinstance(joules.low, Missing) else joules.value - joules.low
    high = 0.0 if isinstance(joules.high, Missing) else joules.high - joules.value
    if not whole:
        return joules.value - low, joules.value + high
    instrument = joules.instrument * joules.value
    return joules.value - math.hypot(low, instrument), joules.value + math.hypot(high, instrument)


def _joules(row: EnergyRow) -> Joules:
    assert not isinstance(row.total, Missing)  # `eligible` has seen to it
    return row.total


@dataclass(frozen=True, kw_only=True)
class Point:
    """One measured row in a plane: ``x``, ``y``, and the interval of ``y`` by repeatability."""

    row: EnergyRow
    x: float
    y: float
    low: float
    high: float


def front(points: Sequence[Point]) -> tuple[Point, ...]:
    """Return the points that no other beats in both, less time (``x``) and less energy (``y``), by rising time."""
    kept = [p for p in points if not any(_beats(other, p) for other in points)]
    return tuple(sorted(kept, key=lambda p: (p.x, p.y)))


def _beats(a: Point, b: Point) -> bool:
    return a.x <= b.x and a.y <= b.y and (a.x < b.x or a.y < b.y)


def balanced(points: Sequence[Point]) -> Point | None:
    """Return the point of a front with the least energy times time; None where there are too few to choose from."""
    return min(points, key=lambda p: p.x * p.y) if len(points) >= _LEAST_POINTS else None


def knee(points: Sequence[Point]) -> Point | None:
    """Return the smallest ``x`` whose ``y`` is within 5 % of the highest; None with too few, or still rising."""
    if len({p.x for p in points}) < _LEAST_POINTS:
        return None
    enough = [p for p in points if p.y >= KNEE * max(q.y for q in points)]
    first = min(enough, key=lambda p: p.x)
    return None if first.x == max(p.x for p in points) else first
