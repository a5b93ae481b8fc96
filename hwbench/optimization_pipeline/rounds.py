"""The closed loop: realise what the planner proposes, time it beside the baselines, tell the planner, ask again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from hwbench.optimization_pipeline.candidates import Workshop
from hwbench.optimization_pipeline.judging import Eligibility
from hwbench.optimization_pipeline.kept import Kept
from hwbench.optimization_pipeline.proposer import Proposer
from hwbench.optimization_pipeline.timing import Timer
from hwbench.plan.assemble import SIZE
from hwbench.records.base import Missing
from hwbench.records.contest import Contest
from hwbench.records.optimization import Candidate, Feedback, Made, Proposal, Proposals, Round

FINAL = "contest"  # the stage after the rounds
ROUNDS = 4
MOST_PROPOSALS = 5
MOST_SWAPS = 30
_SWAPS_AT_ONCE = 5
_CONTEST_SHARE = 0.1  # of the time budget, for the contest of a round
_LOOP_SHARE = 0.7  # of the time budget: no round begins after it
_MAKING_SHARE = 0.8  # of the time budget: nothing more of a round is made after it
_RESTARTS = 2  # a round tells the planner what to expect; it chooses nothing
_NOT_TIMED = Missing(code="not_timed", why="it has not been timed")

Ask = Callable[[Sequence[Feedback]], Sequence[Proposal]]


class Loop:
    """The rounds of one run. ``candidates`` grow as it goes; the first are the baselines."""

    def __init__(
        self, workshop: Workshop, timer: Timer, kept: Kept, eligibility: Eligibility, baselines: Sequence[Candidate]
    ) -> None:
        self.workshop, self.timer, self.kept, self.eligibility = workshop, timer, kept, eligibility
        self.candidates = [eligibility.settled(each) for each in baselines]
        self.rounds: list[Round] = []
        self.feedback = [_feedback(each, None) for each in self.candidates]

    @property
    def over(self) -> bool:
        """Whether the last contest has been held: who would come now would not be timed in it."""
        return self.kept.has(FINAL)

    def run(self, planner: Proposer) -> None:
        """Go on as long as there is time and the planner has something to propose."""
        for number in range(1, ROUNDS + 1):
            if not self._round(number, planner, planner.propose, MOST_PROPOSALS):
                break
        swapped = 0
        for number in range(ROUNDS + 1, ROUNDS + 1 + MOST_SWAPS):
            done = self._round(number, planner, planner.swaps, min(_SWAPS_AT_ONCE, MOST_SWAPS - swapped))
            swapped += done
            if not done or swapped >= MOST_SWAPS:
                break

    def _round(self, number: int, planner: Proposer, ask: Ask, most: int) -> int:
        """Do one round; return how many proposals there were."""
        record = f"round-{number}-proposals"
        if not self.kept.has(record) and (self.over or self._late()):
            return 0  # nothing is written down: a run that goes on with more time asks
        asked = self.kept.once(
            record, Proposals, lambda: Proposals(proposals=tuple(ask(self.feedback))[:most])
        ).proposals
        if not asked:
            return 0
        label = f"round {number}" if number <= ROUNDS else "swaps"
        done = self.kept.stage(label, Round, lambda: self._done(number, asked, planner), f"round-{number}")
        self.rounds.append(done)
        self.candidates += done.candidates
        held = done.contest if isinstance(done.contest, Contest) else None
        told = {each.name for each in done.candidates}  # what could not be built too: it is not to be proposed again
        if held is not None:  # the baselines are told of too, when they were timed
            told |= {each.entrant for each in held.standings}
        self.feedback += [_feedback(each, held) for each in self.candidates if each.name in told]
        self._tell_best()
        return len(asked)

    def _late(self) -> bool:
        return self.kept.spent_s > _LOOP_SHARE * self.kept.request.time_budget_s

    def _done(self, number: int, asked: Sequence[Proposal], planner: Proposer) -> Round:
        done: list[Candidate] = []
        for place, each in enumerate(asked, 1):
            if done and self.kept.spent_s > _MAKING_SHARE * self.kept.request.time_budget_s:
                break
            name = f"{each.engine} plan {number}.{place}"
            done.append(self.eligibility.settled(self.workshop.proposal(name, each, number, planner.space)))
        made = [each for each in done if isinstance(each.made, Made)]
        contest: Contest | Missing = Missing(code="nothing_made", why="nothing that was proposed could be built")
        if made:
            budget_s = min(_CONTEST_SHARE * self.kept.request.time_budget_s, 0.5 * self.kept.left_s)
            contest = self.timer.contest([*self._rivals(), *made], budget_s, f"round-{number}-contest", _RESTARTS)
        kind: Literal["proposals", "swaps"] = "proposals" if number <= ROUNDS else "swaps"
        return Round(number=number, kind=kind, candidates=tuple(done), contest=contest)

    def _rivals(self) -> list[Candidate]:
        """Return who a round is held against: every baseline at first, then the best uniform one of the last."""
        uniform = [each for each in self.candidates if each.uniform and isinstance(each.made, Made)]
        held = [each.contest for each in self.rounds if isinstance(each.contest, Contest)]
        return [each for each in uniform if each.name == held[-1].best_uniform] if held else uniform

    def _tell_best(self) -> None:
        """Say in the progress who is ahead."""
        known = {each.name: each.ratio for each in self.feedback if each.counts and isinstance(each.ratio, float)}
        if known:
            name = min(known, key=lambda one: known[one])
            self.kept.best = f"{name}, {known[name]:.3f} of the best uniform one"


def _feedback(candidate: Candidate, contest: Contest | None) -> Feedback:
    size = {SIZE: float(candidate.made.engine.size_bytes)} if isinstance(candidate.made, Made) else {}
    standing = None if contest is None else contest.standing(candidate.name)
    ratio: float | Missing = _NOT_TIMED
    if contest is not None and contest.best_uniform == candidate.name:
        ratio = 1.0
    elif standing is not None:
        ratio = standing.ratio if isinstance(standing.ratio, Missing) else standing.ratio.value
    selected = candidate.selected
    return Feedback(
        name=candidate.name,
        engine=candidate.engine,
        design=candidate.design,
        precision=candidate.precision,
        round=candidate.round,
        predicted=candidate.predicted,
        value=_NOT_TIMED if standing is None else standing.value,
        ratio=ratio,
        also=size if standing is None else {**size, **{str(name): value for name, value in standing.also.items()}},
        drop=selected if isinstance(selected, Missing) else selected.drop,
        counts=candidate.counts,
    )
