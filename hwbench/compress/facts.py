"""How large a network is, as a whole and by layers."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx_ir as ir

from hwbench.graph.count import macs_of
from hwbench.graph.layers import weights_of
from hwbench.records.base import Missing
from hwbench.records.compression import LayerFacts, NetworkFacts

_BITS_A_BYTE = 8


def network_facts(model: ir.Model, batch: int, bits: Mapping[str, float], zeros: Collection[str] = ()) -> NetworkFacts:
    """Count a network whose shapes are inferred, its batch axis fixed to ``batch``.

    ``bits``: a weight's bits by initialiser, where a method knows how it could be stored. ``zeros``: initialisers whose
    zeros stay; stored as a bit mask and the numbers that are left, where that is smaller.
    """
    layers = layer_facts(model, batch)
    weights = [(name, value.const_value) for name, value in model.graph.initializers.items()]
    stored = sum(tensor.nbytes for _, tensor in weights if tensor is not None)
    packed = sum(_packed(tensor, bits.get(name), name in zeros) for name, tensor in weights if tensor is not None)
    return NetworkFacts(
        parameters=sum(layer.parameters for layer in layers),
        nonzero_parameters=sum(layer.nonzero_parameters for layer in layers),
        weight_bytes=stored,
        packed_bytes=round(packed),
        macs=sum(layer.macs for layer in layers if not isinstance(layer.macs, Missing)),
        layers=len(layers),
    )


def layer_facts(model: ir.Model, batch: int) -> tuple[LayerFacts, ...]:
    """Count every node that computes."""
    return tuple(_layer(node, weights, batch) for node, weights in weights_of(model))


def _layer(node: ir.Node, weights: list[ir.Value], batch: int) -> LayerFacts:
    macs = macs_of(node)
    tensors = [value.const_value for value in weights if value.const_value is not None]
    return LayerFacts(
        layer=node.name or "",
        op=node.op_type,
        weight_shape=tuple(tensors[0].shape.numpy()) if tensors else (),
        parameters=sum(tensor.size for tensor in tensors),
        nonzero_parameters=sum(int(np.count_nonzero(tensor.numpy())) for tensor in tensors),
        macs=macs if isinstance(macs, Missing) else macs // _shares(node, batch),
    )


def _shares(node: ir.Node, batch: int) -> int:
    """Return by how many samples a node's work is shared: none where what it puts out has no batch in front."""
    shape = node.outputs[0].shape
    if shape is None or not len(shape) or not shape.is_static():
        return 1
    return batch if int(shape.numpy()[0]) % batch == 0 else 1


def _packed(tensor: ir.TensorProtocol, bits: float | None, sparse: bool) -> float:
    if bits is not None:
        return float(tensor.size * bits / _BITS_A_BYTE)
    if not sparse:
        return float(tensor.nbytes)
    nonzero = np.count_nonzero(tensor.numpy())
    return float(min(tensor.nbytes, tensor.size / _BITS_A_BYTE + nonzero * tensor.dtype.itemsize))
