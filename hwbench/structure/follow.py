"""A model gone through once, node by node, each with its operator's rule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx_ir as ir

from hwbench.records.base import Missing
from hwbench.structure.known import is_static
from hwbench.structure.rules import RULES
from hwbench.structure.trace import At, NotKnown, Trace, fixed


def follow(model: ir.Model, choices: Mapping[ir.Node, int]) -> Trace:
    """Return what the rules say of a model; ``choices`` says which way to go where there are several."""
    trace = Trace(model, choices)
    for value in model.graph.inputs:
        trace.axes[value] = fixed(value)
    for node in model.graph:
        if not all(value in trace.known for value in node.outputs):
            _step(trace, At(trace, node))
    for value in model.graph.outputs:
        _lock(trace, value, Missing(code="output", why=f"it comes out of the model as '{value.name}'"))
    _lock_captured(trace)
    _lock_shared(trace)
    return trace


def _step(trace: Trace, at: At) -> None:
    node = at.node
    given = [value for value in node.inputs if value is not None and value not in trace.known]
    made = [value for value in node.outputs if value.name]
    rule = RULES.get(node.op_type) if node.domain in {"", "ai.onnx"} else None
    reason = None
    if rule is None:
        operator = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        reason = Missing(code="no_rule", why=f"'{node.name}' reads it, and there is no rule for {operator}")
    elif not all(is_static(value) for value in (*given, *made)):
        reason = Missing(code="dynamic_shape", why=f"{at.what} has a shape that is not fixed")
    else:
        try:
            rule(at)
        except NotKnown as error:
            reason = Missing(code="computed_shape", why=f"{at.what} computes its {error} from data")
    if reason is not None:
        for value in given:
            _lock(trace, value, reason)
    for value in made:
        if reason is not None or value not in trace.axes:
            trace.axes[value] = fixed(value)


def _lock(trace: Trace, value: ir.Value, reason: Missing) -> None:
    for labels in trace.axes.get(value, []):
        trace.lock(labels, reason)


def _lock_captured(trace: Trace) -> None:
    """Lock what the body of a Loop, If or Scan reads from outside."""
    for value in list(trace.axes):
        for node in value.consumers():
            if node.graph is not trace.model.graph:
                reason = Missing(code="no_rule", why=f"the body of a control-flow operator reads it ('{node.name}')")
                _lock(trace, value, reason)


def _lock_shared(trace: Trace) -> None:
    """Lock axes of weights that several nodes read, unless all of them cut it."""
    for (value, axis), labels in trace.shared.items():
        for what in _uncut(trace, value, axis):
            trace.lock(labels, Missing(code="shared", why=f"its weights '{value.name}' are also {what}"))


def _uncut(trace: Trace, value: ir.Value, axis: int) -> Iterator[str]:
    if value.is_graph_output():
        yield "an output of the model"
    for node, index in value.uses():
        use = trace.uses.get((node, index))
        if (use is None or axis not in use.axes) and node.op_type not in {"Shape", "Size"}:
            yield f"read by {node.op_type} '{node.name}', which does not lose these channels"
