"""``soft-prune``: channels are set to zero after each epoch and go on being trained; in the end they are cut out.

Soft filter pruning (He et al. 2018, arXiv:1808.06866). Which channels go is chosen anew after each epoch, so that one
that was taken for unimportant too early comes back. Channels that are coupled (a residual stream) are chosen together.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np

from hwbench.compress.base import Outcome, Subject
from hwbench.compress.channel_units import Choice, channels_legal, choices, gone
from hwbench.compress.narrow.told import changes as cut_changes
from hwbench.compress.narrow.told import constants_of, enter
from hwbench.compress.training import TrainingSettings, recover, trained_changes, zero_part
from hwbench.records.base import Missing
from hwbench.records.compression import Change
from hwbench.structure.check import verify_cut
from hwbench.structure.cut import cut_groups
from hwbench.train.settings import within


class SoftPruneSettings(TrainingSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many channels, and when the choice is final."""

    amount: float
    """The fraction of the output channels of each layer that goes, rounded down; above 0 and below 1."""
    norm: Literal["l1", "l2"] = "l2"
    """What a channel is worth: this norm of its weights."""
    settle: float = 0.5
    """The last fraction of the training, 0 to 1, in which the choice is final and the rest adapts to it."""
    cut: bool = True
    """Cut the channels out where that can be done; false: only set them to zero."""

    def __post_init__(self) -> None:
        super().__post_init__()
        within("amount", self.amount, 0, 1, above=True, below=True)
        within("settle", self.settle, 0, 1)
        within("epochs", self.epochs, 1)


class SoftPrune:
    """Soft pruning, then hard. Channels of layers that cannot be cut, or not without others, are set to zero."""

    stage: ClassVar[str] = "train"
    summary: ClassVar[str] = "train while channels are set to zero and may come back, then cut them"
    settings_type: ClassVar[type[SoftPruneSettings]] = SoftPruneSettings

    def legal(self, subject: Subject, settings: SoftPruneSettings) -> dict[str, Missing | None]:
        return channels_legal(subject)

    def apply(self, subject: Subject, layers: Collection[str], settings: SoftPruneSettings) -> Outcome:
        from hwbench.train.soft_pruning import SoftPruning

        chosen = choices(subject, layers)
        order = 1 if settings.norm == "l1" else 2
        training = recover(
            subject,
            settings,
            lambda view: [
                SoftPruning(view, [each.units for each in chosen], settings.amount, norm=order, settle=settings.settle)
            ],
        )
        hook = next(hook for hook in training.hooks if isinstance(hook, SoftPruning))
        removed = hook.removed()
        found = {change.layer: change for change in trained_changes(subject.model, training.before)}
        notes = list(training.notes)
        zeroed = [each for each in chosen if each.group is None or not settings.cut]
        for each in zeroed:
            found |= _zeroed(subject, each, removed[each.units.name])
        if settings.cut:
            cut, lost = _cut(subject, chosen, removed)
            found |= {change.layer: change for change in cut}
            notes += lost
        units = sum(len(indices) for indices in removed.values())
        figures = {**training.figures, "units_removed": float(units), "groups_cut": float(len(chosen) - len(zeroed))}
        return Outcome(changes=list(found.values()), figures=figures, notes=notes)


def _zeroed(subject: Subject, choice: Choice, removed: Sequence[int]) -> dict[str, Change]:
    subject.held_zeros |= {part.tensor for part in (*choice.units.weights, *choice.units.rest)}
    linear = subject.layers()
    found = {}
    for name in choice.layers:
        layer = linear[name]
        weight = layer.node.inputs[1]
        indices = {key: value for key, value in gone(choice.units, removed).items()
                   if weight is not None and key.rsplit("/", 1)[0] == weight.name}  # fmt: skip
        shape, count = tuple(layer.weight.shape), max(map(len, indices.values()), default=0)
        found[name] = Change(
            layer=name,
            kind="zeroed",
            what=f"{count} of {shape[layer.output_axis]} output channels, the rest trained",
            removed=indices,
            shape_before=shape,
            shape_after=shape,
            zeros=zero_part(subject.model, name),
        )
    return found


def _cut(
    subject: Subject, chosen: Sequence[Choice], removed: Mapping[str, Sequence[int]]
) -> tuple[list[Change], list[str]]:
    """Return the changes, and what is to be told beside them."""
    pairs = [(each.group, removed[each.units.name]) for each in chosen if each.group is not None]
    cuts = [(group, np.setdiff1d(np.arange(group.size), indices)) for group, indices in pairs if len(indices)]
    before = constants_of(subject.model)
    made = cut_groups(subject.model, cuts)
    verify_cut(subject.model, made)
    notes = enter(subject, made)
    return cut_changes(subject, made, cuts, before, subject.layers()), notes
