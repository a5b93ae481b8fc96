"""CP: a kernel as a sum of products of four vectors (arXiv:1412.6553), found by alternating least squares.

The best CP approximation need not exist: terms may grow without bound and cancel. A small ridge keeps them finite, at
the price of a little error, and the sizes of the four vectors of a term are kept equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np

from hwbench.graph.linear import Array

_ROUNDS = 300
_SETTLED = 3e-6  # change of the relative error
_RIDGE = 1e-7  # of the mean diagonal of the normal equations


def cp(kernel: Array, rank: int, seed: int) -> list[Array]:
    """Return one matrix [size, rank] for each axis of a kernel [o, i, h, w]; their sum of products approximates it."""
    whole, before = float((kernel**2).sum()), np.inf
    if whole == 0:
        return [np.zeros((size, rank)) for size in kernel.shape]
    factors = _start(kernel, rank, np.random.default_rng(seed))
    for _ in range(_ROUNDS):
        error = _round(kernel, factors, whole)
        factors = _even(factors)
        if before - error <= _SETTLED * whole:
            break
        before = error
    return factors


def _round(kernel: Array, factors: list[Array], whole: float) -> float:
    """Improve each factor once, in place, and return the squared error after the last."""
    outputs, inputs, height, width = kernel.shape
    by_output, by_input = kernel.reshape(outputs, -1), kernel.swapaxes(0, 1).reshape(inputs, -1)
    factors[0] = _solved(factors, 0, by_output @ khatri_rao(factors[1:]))
    factors[1] = _solved(factors, 1, by_input @ khatri_rao([factors[0], *factors[2:]]))
    seen = (by_output.T @ factors[0]).reshape(inputs, height * width, -1)  # the channels are settled: sum them once
    window = (seen * factors[1][:, None]).sum(axis=0).reshape(height, width, -1)
    factors[2] = _solved(factors, 2, (window * factors[3][None]).sum(axis=1))
    projected = (window * factors[2][:, None]).sum(axis=0)
    factors[3] = _solved(factors, 3, projected)
    square = reduce(np.multiply, [factor.T @ factor for factor in factors])
    return whole - 2 * float((projected * factors[3]).sum()) + float(square.sum())


def _solved(factors: list[Array], axis: int, projected: Array) -> Array:
    square = reduce(np.multiply, [factor.T @ factor for at, factor in enumerate(factors) if at != axis])
    ridge = _RIDGE * np.trace(square) / len(square) * np.eye(len(square))
    solved: Array = np.linalg.solve(square + ridge, projected.T).T
    return solved


def khatri_rao(factors: Sequence[Array]) -> Array:
    """Return the products of the columns: [product of sizes, rank], the last axis running fastest."""
    rank = factors[0].shape[1]
    return reduce(lambda left, right: (left[:, None] * right[None]).reshape(-1, rank), factors)


def _start(kernel: Array, rank: int, rng: np.random.Generator) -> list[Array]:
    """Return the leading directions of each unfolding; where there are fewer than ``rank``, random columns besides."""
    factors = []
    for axis, size in enumerate(kernel.shape):
        flat = np.moveaxis(kernel, axis, 0).reshape(size, -1)
        vectors = np.linalg.eigh(flat @ flat.T)[1][:, ::-1][:, :rank]
        more = rng.standard_normal((size, max(0, rank - vectors.shape[1]))) / np.sqrt(size)
        factors.append(np.concatenate([vectors, more], axis=1))
    return factors


def _even(factors: list[Array]) -> list[Array]:
    """Give the vectors of a term equal lengths; a term of length zero is left."""
    lengths = np.stack([np.linalg.norm(factor, axis=0) for factor in factors])
    lengths[:, (lengths == 0).any(axis=0)] = 1.0
    wanted = np.exp(np.log(lengths).mean(axis=0))
    return [factor * (wanted / length) for factor, length in zip(factors, lengths, strict=True)]
