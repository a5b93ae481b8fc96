"""Gram matrices of what the weights of layers are multiplied with, in one streaming pass over the samples.

A layer computes y = W x for every row x: a patch of an image for a convolution, a feature vector for a matrix product.
Many methods need no more of the data than E[x x^T] (Optimal Brain Surgeon, SparseGPT, whitened SVD, least squares).

The matrix of a layer with rows of length d over all its n rows costs n d^2 operations, up to nine times the forward
pass for a 3x3 convolution. So rows are *sampled*: of every batch evenly many, uniformly at random among its positions,
``per_input`` x d of them in all (at least ``LEAST_ROWS``). The sampled matrix is an unbiased estimate of the full one,
its entries off by about sqrt(Var(x_i x_j) / n); regressing on n rows of length d adds about d / (n - d) to the part of
the error that remains. Only the rows drawn are cut out of the activations, and activations are freed at once.

Sums: rows of up to 1024 are multiplied and added up in float64. Longer ones in float32, ``_BLOCK`` rows at a time,
where a relative error of about 1e-7 x sqrt(blocks) is below that of sampling; only one triangle is computed.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from hwbench.compress.base import Array, Subject
from hwbench.errors import ModelError, UsageError
from hwbench.graph.linear import Linear
from hwbench.records.base import Missing

if TYPE_CHECKING:
    import torch

    from hwbench.compress.statistics.rows import Rows
    from hwbench.torch_view.layer import Layer

PER_INPUT = 4
LEAST_ROWS = 4096
LARGEST = 12288  # rows longer than this have Gram matrices of more than 0.6 GB
_BLOCK = 512
_EXACT = 1024
_ELEMENTS = 1 << 24  # of rows cut out at once


@dataclass(frozen=True, kw_only=True)
class Gram:
    """E[x x^T] of a layer's rows, by group.

    ``matrix``: groups x d x d, where d is inputs of a group x kernel positions, in the order of
    :meth:`hwbench.graph.linear.Linear.blocks`; float64 for d up to 1024, else float32. ``mean``: E[x], groups x d.
    ``rows``: how many rows the means are over, ``of``: how many the samples have.
    """

    matrix: Array
    mean: Array
    rows: int
    of: int


def no_gram(layer: Linear) -> Missing | None:
    """Say why there can be no Gram matrix of a layer's inputs, or None. Nothing is run."""
    from hwbench.compress.statistics.rows import Rows, no_rows

    trouble = no_rows(layer)
    if trouble is not None:
        return trouble
    width = Rows(layer).width
    if layer.groups * width**2 > LARGEST**2:
        cure = "choose layers with fewer inputs"
        why = f"the Gram matrix of {layer.groups} x {width} inputs would be too large"
        return Missing(code="too_large", why=why, cure=cure)
    return None


def input_grams(
    subject: Subject,
    layers: Collection[str],
    *,
    per_input: float | None = PER_INPUT,
    least: int = LEAST_ROWS,
    seed: int | None = None,
) -> dict[str, Gram]:
    """Return the Gram matrix of the inputs of each of ``layers`` over the subject's samples, in one pass.

    Layers that read the same tensor in the same way (queries, keys, values) share theirs.

    Args:
        subject: the network as it is now, with samples.
        layers: names of layers with weights, for which :func:`no_gram` finds nothing.
        per_input: how many rows are drawn for each element of a row; None takes all rows.
        least: at least so many rows are drawn, where there are so many.
        seed: of the drawing; the subject's own by default.

    Raises:
        UsageError: there are no samples, or a layer has no Gram matrix.
        ModelError: an input of a layer holds NaN or infinity.
    """
    import torch

    from hwbench.compress.statistics.watch import passes, shortened, watching

    batches = subject.need_samples("a Gram matrix").batches
    sums = _sums(subject, layers, per_input, least, batches, subject.seed if seed is None else seed)
    view = shortened(subject.view(), layers)
    with torch.no_grad(), watching(view, [(one.names[0], one.see) for one in sums.values()]):
        for tensors, _ in passes(subject, "a Gram matrix"):
            view(*tensors)
    found = {key: one.result() for key, one in sums.items()}
    return {name: found[key] for key, one in sums.items() for name in one.names}


def input_matrices(subject: Subject, layers: Collection[str], what: str) -> dict[str, Array]:
    """Return the matrices of :func:`input_grams` alone; ``what`` cannot do without.

    Raises:
        UsageError: as there.
        ModelError: as there.
    """
    subject.need_samples(what)
    return {name: gram.matrix for name, gram in input_grams(subject, layers).items()}


def _sums(
    subject: Subject, layers: Collection[str], per_input: float | None, least: int, batches: int, seed: int
) -> dict[Any, _OfLayer]:
    from hwbench.compress.statistics.rows import Rows

    there = subject.layers()
    sums: dict[Any, _OfLayer] = {}
    for name in layers:
        if name not in there:
            raise UsageError(f"'{name}' is no layer with weights", hint="layers with weights: " + ", ".join(there))
        trouble = no_gram(there[name])
        if trouble is not None:
            raise UsageError(f"no Gram matrix of the inputs of '{name}': {trouble.why}", hint=trouble.cure)
        rows = Rows(there[name])
        limit = None if per_input is None else max(least, round(per_input * rows.width))
        rng = np.random.default_rng([seed, len(sums)])
        sums.setdefault(rows.geometry, _OfLayer(rows=rows, limit=limit, batches=batches, rng=rng)).names.append(name)
    return sums


@dataclass
class _OfLayer:
    """The matrix of one layer, or of several with the same rows, as it grows."""

    rows: Rows
    limit: int | None
    batches: int
    rng: np.random.Generator
    names: list[str] = field(default_factory=list)
    total: Sums | None = None
    seen: int = 0
    of: int = 0

    def see(self, _: Layer, given: tuple[torch.Tensor, ...], result: Any) -> None:
        from hwbench.compress.statistics.rows import draw, spread_evenly

        count = self.rows.count(result)
        wanted = count if self.limit is None else spread_evenly(self.limit, self.batches, self.seen)
        self.seen, self.of = self.seen + 1, self.of + count
        if self.total is None:
            self.total = Sums(self.rows.layer.groups, self.rows.width, result.device)
        where = draw(count, wanted, self.rng).to(result.device)
        for part in where.split(max(_BLOCK, _ELEMENTS // (self.rows.layer.groups * self.rows.width))):
            self.total.add(self.rows.inputs(given[0], part))

    def result(self) -> Gram:
        if self.total is None:
            raise ModelError(f"layer '{self.names[0]}' was never computed")
        matrix, mean, rows = self.total.means()
        if not np.isfinite(mean).all() or not np.isfinite(np.trace(matrix, axis1=1, axis2=2)).all():
            raise ModelError(f"the inputs of layer '{self.names[0]}' hold NaN or infinity on these samples")
        return Gram(matrix=matrix, mean=mean, rows=rows, of=self.of)


class Sums:
    """Running sums of x x^T and x over rows that come in parts."""

    def __init__(self, groups: int, width: int, device: torch.device) -> None:
        import torch

        self.exact = width <= _EXACT
        kind = torch.float64 if self.exact else torch.float32
        self.matrix = torch.zeros(groups, width, width, dtype=kind, device=device)
        self.sum = torch.zeros(groups, width, dtype=torch.float64, device=device)
        self.rows = 0
        self._waiting: list[torch.Tensor] = []

    def add(self, rows: torch.Tensor) -> None:
        """Add groups x rows x width."""
        self._waiting.append(rows)
        if sum(part.shape[1] for part in self._waiting) >= _BLOCK:
            self._flush()

    def means(self) -> tuple[Array, Array, int]:
        """Return E[x x^T], E[x], and over how many rows."""
        self._flush()
        matrix = self.matrix
        if not self.exact:
            for group in matrix:  # only the upper triangle has been computed
                group.copy_(group.triu() + group.triu(1).T)
        count = max(1, self.rows)
        return (matrix / count).cpu().numpy(), (self.sum / count).cpu().numpy(), self.rows

    def _flush(self) -> None:
        import torch

        if not self._waiting:
            return
        rows = self._waiting[0] if len(self._waiting) == 1 else torch.cat(self._waiting, dim=1)
        self._waiting = []
        self.rows += rows.shape[1]
        self.sum += rows.sum(dim=1, dtype=torch.float64)
        for part in rows.split(_BLOCK, dim=1):
            self._multiply(part.to(self.matrix.dtype))

    def _multiply(self, rows: torch.Tensor) -> None:
        if self.exact:
            self.matrix += rows.transpose(1, 2) @ rows
            return
        for matrix, part in zip(self.matrix, rows, strict=True):
            for start in range(0, len(matrix), _BLOCK):
                stop = start + _BLOCK
                matrix[start:stop, start:].addmm_(part[:, start:stop].T, part[:, start:])
