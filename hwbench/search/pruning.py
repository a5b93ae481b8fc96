"""Giving a training up before its end, by how earlier ones went.

Optuna's pruners judge a trial of one objective only. What is judged here is always the same, how good a network is
after each epoch; so the curves live in a study of their own, in memory, which is told again what earlier trials did.
That is cheap, and serves searches with several objectives as well as those that were resumed.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from hwbench.records.search import CurvePoint, Pruner, Trial
from hwbench.search.samplers import load_optuna, make_pruner
from hwbench.train.progress import Epoch


class Pruned(Exception):
    """A training is given up; the message says why."""


class CurveJudge:
    """Hears the curve of one training, and knows those of ``earlier`` trials."""

    def __init__(self, pruner: Pruner, earlier: Iterable[Trial]) -> None:
        optuna = load_optuna()
        self.pruner = pruner
        self.study = optuna.create_study(
            direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0), pruner=make_pruner(pruner)
        )
        for trial in earlier:
            if trial.curve and trial.same_as is None and trial.state != "failed":
                self._replay(trial.curve, pruned=trial.state == "pruned")
        self.running = self.study.ask()
        self.curve: list[CurvePoint] = []

    def _replay(self, curve: Iterable[CurvePoint], *, pruned: bool) -> None:
        running, last = self.study.ask(), 0.0
        for point in curve:
            running.report(point.value, point.epoch)
            running.should_prune()  # so that successive halving notes the rungs that it has reached
            last = point.value
        states = load_optuna().trial.TrialState
        self.study.tell(running, None if pruned else last, state=states.PRUNED if pruned else None)

    def hear(self, epoch: int, value: float) -> None:
        """Note how good the network is after an epoch; larger is better.

        Raises:
            Pruned: that is worse than what the pruner lets go on.
        """
        if self.curve and epoch <= self.curve[-1].epoch:
            return
        self.curve.append(CurvePoint(epoch=epoch, value=value))
        self.running.report(value, epoch)
        if self.running.should_prune():
            msg = f"after epoch {epoch} it was at {value:.4g}, and the pruner '{self.pruner}' gave it up"
            raise Pruned(msg)


def epochs_in(path: Path) -> list[Epoch]:
    """Return the epochs that a training has finished, which it notes in a file; none where there is none yet."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[Epoch])
    except FileNotFoundError:
        return []


def score_after(epoch: Epoch) -> float:
    """Return how good a network was after an epoch: what is right of the held-out samples, else minus the loss."""
    if epoch.score is not None:
        return epoch.score
    return -(epoch.loss if epoch.held_out is None else epoch.held_out)
