"""Which designs to build and time, so that whatever a solver may ask for has been measured nearby.

First the uniform ones. Then, in rounds, of many designs drawn at random those that add most to what is known: a design
is worth what its clusters are unknown, each by the time that it takes in the whole network. What is unknown is told by
counting at first (a cell is a kind of cluster, a scheme, and channels to half an octave), and by the fitted curves
later. nn-Meter samples where its predictor errs (Zhang et al. 2021, MobiSys, doi:10.1145/3458864.3467882); here whole
networks are what is drawn, so that every measurement is one in context.

No design that is drawn has zeros: what they save is timed in networks of their own (:mod:`hwbench.tables.zeros`).

Widths are those of the options, which sit at multiples of what a machine computes at once; which of them are steps of
the staircase, the measured ones tell (:mod:`hwbench.tables.edges`).
"""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from hwbench.plan.designs import design_of, key_of, sizes_of, uniform
from hwbench.records.planning import CostSample, Design, Sizes, Space
from hwbench.records.quantization import Floating, Scheme
from hwbench.tables.model import FEWEST, CostModel, fit

_POOL = 150  # designs drawn for each that is taken
_OCTAVE = 2.0 / math.log(2.0)  # cells in one
Sample = Callable[[Sequence[Design]], Sequence[CostSample]]
Cell = tuple[str, Scheme, int, int, bool]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much may be measured. ``seconds`` is looked at between rounds."""

    samples: int = 40
    seconds: float = math.inf
    round: int = 8  # designs that are drawn before what was measured is looked at


def first_designs(space: Space, *, floating: Floating = "auto") -> list[Design]:
    """Return the uniform designs: everything in float, and everything in each scheme that is offered."""
    return [Design(floating=floating), *(uniform(space, scheme, floating=floating) for scheme in schemes_of(space))]


def schemes_of(space: Space) -> tuple[Scheme, ...]:
    """Return the schemes that are offered to layers without zeros, beside float."""
    options = [option for site in space.sites for option in site.options if option.zeros is None]
    return tuple(dict.fromkeys(each.scheme for each in options if each.scheme not in {None, "float"}))


def drawn(
    space: Space,
    count: int,
    *,
    measured: Sequence[Design],
    model: CostModel | None = None,
    floating: Floating = "auto",
    seed: int = 0,
) -> list[Design]:
    """Return designs to measure next, the most telling first.

    Args:
        space: what can be chosen.
        count: how many designs.
        measured: what has been measured already.
        model: the costs that this has told; None: cells are counted.
        floating: of all of them.
        seed: of the drawing.
    """
    rng = random.Random(f"{seed}:{len(measured)}")
    seen = Counter(place.cell for design in measured for place in places(space, design))
    taken = set(map(key_of, measured))
    pool = {key_of(design): design for design in itertools.islice(at_random(space, rng, floating), _POOL)}
    candidates = [(design, places(space, design)) for key, design in pool.items() if key not in taken]
    unknown = _unknown(space, [where for _, where in candidates], model)
    chosen: list[Design] = []
    while candidates and len(chosen) < count:
        worths = [_worth(where, mine, seen) for (_, where), mine in zip(candidates, unknown, strict=True)]
        best = max(range(len(worths)), key=worths.__getitem__)
        design, where = candidates.pop(best)
        unknown.pop(best)
        chosen.append(design)
        seen.update(place.cell for place in where)
    return chosen


def at_random(space: Space, rng: random.Random, floating: Floating = "auto") -> Iterator[Design]:
    """Yield feasible designs without end: uniform in each choice, with shares of them drawn anew for each design."""
    while True:
        share_int8 = rng.choice([0.0, 0.5, 1.0, rng.random()])
        share_narrow, share_dropped = rng.choice([0.0, 0.5, 1.0]), rng.choice([0.0, 0.3])
        share_ranked, share_replaced = rng.choice([0.0, 0.0, 0.3]), rng.choice([0.0, 0.3])
        shares = {
            "precision": share_int8,
            "width": share_narrow,
            "depth": share_dropped,
            "replace": share_replaced,
            "rank": share_ranked,
        }
        choice = {}
        for site in space.sites:
            dense = [place for place, option in enumerate(site.options) if place and option.zeros is None]
            if rng.random() < shares[site.kind] and dense:
                choice[site.name] = rng.choice(dense)
        yield design_of(space, choice, floating=floating)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a cluster of a design lies: ``index`` of the cluster in the space, its cell, and its share of the work."""

    index: int
    cell: Cell
    scheme: Scheme
    sizes: Sizes
    weight: float


def places(space: Space, design: Design) -> list[Place]:
    """Return where the clusters of a design lie."""
    found = []
    for index, cluster in enumerate(space.clusters):
        sizes = sizes_of(cluster, space, design)
        if sizes is not None:
            scheme = design.of(cluster.name)
            cell = _cell(cluster.kind, scheme, sizes)
            weight = math.sqrt(max(1, cluster.macs))
            found.append(Place(index=index, cell=cell, scheme=scheme, sizes=sizes, weight=weight))
    return found


def measure(
    space: Space,
    sample: Sample,
    *,
    budget: Budget,
    known: Sequence[CostSample] = (),
    floating: Floating = "auto",
    seed: int = 0,
    elapsed_s: Callable[[], float],
) -> list[CostSample]:
    """Measure in rounds until the budget is spent, and return all dense samples, those that were known first.

    Args:
        space: what can be chosen.
        sample: builds and times designs; those that cannot be built it leaves out.
        budget: how much may be measured anew.
        known: samples of the same platform and network that are there already; they count for coverage.
        floating: the arithmetic of what is not quantised.
        seed: of the drawing.
        elapsed_s: seconds since the start.
    """
    samples = [each for each in known if not each.design.zeros]
    tried = [each.design for each in samples]
    todo = [
        design for design in first_designs(space, floating=floating) if key_of(design) not in set(map(key_of, tried))
    ]
    new = 0
    while new < budget.samples and elapsed_s() < budget.seconds:
        model = fit(samples, space, folds=0) if len(samples) >= FEWEST else None
        todo += drawn(
            space, max(1, min(budget.round, budget.samples - new) - len(todo)), measured=[*tried, *todo], model=model,
            floating=floating, seed=seed,
        )  # fmt: skip
        tried += todo
        samples += sample(todo)
        new += len(todo)
        if not todo:
            break
        todo = []
    return samples


def _worth(where: Sequence[Place], unknown: Sequence[float], seen: Counter[Cell]) -> float:
    """Return what a design adds: the weight of its clusters where little is known, less for each of the same cell."""
    worth, mine = 0.0, Counter[Cell]()
    for place, one in zip(where, unknown, strict=True):
        worth += place.weight * one / (1 + seen[place.cell] + mine[place.cell])
        mine[place.cell] += 1
    return worth


def _unknown(space: Space, designs: Sequence[Sequence[Place]], model: CostModel | None) -> list[list[float]]:
    """Return for each place how little is known there: the standard deviation of its curve, or 1."""
    found = [[1.0] * len(where) for where in designs]
    if model is None:
        return found
    asked: dict[tuple[int, Scheme], list[tuple[int, int]]] = {}
    for row, where in enumerate(designs):
        for column, place in enumerate(where):
            asked.setdefault((place.index, place.scheme), []).append((row, column))
    for (index, scheme), at in asked.items():
        cluster = space.clusters[index]
        if model.knows(cluster, scheme):
            sizes = [designs[row][column].sizes for row, column in at]
            for (row, column), deviation in zip(at, model.uncertainty(cluster, sizes, scheme), strict=True):
                found[row][column] = float(deviation)
    return found


def _cell(kind: str, scheme: Scheme, sizes: Sizes) -> Cell:
    into, out = (round(math.log(max(1, each)) * _OCTAVE) for each in (sizes.channels_in, sizes.channels_out))
    return kind, scheme, into, out, sizes.rank > 0
