"""Gradients of the loss, sample by sample, from one backward pass a batch.

The backward pass stops at the outputs of the layers. In inference samples do not see each other, so what comes back
there for one sample is that sample's own; its gradient with respect to the weights is then the layer's, run on that
sample alone, for all samples of a batch at once (``torch.func.vmap``). That a layer keeps the samples apart along its
first axis is tested on the first batch: the loss of the first sample must send nothing back to the others.

The loss of each sample is taken by itself: a mean over its positions where it has several. With labels it is the
task's; without any it is that of labels drawn from the network's own outputs, which makes the Fisher information the
true one and not the empirical one (arXiv:1905.12558).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hwbench.compress.base import Subject
from hwbench.compress.statistics.behind import behind
from hwbench.compress.statistics.watch import check_finite, modules, passes, producer, watching
from hwbench.errors import UsageError
from hwbench.graph.linear import Linear

if TYPE_CHECKING:
    import torch

    from hwbench.torch_view.layer import Layer
    from hwbench.train.outputs import Kind

Array = np.ndarray[Any, np.dtype[Any]]
Loss = Callable[[tuple["torch.Tensor", ...], "torch.Tensor | None"], "torch.Tensor"]
"""From the outputs of one sample, batch axis kept, and its labels to one number."""

_HELD = 1 << 25  # gradients of single weights of single samples that are held at a time


@dataclass(frozen=True, kw_only=True)
class WeightGradients:
    """Of the loss with respect to each weight, in the form of the weights, float64.

    ``absolute``: mean of |g| over the samples. ``square``: mean of g^2 over the samples, the diagonal of the Fisher
    information. ``batch_square``: mean over the batches of the square of the batch's mean gradient, with
    ``batch_size`` samples each; with one it is ``square``.
    """

    absolute: Array
    square: Array
    batch_square: Array
    samples: int
    batch_size: int


@dataclass(frozen=True, kw_only=True)
class ChannelGradients:
    """What taking away an output channel does to the loss, to first order.

    ``change`` [samples, output channels], float64: the sum over positions of gradient times value, behind bias and
    BatchNorm and before the activation. ``batch_size``: samples that followed each other in one batch.
    """

    change: Array
    batch_size: int


@dataclass
class _Seen:
    x: torch.Tensor
    y: torch.Tensor


def weight_gradients(
    subject: Subject, layers: Mapping[str, Linear], rng: np.random.Generator, *, loss: Loss | None = None
) -> dict[str, WeightGradients]:
    """Gather the gradients of the weights of ``layers`` over the samples.

    Raises:
        UsageError: there are no samples, or the network mixes the samples of a batch.
        ModelError: NaN or infinity on the data.
    """
    import torch

    sums = {name: [torch.zeros(1, dtype=torch.float64)] * 3 for name in layers}
    view = subject.view()
    found = modules(view)
    batches = subject.need_samples("gradients of the loss").batches
    for seen, back in _backward(subject, view, {name: name for name in layers}, loss or _TaskLoss(rng)):
        for name in layers:
            parts = _of_samples(found[name], seen[name].x, back[name], subject.batch)
            sums[name] = [old + new.double().cpu() for old, new in zip(sums[name], parts, strict=True)]
    return {name: _weight_gradients(total, batches, subject.batch) for name, total in sums.items()}


def _weight_gradients(sums: list[torch.Tensor], batches: int, size: int) -> WeightGradients:
    absolute, square, batch = (total.numpy() for total in sums)
    count = batches * size
    return WeightGradients(
        absolute=absolute / count,
        square=square / count,
        batch_square=batch / batches,
        samples=count,
        batch_size=size,
    )


def channel_gradients(
    subject: Subject, layers: Mapping[str, Linear], rng: np.random.Generator, *, loss: Loss | None = None
) -> dict[str, ChannelGradients]:
    """Gather what each output channel of ``layers`` does to the loss of each sample.

    Raises:
        UsageError: there are no samples, or the network mixes the samples of a batch.
        ModelError: NaN or infinity on the data.
    """
    places = {name: behind(layer) for name, layer in layers.items()}
    at = {name: producer(place.normed) for name, place in places.items()}
    changes: dict[str, list[Array]] = {name: [] for name in layers}
    for seen, back in _backward(subject, subject.view(), at, loss or _TaskLoss(rng)):
        for name, place in places.items():
            product = (seen[name].y.double() * back[name].double()).movedim(place.axis, -1)
            changes[name].append(product.reshape(subject.batch, -1, product.shape[-1]).sum(1).cpu().numpy())
    return {
        name: ChannelGradients(change=np.concatenate(parts), batch_size=subject.batch)
        for name, parts in changes.items()
    }


class _TaskLoss:
    """The task's loss, which without labels draws them; what the outputs are is told from the first batch."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.kinds: list[Kind] = []
        self.axes: list[int | None] = []

    def look(self, view: torch.fx.GraphModule, outputs: tuple[torch.Tensor, ...], inputs: Any) -> None:
        """Tell logits from probabilities and values."""
        from hwbench.train.outputs import class_axes, floats, output_kinds

        if not self.kinds:
            self.kinds, self.axes = output_kinds(view, floats(outputs), inputs), class_axes(view, floats(outputs))

    def __call__(self, outputs: tuple[torch.Tensor, ...], labels: torch.Tensor | None) -> torch.Tensor:
        from hwbench.train.losses import label_free_loss, task_loss

        if labels is None:
            return label_free_loss(outputs, self.rng, kinds=self.kinds, axes=self.axes)
        told = zip(self.kinds, self.axes, strict=True)
        kind, axis = next((each for each in told if each[0] != "integers"), (None, None))
        return task_loss(outputs, labels, kind=kind, axis=axis)


def _backward(
    subject: Subject, view: torch.fx.GraphModule, at: Mapping[str, str], loss: Loss
) -> Iterator[tuple[dict[str, _Seen], dict[str, torch.Tensor]]]:
    """Go through the samples; for each batch yield what the layers saw, and each sample's gradient at their outputs.

    ``at`` gives, for each key of what is yielded, the name of the layer that is watched.
    """
    import torch

    view.requires_grad_(False)
    seen: dict[str, _Seen] = {}

    def hook_of(key: str) -> Any:
        def hook(_module: Layer, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
            output = output if output.requires_grad else output.detach().requires_grad_()
            seen[key] = _Seen(given[0].detach() if given else output.detach(), output)
            return output

        return hook

    with watching(view, [(name, hook_of(key)) for key, name in at.items()]):
        for index, (tensors, labels) in enumerate(passes(subject, "gradients of the loss")):
            with torch.enable_grad():
                results = view(*tensors)
                if isinstance(loss, _TaskLoss):
                    loss.look(view, results, tensors)
                losses = _each(results, labels, loss, subject)
            outputs = {key: one.y for key, one in seen.items()}
            if index == 0 and subject.batch > 1:
                _check_apart(losses[0], outputs, at, subject.batch)
            back = _gradients(losses.sum(), outputs, keep=False)
            for key, name in at.items():
                check_finite(name, back[key], outputs[key].detach())
            for one in seen.values():
                one.y = one.y.detach()
            yield seen, back


def _each(outputs: tuple[torch.Tensor, ...], labels: Array | None, loss: Loss, subject: Subject) -> torch.Tensor:
    """Return the loss of each sample."""
    import torch

    count = subject.batch
    for output in outputs:
        if output.dim() == 0 or output.shape[0] % count:
            raise UsageError(f"an output of shape {tuple(output.shape)} does not hold {count} samples apart")
    given = None if labels is None else torch.from_numpy(np.asarray(labels)).to(subject.device)
    return torch.stack(
        [
            loss(
                tuple(output.reshape(count, -1, *output.shape[1:])[index] for output in outputs),
                None if given is None else given[index : index + 1],
            )
            for index in range(count)
        ]
    )


def _gradients(total: torch.Tensor, outputs: Mapping[str, torch.Tensor], *, keep: bool) -> dict[str, torch.Tensor]:
    import torch

    found: tuple[torch.Tensor | None, ...] = torch.autograd.grad(
        total, list(outputs.values()), retain_graph=keep, allow_unused=True
    )
    return {
        key: torch.zeros_like(output) if gradient is None else gradient
        for (key, output), gradient in zip(outputs.items(), found, strict=True)
    }


def _check_apart(first: torch.Tensor, outputs: Mapping[str, torch.Tensor], at: Mapping[str, str], count: int) -> None:
    """Check that the loss of the first sample comes back in the first part of each tensor alone."""
    for key, gradient in _gradients(first, outputs, keep=True).items():
        if gradient.shape[0] % count or bool(gradient[gradient.shape[0] // count :].any()):
            raise UsageError(
                f"the samples of a batch of {count} cannot be told apart at layer '{at[key]}'",
                hint="bring the network in with a batch of one: --batch-size 1",
            )


def _of_samples(module: Layer, x: torch.Tensor, back: torch.Tensor, count: int) -> tuple[torch.Tensor, ...]:
    """Return the sums over samples of |g| and g^2, and the square of the mean of g, for the weight of a layer."""
    import torch

    slot = module.arguments[1]
    assert isinstance(slot, str)
    weight = getattr(module, slot).detach()

    def gradient(one: torch.Tensor, coming: torch.Tensor) -> torch.Tensor:
        pull: Any = torch.func.vjp(lambda w: module.function(one, w), weight)[1]
        result: torch.Tensor = pull(coming)[0]
        return result

    each = torch.func.vmap(gradient)
    parts = [tensor.reshape(count, -1, *tensor.shape[1:]) for tensor in (x, back)]
    step = max(1, _HELD // weight.numel())
    total, absolute, square = (torch.zeros(weight.shape, dtype=torch.float32, device=x.device) for _ in range(3))
    for start in range(0, count, step):
        found = each(*[part[start : start + step] for part in parts]).float()
        total += found.sum(0)
        absolute += found.abs().sum(0)
        square += found.square().sum(0)
    return absolute, square, (total / count).square()
