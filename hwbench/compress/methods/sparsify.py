"""``sparsify``: train with a penalty that draws weights, channels or norms to exactly zero.

What has become zero costs nothing to take away: afterwards ``prune`` finds weights (``target=weights``), ``width``
with the criterion l2 finds channels (``target=channels``: group lasso, Wen et al. 2016, arXiv:1608.03665) or with
bn-gamma those whose scale is zero (``target=norms``: network slimming, Liu et al. 2017, arXiv:1708.06519). Zeros are
exact because the penalty acts by its proximal map after each step, not by its subgradient.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from hwbench.compress.base import Outcome, Subject
from hwbench.compress.channel_units import channels_legal, units_of_layer
from hwbench.compress.training import TrainingSettings, recover, trained_changes, zero_part
from hwbench.graph.linear import Linear
from hwbench.records.base import Missing
from hwbench.records.compression import Change
from hwbench.train.places import norm_behind
from hwbench.train.settings import within

if TYPE_CHECKING:
    import torch

    from hwbench.train.hooks import Hook


class SparsifySettings(TrainingSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is drawn to zero, and how strongly."""

    target: Literal["weights", "channels", "norms"] = "channels"
    """weights: each by itself (L1). channels: all weights of an output channel together (group lasso). norms: the
    scale of the BatchNormalization behind a layer (L1)."""
    strength: float = 1e-3
    """The factor of the penalty beside the loss. What it can have moved a weight by in the whole training is told as
    ``penalty_reach`` (of a channel: times the square root of its weights); where that is less than the weights, none
    became zero."""

    def __post_init__(self) -> None:
        super().__post_init__()
        within("strength", self.strength, 0, above=True)
        within("epochs", self.epochs, 1)


class Sparsify:
    """Training that makes zeros."""

    stage: ClassVar[str] = "train"
    summary: ClassVar[str] = "train with a penalty that makes weights, channels or norms zero"
    settings_type: ClassVar[type[SparsifySettings]] = SparsifySettings

    def legal(self, subject: Subject, settings: SparsifySettings) -> dict[str, Missing | None]:
        if settings.target == "weights":
            return dict.fromkeys(subject.layers())
        found = channels_legal(subject)
        if settings.target == "channels":
            return found
        for name in found:
            if norm_behind(subject.model, name) is None:
                why = "there is no BatchNormalization that alone reads its output"
                found[name] = Missing(code="no_norm", why=why, cure="target=channels")
        return found

    def apply(self, subject: Subject, layers: Collection[str], settings: SparsifySettings) -> Outcome:
        from hwbench.train.proximal import Proximal

        chosen = {name: layer for name, layer in subject.layers().items() if name in layers}
        training = recover(subject, settings, lambda view: [_hook(view, subject, chosen, settings)])
        if settings.target == "weights":
            subject.held_zeros |= {layer.node.inputs[1].name or "" for layer in chosen.values()}  # type: ignore[union-attr]
        changes = [_change(subject, name, layer, settings.target) for name, layer in chosen.items()]
        changes += trained_changes(subject.model, training.before, leave_out=chosen)
        reach = next(hook.reach for hook in training.hooks if isinstance(hook, Proximal))
        figures = {**training.figures, "penalty_reach": reach}
        return Outcome(changes=changes, figures=figures, notes=training.notes)


def _hook(view: torch.fx.GraphModule, subject: Subject, chosen: dict[str, Linear], settings: SparsifySettings) -> Hook:
    from hwbench.train.proximal import L1, GroupLasso

    if settings.target == "channels":
        groups = [units_of_layer(subject.model, layer) for layer in chosen.values()]
        return GroupLasso(view, groups, settings.strength)
    if settings.target == "weights":
        values = [layer.node.inputs[1] for layer in chosen.values()]
    else:
        norms = [norm_behind(subject.model, name) for name in chosen]
        values = [norm.inputs[1] for norm in norms if norm is not None]
    return L1(view, [value.name or "" for value in values if value is not None], settings.strength)


def _change(subject: Subject, name: str, layer: Linear, target: str) -> Change:
    shape, zeros = tuple(layer.weight.shape), zero_part(subject.model, name)
    if target == "weights":
        what = f"{zeros:.1%} of {layer.weight.size} weights became zero"
    elif target == "channels":
        gone = int((np.abs(layer.weight).sum(tuple(i for i in range(len(shape)) if i != layer.output_axis)) == 0).sum())
        what = f"{gone} of {shape[layer.output_axis]} output channels became zero"
    else:
        norm = norm_behind(subject.model, name)
        scale = None if norm is None or norm.inputs[1] is None else norm.inputs[1].const_value
        assert scale is not None
        what = f"{int((scale.numpy() == 0).sum())} of {scale.size} scales behind it became zero"
    return Change(layer=name, kind="trained", what=what, shape_before=shape, shape_after=shape, zeros=zeros)
