"""Pairs of QuantizeLinear and DequantizeLinear, as TensorRT fuses them.

Symmetric everywhere, since TensorRT takes no zero points: one scale for an activation, one for each output channel of
weights, one for each block of 4-bit weights. Scales have the type of the floats around them, and numbers are rounded
with the scale as that type holds it. TensorRT's rules for where the pairs go
(docs.nvidia.com/deeplearning/tensorrt, Explicit Quantization):

* the inputs of convolutions and products are quantised, not their outputs;
* of an addition behind a convolution the *other* input is, so that it becomes part of the convolution's kernel;
* an average over int8 values gets a pair at its input; what only moves values or takes the largest needs none, as
  TensorRT moves the pair through it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

import ml_dtypes
import numpy as np
import onnx_ir as ir

from hwbench.engines.tensorrt_graph import VIEWS, Array, Editor, only_reader, range_of
from hwbench.engines.tensorrt_legal import Carrier
from hwbench.engines.tensorrt_weights import Stored, activation_scale, stored
from hwbench.quantize.weights import dequantise
from hwbench.records.quantization import Scheme, TensorRange

_TYPES: Final = {"int8": ir.DataType.INT8, "fp8": ir.DataType.FLOAT8E4M3FN}
_EDGES: Final = frozenset({"Clip", "Relu"})  # become part of the kernel before them
_AVERAGES: Final = frozenset({"AveragePool", "GlobalAveragePool"})


class Pairs:
    """Writes pairs into a graph whose floats will be of ``kind``.

    ``prequantised``: weights are stored as integers with a DequantizeLinear; otherwise, as TensorRT 8 wants them, as
    floats that lie on the grid, with both operators.
    """

    def __init__(self, graph: ir.Graph, ranges: Mapping[str, TensorRange], kind: str, *, prequantised: bool) -> None:
        self._edit = Editor(graph)
        self._ranges = ranges
        self._kind = kind
        self._prequantised = prequantised
        self._made: dict[tuple[ir.Value, str], ir.Value] = {}

    def layer(self, carrier: Carrier, scheme: Scheme) -> None:
        """Quantise a layer's weights, and its activations where the scheme has them."""
        if scheme in {"int8", "fp8"}:
            for index in carrier.data:
                self.activation(carrier.node, index, scheme)
        if carrier.weight is None:
            return
        found = stored(carrier, carrier.array, scheme, self._kind)
        if found.block is not None:
            self._blocks(carrier, found)
        else:
            self._channels(carrier, found)

    def activation(self, node: ir.Node, index: int, scheme: Scheme) -> None:
        """Let a node read an input through a pair, which all such readers share."""
        value = node.inputs[index]
        assert value is not None
        if (value, scheme) not in self._made:
            found = range_of(value, self._ranges)
            assert found is not None
            scale = activation_scale(found, scheme, self._kind)
            self._made[value, scheme] = self._pair(value, scheme, f"{value.name}", scale, axis=None)
        node.replace_input_with(index, self._made[value, scheme])

    def _pair(self, value: ir.Value, scheme: str, name: str, scale: Array, *, axis: int | None) -> ir.Value:
        constants = self._constants(name, scheme, scale)
        attributes = {} if axis is None else {"axis": axis}
        quantised = self._edit.node(
            "QuantizeLinear", f"{name}/QuantizeLinear", [value, *constants], _TYPES[scheme], **attributes
        )
        return self._dequantised(quantised, constants, name, attributes)

    def _dequantised(
        self, value: ir.Value, constants: list[ir.Value], name: str, attributes: Mapping[str, int]
    ) -> ir.Value:
        return self._edit.node(
            "DequantizeLinear", f"{name}/DequantizeLinear", [value, *constants], ir.DataType.FLOAT, **attributes
        )

    def _constants(self, name: str, scheme: str, scale: Array) -> list[ir.Value]:
        zero = np.zeros(scale.shape, _TYPES[scheme].numpy())
        return [self._edit.constant(f"{name}/scale", scale), self._edit.constant(f"{name}/zero", zero)]

    def _channels(self, carrier: Carrier, found: Stored) -> None:
        name, scheme = self._name(carrier), "fp8" if found.values.dtype == ml_dtypes.float8_e4m3fn else "int8"
        if self._prequantised:
            attributes = {} if found.axis is None else {"axis": found.axis}
            constants = self._constants(name, scheme, found.scales)
            values = self._edit.constant(f"{name}/{scheme}", found.values)
            result = self._dequantised(values, constants, name, attributes)
        else:
            on_grid = dequantise(found.values, found.scales, found.axis).astype(np.float32)
            grid = self._edit.constant(f"{name}/grid", on_grid)
            result = self._pair(grid, scheme, name, found.scales, axis=found.axis)
        self._replace(carrier, result)

    def _blocks(self, carrier: Carrier, found: Stored) -> None:
        name, size, axis = self._name(carrier), found.block, found.axis
        assert size is not None
        assert axis is not None
        inputs = [self._edit.constant(f"{name}/int4", found.values), self._edit.constant(f"{name}/scale", found.scales)]
        self._replace(
            carrier,
            self._edit.node(
                "DequantizeLinear", f"{name}/DequantizeLinear", inputs, ir.DataType.FLOAT, axis=axis, block_size=size
            ),
        )

    def _name(self, carrier: Carrier) -> str:
        assert carrier.weight is not None
        return f"{carrier.name}/weight"

    def _replace(self, carrier: Carrier, value: ir.Value) -> None:
        assert carrier.weight is not None
        carrier.node.replace_input_with(carrier.weight, value)


def residual_inputs(graph: ir.Graph, layers: Collection[ir.Node], kept: Collection[str]) -> list[tuple[ir.Node, int]]:
    """Return the additions behind quantised convolutions and which input of each is to be quantised.

    The other one stays as the convolution gives it. Where both come from such convolutions, the later computed one is
    the one whose kernel adds.
    """
    order = {node: index for index, node in enumerate(graph)}
    found = []
    for node in graph:
        if node.op_type != "Add" or node.domain or node.name in kept:
            continue
        makers = [_added_by(value, layers) for value in node.inputs]
        if any(value is None or value.is_initializer() for value in node.inputs) or makers == [None, None]:
            continue
        adds = max((index for index in (0, 1) if makers[index] is not None), key=lambda index: order[makers[index]])  # type: ignore[index]
        found.append((node, 1 - adds))
    return found


def _added_by(value: ir.Value | None, layers: Collection[ir.Node]) -> ir.Node | None:
    """Return the quantised convolution that gives a value to an addition alone."""
    maker = None if value is None else value.producer()
    if maker is None or value is None or maker not in layers or maker.op_type not in {"Conv", "ConvTranspose"}:
        return None
    return maker if only_reader(value) is not None else None


def averages(graph: ir.Graph, layers: Collection[ir.Node], kept: Collection[str]) -> list[ir.Node]:
    """Return the averages between quantised layers."""
    return [
        node
        for node in graph
        if node.op_type in _AVERAGES
        and not node.domain
        and node.name not in kept
        and _comes_from(node.inputs[0], layers)
        and _goes_to(node.outputs[0], layers)
    ]


def _comes_from(value: ir.Value | None, layers: Collection[ir.Node]) -> bool:
    node = None if value is None else value.producer()
    if node is None or node in layers:
        return node is not None
    if node.op_type == "Add":
        return any(_comes_from(each, layers) for each in node.inputs)
    return node.op_type in _EDGES | VIEWS and _comes_from(node.inputs[0], layers)


def _goes_to(value: ir.Value, layers: Collection[ir.Node]) -> bool:
    return any(
        node in layers or (node.op_type in VIEWS and _goes_to(node.outputs[0], layers)) for node, _ in value.uses()
    )
