"""Least-squares reconstruction: weights that bring a layer's output back to what the original's was.

Where inputs of a layer were cut, or its weights changed, or what comes before it did, other weights than those left are
best. Over rows x of what the layer gets now and targets t of what the original put out,

    W' = W + (E[t x^T] - W E[x x^T]) (E[x x^T] + l I)^-1

minimises E|t - W' x|^2 + l |W' - W|^2 (He et al. 2017, arXiv:1707.06168; the damping pulls towards the weights that are
there, not towards zero). So W' is never worse than W on these statistics. Where the layer has a place for a shift (a
bias, or the mean of the BatchNormalization behind it), everything is centred and the shift is solved for as well.

Zeros that must stay are kept exactly: every output has a support of its own, and its weights are solved for on that.
Outputs that share a support are solved for together by Cholesky's method, d^3/3 operations a support. Where that would
cost more than ``_STEPS`` steps of conjugate gradients for all outputs at once (outputs x d^2 each), the latter are
taken, started from the weights that are there; they fall in error with every step, so stopping early never hurts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from hwbench.compress.base import Array, Subject
from hwbench.compress.repair.match import Match, held_biases
from hwbench.compress.repair.norm import MEAN
from hwbench.compress.statistics.pairs import Pair

Tensor = torch.Tensor
_STEPS = 100
_TOLERANCE = 1e-6
_NOTHING = 1e-9  # of the variance: what float32 activations cannot tell


@dataclass(frozen=True, kw_only=True)
class Solved:
    """What least squares did to a layer; errors are E|t - y|^2 / Var(t) over the rows, before and after."""

    layer: str
    before: float
    after: float
    rows: int


def reconstruct(subject: Subject, one: Match, pair: Pair, damping: float) -> Solved | None:
    """Replace a layer's weights (and shift) by the best ones; None where that would not be better.

    Outputs whose bias is a zero that must stay are left as they are, unless their shift is in a norm.
    """
    layer, blocks = one.layer, one.layer.blocks()
    if one.norm is None:
        pair = replace(pair, usable=pair.usable & ~held_biases(subject, layer))
    groups, outputs, _, _ = blocks.shape
    old = torch.from_numpy(blocks.reshape(groups, outputs, -1).copy())
    shifts = one.norm is not None or layer.takes_bias
    problem = Problem.of(pair, shifts=shifts)
    weight = layer.node.inputs[1]
    held = weight is not None and weight.name in subject.held_zeros
    new = problem.solve(old, damping, old != 0 if held else None)
    new = torch.where(torch.from_numpy(pair.usable).reshape(groups, outputs, 1), new, old)
    before, after = problem.error(old, _offset(one, pair)), problem.error(new)
    scale = float(problem.spread.sum()) or 1.0
    if not bool(torch.isfinite(new).all()) or not after < before - _NOTHING * scale:
        return None
    layer.set_blocks(new.numpy().reshape(blocks.shape))
    if shifts:
        _set_shift(one, pair, new)
    return Solved(layer=layer.name, before=before / scale, after=after / scale, rows=pair.gram.rows)


@dataclass(frozen=True)
class Problem:
    """min E|t - W x|^2, of centred quantities or not. ``matrix`` g x d x d, ``cross`` g x o x d, ``spread`` g x o."""

    matrix: Tensor
    cross: Tensor
    spread: Tensor

    @classmethod
    def of(cls, pair: Pair, *, shifts: bool) -> Problem:
        """Take the statistics in float64; ``shifts``: about their means, since a shift is free."""
        matrix = torch.from_numpy(pair.gram.matrix).double()
        cross = torch.from_numpy(pair.cross).double()
        spread = torch.from_numpy(pair.square).reshape(cross.shape[:2])
        if not shifts:
            return cls(matrix, cross, spread)
        mean = torch.from_numpy(pair.gram.mean)
        target = torch.from_numpy(pair.mean).reshape(cross.shape[:2])
        return cls(
            matrix - mean[:, :, None] * mean[:, None, :],
            cross - target[:, :, None] * mean[:, None, :],
            (spread - target.square()).clamp(min=0),
        )

    def error(self, weights: Tensor, offset: Tensor | None = None) -> float:
        """Return E|t - W x|^2 summed over outputs; ``offset``: what remains of the shift, one number an output."""
        explained = (weights * (2 * self.cross - weights @ self.matrix)).sum()
        rest = float(self.spread.sum() - explained)
        return rest if offset is None else rest + float(offset.square().sum())

    def solve(self, weights: Tensor, damping: float, support: Tensor | None) -> Tensor:
        """Return the best weights on ``support`` (all where None); ``damping`` in units of the mean diagonal."""
        diagonal = self.matrix.diagonal(dim1=1, dim2=2)
        size = (damping * diagonal.mean(dim=1)).clamp(min=1e-12)
        damped = self.matrix.clone()
        damped.diagonal(dim1=1, dim2=2).add_(size[:, None])
        residual = self.cross - weights @ self.matrix
        if support is None:
            return weights + _cholesky(damped, residual)
        parts = zip(damped, residual, support, strict=True)
        return weights + torch.stack([_on_support(matrix, right, mask) for matrix, right, mask in parts])


def _cholesky(matrix: Tensor, right: Tensor) -> Tensor:
    factor, info = torch.linalg.cholesky_ex(matrix)
    if bool(info.any()):  # rounding made it indefinite: the damping is too small for this matrix
        return torch.zeros_like(right)
    return torch.cholesky_solve(right.mT, factor).mT


def _on_support(matrix: Tensor, right: Tensor, support: Tensor) -> Tensor:
    """Return D with zeros off the support that minimises tr(D A D^T)/2 - tr(R D^T)."""
    kinds, which = torch.unique(support, dim=0, return_inverse=True)
    exact = float((kinds.sum(dim=1).double() ** 3).sum()) / 3
    if exact > _STEPS * right.numel() * len(matrix):
        return _conjugate_gradients(matrix, right, support)
    found = torch.zeros_like(right)
    for index, mask in enumerate(kinds):
        rows, columns = torch.nonzero(which == index).flatten(), torch.nonzero(mask).flatten()
        if len(columns):
            part = _cholesky(matrix[columns][:, columns], right[rows][:, columns])
            found[rows[:, None], columns] = part
    return found


def _conjugate_gradients(matrix: Tensor, right: Tensor, support: Tensor) -> Tensor:
    """Solve every row on its own support at once; the diagonal is the preconditioner."""
    inverse = 1 / matrix.diagonal()
    found = torch.zeros_like(right)
    residual = right * support
    start = residual.norm(dim=1)
    preconditioned = residual * inverse
    direction, product = preconditioned, (residual * preconditioned).sum(dim=1)
    for _ in range(min(_STEPS, 2 * len(matrix))):
        if bool((residual.norm(dim=1) <= _TOLERANCE * start).all()):
            break
        image = (direction @ matrix) * support
        curvature = (direction * image).sum(dim=1)
        step = torch.where(curvature > 0, product / curvature, 0)[:, None]
        found, residual = found + step * direction, residual - step * image
        preconditioned = residual * inverse
        last, product = product, (residual * preconditioned).sum(dim=1)
        direction = preconditioned + torch.where(last > 0, product / last, 0)[:, None] * direction
    return found


def _offset(one: Match, pair: Pair) -> Tensor | None:
    """Return by how much the mean of each output channel is off now; None where there is no place for a shift."""
    if one.norm is None and not one.layer.takes_bias:
        return None
    blocks = one.layer.blocks()
    weights = blocks.reshape(*blocks.shape[:2], -1)
    bias = one.layer.bias()
    off = pair.mean - np.einsum("god,gd->go", weights, pair.gram.mean).reshape(-1) - (0.0 if bias is None else bias)
    return torch.from_numpy(np.where(pair.usable, off, 0))


def _set_shift(one: Match, pair: Pair, weights: Tensor) -> None:
    """Make the mean of the layer's output what it should be, by its bias or by the mean that is taken off behind it."""
    now = np.einsum("god,gd->go", weights.numpy(), pair.gram.mean).reshape(-1)
    bias = one.layer.bias()
    old = np.zeros_like(now) if bias is None else bias
    missing: Array = np.where(pair.usable, pair.mean - now - old, 0)
    if one.norm is None:
        one.layer.set_bias(old + missing)
    else:
        one.norm.set(MEAN, one.norm.get(MEAN) - missing)
