"""Fewer layers: those that follow each other without an activation become one, exactly; activations can be taken out.

What can be merged is in :mod:`hwbench.structure.merge`, the arithmetic in :mod:`hwbench.structure.affine`. Taking an
activation out so that its neighbours can be merged is depth compression (Fu et al. 2022, DepthShrinker,
arXiv:2206.00843; Kim et al. 2023, arXiv:2301.12187); here the activations whose loss costs the output least go.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import ClassVar, Literal

import onnx_ir as ir

from hwbench.compress.base import Outcome, Settings, Subject
from hwbench.errors import UsageError
from hwbench.graph.linear import Linear, linear_of
from hwbench.records.base import Missing
from hwbench.records.compression import Change, LeftAlone
from hwbench.structure.merge import Merge, chain_at, merge, sum_at
from hwbench.train.settings import within


class MergeSettings(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What may be merged."""

    activations: Literal["keep", "remove"] = "keep"
    """keep: only what leaves the function as it is. remove: also take out the activations between layers."""
    amount: float | None = None
    """With remove: the fraction of the layers for which activations go, those where that moves the network's output
    least, measured one by one. With 1 nothing is measured."""
    distance: Literal["mse", "kl"] = "mse"
    """How that is measured: ||y' - y||^2 / ||y||^2, or the mean KL(softmax(y) || softmax(y')) over the last axis."""
    move_padding: bool = False
    """With remove: where a convolution pads what the one before it puts out, pad the input instead. That changes the
    function at the border, and is measured with the rest."""
    allow_more_macs: bool = False
    """Merge also where one layer takes more multiply-adds than the several did."""

    def __post_init__(self) -> None:
        within("amount", self.amount, 0, 1)


class MergeLayers:
    """Several layers into one."""

    stage: ClassVar[str] = "depth"
    summary: ClassVar[str] = "merge layers that follow each other or are added up; activations between can be removed"
    settings_type: ClassVar[type[Settings]] = MergeSettings

    def legal(self, subject: Subject, settings: MergeSettings) -> dict[str, Missing | None]:
        found = {node.name or "": _plan(subject, node, settings) for node in subject.model.graph}
        return {name: plan if isinstance(plan, Missing) else None for name, plan in found.items() if plan is not None}

    def apply(self, subject: Subject, layers: Collection[str], settings: MergeSettings) -> Outcome:
        _check(settings)
        changes = list(_exact(subject, layers, settings))
        done = {change.layer for change in changes}
        candidates = [
            name for name in layers if isinstance(plan := _plan_of(subject, name, settings), Merge) and not plan.exact
        ]
        wanted = round((settings.amount or 0.0) * len(candidates))
        losses = (
            _losses(subject, candidates, settings) if 0 < wanted < len(candidates) else dict.fromkeys(candidates, 0.0)
        )
        chosen = set(sorted(candidates, key=lambda name: losses[name])[:wanted])
        figures = {f"{settings.distance} without {name}": loss for name, loss in losses.items() if wanted < len(losses)}
        left: list[LeftAlone] = []
        for name in [name for name in candidates if name in chosen]:
            plan = _plan_of(subject, name, settings)
            if isinstance(plan, Merge):
                changes.append(_merged(subject, plan, name))
            else:
                why = plan.why if plan is not None else "the layer before it has been merged"
                left.append(LeftAlone(layer=name, reason=Missing(code="taken", why=f"after other merges: {why}")))
        part = Missing(code="taken", why="it has become part of another layer")
        for name in [name for name in layers if name not in done and name not in candidates]:
            plan = _plan_of(subject, name, settings)
            left.append(LeftAlone(layer=name, reason=plan if isinstance(plan, Missing) else part))
        return Outcome(changes=changes, left_alone=left, figures=figures)


def _exact(subject: Subject, layers: Collection[str], settings: MergeSettings) -> Iterator[Change]:
    """Merge what can be merged exactly, in graph order, until there is nothing more."""
    strict = MergeSettings(allow_more_macs=settings.allow_more_macs)
    again = True
    while again:
        again = False
        for node in list(subject.model.graph):
            plan = _plan(subject, node, strict) if node.graph is not None and node.name in layers else None
            if isinstance(plan, Merge):
                yield _merged(subject, plan, node.name or "")
                again = True


def _plan_of(subject: Subject, name: str, settings: MergeSettings) -> Merge | Missing | None:
    for node in subject.model.graph:
        if node.name == name:
            return _plan(subject, node, settings)
    return None


def _plan(subject: Subject, node: ir.Node, settings: MergeSettings) -> Merge | Missing | None:
    """Return how the layer or Add that a node is can be merged, why not, or None where there is nothing to merge."""
    plan = _shape(node, settings)
    return (_sparse(subject, plan) or plan) if isinstance(plan, Merge) else plan


def _shape(node: ir.Node, settings: MergeSettings) -> Merge | Missing | None:
    if node.op_type == "Add":
        return sum_at(node, more_macs=settings.allow_more_macs)
    layer = linear_of(node)
    if not isinstance(layer, Linear):
        return None
    exact = chain_at(layer, more_macs=settings.allow_more_macs)
    if settings.activations == "keep" or isinstance(exact, Merge):
        return exact
    return chain_at(layer, activations=True, move_padding=settings.move_padding, more_macs=settings.allow_more_macs)


def _sparse(subject: Subject, plan: Merge) -> Missing | None:
    names = {value.name or "" for layer in plan.layers for value in layer.node.inputs if value is not None}
    held = sorted(names & subject.held_zeros)
    return Missing(code="held_zeros", why=f"the zeros of '{held[0]}' would be lost") if held else None


def _check(settings: MergeSettings) -> None:
    if settings.activations == "remove" and settings.amount is None:
        raise UsageError("activations are to be removed, and it is not said how many", hint="--amount 0.25")
    if settings.activations == "keep" and (settings.move_padding or settings.amount is not None):
        name = "move_padding changes the function" if settings.move_padding else "an amount is given"
        raise UsageError(f"{name}, and activations is 'keep'", hint="activations=remove")


def _losses(subject: Subject, names: Collection[str], settings: MergeSettings) -> dict[str, float]:
    """Return how far the output moves when each layer alone is merged."""
    from hwbench.compress.statistics.influence import model_change

    samples, first, losses = subject.need_samples("choosing activations"), subject.view(), {}
    for name in names:
        trial = replace(subject, model=subject.model.clone(), samples=samples)
        plan = _plan_of(trial, name, settings)
        assert isinstance(plan, Merge)
        merge(trial.model, plan)
        losses[name] = model_change(trial, first, settings.distance, f"output with {name} merged")
    return losses


def _merged(subject: Subject, plan: Merge, name: str) -> Change:
    before = plan.last.weight.shape
    gone = merge(subject.model, plan)
    for initializer in gone:
        subject.kept.pop(initializer, None)
    kernel = "x".join(map(str, plan.kernel)) + " convolution" if plan.kernel else "matrix product"
    how = "exact" if plan.exact else _how(plan)
    return Change(
        layer=name,
        kind="rewritten",
        what=(
            f"{' + '.join(layer.name for layer in plan.layers)} as one {kernel}; multiply-adds a sample "
            f"{plan.macs_before} -> {plan.macs_after}; {how}"
        ),
        removed={f"{initializer}/0": tuple(range(length)) for initializer, length in gone.items()},
        shape_before=before,
    )


def _how(plan: Merge) -> str:
    parts = [f"{node.op_type} '{node.name}' removed" for node in plan.activations]
    return ", ".join([*parts, *(["padding moved to the front"] if plan.moved else [])])
