"""Means and deviations of channels brought back to those of the original: bias and statistics correction.

What a layer puts out, y, is held against the original's tensor of that name. Bias correction takes the error of the
mean off (Nagel et al. 2019, arXiv:1906.04721):

    b <- b - (E[y] - E[t])

Statistics correction also brings the deviation back, where BatchNormalization has been folded and cannot be measured
again (Hubara et al. 2021, arXiv:2006.10518; OBC, arXiv:2208.11580):

    y <- (y - E[y]) s(t) / s(y) + E[t],    folded into weights and bias

Both are done in one pass: every layer's output is corrected by the batch's own moments before the next layer reads it,
so that each correction counts on those before it. The moments kept are means over the batches. With one batch this is
exact layer after layer. With several, more ``passes`` correct what is left, from the first layer on: after as many
passes as there are layers in a row, the means are exact.

Layers with a BatchNormalization behind them are not looked at: its statistics are measured again instead.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from hwbench.compress.base import Array, Subject
from hwbench.compress.repair.match import Match, channel_axis, held_biases, match
from hwbench.compress.statistics import watch
from hwbench.errors import ModelError
from hwbench.graph.linear import Linear
from hwbench.records.base import Missing
from hwbench.records.compression import LeftAlone

Tensor = torch.Tensor


@dataclass(frozen=True)
class Corrected:
    """Layers by how much their means were off before, in deviations of the original, and those left alone."""

    changed: dict[str, float]
    left_alone: tuple[LeftAlone, ...]


def correct_moments(
    subject: Subject, layers: Collection[str] | None = None, *, deviations: bool = False, passes: int = 1
) -> Corrected:
    """Correct the means of what layers put out, in place; a bias is made where the layer takes one.

    Args:
        subject: the network as it is now, with samples.
        layers: names of layers with weights; all by default.
        deviations: also bring the deviations back.
        passes: how many times; each goes on from what the last one left.

    Raises:
        UsageError: there are no samples.
        ModelError: an output of a layer holds NaN or infinity.
    """
    changed: dict[str, float] = {}
    left_alone: tuple[LeftAlone, ...] = ()
    for number in range(passes):
        matches, left_alone = _correctable(subject, layers)
        seen = [
            _OfLayer(one, deviations, on_the_fly=number == 0, held=held_biases(subject, one.layer)) for one in matches
        ]
        if seen:
            _measure(subject, seen)
        for one in seen:
            changed.setdefault(one.match.layer.name, one.write())
    return Corrected(changed, left_alone)


def _correctable(subject: Subject, layers: Collection[str] | None) -> tuple[list[Match], tuple[LeftAlone, ...]]:
    found: list[Match] = []
    left: list[LeftAlone] = []
    for name, layer in subject.layers().items():
        if layers is not None and name not in layers:
            continue
        one = _correct_at(subject, layer)
        if isinstance(one, Missing):
            left.append(LeftAlone(layer=name, reason=one))
        else:
            found.append(one)
    return found, tuple(left)


def _correct_at(subject: Subject, layer: Linear) -> Match | Missing:
    one = match(subject, layer)
    if isinstance(one, Missing):
        return one
    if one.norm is not None:
        return Missing(code="normalised", why=f"'{one.norm.name}' behind it is measured again instead")
    if not layer.takes_bias:
        return Missing(code="no_bias", why="it has no bias, and no Add of a constant follows it")
    return one


@dataclass
class _OfLayer:
    match: Match
    deviations: bool
    on_the_fly: bool
    held: Array  # channels whose bias must stay zero: these are not corrected at all
    target: tuple[Tensor, Tensor] | None = None
    now: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    wanted: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def look(self, _module: torch.nn.Module, _given: tuple[Tensor, ...], result: Any) -> None:
        """Take the moments of the original's tensor."""
        target = self.match.source.of(result)
        mean, deviation = _moments(target, self.match.source.axis)
        if self.match.source.left is not None:
            left = torch.from_numpy(self.match.source.left).to(mean.device)
            mean, deviation = mean[left], deviation[left]
        self.target = mean, deviation

    def correct(self, _: torch.nn.Module, given: tuple[Any, ...], y: Tensor) -> Tensor:
        """Return a layer's output as it will be."""
        assert self.target is not None
        axis = channel_axis(self.match.layer)
        mean, deviation = _moments(y, axis)
        self.now.append((mean, deviation))
        self.wanted.append(self.target)
        if not self.on_the_fly:
            return y
        shape = [1] * y.dim()
        shape[axis] = -1
        free = ~torch.from_numpy(self.held).to(mean.device)
        factor = torch.where(free, self._factor(deviation, self.target[1]), 1)
        shift = torch.where(free, self.target[0] - mean * factor, 0)
        return (y * factor.reshape(shape) + shift.reshape(shape)).to(y.dtype)

    def write(self) -> float:
        """Put the correction into weights and bias; return by how much means were off, in deviations."""
        mean, deviation = _average(self.now)
        target, spread = _average(self.wanted)
        layer = self.match.layer
        if not bool(torch.isfinite(torch.stack([mean, deviation, target, spread])).all()):
            raise ModelError(f"what layer '{layer.name}' puts out, or should, holds NaN or infinity")
        factor: Array = np.where(self.held, 1, self._factor(deviation, spread).cpu().numpy())
        bias = layer.bias()
        old = np.zeros(layer.output_channels) if bias is None else bias
        if self.deviations:
            blocks = layer.blocks()
            layer.set_blocks(blocks * factor.reshape(*blocks.shape[:2], 1, 1))
        layer.set_bias(np.where(self.held, 0, (old - mean.cpu().numpy()) * factor + target.cpu().numpy()))
        size = float(spread.square().mean().sqrt()) or 1.0
        return float((target - mean).square().mean().sqrt()) / size

    def _factor(self, deviation: Tensor, wanted: Tensor) -> Tensor:
        """Return what a channel is multiplied with; one that does not vary cannot be brought to vary."""
        if not self.deviations:
            return torch.ones_like(deviation)
        alive = deviation > 1e-3 * wanted
        return torch.where(alive & (wanted > 0), wanted / torch.where(alive, deviation, 1), 1)


def _measure(subject: Subject, seen: list[_OfLayer]) -> None:
    eyes = [(str(one.match.source.node), one.look) for one in seen]
    hands = [((one.match.layer.add or one.match.layer.node).name or "", one.correct) for one in seen]
    teacher, view = watch.shortened(subject.teacher(), {name for name, _ in eyes}), subject.view()
    with torch.no_grad(), watch.watching(teacher, eyes), watch.watching(view, hands):
        for batch, _ in watch.passes(subject, "correction of biases"):
            teacher(*batch)
            view(*batch)


def _moments(x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    flat = x.double().movedim(axis, 0).flatten(1)
    return flat.mean(dim=1), flat.std(dim=1, correction=0)


def _average(moments: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return the mean over batches and the deviation within them, as a root mean square."""
    means, deviations = (torch.stack(part) for part in zip(*moments, strict=True))
    return means.mean(dim=0), deviations.square().mean(dim=0).sqrt()
