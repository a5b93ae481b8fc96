"""Which layers have weights that sparse tensor cores can multiply: at most two of four neighbours are not zero.

Neighbours lie along what is added up: the input channels of a convolution, the rows of a matrix product
(Mishra et al. 2021, arXiv:2104.08378). The builder flag ``SPARSE_WEIGHTS`` lets TensorRT try such kernels, and it keeps
the faster of the two.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hwbench.engines.tensorrt_graph import Array
from hwbench.engines.tensorrt_legal import Carrier, carriers

_GROUP, _KEPT = 4, 2


def eligible_for_2_4(graph: ir.Graph) -> tuple[str, ...]:
    """Return the names of the layers whose weights are 2:4 as they are, in the order of the graph."""
    return tuple(carrier.name for carrier in carriers(graph) if _is_eligible(carrier))


def _is_eligible(carrier: Carrier) -> bool:
    if carrier.weight is None or carrier.groups != 1 or carrier.node.op_type == "ConvTranspose":
        return False
    return is_2_4(carrier.array, carrier.input_axis)


def is_2_4(weight: Array, axis: int) -> bool:
    """Say whether of each four neighbours along ``axis`` at most two are not zero, and their number divides by four."""
    length = weight.shape[axis]
    if length == 0 or length % _GROUP:
        return False
    groups = np.moveaxis(weight, axis, -1).reshape(-1, _GROUP)
    return bool((np.count_nonzero(groups, axis=1) <= _KEPT).all())
