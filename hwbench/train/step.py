"""One step of a training: several batches, one change of the weights."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch

from hwbench.data.store import Array
from hwbench.errors import UsageError
from hwbench.torch_view.tables import input_names
from hwbench.train.augment import Augment
from hwbench.train.hooks import Hook
from hwbench.train.losses import Loss
from hwbench.train.parameters import trainable
from hwbench.train.settings import TrainSettings

Tensor = torch.Tensor
Batch = tuple[dict[str, Array], Array | None]
_PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Stepper:
    """Optimizer, loss scaling and mixed precision around a view.

    Raises:
        UsageError: nothing can be trained, weights are in half precision, or fp16 is asked for without CUDA.
    """

    def __init__(
        self,
        view: torch.fx.GraphModule,
        loss: Loss,
        teacher: torch.fx.GraphModule | None,
        settings: TrainSettings,
        hooks: Sequence[Hook],
        device: torch.device,
    ) -> None:
        self.view, self.loss, self.teacher, self.settings = view, loss, teacher, settings
        self.hooks, self.device = hooks, device
        if settings.precision == "fp16" and device.type != "cuda":
            raise UsageError(f"precision fp16 needs CUDA, and the device is {device}", hint="bf16 or none")
        self.weights = [*_weights(view), *loss.parameters()]
        self.optimizer = self._optimizer()
        self.scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "fp16")

    def step(self, group: Sequence[Batch], rate: float, augment: Augment) -> float:
        """Change the weights once by the mean gradient of the batches; return their mean loss, without penalties.

        Where that is not finite, the weights are left as they are.
        """
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for batch in group:
            loss = self._loss(batch, augment) / len(group)
            self._backward(loss)
            total += float(loss.detach())
        if not np.isfinite(total):
            return total
        for penalty in [hook.penalty() for hook in self.hooks]:
            if penalty is not None:
                self._backward(penalty)
        self._change()
        return total

    def judged(self, batch: Batch, samples: int) -> tuple[float, int, tuple[int, int] | None]:
        """Return the loss of a batch in evaluation mode, over how many rows, and how many are right; in full precision.

        Only the first ``samples`` of the batch count where all outputs have the batch on their first axis; features
        are compared over the whole batch.
        """
        with torch.no_grad():
            inputs, labels = tensors(self.view, batch, self.device)
            outputs, taught = self.view(*inputs), self._taught(inputs)
            size = len(inputs[0])
            if samples < size and all(output.dim() and len(output) == size for output in outputs):
                outputs = tuple(output[:samples] for output in outputs)
                taught = None if taught is None else tuple(output[:samples] for output in taught)
                labels = None if labels is None else labels[:samples]
            loss, score = float(self.loss(outputs, labels, taught)), self.loss.score(outputs, labels, taught)
            return loss, self.loss.rows(labels, min(samples, size)), score

    def training(self) -> None:
        """Put the view into training mode; norms keep their statistics if they are frozen, by settings or weights."""
        self.view.train()
        for module in self.view.modules():
            if getattr(module, "operator", None) == "BatchNormalization":
                trained = any(tensor.requires_grad for tensor in module.parameters())
                module.train(trained and not self.settings.freeze_norms)

    def state(self) -> dict[str, Any]:
        """Return what :meth:`restore` takes."""
        return {
            "loss": self.loss.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.loss.load_state_dict(state["loss"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])

    def _loss(self, batch: Batch, augment: Augment) -> Tensor:
        inputs, labels = tensors(self.view, batch, self.device)
        inputs = augment(inputs)
        with self._autocast():
            outputs = self.view(*inputs)
            taught = self._taught(inputs)
        loss: Tensor = self.loss(outputs, labels, taught)
        return loss

    def _taught(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...] | None:
        if self.teacher is None:
            return None
        with torch.no_grad():
            taught: tuple[Tensor, ...] = self.teacher(*inputs)
        return taught

    def _backward(self, loss: Tensor) -> None:
        if not loss.requires_grad:
            raise UsageError("the loss depends on no weight that is trained")
        self.scaler.scale(loss).backward()

    def _change(self) -> None:
        self.scaler.unscale_(self.optimizer)
        with torch.no_grad():
            for hook in self.hooks:
                hook.before_step()
        if self.settings.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.weights, self.settings.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _autocast(self) -> AbstractContextManager[Any]:
        dtype = _PRECISIONS.get(self.settings.precision)
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype)

    def _optimizer(self) -> torch.optim.Optimizer:
        decayed = {"params": [tensor for tensor in self.weights if tensor.dim() > 1]}
        others = {"params": [tensor for tensor in self.weights if tensor.dim() <= 1], "weight_decay": 0.0}
        groups: list[dict[str, Any]] = [group for group in (decayed, others) if group["params"]]
        rate, decay, momentum = self.settings.learning_rate, self.settings.weight_decay, self.settings.momentum
        if self.settings.optimizer == "adamw":
            return torch.optim.AdamW(groups, lr=rate, weight_decay=decay)
        return torch.optim.SGD(groups, lr=rate, momentum=momentum, nesterov=momentum > 0, weight_decay=decay)


def tensors(view: torch.fx.GraphModule, batch: Batch, device: torch.device) -> tuple[tuple[Tensor, ...], Tensor | None]:
    """Return a batch as the arguments of a view, and its labels."""
    arrays, labels = batch
    missing = [name for name in input_names(view) if name not in arrays]
    if missing:
        raise UsageError(f"the samples have no input '{missing[0]}'; they have {', '.join(arrays)}")
    inputs = tuple(_on(arrays[name], device) for name in input_names(view))
    return inputs, None if labels is None else _on(labels, device)


def _on(array: Array, device: torch.device) -> Tensor:
    return torch.from_numpy(np.array(array)).to(device)


def _weights(view: torch.nn.Module) -> list[torch.nn.Parameter]:
    weights = list(trainable(view).values())
    if not weights:
        raise UsageError("the network has no weight to train")
    halves = sorted({str(tensor.dtype) for tensor in weights if tensor.element_size() < 4})
    if halves:
        raise UsageError(
            f"the weights are {', '.join(halves)}, too coarse to add small steps to",
            hint="bring the model in in float32; precision says what to compute in",
        )
    ids = {id(tensor) for tensor in weights}
    for tensor in view.parameters():
        tensor.requires_grad_(id(tensor) in ids)
    return weights
