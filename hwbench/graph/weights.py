"""Weights that are no numbers: what makes a network's outputs mean nothing.

NaN means nothing anywhere. Infinity does in the weights and biases of a layer, while an attention mask is full of it by
design.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

# The inputs that hold weights and biases, by operator; operators and positions as in the ONNX specification.
_WEIGHTS = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (0, 1, 2),
    "MatMul": (0, 1),
    "LSTM": (1, 2, 3),
    "GRU": (1, 2, 3),
    "RNN": (1, 2, 3),
    "BatchNormalization": (1, 2, 3, 4),
    "InstanceNormalization": (1, 2),
    "GroupNormalization": (1, 2),
    "LayerNormalization": (1, 2),
}
# Operators that hand numbers on, and the inputs that they take them from; a scale that is infinite makes them so.
_SAME_NUMBERS = {
    **dict.fromkeys(("Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"), (0,)),
    "DequantizeLinear": (0, 1),
}

Array = np.ndarray[tuple[int, ...], np.dtype[np.generic]]


def non_finite_weights(model: ir.Model) -> list[str]:
    """Return the names of floating-point initialisers that hold NaN, or infinity where a layer multiplies by it."""
    found = []
    for graph in model.graphs():
        for name, value in graph.initializers.items():
            if value.const_value is None or not value.const_value.dtype.is_floating_point():
                continue
            array = _as_known_float(value.const_value.numpy())
            if np.isnan(array).any() or (np.isinf(array).any() and _is_weight(value)):
                found.append(name)
    return found


def _is_weight(value: ir.Value) -> bool:
    """Say whether a layer takes these numbers as its weight or bias, perhaps in another shape or type."""
    frontier, seen = [value], {value}
    while frontier:
        for node, position in frontier.pop().uses():
            if position in _WEIGHTS.get(node.op_type, ()) or _is_bias(node, position, value):
                return True
            if position in _SAME_NUMBERS.get(node.op_type, ()):
                fresh = [output for output in node.outputs if output not in seen]
                seen.update(fresh)
                frontier.extend(fresh)
    return False


def _is_bias(node: ir.Node, position: int, value: ir.Value) -> bool:
    """Say whether the node adds a vector to the product with a weight: the bias of a layer that has become a MatMul.

    What is added to the product of two computed tensors is an attention mask.
    """
    if node.op_type != "Add" or value.shape is None or len(value.shape) > 1:
        return False
    other = node.inputs[1 - position]
    made = other.producer() if other is not None else None
    return made is not None and made.op_type == "MatMul" and any(_is_constant(factor) for factor in made.inputs)


def _is_constant(value: ir.Value | None) -> bool:
    while value is not None and not value.is_initializer():
        made = value.producer()
        if made is None or made.op_type not in _SAME_NUMBERS:
            return False
        value = made.inputs[0]
    return value is not None


def _as_known_float(array: Array) -> Array:
    """Return the array in a type that numpy can test; bfloat16 and float8 are extension types, and all fit float32."""
    return array.astype(np.float32) if array.dtype.kind != "f" else array
