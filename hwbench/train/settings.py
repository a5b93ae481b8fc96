"""How a network is trained: rate, length, precision, when to stop. Free of torch, so that methods can be listed."""

from __future__ import annotations

import math
from typing import Any, Literal

import msgspec

from hwbench.errors import UsageError


class TrainSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of :class:`hwbench.train.trainer.Trainer`; the batch is the one that the network is fixed to.

    Raises:
        UsageError: a value is out of bounds.
    """

    epochs: int = 10
    """How many times the samples are gone through; 0 trains nothing."""
    learning_rate: float = 0.01
    """The highest learning rate of the schedule."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """sgd with Nesterov's momentum, or AdamW (arXiv:1711.05101)."""
    momentum: float = 0.9
    """Of sgd; 0 to below 1."""
    weight_decay: float = 1e-4
    """Draws weights with two axes or more to zero; never biases, norms and other vectors."""
    warmup: float = 0.0
    """The fraction of the training, 0 to below 1, in which the rate rises linearly."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """After that the rate falls to zero along half a cosine (arXiv:1608.03983), or stays."""
    accumulate: int = 1
    """Batches whose gradients are averaged into one step."""
    precision: Literal["none", "bf16", "fp16"] = "none"
    """What autocast computes in. fp16 needs CUDA; the loss is scaled. Weights stay as they are."""
    clip_norm: float = 5.0
    """The largest 2-norm of all gradients together: what was cut may have steep ones at first. 0: any."""
    freeze_norms: bool = False
    """BatchNormalization keeps its statistics and computes with them, as it must when a batch is small."""
    patience: int | None = None
    """Stop after so many epochs without improvement on held-out samples."""
    judge: Literal["loss", "score"] = "loss"
    """What improves: the loss on held-out samples, or the fraction of them that is right."""
    keep_best: bool = True
    """End with the weights of the best epoch, not of the last one."""
    max_steps: int | None = None
    """Stop after so many steps; the schedule is as long."""
    max_seconds: float | None = None
    """Stop after so long; the rate has fallen by then. Such a training cannot be repeated to the bit."""
    flip: bool = False
    """Mirror every second image at random."""
    shift: int = 0
    """Move images by up to so many pixels at random, their border repeated."""

    def __post_init__(self) -> None:
        within("epochs", self.epochs, 0)
        within("learning_rate", self.learning_rate, 0, above=True)
        within("momentum", self.momentum, 0, 1, below=True)
        within("weight_decay", self.weight_decay, 0)
        within("warmup", self.warmup, 0, 1, below=True)
        within("accumulate", self.accumulate, 1)
        within("clip_norm", self.clip_norm, 0)
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
