"""The float graph as OpenVINO reads it, and which of its nodes does the work of which layer.

A layer of the hub comes out of OpenVINO's reader as one node or several: a convolution with a bias as ``Convolution``
and ``Add``, a ``Gemm`` as ``MatMul`` and ``Add``. The node that holds the weights goes by the layer's name, by that
with ``/WithoutBiases`` behind it, or by its tensor's name where that is an output of the model. A transposed
convolution with a bias has a number for a name: there the ``Add`` behind it goes by the layer's. Tensors keep their
names (``Output.get_names``).
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwbench.records.base import Missing
from hwbench.records.model import Layer

if TYPE_CHECKING:
    import openvino as ov

CONVOLUTIONS = frozenset({"Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData"})
_MATRIX = frozenset({"MatMul"})
_PRODUCTS = {"Conv": CONVOLUTIONS, "ConvTranspose": CONVOLUTIONS, "Gemm": _MATRIX, "MatMul": _MATRIX}
_FOR_OP = {**_PRODUCTS, "Gather": frozenset({"Gather"})}
# The output channels' axes of the weights, by operator: groups are an axis of their own.
_CHANNEL_AXES = {
    "Convolution": (0,),
    "GroupConvolution": (0, 1),
    "ConvolutionBackpropData": (1,),
    "GroupConvolutionBackpropData": (0, 2),
    "Gather": (0,),
}
DYNAMIC_GROUP = 32  # activations that share a scale where they are quantised on the fly: the plugin's own default
FLOATING = frozenset({"f32", "f16", "bf16", "f64"})


@dataclass(frozen=True, kw_only=True)
class Work:
    """A layer with a product or a table in it, and the OpenVINO node that holds it.

    ``node`` is None where OpenVINO's reader left none that can be told. ``weight``: which input is a constant of
    floating numbers, None for a product of two activations.
    """

    layer: Layer
    node: Any
    weight: int | None

    @property
    def activations(self) -> tuple[int, ...]:
        """The inputs that are computed, of those that are multiplied."""
        return tuple(index for index in (0, 1) if index != self.weight)

    @property
    def is_matrix(self) -> bool:
        """Say whether it is a product with a matrix of weights as second factor."""
        if self.node is None or self.node.get_type_name() != "MatMul" or self.weight != 1:
            return False
        return len(self.node.get_input_shape(1)) == 2

    @property
    def is_wide_matrix(self) -> bool:
        """Say whether it is one whose other factor OpenVINO can quantise on the fly: the common axis fills a group."""
        if not self.is_matrix:
            return False
        rank = len(self.node.get_input_shape(1))
        (channels,) = channel_axes(self.node, 1, rank)
        return bool(self.node.get_input_shape(1)[rank - 1 - channels] >= DYNAMIC_GROUP)


def read_float(path: Path) -> ov.Model:
    """Read the float graph and fold what is constant, so that weights are plain constants behind no reshape."""
    import openvino as ov
    from openvino.passes import ConstantFolding, Manager

    model = ov.Core().read_model(path)
    name_nodes(model, "read")
    passes = Manager()
    passes.register_pass(ConstantFolding())
    passes.run_passes(model)
    return model


def name_nodes(model: ov.Model, step: str) -> None:
    """Name the nodes that OpenVINO has numbered: its counter depends on what the process has read before."""
    for index, node in enumerate(model.get_ordered_ops()):
        if node.get_friendly_name() == node.get_name():
            node.set_friendly_name(f"{node.get_type_name()}.{step}.{index}")


def works_of(model: ov.Model, layers: Iterable[Layer]) -> list[Work]:
    """Return the layers that multiply and those that look a table up, in the graph's order."""
    nodes = {node.get_friendly_name(): node for node in model.get_ordered_ops()}
    return [_work(layer, nodes) for layer in layers if _multiplies(layer) or _looks_up(layer, nodes)]


def _multiplies(layer: Layer) -> bool:
    counted = not isinstance(layer.macs, Missing) and layer.macs > 0
    return counted or layer.op in _PRODUCTS  # the shapes of a product may depend on the data


def _looks_up(layer: Layer, nodes: dict[str, Any]) -> bool:
    """Say whether a layer takes rows of a table of numbers."""
    node = _node(layer, nodes)
    return node is not None and node.get_type_name() == "Gather" and _table(node)


def _table(node: Any) -> bool:
    axis = node.input_value(2).get_node()
    rows = is_weight(node.input_value(0)) and len(node.get_input_shape(0)) == 2
    return bool(rows and axis.get_type_name() == "Constant" and int(axis.data.reshape(-1)[0]) == 0)


def _work(layer: Layer, nodes: dict[str, Any]) -> Work:
    node = _node(layer, nodes)
    return Work(layer=layer, node=node, weight=None if node is None else _weight_index(node))


def _node(layer: Layer, nodes: dict[str, Any]) -> Any:
    """Return the node that holds a layer's weights, or None where none can be told."""
    kinds = _FOR_OP.get(layer.op, frozenset())
    for name in (layer.name, f"{layer.name}/WithoutBiases", *layer.outputs):
        node = nodes.get(name)
        if node is not None and node.get_type_name() in kinds:
            return node
    return _before_bias(layer, nodes, kinds)


def _before_bias(layer: Layer, nodes: dict[str, Any], kinds: Set[str]) -> Any:
    """Return the node in front of the addition that goes by a layer's name, or None where there is none."""
    for name in (layer.name, *layer.outputs):
        added = nodes.get(name)
        if added is not None and added.get_type_name() == "Add":
            node = added.input_value(0).get_node()
            if node.get_type_name() in kinds:
                return node
    return None


def _weight_index(node: Any) -> int | None:
    order = (0,) if node.get_type_name() == "Gather" else (1, 0)
    return next((index for index in order if is_weight(node.input_value(index))), None)


def is_weight(output: Any) -> bool:
    """Say whether ``output`` is a constant of floating numbers."""
    kind = output.get_element_type().get_type_name()
    return output.get_node().get_type_name() == "Constant" and kind in FLOATING


def channel_axes(node: Any, weight: int, rank: int) -> tuple[int, ...]:
    """Return the axes of a weight along which each channel of the result has its own scale; none: one for all."""
    if node.get_type_name() != "MatMul":
        return _CHANNEL_AXES[node.get_type_name()]
    if rank < 2:
        return ()
    attributes = node.get_attributes()
    transposed = attributes["transpose_b"] if weight == 1 else attributes["transpose_a"]
    if weight == 1:
        return (rank - 2,) if transposed else (rank - 1,)
    return (rank - 1,) if transposed else (rank - 2,)
