"""The statistics of BatchNormalization, measured again on the network as it is now.

Cut or changed weights put out other means and variances than those that BatchNormalization remembers. One pass with
statistics of the batch brings them back: the mean of the batches' means and of their unbiased variances is kept, as
torch's BatchNorm does with ``momentum=None``. Each normalisation then already sees what those before it put out with
their new statistics (Li et al. 2020, arXiv:2007.02491, "adaptive batch normalization").

A batch that gives a channel less than ``LEAST`` numbers says too little about it; such layers are left alone.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch

from hwbench.compress.base import Subject
from hwbench.compress.repair.norm import MEAN, VARIANCE, Norm, norm_of
from hwbench.errors import ModelError
from hwbench.records.base import Missing
from hwbench.records.compression import LeftAlone
from hwbench.torch_view.tables import layer_names

LEAST = 16


@dataclass(frozen=True)
class Reestimated:
    """The normalisations that were changed, and those that were not."""

    changed: tuple[str, ...]
    left_alone: tuple[LeftAlone, ...]


def reestimate(subject: Subject, only: Collection[str] | None = None) -> Reestimated:
    """Measure the statistics of every BatchNormalization (or of ``only`` those) on the samples, in place.

    Raises:
        UsageError: there are no samples.
        ModelError: what reaches a BatchNormalization holds NaN or infinity.
    """
    samples = subject.need_samples("re-estimation of BatchNormalization")
    found = {norm.name: norm for node in subject.model.graph if (norm := norm_of(node)) is not None}
    chosen = {name: norm for name, norm in found.items() if only is None or name in only}
    few = {name: count for name, norm in chosen.items() if (count := _numbers(norm)) < LEAST}
    sums = {name: _Sum() for name in chosen if name not in few}
    if sums:
        _measure(subject, sums)
    for name, one in sums.items():
        mean, variance = one.means(samples.batches)
        if not bool(torch.isfinite(mean).all() and torch.isfinite(variance).all()):
            raise ModelError(f"what reaches '{name}' holds NaN or infinity on these samples")
        chosen[name].set(MEAN, mean.cpu().numpy())
        chosen[name].set(VARIANCE, variance.cpu().numpy())
    return Reestimated(tuple(sums), tuple(LeftAlone(layer=name, reason=_too_few(few[name])) for name in few))


@dataclass
class _Sum:
    mean: torch.Tensor | None = None
    variance: torch.Tensor | None = None

    def see(self, _: torch.nn.Module, given: tuple[Any, ...]) -> None:
        x = given[0].double().movedim(1, 0).flatten(1)
        mean, variance = x.mean(dim=1), x.var(dim=1)
        self.mean = mean if self.mean is None else self.mean + mean
        self.variance = variance if self.variance is None else self.variance + variance

    def means(self, batches: int) -> tuple[torch.Tensor, torch.Tensor]:
        assert self.mean is not None
        assert self.variance is not None
        return self.mean / batches, self.variance / batches


def _measure(subject: Subject, sums: dict[str, _Sum]) -> None:
    view, samples = subject.view(), subject.need_samples("re-estimation of BatchNormalization")
    for submodule, layer in layer_names(view).items():
        if layer in sums:
            module = view.get_submodule(submodule)
            module.train()  # it normalises with the batch's statistics
            module.register_forward_pre_hook(sums[layer].see)
    with torch.no_grad():
        for index, (inputs, _) in enumerate(samples.in_order()):
            subject.report("statistics of BatchNormalization", index / samples.batches)
            view(*subject.tensors(inputs))


def _numbers(norm: Norm) -> int:
    """Return how many numbers of one channel a batch has; none where the shape is not known."""
    value = norm.node.inputs[0]
    if value is None or value.shape is None or not value.shape.is_static():
        return 0
    size = 1
    for axis, length in enumerate(value.shape.numpy()):
        size *= length if axis != 1 else 1
    return size


def _too_few(count: int) -> Missing:
    why = f"a batch has {count} numbers of a channel, and statistics of fewer than {LEAST} say nothing"
    return Missing(code="small_batch", why=why, cure="take a larger --batch-size")
