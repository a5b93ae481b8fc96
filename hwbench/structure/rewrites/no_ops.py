"""Nodes that hand on what they are given, alone or with the node before them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import onnx_ir as ir

from hwbench.graph.linear import integer
from hwbench.records.base import Missing
from hwbench.structure.rewrites.base import (
    BOUNDARY,
    Bench,
    Place,
    bypass,
    can_replace,
    constant,
    discard,
    dtype,
    integers,
    only_reader,
    place,
    refused,
    sizes,
)

_VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
_BATCH = Missing(
    code="may_depend_on_batch",
    why="at a batch of 1 an Expand over the batch looks like one that does nothing",
    cure="compress at a batch above 1",
)


def no_ops(bench: Bench) -> Iterator[Place]:
    """Yield nodes whose output is one of their inputs."""
    for node in bench.nodes():
        if len(node.outputs) > 1 and any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
            continue
        rule = _RULES.get(node.op_type)
        same = rule(node) if rule is not None else None
        if same is None:
            continue
        if node.op_type == "Expand" and bench.batch == 1:
            yield refused(_BATCH, node)
        elif not can_replace(node.outputs[0], same):
            yield refused(BOUNDARY, node)
        else:
            yield place(f"{node.op_type} without effect taken out", _bypassed(node, same), node)


def chains(bench: Bench) -> Iterator[Place]:
    """Yield nodes that undo, or can be joined with, the one before them: reshapes, transpositions, casts."""
    for node in bench.nodes("Transpose", "Cast", *_VIEWS):
        before = _before(node)
        if before is None:
            continue
        source = before.inputs[0]
        assert source is not None
        if _undoes(node, before, source):
            if can_replace(node.outputs[0], source):
                yield place(f"{before.op_type} and {node.op_type} that undo each other taken out",
                            _bypassed(node, source), node, before)  # fmt: skip
            else:
                yield refused(BOUNDARY, node, before)
        elif only_reader(before.outputs[0]) is not node:
            continue  # it would stay
        elif node.op_type == "Transpose":
            yield place("two transpositions joined", _transposed(node, before), node, before)
        elif node.op_type == "Reshape" and _absolute(node):
            yield place(f"{before.op_type} before a Reshape taken out", _reading(node, source, before), node, before)


def _bypassed(node: ir.Node, value: ir.Value) -> Callable[[], None]:
    return lambda: bypass(node, value)


def _transposed(node: ir.Node, before: ir.Node) -> Callable[[], None]:
    def make() -> None:
        inner, outer = _perm(before), _perm(node)
        assert inner is not None
        assert outer is not None
        node.attributes["perm"] = ir.AttrInt64s("perm", [inner[axis] for axis in outer])
        node.replace_input_with(0, before.inputs[0])
        discard(before)

    return make


def _reading(node: ir.Node, source: ir.Value, before: ir.Node) -> Callable[[], None]:
    def make() -> None:
        node.replace_input_with(0, source)
        discard(before)

    return make


def _before(node: ir.Node) -> ir.Node | None:
    """Return the node before, where the two can go together: of one kind, and not a sum of several tensors."""
    value = node.inputs[0] if node.inputs else None
    found = None if value is None else value.producer()
    if found is None or found.domain != node.domain or found.graph is not node.graph or not found.inputs:
        return None
    alike = found.op_type == node.op_type or (node.op_type in _VIEWS and found.op_type in _VIEWS)
    if node.op_type == "Transpose" and (_perm(node) is None or _perm(found) is None):
        return None
    return found if alike and found.inputs[0] is not None else None


def _undoes(node: ir.Node, before: ir.Node, source: ir.Value) -> bool:
    if node.op_type == "Transpose":
        inner, outer = _perm(before) or [], _perm(node) or []
        return [inner[axis] for axis in outer] == sorted(inner)
    if node.op_type == "Cast":
        kinds = [dtype(value) for value in (source, before.outputs[0], node.outputs[0])]
        if kinds[0] is None or kinds[1] is None or kinds[0] != kinds[2]:
            return False
        return bool(np.can_cast(kinds[0].numpy(), kinds[1].numpy(), "safe"))
    shape = sizes(source)
    return shape is not None and shape == sizes(node.outputs[0])


def _absolute(node: ir.Node) -> bool:
    """Say whether the target of a Reshape takes no size from its input."""
    target = constant(node.inputs[1])
    return target is not None and (integer(node, "allowzero", 0) == 1 or bool((target != 0).all()))


def _perm(node: ir.Node) -> list[int] | None:
    if "perm" in node.attributes:
        return list(node.attributes["perm"].as_ints())
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    return None if shape is None else list(range(len(shape)))[::-1]


def _first(node: ir.Node) -> ir.Value | None:
    return node.inputs[0]


def _of_one(node: ir.Node) -> ir.Value | None:
    return node.inputs[0] if len(node.inputs) == 1 else None


def _dropout(node: ir.Node) -> ir.Value | None:
    training = node.inputs[2] if len(node.inputs) > 2 else None
    flag = constant(training)
    return node.inputs[0] if training is None or (flag is not None and not flag.any()) else None


def _same_shape(node: ir.Node) -> ir.Value | None:
    shape = sizes(node.inputs[0])
    return node.inputs[0] if shape is not None and shape == sizes(node.outputs[0]) else None


def _same_type(node: ir.Node) -> ir.Value | None:
    kind = dtype(node.inputs[0])
    return node.inputs[0] if kind is not None and kind == dtype(node.outputs[0]) else None


def _transpose(node: ir.Node) -> ir.Value | None:
    perm = _perm(node)
    return node.inputs[0] if perm is not None and perm == sorted(perm) else None


def _slice(node: ir.Node) -> ir.Value | None:
    """Return the input of a Slice that takes all, along every axis whatever its length; axis 0 may be the batch."""
    starts, ends = integers(node, 1, "starts"), integers(node, 2, "ends")
    axes, steps = integers(node, 3, "axes"), integers(node, 4, "steps")
    shape = sizes(node.inputs[0])
    if not starts or not ends or axes is None or steps is None or shape is None or set(steps) - {1}:
        return None
    axes = [axis % len(shape) for axis in axes] or list(range(len(starts)))
    limits = [np.iinfo(np.int32).max if axis == 0 else shape[axis] for axis in axes]
    whole = all(start == 0 and end >= limit for start, end, limit in zip(starts, ends, limits, strict=True))
    return node.inputs[0] if whole else None


def _pad(node: ir.Node) -> ir.Value | None:
    pads = integers(node, 1, "pads")
    return node.inputs[0] if pads and not any(pads) else None


def _tile(node: ir.Node) -> ir.Value | None:
    repeats = integers(node, 1, "repeats")
    return node.inputs[0] if repeats and set(repeats) == {1} else None


def _neutral(number: float, *, either: bool) -> Callable[[ir.Node], ir.Value | None]:
    """Return a rule for x + 0 and the like: the constant must not widen the result."""

    def rule(node: ir.Node) -> ir.Value | None:
        for index in (1, 0) if either else (1,):
            array, other = constant(node.inputs[index]), node.inputs[1 - index]
            if array is None or array.size == 0 or not (array == number).all():
                continue
            if sizes(other) is not None and sizes(other) == sizes(node.outputs[0]):
                return other
        return None

    return rule


def _clip(node: ir.Node) -> ir.Value | None:
    bounded = any(value is not None for value in node.inputs[1:]) or {"min", "max"} & set(node.attributes)
    return None if bounded else node.inputs[0]


def _pool(node: ir.Node) -> ir.Value | None:
    kernel, ones = node.attributes["kernel_shape"].as_ints(), {1}
    strides = node.attributes["strides"].as_ints() if "strides" in node.attributes else [1]
    pads = node.attributes["pads"].as_ints() if "pads" in node.attributes else [0]
    return node.inputs[0] if set(kernel) == ones and set(strides) == ones and not any(pads) else None


def _relu(node: ir.Node) -> ir.Value | None:
    """Return the input of a Relu that is never negative."""
    value = node.inputs[0]
    before = None if value is None else value.producer()
    if before is None or before.domain != node.domain:
        return None
    if before.op_type in {"Relu", "Sigmoid", "HardSigmoid", "Softmax", "Softplus", "Exp", "Sqrt", "Abs"}:
        return value
    if before.op_type != "Clip":
        return None
    low = before.attributes.get_float("min", -math.inf)
    if len(before.inputs) > 1:
        array = constant(before.inputs[1])
        low = -math.inf if array is None else float(array.reshape(-1)[0])
    return value if low >= 0 else None


_RULES: dict[str, Callable[[ir.Node], ir.Value | None]] = {
    **dict.fromkeys(("Identity",), _first),
    **dict.fromkeys(("Concat", "Sum", "Max", "Min", "Mean"), _of_one),
    **dict.fromkeys((*_VIEWS, "Expand"), _same_shape),
    **dict.fromkeys(("Cast", "CastLike"), _same_type),
    **dict.fromkeys(("MaxPool", "AveragePool"), _pool),
    "Dropout": _dropout,
    "Transpose": _transpose,
    "Slice": _slice,
    "Pad": _pad,
    "Tile": _tile,
    "Add": _neutral(0, either=True),
    "Sub": _neutral(0, either=False),
    "Mul": _neutral(1, either=True),
    "Div": _neutral(1, either=False),
    "Clip": _clip,
    "Relu": _relu,
}
