"""Gates that learn to be shut: the hard-concrete distribution (Louizos et al. 2018, arXiv:1712.01312).

    s = sigmoid((log u - log(1 - u) + log_alpha) / beta)      u uniform in (0, 1)
    z = min(1, max(0, s (zeta - gamma) + gamma))

A gate is exactly 0 or 1 with a chance above zero, and has a gradient in between; P(z != 0) is what is made small.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from hwbench.train.hooks import Hook

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1  # as in the paper
_OPEN = 2.5  # log alpha at the start: sigmoid is 0.924, so that without noise the gate is exactly one
TO_SHUT = _OPEN + math.log(1 / (-GAMMA / (ZETA - GAMMA)) - 1)  # how far log alpha must fall for a gate to be zero


class HardConcrete(torch.nn.Module):
    """Multiplies what comes by a gate: a random one in training, else its value without noise (:meth:`value`).

    One is drawn for each item of axis 0, the batch: the gradient is less noisy than with one for all.

    Args:
        speed: how much faster than other weights log alpha learns, for an optimizer that does not mind the size of
            gradients.
    """

    def __init__(self, speed: float = 1.0) -> None:
        super().__init__()
        self.speed = speed
        self.raw = torch.nn.Parameter(torch.tensor([_OPEN / speed]))

    @property
    def log_alpha(self) -> torch.Tensor:
        """The parameter of the distribution."""
        return self.raw[0] * self.speed

    def open_chance(self) -> torch.Tensor:
        """Return P(z != 0) = sigmoid(log_alpha - beta log(-gamma / zeta))."""
        return torch.sigmoid(self.log_alpha - BETA * math.log(-GAMMA / ZETA))

    def value(self) -> torch.Tensor:
        """Return z without noise: min(1, max(0, sigmoid(log_alpha) (zeta - gamma) + gamma))."""
        return torch.clamp(torch.sigmoid(self.log_alpha) * (ZETA - GAMMA) + GAMMA, 0, 1)

    def sample(self, u: torch.Tensor) -> torch.Tensor:
        """Return z for uniform random numbers."""
        s = torch.sigmoid((torch.log(u) - torch.log1p(-u) + self.log_alpha) / BETA)
        return torch.clamp(s * (ZETA - GAMMA) + GAMMA, 0, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply ``x`` by the gate."""
        if not self.training:
            return x * self.value().to(x.dtype)
        u = torch.rand((len(x), *(1,) * (x.dim() - 1)), device=x.device).clamp(1e-6, 1 - 1e-6)
        return x * self.sample(u).to(x.dtype)


def insert_gates(
    view: torch.fx.GraphModule, places: Mapping[str, tuple[torch.fx.Node, torch.fx.Node]], speed: float
) -> dict[str, HardConcrete]:
    """Put a gate on the way from one node of a view to another, for each name."""
    device = next((tensor.device for tensor in view.parameters()), torch.device("cpu"))
    gates = {}
    for index, (name, (source, reader)) in enumerate(places.items()):
        gates[name] = HardConcrete(speed).to(device)
        view.add_submodule(f"hard_concrete_{index}", gates[name])
        with view.graph.inserting_before(reader):
            call = view.graph.call_module(f"hard_concrete_{index}", (source,))
        reader.replace_input_with(source, call)
    view.graph.lint()
    view.recompile()
    return gates


class GatePenalty(Hook):
    """strength x the sum of P(z != 0) of each gate times its share of the cost; the shares add up to one.

    Args:
        gates: the gates.
        shares: for each, its part of the cost.
        strength: the factor beside the loss.
    """

    def __init__(self, gates: Mapping[str, HardConcrete], shares: Mapping[str, float], strength: float) -> None:
        self.gates, self.shares, self.strength = gates, shares, strength
        self.reach = 0.0  # how far log alpha can have moved in the steps made, by AdamW

    def penalty(self) -> torch.Tensor | None:
        terms = [self.shares[name] * gate.open_chance() for name, gate in self.gates.items()]
        return self.strength * torch.stack(terms).sum()

    def after_step(self, fraction: float) -> None:
        self.reach += self.rate * next(iter(self.gates.values())).speed

    def state(self) -> dict[str, Any]:
        return {"reach": self.reach}

    def restore(self, state: dict[str, Any]) -> None:
        self.reach = state["reach"]

    def log_alphas(self) -> dict[str, float]:
        """Return log alpha of each gate."""
        return {name: float(gate.log_alpha.detach()) for name, gate in self.gates.items()}

    def values(self) -> dict[str, float]:
        """Return each gate's value without noise."""
        return {name: float(gate.value().detach()) for name, gate in self.gates.items()}
