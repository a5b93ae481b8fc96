"""Truncated singular value decompositions of the weights of a layer, with and without its data.

Both forms write W as up x down and share what is kept between the two, so that the columns of ``up`` are as large as
the rows of ``down`` and either can be rounded later.
"""

from __future__ import annotations

import numpy as np

from hwbench.compress.factorise.spectrum import damped, leading, leading_by_square
from hwbench.graph.linear import Array


def truncated(matrix: Array, rank: int) -> tuple[Array, Array]:
    """Return up [m, rank] and down [rank, n] with the least ||W - up down|| (Eckart and Young)."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    root = np.sqrt(values[:rank])
    return left[:, :rank] * root, root[:, None] * right[:rank]


def truncated_on_data(matrix: Array, gram: Array, rank: int) -> tuple[Array, Array]:
    """Return up and down with the least ||(W - up down) X||, where X X^T = ``gram`` [n, n].

    SVD-LLM (arXiv:2403.07378) whitens, W L with L L^T = X X^T, truncates, and multiplies L^-1 back. With U the left
    singular vectors of W L that are kept, that product is U U^T W: nothing needs to be inverted, and a Gram that is
    singular is no obstacle. U are the leading eigenvectors of W X X^T W^T, the principal directions of the output
    (arXiv:1505.06798). The Gram is damped, see :func:`~hwbench.compress.factorise.spectrum.damped`.
    """
    vectors, _ = leading_by_square(matrix @ damped(gram) @ matrix.T)
    kept = vectors[:, :rank]
    return balanced(kept, kept.T @ matrix)


def energies(matrix: Array, gram: Array | None) -> Array:
    """Return the squared singular values of W, or of W X, largest first: as many as W has rows."""
    if gram is None:
        return leading(matrix)[1]
    return leading_by_square(matrix @ damped(gram) @ matrix.T)[1]


def balanced(up: Array, down: Array) -> tuple[Array, Array]:
    """Return the factors with columns of ``up`` as large as rows of ``down``; the product stays."""
    sizes = np.linalg.norm(up, axis=0), np.linalg.norm(down, axis=1)
    usable = (sizes[0] > 0) & (sizes[1] > 0)
    scale = np.ones(len(down))
    scale[usable] = np.sqrt(sizes[1][usable] / sizes[0][usable])
    return up * scale, down / scale[:, None]
