"""Substitute: cheaper operators that compute nearly the same, where the loss is least.

Activations: hard-swish for SiLU, the tanh form or x sigmoid(1.702 x) or ReLU for GELU (arXiv:1606.08415), hard sigmoid
for sigmoid (MobileNetV3, arXiv:1905.02244). Convolutions: depthwise and 1x1. Each candidate is tried alone on the
samples, and those that change the network's output least are taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import onnx_ir as ir

from hwbench.compress.base import Outcome, Settings, Subject
from hwbench.compress.substitutes.loss import Loss, Trials
from hwbench.compress.substitutes.separable import exchange, factors, fitted, unfit
from hwbench.errors import UsageError
from hwbench.graph.linear import Array, Linear, linear_of
from hwbench.records.base import Missing
from hwbench.records.compression import Change, LeftAlone
from hwbench.structure.activations import CHEAPER, STANDS_FOR, Cheaper, activations, substitute
from hwbench.structure.rewrites.base import sizes

if TYPE_CHECKING:
    from hwbench.compress.statistics.grams import Gram

By = Literal["hard-sigmoid", "hard-swish", "gelu-tanh", "quick-gelu", "relu", "separable"]


class SubstituteSettings(Settings, frozen=True, kw_only=True):
    """Settings of ``substitute``."""

    by: tuple[By, ...]
    """What may be put in: of several that fit a layer, the first. ``separable`` is for convolutions."""
    amount: float = 1.0
    """The fraction of the candidates that is substituted, those of least loss; above 0, up to 1. Below 1 needs data."""
    multiplier: int = 1
    """Of ``separable``: kernels of the depthwise convolution for each input channel; at least 1."""
    data_aware: bool = False
    """Of ``separable``: whether the 1x1 is fitted to the layer's outputs on the data."""
    samples: int = 64
    """How many samples losses are measured on, where there are data; at least 1."""

    def __post_init__(self) -> None:
        if not self.by:
            raise UsageError("substitute was told nothing to put in", hint=f"by: {', '.join((*CHEAPER, 'separable'))}")
        if not 0 < self.amount <= 1:
            raise UsageError(f"amount must be above 0 and at most 1, got {self.amount:g}")
        if self.multiplier < 1:
            raise UsageError(f"multiplier must be at least 1, got {self.multiplier}")
        if self.samples < 1:
            raise UsageError(f"samples must be at least 1, got {self.samples}")
        if "separable" not in self.by and (self.multiplier != 1 or self.data_aware):
            raise UsageError("multiplier and data_aware belong to separable", hint="by=separable")


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    """A layer and what would be put in; ``make`` does it on any copy of the network. ``value``: its output."""

    layer: str
    what: str
    value: str
    kind: Literal["rewritten", "factorised"]
    make: Callable[[ir.Model], None]


class Substitute:
    """Activations and convolutions become cheaper ones."""

    stage: ClassVar[str] = "low-rank"
    summary: ClassVar[str] = "put cheaper activations, or depthwise and 1x1 convolutions, where they cost least"
    settings_type: ClassVar[type[Settings]] = SubstituteSettings

    def legal(self, subject: Subject, settings: SubstituteSettings) -> dict[str, Missing | None]:
        found: dict[str, Missing | None] = {
            one.name: None for one in activations(subject.model) if _standing_for(one.function, settings) is not None
        }
        if "separable" in settings.by:
            found |= {
                layer.name: _held(subject, layer) or unfit(layer, settings.multiplier)
                for layer in subject.layers().values()
                if _is_candidate(layer)
            }
        order = {node.name: index for index, node in enumerate(subject.model.graph)}
        return dict(sorted(found.items(), key=lambda item: order[item[0]]))

    def apply(self, subject: Subject, layers: Collection[str], settings: SubstituteSettings) -> Outcome:
        samples = subject.samples
        if settings.amount < 1 or settings.data_aware:
            samples = subject.need_samples("substitute with an amount below 1, or data_aware,")
        candidates = _candidates(subject, layers, settings)
        losses: dict[str, Loss] = {}
        figures = {"candidates": float(len(candidates))}
        if samples is None:
            chosen = candidates
        else:
            trials = Trials(subject, samples.first(settings.samples), [one.value for one in candidates])
            for index, one in enumerate(candidates):
                subject.report(f"try {one.what} at {one.layer}", index / len(candidates))
                losses[one.layer] = trials.loss(one.make, one.value)
            chosen = _chosen(candidates, losses, settings.amount)
            figures["output error"] = trials.loss(_all(chosen)).network
        shapes = {one.layer: _shape(subject.model, one) for one in chosen}
        _all(chosen)(subject.model)
        changes = [_changed(one, losses.get(one.layer), shapes[one.layer]) for one in chosen]
        return Outcome(changes=changes, left_alone=_left(candidates, chosen, losses), figures=figures)


def _standing_for(function: str, settings: SubstituteSettings) -> Cheaper | None:
    return next((name for name in settings.by if name != "separable" and function in STANDS_FOR[name]), None)


def _is_candidate(layer: Linear) -> bool:
    """Say whether a layer is a convolution with a kernel, and more than one input in each group."""
    _, _, inputs, positions = layer.blocks().shape
    return layer.node.op_type == "Conv" and positions > 1 and inputs > 1


def _held(subject: Subject, layer: Linear) -> Missing | None:
    weight = layer.node.inputs[1]
    if weight is None or (weight.name not in subject.held_zeros and weight.name not in subject.bits):
        return None
    return Missing(
        code="held_weight",
        why=f"an earlier step keeps books of '{weight.name}'",
        cure="substitute first, then prune or quantise",
    )


def _candidates(subject: Subject, layers: Collection[str], settings: SubstituteSettings) -> list[_Candidate]:
    """Return the chosen layers with what would be put in, in graph order."""
    found: dict[str, _Candidate] = {}
    for one in activations(subject.model):
        cheaper = _standing_for(one.function, settings)
        if one.name in layers and cheaper is not None:
            found[one.name] = _Candidate(
                layer=one.name,
                what=f"{cheaper} for {one.function}",
                value=one.output.name or "",
                kind="rewritten",
                make=_activation(one.name, cheaper),
            )
    convolutions = [layer for name, layer in subject.layers().items() if name in layers and name not in found]
    grams = _grams(subject, [layer.name for layer in convolutions]) if settings.data_aware else {}
    for layer in convolutions:
        found[layer.name] = _separated(layer, settings.multiplier, grams.get(layer.name))
    return [found[node.name] for node in subject.model.graph if node.name in found]


def _activation(name: str, cheaper: Cheaper) -> Callable[[ir.Model], None]:
    return lambda model: substitute(model, next(activations(model, only=name)), cheaper)


def _grams(subject: Subject, names: Collection[str]) -> dict[str, Gram]:
    from hwbench.compress.statistics.grams import input_grams

    return input_grams(subject, names) if names else {}


def _separated(layer: Linear, multiplier: int, gram: Gram | None) -> _Candidate:
    kernels, columns = factors(layer, multiplier)
    shift: Array | None = None
    if gram is not None:
        columns, shift = fitted(layer, kernels, gram.matrix, gram.mean)
    name = layer.name

    def make(model: ir.Model) -> None:
        there = linear_of(next(node for node in model.graph if node.name == name))
        assert isinstance(there, Linear)
        exchange(there, kernels, columns, shift)

    return _Candidate(
        layer=name,
        what=f"depthwise with {multiplier} kernels for each of {layer.input_channels} channels, and 1x1",
        value=layer.output.name or "",
        kind="factorised",
        make=make,
    )


def _chosen(candidates: list[_Candidate], losses: dict[str, Loss], amount: float) -> list[_Candidate]:
    """Return the fraction ``amount`` of the candidates, at least one, that changes the network's output least."""
    count = max(1, math.floor(amount * len(candidates) + 1e-9))
    best = sorted(candidates, key=lambda one: losses[one.layer].network)[:count]
    return [one for one in candidates if one in best]


def _all(chosen: list[_Candidate]) -> Callable[[ir.Model], None]:
    def make(model: ir.Model) -> None:
        for one in chosen:
            one.make(model)

    return make


def _shape(model: ir.Model, one: _Candidate) -> tuple[int, ...] | None:
    if one.kind == "rewritten":
        return None
    return sizes(next(node for node in model.graph if node.name == one.layer).inputs[1])


def _changed(one: _Candidate, loss: Loss | None, shape: tuple[int, ...] | None) -> Change:
    told = "" if loss is None else f"; relative squared error of the network's output, alone: {loss.network:.2g}"
    error = None if loss is None else loss.layer
    return Change(layer=one.layer, kind=one.kind, what=one.what + told, shape_before=shape, error=error)


def _left(candidates: list[_Candidate], chosen: list[_Candidate], losses: dict[str, Loss]) -> list[LeftAlone]:
    return [
        LeftAlone(
            layer=one.layer,
            reason=Missing(
                code="larger_loss",
                why=f"others cost less; this would change the network's output by {losses[one.layer].network:.2g}",
                cure="raise the amount",
            ),
        )
        for one in candidates
        if one not in chosen
    ]
