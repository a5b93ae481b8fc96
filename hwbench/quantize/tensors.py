"""Which tensors of a graph get a range, and which of them share one.

Every activation in floating point gets one: what a runtime does not quantise costs little here, and a name that is
missing cannot be quantised at all. Three kinds are not looked at themselves:

* a view (Reshape, Transpose...) or a choice (MaxPool) of another tensor's values: every runtime runs it on the numbers
  it has, so it has its input's range;
* what is only read by one ReLU or a clip: cutting it off there already changes nothing behind it, and runtimes quantise
  behind the pair, so it has the range of what comes out;
* what is computed from constants alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

_SAME_VALUES = frozenset({
    "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Dropout", "DepthToSpace", "SpaceToDepth",
    "MaxPool", "Expand",
})  # fmt: skip
_CUTS = frozenset({"Relu", "Clip"})
_MASKED = frozenset({"Add", "Sub", "Mul", "Where", "Cast", "Reshape", "Transpose", "Unsqueeze", "Expand", "Identity"})
_PRODUCTS = frozenset({"MatMul", "Gemm"})
_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})


@dataclass(frozen=True, kw_only=True)
class Observed:
    """A tensor to be looked at.

    ``axis``: of its channels, from the front, where a layer with weights reads it; None elsewhere. ``rank``: how many
    axes it has. ``mask``: it goes to a softmax by additions alone, so that it may hold what stands for minus infinity.
    """

    value: ir.Value
    rank: int | None
    axis: int | None
    mask: bool


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The tensors to be looked at, in the graph's order; the others, with the one whose range they have."""

    observed: tuple[Observed, ...]
    shared: dict[str, str]


def choose(graph: ir.Graph) -> Chosen:
    """Return the tensors of a graph that ranges are wanted for."""
    activations = _activations(graph)
    leaders = _leaders(activations)
    axes = _channel_axes(graph)
    masks = masks_in(graph)
    observed = [
        Observed(
            value=value,
            rank=None if value.shape is None else len(value.shape),
            axis=axes.get(value),
            mask=value in masks,
        )
        for value in activations
        if leaders[value] is value or value in axes
    ]
    shared = {_name(value): _name(leader) for value, leader in leaders.items() if leader is not value}
    return Chosen(observed=tuple(observed), shared=shared)


def _name(value: ir.Value) -> str:
    assert value.name is not None
    return value.name


def _activations(graph: ir.Graph) -> list[ir.Value]:
    """Return the floating-point tensors that depend on the graph's inputs, in order, without those nobody reads."""
    given = [value for value in graph.inputs if value.name not in graph.initializers]
    alive: dict[ir.Value, None] = dict.fromkeys(given)
    for node in graph:
        if any(value in alive for value in _read_by(node)):
            alive.update(dict.fromkeys(value for value in node.outputs if value.name))
    return [v for v in alive if v.dtype in _FLOATS and (v.uses() or v.is_graph_output()) and not _is_empty(v)]


def _read_by(node: ir.Node) -> Iterator[ir.Value]:
    yield from (value for value in node.inputs if value is not None)
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            for inner in attribute.as_graph():
                yield from _read_by(inner)


def _is_empty(value: ir.Value) -> bool:
    return value.shape is not None and any(size == 0 for size in value.shape)


def _leaders(activations: list[ir.Value]) -> dict[ir.Value, ir.Value]:
    """Return for each tensor the one whose range it has, itself or another."""
    known = set(activations)
    leaders: dict[ir.Value, ir.Value] = {}
    for value in activations:
        node = value.producer()
        source = node.inputs[0] if node is not None and node.op_type in _SAME_VALUES and not node.domain else None
        leaders[value] = leaders[source] if source in known and source in leaders else value
    for value in reversed(activations):
        behind = _cut_behind(value)
        if leaders[value] is value and behind is not None and behind in known:
            leaders[value] = leaders[behind]
    return {value: _end(value, leaders) for value in activations}


def _end(value: ir.Value, leaders: dict[ir.Value, ir.Value]) -> ir.Value:
    while leaders[value] is not value:
        value = leaders[value]
    return value


def _cut_behind(value: ir.Value) -> ir.Value | None:
    """Return what a ReLU or a clip makes of a tensor that nothing else reads."""
    if value.is_graph_output() or value.is_graph_input() or len(value.uses()) != 1:
        return None
    ((node, position),) = value.uses()
    return node.outputs[0] if node.op_type in _CUTS and not node.domain and position == 0 else None


def _channel_axes(graph: ir.Graph) -> dict[ir.Value, int]:
    """Return the axis of the channels of what layers with weights read."""
    axes: dict[ir.Value, int] = {}
    for node in graph:
        if node.domain or len(node.inputs) < 2:
            continue
        source, weight = node.inputs[:2]
        if source is None or source.is_initializer() or source.shape is None or weight is None:
            continue
        if not weight.is_initializer():
            continue
        if node.op_type in _CONVOLUTIONS:
            axes[source] = 1
        elif node.op_type in _PRODUCTS and len(source.shape):
            first = node.op_type == "Gemm" and node.attributes.get_int("transA", 0) != 0
            axes[source] = 0 if first else len(source.shape) - 1
    return axes


def masks_in(graph: ir.Graph) -> set[ir.Value]:
    """Return the tensors from which additions, choices and views alone lead to a softmax."""
    frontier = [node.inputs[0] for node in graph if node.op_type == "Softmax" and not node.domain]
    found: set[ir.Value] = set()
    while frontier:
        value = frontier.pop()
        if value is None or value in found:
            continue
        found.add(value)
        node = value.producer()
        if node is not None and node.op_type in _MASKED:
            frontier.extend(node.inputs)
    return found
