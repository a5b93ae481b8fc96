"""Which kernel pays for a product: read from a table, measured or modelled, and said with its reason.

What is compared is the time of hwbench's fastest kernel at the sparsity that is asked for with the fastest product that
needs no zeros: fp16, int8 and int4 alike, since a network may as well be quantised as pruned.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from hwbench.errors import UsageError
from hwbench.records.base import Missing
from hwbench.records.crossover import Basis, Cell, Choice, Contender, Crossover
from hwbench.sparse.formats import FORMATS
from hwbench.sparse.manifest import Kernel, kernel_for, load_manifest

NEAR = 2.0  # the factor in weights, and in rows of X, within which a product stands for another


def profitable(
    tables: Crossover | Sequence[Crossover],
    shape: tuple[int, int],
    n: int,
    sparsity: float,
    *,
    values: Collection[str] = ("fp16", "int8", "int4"),
    within: float = 0.02,
    kernels: Mapping[str, Kernel] | None = None,
) -> tuple[Choice, ...]:
    """Return hwbench's kernels for a product, the one that gains most first; none where no table has one near.

    A kernel is offered only where it takes the product that is asked for, and where that has as many tiles of N as the
    one in the table: a second tile reads the weights again.

    Args:
        tables: of one GPU; a measured one goes before a model.
        shape: rows and columns of W.
        n: rows of X.
        sparsity: the fraction of zeros that the layer has, or may have.
        values: what dense weights may be held in: leave out what the network's accuracy does not bear. Two bits are
            left out by default.
        within: how far the table's sparsity may be from it.
        kernels: of the manifest, for what they take; those that ship with hwbench by default.

    Raises:
        UsageError: ``sparsity`` is no fraction.
    """
    if not 0 <= sparsity <= 1:
        raise UsageError(f"sparsity is a fraction, got {sparsity:g}")
    given = (tables,) if isinstance(tables, Crossover) else tuple(tables)
    asked = _Asked(shape, n, load_manifest() if kernels is None else kernels)
    for table in sorted(given, key=lambda one: one.basis != "measured"):
        found: dict[str, Choice] = {}
        for near in _near(table, shape, n):
            for choice in _of_product(table, near, sparsity, values, within, asked):
                found.setdefault(choice.contender, choice)
        if found:
            return tuple(sorted(found.values(), key=lambda choice: -choice.gain))
    return ()


@dataclass(frozen=True)
class _Asked:
    """The product that is asked for, and who takes it."""

    shape: tuple[int, int]
    n: int
    kernels: Mapping[str, Kernel]

    def stood_for(self, contender: Contender, cell: Cell) -> bool:
        """Say whether a contender takes the product, and does in it what it did in that of a cell."""
        if contender.role != "kernel":
            return True
        if all(kernel.format != contender.name for kernel in self.kernels.values()):
            return False  # a table of a hwbench that had more kernels
        kernel, (m, k) = kernel_for(self.kernels, contender.name), self.shape
        if kernel.shape.refuses(n=self.n, m=m, k=k) or FORMATS[contender.name].refuses(m, k):
            return False
        return _tiles(kernel, self.n) == _tiles(kernel, cell.n)


def _tiles(kernel: Kernel, n: int) -> int:
    return -(-n // kernel.tile_for(n))


def _of_product(
    table: Crossover,
    near: tuple[int, int, int],
    sparsity: float,
    values: Collection[str],
    within: float,
    asked: _Asked,
) -> tuple[Choice, ...]:
    cells = [
        cell
        for cell in table.cells
        if (cell.m, cell.k, cell.n) == near and asked.stood_for(table.contender(cell.contender), cell)
    ]
    dense = {
        cell.contender: cell.time.value_s
        for cell in cells
        if not isinstance(cell.time, Missing) and _is_dense(table, cell, values)
    }
    if not dense:
        return ()
    return tuple(
        _choice(table, cell, cell.time.value_s, dense)
        for cell in cells
        if not isinstance(cell.time, Missing)
        and table.contender(cell.contender).role == "kernel"
        and cell.sparsity > 0
        and abs(cell.sparsity - sparsity) <= within
    )


def _is_dense(table: Crossover, cell: Cell, values: Collection[str]) -> bool:
    """Say whether a contender needs no zeros: a dense product, or a kernel of weights of few bits."""
    contender = table.contender(cell.contender)
    needs_none = contender.role == "dense" or (contender.role == "kernel" and cell.sparsity == 0)
    return needs_none and contender.values in values


def _near(table: Crossover, shape: tuple[int, int], n: int) -> list[tuple[int, int, int]]:
    """Return the products of the table that are near, the nearest first: by the rows of X, then by the weights."""
    apart = {(cell.m, cell.k, cell.n): _apart((cell.m, cell.k, cell.n), shape, n) for cell in table.cells}
    return sorted((one for one, far in apart.items() if max(far) <= math.log(NEAR)), key=lambda one: (apart[one], one))


def _apart(one: tuple[int, int, int], shape: tuple[int, int], n: int) -> tuple[float, float]:
    return abs(math.log(one[2] / n)), abs(math.log(one[0] * one[1] / (shape[0] * shape[1])))


def _choice(table: Crossover, cell: Cell, time: float, dense: Mapping[str, float]) -> Choice:
    best = min(dense, key=dense.__getitem__)
    gain = dense[best] / time
    noise = 1.0 if isinstance(table.control, Missing) else table.control
    verdict, why = _verdict(gain, noise, best)
    told = _told(table.basis, cell)
    return Choice(
        contender=cell.contender,
        sparsity=cell.sparsity,
        product=(cell.m, cell.k, cell.n),
        time_s=time,
        basis=table.basis,
        gain=gain,
        best_dense=best,
        against={name: seconds / time for name, seconds in dense.items()},
        verdict="gain" if verdict else "no gain",
        why=f"{why}; {told}",
    )


def _verdict(gain: float, noise: float, best: str) -> tuple[bool, str]:
    if gain <= 1:
        return False, f"{best} is faster: {1 / gain:.2f} times"
    if gain <= noise:
        return False, f"{gain:.2f} times {best}, and two timings of one product differ by {noise:.2f} times"
    return True, f"{gain:.2f} times {best}"


def _told(basis: Basis, cell: Cell) -> str:
    where = f"{cell.m}x{cell.k}, N = {cell.n}"
    return f"measured at {where}" if basis == "measured" else f"model, not measured, at {where}"
