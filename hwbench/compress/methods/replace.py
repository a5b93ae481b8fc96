"""One layer for a residual block, fitted to what the block put out; nothing is trained.

Which blocks can be replaced, and what by, is in :mod:`hwbench.structure.replace`; the fit is in
:mod:`hwbench.compress.repair.stand_in`. Blocks are replaced in graph order, each fitted to what its layer reads in the
network as it is by then, so that a later one makes up for what earlier ones lose.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar

from hwbench.compress.base import Outcome, Settings, Subject
from hwbench.compress.methods.depth import chosen_count, forget
from hwbench.compress.repair.match import Match
from hwbench.compress.repair.stand_in import DAMPING, LEAST_ROWS, StandIn, matched, stand_in
from hwbench.errors import UsageError
from hwbench.records.base import Missing
from hwbench.records.compression import Change, LeftAlone
from hwbench.structure.blocks import residual_blocks
from hwbench.structure.replace import Replaceable, replace_block, replaceable
from hwbench.train.settings import within


class ReplaceSettings(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many blocks are replaced, and which: one of ``amount``, ``count`` and ``blocks`` must be given."""

    amount: float | None = None
    """The fraction of the blocks that is replaced, of those that may: those that their layer alone comes nearest to."""
    count: int | None = None
    """How many blocks are replaced, chosen in the same way."""
    blocks: tuple[str, ...] = ()
    """The names of the blocks that are replaced. One that an earlier step has taken is left alone."""
    damping: float = DAMPING
    """Of the least squares, in units of the mean square of what the layer reads; above 0."""

    def __post_init__(self) -> None:
        within("amount", self.amount, 0, 1)
        within("count", self.count, 1)
        if not self.damping > 0:
            raise UsageError(f"damping must be above 0, got {self.damping:g}")


class Replace:
    """Residual blocks as one layer each."""

    stage: ClassVar[str] = "depth"
    summary: ClassVar[str] = "put one layer, fitted to the data, in place of a residual block of two convolutions"
    settings_type: ClassVar[type[Settings]] = ReplaceSettings

    def legal(self, subject: Subject, settings: ReplaceSettings) -> dict[str, Missing | None]:
        found = {block.name: replaceable(block) for block in residual_blocks(subject.model)}
        return {name: one if isinstance(one, Missing) else _unfit(subject, one) for name, one in found.items()}

    def apply(self, subject: Subject, layers: Collection[str], settings: ReplaceSettings) -> Outcome:
        subject.need_samples("replace")
        found = {block.name: replaceable(block) for block in residual_blocks(subject.model) if block.name in layers}
        there = {name: one for name, one in found.items() if isinstance(one, Replaceable)}
        alone: dict[str, float] = {}
        if settings.blocks:
            chosen, left = _named(subject, there, settings)
        else:
            wanted = chosen_count("replace", settings.amount, settings.count, len(there))
            alone = _errors_alone(subject, there, settings) if wanted else {}
            chosen, left = set(sorted(alone, key=alone.__getitem__)[:wanted]), []
        figures = {f"error of {name} alone": error for name, error in alone.items()}
        changes: list[Change] = []
        for number, name in enumerate(name for name in there if name in chosen):
            subject.report(f"fit a layer in place of {name}", number / len(chosen))
            (fitted,) = _fitted(subject, [there[name]], settings).values()
            figures[f"error of {name}"] = fitted.error
            changes.append(_replaced(subject, there[name], fitted))
        return Outcome(changes=changes, left_alone=left, figures=figures)


def _errors_alone(subject: Subject, there: Mapping[str, Replaceable], settings: ReplaceSettings) -> dict[str, float]:
    """Return what a layer leaves of the variance of each block, were that block the only one to be replaced."""
    return {name: fitted.error for name, fitted in _fitted(subject, list(there.values()), settings).items()}


def _named(
    subject: Subject, there: Mapping[str, Replaceable], settings: ReplaceSettings
) -> tuple[set[str], list[LeftAlone]]:
    now = {block.name for block in residual_blocks(subject.model)}
    gone = {block.name for block in residual_blocks(subject.original)} - now
    unknown = [name for name in settings.blocks if name not in there and name not in gone]
    if unknown:
        raise UsageError(
            f"no block that may be replaced is called {', '.join(unknown)}",
            hint=f"blocks: {', '.join(there) or 'none'}",
        )
    if settings.amount is not None or settings.count is not None:
        raise UsageError("blocks are named, and an amount or a count is given too", hint="give one of the three")
    taken = Missing(code="gone", why="an earlier step has taken it")
    left = [LeftAlone(layer=name, reason=taken) for name in dict.fromkeys(settings.blocks) if name in gone]
    return set(settings.blocks) - gone, left


def _fitted(subject: Subject, some: Sequence[Replaceable], settings: ReplaceSettings) -> dict[str, StandIn]:
    """Return by block the layer that is to stand for it in the network as it is, in one pass over the data."""
    from hwbench.compress.statistics.pairs import paired

    matches = [match for one in some if isinstance(match := matched(subject, one), Match)]
    by_layer = {one.first.name: one for one in some}
    found = {}
    for match, pair in paired(subject, matches, least=LEAST_ROWS):
        one = by_layer[match.layer.name]
        found[one.name] = stand_in(one, pair, settings.damping)
    return found


def _replaced(subject: Subject, one: Replaceable, fitted: StandIn) -> Change:
    gone = replace_block(subject.model, one, fitted.blocks, fitted.bias)
    forget(subject, gone)
    what = (
        f"the block as its layer '{one.first.name}': {len(gone.nodes)} nodes, {gone.parameters} weights; "
        f"{fitted.error:.3g} of the variance is lost"
    )
    removed = {f"{name}/0": tuple(range(length)) for name, length in gone.initializers.items()}
    return Change(layer=one.name, kind="cut", what=what, removed=removed)


def _unfit(subject: Subject, one: Replaceable) -> Missing | None:
    """Say why a layer cannot be fitted: its books, its rows, or nothing in the original to fit it to."""
    from hwbench.compress.statistics.rows import no_rows

    found = matched(subject, one)
    return _held(subject, one) or no_rows(one.first) or (found if isinstance(found, Missing) else None)


def _held(subject: Subject, one: Replaceable) -> Missing | None:
    names = {value.name for value in one.first.node.inputs[1:] if value is not None}
    if not any(name in subject.held_zeros or name in subject.bits for name in names):
        return None
    why = f"an earlier step keeps books of the weights of '{one.first.name}'"
    return Missing(code="held_weight", why=why, cure="replace first, then prune or quantise")
