"""The guard: of all that was timed in one run, take the best that meets the goals, never worse than a uniform one.

A network that was planned layer by layer must earn its place: it is taken only when its ratio to the best uniform one
that meets the goals is below 1 for sure, the intervals of all entrants and all looks holding together. A tie goes to
the uniform one, which is simpler. So what is taken can be truly worse than the best uniform one only where an interval
is wrong, and that is beyond the A/A floor more seldom still.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hwbench.compare.standings import Levels, best_of, ratio_of
from hwbench.records.base import Missing
from hwbench.records.comparison import Ratio
from hwbench.records.contest import Choice, Contest

_TIE = "nothing that was planned is better for sure; a tie goes to the uniform one"


def choose(contest: Contest, *, meets: Callable[[str], bool], distance: Callable[[str], float]) -> Choice:
    """Choose among the entrants of a contest.

    Args:
        contest: what was timed.
        meets: says of an entrant whether it meets the goals.
        distance: how far an entrant is from meeting them; read only where none does.
    """
    levels = Levels(contest.reference, contest.heats)
    timed = [each for each in contest.standings if each.entrant in levels.names]
    able = [each.entrant for each in timed if meets(each.entrant)]
    if not able:
        nearest = min(contest.standings, key=lambda each: distance(each.entrant)).entrant
        none = Missing(code="goal_missed", why="nothing that was timed meets the goals")
        return Choice(entrant=nearest, word="NONE", best_uniform=none, why=none.why)
    uniform = [each.entrant for each in timed if each.uniform and each.entrant in able]
    if not uniform:
        none = Missing(code="goal_missed", why="no uniform precision of any runtime meets the goals")
        return Choice(entrant=best_of(levels, able), word="ALONE", best_uniform=none, why=none.why)
    best = best_of(levels, uniform)
    floor = 0.0 if isinstance(contest.floor, Missing) else contest.floor
    refused = dict.fromkeys((name for name in uniform if name != best), f"{best} is the best uniform one")
    earned = []
    for name in (name for name in able if name not in uniform):
        ratio = ratio_of(levels.against(name, best), contest.confidence)
        reason = refusal(ratio, best, floor)
        if reason is None:
            earned.append(name)
        else:
            refused[name] = reason
    if not earned:
        return Choice(entrant=best, word="UNIFORM", best_uniform=best, why=_TIE, refused=refused)
    return _faster(contest, levels, best, earned, refused)


def _faster(contest: Contest, levels: Levels, best: str, earned: Sequence[str], refused: dict[str, str]) -> Choice:
    found = best_of(levels, earned)
    ratio = ratio_of(levels.against(found, best), contest.confidence)
    assert not isinstance(ratio, Missing)
    why = f"{ratio.value:.3f} of {best} ({ratio.low:.3f} to {ratio.high:.3f}, all entrants and looks together)"
    return Choice(entrant=found, word="FASTER", best_uniform=best, why=why, refused=refused)


def refusal(ratio: Ratio | Missing, best: str, floor: float) -> str | None:
    """Return why an entrant with this ratio to the best uniform one must not be taken in its place, or None."""
    if isinstance(ratio, Missing):
        return f"there is no interval of its ratio to {best}: {ratio.why}"
    told = f"{ratio.low:.3f} to {ratio.high:.3f} of it"
    if ratio.low > 1 + floor:
        return f"worse than {best} for sure, beyond the A/A floor of {floor:.1%}: {told}"
    if ratio.high >= 1:
        return f"not better than {best} for sure: {told}"
    return None
