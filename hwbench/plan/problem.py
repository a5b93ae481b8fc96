"""The question put to the solver, as plain arrays: it knows nothing of networks.

Every *variable* takes one of its options. What a choice costs is a sum of *factors*, one table each over the options of
one or more variables. An *account* is such a sum: an additive quantity (``latency``, ``energy``, ``size``), the
``loss``, or one cut of a peak (the bytes that are alive at one point of the network; the peak is the largest of its
cuts). What lies in a block that can be dropped has the block as one more axis, with zeros where it is dropped: the
solver leaves such slices out, so they cost no columns.

Units are the caller's: seconds, joules, bytes and nats in, the same out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwbench.errors import UsageError

Array = NDArray[np.float64]
Choice = tuple[int, ...]  # by variable, the index of the option taken

LOSS = "loss"


@dataclass(frozen=True, kw_only=True)
class Variable:
    """What is chosen. ``name`` and ``options`` are for people; the order of the options is that of all tables."""

    name: str
    options: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Factor:
    """A table over the options of ``variables``, one axis each, in this order; no variable twice."""

    variables: tuple[int, ...]
    table: Array

    def at(self, choice: Sequence[int]) -> float:
        """Return the entry of a choice."""
        return float(self.table[tuple(choice[v] for v in self.variables)])


@dataclass(frozen=True, kw_only=True)
class Pair:
    """What option ``option`` of ``variable`` and ``other_option`` of ``other`` lose beyond their sum; either sign."""

    variable: int
    option: int
    other: int
    other_option: int
    extra: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Peak:
    """The largest of several sums, plus what is there all the time: quantities by name, such as weights in memory."""

    cuts: tuple[tuple[Factor, ...], ...]
    beside: tuple[str, ...] = ()


@dataclass(frozen=True)
class Account:
    """One sum of factors. ``cut``: which of a peak's; -1 where the quantity is the sum itself."""

    quantity: str
    cut: int = -1


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """Variables, what they cost, what they lose, and which must be equal.

    ``losses``: by variable, what each option loses alone. ``equal``: pairs of variables that take the same option (by
    index), such as two precisions that share a scale.

    Raises:
        ValueError: a table does not fit its variables or is not finite, a name is taken twice, or an index is outside.
    """

    variables: tuple[Variable, ...]
    quantities: Mapping[str, tuple[Factor, ...]]
    losses: tuple[Array, ...]
    pairs: tuple[Pair, ...] = ()
    equal: tuple[tuple[int, int], ...] = ()
    peaks: Mapping[str, Peak] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(self)

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many options each variable has."""
        return tuple(len(variable.options) for variable in self.variables)

    @property
    def names(self) -> tuple[str, ...]:
        """All that can be minimised or bounded."""
        return (*self.quantities, *self.peaks, LOSS)

    def accounts(self, names: Sequence[str] | None = None) -> dict[Account, tuple[Factor, ...]]:
        """Return the factors of every account that ``names`` (all: None) need, the losses as factors among them.

        Raises:
            UsageError: a name is none of :attr:`names`.
        """
        wanted = self.names if names is None else tuple(dict.fromkeys(names))
        for name in wanted:
            if name not in self.names:
                raise UsageError(f"no cost is called '{name}'", hint=f"there are: {', '.join(self.names)}")
        found: dict[Account, tuple[Factor, ...]] = {}
        for name in wanted:
            if name == LOSS:
                found[Account(LOSS)] = self._losses()
            elif name in self.peaks:
                peak = self.peaks[name]
                found |= {Account(beside): self.quantities[beside] for beside in peak.beside}
                found |= {Account(name, number): cut for number, cut in enumerate(peak.cuts)}
            else:
                found[Account(name)] = self.quantities[name]
        return found

    def _losses(self) -> tuple[Factor, ...]:
        tables: dict[tuple[int, int], Array] = {}
        for pair in self.pairs:
            (a, i), (b, j) = sorted([(pair.variable, pair.option), (pair.other, pair.other_option)])
            table = tables.setdefault((a, b), np.zeros((self.sizes[a], self.sizes[b])))
            table[i, j] += pair.extra
        alone = (Factor((v,), np.asarray(loss, dtype=np.float64)) for v, loss in enumerate(self.losses))
        return (*alone, *(Factor(scope, table) for scope, table in tables.items()))

    def plus(self, constants: Mapping[str, float]) -> Problem:
        """Return the problem with something added to quantities whatever is chosen, by name."""
        more = {name: (*self.quantities[name], Factor((), np.array(value))) for name, value in constants.items()}
        return replace(self, quantities={**self.quantities, **more})

    def totals(self, choice: Sequence[int]) -> dict[str, float]:
        """Return what a choice costs, by name, from the tables themselves."""
        sums = {account: sum(f.at(choice) for f in factors) for account, factors in self.accounts().items()}
        return self.of_sums(sums)

    def of_sums(self, sums: Mapping[Account, float]) -> dict[str, float]:
        """Return quantities, peaks and loss, given the sums of all accounts."""
        found = {account.quantity: value for account, value in sums.items() if account.cut < 0}
        for name, peak in self.peaks.items():
            largest = max(sums[Account(name, number)] for number in range(len(peak.cuts)))
            found[name] = largest + sum(found[beside] for beside in peak.beside)
        return {name: found[name] for name in self.names}

    def fits(self, totals: Mapping[str, float], bounds: Mapping[str, float]) -> bool:
        """Whether no bound is exceeded by more than rounding (1e-9 of it) explains."""
        return all(totals[name] <= limit + 1e-9 * abs(limit) for name, limit in bounds.items())

    def groups(self) -> tuple[tuple[int, ...], ...]:
        """Return the variables that move together, each group ascending, by their first members."""
        home = list(range(len(self.variables)))

        def root(v: int) -> int:
            while home[v] != v:
                v = home[v]
            return v

        for a, b in self.equal:
            low, high = sorted((root(a), root(b)))
            home[high] = low
        members: dict[int, list[int]] = {}
        for v in range(len(home)):
            members.setdefault(root(v), []).append(v)
        return tuple(tuple(group) for group in members.values())


def _check(problem: Problem) -> None:
    sizes = problem.sizes
    _need(bool(sizes) and min(sizes) > 0, "a problem needs variables, and each of them an option")
    _need(len(set(problem.names)) == len(problem.names), f"a name is taken twice: {', '.join(problem.names)}")
    _need(len(problem.losses) == len(sizes), f"{len(problem.losses)} losses for {len(sizes)} variables")
    for name, peak in problem.peaks.items():
        _need(bool(peak.cuts), f"the peak '{name}' has no cuts")
        _need(set(peak.beside) <= set(problem.quantities), f"'{name}' stands beside what is not there: {peak.beside}")
    for account, factors in problem.accounts().items():
        for factor in factors:
            _check_factor(factor, sizes, account.quantity)
    for a, b in problem.equal:
        _need(
            sizes[a] == sizes[b], f"variables {a} and {b} are to be equal, and have {sizes[a]} and {sizes[b]} options"
        )


def _check_factor(factor: Factor, sizes: Sequence[int], what: str) -> None:
    scope = factor.variables
    _need(len(set(scope)) == len(scope), f"{what}: a factor has a variable twice: {scope}")
    _need(all(0 <= v < len(sizes) for v in scope), f"{what}: a factor is of variables that are not there: {scope}")
    want = tuple(sizes[v] for v in scope)
    _need(factor.table.shape == want, f"{what}: the table of variables {scope} is {factor.table.shape}, not {want}")
    _need(bool(np.isfinite(factor.table).all()), f"{what}: the table of variables {scope} is not finite")


def _need(condition: Any, message: str) -> None:
    if not condition:
        raise ValueError(message)
