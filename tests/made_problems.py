"""Problems for the solver: small ones drawn at random, and answers by trying everything."""

from __future__ import annotations

import itertools

import numpy as np

from hwbench.plan.problem import Factor, Pair, Peak, Problem, Variable


def variables(sizes):
    return tuple(
        Variable(name=f"v{number}", options=tuple(f"o{k}" for k in range(size))) for number, size in enumerate(sizes)
    )


def drawn(rng, *, count=None, widest=4, equal=True):
    """A problem of up to 6 variables: factors of 1 to 4 axes, blocks that can be dropped, pairs of both signs."""
    count = int(rng.integers(2, 7)) if count is None else count
    sizes = [int(n) for n in rng.integers(1, 5, count)]
    ties = ()
    if equal and count > 2 and rng.random() < 0.5:
        a, b = (int(v) for v in rng.choice(count, 2, replace=False))
        sizes[b] = sizes[a]
        ties = ((a, b),)
    scopes = [_scope(rng, count, widest) for _ in range(int(rng.integers(1, 7)))]
    quantities = {
        name: tuple(Factor(scope, _table(rng, [sizes[v] for v in scope])) for scope in scopes if rng.random() < 0.8)
        for name in ("latency", "energy", "size")
    }
    cuts = tuple(
        tuple(Factor(scope, _table(rng, [sizes[v] for v in scope])) for scope in (_scope(rng, count, 2),) * 2)
        for _ in range(int(rng.integers(1, 4)))
    )
    losses = tuple(np.concatenate([[0.0], rng.lognormal(0, 1, size - 1)]) for size in sizes)
    return Problem(
        variables=variables(sizes),
        quantities=quantities,
        losses=losses,
        pairs=tuple(_pair(rng, sizes) for _ in range(int(rng.integers(0, 5)))),
        equal=ties,
        peaks={"memory": Peak(cuts=cuts, beside=("size",))},
    )


def _scope(rng, count, widest):
    axes = int(rng.integers(1, min(widest, count) + 1))
    return tuple(int(v) for v in rng.choice(count, axes, replace=False))


def _table(rng, shape):
    table = rng.lognormal(0, 1, shape) * 1e-5
    if rng.random() < 0.5:  # a block that is dropped with one option of one variable
        axis = int(rng.integers(len(shape)))
        table[(slice(None),) * axis + (int(rng.integers(shape[axis])),)] = 0.0
    return table * (-1 if rng.random() < 0.1 else 1)


def _pair(rng, sizes):
    a, b = (int(v) for v in rng.choice(len(sizes), 2, replace=False))
    option, other = int(rng.integers(sizes[a])), int(rng.integers(sizes[b]))
    return Pair(variable=a, option=option, other=b, other_option=other, extra=float(rng.normal(0, 0.5)))


def everything(problem):
    """Every choice that keeps the equalities, with its totals, added up here from the tables as they were given."""
    found = []
    for choice in itertools.product(*(range(len(v.options)) for v in problem.variables)):
        if any(choice[a] != choice[b] for a, b in problem.equal):
            continue
        totals = {name: _sum(factors, choice) for name, factors in problem.quantities.items()}
        totals["loss"] = sum(float(loss[o]) for loss, o in zip(problem.losses, choice, strict=True)) + sum(
            pair.extra
            for pair in problem.pairs
            if choice[pair.variable] == pair.option and choice[pair.other] == pair.other_option
        )
        for name, peak in problem.peaks.items():
            totals[name] = max(_sum(cut, choice) for cut in peak.cuts) + sum(totals[one] for one in peak.beside)
        found.append((choice, totals))
    return found


def _sum(factors, choice):
    return sum(float(f.table[tuple(choice[v] for v in f.variables)]) for f in factors)


def staircase(seed, *, widths=6, precisions=3, groups=54, edges=70, blocks=16):
    """What a network of 54 coupled groups looks like: widths in steps of 16 channels, precisions, blocks, borders.

    Clusters are factors of in-width x out-width x precision, two thirds of them in a block that can be dropped; borders
    are factors of two precisions.
    """
    rng = np.random.default_rng(seed)
    keep, speed = np.linspace(1, 0.4, widths), np.array([1, 0.55, 0.45])[:precisions]
    wires = [(v, v + 1) for v in range(groups - 1)]
    while len(wires) < edges:
        start = int(rng.integers(0, groups - 4))
        wire = (start, start + int(rng.integers(2, 4)))
        wires += [wire] if wire not in wires else []
    latency, size = [], []
    for a, b in wires:
        ins, outs = (np.ceil(rng.choice([64, 128, 256, 512]) * keep / 16) * 16 for _ in range(2))
        macs = ins[:, None, None] * outs[None, :, None] * rng.choice([1, 9]) * np.ones(precisions)
        times = macs * speed * 1e-10 * rng.uniform(0.5, 2) * rng.lognormal(0, 0.05, macs.shape) + 2e-6
        weights = macs * np.array([4, 2, 1])[:precisions]
        scope = (a, b, groups + b)
        if b % 3 and b // 3 < blocks:
            scope = (*scope, 2 * groups + b // 3)
            times, weights = (np.stack([table, 0 * table], axis=-1) for table in (times, weights))
        latency.append(Factor(scope, times))
        size.append(Factor(scope, weights))
        latency.append(Factor((groups + a, groups + b), (1 - np.eye(precisions)) * rng.uniform(2e-6, 2e-5)))
    losses = [rng.lognormal(-5, 1.2) * (1 - keep) ** 2 * 4 for _ in range(groups)]
    losses += [rng.lognormal(-5, 1.2) * np.array([0, 0.05, 0.3])[:precisions] for _ in range(groups)]
    losses += [np.array([0, rng.lognormal(-3, 1)]) for _ in range(blocks)]
    made = [widths] * groups + [precisions] * groups + [2] * blocks
    pairs = tuple(
        Pair(variable=v, option=o, other=v + 1, other_option=p, extra=float(rng.normal(0, 0.2) * losses[v][o]))
        for v in range(0, groups - 1, 2)
        for o, p in ((widths - 1, widths - 1), (widths - 2, widths - 1), (widths - 1, widths - 2))
    )
    return Problem(
        variables=variables(made),
        quantities={"latency": tuple(latency), "size": tuple(size)},
        losses=tuple(losses),
        pairs=pairs,
    )
