"""Least squares layer by layer, each on what it reads once all before it are done.

The original and the network go side by side. Before a layer is computed, its weights are solved for: on what it reads
*now*, for what the original put out (asymmetric reconstruction: Zhang et al. 2015, arXiv:1505.06798; He et al. 2017,
arXiv:1707.06168). So it makes up for what those before it still get wrong. Where its output is added to another tensor,
as in a residual block, it is solved for what the *sum* was in the original, less what the other is now: what went wrong
on the shortcut is made up for too, and errors do not pile up along it.

All samples go through a layer before the next, so their values are held in memory between layers. There are as many
samples as have room in ``MEMORY``.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import islice

import onnx_ir as ir
import torch

from hwbench.compress.base import Subject
from hwbench.compress.repair.least_squares import Solved, reconstruct
from hwbench.compress.repair.match import Match, Source, channel_axis, match, source_of
from hwbench.compress.statistics.grams import LEAST_ROWS, no_gram
from hwbench.compress.statistics.pairs import pair_of
from hwbench.compress.statistics.rows import Rows
from hwbench.compress.statistics.walk import Walk
from hwbench.compress.statistics.watch import passes
from hwbench.graph.linear import constant
from hwbench.records.base import Missing
from hwbench.torch_view.layer import Layer

Tensor = torch.Tensor
MEMORY = 1536 << 20  # bytes of values of both networks
_WORK, _MOST_ROWS = 2e10, 65_536  # multiply-adds that the rows of a layer may cost in any case, and rows for that


@dataclass(frozen=True)
class _Goal:
    """What a layer is solved for: a tensor of the original, less what another one of the network is now."""

    match: Match
    source: Source
    less: str | None  # the layer or the input that makes it


def solve_in_turn(
    subject: Subject, names: Collection[str], *, damping: float, per_input: float | None
) -> tuple[list[Solved], dict[str, Missing]]:
    """Solve for layers one after the other, in place.

    Args:
        subject: the network as it is now, with samples.
        names: of the layers that may be changed.
        damping: of least squares, in units of the mean square of what a layer reads.
        per_input: how many rows are drawn for each input of a layer; None: all.

    Returns:
        What was done, and why the others were left.

    Raises:
        UsageError: there are no samples.
        ModelError: a layer puts out NaN or infinity.
    """
    goals, left = _goals(subject, names)
    if not goals:
        return [], left
    device = torch.device(subject.device)
    with torch.no_grad():
        views = subject.teacher(), subject.view()
        batches = _that_fit(subject, views)
        original = Walk(views[0], batches, [goal.source.node or "" for goal in goals.values()])
        now = Walk(views[1], batches)
        done: list[Solved] = []
        for number, (name, goal) in enumerate(goals.items()):
            subject.report("least squares, layer by layer", number / len(goals))
            now.until(name)
            given, targets = now.read(name), _targets(goal, original, now, device)
            if given is not None and targets is not None:
                least = _least_rows(goal.match)
                pair = pair_of(subject, goal.match, given, targets, per_input=per_input, least=least)
                solved = reconstruct(subject, goal.match, pair, damping)
                if solved is not None:
                    done.append(solved)
                    _rewrite(now, goal.match)
            original.let_go(goal.source.node or "")
    return done, left


def _least_rows(one: Match) -> int:
    """Return how many rows are drawn at least: errors pile up from layer to layer, also those of too few rows."""
    return max(LEAST_ROWS, min(_MOST_ROWS, int(_WORK / Rows(one.layer).width ** 2)))


def _goals(subject: Subject, names: Collection[str]) -> tuple[dict[str, _Goal], dict[str, Missing]]:
    """Return what layers are solved for, in graph order, and why others are left."""
    goals: dict[str, _Goal] = {}
    left: dict[str, Missing] = {}
    for name, layer in subject.layers().items():
        if name not in names:
            continue
        trouble = no_gram(layer)
        found = match(subject, layer) if trouble is None else trouble
        if isinstance(found, Missing):
            left[name] = found
        else:
            goals[name] = _of_sum(subject, found) or _Goal(found, found.source, None)
    return goals, left


def _of_sum(subject: Subject, one: Match) -> _Goal | None:
    """Return the goal of a layer whose output is added to another tensor that comes before it, and to nothing else."""
    end = one.layer.output if one.norm is None else one.norm.node.outputs[0]
    uses = list(end.uses())
    if len(uses) != 1 or uses[0].node.op_type != "Add" or uses[0].node.domain or end.is_graph_output():
        return None
    add = uses[0].node
    other = add.inputs[1 - uses[0].idx]
    if other is None or other is end or constant(other) is not None or other.shape != end.shape:
        return None
    source = source_of(subject, add.outputs[0], channel_axis(one.layer))
    if isinstance(source, Missing):
        return None
    maker = other.producer()
    order = {node: at for at, node in enumerate(subject.model.graph)}
    if maker is not None and order[maker] > order[one.layer.node]:
        return None  # it is solved for in its turn, with this one done
    return _Goal(one, source, (other.name if maker is None else maker.name) or "")


def _targets(goal: _Goal, original: Walk, now: Walk, device: torch.device) -> list[Tensor] | None:
    """Return what a layer should put out, batch by batch; None where a value is not there."""
    source = goal.source
    if source.node is not None:
        original.through(source.node)
    whole = original.made(source.tensor if source.node is None else source.node)
    less = None if goal.less is None else now.made(goal.less)
    if whole is None or (goal.less is not None and less is None):
        return None
    found = [source.of(value) for value in whole]
    if source.left is not None:
        left = torch.from_numpy(source.left).to(device)
        found = [value.index_select(source.axis, left) for value in found]
    return found if less is None else [value - other for value, other in zip(found, less, strict=True)]


def _that_fit(subject: Subject, views: Sequence[torch.fx.GraphModule]) -> list[tuple[Tensor, ...]]:
    """Return as many batches as have room: the first tells how much one takes."""
    first = next(tensors for tensors, _ in passes(subject, "least squares"))
    each = 0
    for view in views:
        walk = Walk(view, [first])
        walk.through(walk.layer[next(node for node in reversed(walk.nodes) if node in walk.layer)])
        each += walk.most_bytes
    count = max(1, MEMORY // max(1, each))
    return [tensors for tensors, _ in islice(passes(subject, "least squares"), count)]


def _rewrite(now: Walk, one: Match) -> None:
    """Put the constants of a layer, and of the nodes that hold its shift, into the modules that compute it."""
    layer = one.layer
    for node in {layer.node, layer.add or layer.node, *(() if one.norm is None else (one.norm.node,))}:
        _copy(node, now.module(node.name or ""))


def _copy(node: ir.Node, module: Layer) -> None:
    for index, value in enumerate(node.inputs):
        array = None if value is None else constant(value)
        if array is None:
            continue
        slot = module.arguments[index] if index < len(module.arguments) else None
        if isinstance(slot, str):
            old: Tensor = getattr(module, slot)
            old.data.copy_(torch.from_numpy(array).to(old).reshape(old.shape))
        elif slot is None:  # a bias that was not there before
            weight = getattr(module, str(module.arguments[1]))
            module.register_buffer("made_bias", torch.from_numpy(array).to(weight))
            module.arguments = (*module.arguments[:index], "made_bias", *module.arguments[index + 1 :])
