"""Weights for the networks that are not trained: drawn once, the same bits everywhere.

Convolutions and linear layers get He initialisation (He et al. 2015, arXiv:1502.01852, eq. 10) in its uniform form;
scales of the norm layers spread around 1 and their shifts around 0, so that leaving one out is noticed. The statistics
of batch normalisation are those that the network's own activations have on a small input, as after training: folding
them into a convolution changes its weights, and activations stay of order one however deep the network is.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from hwbench.models.bits import BitStream
from hwbench.models.examples import unit_variance
from hwbench.records.model import TensorSpec

_SEED = 0
_CALIBRATION_BATCH = 16
_CALIBRATION_PIXELS = 64  # of each side at most: enough for statistics, and ResNet-50 stays under a second


def initialise(factory: Callable[[], nn.Module], inputs: tuple[TensorSpec, ...]) -> nn.Module:
    """Make a network and give it its weights.

    Args:
        factory: makes the network; its own initialisation is skipped.
        inputs: the network's inputs, of unit variance where it has batch normalisation.
    """
    with torch.device("meta"):
        module = factory()
    module.to_empty(device="cpu").eval()
    _draw(module, BitStream(_SEED))
    if any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules()):
        _calibrate(module, inputs)
    return module


@torch.no_grad()
def _draw(module: nn.Module, bits: BitStream) -> None:
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            low, high = _bounds(part, name, parameter)
            parameter.copy_(bits.uniform(parameter.shape, low, high))
        for buffer in part.buffers(recurse=False):
            buffer.zero_()  # running statistics, set below, and the count of batches


def _bounds(part: nn.Module, name: str, parameter: nn.Parameter) -> tuple[float, float]:
    if isinstance(part, nn.Conv2d | nn.Linear) and name == "weight":
        limit = math.sqrt(6.0 / parameter[0].numel())
        return -limit, limit
    if isinstance(part, nn.modules.batchnorm._BatchNorm | nn.LayerNorm) and name == "weight":
        return 0.5, 1.5
    return (-0.5, 0.5) if isinstance(part, nn.modules.batchnorm._BatchNorm) else (-0.1, 0.1)


@torch.no_grad()
def _calibrate(module: nn.Module, inputs: tuple[TensorSpec, ...]) -> None:
    """Set the statistics of every batch normalisation from what arrives at it, front to back in one pass."""
    examples = unit_variance(inputs, _CALIBRATION_BATCH)
    small = {name: _corner(value).double() for name, value in examples.items()}
    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    hooks = [norm.register_forward_pre_hook(_take_statistics) for norm in norms]
    module.double()(**small)
    for hook in hooks:
        hook.remove()
    module.float()


def _corner(value: torch.Tensor) -> torch.Tensor:
    return value[:, :, :_CALIBRATION_PIXELS, :_CALIBRATION_PIXELS] if value.ndim == 4 else value


def _take_statistics(norm: nn.Module, arguments: tuple[torch.Tensor]) -> None:
    """Round the variance to a power of two and the mean to sixteenths of a deviation.

    Coarse on purpose: sums come out differently in the last bits on another CPU, and the weights must not.
    """
    variance, mean = torch.var_mean(arguments[0].transpose(0, 1).flatten(1), dim=1)
    rounded = torch.exp2(torch.log2(variance).round())
    deviation = rounded.sqrt()
    norm.get_buffer("running_var").copy_(rounded)
    norm.get_buffer("running_mean").copy_((mean / deviation * 16).round() / 16 * deviation)
