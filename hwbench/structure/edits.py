"""Sizes, counts and places that stand in the graph as constants, as they must be after a cut.

One small function for each operator that has such numbers. They change nothing: they say what is to be written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hwbench.structure.plan import Plan, after
from hwbench.structure.rules.select import paddings, ranges
from hwbench.structure.trace import At, Trace

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass
class Rewrite:
    """One node, and what is to be written into it: constant inputs by index, attributes by name (None: none).

    ``open_inputs``: another way to write an input, which holds for every batch. It is taken where an input is computed
    from shapes, and would come out wrong.
    """

    at: At
    plan: Plan
    inputs: dict[int, Array] = field(default_factory=dict)
    attributes: dict[str, int | list[int] | None] = field(default_factory=dict)
    open_inputs: dict[int, Array] = field(default_factory=dict)

    def sizes(self, index: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the sizes of a computed input, before and after."""
        return self.at.shape(index), self.plan.shape(self.at.value(index))

    def put(self, name: str, index: int, numbers: list[int], old: list[int] | None) -> None:
        """Write numbers that are an attribute in old opsets and an input in newer ones, where they have changed."""
        if numbers == old:
            return
        if name in self.at.node.attributes:
            self.attributes[name] = numbers
        else:
            self.inputs[index] = np.array(numbers, np.int64)


def rewrites(plan: Plan) -> list[Rewrite]:
    """Return what is to be written into the nodes that a cut touches."""
    trace = Trace(plan.model, {})
    found = []
    for node in plan.nodes():
        rewrite = Rewrite(At(trace, node), plan)
        rule = _RULES.get(node.op_type)
        if rule is not None:
            rule(rewrite)
        if rewrite.inputs or rewrite.attributes:
            found.append(rewrite)
    return found


def _convolution(rewrite: Rewrite) -> None:
    """As many groups as there are: inputs by inputs of a group (outputs, for a transposed convolution)."""
    at, plan = rewrite.at, rewrite.plan
    groups = at.integer("group", 1)
    if groups == 1:
        return
    kept = plan.uses.get((at.node, 1), {})
    of_group = after(at.shape(1), kept)[1]
    wide = at.value(0) if at.node.op_type == "Conv" else at.node.outputs[0]
    if (now := plan.shape(wide)[1] // of_group) != groups:
        rewrite.attributes["group"] = now


def _group_norm(rewrite: Rewrite) -> None:
    before, now = (shape[1] for shape in rewrite.sizes(0))
    groups = rewrite.at.integer("num_groups", 1)
    rewrite.attributes["num_groups"] = now // (before // groups)


def _reshape(rewrite: Rewrite) -> None:
    """Sizes that are written out; 0 (as before) and -1 (the rest) are left where they still say the same."""
    at, plan = rewrite.at, rewrite.plan
    target = at.integers("shape", 1) or []
    now, into = plan.shape(at.node.outputs[0]), rewrite.sizes(0)[1]
    copies = not at.integer("allowzero", 0)
    wanted = [
        size if size == -1 or (size == 0 and copies and now[axis] == into[axis]) else now[axis]
        for axis, size in enumerate(target)
    ]
    rewrite.put("shape", 1, wanted, target)
    if copies and 1 in rewrite.inputs:
        same = [axis < len(into) and now[axis] == into[axis] for axis in range(len(now))]
        rewrite.open_inputs[1] = np.array([0 if same[axis] else wanted[axis] for axis in range(len(now))], np.int64)


def _expand(rewrite: Rewrite) -> None:
    at, plan = rewrite.at, rewrite.plan
    target = at.integers("shape", 1) or []
    before, now = at.out_shape(), plan.shape(at.node.outputs[0])
    first = len(now) - len(target)
    wanted = [
        size if now[first + axis] == before[first + axis] else now[first + axis] for axis, size in enumerate(target)
    ]
    rewrite.put("shape", 1, [size if old != 1 else 1 for size, old in zip(wanted, target, strict=True)], target)


def _split(rewrite: Rewrite) -> None:
    at, plan = rewrite.at, rewrite.plan
    axis = at.integer("axis", 0) % len(at.shape(0))
    if plan.kept(at.node.inputs[0], axis) is None:
        return
    rewrite.put("split", 1, [plan.shape(value)[axis] for value in at.node.outputs], None)
    if "num_outputs" in at.node.attributes:
        rewrite.attributes["num_outputs"] = None


def _slice(rewrite: Rewrite) -> None:
    at, plan = rewrite.at, rewrite.plan
    starts, ends = at.integers("starts", 1) or [], at.integers("ends", 2) or []
    first, last = list(starts), list(ends)
    for place, (axis, part) in enumerate(ranges(at).items()):
        kept = plan.kept(at.value(0), axis)
        if kept is not None:
            first[place] = int(np.count_nonzero(kept < part.start))
            last[place] = int(np.count_nonzero(kept < part.stop))
    rewrite.put("starts", 1, first, starts)
    rewrite.put("ends", 2, last, ends)


def _gather(rewrite: Rewrite) -> None:
    at, plan = rewrite.at, rewrite.plan
    axis = at.integer("axis", 0) % len(at.shape(0))
    kept, places = plan.kept(at.node.inputs[0], axis), at.array(1)
    if kept is None or places is None:
        return
    places = places % at.shape(0)[axis]
    rewrite.inputs[1] = np.searchsorted(kept, places[np.isin(places, kept)]).astype(places.dtype)


def _pad(rewrite: Rewrite) -> None:
    at, plan = rewrite.at, rewrite.plan
    amounts, axes = at.integers("pads", 1) or [], at.integers("axes", 3)
    before, behind = paddings(at)
    wanted, half = list(amounts), len(amounts) // 2
    for place, axis in enumerate(axes if axes is not None else range(half)):
        kept, front, back = plan.kept(at.node.outputs[0], axis % len(before)), before[axis], behind[axis]
        if kept is not None and (front or back):
            wanted[place] = int(np.count_nonzero(kept < front))
            wanted[half + place] = int(np.count_nonzero(kept >= at.out_shape()[axis] - back))
    rewrite.put("pads", 1, wanted, amounts)


def _resize(rewrite: Rewrite) -> None:
    at, plan = rewrite.at, rewrite.plan
    target = at.integers("sizes", 3)
    if not target:
        return
    axes = at.node.attributes.get("axes")
    which = axes.as_ints() if axes is not None else range(len(target))
    now = plan.shape(at.node.outputs[0])
    rewrite.put("sizes", 3, [now[axis % len(now)] for axis in which], target)


_RULES: dict[str, Callable[[Rewrite], None]] = {
    "Conv": _convolution,
    "ConvTranspose": _convolution,
    "Expand": _expand,
    "Gather": _gather,
    "GroupNormalization": _group_norm,
    "Pad": _pad,
    "Reshape": _reshape,
    "Resize": _resize,
    "Slice": _slice,
    "Split": _split,
}
