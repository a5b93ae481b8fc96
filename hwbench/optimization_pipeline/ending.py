"""The end of a run: what the guard chose is certified on samples that chose nothing; and what stands in the way."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import msgspec

from hwbench.compare.guard import choose
from hwbench.errors import HwbenchError, Interrupted, StorageError
from hwbench.optimization_pipeline.aims import of_arithmetic
from hwbench.optimization_pipeline.judging import distance
from hwbench.plan.goals import within_reach
from hwbench.records.base import Missing
from hwbench.records.contest import Choice, Contest
from hwbench.records.goals import PlanGoalOutcome
from hwbench.records.optimization import (
    Binding,
    Candidate,
    Certified,
    Drop,
    ParetoPoint,
    Round,
    Scored,
    Verdicts,
)
from hwbench.records.verification import Certificate, Task, Word
from hwbench.stats import non_dominated

_MOST_TRIES = 5
_BROKEN = "engine_failed"
_SETTLED = Missing(code="settled", why="it is")


def careful(candidates: Sequence[Candidate], arithmetic: str, rounds: Sequence[Round]) -> str | None:
    """Return the baseline that is sure to be certified if any is: of those that count, one in the model's arithmetic.

    Of several the fastest, as the rounds have it; where none of that arithmetic counts, the one that falls least.
    """
    seen = [each for done in rounds if isinstance(done.contest, Contest) for each in done.contest.standings]
    value = {each.entrant: each.value for each in reversed(seen)}  # of the first round: it timed all baselines
    own = of_arithmetic(arithmetic)

    def rank(each: Candidate) -> tuple[bool, float, float]:
        drop, fast = _drop(each), value.get(each.name, math.inf)
        fall = math.inf if drop is None else drop.drop
        return (False, fast, fall) if each.precision in own else (True, fall, fast)

    able = [each for each in candidates if each.uniform and each.counts]
    return min(able, key=rank).name if able else None


def certify(
    contest: Contest,
    candidates: Sequence[Candidate],
    max_drop: float,
    score: Callable[[Candidate], Scored],
    careful: str | None = None,
    missed: Mapping[str, tuple[float, ...]] | None = None,
    *,
    accurate: bool = False,
) -> Verdicts:
    """Take what the guard chooses and certify it; where that fails, what the guard chooses of the rest.

    ``missed`` says by how much candidates miss the goals beyond accuracy
    (:func:`hwbench.optimization_pipeline.aims.by_candidate`): the guard chooses among those that count and miss the
    least. The last try is kept for ``careful``, so that failing ones that are alike cannot use all of them up. One that
    fails while it runs counts as failed. ``accurate``: of those that meet the goals the one that loses the least.

    Each certificate holds with 95 % by itself; of k that were tried at most 5 k % are expected to be wrong, and the
    record says how many were. What could not be settled is taken only where nothing could be certified.
    """
    by = {each.name: each for each in candidates}
    tried: list[Certified] = []
    choices: dict[str, Choice] = {}
    order = sorted(
        (each.entrant for each in contest.standings),
        key=lambda name: (distance(by[name].selected, max_drop), (missed or {}).get(name, ())),
    )
    while len(tried) < _MOST_TRIES:
        left = {each.name for each in candidates if each.counts} - choices.keys()
        if len(tried) == _MOST_TRIES - 1 and careful in left and contest.standing(careful) is not None:
            left = {careful}
        left = _nearest(left, contest, missed or {})
        left = _most_accurate(left, by) if accurate else left
        choice = choose(
            contest,
            meets=left.__contains__,
            distance=order.index,
        )
        choice = _as_asked(choice, by) if accurate else choice
        if choice.word == "NONE" and tried:
            break
        found = _scored(by[choice.entrant], score)
        word, enough = word_of(found, max_drop)
        choices[choice.entrant] = choice
        tried.append(Certified(entrant=choice.entrant, number=len(tried) + 1, found=found, word=word, enough=enough))
        if word == "CERTIFIED" or choice.word == "NONE":
            break
    taken = next((each for each in tried if each.word == "CERTIFIED"), None)
    taken = taken or next((each for each in tried if each.word == "NOT ENOUGH DATA"), tried[0])
    rest = [each for each in tried if each is not taken]
    return Verdicts(choice=choices[taken.entrant], certified=(*rest, taken))


def _nearest(names: set[str], contest: Contest, missed: Mapping[str, tuple[float, ...]]) -> set[str]:
    """Return those of the names that were timed and miss the goals by the least."""
    standings = {name: contest.standing(name) for name in names}
    timed = [name for name, standing in standings.items() if standing is not None and standing.restarts]
    least = min((missed.get(name, ()) for name in timed), default=())
    return {name for name in timed if missed.get(name, ()) == least}


def _most_accurate(names: set[str], by: Mapping[str, Candidate]) -> set[str]:
    """Return those of the names whose drop is the least that was seen."""
    drops = {name: math.inf if (drop := _drop(by[name])) is None else drop.drop for name in names}
    least = min(drops.values(), default=math.inf)
    return {name for name in names if drops[name] == least}


def _as_asked(choice: Choice, by: Mapping[str, Candidate]) -> Choice:
    """Return a choice among the most accurate with that as its reason, where no uniform one is among them."""
    drop = _drop(by[choice.entrant])
    if choice.word != "ALONE" or drop is None:
        return choice
    none = Missing(code="less_accurate", why="every uniform precision that meets the goals loses more")
    why = f"it falls by {drop.drop:.4g} on {drop.n} samples, the least of those that meet the goals"
    return msgspec.structs.replace(choice, word="ACCURATE", best_uniform=none, why=why)


def _scored(candidate: Candidate, score: Callable[[Candidate], Scored]) -> Scored:
    """Judge a candidate on the samples that chose nothing; what fails while it runs is told in the record."""
    try:
        return score(candidate)
    except (StorageError, Interrupted):
        raise
    except HwbenchError as error:
        reason = Missing(code=_BROKEN, why=error.message, cure=error.hint)
        task: Task = "none" if isinstance(candidate.selected, Missing) else candidate.selected.task
        return Scored(
            part="certify", task=task, scores=(), agreement=reason, certificate=reason, drop=reason, finite=True
        )


def word_of(found: Scored, max_drop: float) -> tuple[Word, int | Missing]:
    """Return what samples say of the goal, and about how many would settle it where these do not.

    Without labels a certificate rests on decisions that differ from the original's: accuracy cannot fall by more.
    """
    if not found.finite or (isinstance(found.certificate, Missing) and found.certificate.code == _BROKEN):
        return "FAILED", _SETTLED
    if isinstance(found.certificate, Certificate):
        return found.certificate.word, found.certificate.enough
    drop = found.drop
    if isinstance(drop, Missing):
        return "NOT ENOUGH DATA", drop
    if drop.high <= max_drop:
        return "CERTIFIED", _SETTLED
    room = max_drop - drop.drop
    if room <= 0:
        why = f"{drop.drop:.2%} of the decisions differ, and only labels could tell how many of them are worse"
        return "NOT ENOUGH DATA", Missing(code="no_labels", why=why, cure="give labels")
    return "NOT ENOUGH DATA", math.ceil(drop.n * ((drop.high - drop.drop) / room) ** 2)


def outcome(verdicts: Verdicts, goals: Sequence[PlanGoalOutcome] = ()) -> Literal["MET", "MISSED", "UNSETTLED"]:
    """Return whether the goals are met by what was chosen; one of which nothing is known is not."""
    word = verdicts.certified[-1].word
    if verdicts.choice.word == "NONE" or word == "FAILED" or not all(each.met for each in goals):
        return "MISSED"
    return "MET" if word == "CERTIFIED" else "UNSETTLED"


def missed(goals: Sequence[PlanGoalOutcome]) -> tuple[Binding, ...]:
    """Return the goals that were missed, the most important first, and what would be in reach."""
    found = sorted((each for each in goals if not each.met), key=lambda each: each.goal.priority)
    return tuple(
        Binding(
            constraint=each.goal.text,
            why=each.why,
            relax=str(each.value)
            if isinstance(each.value, Missing)
            else f"{each.goal.metric} threshold {within_reach(each.goal.metric, each.value)}",
        )
        for each in found
    )


def pareto(candidates: Sequence[Candidate], values: Mapping[str, float]) -> tuple[ParetoPoint, ...]:
    """Return the candidates that no other beats in both the objective and the drop seen, the best first."""
    points = [
        ParetoPoint(entrant=each.name, value=values[each.name], drop=drop.drop)
        for each in candidates
        if each.name in values and (drop := _drop(each)) is not None
    ]
    kept = reversed(non_dominated([(point.value, point.drop) for point in points]))
    left = {(points[at].value, points[at].drop): points[at] for at in kept}  # of equal ones the first
    return tuple(left[place] for place in sorted(left))


def values_of(contest: Contest, rounds: Sequence[Round]) -> dict[str, float]:
    """Return the objective of everybody who was timed, on the scale of the last contest.

    One that was timed in a round alone is put on that scale by the uniform entrant that both have in common.
    """
    found: dict[str, float] = {}
    last = {each.entrant: each.value for each in contest.standings}
    for done in rounds:
        if isinstance(done.contest, Missing):
            continue
        here = {each.entrant: each.value for each in done.contest.standings}
        common = [name for name in (contest.best_uniform, contest.reference, *here) if name in here and name in last]
        scale = last[common[0]] / here[common[0]] if common else 1.0
        found |= {name: value * scale for name, value in here.items()}
    return found | last


def measured_of(contest: Contest, rounds: Sequence[Round]) -> dict[str, dict[str, float]]:
    """Return all that was measured of everybody, in the last contest that one took part in."""
    found: dict[str, dict[str, float]] = {}
    for held in (*(each.contest for each in rounds), contest):
        for each in held.standings if isinstance(held, Contest) else ():
            found[each.entrant] = {str(name): value for name, value in each.also.items()}
    for name, value in values_of(contest, rounds).items():
        found[name][contest.plan.objective] = value
    return found


def binding(
    verdicts: Verdicts, candidates: Sequence[Candidate], values: Mapping[str, float], max_drop: float
) -> tuple[Binding, ...]:
    """Return what stands between what was built and the goal, or something faster, and what would relax it."""
    found = []
    last = verdicts.certified[-1]
    if last.word == "NOT ENOUGH DATA":
        relax = str(last.enough) if isinstance(last.enough, Missing) else f"{last.enough} samples to certify with"
        seen = f"{last.found.drop.n} samples" if isinstance(last.found.drop, Drop) else "the samples"
        why = f"{seen} do not settle whether {last.entrant} falls by more than {max_drop:.4g}"
        found.append(Binding(constraint="samples", why=why, relax=relax))
    mine = values.get(verdicts.choice.entrant, math.inf)
    beyond = [
        (values[each.name], each.name, drop)
        for each in candidates
        if not each.counts and each.name in values and values[each.name] < mine and (drop := _drop(each)) is not None
    ]
    missed = verdicts.choice.word == "NONE" or last.word == "FAILED"
    if missed and isinstance(last.found.drop, Drop):
        drop = last.found.drop
        why = f"{last.entrant} comes nearest and falls by {drop.drop:.4g} ({drop.low:.4g} to {drop.high:.4g})"
        found.append(Binding(constraint="max-drop", why=why, relax=f"--max-drop {drop.high:.4g}"))
    elif beyond:
        value, name, drop = min(beyond, key=lambda each: each[0])
        why = f"{name} takes {value / mine:.3f} of what was chosen, and falls by {drop.drop:.4g} on {drop.n} samples"
        found.append(Binding(constraint="max-drop", why=why, relax=f"--max-drop {drop.expected:.4g}"))
    return tuple(found)


def _drop(candidate: Candidate) -> Drop | None:
    selected = candidate.selected
    if isinstance(selected, Missing) or isinstance(selected.drop, Missing):
        return None
    return selected.drop
