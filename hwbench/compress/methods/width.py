"""Width: output channels, attention heads and hidden units taken out of coupled groups.

What hangs together is found by :mod:`hwbench.structure.groups`, and taken out by :mod:`hwbench.structure.cut`. The
structure of the idea (score channels, sum over what is coupled, cut): Li et al. 2017, Pruning Filters,
arXiv:1608.08710; Fang et al. 2023, DepGraph, arXiv:2301.12900. Heads: Michel et al. 2019, arXiv:1905.10650.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Literal

import msgspec
import numpy as np

from hwbench.compress.base import Outcome, Settings, Subject
from hwbench.compress.narrow.choose import Edges, best, fitted, keep_each, keep_ranked, unit_scores
from hwbench.compress.narrow.told import changes, constants_of, enter
from hwbench.compress.scores.criteria import channel_criterion, refused, score_channels
from hwbench.errors import UsageError
from hwbench.graph.linear import Linear, Skipped, integer, linear_layers
from hwbench.records.base import Missing
from hwbench.records.compression import LeftAlone
from hwbench.structure.check import verify_cut
from hwbench.structure.cut import cut_groups
from hwbench.structure.groups import Group, channel_groups

Array = np.ndarray[Any, np.dtype[Any]]
Kind = Literal["channels", "heads", "columns"]


class WidthSettings(Settings, frozen=True, kw_only=True):
    """Settings of ``width``."""

    amount: float | None = None
    """The fraction of the units of each group (or of all groups) that is taken away; above 0 and below 1."""
    keep: dict[str, int] = msgspec.field(default_factory=dict)
    """In place of an amount, how many units are left: by group, or by a layer that makes its channels."""
    criterion: str = "l2"
    """What tells the importance of an output channel: a criterion with a form for channels; docs/compress/scores.md."""
    scope: Literal["layer", "global"] = "layer"
    """Whether the amount is taken of each group, or the least important units of all groups together."""
    kinds: tuple[Kind, ...] = ("channels", "heads", "columns")
    """What may be cut: output channels, attention heads, hidden units of an MLP."""
    widths: tuple[int, ...] = ()
    """The widths a layer may have afterwards, such as measured step edges; empty: any. The smallest of them is taken
    that is not below what the amount leaves. Channels of the layer; heads and hidden units by their number."""
    multiple_of: int = 1
    """What the width is rounded up to a multiple of, at most to what it was; at least 1. Not with ``widths``."""
    minimum: int = 1
    """How many units every group keeps; at least 1."""

    def __post_init__(self) -> None:
        channel_criterion(self.criterion)
        if (self.amount is None) == (not self.keep):
            both = "both are given" if self.keep else "neither is given"
            raise UsageError(f"width takes one of amount and keep, and {both}", hint="--amount 0.25")
        if self.amount is not None and not 0 < self.amount < 1:
            raise UsageError(f"amount must lie between 0 and 1, got {self.amount:g}")
        if self.keep and (self.widths or self.multiple_of > 1 or self.scope == "global"):
            raise UsageError("keep says how many units are left; widths, multiple_of and scope have no say then")
        if not self.kinds:
            raise UsageError("kinds is empty", hint="one or more of channels, heads, columns")
        for name in ("multiple_of", "minimum"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, got {getattr(self, name)}")
        if any(width < 1 for width in self.widths):
            raise UsageError(f"widths must be at least 1, got {min(self.widths)}")
        if self.widths and self.multiple_of > 1:
            raise UsageError("widths and multiple_of exclude each other", hint="list the multiples as widths")


class Width:
    """Cut channels, heads and hidden units. A group is cut if all layers that make its channels may be changed."""

    stage: ClassVar[str] = "width"
    summary: ClassVar[str] = "take out whole channels, attention heads and hidden units, with all that hangs on them"
    settings_type: ClassVar[type[Settings]] = WidthSettings

    def legal(self, subject: Subject, settings: WidthSettings) -> dict[str, Missing | None]:
        found, at = channel_groups(subject.model), subject.layers()
        shut = _shut(found.groups, at, subject, settings)
        reasons: dict[str, Missing | None] = {}
        for layer in linear_layers(subject.model):
            if isinstance(layer, Skipped):
                reasons[layer.layer] = Missing(code="unfit_layer", why=layer.reason)
                continue
            mine = [shut[group.name] for group in found.groups if layer.name in group.producers]
            unknown = Missing(code="no_channels", why="it makes no channels that could be followed")
            first = mine[0] if mine else found.locked.get(layer.name, unknown)
            reasons[layer.name] = None if None in mine else first
        return reasons

    def apply(self, subject: Subject, layers: Collection[str], settings: WidthSettings) -> Outcome:
        at = subject.layers()
        chosen, left_alone = _touched(subject, at, layers, settings)
        cuts, too_narrow = _chosen_units(subject, at, chosen, settings)
        subject.report(f"cut {len(cuts)} groups of channels", None)
        before = constants_of(subject.model)
        made = cut_groups(subject.model, cuts)
        verify_cut(subject.model, made)
        notes = enter(subject, made)
        return Outcome(
            changes=changes(subject, made, cuts, before, subject.layers()),
            left_alone=list(dict.fromkeys([*left_alone, *too_narrow])),
            figures={
                "groups": float(len(chosen)),
                "groups_cut": float(len(cuts)),
                "units": float(sum(group.size for group in chosen)),
                "units_removed": float(sum(group.size - len(keep) for group, keep in cuts)),
            },
            notes=notes,
        )


def _shut(
    groups: Collection[Group], at: Mapping[str, Linear], subject: Subject, settings: WidthSettings
) -> dict[str, Missing | None]:
    """Return by group why it must not be cut, or None."""
    unscored = refused(subject, list(at), settings.criterion, "channels")
    return {group.name: _reason(group, at, unscored, settings) for group in groups}


def _reason(
    group: Group, at: Mapping[str, Linear], unscored: Mapping[str, Missing], settings: WidthSettings
) -> Missing | None:
    if group.kind not in settings.kinds:
        return Missing(code="kind", why=f"it makes {group.kind}, which kinds leaves out")
    if group.size <= settings.minimum:
        why = f"it has {group.size} units that can go apart, and minimum is {settings.minimum}"
        return Missing(code="minimum", why=why)
    foreign = [name for name in group.producers if name not in at]
    if foreign:
        why = f"its channels hang together with those of {', '.join(foreign)}, whose weights cannot be worked on"
        return Missing(code="coupled", why=why)
    if all(name in unscored for name in group.producers):
        return unscored[next(iter(group.producers))]
    return None


def _touched(
    subject: Subject, at: Mapping[str, Linear], layers: Collection[str], settings: WidthSettings
) -> tuple[list[Group], list[LeftAlone]]:
    """Return the groups all of whose producers may be changed, and the layers that are in others."""
    groups = channel_groups(subject.model).groups
    shut = _shut(groups, at, subject, settings)
    following = [name for name, layer in at.items() if _depthwise(layer)]
    chosen: list[Group] = []
    left_alone: list[LeftAlone] = []
    for group in groups:
        asked = [name for name in group.producers if name in layers]
        others = [name for name in group.producers if name not in layers and name not in following]
        if shut[group.name] is None and asked and not others:
            chosen.append(group)
        elif shut[group.name] is None and others:
            why = f"its channels hang together with those of {', '.join(others)}, not among the layers asked for"
            reason = Missing(code="coupled", why=why, cure="let --layers match these too")
            left_alone += [LeftAlone(layer=name, reason=reason) for name in asked if name not in following]
    return chosen, left_alone


def _chosen_units(
    subject: Subject, at: Mapping[str, Linear], groups: list[Group], settings: WidthSettings
) -> tuple[list[tuple[Group, Array]], list[LeftAlone]]:
    """Return the units that each group keeps, and the layers for which no width is allowed."""
    if settings.amount is None:
        told = _told(groups, settings.keep)
        groups = [group for group in groups if group.name in told]
        scores = _scores(subject, at, groups, settings)
        return [(group, best(scores[group.name], told[group.name])) for group in groups], []
    scores = _scores(subject, at, groups, settings)
    if settings.scope == "layer":
        wanted = keep_each(scores, settings.amount)
    else:
        wanted = keep_ranked(scores, settings.amount, settings.minimum)
    edges = Edges(widths=settings.widths, multiple_of=settings.multiple_of, minimum=settings.minimum)
    counts = fitted(groups, wanted, edges, {name: layer.output_channels for name, layer in at.items()})
    cuts: list[tuple[Group, Array]] = []
    left_alone: list[LeftAlone] = []
    for group in groups:
        count = counts[group.name]
        if isinstance(count, Missing):
            left_alone += [LeftAlone(layer=name, reason=count) for name in group.producers]
        elif count < group.size:
            cuts.append((group, best(scores[group.name], count)))
    return cuts, left_alone


def _told(groups: Sequence[Group], keep: Mapping[str, int]) -> dict[str, int]:
    """Return the units that stay, by name of a group.

    Raises:
        UsageError: a name stands for no group that may be cut, or for several; or a number of units is out of bounds.
    """
    found: dict[str, int] = {}
    for name, units in keep.items():
        named = [group for group in groups if group.name == name] or [each for each in groups if name in each.producers]
        if len(named) != 1:
            known = ", ".join(group.name for group in groups) or "none"
            what = "no group of channels that may be cut" if not named else "several groups of channels"
            raise UsageError(f"keep: '{name}' stands for {what}", hint=f"groups: {known}")
        if not 1 <= units <= named[0].size:
            raise UsageError(f"keep: '{name}' has {named[0].size} units, and {units} were to stay")
        if found.setdefault(named[0].name, units) != units:
            raise UsageError(f"keep: '{name}' is of a group for which another number is given")
    return {name: units for name, units in found.items() if units < _size(groups, name)}


def _size(groups: Sequence[Group], name: str) -> int:
    return next(group.size for group in groups if group.name == name)


def _scores(
    subject: Subject, at: Mapping[str, Linear], groups: Collection[Group], settings: WidthSettings
) -> dict[str, Array]:
    """Return the importance of the units, by group, of those producers that the criterion can score."""
    makers = [name for name in at if any(name in group.producers for group in groups)]
    unscored = refused(subject, makers, settings.criterion, "channels")
    asked = [name for name in makers if name not in unscored]
    scores = score_channels(subject, asked, settings.criterion, rng=np.random.default_rng(subject.seed))
    return {group.name: unit_scores(group, scores) for group in groups}


def _depthwise(layer: Linear) -> bool:
    """Say whether a layer only follows: its channels are those of its input."""
    groups = integer(layer.node, "group", 1)
    return layer.spatial and groups > 1 and layer.input_channels == groups
