"""Many built networks timed beside each other: what was seen, and how each stands to the best uniform one of them."""

from __future__ import annotations

from typing import Literal

from hwbench.records.base import Missing, Record, check, check_finite
from hwbench.records.comparison import Block, ProcessRun, Ratio

Objective = Literal["latency", "energy", "memory"]


class Entrant(Record, frozen=True, kw_only=True):
    """Something that is timed. ``uniform``: one precision throughout. ``counts``: it meets the goals on accuracy."""

    name: str
    uniform: bool
    counts: bool


class Seat(Record, frozen=True, kw_only=True):
    """One process of one restart. ``heat``: which of the sets of processes that were alive beside each other."""

    entrant: str
    control: bool  # the second process of the reference
    restart: int
    heat: int
    resident_bytes: int | Missing
    run: ProcessRun
    blocks: tuple[Block, ...]


class Heat(Record, frozen=True, kw_only=True):
    """Levels of one set of processes: log of the objective in SI units. ``control``: the reference's second process."""

    restart: int
    levels: dict[str, float]
    control: float


class Dropped(Record, frozen=True, kw_only=True, tag_field="kind", tag="dropped"):
    """When it was timed no more, and why: it was beaten by another, or it does not count. 0: after the trial."""

    restart: int
    why: str


class Standing(Record, frozen=True, kw_only=True):
    """One entrant at the end.

    ``value`` is of the contest's objective, in ``unit`` of it: the median over blocks (memory: over processes).
    ``ratio``: to the best uniform one, with its 95 % interval. ``joint``: the same with an interval so wide that those
    of all entrants and all looks hold together with 95 %; a choice rests on this one. ``also``: medians of what else
    was measured on the way.
    """

    entrant: str
    uniform: bool
    counts: bool
    restarts: int  # that it took part in, after the trial
    blocks: int
    value: float
    ratio: Ratio | Missing
    joint: Ratio | Missing
    dropped: Dropped | Missing
    also: dict[Objective, float] = {}

    def __post_init__(self) -> None:
        check_finite(self, "value")


class ContestPlan(Record, frozen=True, kw_only=True):
    """How a contest is held. ``restarts``: at most, after the trial, which says who is the reference."""

    objective: Objective
    budget_s: float
    block_s: float
    restarts: int
    most_live: int
    memory_limit_bytes: int
    level: float  # error probability of all looks and entrants together
    seed: int

    def __post_init__(self) -> None:
        check(self.most_live >= 3, "three processes must be able to live beside each other")
        check(self.restarts >= 2, "a contest needs two restarts")
        check(0 < self.level < 1, f"level must be between 0 and 1, got {self.level}")


class Contest(Record, frozen=True, kw_only=True, tag_field="kind", tag="contest"):
    """What came out.

    ``reference``: the uniform entrant that ran twice in every heat. ``best_uniform``: that which the ratios are to.
    ``control``: the reference's second process to its first. ``floor``: how far the same thing may seem to differ from
    itself, as a share: the far end of that interval.
    """

    plan: ContestPlan
    unit: str
    reference: str
    best_uniform: str
    control: Ratio | Missing
    floor: float | Missing
    confidence: float  # of each joint interval
    standings: tuple[Standing, ...]  # the best first
    heats: tuple[Heat, ...]  # after the trial
    restarts: int  # after the trial
    most_alive: int
    elapsed_s: float
    notes: tuple[str, ...] = ()

    def standing(self, entrant: str) -> Standing | None:
        """Return how one stands, or None where it did not take part."""
        return next((each for each in self.standings if each.entrant == entrant), None)


class Choice(Record, frozen=True, kw_only=True):
    """What the guard chose.

    ``word``: FASTER, better than the best uniform one for sure; UNIFORM, that itself; ALONE, no uniform one meets the
    goals; ACCURATE, it loses the least of those that meet them, as was asked for; NONE, nothing meets them: ``entrant``
    is the one that misses them by the least.
    """

    entrant: str
    word: Literal["FASTER", "UNIFORM", "ALONE", "ACCURATE", "NONE"]
    best_uniform: str | Missing
    why: str
    refused: dict[str, str] = {}  # by entrant, why it was not taken
