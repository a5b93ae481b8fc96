"""Which tensors of a graph a runtime rounds, when some of its layers run on 8-bit integers.

This is what hwbench's own lowering makes of a plan (``docs/quantization.md``), said again for a graph without the
runtime: layers with weights round what they read; convolutions (and on LiteRT matrix products) round what they give;
additions, averages and what only moves numbers run on integers where they lie between such layers. A ReLU or a Clip
behind a layer is nothing but an end of the range, since calibration gives both tensors the range of what comes out.

Not modelled: on OpenVINO the shared range of tensors that meet in a concatenation; on LiteRT that, and resizing and
transcendental functions in int8. They stay in floating point here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

import onnx_ir as ir

_VIEWS = frozenset({"MaxPool", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity", "Dropout"})
_MOVES = {
    "onnxruntime": _VIEWS | {"DepthToSpace", "Pad", "Slice", "SpaceToDepth", "Split"},
    "openvino": _VIEWS | {"DepthToSpace", "Pad", "Slice", "SpaceToDepth", "Split"},
    "litert": _VIEWS | {"Pad", "Slice"},  # a slice with strides stays float there
}
_CUTS = frozenset({"Relu", "Clip"})
_FLOWS = {
    "onnxruntime": frozenset({"Add", "Mul", "AveragePool", "GlobalAveragePool", "Concat", "LeakyRelu", "Sigmoid"}),
    "openvino": frozenset({"Add", "Mul", "AveragePool", "GlobalAveragePool", "ReduceMean"}),
    "litert": frozenset({"Add", "Mul", "Sub", "GlobalAveragePool", "ReduceMean"}),
}
_SEVERAL = frozenset({"Add", "Mul", "Sub", "Concat"})  # take more than one tensor of numbers
_FLOATING = frozenset({"ReduceMean", "Reshape", "Flatten"})  # on ONNX Runtime, may be float between integers


@dataclass(kw_only=True)
class Placement:
    """Where numbers are rounded.

    ``made``: tensors that are rounded as they are made, for whoever reads them. ``read``: tensors that only the named
    nodes read rounded. ``integer``: nodes that run on integers, beside the layers with weights. ``clipped``: those of
    ``read`` that are cut off at the ends of their grid and not rounded.
    """

    made: set[str] = field(default_factory=set)
    read: dict[str, set[str]] = field(default_factory=dict)
    integer: set[str] = field(default_factory=set)
    clipped: set[str] = field(default_factory=set)

    @property
    def tensors(self) -> set[str]:
        """All tensors that somebody reads rounded."""
        return self.made | set(self.read)


def moves(node: ir.Node, runtime: str) -> bool:
    """Say whether a node gives numbers of its first input and zeros alone, on a runtime that moves integers there."""
    if node.domain or node.op_type not in _MOVES[runtime]:
        return False
    if node.op_type == "Pad":
        return _pads_zeros(node)
    return runtime != "litert" or node.op_type != "Slice" or _steps_are_one(node)


def _pads_zeros(node: ir.Node) -> bool:
    mode = node.attributes.get("mode")
    if mode is not None and mode.as_string() != "constant":
        return True
    value = node.inputs[2] if len(node.inputs) > 2 else None
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return value is None or (tensor is not None and not tensor.numpy().any())


def _steps_are_one(node: ir.Node) -> bool:
    value = node.inputs[4] if len(node.inputs) > 4 else None
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return value is None or (tensor is not None and bool((tensor.numpy() == 1).all()))


def place(model: ir.Model, layers: Collection[str], runtime: str) -> Placement:
    """Return what a runtime rounds when ``layers`` (names of Conv, Gemm and MatMul with weights) are in integers.

    The graph is the one that the runtime is given: BatchNorm folded.
    """
    if runtime == "openvino":
        return _openvino(model, set(layers))
    return (_onnxruntime if runtime == "onnxruntime" else _litert)(model, set(layers))


def _name(value: ir.Value | None) -> str:
    return "" if value is None else value.name or ""


def _computed(node: ir.Node) -> Iterator[ir.Value]:
    """Go through the inputs that are no constants and that numbers come from."""
    for value in _data_inputs(node):
        if value is not None and ir.convenience.get_const_tensor(value) is None:
            yield value


def _readers(node: ir.Node) -> Iterator[ir.Node]:
    for value in node.outputs:
        yield from (reader for reader, _ in value.uses())


def _between(
    model: ir.Model, layers: set[str], runtime: str, gives: Callable[[ir.Node], bool]
) -> tuple[list[ir.Node], set[str]]:
    """Return the nodes that read integers alone, and the tensors that are integers then."""
    eight: set[ir.Value] = set()
    found: list[ir.Node] = []
    for node in model.graph:
        taken = list(_computed(node))
        if node.name in layers:
            eight.update(node.outputs if gives(node) else ())
        elif _may_flow(node, runtime) and taken and eight.issuperset(taken) and len(taken) == len(_data_inputs(node)):
            found.append(node)
            eight.update(node.outputs)
    return found, {_name(value) for value in eight}


def _may_flow(node: ir.Node, runtime: str) -> bool:
    return not node.domain and (node.op_type in _FLOWS[runtime] | _CUTS or moves(node, runtime))


def _data_inputs(node: ir.Node) -> list[ir.Value | None]:
    return list(node.inputs if node.op_type in _SEVERAL else node.inputs[:1])


def _leading_on(model: ir.Model, found: list[ir.Node], layers: set[str], floating: frozenset[str]) -> list[ir.Node]:
    """Return the nodes from which a way through such nodes alone leads to a layer."""
    names, leads = {node.name for node in found}, set(layers)
    for node in reversed(list(model.graph)):
        passes = node.name in names or (not node.domain and node.op_type in floating)
        if passes and any(reader.name in leads for reader in _readers(node)):
            leads.add(node.name or "")
    return [node for node in found if node.name in leads]


def _onnxruntime(model: ir.Model, layers: set[str]) -> Placement:
    found, _ = _between(model, layers, "onnxruntime", lambda node: node.op_type == "Conv")
    placed = Placement()
    for node in model.graph:
        if node.name in layers:
            placed.made.add(_name(node.inputs[0]))
            if node.op_type == "Conv":
                placed.made.add(_name(node.outputs[0]))
    for node in _leading_on(model, found, layers, _FLOATING):
        placed.integer.add(node.name or "")
        placed.made.update(_name(value) for value in node.outputs)
    return placed


def _litert(model: ir.Model, layers: set[str]) -> Placement:
    found, eight = _between(model, layers, "litert", lambda node: True)  # noqa: ARG005 - all give integers
    placed = Placement()
    for node in _leading_on(model, found, layers, frozenset()):
        placed.integer.add(node.name or "")
        placed.made.update(_name(value) for value in node.outputs)
    for node in model.graph:
        if node.name in layers:
            placed.made.add(_name(node.outputs[0]))
            source = _name(node.inputs[0])
            if source not in eight:
                placed.read.setdefault(source, set()).add(node.name or "")
    return placed


def _openvino(model: ir.Model, layers: set[str]) -> Placement:
    """Demand starts at layers and what accompanies them, and climbs through what only moves numbers."""
    placed = Placement(integer=_companions(model, layers))
    demanding = layers | placed.integer
    demanded: dict[str, set[str]] = {}
    for node in reversed(list(model.graph)):
        if node.name in demanding:
            sources = [node.inputs[0]] if node.name in layers else list(_computed(node))
            for value in sources:
                demanded.setdefault(_name(value), set()).add(node.name or "")
        elif moves(node, "openvino") and len(node.outputs) == 1 and not node.outputs[0].is_graph_output():
            above, readers = demanded.get(_name(node.outputs[0]), set()), {reader.name for reader in _readers(node)}
            if readers and above == readers:
                del demanded[_name(node.outputs[0])]
                demanded.setdefault(_name(node.inputs[0]), set()).add(node.name or "")
    placed.read = demanded
    placed.clipped = _summed_in_place(model, layers, placed.integer)
    return placed


def _summed_in_place(model: ir.Model, layers: set[str], companions: set[str]) -> set[str]:
    """Return the results of convolutions into which the plugin fuses the addition that reads them.

    The quantisation in between then only cuts off (seen in every addition of ResNet-20 with OpenVINO 2026.4, whose
    results were equal to the bit so, and 15 % of them off by a step with a rounding). Where two convolutions meet, it
    is the first input (ResNet-8).
    """
    found: set[str] = set()
    for node in model.graph:
        if node.name not in companions or node.op_type != "Add":
            continue
        makers = [(value, value.producer()) for value in node.inputs if value is not None]
        alone = [value for value, maker in makers if maker is not None and maker.op_type == "Conv"
                 and maker.name in layers and len(value.uses()) == 1 and not value.is_graph_output()]  # fmt: skip
        found.update(_name(value) for value in alone[:1])
    return found


def _companions(model: ir.Model, layers: set[str]) -> set[str]:
    """Drop additions and averages that do not lie between int8 nodes until none is left to drop.

    What a layer reads is quantised in any case, also where it was computed in float.
    """
    nodes = list(model.graph)
    found = {node.name or "" for node in nodes if not node.domain and node.op_type in _FLOWS["openvino"]}
    found = {
        node.name or ""
        for node in nodes
        if node.name in found and len(list(_computed(node))) == len(_data_inputs(node))
    }
    quantised = {
        node.name or ""
        for node in nodes
        if any(reader.name in layers and index == 0 for value in node.outputs for reader, index in value.uses())
    }
    while True:
        int8 = found | layers
        behind: set[str] = set()
        for node in nodes:
            sources = [_producer(value) for value in _computed(node)]
            scaled = node.op_type in {"Add", "Mul"} and len(sources) == 1
            through = moves(node, "openvino") or node.op_type in _CUTS or scaled
            if node.name in int8 or node.name in quantised or (through and sources and behind.issuperset(sources)):
                behind.add(node.name or "")
        ahead: set[str] = set()
        for node in reversed(nodes):
            passing = ((reader.name, moves(reader, "openvino") or reader.op_type in _CUTS) for reader in _readers(node))
            if any(name in int8 or (passes and name in ahead) for name, passes in passing):
                ahead.add(node.name or "")
        kept = {
            node.name or ""
            for node in nodes
            if node.name in found and node.name in ahead and behind.issuperset(map(_producer, _computed(node)))
        }
        if kept == found:
            return found
        found = kept


def _producer(value: ir.Value) -> str:
    node = value.producer()
    return "" if node is None else node.name or ""
