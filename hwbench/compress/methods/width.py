"""Width: output channels, attention heads and hidden units taken out of coupled groups.

What hangs together is found by :mod:`hwbench.structure.groups`, and taken out by :mod:`hwbench.structure.cut`. The
structure of the idea (score channels, sum over what is coupled, cut): Li et al. 2017, Pruning Filters,
arXiv:1608.08710; Fang et al. 2023, DepGraph, arXiv:2301.12900. Heads: Michel et al. 2019, arXiv:1905.10650.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection
from typing import Any, ClassVar, Literal

import numpy as np

from hwbench.compress.base import Outcome, Settings, Subject
from hwbench.compress.narrow.choose import Edges, best, fitted, keep_each, keep_ranked, uncovered, unit_scores
from hwbench.compress.narrow.told import changes, constants_of, enter
from hwbench.errors import UsageError
from hwbench.graph.linear import Linear, Skipped, integer, linear_layers
from hwbench.records.base import Missing
from hwbench.records.compression import LeftAlone
from hwbench.structure.check import verify_cut
from hwbench.structure.cut import cut_groups
from hwbench.structure.groups import Group, Groups, channel_groups

Array = np.ndarray[Any, np.dtype[Any]]
Kind = Literal["channels", "heads", "columns"]
Scorer = Callable[..., dict[str, Array]]


class WidthSettings(Settings, frozen=True, kw_only=True):
    """Settings of ``width``."""

    amount: float
    """The fraction of the units of each group (or of all groups) that is taken away; above 0 and below 1."""
    criterion: str = "l2"
    """What tells the importance of an output channel; one of ``hwbench.compress.scores``."""
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
        if not 0 < self.amount < 1:
            raise UsageError(f"amount must lie between 0 and 1, got {self.amount:g}")
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

    def __init__(self, scorer: Scorer | None = None) -> None:
        self._scorer = scorer

    def legal(self, subject: Subject, settings: WidthSettings) -> dict[str, Missing | None]:
        found = channel_groups(subject.model)
        reasons: dict[str, Missing | None] = {}
        for layer in linear_layers(subject.model):
            if isinstance(layer, Skipped):
                reasons[layer.layer] = Missing(code="unfit_layer", why=layer.reason)
            else:
                reasons[layer.name] = _unfit(layer.name, found, settings)
        return reasons

    def apply(self, subject: Subject, layers: Collection[str], settings: WidthSettings) -> Outcome:
        at = subject.layers()
        chosen, left_alone = _touched(subject, layers, settings)
        scores = self._scores(subject, chosen, settings)
        minimum = settings.minimum
        wanted = (
            keep_each(scores, settings.amount)
            if settings.scope == "layer"
            else keep_ranked(scores, settings.amount, minimum)
        )
        edges = Edges(widths=settings.widths, multiple_of=settings.multiple_of, minimum=minimum)
        channels = {name: layer.output_channels for name, layer in at.items()}
        counts = fitted(chosen, wanted, edges, channels)
        cuts: list[tuple[Group, Array]] = []
        for group in chosen:
            count = counts[group.name]
            if isinstance(count, Missing):
                left_alone += [LeftAlone(layer=name, reason=count) for name in group.producers]
            elif count < group.size:
                cuts.append((group, best(scores[group.name], count)))
        subject.report(f"cut {len(cuts)} groups", None)
        before = constants_of(subject.model)
        made = cut_groups(subject.model, cuts)
        verify_cut(subject.model, made)
        enter(subject, made)
        units, kept = sum(group.size for group in chosen), sum(len(keep) for _, keep in cuts)
        return Outcome(
            changes=changes(subject, made, cuts, before, subject.layers()),
            left_alone=list(dict.fromkeys(left_alone)),
            figures={
                "groups": float(len(chosen)),
                "groups_cut": float(len(cuts)),
                "units": float(units),
                "units_removed": float(sum(group.size for group, _ in cuts) - kept),
            },
        )

    def _scores(self, subject: Subject, groups: Collection[Group], settings: WidthSettings) -> dict[str, Array]:
        at = subject.layers()
        makers = {name for group in groups for name in group.producers if name in at}
        scorer = self._scorer
        if scorer is None:
            scorer = importlib.import_module("hwbench.compress.scores.criteria").score_channels
        rng = np.random.default_rng(subject.seed)
        scores = scorer(subject, [name for name in at if name in makers], settings.criterion, rng=rng)
        return {group.name: unit_scores(group, scores) for group in groups}


def _unfit(layer: str, found: Groups, settings: WidthSettings) -> Missing | None:
    mine = [group for group in found.groups if layer in group.producers]
    if not mine:
        unknown = Missing(code="no_channels", why="it makes no channels that could be followed")
        return found.locked.get(layer, unknown)
    if not any(group.kind in settings.kinds for group in mine):
        kinds = " and ".join(sorted({group.kind for group in mine}))
        return Missing(code="kind", why=f"it makes {kinds}, which kinds leaves out")
    if all(group.size <= settings.minimum for group in mine if group.kind in settings.kinds):
        size = max(group.size for group in mine)
        return Missing(code="minimum", why=f"it has {size} units that can go apart, and minimum is {settings.minimum}")
    return None


def _touched(subject: Subject, layers: Collection[str], settings: WidthSettings) -> tuple[list[Group], list[LeftAlone]]:
    """Return the groups all of whose producers may be changed, and the layers that are in others."""
    at = subject.layers()
    following = [name for name, layer in at.items() if _depthwise(layer)]
    chosen: list[Group] = []
    left_alone: list[LeftAlone] = []
    for group in channel_groups(subject.model).groups:
        asked = [name for name in group.producers if name in layers]
        if group.kind not in settings.kinds or group.size <= settings.minimum or not asked:
            continue
        others = uncovered(group, layers, following)
        if not others:
            chosen.append(group)
            continue
        why = f"its channels hang together with those of {', '.join(others)}, which is not to be changed"
        reason = Missing(code="coupled", why=why, cure="let --layers match these too")
        left_alone += [LeftAlone(layer=name, reason=reason) for name in asked if name not in following]
    return chosen, left_alone


def _depthwise(layer: Linear) -> bool:
    groups = integer(layer.node, "group", 1)
    return layer.spatial and groups > 1 and layer.input_channels == groups
