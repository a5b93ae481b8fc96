"""How a network is trained: rate, length, precision, when to stop. Free of torch, so that methods can be listed."""

from __future__ import annotations

import math
from typing import Any, Literal

import msgspec

from hwbench.errors import UsageError


class TrainSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of :class:`hwbench.train.trainer.Trainer`; the batch is the one that the network is fixed to.

    ``learning_rate`` is reached after ``warmup`` (a fraction of the training, linear) and falls to zero along half a
    cosine (arXiv:1608.03983) or stays ``constant``. ``weight_decay`` acts on weights with two axes or more, never on
    biases and norms. ``accumulate``: batches whose gradients are averaged into one step. ``precision``: what autocast
    computes in; ``fp16`` needs CUDA and scales the loss. ``clip_norm``: the largest 2-norm of all gradients together.
    ``freeze_norms``: BatchNormalization keeps its statistics and computes with them, as it must when a batch is
    small. ``patience``: epochs without improvement on held-out samples, after which training stops; ``judge`` says
    what improves: their loss, or the fraction of right classes. ``keep_best``: end with the best epoch's weights, not
    with the last ones. ``max_seconds`` also shortens the schedule, so that the rate has fallen when time is up; a
    training that was cut short by time cannot be repeated exactly. ``flip`` and ``shift`` (pixels): images are
    mirrored and moved at random, held-out ones excepted.

    Raises:
        UsageError: a value is out of bounds.
    """

    epochs: int = 10
    learning_rate: float = 0.01
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.9  # of sgd; Nesterov's where it is not zero
    weight_decay: float = 1e-4
    warmup: float = 0.0
    schedule: Literal["cosine", "constant"] = "cosine"
    accumulate: int = 1
    precision: Literal["none", "bf16", "fp16"] = "none"
    clip_norm: float | None = None
    freeze_norms: bool = False
    patience: int | None = None
    judge: Literal["loss", "score"] = "loss"
    keep_best: bool = True
    max_steps: int | None = None
    max_seconds: float | None = None
    flip: bool = False
    shift: int = 0

    def __post_init__(self) -> None:
        within("epochs", self.epochs, 0)
        within("learning_rate", self.learning_rate, 0, above=True)
        within("momentum", self.momentum, 0, 1, below=True)
        within("weight_decay", self.weight_decay, 0)
        within("warmup", self.warmup, 0, 1, below=True)
        within("accumulate", self.accumulate, 1)
        within("clip_norm", self.clip_norm, 0, above=True)
        within("patience", self.patience, 1)
        within("max_steps", self.max_steps, 1)
        within("max_seconds", self.max_seconds, 0, above=True)
        within("shift", self.shift, 0)

    def rate(self, done: float, step: float) -> float:
        """Return the learning rate after the fraction ``done`` of the training; ``step``: the fraction of one step."""
        if done + step <= self.warmup:
            return self.learning_rate * (done + step) / self.warmup
        if self.schedule == "constant":
            return self.learning_rate
        fallen = max(0.0, done - self.warmup) / (1 - self.warmup)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, fallen)))

    def reach(self, rate: float) -> float:
        """Return how far a step at a learning rate moves a weight whose gradient has always been one."""
        return rate / (1 - self.momentum) if self.optimizer == "sgd" else rate


def train_settings(settings: TrainSettings, **changed: Any) -> TrainSettings:
    """Return what the settings of a method say about training, with ``changed`` fields."""
    values = {name: getattr(settings, name) for name in TrainSettings.__struct_fields__}
    return TrainSettings(**{**values, **changed})


def within(
    name: str,
    value: float | None,
    lowest: float,
    highest: float = math.inf,
    *,
    above: bool = False,
    below: bool = False,
) -> None:
    """Refuse a setting out of bounds; ``above`` and ``below``: the bound itself is out too. None passes.

    Raises:
        UsageError: says what is allowed.
    """
    if value is None:
        return
    low = value > lowest if above else value >= lowest
    high = value < highest if below else value <= highest
    if not (math.isfinite(value) and low and high):
        left, right = (">" if above else ">="), ("<" if below else "<=")
        upper = "" if highest == math.inf else f" and {right} {highest:g}"
        raise UsageError(f"{name} is {value}", hint=f"it must be {left} {lowest:g}{upper}")
