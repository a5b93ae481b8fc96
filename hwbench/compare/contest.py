"""Many built networks timed in one run: who is the best of those that count, and how far off the best uniform one is.

Each entrant runs in a process of its own that is kept alive and asked for blocks of inferences, one process at a time,
in random order; one restart after another starts new processes. As many as memory has room for sit beside each other (a
heat); the reference, the best uniform entrant, sits in every heat, and twice, so that every heat tells how far the same
thing seems to differ from itself.

First a trial: everybody once. It says who is the reference, and how long a restart takes; its numbers are used for
nothing else. Then restarts until the budget is spent. After each but the first, whoever is worse for sure than the best
that counts is dropped, so that the time goes to those that are close; it ends early when nobody is left to tell apart.
Whoever is not uniform and seems better than the reference stays: he is the next to be chosen where the best is refused
for another reason than his speed.
"""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Callable, Sequence

import numpy as np

from hwbench.compare import robust
from hwbench.compare.blocks import MIN_ROUNDS
from hwbench.compare.heats import CONTROL, Room, Start, label_of
from hwbench.compare.metrics import block_values
from hwbench.compare.robust import Array
from hwbench.compare.standings import Levels, beaten, best_of, floor_of, ratio_of, spending
from hwbench.records.base import Missing
from hwbench.records.contest import Contest, ContestPlan, Dropped, Entrant, Heat, Objective, Seat, Standing
from hwbench.units import Clock

Watch = Callable[[str, float], None]

MIN_RESTARTS = 3
UNITS: dict[Objective, str] = {"latency": "s", "energy": "J", "memory": "B"}
_TRIAL_ROUNDS = 3
_TRIAL_ONLY = Missing(code="not_timed", why="it took part in the trial only")
_IS_BEST = Missing(code="is_best_uniform", why="the others are held against this one")


def hold(
    start: Start, entrants: Sequence[Entrant], plan: ContestPlan, *, clock: Clock, watch: Watch
) -> tuple[Contest, tuple[Seat, ...]] | Missing:
    """Hold a contest.

    Args:
        start: starts the process of a restart (0: the trial), a heat, an entrant, and whether it is the control.
        entrants: two at least, one of them uniform; names are unique.
        plan: its budget and limits.
        clock: for the budget.
        watch: told what is done and the share of the budget that is spent.

    Returns:
        What came out and everything that was seen; or why the objective has no values.
    """
    work = _Contest(start, entrants, plan, clock, watch)
    missing = work.trial()
    if missing is not None:
        return missing
    work.restarts()
    return work.result(), tuple(work.seats)


class _Contest:
    """One run of :func:`hold`."""

    def __init__(
        self, start: Start, entrants: Sequence[Entrant], plan: ContestPlan, clock: Clock, watch: Watch
    ) -> None:
        self._plan, self._clock, self._watch = plan, clock, watch
        self.entrants = {each.name: each for each in entrants}
        self._chance = random.Random(plan.seed)
        self._begun_ns = clock.now_ns()
        self.seats: list[Seat] = []
        self._values: dict[tuple[str, bool], list[Array | Missing]] = {}  # of each process; and whether of the trial
        self.heats: list[Heat] = []
        self.dropped: dict[str, Dropped] = {}
        self._room = Room(start, plan, self._chance, self._spent_s)
        self.done = 0
        self.look_level = 0.0

    def trial(self) -> Missing | None:
        """Time everybody once; settle on the reference, and on how many restarts there is time for."""
        names = self._shuffled(list(self.entrants))
        before_s = self._spent_s("trial")
        self._restart(0, names, reference=None, share_s=0.0)
        missing = next((each[0] for each in self._values.values() if isinstance(each[0], Missing)), None)
        if missing is not None:
            return missing
        at = {name: self._median(name, trial=True) for name in names}
        uniform = [each.name for each in self.entrants.values() if each.uniform]
        counting = [name for name in uniform if self.entrants[name].counts]
        self.reference = min(counting or uniform, key=lambda name: at[name])
        for name, each in self.entrants.items():
            if not each.counts and name != self.reference:
                self.dropped[name] = Dropped(restart=0, why="it does not meet the goals")
        took_s = (
            (self._spent_s("trial") - before_s) * (len(self._alive()) + 2) / len(names) * MIN_ROUNDS / _TRIAL_ROUNDS
        )
        left_s = max(0.0, self._plan.budget_s - before_s - took_s)
        room = int(left_s / max(took_s, 1e-9))
        self.planned = min(self._plan.restarts, max(MIN_RESTARTS, room))
        self.spending = spending(self.planned, self._plan.level)
        self.compared = max(1, len(self._alive()))
        return None

    def restarts(self) -> None:
        """Go on until the budget is spent or nobody is left to tell apart."""
        while self.done < self.planned and (self._alive() or self.done < 2):
            left_s = max(0.0, self._plan.budget_s - self._spent_s(label_of(self.done + 1)))
            share_s = left_s / (self.planned - self.done)
            self.done += 1
            self._restart(self.done, self._shuffled(self._alive()), self.reference, share_s)
            self.look_level = self.spending[self.done - 1]
            if self.look_level:
                levels = Levels(self.reference, self.heats)
                self._eliminate(levels)
                if self._settled(levels):
                    break

    def _alive(self) -> list[str]:
        """Return everybody who is still timed, but for the reference."""
        return [name for name in self.entrants if name not in self.dropped and name != self.reference]

    def _counting(self) -> list[str]:
        return [name for name in (self.reference, *self._alive()) if self.entrants[name].counts]

    def _eliminate(self, levels: Levels) -> None:
        counting = self._counting()
        if not counting:
            return
        for name, (by, ratio) in beaten(levels, self._droppable(levels), counting, self.look_level).items():
            why = f"{ratio.value:.3f} of {by} ({ratio.low:.3f} to {ratio.high:.3f}) after {self.done} restarts"
            self.dropped[name] = Dropped(restart=self.done, why=why)

    def _droppable(self, levels: Levels) -> list[str]:
        """Return who would not be chosen if the best were refused: uniform, or no better than the reference."""
        alive = [name for name in self._alive() if name in levels.names]
        better = {name for name in alive if levels.against(name, self.reference).log_ratio < 0}
        return [name for name in alive if self.entrants[name].uniform or name not in better]

    def _settled(self, levels: Levels) -> bool:
        """Say whether one is left, and it is clear on which side of the reference it lies."""
        alive = self._alive()
        if len(alive) > 1:
            return False
        if not alive:
            return True
        estimate = levels.against(alive[0], self.reference)
        return abs(estimate.log_ratio) > estimate.half_width(1 - self.look_level / self.compared)

    def _restart(self, number: int, names: list[str], reference: str | None, share_s: float) -> None:
        """Time ``names`` in as many heats as memory asks for, each for its part of ``share_s``."""
        left = list(names)
        begun_s = self._spent_s(label_of(number))
        for heat in itertools.count():
            with contextlib.ExitStack() as stack:
                live = self._room.fill(stack, number, heat, left, reference)
                left = [name for name in left if name not in live.talks]
                share = (len(live.talks) - (reference is not None)) / (len(names) + 1)
                seats = live.measure(self._least(reference), begun_s + share_s * share)
            begun_s = self._spent_s(label_of(number))
            values = {key: block_values(seat, self._plan.objective) for key, seat in seats.items()}
            for key, seat in seats.items():
                self.seats.append(seat)
                self._values.setdefault((seat.entrant, number == 0), []).append(values[key])
            if reference is not None:
                self._take_levels(number, values)
            if not left:
                break

    def _least(self, reference: str | None) -> int:
        """Return how many rounds a heat needs."""
        if self._plan.objective == "memory":
            return 1
        return _TRIAL_ROUNDS if reference is None else MIN_ROUNDS

    def _take_levels(self, number: int, values: dict[str, Array | Missing]) -> None:
        known = {key: np.log(value) for key, value in values.items() if not isinstance(value, Missing)}
        absent = next((value for value in values.values() if isinstance(value, Missing)), None)
        if absent is not None:
            self._room.note(f"a heat of restart {number} was left out: {absent.why}")
            return
        found = robust.levels(np.stack(list(known.values())))
        levels = dict(zip(known, map(float, found), strict=True))
        control = levels.pop(CONTROL)
        self.heats.append(Heat(restart=number, levels=levels, control=control))

    def result(self) -> Contest:
        """Return how everybody stands, the best first."""
        levels = Levels(self.reference, self.heats)
        timed = [name for name in levels.names if self.entrants[name].uniform]
        uniform = [name for name in timed if self.entrants[name].counts]
        best = best_of(levels, uniform or timed)
        confidence = 1 - (self.look_level or self._plan.level) / self.compared
        control = ratio_of(levels.control())
        standings = [self._standing(name, levels, best, confidence) for name in self.entrants]
        return Contest(
            plan=self._plan,
            unit=UNITS[self._plan.objective],
            reference=self.reference,
            best_uniform=best,
            control=control,
            floor=floor_of(control),
            confidence=confidence,
            standings=tuple(sorted(standings, key=lambda each: _order(each, best))),
            heats=tuple(self.heats),
            restarts=self.done,
            most_alive=self._room.most_alive,
            elapsed_s=self._spent_s("done"),
            notes=tuple(self._room.notes),
        )

    def _standing(self, name: str, levels: Levels, best: str, confidence: float) -> Standing:
        known = name in levels.names
        alone = _IS_BEST if name == best else _TRIAL_ONLY
        estimate = levels.against(name, best) if known and name != best else None
        return Standing(
            entrant=name,
            uniform=self.entrants[name].uniform,
            counts=self.entrants[name].counts,
            restarts=levels.restarts_of(name),
            blocks=sum(len(seat.blocks) for seat in self.seats if seat.entrant == name and seat.restart),
            value=self._median(name, trial=not known),
            ratio=ratio_of(estimate) if estimate is not None else alone,
            joint=ratio_of(estimate, confidence) if estimate is not None else alone,
            dropped=self.dropped.get(name, Missing(code="not_dropped", why="it was timed to the end")),
            also=self._also(name, trial=not known),
        )

    def _also(self, name: str, *, trial: bool) -> dict[Objective, float]:
        """Return medians of what was measured beside the objective."""
        mine = [seat for seat in self.seats if seat.entrant == name and (seat.restart == 0) == trial]
        found: dict[Objective, float] = {}
        for what in UNITS:
            values = [block_values(seat, what) for seat in mine] if what != self._plan.objective else []
            there = [value for value in values if not isinstance(value, Missing)]
            if there:
                found[what] = float(np.median(np.concatenate(there)))
        return found

    def _median(self, name: str, *, trial: bool) -> float:
        values = [value for value in self._values[name, trial] if not isinstance(value, Missing)]
        return float(np.median(np.concatenate(values)))

    def _spent_s(self, label: str) -> float:
        elapsed_s = (self._clock.now_ns() - self._begun_ns) / 1e9
        self._watch(label, min(1.0, elapsed_s / self._plan.budget_s))
        return elapsed_s

    def _shuffled(self, names: list[str]) -> list[str]:
        return self._chance.sample(names, len(names))


def _order(each: Standing, best: str) -> tuple[bool, float]:
    """Sort by the ratio to the best uniform one; those of the trial alone come last."""
    if each.entrant == best:
        return False, 1.0
    return (True, each.value) if isinstance(each.ratio, Missing) else (False, each.ratio.value)
