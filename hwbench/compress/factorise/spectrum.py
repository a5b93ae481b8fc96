"""Singular values and leading directions of matrices, through the smaller of their two Gram matrices."""

from __future__ import annotations

import numpy as np

from hwbench.graph.linear import Array

_DAMPING = 1e-6


def leading(matrix: Array) -> tuple[Array, Array]:
    """Return the left singular vectors (columns) of a matrix [m, n] and the squared singular values, largest first.

    There are ``m`` of them; those beyond the rank have the value 0 and any directions that are orthogonal to the rest.
    """
    vectors, values, _ = np.linalg.svd(matrix, full_matrices=matrix.shape[0] > matrix.shape[1])
    squares = np.zeros(matrix.shape[0])
    squares[: len(values)] = values**2
    return vectors, squares


def leading_by_square(square: Array) -> tuple[Array, Array]:
    """Return eigenvectors (columns) and eigenvalues of a symmetric matrix without negative ones, largest first."""
    values, vectors = np.linalg.eigh((square + square.T) / 2)
    return vectors[:, ::-1], np.maximum(values[::-1], 0)


def damped(gram: Array) -> Array:
    """Return a Gram matrix [d, d] with a little of its mean diagonal added, so that no direction has no weight.

    A Gram of fewer rows than columns, or of channels that are always zero, is singular. Damped, what the data do not
    decide is decided by the weights. One that is all zero becomes the identity.
    """
    mean = float(np.trace(gram)) / len(gram)
    return gram.astype(np.float64) + (_DAMPING * mean if mean > 0 else 1.0) * np.eye(len(gram))


def relative_error(weight: Array, approximation: Array, gram: Array | None = None) -> float:
    """Return ||(W' - W) X||^2 / ||W X||^2 over all groups, with X X^T = ``gram`` [groups, d, d]; without it, X = 1.

    Weights are groups x outputs x d. The bias has no part in it. 0 where both are nothing.
    """
    lost, there = (_energy(part, gram) for part in (approximation - weight, weight))
    return lost / there if there > 0 else 0.0


def _energy(matrix: Array, gram: Array | None) -> float:
    seen = matrix if gram is None else np.matmul(matrix, gram.astype(np.float64))
    return max(0.0, float((seen * matrix).sum()))
