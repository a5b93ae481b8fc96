"""How far a training is, and which of its epochs was the best."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

EPOCHS = "epochs.json"  # beside the checkpoint: the finished epochs, for whoever watches from another process


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One pass over the samples. ``loss``: the mean over its steps, without penalties.

    ``held_out`` and ``score`` are of the held-out samples, after the pass: their mean loss, and the fraction of rows
    that are right (without labels: that are as the teacher has them). None where no held-out label is judged; such an
    epoch counts as better than those before it.
    """

    epoch: int
    loss: float
    held_out: float | None
    score: float | None
    rate: float  # of the last step


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a training was. ``best_epoch``, from one, is the one whose weights were kept; 0: none was finished."""

    history: tuple[Epoch, ...]
    best_epoch: int
    steps: int
    stopped: str  # why: "all epochs are done", ...


@dataclass
class Progress:
    """Everything about a training that is no tensor of the network or the optimizer."""

    epoch: int = 0
    steps: int = 0
    seconds: float = 0.0  # of earlier runs that this one goes on with
    history: list[Epoch] = field(default_factory=list)
    best_epoch: int = 0
    best_value: float = math.inf  # lower is better
    worse: int = 0  # epochs since
    kept: dict[str, Any] | None = None  # weights and hooks of the best epoch, or of the last where none is judged
    stopped: str | None = None

    def judge(self, value: float | None, patience: int | None, *, keep_best: bool) -> bool:
        """Take note of an epoch's value, lower being better; return whether its weights are to be kept."""
        better = value is None or value < self.best_value
        if value is not None and better:
            self.best_value, self.worse = value, 0
        elif value is not None:
            self.worse += 1  # epoch 0, the weights as they came, is counted from as well
            if patience is not None and self.worse >= patience:
                self.stopped = f"nothing became better in {self.worse} epochs"
        if better or not keep_best:
            self.best_epoch = self.epoch
            return True
        return False

    def trained(self) -> Trained:
        """Return what is told about the training when it is over."""
        return Trained(
            history=tuple(self.history),
            best_epoch=self.best_epoch,
            steps=self.steps,
            stopped=self.stopped or "all epochs are done",
        )

    def state(self) -> dict[str, Any]:
        """Return plain values and tensors."""
        return {**vars(self), "history": [asdict(epoch) for epoch in self.history]}


def progress_of(state: dict[str, Any]) -> Progress:
    """Return what :meth:`Progress.state` was taken of."""
    return Progress(**{**state, "history": [Epoch(**epoch) for epoch in state["history"]]})
