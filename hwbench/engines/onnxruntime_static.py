"""Static int8 for ONNX Runtime: which operators run on 8-bit integers, and the Q/DQ pairs that make them.

ONNX Runtime fuses ``DequantizeLinear -> Conv -> QuantizeLinear`` into ``QLinearConv``, and likewise for others; its own
``QDQQuantizer`` knows how the pairs have to lie for that (https://onnxruntime.ai/docs/performance/model-optimizations/
quantization.html, "ONNX quantization representation format") and is given hwbench's ranges. What it is not asked:

* Linear layers give floats: their kernels can, and what follows them in a transformer (softmax, normalisation, GELU,
  residual) is float. So a product of two activations stays float too, unless it is named.
* Elementwise operators, pooling and changes of shape are quantised only between convolutions: where all that they take
  is 8-bit already, and what they give goes on, through such operators alone, to a quantised layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from hwbench.engines.edge import DOT_PRODUCTS
from hwbench.engines.onnxruntime_graph import Net, attribute
from hwbench.records.device import Device
from hwbench.records.quantization import TensorRange

# Operators with an 8-bit kernel, or that pass 8-bit values through.
_COMPUTE = {"Add", "AveragePool", "Clip", "GlobalAveragePool", "LeakyRelu", "MaxPool", "Mul", "Relu", "Sigmoid"}
_MOVE = {"Concat", "Flatten", "Pad", "Reshape", "Resize", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
_FLOWS = _COMPUTE | _MOVE
_EDGES = {"Clip", "Relu"}  # they vanish into the zero point of what they follow
_SMALL = {"ReduceMean", "Reshape", "Flatten"}  # may be float on the way to a quantised layer
_ARM = {"aarch64", "arm64", "armv8l", "armv7l"}


@dataclass(frozen=True, kw_only=True)
class Widths:
    """The integers of a device: ``signed`` activations, and weights of 7 bits (``reduce_range``)."""

    signed: bool
    reduce_range: bool

    @property
    def words(self) -> str:
        activations = "int8" if self.signed else "uint8"
        return f"activations {activations}, asymmetric; weights int8, symmetric, a scale for each output channel"


def widths_on(device: Device) -> Widths:
    """Return what the kernels of a CPU multiply without loss.

    On x86 they take unsigned activations and signed weights. Without VNNI or AMX the product of two pairs is added in
    16 bits that saturate (VPMADDUBSW: 2 x 255 x 127 > 32767), so that weights must stay within 7 bits: 2 x 255 x 64 <
    32767. On Arm they take signed both.
    """
    if device.cpu is not None and device.cpu.architecture in _ARM:
        return Widths(signed=True, reduce_range=False)
    isa = set() if device.cpu is None else set(device.cpu.isa)
    return Widths(signed=False, reduce_range=not isa & set(DOT_PRODUCTS))


def flowing(net: Net, layers: Iterable[str], kept: Iterable[str], ranges: Mapping[str, TensorRange]) -> tuple[str, ...]:
    """Return the names of the operators between quantised layers that are to run on 8-bit values.

    Args:
        net: the graph as it will be quantised.
        layers: the nodes that are quantised for their own sake.
        kept: nodes that must stay float.
        ranges: of the tensors.
    """
    quantised, kept = set(layers), set(kept)
    eight_bit: set[str] = set()
    candidates: list[onnx.NodeProto] = []
    for node in net.nodes:
        if node.name in quantised:
            eight_bit.update(node.output if node.op_type == "Conv" else ())
        elif _may_flow(net, node, eight_bit, ranges) and node.name not in kept:
            candidates.append(node)
            eight_bit.update(node.output)
    return _leading_on(net, candidates, quantised)


def _may_flow(net: Net, node: onnx.NodeProto, eight_bit: set[str], ranges: Mapping[str, TensorRange]) -> bool:
    if node.op_type not in _FLOWS or node.domain:
        return False
    if node.op_type in _EDGES and node.input[0] in net.outputs:  # the tool would clip the output to the edge too
        return False
    taken = net.activations(node)
    known = all(name in ranges for name in node.output if name)
    return bool(taken) and known and eight_bit.issuperset(taken) and (node.op_type != "Clip" or _holds_zero(net, node))


def _holds_zero(net: Net, clip: onnx.NodeProto) -> bool:
    """Say whether a Clip lets zero through: only then can the edges of an 8-bit range stand for it."""
    low, high = [*clip.input[1:], "", ""][:2]
    if any(name and name not in net.weights for name in (low, high)):
        return False
    return (not low or float(net.array(low)) <= 0) and (not high or float(net.array(high)) >= 0)


def _leading_on(net: Net, candidates: list[onnx.NodeProto], quantised: set[str]) -> tuple[str, ...]:
    """Return those candidates from which a way through such operators alone leads to a quantised layer.

    An activation that is nothing but the edge of a range costs nothing, wherever it leads.
    """
    names = {node.name for node in candidates}
    leads = set(quantised)
    for node in reversed(net.nodes):
        passes = node.name in names or node.op_type in _SMALL
        if passes and any(reader.name in leads for name in node.output for reader in net.consumers[name]):
            leads.add(node.name)
    kept = set(quantised)
    for node in candidates:
        maker = net.producer.get(node.input[0])
        if node.name in leads or (node.op_type in _EDGES and maker is not None and maker.name in kept):
            kept.add(node.name)
    return tuple(node.name for node in candidates if node.name in kept)


def insert_pairs(
    model: onnx.ModelProto, nodes: Iterable[str], ranges: Mapping[str, TensorRange], widths: Widths
) -> onnx.ModelProto:
    """Return the model with the named nodes between Q/DQ pairs; the model given is used up.

    Weights get a scale for each output channel; biases become int32 at the scale of the products, and where one would
    not fit (https://github.com/microsoft/onnxruntime/issues/11415) the tool enlarges the weights' scale.
    """
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.quant_utils import add_infer_metadata

    named = set(nodes)
    add_infer_metadata(model)  # types are known: the tool would else write the model to a file and read it again
    data = {
        name: TensorData(lowest=np.float32(found.low), highest=np.float32(found.high)) for name, found in ranges.items()
    }
    quantizer = QDQQuantizer(
        model,
        True,  # per channel
        widths.reduce_range,
        QuantType.QInt8,
        QuantType.QInt8 if widths.signed else QuantType.QUInt8,
        TensorsData(CalibrationMethod.MinMax, data),
        sorted(named),
        [],
        sorted({node.op_type for node in model.graph.node if node.name in named}),
        {
            "OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"],
            "TensorQuantOverrides": _dead_channels(Net(model), named),
        },
    )
    made: onnx.ModelProto = quantizer.quantize_model()
    del made.metadata_props[:]  # the marks that the tool leaves for itself
    return made


def _dead_channels(net: Net, layers: set[str]) -> dict[str, list[dict[str, Any]]]:
    """Return overrides for weights with channels that are all zero, as pruning leaves them.

    The tool gives such a channel a scale of one, and with it a bias that is rounded to whole steps of the input. It
    gets the middle of the others' ranges instead.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for node in net.nodes:
        if node.name not in layers or node.op_type not in {"Conv", "Gemm"}:
            continue
        axis = 0 if node.op_type == "Conv" or attribute(node, "transB", 0) else 1
        weight = net.array(node.input[1])
        magnitude = np.abs(np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)).max(axis=1)
        if magnitude.all():
            continue
        middle = float(np.median(magnitude[magnitude > 0])) if magnitude.any() else 1.0
        channels: list[dict[str, Any]] = [{} if size else {"rmin": -middle, "rmax": middle} for size in magnitude]
        channels[0]["axis"] = axis
        found[node.input[1]] = channels
    return found
