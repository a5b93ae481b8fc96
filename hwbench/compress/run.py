"""Carry steps out: which layers a step is about, what may not be touched, and the books around it."""

from __future__ import annotations

import re
from collections.abc import Collection

import msgspec
import numpy as np
import onnx_ir as ir

from hwbench.compress.base import Subject
from hwbench.compress.order import Planned
from hwbench.errors import ModelError, UsageError
from hwbench.graph.linear import Linear, linear_layers
from hwbench.graph.onnx_file import infer_shapes
from hwbench.graph.weights import non_finite_weights
from hwbench.records.base import Missing
from hwbench.records.compression import Applied, LeftAlone
from hwbench.units import MonotonicClock

_SPARSE = 0.1  # fraction of zeros; trained weights are hardly ever exactly zero
_ON_A_GRID = frozenset({"shared", "quantised"})


def apply(planned: Planned, subject: Subject, earlier: Collection[Applied]) -> Applied:
    """Carry one step out on a network, in place, and return what was done.

    Raises:
        UsageError: no layer matches, none that does may be changed, or the method refuses the data.
        ModelError: the method left weights that are no numbers.
    """
    step, method, clock = planned.step, planned.compressor, MonotonicClock()
    started = clock.now_ns()
    legal = method.legal(subject, planned.settings)
    chosen = _matching(step.layers, legal, step.method)
    reasons = {name: legal[name] for name in chosen} | _on_a_grid(chosen, earlier)
    layers = [name for name in chosen if reasons[name] is None]
    left = [LeftAlone(layer=name, reason=reason) for name, reason in reasons.items() if reason is not None]
    if not layers:
        raise UsageError(
            f"{step.method}: none of the {len(chosen)} layers that match '{step.layers}' can be changed",
            hint="\n".join(dict.fromkeys(f"{each.layer}: {each.reason}" for each in left[:5])) or None,
        )
    outcome = method.apply(subject, layers, planned.settings)
    subject.model = infer_shapes(subject.model)
    subject.forget_gone()
    bad = non_finite_weights(subject.model)
    if bad:
        raise ModelError(f"{step.method} left NaN or infinity in {', '.join(bad[:3])}", hint="please report this")
    return Applied(
        step=step,
        settings=msgspec.to_builtins(planned.settings),
        changes=tuple(outcome.changes),
        left_alone=(*left, *outcome.left_alone),
        figures=dict(outcome.figures),
        notes=tuple(outcome.notes),
        took_s=(clock.now_ns() - started) / 1e9,
    )


def _matching(pattern: str, names: Collection[str], method: str) -> list[str]:
    expression = re.compile(pattern)
    found = [name for name in names if expression.fullmatch(name)]
    if not found:
        known = ", ".join(list(names)[:8]) + (", ..." if len(names) > 8 else "")
        raise UsageError(
            f"{method}: no layer matches '{pattern}'", hint=f"it is about: {known or 'no layer of this network'}"
        )
    return found


def _on_a_grid(layers: Collection[str], earlier: Collection[Applied]) -> dict[str, Missing]:
    """Return the layers whose weights an earlier step has put on a grid, with the reason to leave them there."""
    found = {}
    for applied in earlier:
        for change in applied.changes:
            if change.kind in _ON_A_GRID and change.layer in layers:
                why = f"its weights are {change.kind} by {applied.step.method} already"
                found[change.layer] = Missing(
                    code="on_a_grid", why=why, cure="choose other --layers for one of the two"
                )
    return found


def sparse_weights(model: ir.Model) -> set[str]:
    """Return the weights that come with so many zeros that somebody has put them there; they are to be held.

    So what one command has pruned stays pruned in the next, and a sparse network of other origin too.
    """
    found = set()
    for layer in linear_layers(model):
        if isinstance(layer, Linear) and np.mean(layer.weight == 0) >= _SPARSE:
            found.add(layer.node.inputs[1].name or "")  # type: ignore[union-attr]
    return found


def count_nodes(model: ir.Model) -> int:
    """Return how many nodes of a graph compute something."""
    return sum(node.op_type != "Constant" for node in model.graph)
