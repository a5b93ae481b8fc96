"""Learning from a teacher: its scores, what its layers put out, where its attention lies; with labels or without."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name

from hwbench.errors import UsageError
from hwbench.train.features import Features, attention_error, channel_axis, common_layers, normalised_error
from hwbench.train.losses import Loss, judged_rows, need_labels, require_finite, right, task_loss
from hwbench.train.outputs import (
    Kind,
    Outputs,
    Tensor,
    check_classes,
    class_axes,
    classes_last,
    floats,
    log_probabilities,
    output_kinds,
)


def soft_divergence(mine: Tensor, theirs: Tensor, temperature: float) -> Tensor:
    """Return T^2 KL(softmax(theirs / T) || softmax(mine / T)) over the last axis, a mean over rows (arXiv:1503.02531).

    T^2 keeps the size of the gradients when T changes.
    """
    students = F.log_softmax(mine.reshape(-1, mine.shape[-1]) / temperature, -1)
    teachers = F.log_softmax(theirs.reshape(-1, theirs.shape[-1]) / temperature, -1)
    return temperature**2 * F.kl_div(students, teachers, reduction="batchmean", log_target=True)


class Distillation(Loss):
    """(1 - alpha) x task loss + alpha x distance to the teacher's outputs + features + attention.

    The distance is :func:`soft_divergence` where an output is scores of classes, ||y - t||^2 / ||t||^2 otherwise; a
    mean over the outputs. ``alpha`` of one needs no labels.

    Args:
        temperature: T.
        alpha: the teacher's share, 0..1.
        features: a regular expression for names of layers of the hub. Their outputs are held against the teacher's,
            each normalised, as a mean (FitNets, arXiv:1412.6550). Where a layer has lost channels, a linear map that
            is learned along takes them to the teacher's number, along the axis that differs.
        feature_weight: the factor of that mean.
        attention: the same for attention maps of features with space (arXiv:1612.03928), which need no such map.
        attention_weight: their factor, beta / 2 in the paper.
        seed: of the linear maps' first values.
    """

    def __init__(
        self,
        temperature: float = 4.0,
        alpha: float = 1.0,
        *,
        features: str | None = None,
        feature_weight: float = 1.0,
        attention: str | None = None,
        attention_weight: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.temperature, self.alpha = temperature, alpha
        self.features, self.feature_weight = features, feature_weight
        self.attention, self.attention_weight = attention, attention_weight
        self.seed = seed
        self._told = f"{(temperature, alpha, features, feature_weight, attention, attention_weight, seed)}"
        self.adapters = torch.nn.ModuleDict()
        self._axes: dict[str, tuple[int, str]] = {}  # by layer: the axis that differs, and its adapter's name
        self._taps: tuple[Features, Features] | None = None
        self._kinds: list[Kind] = []
        self._class_axes: list[int | None] = []
        self._on_features: list[str] = []
        self._on_attention: list[str] = []

    def start(self, view: torch.fx.GraphModule, teacher: torch.fx.GraphModule | None, inputs: Sequence[Tensor]) -> None:
        if teacher is None:
            raise UsageError("distillation needs a teacher, and there is none")
        self._on_features = common_layers(view, teacher, self.features) if self.features else []
        self._on_attention = common_layers(view, teacher, self.attention) if self.attention else []
        layers = {*self._on_features, *self._on_attention}
        self._taps = (Features(view, sorted(layers)), Features(teacher, sorted(layers)))
        with torch.no_grad():
            mine, theirs = floats(view(*inputs)), floats(teacher(*inputs))
        require_finite(mine, "the network")
        require_finite(theirs, "the teacher")
        shapes = [[tuple(value.shape) for value in values] for values in (mine, theirs)]
        if shapes[0] != shapes[1]:
            raise UsageError(
                f"the network puts out {shapes[0]}, its original {shapes[1]}: there is nothing to compare",
                hint="train without the original as teacher",
            )
        self._kinds, self._class_axes = output_kinds(view, mine, inputs), class_axes(view, mine)
        self._adapt()

    def check(self, outputs: Outputs, labels: np.ndarray[Any, np.dtype[Any]] | None) -> None:
        if labels is not None:
            check_classes(outputs, labels, self._labelled[1])

    def forward(self, outputs: Outputs, labels: Tensor | None, taught: Outputs | None) -> Tensor:
        """Return the loss of a batch; the features are those of the networks' last pass."""
        if taught is None:
            raise UsageError("distillation needs a teacher, and there is none")
        mine, theirs = floats(outputs), floats(taught)
        loss = torch.zeros((), device=mine[0].device)
        if self.alpha > 0:
            loss = loss + self.alpha * self._distance(mine, theirs)
        if self.alpha < 1:
            kind, axis = self._labelled
            loss = loss + (1 - self.alpha) * task_loss(mine, need_labels(labels), kind=kind, axis=axis)
        if self._on_features:
            errors = [normalised_error(*self._pair(layer)) for layer in self._on_features]
            loss = loss + self.feature_weight * torch.stack(errors).mean()
        if self._on_attention:
            maps = [attention_error(*self._pair(layer, adapt=False)) for layer in self._on_attention]
            loss = loss + self.attention_weight * torch.stack(maps).mean()
        return loss

    def rows(self, labels: Tensor | None, samples: int) -> int:
        labelled = self.alpha < 1 and labels is not None and not labels.is_floating_point()
        return judged_rows(need_labels(labels)) if labelled else samples

    def score(self, outputs: Outputs, labels: Tensor | None, taught: Outputs | None) -> tuple[int, int] | None:
        """Return how many rows are right; without labels, how many are as the teacher has them."""
        if labels is not None and not labels.is_floating_point():
            return right(outputs, labels, self._labelled[1])
        if taught is None or labels is not None:
            return None
        several = zip(self._kinds, self._class_axes, floats(outputs), floats(taught), strict=True)
        for kind, axis, mine, theirs in several:
            if kind not in {"values", "integers"}:
                same = classes_last(mine, axis).argmax(-1) == classes_last(theirs, axis).argmax(-1)
                return int(same.sum()), same.numel()
        return None

    def told(self) -> str:
        return self._told

    def finish(self) -> None:
        for tap in self._taps or ():
            tap.remove()

    @property
    def _labelled(self) -> tuple[Kind | None, int | None]:
        """What the output is that labels belong to, and its axis of classes."""
        told = zip(self._kinds, self._class_axes, strict=True)
        return next((each for each in told if each[0] != "integers"), (None, None))

    def _distance(self, mine: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
        terms = []
        for kind, axis, ours, their in zip(self._kinds, self._class_axes, mine, theirs, strict=True):
            if kind == "values":
                terms.append(normalised_error(ours, their))
            elif kind != "integers":
                terms.append(
                    soft_divergence(
                        log_probabilities(classes_last(ours, axis), kind),
                        log_probabilities(classes_last(their, axis), kind),
                        self.temperature,
                    )
                )
        if not terms:
            raise UsageError("no output is in floating point, so nothing can be learned from the teacher")
        return torch.stack(terms).mean()

    def _pair(self, layer: str, *, adapt: bool = True) -> tuple[Tensor, Tensor]:
        assert self._taps is not None
        mine, theirs = floats([tap.seen[layer] for tap in self._taps])
        if adapt and layer in self._axes:
            axis, name = self._axes[layer]
            mine = self.adapters[name](mine.movedim(axis, -1)).movedim(-1, axis)
        return mine, theirs

    def _adapt(self) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        for index, layer in enumerate(self._on_features):
            mine, theirs = self._pair(layer, adapt=False)
            axis = channel_axis(layer, mine, theirs)
            if axis is not None:
                adapter = torch.nn.Linear(mine.shape[axis], theirs.shape[axis])
                torch.nn.init.normal_(adapter.weight, std=mine.shape[axis] ** -0.5, generator=generator)
                torch.nn.init.zeros_(adapter.bias)
                self._axes[layer] = (axis, f"adapter{index}")
                self.adapters[f"adapter{index}"] = adapter.to(mine.device)
        for layer in self._on_attention:
            mine, theirs = self._pair(layer, adapt=False)
            if mine.dim() < 3 or mine.shape[2:] != theirs.shape[2:]:
                raise UsageError(f"'{layer}' has no attention map: its output is {tuple(mine.shape)}")
