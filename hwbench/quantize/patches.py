"""What the weights of a layer are multiplied with: rows of inputs, for a convolution cut out of its image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hwbench.graph.linear import Array, Linear

Generator = np.random.Generator


def rows(layer: Linear, batch: np.ndarray[Any, Any], limit: int, generator: Generator) -> Array:
    """Return at most ``limit`` rows of a batch of the layer's input, drawn without replacement where there are more.

    Returns:
        groups x rows x (inputs of a group * kernel positions), in the order that :meth:`Linear.blocks` has them.
    """
    if layer.spatial:
        return _of_images(layer, batch, limit, generator)
    flat = batch.reshape(-1, batch.shape[-1])
    picked: Array = flat[_draw(len(flat), limit, generator)].astype(np.float64)[None]
    return picked


def _of_images(layer: Linear, batch: np.ndarray[Any, Any], limit: int, generator: Generator) -> Array:
    kernel = layer.weight.shape[2:]
    axes = len(kernel)
    strides = _ints(layer, "strides", [1] * axes)
    dilations = _ints(layer, "dilations", [1] * axes)
    reach = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    padded = np.pad(batch, [(0, 0), (0, 0), *_pads(layer, batch.shape[2:], reach, strides)])
    views = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=tuple(range(2, 2 + axes)))
    every = (slice(None), slice(None), *(slice(None, None, step) for step in (*strides, *dilations)))
    views = np.moveaxis(views[every], 1, 1 + axes)  # batch x positions x channels x kernel
    positions = views.shape[: 1 + axes]
    drawn = np.unravel_index(_draw(int(np.prod(positions)), limit, generator), positions)
    found = views[drawn]
    by_group: Array = found.reshape(len(drawn[0]), layer.groups, -1).swapaxes(0, 1).astype(np.float64)
    return by_group


def _draw(count: int, limit: int, generator: Generator) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.arange(count) if count <= limit else np.sort(generator.choice(count, limit, replace=False))


def _ints(layer: Linear, name: str, default: list[int]) -> list[int]:
    attribute = layer.node.attributes.get(name)
    return default if attribute is None else list(attribute.as_ints())


def _pads(layer: Linear, size: Sequence[int], reach: Sequence[int], strides: Sequence[int]) -> list[tuple[int, int]]:
    """Return how many zeros a convolution puts before and behind each axis of space."""
    mode = layer.node.attributes.get("auto_pad")
    kind = "NOTSET" if mode is None else mode.as_string()
    axes = len(size)
    if kind == "NOTSET":
        pads = _ints(layer, "pads", [0] * 2 * axes)
        return list(zip(pads[:axes], pads[axes:], strict=True))
    if kind == "VALID":
        return [(0, 0)] * axes
    totals = [
        max((-(-length // step) - 1) * step + span - length, 0)
        for length, span, step in zip(size, reach, strides, strict=True)
    ]
    small = [(total // 2, total - total // 2) for total in totals]
    return small if kind == "SAME_UPPER" else [(high, low) for low, high in small]
