"""What may be done beside the steps of a training: masks, penalties, schedules."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch

from hwbench.train.parameters import by_initializer


class Hook:
    """Base of hooks: nothing is done.

    ``rate``, set by the trainer before :meth:`after_step`: how far the step just made moves a weight whose gradient is
    always one: the learning rate, with SGD over one minus momentum.

    All calls are made on the training device; weights are changed under ``torch.no_grad()``.
    """

    rate: float = 0.0

    def start(self, view: torch.nn.Module) -> None:
        """Training begins: look up the tensors."""

    def penalty(self) -> torch.Tensor | None:
        """Return a term of the loss, once a step, or None."""
        return None

    def before_step(self) -> None:
        """Change gradients, after they are complete and before they are clipped."""

    def after_step(self, fraction: float) -> None:
        """Change weights; ``fraction`` of the training is done, one after its last step."""

    def after_epoch(self, epoch: int, epochs: int) -> None:
        """Change weights before they are judged; ``epoch`` counts from one."""

    @property
    def ready(self) -> bool:
        """Whether the weights, as they are, could be the end: only then an epoch can be the best one."""
        return True

    def told(self) -> str:
        """Return what makes this hook differ from others of its class: a checkpoint is only taken up by the same."""
        return ""

    def state(self) -> dict[str, Any]:
        """Return tensors and plain values that, given to :meth:`restore`, let a training go on as if uninterrupted."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Take what :meth:`state` returned; called after :meth:`start`."""

    def finish(self) -> None:
        """Training is over, and the weights to keep are in the view."""


class HoldZeros(Hook):
    """Weights that are zero when training starts stay zero.

    Args:
        view: the view.
        names: initialisers; those that the view does not train are passed over.
    """

    def __init__(self, view: torch.nn.Module, names: Collection[str]) -> None:
        self._tensors = {name: tensor for name, tensor in by_initializer(view).items() if name in names}
        self._masks: dict[str, torch.Tensor] = {}

    def start(self, view: torch.nn.Module) -> None:
        self._masks = {name: tensor.detach() != 0 for name, tensor in self._tensors.items()}

    def before_step(self) -> None:
        for name, tensor in self._tensors.items():
            if tensor.grad is not None:
                tensor.grad.mul_(self._masks[name])

    def after_step(self, fraction: float) -> None:
        for name, tensor in self._tensors.items():
            tensor.detach().mul_(self._masks[name])

    def told(self) -> str:
        return ",".join(self._tensors)

    def lost(self) -> int:
        """Return how many weights that must be zero are not."""
        return sum(int((tensor.detach()[~self._masks[name]] != 0).sum()) for name, tensor in self._tensors.items())

    def state(self) -> dict[str, Any]:
        return {"masks": self._masks}

    def restore(self, state: dict[str, Any]) -> None:
        self._masks = {name: mask.to(self._tensors[name].device) for name, mask in state["masks"].items()}
