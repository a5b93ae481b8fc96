"""A network as the units that a runtime would execute: layers that multiply with what is fused to them, and the rest.

What is fused follows one rule, which most runtimes follow most of the time: an element-wise layer, a folded BatchNorm
or the sum of a residual joins the layer before it, where nobody else reads what lies between. Views cost nothing, nor
what is computed from constants and shapes alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from hwbench.graph.count import COUNTERS, macs_of, op_of
from hwbench.graph.op_kinds import NO_MACS
from hwbench.records.base import Missing
from hwbench.records.planning import Cluster, Sizes
from hwbench.records.prediction import Family, Work
from hwbench.records.quantization import Scheme

JOINING = frozenset({
    *("Relu", "Clip", "BatchNormalization", "Add", "LeakyRelu", "PRelu", "HardSwish", "HardSigmoid", "Sigmoid", "Mul"),
    *("Elu", "Tanh", "QuickGelu", "Swish", "Mish"),
})  # fmt: skip
KEEP_INT8 = frozenset({
    *("Add", "Mul", "Relu", "Clip", "Concat", "MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean", "Pad"),
    *("Slice", "Split", "Transpose", "Resize", "Gather", "LeakyRelu"),
})  # fmt: skip
"""Layers that do not multiply and run in int8 where what they read is int8; others take and give floats."""


FUNCTIONS = frozenset({
    *("Softmax", "LogSoftmax", "LayerNormalization", "GroupNormalization", "InstanceNormalization", "Erf", "Gelu"),
    *("Exp", "Sigmoid", "Tanh", "LRN", "Pow", "Sqrt", "SkipLayerNormalization", "FastGelu", "BiasGelu"),
    "RMSNormalization",
})  # fmt: skip
"""Layers of many instructions an element."""


@dataclass
class _Unit:
    """A unit in the making; ``tail``: its last layer so far."""

    first: ir.Node
    nodes: list[ir.Node]
    tail: ir.Node
    reads: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Works:
    """All units of a network in graph order, and the operators whose cost is not known."""

    units: tuple[Work, ...]
    not_counted: tuple[str, ...] = ()


def works_of(model: ir.Model, schemes: Mapping[str, Scheme] | None = None, default: Scheme = "float") -> Works:
    """Return the units of a network whose shapes have been inferred.

    Args:
        model: the hub, in floating point.
        schemes: what a multiplying layer is built in, by its name, where it is not ``default``.
        default: of every other.
    """
    units, owner, unknown = _gather(model)
    built: dict[str, Scheme] = {
        _name(unit.first): _asked(unit.first, schemes or {}, default) for unit in units if _multiplies(unit)
    }
    made = []
    for unit in units:
        reads = _reads(unit, owner)
        name = _name(unit.first)
        if name not in built:  # it reads units before it alone, since nothing is fused to it
            built[name] = _kept(unit.first, [built[other] for other in reads])
        made.append(_work(unit, built[name], reads, _ends(unit, model.graph)))
    return Works(units=tuple(made), not_counted=tuple(sorted(unknown)))


def works_of_cluster(cluster: Cluster, sizes: Sizes, scheme: Scheme) -> tuple[Work, ...]:
    """Return what a cluster of a space has to do at some sizes: one unit, or two where it is of low rank."""
    convolution = cluster.kind.startswith("Conv")
    depthwise = cluster.depthwise and convolution
    groups = max(sizes.channels_out if depthwise else cluster.groups, 1)
    deep, wide = max(sizes.channels_in // groups, 1), max(sizes.channels_out // groups, 1)
    taps = max(cluster.weights * max(cluster.groups, 1) // max(cluster.channels_out * cluster.channels_in, 1), 1)
    depths = [(deep, sizes.rank, taps), (sizes.rank, wide, 1)] if sizes.rank else [(deep, wide, taps)]
    family: Family = "function" if set(cluster.kind.split()) & FUNCTIONS else "elementwise"
    if sizes.macs:
        family = "depthwise" if depthwise else "conv" if convolution else "matmul"
    each = sum(into * out * area for into, out, area in depths)
    positions = max(sizes.macs // (each * groups), 1)
    ends = [sizes.elements_in, *([positions * sizes.rank] if sizes.rank else []), sizes.elements_out]
    return tuple(
        Work(
            name=cluster.name,
            layers=cluster.layers,
            family=family,
            scheme=scheme,
            macs=sizes.macs * into * out * area // each,
            positions=positions,
            channels_in=into,
            channels_out=out,
            groups=groups,
            elements_in=ends[place],
            elements_out=ends[place + 1],
            weights=sizes.weights * into * out * area // each,
        )
        for place, (into, out, area) in enumerate(depths)
    )


def _gather(model: ir.Model) -> tuple[list[_Unit], dict[ir.Node, _Unit], set[str]]:
    """Return the units, which unit each layer belongs to, and operators of unknown cost."""
    units: list[_Unit] = []
    owner: dict[ir.Node, _Unit] = {}
    unknown: set[str] = set()
    outputs, moving = set(model.graph.outputs), set(model.graph.inputs)
    for node in model.graph:
        kind = NO_MACS.get(op_of(node))
        if kind == "metadata" or not any(value in moving for value in node.inputs):
            continue  # it is computed once: from constants and shapes alone
        moving.update(node.outputs)
        if isinstance(macs_of(node), Missing):
            unknown.add(node.op_type)
            continue
        before = _joins(node, owner, outputs) if kind != "view" else _passes(node, owner)
        if before is not None:
            owner[node] = before
            if kind != "view":
                before.nodes.append(node)
            before.tail = node
        elif kind != "view":
            owner[node] = _Unit(first=node, nodes=[node], tail=node)
            units.append(owner[node])
    return units, owner, unknown


def _passes(node: ir.Node, owner: Mapping[ir.Node, _Unit]) -> _Unit | None:
    """Return the unit whose last result a view shows, if nobody else reads it."""
    source = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
    unit = owner.get(source) if source is not None else None
    return unit if unit is not None and unit.tail is source and _readers(source) == 1 else None


def _joins(node: ir.Node, owner: Mapping[ir.Node, _Unit], outputs: set[ir.Value]) -> _Unit | None:
    """Return the unit that a layer is fused to, the last of those it reads."""
    if NO_MACS.get(op_of(node)) != "pointwise" and node.op_type != "BatchNormalization":
        return None
    for value in reversed([value for value in node.inputs if value is not None]):
        source = value.producer()
        unit = owner.get(source) if source is not None else None
        if source is None or unit is None or unit.tail is not source or value in outputs or _readers(source) != 1:
            continue
        if node.op_type in JOINING or not _multiplies(unit):
            return unit
    return None


def _readers(node: ir.Node) -> int:
    return sum(len(value.uses()) for value in node.outputs)


def _reads(unit: _Unit, owner: Mapping[ir.Node, _Unit]) -> dict[str, int]:
    """Return the units whose results a unit takes; through views that belong to none."""
    found: dict[str, int] = {}
    for node in unit.nodes:
        for value in node.inputs:
            source = _source(value, owner)
            if value is not None and source is not None and source is not unit:
                found[_name(source.first)] = _elements(value)
    return found


def _source(value: ir.Value | None, owner: Mapping[ir.Node, _Unit]) -> _Unit | None:
    while value is not None:
        node = value.producer()
        if node is None:
            return None
        if node in owner:
            return owner[node]
        value = node.inputs[0] if node.inputs else None
    return None


def _multiplies(unit: _Unit) -> bool:
    return op_of(unit.first) in COUNTERS


def _asked(node: ir.Node, schemes: Mapping[str, Scheme], default: Scheme) -> Scheme:
    """Return the scheme of a multiplying layer: one without weights is quantised whole or not at all."""
    asked = schemes.get(_name(node), default)
    weighed = any(_is_weight(value) for value in node.inputs)
    return asked if weighed or asked == "int8" else "float"


def _kept(node: ir.Node, before: Sequence[Scheme]) -> Scheme:
    return "int8" if before and set(before) == {"int8"} and node.op_type in KEEP_INT8 else "float"


def _ends(unit: _Unit, graph: ir.Graph) -> int:
    """Return the elements that a unit takes from the network's inputs, or gives to its outputs."""
    read = {value for node in unit.nodes for value in node.inputs if value in graph.inputs and not _is_weight(value)}
    return sum(_elements(value) for value in read) + sum(
        _elements(value) for node in unit.nodes for value in node.outputs if value in graph.outputs
    )


def _rest(unit: _Unit) -> Family:
    return "function" if any(node.op_type in FUNCTIONS for node in unit.nodes) else "elementwise"


def _work(unit: _Unit, scheme: Scheme, reads: dict[str, int], ends: int) -> Work:
    macs = macs_of(unit.first)
    macs = 0 if isinstance(macs, Missing) else macs
    family, groups, deep, wide = _product(unit.first)
    selects = NO_MACS.get(op_of(unit.first)) == "selection"  # reads as much of a table as it gives
    weights = 0 if selects else sum(_elements(value) for value in unit.first.inputs if _is_weight(value))
    depth = deep * _taps(unit.first)
    return Work(
        name=_name(unit.first),
        layers=tuple(_name(node) for node in unit.nodes),
        family=family if macs else _rest(unit),
        scheme=scheme,
        macs=macs,
        positions=max(macs // max(depth * wide * groups, 1), 1) if macs else 1,
        channels_in=deep if macs else 1,
        channels_out=wide if macs else 1,
        groups=groups if macs else 1,
        elements_in=_elements_in(unit),
        elements_out=sum(_elements(value) for value in unit.tail.outputs),
        weights=weights,
        reads=reads,
        ends=ends,
    )


def _elements_in(unit: _Unit) -> int:
    inside = {value for node in unit.nodes for value in node.outputs}
    values = {value for node in unit.nodes for value in node.inputs if value is not None}
    found = sum(_elements(value) for value in values if value not in inside and not _is_weight(value))
    if NO_MACS.get(op_of(unit.first)) == "selection":
        return min(found, sum(_elements(value) for value in unit.first.outputs))
    return found


def _product(node: ir.Node) -> tuple[Family, int, int, int]:
    """Return the family, the groups, and the channels in and out of one group; the kernel's taps are not in them."""
    weight = _dims(node.inputs[1]) if len(node.inputs) > 1 else ()
    if node.op_type in {"Conv", "FusedConv", "ConvTranspose"} and len(weight) > 2:
        attribute = node.attributes.get("group")
        groups = attribute.as_int() if attribute is not None else 1
        transposed = node.op_type == "ConvTranspose"
        wide, deep = (weight[1], weight[0] // groups) if transposed else (weight[0] // groups, weight[1])
        return ("depthwise" if groups > 1 and deep == 1 else "conv"), groups, deep, wide
    first, out = _dims(node.inputs[0]) if node.inputs else (), _dims(node.outputs[0])
    wide = out[-1] if out else 1
    deep = first[-1] if first else 1
    if node.op_type == "Gemm" and "transA" in node.attributes and node.attributes["transA"].as_int():
        deep = first[0]
    batches = math.prod(out[:-2]) if not _is_weight(node.inputs[1] if len(node.inputs) > 1 else None) else 1
    return "matmul", max(batches, 1), deep, wide


def _taps(node: ir.Node) -> int:
    if node.op_type not in {"Conv", "FusedConv", "ConvTranspose"}:
        return 1
    return max(math.prod(_dims(node.inputs[1])[2:]), 1)


def _is_weight(value: ir.Value | None) -> bool:
    return value is not None and value.const_value is not None


def _dims(value: ir.Value | None) -> tuple[int, ...]:
    if value is None or value.shape is None or not value.shape.is_static():
        return ()
    return tuple(value.shape.numpy())


def _elements(value: ir.Value | None) -> int:
    return math.prod(_dims(value)) if value is not None and value.shape is not None else 0


def _name(node: ir.Node) -> str:
    """Return the name of a layer as :func:`hwbench.graph.layers.layers_of` gives it."""
    outputs = [value.name for value in node.outputs if value.name]
    return node.name or (outputs[0] if outputs else node.op_type)
