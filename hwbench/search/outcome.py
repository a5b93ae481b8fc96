"""What a search has found: the Pareto set, the best point, what each parameter decides, what the ranking was worth."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hwbench.records.base import Missing
from hwbench.records.search import Candidate, Importance, Objective, RankCheck, Trial
from hwbench.search.candidates import CHOSEN, named
from hwbench.search.samplers import load_optuna
from hwbench.stats import non_dominated

if TYPE_CHECKING:
    import optuna

_FEWEST = 8  # trials, for importances to mean anything
_FEWEST_RANKED = 4
PED_ANOVA = "PED-ANOVA (arXiv:2304.10255), of the best tenth against all"


def cost(trial: Trial, objective: Objective) -> float:
    """Return an objective's value so that less is better."""
    value = trial.value(objective.metric)
    assert value is not None
    return value if objective.direction == "minimize" else -value


def pareto(trials: Sequence[Trial], objectives: Sequence[Objective]) -> tuple[int, ...]:
    """Return the numbers of the feasible trials that no other beats; copies of earlier trials are left out."""
    feasible = [one for one in trials if one.feasible and one.same_as is None]
    points = [[cost(one, objective) for objective in objectives] for one in feasible]
    return tuple(feasible[index].number for index in non_dominated(points))


def best(trials: Sequence[Trial], objectives: Sequence[Objective]) -> int | None:
    """Return the best feasible trial by the first objective; else the complete one that breaks the constraints least.

    Violations are fractions of their limits, added up.
    """
    complete = [one for one in trials if one.state == "complete" and one.same_as is None]

    def rank(trial: Trial) -> tuple[float, float, int]:
        return sum(max(0.0, v) for v in trial.violations.values()), cost(trial, objectives[0]), trial.number

    return min(complete, key=rank).number if complete else None


def importances(study: optuna.Study, objectives: Sequence[Objective]) -> tuple[Importance, ...]:
    """Return what each parameter decides of each objective.

    There is none for an objective whose values are all the same, or where there are fewer than eight trials.
    """
    library = load_optuna()
    complete = study.get_trials(deepcopy=False, states=[library.trial.TrialState.COMPLETE])
    found = []
    for index, objective in enumerate(objectives):
        sign = 1.0 if objective.direction == "minimize" else -1.0
        values = {trial.values[index] for trial in complete}
        if len(complete) < _FEWEST or len(values) < 2:
            continue

        def target(trial: optuna.trial.FrozenTrial, index: int = index, sign: float = sign) -> float:
            return sign * float(trial.values[index])

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that single parameters have one value among the best
            evaluator = library.importance.PedAnovaImportanceEvaluator()
            shares = library.importance.get_param_importances(study, evaluator=evaluator, target=target)
        if shares:
            found.append(Importance(metric=objective.metric, shares=dict(shares), method=PED_ANOVA))
    return tuple(found)


def rank_check(candidates: Sequence[Candidate], trials: Sequence[Trial]) -> RankCheck | Missing:
    """Return whether the candidates' scores were in the order of the best accuracies that training gave each."""
    scores = {named(one.params): one.score for one in candidates if isinstance(one.score, float)}
    reached: dict[str, float] = {}
    for trial in trials:
        accuracy, name = trial.value("accuracy"), str(trial.params.get(CHOSEN))
        if accuracy is not None and name in scores:
            reached[name] = max(accuracy, reached.get(name, accuracy))
    if len(reached) < _FEWEST_RANKED or len(set(reached.values())) < 2:
        why = f"{len(reached)} candidates were trained to an accuracy"
        return Missing(code="too_few", why=f"{why}: too few to say whether the score told it")
    from scipy.stats import kendalltau

    tau = kendalltau([scores[name] for name in reached], list(reached.values())).statistic
    return RankCheck(tau=float(tau), n=len(reached))
