"""Rules of normalisations."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name

from hwbench.torch_view.site import Function, Rules, Site

RULES = Rules()
Tensor = torch.Tensor


@RULES.on("BatchNormalization")
def _batch_norm(site: Site) -> Function:
    """Statistics are used as they are; when the module is put into training, they are measured and moved."""
    if site.integer("training_mode", 0) or not site.integer("spatial", 1):
        site.refuse("it measures its statistics in inference")
    epsilon, momentum = site.number("epsilon", 1e-5), 1 - site.number("momentum", 0.9)

    def norm(x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor, training: bool = False) -> Tensor:
        return F.batch_norm(x, mean, variance, scale, shift, training, momentum, epsilon)

    return norm


@RULES.on("InstanceNormalization")
def _instance_norm(site: Site) -> Function:
    epsilon = site.number("epsilon", 1e-5)
    return lambda x, scale, shift: F.instance_norm(x, weight=scale, bias=shift, eps=epsilon)


@RULES.on("LayerNormalization")
def _layer_norm(site: Site) -> Function:
    axis, epsilon = site.axis("axis", -1), site.number("epsilon", 1e-5)
    shape = list(site.shape()[axis:])
    fits = list(site.shape(1)) == shape and (not site.has(2) or list(site.shape(2)) == shape)
    if fits and not site.wants(1) and not site.wants(2):
        return lambda x, scale, shift=None: F.layer_norm(x, shape, scale, shift, epsilon)
    axes = list(range(axis, site.rank()))
    told = site.wants(1) or site.wants(2)

    def norm(x: Tensor, scale: Tensor, shift: Tensor | None = None) -> Any:
        mean = torch.mean(x.float(), axes, keepdim=True)
        spread = torch.mean(torch.square(x.float() - mean), axes, keepdim=True)
        inverse = torch.rsqrt(spread + epsilon)
        normal = ((x.float() - mean) * inverse).to(x.dtype) * scale
        result = normal if shift is None else normal + shift
        return (result, mean, inverse) if told else result

    return norm


@RULES.on("RMSNormalization")
def _rms_norm(site: Site) -> Function:
    axes, epsilon = list(range(site.axis("axis", -1), site.rank())), site.number("epsilon", 1e-5)

    def norm(x: Tensor, scale: Tensor) -> Tensor:
        square = torch.mean(torch.square(x.float()), axes, keepdim=True)
        return (x.float() * torch.rsqrt(square + epsilon)).to(x.dtype) * scale

    return norm


@RULES.on("GroupNormalization")
def _group_norm(site: Site) -> Function:
    """Before opset 21 scale and shift are one a group."""
    groups, epsilon = site.integer("num_groups", 1), site.number("epsilon", 1e-5)
    each = site.shape()[1] // groups if site.opset < 21 else 1

    def norm(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        return F.group_norm(x, groups, scale.repeat_interleave(each), shift.repeat_interleave(each), epsilon)

    if each == 1:
        return lambda x, scale, shift: F.group_norm(x, groups, scale, shift, epsilon)
    return norm


@RULES.on("LRN")
def _local_response_norm(site: Site) -> Function:
    size, bias = site.integer("size", 1), site.number("bias", 1.0)
    alpha, beta = site.number("alpha", 1e-4), site.number("beta", 0.75)
    channels, before = site.shape()[1], (size - 1) // 2

    def norm(x: Tensor) -> Tensor:
        squares = F.pad(x * x, [0, 0] * (x.dim() - 2) + [before, size - 1 - before])
        total = torch.stack([squares.narrow(1, offset, channels) for offset in range(size)]).sum(0)
        return x / torch.pow(bias + alpha / size * total, beta)

    return norm


@RULES.on("MeanVarianceNormalization")
def _mean_variance_norm(site: Site) -> Function:
    axes = site.integers("axes") or [0, 2, 3]

    def norm(x: Tensor) -> Tensor:
        centred = x - torch.mean(x, axes, keepdim=True)
        return centred / (torch.sqrt(torch.mean(centred * centred, axes, keepdim=True)) + 1e-9)

    return norm


@RULES.on("LpNormalization")
def _lp_norm(site: Site) -> Function:
    axis, power = site.axis("axis", -1), site.integer("p", 2)

    def norm(x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x, power, axis, keepdim=True)
        return torch.where(length == 0, torch.zeros_like(x), x / length)

    return norm
