"""Means of what layers read, from rows drawn in one streaming pass: what corrects a bias after rounding."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hwbench.compress.base import Subject
from hwbench.compress.statistics.rows import Rows, draw, spread_evenly
from hwbench.compress.statistics.watch import passes, shortened, watching

if TYPE_CHECKING:
    from hwbench.torch_view.layer import Layer

Array = np.ndarray[Any, np.dtype[Any]]
ROWS = 4096  # of all samples together, for one layer


def input_means(subject: Subject, layers: Collection[str]) -> dict[str, Array]:
    """Return E[x] over the rows that each layer's weights are multiplied with, groups x d in float64.

    The order of a row is that of :meth:`hwbench.graph.linear.Linear.blocks`; ``ROWS`` rows are drawn.
    """
    there = subject.layers()
    batches = subject.need_samples("means of inputs").batches
    sums = [_OfLayer(name, Rows(there[name]), batches, np.random.default_rng([subject.seed, at]))
            for at, name in enumerate(layers)]  # fmt: skip
    view = shortened(subject.view(), layers)
    with torch.no_grad(), watching(view, [(one.name, one.see) for one in sums]):
        for tensors, _ in passes(subject, "means of inputs"):
            view(*tensors)
    return {one.name: one.total / max(1, one.rows) for one in sums}


@dataclass
class _OfLayer:
    name: str
    cut: Rows
    batches: int
    rng: np.random.Generator
    total: Any = 0.0
    rows: int = 0
    seen: int = 0

    def see(self, _: Layer, given: tuple[torch.Tensor, ...], result: torch.Tensor) -> None:
        wanted = spread_evenly(ROWS, self.batches, self.seen)
        self.seen += 1
        rows = self.cut.inputs(given[0], draw(self.cut.count(result), wanted, self.rng))
        self.total = self.total + rows.sum(dim=1, dtype=torch.float64).numpy()
        self.rows += rows.shape[1]
