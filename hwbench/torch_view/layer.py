"""One layer of the hub as a torch module."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from hwbench.torch_view.site import Function


class Layer(torch.nn.Module):
    """A function with the tensors it owns: weights (parameters), statistics and constants (buffers).

    ``arguments`` has one entry for each argument of the function: the name of an own tensor, True for the next tensor
    that the layer is called with, None for an input that the node leaves out. A function with an argument ``training``
    is told whether the module is.
    """

    def __init__(self, operator: str, function: Function, arguments: Sequence[str | bool | None]) -> None:
        super().__init__()
        self.operator = operator
        self.function = function
        self.arguments = tuple(arguments)
        self.told = "training" in inspect.signature(function).parameters if inspect.isfunction(function) else False

    def own(self, tensors: Mapping[str, torch.Tensor], kept: set[str]) -> None:
        """Take the tensors; of those that are no parameters, ``kept`` ones belong to the state."""
        for name, tensor in tensors.items():
            if isinstance(tensor, torch.nn.Parameter):
                self.register_parameter(name, tensor)
            else:
                self.register_buffer(name, tensor, persistent=name in kept)

    def forward(self, *given: torch.Tensor) -> Any:
        """Compute the layer's output, or a tuple of its outputs."""
        rest = iter(given)
        values = [
            getattr(self, slot) if isinstance(slot, str) else next(rest) if slot else None for slot in self.arguments
        ]
        return self.function(*values, training=self.training) if self.told else self.function(*values)

    def extra_repr(self) -> str:
        return self.operator
