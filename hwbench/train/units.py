"""Units of a view: what is kept or removed as a whole, such as a channel with the weights that make it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from hwbench.train.parameters import by_initializer
from hwbench.train.unit_groups import Slice, UnitGroup

Tensor = torch.Tensor
Array = np.ndarray[Any, np.dtype[Any]]
Part = tuple[Tensor, int, Tensor]  # numbers, the axis along which units lie, and the unit of each index


class Units:
    """A group of units, looked up in a view. Slices of initialisers that the view has no parameter for are left out."""

    def __init__(self, view: torch.nn.Module, group: UnitGroup) -> None:
        self.group = group
        tensors = by_initializer(view)
        self._weights = _parts(tensors, group.weights)
        self._rest = _parts(tensors, group.rest)
        self.device = self._weights[0][0].device
        self.numbers = sum(tensor.numel() for tensor, _, _ in self._weights) / group.size  # a unit, on average

    def norms(self, order: int = 2) -> Tensor:
        """Return the norm, of order 1 or 2, of the weights of each unit [size], in float64."""
        return self._summed([(tensor.detach(), axis, units) for tensor, axis, units in self._weights], order)

    def gradient_norms(self) -> Tensor:
        """Return the 2-norm of the gradients of the weights of each unit [size], in float64."""
        return self._summed(self._gradients(), 2)

    def scale(self, factors: Tensor, *, rest: bool) -> None:
        """Multiply the weights of each unit by its factor [size]; ``rest``: and what belongs to them."""
        for tensor, axis, units in [*self._weights, *(self._rest if rest else ())]:
            _multiply(tensor.detach(), axis, units, factors)

    def scale_gradients(self, factors: Tensor) -> None:
        """Multiply the gradients of the weights of each unit by its factor [size]."""
        for tensor, axis, units in self._gradients():
            _multiply(tensor, axis, units, factors)

    def _gradients(self) -> list[Part]:
        return [(tensor.grad, axis, units) for tensor, axis, units in self._weights if tensor.grad is not None]

    def _summed(self, parts: Sequence[Part], order: int) -> Tensor:
        sums = torch.zeros(self.group.size, dtype=torch.float64, device=self.device)
        for tensor, axis, units in parts:
            rows = tensor.movedim(axis, 0).reshape(tensor.shape[axis], -1).double()
            each = rows.abs().sum(1) if order == 1 else rows.square().sum(1)
            sums.index_add_(0, units[units >= 0], each[units >= 0])
        return sums if order == 1 else sums.sqrt()


def _multiply(tensor: Tensor, axis: int, units: Tensor, factors: Tensor) -> None:
    each = torch.where(units >= 0, factors.to(tensor.dtype)[units.clamp_min(0)], 1.0)
    tensor.mul_(each.reshape([-1 if index == axis else 1 for index in range(tensor.dim())]))


def _parts(
    tensors: Mapping[str, torch.nn.Parameter], slices: Sequence[Slice]
) -> list[tuple[torch.nn.Parameter, int, Tensor]]:
    found = [(tensors[part.tensor], part) for part in slices if part.tensor in tensors]
    return [
        (tensor, part.axis % max(1, tensor.dim()), torch.as_tensor(part.units, dtype=torch.long, device=tensor.device))
        for tensor, part in found
    ]
