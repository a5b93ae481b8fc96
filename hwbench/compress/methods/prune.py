"""``prune``: set the least important weights to zero, in place.

The score is a criterion's (:mod:`hwbench.compress.scores`), the places where zeros may lie a pattern's
(:mod:`hwbench.compress.patterns`). What is set to zero is not written down: a mask is as large as the layer, the zeros
themselves say where they are, and the values that were there are in the original, whose hash is recorded.

Magnitude pruning is old; done to one layer after the other or over all of them: Han et al. 2015 (arXiv:1506.02626).
``normalise="lamp"`` is Lee et al. 2020 (arXiv:2010.07611).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from hwbench.compress.base import Outcome, Settings, Subject
from hwbench.compress.format_pattern import OfFormat
from hwbench.compress.patterns import Blocks, NofM, Pattern, lowest, parse_pattern, unit_scores
from hwbench.compress.scores.criteria import element_criterion, refused, score_blocks
from hwbench.compress.zeros import kept_alone, prunable, zeroed
from hwbench.errors import UsageError
from hwbench.graph.linear import Linear
from hwbench.records.base import Missing

Array = np.ndarray[Any, np.dtype[Any]]


class PruneSettings(Settings, frozen=True, kw_only=True):
    """What ``prune`` takes away."""

    criterion: str = "l1"
    """What tells the importance of a weight: a criterion with an element-wise form; docs/compress/scores.md."""
    pattern: str = "unstructured"
    """Where zeros may lie: unstructured; N:M, at most N of M inputs left, such as 2:4; blocks such as 16x1; or where a
    format of the sparse kernels holds them, such as format:vw16."""
    amount: float | None = None
    """The fraction of the weights that is zero afterwards, 0 to 1; what is zero already counts. Not with N:M."""
    threshold: float | None = None
    """Instead of an amount: weights whose magnitude is smaller become zero."""
    scope: Literal["layer", "output", "global"] = "layer"
    """Among what the amount is taken: each layer, each output channel, or all layers together."""
    normalise: Literal["none", "mean", "lamp"] = "none"
    """Before layers are held against each other (scope global): scores over the layer's mean; or LAMP, each score over
    the sum of those not smaller in its layer (with criterion l2)."""
    minimum_kept: float = 0.01
    """The fraction of a layer's weights that is kept whatever the scores say."""

    def __post_init__(self) -> None:
        pattern = parse_pattern(self.pattern)
        element_criterion(self.criterion)
        _within(self.amount, "amount", 1)
        _within(self.threshold, "threshold", np.inf)
        _within(self.minimum_kept, "minimum_kept", 1)
        self._check_how_much(pattern)
        if self.normalise != "none" and self.scope != "global":
            raise UsageError(f"normalise={self.normalise} compares layers, which scope={self.scope} does not")
        rows = pattern.rows if isinstance(pattern, Blocks) else 1
        if self.scope == "output" and rows > 1:
            raise UsageError(
                f"scope=output cannot be with blocks of {rows} outputs", hint="scope=layer, or blocks of one row"
            )

    def _check_how_much(self, pattern: Pattern) -> None:
        if isinstance(pattern, NofM):
            if self.amount is not None or self.threshold is not None:
                raise UsageError(f"pattern={self.pattern} says how much goes: give neither amount nor threshold")
            if self.scope != "layer":
                raise UsageError(f"pattern={self.pattern} takes the same from every group, so it has no scope")
            return
        if (self.amount is None) == (self.threshold is None):
            raise UsageError("prune needs an amount or a threshold, and not both", hint="--amount 0.5")
        if isinstance(pattern, OfFormat) and (self.amount is None or self.scope != "layer"):
            raise UsageError(f"pattern={self.pattern} chooses in each layer: it needs an amount, and scope=layer")
        if self.amount is not None and self.amount > 1 - self.minimum_kept:
            raise UsageError(
                f"amount={self.amount:g} is more than minimum_kept={self.minimum_kept:g} leaves to take",
                hint="lower minimum_kept",
            )
        if self.threshold is not None and (
            self.criterion not in {"l1", "l2"} or self.pattern != "unstructured" or self.scope != "layer"
        ):
            raise UsageError("a threshold is on the magnitude of single weights: no other criterion, pattern or scope")


class Prune:
    """Zero weights by importance: unstructured, N:M or in blocks, per layer, per output or over all layers."""

    stage: ClassVar[str] = "sparsity"
    summary: ClassVar[str] = "set the least important weights to zero: unstructured, N:M or blocks"
    settings_type: ClassVar[type[Settings]] = PruneSettings

    def legal(self, subject: Subject, settings: PruneSettings) -> dict[str, Missing | None]:
        pattern = parse_pattern(settings.pattern)
        found = prunable(subject.model)
        refusals = refused(subject, [name for name, why in found.items() if why is None], settings.criterion, "weights")
        layers = subject.layers()
        return {
            name: why or refusals.get(name) or pattern.refused(layers[name].blocks().shape)
            for name, why in found.items()
        }

    def apply(self, subject: Subject, layers: Collection[str], settings: PruneSettings) -> Outcome:
        pattern = parse_pattern(settings.pattern)
        every = subject.layers()
        chosen = {name: every[name] for name in every if name in layers}
        rng = np.random.default_rng(subject.seed)
        scores = score_blocks(subject, list(chosen), settings.criterion, rng=rng)
        masks = _masks(chosen, scores, pattern, settings)
        label = f"{settings.criterion}, {pattern}"
        return Outcome(
            changes=[
                zeroed(subject, layer, np.where(masks[name], 0.0, layer.blocks()), pattern, label)
                for name, layer in chosen.items()
            ],
            figures=_figures(chosen),
        )


@dataclass(frozen=True)
class _Part:
    """Units of one layer that stand in one competition."""

    scores: Array
    sizes: Array
    limit: int  # how many of its weights may go


def _masks(
    layers: Mapping[str, Linear], scores: Mapping[str, Array], pattern: Pattern, settings: PruneSettings
) -> dict[str, Array]:
    """Return what becomes zero, by layer, in the form of its blocks."""
    if isinstance(pattern, NofM | OfFormat):
        return {
            name: ~kept_alone(pattern, layer.blocks(), scores[name], settings.amount) for name, layer in layers.items()
        }
    if settings.threshold is not None:
        return {
            name: _below(layer.blocks(), settings.threshold, settings.minimum_kept) for name, layer in layers.items()
        }
    units = {name: pattern.units(layer.blocks().shape) for name, layer in layers.items()}
    parts: dict[str, _Part] = {}
    for name, layer in layers.items():
        weights = layer.blocks()
        means, sizes = unit_scores(scores[name], units[name], weights == 0)
        limit = int((1 - settings.minimum_kept) * weights.size)
        parts[name] = _Part(_normalised(means, settings.normalise), sizes, limit)
    assert settings.amount is not None
    if settings.scope == "global":
        taken = _over_all(parts, settings.amount)
    elif settings.scope == "layer":
        taken = {name: lowest(p.scores, p.sizes, round(settings.amount * p.sizes.sum())) for name, p in parts.items()}
    else:
        taken = {
            name: _each_output(p, units[name], layers[name].output_channels, settings.amount)
            for name, p in parts.items()
        }
    return {name: taken[name][units[name]] for name in layers}


def _below(weights: Array, threshold: float, minimum_kept: float) -> Array:
    """Return which weights are smaller than a threshold, but for the largest ones that must stay."""
    magnitude = np.abs(weights).ravel()
    mask: Array = magnitude < threshold
    spare = int((1 - minimum_kept) * mask.size)
    if mask.sum() > spare:
        mask[np.argsort(-magnitude, kind="stable")[: mask.size - spare]] = False
    shaped: Array = mask.reshape(weights.shape)
    return shaped


def _normalised(scores: Array, how: str) -> Array:
    """Make scores of layers comparable; units of -infinity, which are zero already, stay what they are."""
    real = np.isfinite(scores)
    if how == "none" or not real.any():
        return scores
    result: Array = scores.copy()
    if how == "mean":
        mean = scores[real].mean()
        result[real] = scores[real] / mean if mean > 0 else scores[real]
        return result
    order = np.argsort(-scores, kind="stable")[: real.sum()]
    total = np.cumsum(scores[order])  # of the scores that are not smaller, its own included
    result[order] = np.divide(scores[order], total, out=np.zeros(len(order)), where=total > 0)
    return result


def _over_all(parts: Mapping[str, _Part], amount: float) -> dict[str, Array]:
    """Take the lowest units of all layers, but of none more than its limit."""
    scores = {}
    for name, part in parts.items():
        within = lowest(part.scores, part.sizes, part.limit)
        scores[name] = np.where(within, part.scores, np.inf)
    sizes = np.concatenate([part.sizes for part in parts.values()])
    taken = lowest(np.concatenate(list(scores.values())), sizes, round(amount * sizes.sum()))
    edges = np.cumsum([len(part.sizes) for part in parts.values()])[:-1]
    return dict(zip(parts, np.split(taken, edges), strict=True))


def _each_output(part: _Part, units: Array, outputs: int, amount: float) -> Array:
    """Take the lowest units of each output channel."""
    taken = np.zeros(len(part.scores), bool)
    for row in units.reshape(outputs, -1):
        of_row = np.unique(row)
        taken[of_row] = lowest(part.scores[of_row], part.sizes[of_row], round(amount * len(row)))
    return taken


def _figures(layers: Mapping[str, Linear]) -> dict[str, float]:
    weights = [layer.blocks() for layer in layers.values()]
    total = sum(array.size for array in weights)
    return {"zeros": sum(int((array == 0).sum()) for array in weights) / total} if total else {}


def _within(value: float | None, name: str, top: float) -> None:
    if value is not None and not 0 <= value <= top:
        raise UsageError(f"{name} must be between 0 and {top:g}, got {value:g}")
