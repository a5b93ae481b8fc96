"""The BatchNormalization behind a layer: where it is, and its four constants."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from hwbench.compress.statistics.behind import behind
from hwbench.graph.linear import Array, Linear, constant, set_constant

SCALE, SHIFT, MEAN, VARIANCE = 1, 2, 3, 4


@dataclass(frozen=True)
class Norm:
    """y -> (y - mean) * scale / sqrt(variance + epsilon) + shift, one number a channel, channels on axis 1."""

    node: ir.Node

    @property
    def name(self) -> str:
        """Its name in the hub."""
        return self.node.name or ""

    def get(self, which: int) -> Array:
        """Return SCALE, SHIFT, MEAN or VARIANCE in float64."""
        array = constant(self.node.inputs[which])
        assert array is not None
        return array

    def set(self, which: int, array: Array) -> None:
        """Write one of the constants."""
        set_constant(self.node, which, array)

    @property
    def factor(self) -> Array:
        """What a channel is multiplied with."""
        epsilon = self.node.attributes.get("epsilon")
        small = 1e-5 if epsilon is None else epsilon.as_float()
        factor: Array = self.get(SCALE) / np.sqrt(self.get(VARIANCE) + small)
        return factor


def norm_of(node: ir.Node) -> Norm | None:
    """Return the normalisation that a node is, if its constants are constant."""
    if node.op_type != "BatchNormalization" or node.domain:
        return None
    return Norm(node) if all(constant(value) is not None for value in node.inputs[1:5]) else None


def norm_behind(layer: Linear) -> Norm | None:
    """Return the BatchNormalization that alone reads a layer's output, channel for channel."""
    norm = behind(layer).norm
    return None if norm is None else norm_of(norm)
