"""The tensors whose values are to be shared, and which of them share one codebook."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from hwbench.compress.base import Array
from hwbench.errors import UsageError
from hwbench.graph.linear import Linear, set_constant


@dataclass(frozen=True, kw_only=True)
class Weight:
    """An initialiser, the layers among those asked for that read it, and what its numbers count, of its shape."""

    value: ir.Value
    layers: tuple[Linear, ...]
    importance: Array | None

    @property
    def name(self) -> str:
        """The initialiser's name."""
        return self.value.name or ""

    @property
    def array(self) -> Array:
        """The numbers, as they are stored."""
        assert self.value.const_value is not None
        return self.value.const_value.numpy()

    def write(self, array: Array) -> None:
        """Put other numbers in, for all who read the tensor, also those that are no layers with weights."""
        self.value.const_value = ir.tensor(array.astype(self.array.dtype), name=self.name)


def weights_of(layers: Sequence[Linear], grams: Mapping[str, Array]) -> list[Weight]:
    """Return each tensor once; with ``grams`` of the inputs (by layer), numbers count by the mean square they meet."""
    readers: dict[ir.Value, list[Linear]] = {}
    for layer in layers:
        readers.setdefault(_initialiser(layer), []).append(layer)
    return [
        Weight(value=value, layers=tuple(found), importance=_importance(found, grams) if grams else None)
        for value, found in readers.items()
    ]


def grouped(weights: Sequence[Weight], *, together: bool, tied: Sequence[str]) -> dict[str, list[Weight]]:
    """Return what shares a codebook, by the codebook's name: all, or what a pattern of ``tied`` matches, or each alone.

    A tensor goes where its first layer goes. Tensors of different types never share.

    Raises:
        UsageError: a pattern matches less than two of the tensors.
    """
    types = {weight.array.dtype.name for weight in weights}
    groups: dict[str, list[Weight]] = {}
    matched: dict[str, list[Weight]] = {pattern: [] for pattern in tied}
    for weight in weights:
        layer = weight.layers[0].name
        pattern = next((pattern for pattern in tied if re.fullmatch(pattern, layer)), None)
        name = "global" if together else layer
        if pattern is not None:
            name = f"tied {pattern}"
            matched[pattern].append(weight)
        apart = len(types) > 1 and (together or pattern is not None)
        groups.setdefault(f"{name} {weight.array.dtype.name}" if apart else name, []).append(weight)
    for pattern, members in matched.items():
        if len(members) < 2:
            raise UsageError(
                f"tied: '{pattern}' matches the layers of {len(members)} weights, and two or more can share",
                hint=f"layers: {', '.join(weight.layers[0].name for weight in weights)}",
            )
    return groups


def _initialiser(layer: Linear) -> ir.Value:
    """Return the initialiser of a layer's weight; what a Constant node makes becomes one."""
    value = layer.node.inputs[1]
    assert value is not None
    if not value.is_initializer():
        set_constant(layer.node, 1, layer.weight)
        value = layer.node.inputs[1]
        assert value is not None
    return value


def _importance(layers: Sequence[Linear], grams: Mapping[str, Array]) -> Array:
    total = np.zeros(layers[0].weight.size)
    for layer in layers:
        squares = np.diagonal(grams[layer.name], axis1=1, axis2=2)
        numbered = np.arange(total.size, dtype=np.float64).reshape(layer.weight.shape)
        places = layer.to_blocks(numbered).astype(np.int64)
        spread = squares.reshape(places.shape[0], 1, *places.shape[2:])
        total[places.reshape(-1)] += np.broadcast_to(spread, places.shape).reshape(-1)
    return total.reshape(layers[0].weight.shape)
