"""The same problem, smaller: variables that must be equal become one, and options that cannot win are left out.

An option is dominated when another of the same variable costs no more in any account, whatever its neighbours take:
for every account the sum over its factors of the least difference is not negative. Pair losses are factors like any
other, so an option that helps a neighbour is kept. Nothing that is left out could have improved the optimum; of two
that are alike the first stays. What remains knows where it came from, so answers speak of the original options.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwbench.plan.problem import Account, Array, Choice, Factor, Problem

Kept = NDArray[np.intp]


@dataclass(frozen=True, kw_only=True, eq=False)
class Reduced:
    """What is left to be decided.

    ``kept``: by remaining variable, the original options. ``home``: by original variable, the remaining one.
    """

    kept: tuple[Kept, ...]
    home: tuple[int, ...]
    accounts: Mapping[Account, tuple[Factor, ...]]

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many options each remaining variable has."""
        return tuple(len(options) for options in self.kept)

    def original(self, choice: Sequence[int]) -> Choice:
        """Return a choice among the remaining options as one among the original ones."""
        return tuple(int(self.kept[mine][choice[mine]]) for mine in self.home)


def reduce(problem: Problem, names: Sequence[str]) -> Reduced:
    """Return the problem without what cannot matter to the quantities ``names``: the objective and what is bounded."""
    groups = problem.groups()
    home = [0] * len(problem.variables)
    for number, group in enumerate(groups):
        for v in group:
            home[v] = number
    accounts = {
        account: tuple(_merged(factor, home) for factor in factors)
        for account, factors in problem.accounts(names).items()
    }
    kept = tuple(np.arange(problem.sizes[group[0]]) for group in groups)
    return _without_dominated(Reduced(kept=kept, home=tuple(home), accounts=accounts))


def _merged(factor: Factor, home: Sequence[int]) -> Factor:
    """Return the factor over remaining variables: where two of its axes became one, its diagonal."""
    mine = [home[v] for v in factor.variables]
    scope = tuple(dict.fromkeys(mine))
    table = np.asarray(factor.table, dtype=np.float64)
    if len(scope) < len(mine):
        shape = [table.shape[mine.index(v)] for v in scope]
        at = np.indices(shape)
        table = table[tuple(at[scope.index(v)] for v in mine)]
    return Factor(scope, table)


def _without_dominated(given: Reduced) -> Reduced:
    kept = list(given.kept)
    accounts = {account: list(factors) for account, factors in given.accounts.items()}
    touching: list[list[tuple[Account, int]]] = [[] for _ in kept]
    for account, factors in accounts.items():
        for number, factor in enumerate(factors):
            for v in factor.variables:
                touching[v].append((account, number))
    waiting = dict.fromkeys(range(len(kept)))
    while waiting:
        v = next(iter(waiting))
        del waiting[v]
        stay = _undominated(v, len(kept[v]), touching[v], accounts)
        if len(stay) == len(kept[v]):
            continue
        kept[v] = kept[v][stay]
        for account, number in touching[v]:
            factor = accounts[account][number]
            cut = np.take(factor.table, stay, axis=factor.variables.index(v))
            accounts[account][number] = Factor(factor.variables, cut)
            waiting.update(dict.fromkeys(factor.variables))  # fewer contexts: more may be dominated now
    return Reduced(
        kept=tuple(kept), home=given.home, accounts={account: tuple(factors) for account, factors in accounts.items()}
    )


def _undominated(
    v: int, size: int, touching: Sequence[tuple[Account, int]], accounts: Mapping[Account, Sequence[Factor]]
) -> list[int]:
    """Return the options of ``v`` that no other one beats everywhere."""
    extra: dict[Account, Array] = {}  # [i, j]: what i costs at least beyond j
    for account, number in touching:
        factor = accounts[account][number]
        rows = np.moveaxis(factor.table, factor.variables.index(v), 0).reshape(size, -1)
        least = (rows[:, None, :] - rows[None, :, :]).min(axis=2)
        extra[account] = extra[account] + least if account in extra else least
    beaten = np.ones((size, size), dtype=bool)
    for least in extra.values():
        beaten &= least >= 0
    stay = list(range(size))
    for i in reversed(range(size)):
        if any(beaten[i, j] for j in stay if j != i):
            stay.remove(i)
    return stay
