"""A reduced problem as a mixed-integer linear programme: the local marginal polytope of its factor graph.

A binary column x[v, o] says that variable v takes option o. A *joint* stands for a set of variables that factors share:
continuous columns y over the combinations of their options, whose marginals are the x; where the x are whole, so are
the y. (Schlesinger 1976; Wainwright and Jordan, Foundations and Trends in Machine Learning 1, 2008, section 4.1.)

Options whose whole slice is zero in every table of a joint get no y. With S_m the options of axis m that do, what
remains is exactly the projection of the full polytope: the marginal of y is at most x for every option in S_m, and the
sum of all y is at least sum_m sum_(o in S_m) x[m, o] - (n - 1), with equality of the marginals where every S_m is
complete. For a single pair of options this is McCormick's envelope of the product x * x'; for a cluster in a block
that can be dropped it is the table of the undropped cluster alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwbench.plan.problem import Account, Array, Factor
from hwbench.plan.reduction import Reduced

Index = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of a sparse matrix as triplets, with lower and upper limits."""

    row: Index
    column: Index
    value: Array
    low: Array
    high: Array


@dataclass(frozen=True, eq=False)
class Joint:
    """Columns for the combinations of options ``inside`` of the variables ``scope``, from column ``first`` on."""

    scope: tuple[int, ...]
    inside: tuple[Index, ...]
    first: int

    @property
    def shape(self) -> tuple[int, ...]:
        """How many options each axis has columns for."""
        return tuple(len(options) for options in self.inside)

    @property
    def size(self) -> int:
        """How many columns it has."""
        return int(np.prod(self.shape))


@dataclass(frozen=True, eq=False)
class Programme:
    """Columns x, then those of the joints. ``costs``: by account, the coefficient of every column."""

    sizes: tuple[int, ...]
    offsets: Index  # of the x of each variable
    joints: tuple[Joint, ...]
    columns: int
    rows: Rows
    costs: Mapping[Account, Array]

    @property
    def binary(self) -> int:
        """How many columns, the first ones, are whole numbers."""
        return int(sum(self.sizes))

    def choice(self, x: Array) -> tuple[int, ...]:
        """Return the option of every variable in a solution."""
        return tuple(
            int(np.argmax(x[first : first + size])) for first, size in zip(self.offsets, self.sizes, strict=True)
        )


def programme(reduced: Reduced) -> Programme:
    """Return the programme; its rows are those of the polytope, and bounds are left to the solver."""
    sizes = reduced.sizes
    offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.intp)
    summed = {account: _summed(factors) for account, factors in reduced.accounts.items()}
    joints = _joints(sizes, [scope for tables in summed.values() for scope in tables], summed.values())
    columns = joints[-1].first + joints[-1].size if joints else int(sum(sizes))
    costs = {account: _costs(tables, sizes, offsets, joints, columns) for account, tables in summed.items()}
    return Programme(sizes, offsets, joints, columns, _polytope(sizes, offsets, joints), costs)


Tables = dict[tuple[int, ...], Array]  # by variables, ascending


def _summed(factors: Iterable[Factor]) -> Tables:
    """Return the factors as one table a set of variables, without the axes on which nothing depends."""
    found: Tables = {}
    for factor in factors:
        order = np.argsort(factor.variables)
        table: Array = np.transpose(factor.table, order)
        scope = tuple(factor.variables[k] for k in order)
        flat = [axis for axis in range(table.ndim) if (table == table.take([0], axis=axis)).all()]
        for axis in reversed(flat):
            table = np.asarray(table.take(0, axis=axis))
        scope = tuple(v for axis, v in enumerate(scope) if axis not in flat)
        found[scope] = found[scope] + table if scope in found else table
    return found


def _joints(sizes: Sequence[int], scopes: Iterable[tuple[int, ...]], tables: Iterable[Tables]) -> tuple[Joint, ...]:
    """Return a joint for each scope of two or more variables that no other one can hold, the largest first."""
    shared = sorted({scope for scope in scopes if len(scope) > 1}, key=lambda scope: (-len(scope), scope))
    everything = tuple(tables)
    found: list[Joint] = []
    first = int(sum(sizes))
    for scope in shared:
        mine = [those[scope] for those in everything if scope in those]
        inside = tuple(
            np.flatnonzero(sum(np.abs(table).sum(axis=_but(axis, len(scope))) for table in mine))
            for axis in range(len(scope))
        )
        if any(_holds(joint, scope, inside, sizes) for joint in found):
            continue
        found.append(Joint(scope, inside, first))
        first += found[-1].size
    return tuple(found)


def _but(axis: int, dimensions: int) -> tuple[int, ...]:
    return tuple(k for k in range(dimensions) if k != axis)


def _holds(joint: Joint, scope: tuple[int, ...], inside: Sequence[Index], sizes: Sequence[int]) -> bool:
    """Whether a joint has columns for all that a table over ``scope`` counts.

    It does when it has all options of the variables that the table does not have, and of the others those inside.
    """
    if not set(scope) <= set(joint.scope):
        return False
    wanted = dict(zip(scope, inside, strict=True))
    return all(
        np.isin(wanted[v], there).all() if v in wanted else len(there) == sizes[v]
        for v, there in zip(joint.scope, joint.inside, strict=True)
    )


def _costs(tables: Tables, sizes: Sequence[int], offsets: Index, joints: Sequence[Joint], columns: int) -> Array:
    found = np.zeros(columns)
    for scope, table in tables.items():
        if not scope:
            found[: sizes[0]] += table  # one of these columns is always taken
        elif len(scope) == 1:
            first = offsets[scope[0]]
            found[first : first + sizes[scope[0]]] += table
        else:
            inside = tuple(np.flatnonzero(np.abs(table).sum(axis=_but(axis, table.ndim))) for axis in range(table.ndim))
            joint = next(joint for joint in joints if _holds(joint, scope, inside, sizes))
            shape = [len(there) if v in scope else 1 for v, there in zip(joint.scope, joint.inside, strict=True)]
            taken = table[np.ix_(*(there for v, there in zip(joint.scope, joint.inside, strict=True) if v in scope))]
            spread = np.broadcast_to(taken.reshape(shape), joint.shape)
            found[joint.first : joint.first + joint.size] += spread.ravel()
    return found


def _polytope(sizes: Sequence[int], offsets: Index, joints: Sequence[Joint]) -> Rows:
    """Return the rows: one option a variable, and marginals."""
    ones = Rows(
        np.repeat(np.arange(len(sizes)), sizes),
        np.arange(sum(sizes)),
        np.ones(sum(sizes)),
        np.ones(len(sizes)),
        np.ones(len(sizes)),
    )
    return stacked([ones, *(_marginals(joint, sizes, offsets) for joint in joints)])


def _marginals(joint: Joint, sizes: Sequence[int], offsets: Index) -> Rows:
    """Return sum(y) - x = 0 by option, or <= 0 and one row for the sum where options were left out."""
    y = np.arange(joint.size).reshape(joint.shape)
    xs = [offsets[v] + there for v, there in zip(joint.scope, joint.inside, strict=True)]
    firsts = np.concatenate([[0], np.cumsum(joint.shape)])
    count = int(firsts[-1])
    rows = [np.indices(joint.shape)[axis].ravel() + firsts[axis] for axis in range(len(joint.shape))]
    columns = [joint.first + y.ravel()] * len(rows)
    row = np.concatenate([*rows, np.arange(count)])
    column = np.concatenate([*columns, *xs])
    value = np.concatenate([np.ones(joint.size * len(rows)), -np.ones(count)])
    complete = all(len(there) == sizes[v] for v, there in zip(joint.scope, joint.inside, strict=True))
    low, high = np.zeros(count), np.zeros(count)
    if complete:
        return Rows(row, column, value, low, high)
    short = [k for k, v in enumerate(joint.scope) if len(joint.inside[k]) < sizes[v]]
    total = np.concatenate([joint.first + y.ravel(), *(xs[k] for k in short)])
    signs = np.concatenate([np.ones(joint.size), *(-np.ones(len(xs[k])) for k in short)])
    return Rows(
        np.concatenate([row, np.full(len(total), count)]),
        np.concatenate([column, total]),
        np.concatenate([value, signs]),
        np.concatenate([low - np.inf, [1.0 - len(short)]]),  # complete axes add up to 1 each
        np.concatenate([high, [np.inf]]),
    )


def stacked(parts: Sequence[Rows]) -> Rows:
    """Return rows below rows."""
    starts = np.concatenate([[0], np.cumsum([len(part.low) for part in parts])])
    return Rows(
        np.concatenate([part.row + start for part, start in zip(parts, starts[:-1], strict=True)]).astype(np.intp),
        np.concatenate([part.column for part in parts]).astype(np.intp),
        np.concatenate([part.value for part in parts]),
        np.concatenate([part.low for part in parts]),
        np.concatenate([part.high for part in parts]),
    )
