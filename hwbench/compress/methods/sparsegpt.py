"""``sparsegpt``: zero weights and move the others of each output, so that the layer's output changes least.

The problem is solved layer by layer on the Gram matrices of the inputs, as the network is when the method starts: in
columns, once through (SparseGPT, Frantar & Alistarh 2023, arXiv:2301.00774), or with ``exact`` weight by weight, the
cheapest of the layer each time (OBC, arXiv:2208.11580). Biases are left as they are; repairs correct them.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from hwbench.compress.base import Outcome, Settings, Subject
from hwbench.compress.format_pattern import OfFormat
from hwbench.compress.patterns import Blocks, NofM, Pattern, parse_pattern
from hwbench.compress.surgeon import damped, greedy, lost, sweep
from hwbench.compress.zeros import prunable, zeroed
from hwbench.errors import UsageError
from hwbench.graph.linear import Linear
from hwbench.records.base import Missing
from hwbench.records.compression import Change

if TYPE_CHECKING:
    from hwbench.compress.statistics.grams import Gram

Array = np.ndarray[Any, np.dtype[Any]]

EXACT_LIMIT = 2e10
"""Rows x inputs^3 that ``exact`` takes on for a layer: about a minute on one core."""


class SparseGptSettings(Settings, frozen=True, kw_only=True):
    """What ``sparsegpt`` takes away."""

    pattern: str = "unstructured"
    """Where zeros may lie: unstructured; N:M, at most N of M inputs left, such as 2:4; blocks such as 1x16; or where a
    format of the sparse kernels holds them, such as format:vw16."""
    amount: float | None = None
    """The fraction of each layer's weights that is zero afterwards; what is zero already counts. Not with N:M."""
    damping: float = 0.01
    """Added to the diagonal of each Gram matrix, as a fraction of its mean; more than 0."""
    exact: bool = False
    """Take the cheapest weight of the layer each time, and solve for the others exactly; small layers, no blocks."""

    def __post_init__(self) -> None:
        pattern = parse_pattern(self.pattern)
        if isinstance(pattern, NofM):
            if self.amount is not None:
                raise UsageError(f"pattern={self.pattern} says how much goes: give no amount")
        elif self.amount is None or not 0 <= self.amount <= 1:
            raise UsageError(f"sparsegpt needs an amount between 0 and 1, got {self.amount}", hint="--amount 0.5")
        if not 0 < self.damping <= 1:
            raise UsageError(f"damping must be more than 0 and at most 1, got {self.damping:g}")
        if self.exact and isinstance(pattern, (Blocks, OfFormat)):
            raise UsageError("exact takes single weights: pattern must be unstructured or N:M")


class SparseGpt:
    """Optimal brain surgery on each layer: zeros, and the other weights moved to make up for them."""

    stage: ClassVar[str] = "sparsity"
    summary: ClassVar[str] = "zero weights and move the others so that the layer's output changes least"
    settings_type: ClassVar[type[Settings]] = SparseGptSettings

    def legal(self, subject: Subject, settings: SparseGptSettings) -> dict[str, Missing | None]:
        from hwbench.compress.statistics.grams import no_gram

        pattern, layers = parse_pattern(settings.pattern), subject.layers()
        return {
            name: why or no_gram(layers[name]) or _unfit(layers[name], pattern, settings.exact)
            for name, why in prunable(subject.model).items()
        }

    def apply(self, subject: Subject, layers: Collection[str], settings: SparseGptSettings) -> Outcome:
        from hwbench.compress.statistics.grams import input_grams

        chosen = [layer for name, layer in subject.layers().items() if name in layers]
        grams = input_grams(subject, [layer.name for layer in chosen])
        changes = []
        for index, layer in enumerate(chosen):
            subject.report(f"sparsegpt: {layer.name}", index / len(chosen))
            changes.append(_pruned(subject, layer, grams.pop(layer.name), settings))
        return Outcome(changes=changes)


def _unfit(layer: Linear, pattern: Pattern, exact: bool) -> Missing | None:
    groups, outputs, inputs, kernel = shape = layer.blocks().shape
    work = groups * outputs * (inputs * kernel) ** 3
    if exact and work > EXACT_LIMIT:
        return Missing(
            code="too_large",
            why=f"exact takes {outputs * groups} x {inputs * kernel}^3 = {work:.1g} operations, above {EXACT_LIMIT:g}",
            cure="exact=false",
        )
    return pattern.refused(shape)


def _pruned(subject: Subject, layer: Linear, gram: Gram, settings: SparseGptSettings) -> Change:
    """Prune one layer."""
    pattern, amount = parse_pattern(settings.pattern), settings.amount or 0.0
    old = layer.blocks()
    groups, outputs, _, kernel = old.shape
    solve = greedy if settings.exact else sweep
    rows = old.reshape(groups, outputs, -1)
    new = np.stack(
        [
            solve(row, damped(matrix, settings.damping), pattern, amount, kernel)
            for row, matrix in zip(rows, gram.matrix, strict=True)
        ]
    )
    if isinstance(pattern, OfFormat):
        new = pattern.held(new.reshape(old.shape), layer.name).reshape(new.shape)
    label = f"sparsegpt{' exact' if settings.exact else ''}, {pattern}"
    return zeroed(subject, layer, new.reshape(old.shape), pattern, label, error=_error(layer, rows, new, gram))


def _error(layer: Linear, old: Array, new: Array, gram: Gram) -> float | None:
    """Return ||Y' - Y||^2 / ||Y||^2 on the data, the bias in Y; None where Y is zero."""
    matrices = gram.matrix.astype(np.float64)
    change = sum(lost(a, b, matrix) for a, b, matrix in zip(old, new, matrices, strict=True))
    energy = sum(lost(np.zeros_like(a), a, matrix) for a, matrix in zip(old, matrices, strict=True))
    bias = layer.bias()
    if bias is not None:
        mean = np.einsum("goj,gj->go", old, gram.mean).ravel()
        energy += float(2 * bias @ mean + bias @ bias)
    return change / energy if energy > 0 else None
