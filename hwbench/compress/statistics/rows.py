"""What the weights of a layer are multiplied with: rows cut out of a batch of its input, at chosen output positions.

A convolution is a matrix product of its weights with patches of the image, one patch an output position. Only the
patches that are asked for are copied; the others are views. A transposed convolution is a convolution over its input
with zeros between the elements, its kernel turned round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name

from hwbench.graph.linear import Linear
from hwbench.records.base import Missing
from hwbench.torch_view.ops_convolution import around, window_pads
from hwbench.torch_view.site import Site

Tensor = torch.Tensor


def no_rows(layer: Linear) -> Missing | None:
    """Say why the rows of a layer cannot be cut out, or None."""
    if not layer.spatial:
        return None
    axes = layer.weight.ndim - 2
    if not 1 <= axes <= 3:
        return Missing(code="rank", why=f"it convolves over {axes} axes, and torch over 1 to 3")
    told = [name for name in ("auto_pad", "output_shape") if name in layer.node.attributes]
    if layer.node.op_type == "ConvTranspose" and told and layer.node.attributes[told[-1]].value != "NOTSET":
        why = f"a transposed convolution that is padded by {told[-1]}"
        return Missing(code="padding", why=why, cure="give it pads")
    return None


@dataclass(frozen=True)
class Rows:
    """The rows of one layer. Positions are counted through batch and space of the layer's output, in that order."""

    layer: Linear

    @cached_property
    def geometry(self) -> tuple[Any, ...]:
        """What the rows follow from: two layers of equal geometry have the same rows."""
        node, reads = self.layer.node, self.layer.input.name
        if not self.layer.spatial:
            return (reads,)
        told = {name: str(item.value) for name, item in node.attributes.items() if name != "kernel_shape"}
        return (reads, node.op_type, self._kernel, tuple(sorted(told.items())))

    @cached_property
    def width(self) -> int:
        """How long a row of one group is: inputs of the group x kernel positions."""
        return self.layer.input_channels // self.layer.groups * int(np.prod(self._kernel))

    def count(self, output: Tensor) -> int:
        """Return how many rows a batch has, given the layer's output for it."""
        return output.numel() // self.layer.output_channels

    def inputs(self, x: Tensor, where: Tensor) -> Tensor:
        """Return the rows of a batch of inputs at some positions: groups x rows x :attr:`width`.

        A row has the order in which :meth:`Linear.blocks` has inputs and kernel positions.
        """
        if not self.layer.spatial:
            return x.reshape(-1, x.shape[-1])[where].unsqueeze(0)
        turned = self.layer.node.op_type == "ConvTranspose"
        views = self._views_of_stuffed(x) if turned else self._views(x)
        axes = len(self._kernel)
        at = torch.unravel_index(where, (views.shape[0], *views.shape[2 : 2 + axes]))
        found = _picked(views, at)  # rows x channels x kernel
        found = found.flip(tuple(range(2, 2 + axes))) if turned else found
        return found.reshape(len(where), self.layer.groups, -1).movedim(1, 0)

    def outputs(self, y: Tensor, where: Tensor) -> Tensor:
        """Return a batch of outputs at some positions: rows x channels."""
        if not self.layer.spatial:
            return y.reshape(-1, y.shape[-1])[where]
        at = torch.unravel_index(where, (y.shape[0], *y.shape[2:]))
        return _picked(y, at)

    @cached_property
    def _kernel(self) -> tuple[int, ...]:
        return self.layer.weight.shape[2:] if self.layer.spatial else ()

    def _integers(self, name: str, default: int) -> list[int]:
        attribute = self.layer.node.attributes.get(name)
        return [default] * len(self._kernel) if attribute is None else list(attribute.as_ints())

    def _views(self, x: Tensor) -> Tensor:
        strides, dilations = self._integers("strides", 1), self._integers("dilations", 1)
        begin, end = window_pads(Site(self.layer.node, 0, []), x.shape[2:], self._kernel, strides, dilations)
        padded = F.pad(x, around(begin, end)) if any(begin) or any(end) else x
        return self._sliding(padded, strides, dilations)

    def _views_of_stuffed(self, x: Tensor) -> Tensor:
        strides, dilations = self._integers("strides", 1), self._integers("dilations", 1)
        stuffed = x.new_zeros(*x.shape[:2], *((n - 1) * s + 1 for n, s in zip(x.shape[2:], strides, strict=True)))
        _every(stuffed, strides).copy_(x)
        axes = len(self._kernel)
        attribute = self.layer.node.attributes.get("pads")
        pads = [0] * 2 * axes if attribute is None else list(attribute.as_ints())
        around_it = [(size - 1) * step for size, step in zip(self._kernel, dilations, strict=True)]
        begin = [whole - pad for whole, pad in zip(around_it, pads[:axes], strict=True)]
        extra = self._integers("output_padding", 0)
        end = [whole - pad + more for whole, pad, more in zip(around_it, pads[axes:], extra, strict=True)]
        return self._sliding(F.pad(stuffed, around(begin, end)), [1] * axes, dilations)

    def _sliding(self, x: Tensor, strides: Sequence[int], dilations: Sequence[int]) -> Tensor:
        """Return batch x channels x positions x kernel, a view."""
        for axis, (size, stride, dilation) in enumerate(zip(self._kernel, strides, dilations, strict=True)):
            x = x.unfold(2 + axis, (size - 1) * dilation + 1, stride)
        return _every(x, dilations)


def _picked(x: Tensor, at: Sequence[Tensor]) -> Tensor:
    """Return x[at[0], :, at[1], ...]: the axis of channels comes behind that of rows."""
    index: Any = (at[0], slice(None), *at[1:])
    return x[index]


def _every(x: Tensor, steps: Sequence[int]) -> Tensor:
    """Return a view of every n-th element along the last axes."""
    index: Any = (..., *[slice(None, None, step) for step in steps])
    return x[index]


def spread_evenly(limit: int, batches: int, index: int) -> int:
    """Return how many of ``limit`` rows fall to batch ``index`` of ``batches``."""
    return (index + 1) * limit // batches - index * limit // batches


def draw(count: int, wanted: int, rng: np.random.Generator) -> Tensor:
    """Return ``wanted`` of ``count`` positions, drawn without replacement, in order; all where there are no more."""
    if wanted >= count:
        return torch.arange(count)
    return torch.from_numpy(np.sort(rng.choice(count, wanted, replace=False, shuffle=False)))
