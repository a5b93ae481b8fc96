"""Learn which residual blocks are needed: a gate on each branch, trained with a price on being open.

The gates are hard-concrete (Louizos et al. 2018, arXiv:1712.01312), so that they are exactly shut or open in the end.
Blocks whose gates are shut are dropped; what the others are open by goes into the weights.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

import msgspec

from hwbench.compress.base import Outcome, Settings, Subject
from hwbench.compress.methods.depth import drop_unit
from hwbench.compress.training import TrainingSettings, recover, trained_changes
from hwbench.errors import UsageError
from hwbench.graph.count import macs_of
from hwbench.records.base import Missing
from hwbench.records.compression import Change
from hwbench.structure.blocks import Block, residual_blocks
from hwbench.structure.fold import fold_factor
from hwbench.train.settings import within

if TYPE_CHECKING:
    import torch

    from hwbench.train.hard_concrete import GatePenalty


class GatesSettings(TrainingSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How gates are learned; see the settings of training for the rest."""

    penalty: float = 10.0
    """The factor of the price beside the loss: what it costs if all gates are open. Against the original's softened
    outputs tens are needed, against labels less."""
    price: Literal["blocks", "macs"] = "blocks"
    """Each block costs the same, or what its multiply-adds are of those of all."""
    train: Literal["gates", "all"] = "gates"
    """Train the gates alone, or with all weights of the network."""
    amount: float | None = None
    """At least this fraction of the blocks goes, those with the smallest gates first. Those that are shut always go."""
    speed: float = 50.0
    """How much faster than weights the gates learn. A gate can move by learning_rate x speed a step (with a cosine
    schedule half of that on average), which is told as ``gate_reach``; it is shut once it has fallen by 4.9."""
    optimizer: Literal["sgd", "adamw"] = "adamw"
    learning_rate: float = 1e-3
    keep_best: bool = False
    """The best epoch on held-out samples would be one whose gates are still open."""

    def __post_init__(self) -> None:
        super().__post_init__()
        within("penalty", self.penalty, 0, above=True)
        within("amount", self.amount, 0, 1)
        within("speed", self.speed, 0, above=True)
        within("epochs", self.epochs, 1)


class Gates:
    """Blocks out whose gates have learned to be shut."""

    stage: ClassVar[str] = "depth"
    summary: ClassVar[str] = "learn a gate for each residual block (hard-concrete L0) and drop those that are shut"
    settings_type: ClassVar[type[Settings]] = GatesSettings

    def legal(self, subject: Subject, settings: GatesSettings) -> dict[str, Missing | None]:
        return {block.name: block.reason for block in residual_blocks(subject.model)}

    def apply(self, subject: Subject, layers: Collection[str], settings: GatesSettings) -> Outcome:
        blocks = {block.name: block for block in residual_blocks(subject.model) if block.name in layers}
        shares = _shares(blocks, settings.price)
        made: list[GatePenalty] = []

        def hooks(view: torch.fx.GraphModule) -> list[GatePenalty]:
            made.append(_gated(view, blocks, shares, settings))
            return made

        alone = settings.train == "gates"
        how = msgspec.structs.replace(settings, freeze_norms=True) if alone else settings
        training = recover(subject, how, hooks, only=() if alone else None)
        (gates,) = made
        values, alphas = gates.values(), gates.log_alphas()
        shut = _shut(values, alphas, settings.amount)
        changes = [*_dropped(subject, blocks, shut, alphas), *_folded(subject, blocks, shut, values)]
        changes += trained_changes(subject.model, training.before, leave_out={change.layer for change in changes})
        notes = [*training.notes, *_told(gates, shut)]
        figures = (
            dict(training.figures)
            | {"gate_reach": gates.reach}
            | {f"gate of {name}": value for name, value in values.items()}
        )
        return Outcome(
            changes=changes,
            figures=figures | {f"log alpha of {name}": value for name, value in alphas.items()},
            notes=notes,
        )


def _told(gates: GatePenalty, shut: Collection[str]) -> list[str]:
    from hwbench.train.hard_concrete import TO_SHUT

    if shut:
        return []
    if gates.reach < TO_SHUT:
        return [
            f"no gate could shut: log alpha could move by {gates.reach:.3g} and has to fall by {TO_SHUT:.3g}; more "
            "epochs, a larger speed or learning_rate let it"
        ]
    return ["no gate is shut: a larger penalty would shut some, or an amount"]


def _gated(
    view: torch.fx.GraphModule, blocks: Mapping[str, Block], shares: Mapping[str, float], settings: GatesSettings
) -> GatePenalty:
    from hwbench.compress.statistics.influence import Places
    from hwbench.train.hard_concrete import GatePenalty, insert_gates

    places = Places(view)
    ways = {name: (places.of(block.branch), places.of(block.add.outputs[0])) for name, block in blocks.items()}
    return GatePenalty(insert_gates(view, ways, settings.speed), shares, settings.penalty)


def _shares(blocks: Mapping[str, Block], price: str) -> dict[str, float]:
    """Return each block's part of the price of all."""
    if price == "blocks":
        return {name: 1 / len(blocks) for name in blocks}
    costs: dict[str, int] = {}
    for name, block in blocks.items():
        counted = [macs_of(node) for node in block.nodes]
        unknown = next((each for each in counted if isinstance(each, Missing)), None)
        if unknown is not None:
            raise UsageError(f"the multiply-adds of block '{name}' are not known: {unknown}", hint="price=blocks")
        costs[name] = sum(each for each in counted if isinstance(each, int))
    return {name: cost / sum(costs.values()) for name, cost in costs.items()}


def _shut(values: Mapping[str, float], alphas: Mapping[str, float], amount: float | None) -> list[str]:
    wanted = round((amount or 0.0) * len(alphas))
    smallest = sorted(alphas, key=lambda name: alphas[name])[:wanted]
    return [name for name, value in values.items() if value == 0 or name in smallest]


def _dropped(
    subject: Subject, blocks: Mapping[str, Block], shut: Collection[str], alphas: Mapping[str, float]
) -> list[Change]:
    """Drop the blocks in order; one that has gone with an outer one is passed over."""
    return [
        drop_unit(subject, name, [blocks[name]], f"log alpha of its gate {alphas[name]:.3g}")
        for name in shut
        if blocks[name].add.graph is subject.model.graph
    ]


def _folded(
    subject: Subject, blocks: Mapping[str, Block], shut: Collection[str], values: Mapping[str, float]
) -> list[Change]:
    changes = []
    for name, block in blocks.items():
        if name in shut or values[name] == 1 or block.add.graph is not subject.model.graph:
            continue
        place = fold_factor(subject.model, block, values[name])
        where = f"in the weights of {place}" if place else "as a Mul before its Add"
        changes.append(Change(layer=name, kind="rewritten", what=f"its gate, {values[name]:.4g}, {where}"))
    return changes
