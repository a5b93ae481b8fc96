"""Low rank: a layer as a chain of smaller ones.

Takes each layer as a site, chooses ranks, computes the factors, and puts them into the graph; the mathematics is in
:mod:`hwbench.compress.factorise`. A chain is more operators than one, and moves more memory: fewer multiply-adds are
not less time until it has been measured.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from hwbench.compress.base import Outcome, Settings, Subject
from hwbench.compress.factorise.forms import FORMS, Form, Ranks, composed
from hwbench.compress.factorise.ranks import Wanted, chosen
from hwbench.compress.factorise.rebuild import replace
from hwbench.compress.factorise.site import Cost, Piece, Site, site_of
from hwbench.compress.factorise.spectrum import relative_error
from hwbench.compress.statistics.grams import input_matrices
from hwbench.errors import UsageError
from hwbench.graph.linear import Array, Linear, Skipped, linear_layers, uses
from hwbench.records.base import Missing
from hwbench.records.compression import Change, LeftAlone

MORE_OPERATORS = "fewer multiply-adds in more operators, which may take longer: time it"


class LowRankSettings(Settings, frozen=True, kw_only=True):
    """Settings of ``low-rank``: one of ``amount``, ``rank`` and ``energy`` says how much is left."""

    form: Literal["svd", "channel-svd", "spatial-svd", "tucker", "cp"] = "channel-svd"
    """What takes the place of a layer; for Gemm, MatMul and 1x1 only ``svd`` and ``channel-svd``, the same there."""
    amount: float | None = None
    """The fraction of the layer's multiply-adds that is taken away, at least; between 0 and 1."""
    rank: int | None = None
    """The rank, of each group; both ranks of ``tucker``. At least 1."""
    energy: float | None = None
    """The fraction of the squared singular values that is kept, at least; above 0, up to 1. Not for ``cp``."""
    data_aware: bool = False
    """Whether the error of the output on the data is made small, instead of that of the weights."""
    multiple_of: int = 1
    """What ranks are rounded to, so that they fit vectors and tiles; at least 1."""

    def __post_init__(self) -> None:
        given = [name for name in ("amount", "rank", "energy") if getattr(self, name) is not None]
        if len(given) != 1:
            raise UsageError(
                f"low-rank takes one of amount, rank and energy, got {' and '.join(given) or 'none'}",
                hint="amount=0.5 takes half of a layer's multiply-adds away",
            )
        if self.amount is not None and not 0 < self.amount < 1:
            raise UsageError(f"amount must lie between 0 and 1, got {self.amount:g}")
        if self.energy is not None and not 0 < self.energy <= 1:
            raise UsageError(f"energy must be above 0 and at most 1, got {self.energy:g}")
        if self.rank is not None and self.rank < 1:
            raise UsageError(f"rank must be at least 1, got {self.rank}")
        if self.multiple_of < 1:
            raise UsageError(f"multiple_of must be at least 1, got {self.multiple_of}")
        if self.form == "cp" and self.energy is not None:
            raise UsageError("cp has no singular values to keep energy of", hint="give amount or rank")


@dataclass(frozen=True, kw_only=True)
class _Done:
    """A layer factorised: what it was, what it cost and costs, and by how much it is off."""

    change: Change
    before: Cost
    after: Cost
    weight_error: float


class LowRank:
    """Layers become chains of smaller ones: SVD, Tucker-2 or CP."""

    stage: ClassVar[str] = "low-rank"
    summary: ClassVar[str] = "write layers as chains of smaller ones: SVD (also fitted to data), Tucker-2, CP"
    settings_type: ClassVar[type[Settings]] = LowRankSettings

    def legal(self, subject: Subject, settings: LowRankSettings) -> dict[str, Missing | None]:
        found: dict[str, Missing | None] = {}
        for layer in linear_layers(subject.model):
            if isinstance(layer, Skipped):
                found[layer.layer] = Missing(code="unfit_layer", why=layer.reason)
            else:
                found[layer.name] = _unfit(subject, layer, settings)
        return found

    def apply(self, subject: Subject, layers: Collection[str], settings: LowRankSettings) -> Outcome:
        grams = input_matrices(subject, layers, "low-rank with data_aware") if settings.data_aware else {}
        done: list[_Done] = []
        left_alone: list[LeftAlone] = []
        at = subject.layers()
        for index, name in enumerate(name for name in at if name in layers):
            subject.report(f"factorise {name}", index / len(layers))
            found = _factorise(subject, at[name], settings, grams.get(name))
            if isinstance(found, Missing):
                left_alone.append(LeftAlone(layer=name, reason=found))
            else:
                done.append(found)
        notes = [MORE_OPERATORS] if done else []
        return Outcome(
            changes=[one.change for one in done],
            left_alone=left_alone,
            figures=_figures(done, subject.batch),
            notes=notes,
        )


def _unfit(subject: Subject, layer: Linear, settings: LowRankSettings) -> Missing | None:
    trouble = _bound(subject, layer)
    if trouble is None and settings.data_aware:
        from hwbench.compress.statistics.grams import no_gram

        trouble = no_gram(layer)
    if trouble is not None:
        return trouble
    site, form = site_of(layer), FORMS[settings.form]
    if isinstance(site, Missing):
        return site
    return form.unfit(site) or _never_smaller(site, form, subject.batch)


def _bound(subject: Subject, layer: Linear) -> Missing | None:
    """Return why the weight cannot be replaced."""
    weight = layer.node.inputs[1]
    assert weight is not None
    if len(uses(weight)) > 1:
        readers = ", ".join(sorted(node.name or node.op_type for node, _ in uses(weight) if node is not layer.node))
        return Missing(code="shared_weight", why=f"its weight '{weight.name}' is also read by {readers}")
    if weight.name in subject.held_zeros:
        return Missing(
            code="held_zeros", why=f"zeros of '{weight.name}' are held, and factors would fill them",
            cure="factorise first, then prune",
        )  # fmt: skip
    return None


def _never_smaller(site: Site, form: Form, batch: int) -> Missing | None:
    lowest: Ranks = (1,) * len(form.full(site))
    before, after = site.cost((site.whole(),)), site.cost(form.pieces(site, lowest))
    if after.macs < before.macs and after.parameters < before.parameters:
        return None
    return Missing(
        code="no_gain",
        why=f"even at rank 1 it would not be smaller: {after.macs / batch:.0f} multiply-adds a sample and "
        f"{after.parameters} weights, now {before.macs / batch:.0f} and {before.parameters}",
    )


def _factorise(subject: Subject, layer: Linear, settings: LowRankSettings, gram: Array | None) -> _Done | Missing:
    site, form, name = site_of(layer), FORMS[settings.form], layer.name
    assert isinstance(site, Site)
    wanted = Wanted(
        rank=settings.rank, amount=settings.amount, energy=settings.energy, multiple_of=settings.multiple_of
    )
    ranks = chosen(form, site, wanted, gram)
    if isinstance(ranks, Missing):
        return ranks
    weight, shape = site.matrix(), layer.weight.shape
    factors = form.factors(site, ranks, gram, subject.seed)
    approximation = composed(form, site, factors)
    if not np.isfinite(approximation).all():
        return Missing(code="no_factors", why="the decomposition did not come to finite numbers")
    pieces = form.pieces(site, ranks)
    before, after = site.cost((site.whole(),)), site.cost(pieces)
    off = relative_error(weight, approximation)
    replaced = layer.node.inputs[1]
    assert replaced is not None
    subject.kept.pop(replaced.name or "", None)
    subject.bits.pop(replaced.name or "", None)
    replace(layer, pieces, factors)
    change = Change(
        layer=name, kind="factorised", what=_told(form, site, ranks, pieces, before, after, off), shape_before=shape,
        error=None if gram is None else relative_error(weight, approximation, gram),
    )  # fmt: skip
    return _Done(change=change, before=before, after=after, weight_error=off)


def _told(
    form: Form, site: Site, ranks: Ranks, pieces: tuple[Piece, ...], before: Cost, after: Cost, off: float
) -> str:
    full = form.full(site)
    rank = " and ".join(f"{rank} of {most}" for rank, most in zip(ranks, full, strict=True))
    chain = ", ".join(f"{piece.suffix} {_window(piece)}{piece.outputs}" for piece in pieces)
    return (
        f"rank {rank}: {chain}; {after.macs / before.macs:.2f} of the multiply-adds, "
        f"{after.parameters / before.parameters:.2f} of the weights, squared error of the weights {off:.3g}"
    )


def _window(piece: Piece) -> str:
    return "x".join(str(size) for size in piece.window.kernel) + " to " if piece.window.kernel else "to "


def _figures(done: list[_Done], batch: int) -> dict[str, float]:
    """Return the totals of the layers; multiply-adds are those of a sample."""
    if not done:
        return {}
    outputs = [one.change.error for one in done if one.change.error is not None]
    figures = {
        "macs_before": sum(one.before.macs for one in done) / batch,
        "macs_after": sum(one.after.macs for one in done) / batch,
        "weights_before": float(sum(one.before.parameters for one in done)),
        "weights_after": float(sum(one.after.parameters for one in done)),
        "mean_weight_error": float(np.mean([one.weight_error for one in done])),
    }
    return figures | ({"mean_output_error": float(np.mean(outputs))} if outputs else {})
