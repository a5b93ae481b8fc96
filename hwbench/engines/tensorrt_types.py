"""On TensorRT 8.x, and for DLA: products held to the half precision that was asked for.

There a network has no types of its own: the flags ``FP16`` and ``BF16`` allow half precision, and the builder computes
in whichever is fastest. So every product is told its type, and ``OBEY_PRECISION_CONSTRAINTS`` makes that binding. What
multiplies quantised values is left alone: its type follows from the Q/DQ pairs around it, and a constraint would tear
them apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_PRODUCTS = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "FULLY_CONNECTED", "EINSUM")
_TYPES = {"FP16": "HALF", "BF16": "BF16"}  # of a weak flag, the DataType


def pin_products(trt: Any, network: Any, weak_flags: Sequence[str]) -> int:
    """Tell every product that is not quantised the half precision that the flags allow; return how many were told."""
    wanted = next((_TYPES[flag] for flag in weak_flags if flag in _TYPES), None)
    if wanted is None:
        return 0  # fp32: no flag allows anything else
    kind = getattr(trt.DataType, wanted)
    products = {getattr(trt.LayerType, name) for name in _PRODUCTS if hasattr(trt.LayerType, name)}
    layers = [network.get_layer(number) for number in range(network.num_layers)]
    dequantised = {
        layer.get_output(number).name
        for layer in layers
        if layer.type == trt.LayerType.DEQUANTIZE
        for number in range(layer.num_outputs)
    }
    told = 0
    for layer in layers:
        inputs = [layer.get_input(number) for number in range(layer.num_inputs)]
        quantised = any(tensor is not None and tensor.name in dequantised for tensor in inputs)
        if layer.type in products and not quantised:
            layer.precision = kind
            told += 1
    return told
