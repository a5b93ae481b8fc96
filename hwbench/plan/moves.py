"""What single changes to a choice would cost, exactly, from the factors that they touch; and improving by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hwbench.plan.problem import LOSS, Account, Choice, Factor, Problem

Totals = dict[str, float]


class Moves:
    """Single changes to choices of one problem: variables that must be equal change together."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.groups = problem.groups()
        self._accounts = problem.accounts()
        home = {v: number for number, group in enumerate(self.groups) for v in group}
        self._touching: list[list[tuple[Account, Factor]]] = [[] for _ in self.groups]
        for account, factors in self._accounts.items():
            for factor in factors:
                for number in {home[v] for v in factor.variables}:
                    self._touching[number].append((account, factor))

    def sums(self, choice: Sequence[int]) -> dict[Account, float]:
        """Return the sum of every account."""
        return {account: sum(f.at(choice) for f in factors) for account, factors in self._accounts.items()}

    def of(self, number: int, choice: Choice, sums: Mapping[Account, float]) -> list[tuple[Choice, Totals]]:
        """Return, by option of the group ``number``, the choice with it and its totals, everything else the same."""
        group = self.groups[number]
        found = []
        for option in range(self.problem.sizes[group[0]]):
            other = tuple(option if v in group else o for v, o in enumerate(choice))
            new = dict(sums)
            for account, factor in self._touching[number]:
                new[account] += factor.at(other) - factor.at(choice)
            found.append((other, self.problem.of_sums(new)))
        return found


def polished(moves: Moves, choice: Choice, objective: str, bounds: Mapping[str, float]) -> Choice:
    """Improve by single changes until none helps: a lower objective, or the same one with less loss, within bounds.

    What the solver leaves inside its gap is taken up here, as far as one change at a time can.
    """
    problem = moves.problem
    here = _rank(problem.totals(choice), objective)
    moved = True
    while moved:
        moved = False
        for number in range(len(moves.groups)):
            for other, totals in moves.of(number, choice, moves.sums(choice)):
                rank = _rank(totals, objective)
                if _less(rank, here) and problem.fits(totals, bounds):
                    choice, here, moved = other, rank, True
    return choice


def _rank(totals: Mapping[str, float], objective: str) -> tuple[float, float]:
    return totals[objective], totals[LOSS]


def _less(a: tuple[float, float], b: tuple[float, float]) -> bool:
    """Whether ``a`` comes before ``b`` by more than rounding."""
    slack = tuple(1e-9 * (abs(x) + abs(y)) for x, y in zip(a, b, strict=True))
    if abs(a[0] - b[0]) > slack[0]:
        return a[0] < b[0]
    return a[1] < b[1] - slack[1]
