"""Contenders for one product: verified, then timed in turns.

Each is a CUDA graph of many products one behind the other, whose weights are read from copies in turn, so that by the
time a copy is read again the L2 cache holds others: together the copies of one contender are at least five times the
cache. Graphs are launched in rounds, in an order drawn anew for each, on one stream, between two events; a sample is
the time of a graph over the products in it. One dense product stands in the race twice: how far its two times are
apart is what this machine cannot tell (the A/A control).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

import numpy as np

from hwbench.crossover.grid import Product
from hwbench.cuda.api import Cuda, Stream
from hwbench.records.base import Missing
from hwbench.records.crossover import Cell, Contender, Times
from hwbench.stats import median_interval, quantile

Array = np.ndarray[Any, np.dtype[Any]]
CACHE_TIMES = 5  # copies of a weight together over the L2 cache
ALLOWED = 2.0**-10  # of sum |w||x|: what fp32 sums and an fp16 result leave
_LEAST_PRODUCTS, _MOST_PRODUCTS = 20, 400  # in a graph
_GRAPH_S = 2e-3  # how long a graph should take, so that what its launch costs does not count
_WARM_ROUNDS = 3
_NOT_COMPUTED = Missing(code="cannot_be_computed", why="it failed before it had a result")
_MEASURED = Missing(code="measured", why="a time does not tell what bounds it")


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One product, with the X that all contenders get."""

    product: Product
    x: Array  # [n, k], fp16


class Entry(Protocol):
    """A contender that is set up for one problem."""

    contender: Contender
    sparsity: float
    weight: Callable[[], Array]  # [rows, k], float32: what it multiplies by, exactly; below, the rows repeat
    read_bytes: float  # weight, X and Y, once
    allowed: float  # how many times ALLOWED it may be off: more than 1 where it computes in less than fp16
    copies: int

    def result(self) -> Array:
        """Compute the product once, with the first copy, and return Y [n, m]."""
        ...

    def capture(self, products: int, stream: Stream) -> Callable[[], object]:
        """Return what launches a graph of so many products, copy after copy, into the stream."""
        ...

    def close(self) -> None:
        """Give everything back."""
        ...


def copies_for(cuda_l2_bytes: int, weight_bytes: float) -> int:
    """Return how many copies of a weight there must be, so that none is in the cache when its turn comes."""
    return max(2, math.ceil(CACHE_TIMES * cuda_l2_bytes / max(weight_bytes, 1.0)))


def products_for(bound_s: float, copies: int) -> int:
    """Return how many products a graph has: whole turns through the copies, of about :data:`_GRAPH_S`."""
    wanted = min(max(_GRAPH_S / bound_s, _LEAST_PRODUCTS), _MOST_PRODUCTS)
    return copies * max(1, round(wanted / copies))


def error_of(entry: Entry, problem: Problem) -> float:
    """Return the largest |y - y64| over what is allowed, y64 from float64 of the weight that is multiplied by."""
    x, weight = problem.x.astype(np.float64), entry.weight().astype(np.float64)
    found, m = entry.result().astype(np.float64), problem.product.m
    if found.shape != (len(x), m) or not np.isfinite(found).all():
        return math.inf
    columns = np.arange(m) % len(weight)
    wanted, size = (x @ weight.T)[:, columns], (np.abs(x) @ np.abs(weight).T)[:, columns]
    return float(np.max(np.abs(found - wanted) / (entry.allowed * ALLOWED * size + 2.0**-24)))


def race(
    cuda: Cuda,
    entries: Sequence[Entry],
    problem: Problem,
    *,
    memory_bytes_per_s: float,
    rounds: int,
    seed: int,
    watch: Callable[[str], object],
) -> list[Cell]:
    """Verify, then time all entries in turns; one that is wrong is not timed.

    Args:
        cuda: the GPU.
        entries: set up for the problem.
        problem: what they compute.
        memory_bytes_per_s: what the bound goes by.
        rounds: samples of each.
        seed: of the order in each round.
        watch: told of each contender and each round.
    """
    bounds = [entry.read_bytes / memory_bytes_per_s for entry in entries]
    counts = [products_for(bound, entry.copies) for bound, entry in zip(bounds, entries, strict=True)]
    stream = cuda.stream()
    graphs: dict[int, Callable[[], object]] = {}
    errors: list[float | Missing] = []
    out: dict[int, Missing] = {}  # who is not timed
    for index, entry in enumerate(entries):
        watch(f"{problem.product}: {entry.contender.name}")
        error, graph = _verified(entry, problem, counts[index], stream)
        errors.append(error)
        if isinstance(graph, Missing):
            out[index] = graph
        else:
            graphs[index] = graph
    samples = _timed(cuda, stream, graphs, rounds, Random(seed), lambda: watch(f"{problem.product}: timing"))
    stream.free()
    return [
        Cell(
            m=problem.product.m,
            k=problem.product.k,
            n=problem.product.n,
            sparsity=entry.sparsity,
            contender=entry.contender.name,
            time=out[index] if index in out else _times(samples[index], counts[index]),
            read_bytes=entry.read_bytes,
            bound_s=bounds[index],
            bound_by=_MEASURED,
            error=errors[index],
        )
        for index, entry in enumerate(entries)
    ]


def _verified(
    entry: Entry, problem: Problem, products: int, stream: Stream
) -> tuple[float | Missing, Callable[[], object] | Missing]:
    """Return the error of a contender and its graph, or why there is none: one that fails must not end the table."""
    error: float | Missing = _NOT_COMPUTED
    try:
        found = error_of(entry, problem)
        error = found if math.isfinite(found) else _wrong(found)
        return error, _wrong(found) if found > 1 else entry.capture(products, stream)
    except Exception as failed:  # noqa: BLE001 - a boundary to torch, its backends and CUDA
        words = str(failed).strip().splitlines() or [type(failed).__name__]
        code = "cannot_be_computed" if error is _NOT_COMPUTED else "cannot_be_captured"
        return error, Missing(code=code, why=f"{entry.contender.name}: {words[0][:300]}")


def _timed(
    cuda: Cuda,
    stream: Stream,
    graphs: dict[int, Callable[[], object]],
    rounds: int,
    random: Random,
    alive: Callable[[], object],
) -> dict[int, list[float]]:
    """Return the seconds of every graph in every round after the first few.

    Each graph is launched once more before the first event: while it runs the host gets the timed launch into the
    stream, and what that takes it is not counted.
    """
    samples: dict[int, list[float]] = {index: [] for index in graphs}
    begin, end = cuda.event(), cuda.event()
    for turn in range(_WARM_ROUNDS + rounds):
        alive()
        order = list(graphs)
        random.shuffle(order)
        for index in order:
            graphs[index]()
            begin.record(stream)
            graphs[index]()
            end.record(stream)
            end.wait()
            if turn >= _WARM_ROUNDS:
                samples[index].append(end.since(begin))
    begin.free()
    end.free()
    return samples


def _times(samples: Sequence[float], products: int) -> Times:
    ordered = sorted(sample / products for sample in samples)
    low, high = median_interval(ordered, len(ordered))
    value = quantile(ordered, 0.5)
    return Times(
        value_s=value,
        low_s=min(low, value),
        high_s=max(high, value),
        samples_s=tuple(sample / products for sample in samples),
    )


def _wrong(error: float) -> Missing:
    told = f"{error:.3g} times the error that is allowed" if math.isfinite(error) else "a result that is no number"
    return Missing(code="wrong_result", why=f"it had {told}, so it was not timed")
