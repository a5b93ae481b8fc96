"""Where weights lie in the hub, and which floating-point constants only look like weights. Free of torch.

The hub holds everything in initialisers: weights, but also exponents, epsilons, masks of minus infinity and tables of
sines. What is trained lies in one of the places below.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

PLACES: dict[str, tuple[int, ...]] = {  # by operator: inputs that are weights
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (0, 1, 2),
    "MatMul": (0, 1),
    "BatchNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "GroupNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "RMSNormalization": (1,),
    "PRelu": (1,),
    "Gather": (0,),
    "LSTM": (1, 2, 3, 7),
    "GRU": (1, 2, 3),
    "RNN": (1, 2, 3),
}
VECTORS = {"Add", "Sub", "Mul", "Div"}  # their constant is a weight where it is a vector: a bias, a scale
_STATISTICS = (3, 4)  # of BatchNormalization: measured when others are trained


def is_vector(shape: Sequence[int]) -> bool:
    """Say whether a constant of Add, Sub, Mul or Div is one number for each place of one axis."""
    sizes = [size for size in shape if size != 1]
    return len(sizes) == 1


def trained_weights(model: ir.Model) -> dict[str, tuple[str, ...]]:
    """Return by layer, in graph order, the initialisers that training it changes; layers without any are left out."""
    found = {}
    for node in model.graph:
        if node.domain in {"", "ai.onnx"}:
            names = tuple(name for index, value in enumerate(node.inputs) if (name := _weight(node, index, value)))
            if names:
                found[node.name or ""] = names
    return found


def norm_behind(model: ir.Model, layer: str) -> ir.Node | None:
    """Return the BatchNormalization that alone reads what a layer puts out, or None."""
    node = next((node for node in model.graph if node.name == layer), None)
    uses = [] if node is None or node.outputs[0].is_graph_output() else list(node.outputs[0].uses())
    if len(uses) != 1 or uses[0][0].op_type != "BatchNormalization":
        return None
    return uses[0][0]


def statistics(model: ir.Model) -> set[str]:
    """Return the initialisers that hold what BatchNormalization has measured."""
    norms = [node for node in model.graph if node.op_type == "BatchNormalization"]
    values = [node.inputs[index] for node in norms for index in _STATISTICS]
    return {value.name or "" for value in values if value is not None}


def _weight(node: ir.Node, index: int, value: ir.Value | None) -> str | None:
    if value is None or not value.is_initializer() or value.const_value is None:
        return None
    if not value.const_value.dtype.is_floating_point():
        return None
    if index in PLACES.get(node.op_type, ()):
        return value.name
    return value.name if node.op_type in VECTORS and is_vector(value.const_value.shape.numpy()) else None
