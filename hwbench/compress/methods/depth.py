"""Drop residual blocks that carry little.

A block is a branch and the Add that joins it to what went around it (:mod:`hwbench.structure.blocks`). What a block is
worth is measured: by how little it turns the value that goes through it, or by how far the network's output moves
without it. The blocks worth least go, and what goes around them goes on.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from hwbench.compress.base import Outcome, Settings, Subject
from hwbench.errors import UsageError
from hwbench.records.base import Missing
from hwbench.records.compression import Change, LeftAlone
from hwbench.structure.blocks import Block, residual_blocks, whole_layers
from hwbench.structure.drop import Dropped, drop_block
from hwbench.train.settings import within

Units = dict[str, tuple[Block, ...]]


class DepthSettings(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many blocks go, and which: one of ``amount``, ``count`` and ``blocks`` must be given."""

    amount: float | None = None
    """The fraction of the blocks that goes, of those that may."""
    count: int | None = None
    """How many blocks go."""
    blocks: tuple[str, ...] = ()
    """The names of the blocks that go; nothing is measured."""
    criterion: Literal["influence", "output", "random"] = "influence"
    """influence: 1 - E[cos(x_in, x_out)] of a block (ShortGPT, Men et al. 2024, arXiv:2403.03853), one pass over the
    data for all blocks. output: how far the network's output moves without the block, a pass each from the block on.
    random: what the others must beat."""
    distance: Literal["mse", "kl"] = "mse"
    """How output is measured: ||y' - y||^2 / ||y||^2, or the mean KL(softmax(y) || softmax(y')) over the last axis."""
    greedy: bool = False
    """Measure again after each block that went."""
    unit: Literal["branch", "layer"] = "branch"
    """branch: attention and MLP of a transformer's layer one by one. layer: both together."""
    highest: bool = False
    """Drop the blocks with the highest scores, to see what the criterion is worth."""

    def __post_init__(self) -> None:
        within("amount", self.amount, 0, 1)
        within("count", self.count, 1)


class Depth:
    """Residual blocks out."""

    stage: ClassVar[str] = "depth"
    summary: ClassVar[str] = "drop residual blocks that carry little: by influence, by the output's change, or by name"
    settings_type: ClassVar[type[Settings]] = DepthSettings

    def legal(self, subject: Subject, settings: DepthSettings) -> dict[str, Missing | None]:
        return {
            name: next((block.reason for block in blocks if block.reason), None)
            for name, blocks in units_of(subject, settings.unit).items()
        }

    def apply(self, subject: Subject, layers: Collection[str], settings: DepthSettings) -> Outcome:
        units = {name: blocks for name, blocks in units_of(subject, settings.unit).items() if name in layers}
        if settings.blocks:
            return self._named(subject, units, settings)
        wanted = chosen_count("depth", settings.amount, settings.count, len(units))
        scores: dict[str, float] = {}
        figures: dict[str, float] = {}
        changes: list[Change] = []
        reference = _Reference(subject, settings, len(units))
        while len(changes) < wanted and units:
            if settings.greedy or not changes:
                scores = reference.scores(units)
                figures |= {_figure(settings, name, len(changes)): score for name, score in scores.items()}
            name = _chosen(units, scores, highest=settings.highest)
            what = f"{settings.criterion} {scores[name]:.6g}"
            changes.append(drop_unit(subject, name, units.pop(name), what))
            units = {name: unit for name, unit in units.items() if all(_there(block, subject) for block in unit)}
        notes = (
            [f"{len(changes)} of {wanted} blocks dropped: the others went with them"] if len(changes) < wanted else []
        )
        return Outcome(changes=changes, figures=figures, notes=notes)

    def _named(self, subject: Subject, units: Units, settings: DepthSettings) -> Outcome:
        unknown = [name for name in settings.blocks if name not in units]
        if unknown:
            raise UsageError(
                f"no block that may be dropped is called {', '.join(unknown)}",
                hint=f"blocks: {', '.join(units) or 'none'}",
            )
        if settings.amount is not None or settings.count is not None:
            raise UsageError("blocks are named, and an amount or a count is given too", hint="give one of the three")
        changes, left = [], []
        for name in dict.fromkeys(settings.blocks):
            if all(_there(block, subject) for block in units[name]):
                changes.append(drop_unit(subject, name, units[name], "named"))
            else:
                left.append(LeftAlone(layer=name, reason=Missing(code="gone", why="it went with another block")))
        return Outcome(changes=changes, left_alone=left)


def units_of(subject: Subject, unit: str) -> Units:
    """Return what goes as one, by name, in graph order."""
    blocks = residual_blocks(subject.model)
    return whole_layers(blocks) if unit == "layer" else {block.name: (block,) for block in blocks}


def drop_unit(subject: Subject, name: str, blocks: Sequence[Block], why: str) -> Change:
    """Drop blocks as one, and bring the books up to date."""
    gone = [drop_block(subject.model, block) for block in blocks if _there(block, subject)]
    for dropped in gone:
        forget(subject, dropped)
    nodes, parameters = sum(len(each.nodes) for each in gone), sum(each.parameters for each in gone)
    removed = {
        f"{initializer}/0": tuple(range(length)) for each in gone for initializer, length in each.initializers.items()
    }
    return Change(
        layer=name, kind="cut", what=f"the block: {nodes} nodes, {parameters} weights; {why}", removed=removed
    )


def forget(subject: Subject, dropped: Dropped) -> None:
    """Strike what went with a block from the books."""
    for name in dropped.initializers:
        subject.held_zeros.discard(name)
        subject.bits.pop(name, None)
        subject.kept.pop(name, None)
    if dropped.renamed is not None:
        subject.kept.pop(dropped.renamed[0], None)


def _there(block: Block, subject: Subject) -> bool:
    return block.add.graph is subject.model.graph


def chosen_count(what: str, amount: float | None, count: int | None, candidates: int) -> int:
    """Return how many blocks are meant by a fraction or a number of the candidates.

    Raises:
        UsageError: neither is given, or both are, or there are not so many.
    """
    if (amount is None) == (count is None):
        raise UsageError(
            f"{what} needs to be told how many blocks: one of amount, count and blocks",
            hint="--amount 0.25, or --set count=3, or --set blocks=...",
        )
    if count is None:
        return round((amount or 0.0) * candidates)
    if count > candidates:
        raise UsageError(f"{count} blocks are asked for, and {candidates} may")
    return count


def _chosen(units: Units, scores: Mapping[str, float], *, highest: bool) -> str:
    choose = max if highest else min
    return choose(units, key=lambda name: scores[name])


def _figure(settings: DepthSettings, name: str, gone: int) -> str:
    return f"{settings.criterion} of {name}" + (f", {gone} gone" if gone else "")


@dataclass
class _Reference:
    """Scores blocks of the network as it is; the output's change is counted from the network as it was at first."""

    subject: Subject
    settings: DepthSettings
    candidates: int

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.subject.seed)
        self._first = None if self.settings.criterion != "output" else self.subject.view()

    def scores(self, units: Units) -> dict[str, float]:
        if self.settings.criterion == "random":
            return dict(zip(units, self._rng.random(len(units)).tolist(), strict=True))
        from hwbench.compress.statistics import influence

        if self._first is None:
            return influence.block_influence(self.subject, units)
        return influence.output_change(self.subject, units, self._first, self.settings.distance)
