"""Moments of what goes into layers and of what comes out behind them: one streaming pass over the samples.

Of inputs the moments are those of the numbers that each weight is multiplied with. Summing over the places where a
weight is used is what the gradient of a layer with respect to its weights does; so the sums are the gradient of the
layer, run on x, |x| or x^2, with ones coming back. That holds for every operator that is linear in its weights, with
its strides, paddings, dilations and groups, and needs no second implementation of any of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hwbench.compress.base import Subject
from hwbench.compress.statistics.behind import behind
from hwbench.compress.statistics.watch import check_finite, passes, producer, watching
from hwbench.graph.linear import Linear

if TYPE_CHECKING:
    import torch

    from hwbench.torch_view.layer import Layer

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, kw_only=True)
class InputMoments:
    """Of what the weights are multiplied with: arrays [groups, inputs of a group, kernel positions], float64.

    Means are over ``rows``: the positions of the output, over all samples. Where a kernel position reaches into padding
    it meets a zero, which counts. ``rows * mean_square`` is the square of the L2 norm.
    """

    rows: int
    mean: Array
    mean_abs: Array
    mean_square: Array


@dataclass(frozen=True, kw_only=True)
class OutputMoments:
    """Of the activation behind a layer: arrays [output channels], float64; means over samples and positions.

    ``zeros``: the fraction that is exactly zero. ``sample_means`` [entries of the first axis, output channels]: the
    mean over positions, for each sample by itself.
    """

    mean: Array
    mean_abs: Array
    mean_square: Array
    zeros: Array
    sample_means: Array


def input_moments(subject: Subject, layers: Mapping[str, Linear]) -> dict[str, InputMoments]:
    """Observe the inputs of ``layers`` on the samples.

    Raises:
        UsageError: there are no samples.
        ModelError: an input holds NaN or infinity.
    """
    import torch

    sums: dict[str, list[torch.Tensor]] = {}
    rows = dict.fromkeys(layers, 0)
    view = subject.view()

    def hook_of(name: str, linear: Linear) -> Any:
        def hook(module: Layer, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            x = given[0].detach()
            x = x.to(torch.promote_types(x.dtype, torch.float32))  # squares and sums overflow half precision
            check_finite(name, x)
            found = [_met(module, linear, part).double() for part in (x, x.abs(), x.square())]
            sums[name] = [old + new for old, new in zip(sums[name], found, strict=True)] if name in sums else found
            rows[name] += output.numel() // linear.output_channels

        return hook

    with watching(view, [(name, hook_of(name, layer)) for name, layer in layers.items()]):
        for tensors, _ in passes(subject, "the statistics of inputs"):
            with torch.no_grad():
                view(*tensors)
    return {name: _input_moments(layer, sums[name], rows[name]) for name, layer in layers.items()}


def _met(module: Layer, linear: Linear, x: torch.Tensor) -> torch.Tensor:
    """Return the sum of ``x`` over the places where each weight of one output channel of a group is used."""
    import torch

    slot = module.arguments[1]
    assert isinstance(slot, str)
    weight = getattr(module, slot).detach()
    one = linear.groups if linear.node.op_type == "Conv" else 1  # outputs of a group lie side by side but for Conv
    with torch.enable_grad():
        narrow = torch.zeros_like(weight.narrow(linear.output_axis, 0, one), dtype=x.dtype).requires_grad_()
        output = module.function(x, narrow)
        (found,) = torch.autograd.grad(output, narrow, torch.ones_like(output))
    return found


def _input_moments(layer: Linear, sums: list[torch.Tensor], rows: int) -> InputMoments:
    mean, absolute, square = (layer.to_blocks(total.cpu().numpy())[:, 0] / rows for total in sums)
    return InputMoments(rows=rows, mean=mean, mean_abs=absolute, mean_square=square)


def output_moments(subject: Subject, layers: Mapping[str, Linear]) -> dict[str, OutputMoments]:
    """Observe the activations behind ``layers`` (:mod:`hwbench.compress.statistics.behind`) on the samples.

    Raises:
        UsageError: there are no samples.
        ModelError: an activation holds NaN or infinity.
    """
    import torch

    seen: dict[str, _Outputs] = {name: _Outputs(layer.output_channels) for name, layer in layers.items()}
    view = subject.view()

    def hook_of(name: str, axis: int) -> Any:
        def hook(_module: Layer, _given: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            check_finite(name, output)
            seen[name].add(output.detach().movedim(axis, -1))

        return hook

    places = {name: behind(layer) for name, layer in layers.items()}
    hooks = [(producer(place.activated), hook_of(name, place.axis)) for name, place in places.items()]
    with watching(view, hooks):
        for tensors, _ in passes(subject, "the statistics of activations"):
            with torch.no_grad():
                view(*tensors)
    return {name: found.result() for name, found in seen.items()}


class _Outputs:
    def __init__(self, channels: int) -> None:
        self.sums = np.zeros((4, channels))
        self.rows = 0
        self.sample_means: list[Array] = []

    def add(self, output: torch.Tensor) -> None:
        """Add a batch, channels last."""
        flat = output.reshape(-1, output.shape[-1]).double()
        parts = (flat, flat.abs(), flat.square(), (flat == 0).double())
        self.sums += np.stack([part.sum(0).cpu().numpy() for part in parts])
        self.rows += len(flat)
        each = output.reshape(output.shape[0], -1, output.shape[-1]).double().mean(1)
        self.sample_means.append(each.cpu().numpy())

    def result(self) -> OutputMoments:
        mean, absolute, square, zeros = self.sums / self.rows
        return OutputMoments(
            mean=mean,
            mean_abs=absolute,
            mean_square=square,
            zeros=zeros,
            sample_means=np.concatenate(self.sample_means),
        )
