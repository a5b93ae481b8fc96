"""What TensorRT can do with a layer in a scheme, and what it should not do unless it is told to.

The limits of an architecture are in :mod:`hwbench.quantize.nvidia`; here are those of operators. *Refused* is what
there is no kernel for: the pairs of Q and DQ would stay as conversions around a product in floating point. *Slow* is
what NVIDIA's own quantiser leaves in floating point since it does not pay (ModelOpt 0.47, ``onnx/quantization``):
small channels, small matrices. A layer named in a plan may be slow, and not refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

import onnx_ir as ir

from hwbench.engines.tensorrt_graph import Array, constant_of, is_float32
from hwbench.graph.linear import integer
from hwbench.quantize.nvidia import Capability, Flavour, legal
from hwbench.records.base import Missing
from hwbench.records.quantization import Scheme

__all__ = ["Capability", "Carrier", "Flavour", "carriers", "legal", "offered", "refused", "slow"]

_OFFERED: Final[tuple[Literal["int8", "fp8", "int4-weights"], ...]] = ("int8", "fp8", "int4-weights")
_PRODUCTS: Final = frozenset({"Gemm", "MatMul"})
_CONVOLUTIONS: Final = frozenset({"Conv", "ConvTranspose"})
_OTHERS: Final = frozenset({"Einsum", "GRU", "LSTM", "RNN"})
_TILE: Final = 16  # what a tensor core multiplies at once
_BLOCKS: Final = (64, 32, 16)  # weights on one scale; TensorRT for RTX fuses these, and not the whole column
_LARGEST_FP8_FILTER: Final = 32

_NO_WEIGHTS = "its weights are no constant of fp32"
_NONE_TO_PACK = "a product of two activations has no weights to pack"
_TWO_ACTIVATIONS = "a product of two activations, which TensorRT fuses into attention as a whole"
_NOT_QUANTISED = "TensorRT quantises Conv, ConvTranspose, Gemm and MatMul, and this is a {op}"
_LINEAR_ONLY = "TensorRT packs the weights of linear layers only"
_FP8_CONV = "TensorRT's fp8 convolutions take groups of one, at least 16 channels in and out, and filters of at most 32"
_FP8_DECONV = "TensorRT has no fp8 kernel for ConvTranspose"
_STACKED = "its weights have {axes} axes, not 2"
_BLOCK = "its {inputs} inputs are not two or more blocks of 64, 32 or 16"
_SMALL_PRODUCT = "a matrix of {inputs} x {outputs}: tensor cores multiply 16 at a time, and conversions cost more"
_SMALL_CONV = (
    "a convolution of {inputs} to {outputs} channels in {groups} groups: the int8 kernels are slower or missing"
)
_SMALL_FP8 = "a convolution of {inputs} to {outputs} channels: fp8 kernels are slower than fp16 below 17"


@dataclass(frozen=True, kw_only=True)
class Carrier:
    """A layer that multiplies.

    ``weight``: which input holds constant weights, None where there is none; ``data``: the inputs that are computed.
    ``output_axis`` and ``input_axis``: of the weights, as the node has them.
    """

    node: ir.Node
    weight: int | None
    data: tuple[int, ...]
    output_axis: int = 0
    input_axis: int = 1
    groups: int = 1

    @property
    def name(self) -> str:
        """The layer's name in the hub."""
        return self.node.name or ""

    @property
    def array(self) -> Array:
        """The weights as the node has them."""
        array = None if self.weight is None else constant_of(self.node.inputs[self.weight])
        assert array is not None
        return array

    @property
    def inputs(self) -> int:
        """How many numbers go into each output; channels of a group, where it is a convolution."""
        return int(self.array.shape[self.input_axis])

    @property
    def outputs(self) -> int:
        """How many output channels there are."""
        return int(self.array.shape[self.output_axis]) * (self.groups if self.node.op_type == "ConvTranspose" else 1)

    @property
    def block(self) -> int | None:
        """How many 4-bit weights share a scale, or None where they cannot be packed."""
        return next((size for size in _BLOCKS if self.inputs % size == 0 and self.inputs > size), None)


def carriers(graph: ir.Graph) -> Iterator[Carrier]:
    """Go through the layers that a plan may quantise, or that it could be expected to."""
    for node in graph:
        if node.domain not in {"", "ai.onnx"}:
            continue
        if node.op_type in _CONVOLUTIONS:
            first = int(node.op_type == "Conv")
            yield Carrier(
                node=node, weight=_constant(node, 1), data=(0,), output_axis=1 - first, input_axis=first,
                groups=integer(node, "group", 1),
            )  # fmt: skip
        elif node.op_type in _PRODUCTS:
            yield _product(node)
        elif node.op_type in _OTHERS:
            yield Carrier(node=node, weight=None, data=())


def offered(graph: ir.Graph, capability: Capability, flavour: Flavour) -> dict[str, dict[Scheme, Missing | None]]:
    """Return by layer with weights the schemes worth offering it, with why not where it cannot have one or should not.

    ``int8`` and ``fp8`` compute in them; ``int4-weights`` are read, and computed in floating point.
    """
    words = legal(capability, flavour)
    found: dict[str, dict[Scheme, Missing | None]] = {}
    for carrier in carriers(graph):
        reasons: dict[Scheme, Missing | None] = {}
        for scheme in _OFFERED:
            why = refused(carrier, scheme) or slow(carrier, scheme)
            of_layer = None if why is None else Missing(code="not_for_layer", why=why)
            reasons[scheme] = words[scheme] or of_layer
        found[carrier.name] = reasons
    return found


def _product(node: ir.Node) -> Carrier:
    weight = _constant(node, 1)
    if weight is None:
        return Carrier(node=node, weight=None, data=(0, 1))
    array = constant_of(node.inputs[1])
    assert array is not None
    transposed = bool(integer(node, "transB", 0)) and node.op_type == "Gemm"
    rank = max(array.ndim, 2)
    inputs, outputs = (rank - 1, rank - 2) if transposed else (rank - 2, rank - 1)
    return Carrier(node=node, weight=weight, data=(0,), output_axis=outputs, input_axis=inputs)


def _constant(node: ir.Node, index: int) -> int | None:
    value = node.inputs[index] if len(node.inputs) > index else None
    array = constant_of(value)
    return index if is_float32(value) and array is not None and array.ndim >= 2 and array.size else None


def refused(carrier: Carrier, scheme: Scheme, *, named: bool = False) -> str | None:
    """Return why a layer cannot have a scheme, or None where it can."""
    node = carrier.node
    if node.op_type in _OTHERS:
        return _NOT_QUANTISED.format(op=node.op_type)
    if carrier.weight is None:
        return _refused_without_weights(node, scheme, named=named)
    if scheme in {"int4-weights", "int8-weights"}:
        return _refused_packed(carrier, scheme)
    if scheme == "fp8" and node.op_type in _CONVOLUTIONS:
        return _refused_fp8(carrier)
    return None


def _refused_without_weights(node: ir.Node, scheme: Scheme, *, named: bool) -> str | None:
    if node.op_type != "MatMul" or any(value is None or value.is_initializer() for value in node.inputs):
        return _NO_WEIGHTS
    if scheme not in {"int8", "fp8"}:
        return _NONE_TO_PACK
    return None if named else _TWO_ACTIVATIONS


def _refused_packed(carrier: Carrier, scheme: Scheme) -> str | None:
    if carrier.node.op_type not in _PRODUCTS:
        return _LINEAR_ONLY
    if carrier.array.ndim != 2:
        return _STACKED.format(axes=carrier.array.ndim)
    return _BLOCK.format(inputs=carrier.inputs) if scheme == "int4-weights" and carrier.block is None else None


def _refused_fp8(carrier: Carrier) -> str | None:
    if carrier.node.op_type == "ConvTranspose":
        return _FP8_DECONV
    filter_size = math.prod(carrier.array.shape[2:])
    fits = carrier.groups == 1 and min(carrier.inputs, carrier.outputs) >= _TILE and filter_size <= _LARGEST_FP8_FILTER
    return None if fits else _FP8_CONV


def slow(carrier: Carrier, scheme: Scheme) -> str | None:
    """Return why a layer had better not have a scheme that it can have, or None."""
    if scheme not in {"int8", "fp8"} or carrier.weight is None:
        return None
    sizes = {"inputs": carrier.inputs, "outputs": carrier.outputs}
    if carrier.node.op_type in _PRODUCTS:
        return _SMALL_PRODUCT.format(**sizes) if min(sizes.values()) < _TILE else None
    if scheme == "fp8":
        return _SMALL_FP8.format(**sizes) if min(sizes.values()) <= _TILE else None
    if min(sizes.values()) >= _TILE or _small_but_fast(carrier):
        return None
    return _SMALL_CONV.format(**sizes, groups=carrier.groups)


def _small_but_fast(carrier: Carrier) -> bool:
    """Say whether there are int8 kernels for a convolution with fewer than 16 channels in or out."""
    kernel = carrier.array.shape[2:]
    if carrier.groups > 1:
        return carrier.outputs % 8 == 0 and all(size >= 3 for size in kernel)
    source = carrier.node.inputs[0]
    first = source is not None and source.is_graph_input()
    eights = carrier.outputs % 8 == 0 or carrier.inputs % 8 == 0
    return eights and (first or max(carrier.outputs, carrier.inputs) >= _TILE) and len(set(kernel)) == 1
