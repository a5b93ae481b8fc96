"""Where ``FakeQuantize`` goes: on every input of every operator that is to run in int8.

OpenVINO runs an operator in int8 when all its inputs are quantised. A quantisation is fused into the operator before
it, so it belongs right behind the one that computes the tensor: **demand** starts at the inputs of int8 operators and
climbs through those that only move numbers (``MaxPool``, ``Reshape``, ``Concat``), as long as everything that reads
them demands it too. A tensor is then quantised once for all that demand it; what does not, reads it in float.

Beside the layers of the plan, additions, products and averages run in int8 where they lie between int8 operators:
behind every one of their inputs and in front of their result. There a chain stays in int8 from end to end. Where the
result goes to a ``LayerNorm`` or a ``Softmax`` they stay in float, so the residual stream of a transformer does.

The tensors that meet in one ``Concat`` share a range: they come out of it on one scale, and it moves bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hwbench.engines.openvino_graph import CONVOLUTIONS

if TYPE_CHECKING:
    import openvino as ov

Key = tuple[str, int]  # the unique name of a node, the index of its output or input

_MOVES = frozenset(
    {
        "MaxPool", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Concat", "Slice", "StridedSlice", "Split",
        "VariadicSplit", "DepthToSpace", "SpaceToDepth", "ShuffleChannels", "Tile", "Broadcast",
    }
)  # fmt: skip
COMPANIONS = frozenset({"Add", "Multiply", "AvgPool", "ReduceMean"})
_POINTWISE = frozenset(
    {"Relu", "PRelu", "Clamp", "Minimum", "Maximum", "Sigmoid", "HSigmoid", "HSwish", "Swish", "Elu", "Tanh"}
)
_SCALES = frozenset({"Add", "Multiply"})  # with a constant: a bias, a scale
_TWO = frozenset({"Add", "Multiply", "Minimum", "Maximum", "PRelu"})
_SHIFTED = CONVOLUTIONS - {"ConvolutionBackpropData", "GroupConvolutionBackpropData"}  # take a zero point other than 0
_SHAPES_ONLY = frozenset({"ShapeOf"})


@dataclass(kw_only=True)
class Point:
    """A tensor that is quantised: who reads it so, and with whom it shares a range."""

    source: Any  # ov.Output
    readers: list[Any] = field(default_factory=list)  # ov.Input
    tied: tuple[Key, ...] = ()
    convolved: bool = False  # everything that multiplies it is a convolution, and none a transposed one


class Placement:
    """The points of one graph, for a set of operators that are to run in int8."""

    def __init__(self, model: ov.Model, products: Mapping[str, tuple[int, ...]], floats: Iterable[str] = ()) -> None:
        """Place.

        Args:
            model: the float graph.
            products: by unique name, the inputs to quantise of each product or convolution of the plan.
            floats: unique names of nodes that must stay in float.
        """
        self._nodes = list(model.get_ordered_ops())
        self._products = products
        self.companions = self._find_companions(frozenset(floats))
        self._joined: list[Any] = []  # the Concats that demand has climbed through
        self.points = self._place()

    def _find_companions(self, floats: frozenset[str]) -> frozenset[str]:
        """Drop candidates that do not lie between int8 operators until none is left to drop."""
        found = {node.get_name() for node in self._nodes if _may_accompany(node) and node.get_name() not in floats}
        while True:
            int8 = found | self._products.keys()
            behind = self._after_int8(int8)
            ahead = self._before_int8(int8)
            kept = {
                node.get_name()
                for node in self._nodes
                if node.get_name() in found
                and node.get_name() in ahead
                and all(value.get_node().get_name() in behind for value in data_inputs(node))
            }
            if kept == found:
                return frozenset(found)
            found = kept

    def _after_int8(self, int8: Set[str]) -> set[str]:
        """Return the nodes whose results come from int8 operators alone, by what fuses into them or only moves.

        So do those that are quantised in any case, for a layer of the plan that reads them: where a residual stream
        begins in float, what is added to it further on is in int8 all the same.
        """
        found: set[str] = set()
        for node in self._nodes:
            sources = [value.get_node().get_name() for value in data_inputs(node) if _computed(value)]
            through = passes(node) or (node.get_type_name() in _SCALES and len(sources) == 1)
            quantised = node.get_type_name() != "Parameter" and any(
                index in self._products.get(name, ()) for name, index in map(_edge, readers_of(node))
            )
            if node.get_name() in int8 or quantised or (through and sources and found.issuperset(sources)):
                found.add(node.get_name())
        return found

    def _before_int8(self, int8: Set[str]) -> set[str]:
        """Return the nodes whose results some int8 operator reads, behind activations or moves."""
        found: set[str] = set()
        for node in reversed(self._nodes):
            reading = [reader.get_node() for reader in readers_of(node)]
            if any(one.get_name() in int8 or (passes(one) and one.get_name() in found) for one in reading):
                found.add(node.get_name())
        return found

    def _demanding(self, node: Any) -> tuple[int, ...]:
        name = node.get_name()
        if name in self._products:
            return self._products[name]
        return tuple(range(len(data_inputs(node)))) if name in self.companions else ()

    def _place(self) -> list[Point]:
        demanded: dict[Key, Any] = {}
        for node in reversed(self._nodes):
            asked = self._demanding(node)
            above = [_edge(reader) for reader in readers_of(node)]
            if moves(node) and above and all(edge in demanded for edge in above):
                for edge in above:
                    del demanded[edge]
                asked = tuple(range(len(data_inputs(node))))
                if node.get_type_name() == "Concat":
                    self._joined.append(node)
            demanded.update({(node.get_name(), index): node.input(index) for index in asked})
        points: dict[Key, Point] = {}
        for edge in demanded.values():
            source = edge.get_source_output()
            points.setdefault(key_of(source), Point(source=source)).readers.append(edge)
        for point in points.values():
            point.convolved = all(self._only_convolutions(reader) for reader in point.readers)
        _tie(points, self._joined)
        order = {node.get_name(): index for index, node in enumerate(self._nodes)}
        return [points[key] for key in sorted(points, key=lambda key: (order[key[0]], key[1]))]

    def _only_convolutions(self, reader: Any) -> bool:
        node = reader.get_node()
        if moves(node):
            return all(self._only_convolutions(after) for after in readers_of(node))
        return bool(node.get_type_name() in _SHIFTED or node.get_name() in self.companions)


def _tie(points: Mapping[Key, Point], concats: Iterable[Any]) -> None:
    """Give all points that a Concat joins each other's keys; a point in two of them ties both."""
    groups: list[set[Key]] = []
    for node in concats:
        joined = set().union(*(_points_behind(value, points) for value in data_inputs(node)))
        joined = joined.union(*(group for group in groups if group & joined))
        groups = [*(group for group in groups if not group & joined), joined]
    for group in groups:
        for key in group:
            points[key].tied = tuple(sorted(group - {key}))


def _points_behind(value: Any, points: Mapping[Key, Point]) -> set[Key]:
    if key_of(value) in points:
        return {key_of(value)}
    found: set[Key] = set()
    if moves(value.get_node()):
        for source in data_inputs(value.get_node()):
            found |= _points_behind(source, points)
    return found


def _may_accompany(node: Any) -> bool:
    if node.get_type_name() not in COMPANIONS or _averages_padding(node):
        return False
    return all(_computed(value) for value in data_inputs(node))


def _averages_padding(node: Any) -> bool:
    """Say whether a node is an average that counts zeros around its input.

    In int8 the plugin gets it wrong where zero is not the integer 0 (seen with OpenVINO 2026.4).
    """
    if node.get_type_name() != "AvgPool":
        return False
    attributes = node.get_attributes()
    return not attributes["exclude-pad"] and any((*attributes["pads_begin"], *attributes["pads_end"]))


def moves(node: Any) -> bool:
    """Say whether a node only moves numbers, or adds zeros or copies to them: then its result has its input's scale."""
    kind = node.get_type_name()
    if kind == "Pad":
        return node.get_attributes()["pad_mode"] != "constant" or _is_zero(node)
    return kind in _MOVES or (kind == "Interpolate" and node.get_attributes()["mode"] == "nearest")


def _is_zero(pad: Any) -> bool:
    if pad.get_input_size() < 4:
        return True
    value = pad.input_value(3).get_node()
    return value.get_type_name() == "Constant" and not value.data.any()


def passes(node: Any) -> bool:
    """Say whether a node moves numbers, or is fused into the operator before it."""
    return moves(node) or node.get_type_name() in _POINTWISE


def readers_of(node: Any) -> list[Any]:
    """Return every input that reads a result of ``node``, but for those that only ask its shape."""
    inputs = [reader for output in node.outputs() for reader in output.get_target_inputs()]
    return [reader for reader in inputs if reader.get_node().get_type_name() not in _SHAPES_ONLY]


def data_inputs(node: Any) -> list[Any]:
    """Return what a node computes with, without axes, shapes and the like."""
    name = node.get_type_name()
    size = int(node.get_input_size())
    count = size if name == "Concat" else 2 if name in _TWO else min(1, size)
    return [node.input_value(index) for index in range(count)]


def _computed(value: Any) -> bool:
    return bool(value.get_node().get_type_name() != "Constant")


def key_of(output: Any) -> Key:
    """Return what tells an output of a graph from every other."""
    return output.get_node().get_name(), output.get_index()


def _edge(reader: Any) -> Key:
    return reader.get_node().get_name(), reader.get_index()
