"""A programme with its objective and its bounds, as HiGHS takes it.

HiGHS's tolerances are absolute (about 1e-6), and seconds are small: every row, and the objective, is scaled so that its
largest coefficient is 1000. What stands beside a peak, such as the weights, is one column of its own, so that the row
of each cut need not repeat it.

HiGHS's presolve stays off. With it, HiGHS 1.12 (scipy 1.17) calls wrong answers optimal on small problems of this kind,
and other versions do on others (github.com/ERGO-Code/HiGHS/issues/1273, 2173, 3043). What it would gain here is
done by :mod:`hwbench.plan.reduction`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from hwbench.errors import EngineError
from hwbench.plan.problem import Account, Array, Peak
from hwbench.plan.program import Programme, Rows, stacked

_LARGEST = 1e3
_STATUS = {0: "optimal", 1: "time_limit", 2: "infeasible"}


class Search:
    """One programme to be solved, again and again with choices forbidden. ``peaks``: those of the problem, by name.

    Raises:
        EngineError: scipy is not installed.
    """

    def __init__(self, made: Programme, peaks: Mapping[str, Peak], objective: str, bounds: Mapping[str, float]) -> None:
        self._optimize, self._sparse = _scipy()
        self._made, self._peaks = made, peaks
        used = [name for name in dict.fromkeys((objective, *bounds)) if name in peaks]
        beside = dict.fromkeys(quantity for name in used for quantity in peaks[name].beside)
        self._beside = {quantity: made.columns + k for k, quantity in enumerate(beside)}
        self._top = made.columns + len(beside)  # the value of the peak that is minimised
        self._width = self._top + (objective in peaks)
        self._low, self._high = np.zeros(self._width), np.ones(self._width)
        self._parts = [made.rows, *(self._defined(quantity) for quantity in beside)]
        for name, limit in bounds.items():
            self._parts += [_row(sums, limit) for sums in self._sums(name)]
        self._costs = self._objective(objective)
        self._scale = _LARGEST / _largest(self._costs)

    def run(self, time_limit_s: float, gap: float) -> Any:
        """Return what scipy says; ``x`` is None where there is no solution.

        Raises:
            EngineError: HiGHS ended in a way that is neither an answer nor a proof that there is none.
        """
        rows = stacked(self._parts)
        matrix = self._sparse.csr_matrix((rows.value, (rows.row, rows.column)), shape=(len(rows.low), self._width))
        with _quiet():
            result = self._optimize.milp(
                self._costs * self._scale,
                integrality=np.arange(self._width) < self._made.binary,
                bounds=self._optimize.Bounds(self._low, self._high),
                constraints=self._optimize.LinearConstraint(matrix, rows.low, rows.high),
                options={"time_limit": max(0.0, time_limit_s), "mip_rel_gap": gap, "presolve": False},
            )
        if result.status not in _STATUS:
            raise EngineError(f"HiGHS gave up: {result.message}")
        return result

    def bound(self, result: Any) -> float:
        """Return what the objective is at least, in its own unit, after a run."""
        if result.status == 2:
            return float("inf")
        found = result.mip_dual_bound
        return float("-inf") if found is None else float(found) / self._scale

    def forbid(self, choice: tuple[int, ...]) -> None:
        """Forbid one choice (of the reduced problem)."""
        columns = self._made.offsets + np.asarray(choice, dtype=np.intp)
        count = len(columns)
        self._parts.append(
            Rows(np.zeros(count, dtype=np.intp), columns, np.ones(count), np.array([-np.inf]), np.array([count - 1.0]))
        )

    def _sums(self, name: str) -> list[Array]:
        """Return the coefficients of a quantity, or of each cut of a peak with what stands beside it."""
        if name not in self._peaks:
            return [self._padded(self._made.costs[Account(name)])]
        found = []
        for number in range(len(self._peaks[name].cuts)):
            sums = self._padded(self._made.costs[Account(name, number)])
            for quantity in self._peaks[name].beside:
                sums[self._beside[quantity]] = _largest(self._made.costs[Account(quantity)])
            found.append(sums)
        return found

    def _padded(self, costs: Array) -> Array:
        return np.concatenate([costs, np.zeros(self._width - len(costs))])

    def _defined(self, quantity: str) -> Rows:
        """Return the row that makes a column the quantity, counted in its largest coefficient."""
        sums = self._padded(self._made.costs[Account(quantity)])
        column, unit = self._beside[quantity], _largest(sums)
        self._limit(column, [sums], unit)
        sums[column] = -unit
        return _row(sums, 0.0, low=0.0)

    def _objective(self, name: str) -> Array:
        """Return what is minimised; of a peak it is a column that no cut exceeds."""
        cuts = self._sums(name)
        if name not in self._peaks:
            return cuts[0]
        unit = max(_largest(cut) for cut in cuts)
        self._limit(self._top, cuts, unit)
        for cut in cuts:
            cut[self._top] = -unit
            self._parts.append(_row(cut, 0.0))
        costs = np.zeros(self._width)
        costs[self._top] = unit
        return costs

    def _limit(self, column: int, sums: list[Array], unit: float) -> None:
        """Limit a column to what the sums can reach: HiGHS tells infeasible from unbounded by it."""
        ends = [(cut * self._low, cut * self._high) for cut in sums]
        self._low[column] = min(float(np.minimum(a, b).sum()) for a, b in ends) / unit
        self._high[column] = max(float(np.maximum(a, b).sum()) for a, b in ends) / unit


def _largest(costs: Array) -> float:
    return float(np.abs(costs).max()) or 1.0


def _row(sums: Array, limit: float, low: float = -np.inf) -> Rows:
    """Return low <= sums <= limit as a row, scaled."""
    columns = np.flatnonzero(sums)
    scale = _LARGEST / _largest(sums)
    return Rows(
        np.zeros(len(columns), dtype=np.intp),
        columns,
        sums[columns] * scale,
        np.array([low * scale]),
        np.array([limit * scale]),
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep HiGHS from standard output: it prints a line when it repairs a solution, whatever its settings say."""
    if os.name != "posix":
        yield
        return
    sys.stdout.flush()
    before = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        ctypes.CDLL(None).fflush(None)  # C's buffer, while it still leads nowhere
        os.dup2(before, 1)
        os.close(before)
        os.close(nowhere)


def _scipy() -> tuple[Any, Any]:
    try:
        from scipy import optimize, sparse  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise EngineError("the solver needs scipy", hint="pip install 'hwbench-nn[plan]'") from error
    return optimize, sparse
