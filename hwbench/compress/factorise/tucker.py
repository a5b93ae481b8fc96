"""Tucker-2: a kernel as a core between two matrices, of output and of input channels (arXiv:1511.06530)."""

from __future__ import annotations

import numpy as np

from hwbench.compress.factorise.spectrum import leading_by_square
from hwbench.graph.linear import Array

_ROUNDS = 50
_SETTLED = 1e-8  # change of the part of the energy that is kept


def tucker2(kernel: Array, ranks: tuple[int, int]) -> tuple[Array, Array, Array]:
    """Return outputs [o, r], core [r, s, k] and inputs [i, s] of a kernel [o, i, k]; both matrices are orthonormal.

    Starts from the leading directions of the two unfoldings (HOSVD) and improves one matrix at a time under the other
    (HOOI), which never makes it worse.
    """
    left = unfolded_directions(kernel, 0)[0][:, : ranks[0]]
    right = unfolded_directions(kernel, 1)[0][:, : ranks[1]]
    whole, before = float((kernel**2).sum()), -1.0
    core = _core(kernel, left, right)
    for _ in range(_ROUNDS):
        kept = float((core**2).sum())
        if whole == 0 or kept - before <= _SETTLED * whole:
            break
        before = kept
        left = unfolded_directions(np.einsum("oik,is->osk", kernel, right, optimize=True), 0)[0][:, : ranks[0]]
        right = unfolded_directions(np.einsum("oik,or->rik", kernel, left, optimize=True), 1)[0][:, : ranks[1]]
        core = _core(kernel, left, right)
    return left, core, right


def unfolded_directions(kernel: Array, axis: int) -> tuple[Array, Array]:
    """Return the leading directions on one axis (columns) and their energies, largest first."""
    flat = np.moveaxis(kernel, axis, 0).reshape(kernel.shape[axis], -1)
    return leading_by_square(flat @ flat.T)


def _core(kernel: Array, left: Array, right: Array) -> Array:
    core: Array = np.einsum("oik,or,is->rsk", kernel, left, right, optimize=True)
    return core
