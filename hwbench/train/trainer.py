"""A small trainer of a view: steps, epochs, held-out samples, checkpoints.

    trainer = Trainer(view, samples, Distillation(), TrainSettings(epochs=3), teacher=teacher, folder=..., report=...)
    trained = trainer.run()      # the view now has the weights

What is special about a training is in its loss (:mod:`hwbench.train.losses`) and its hooks
(:mod:`hwbench.train.hooks`). With one thread on a CPU a training is repeated to the bit, also when it was cut off and
went on from its checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from hwbench.data.samples import Samples
from hwbench.errors import ModelError, UsageError
from hwbench.files import write_bytes
from hwbench.train.augment import Augment
from hwbench.train.checkpoint import Checkpoint, identity, snapshot
from hwbench.train.hooks import Hook
from hwbench.train.losses import Loss
from hwbench.train.progress import EPOCHS, Epoch, Progress, Trained, progress_of
from hwbench.train.settings import TrainSettings
from hwbench.train.step import Stepper, tensors
from hwbench.units import Clock, MonotonicClock

_SHUFFLE = 0x5348  # so that the order of samples shares no random numbers with others of the same seed


class Trainer:
    """Trains ``view`` in place, on ``device``, where it stays.

    Args:
        view: a view of the hub; its batch is fixed.
        samples: what to learn from.
        loss: what to lower; its parameters are trained too.
        settings: how.
        hooks: masks, penalties and schedules, called in this order.
        validation: held-out samples, for ``patience`` and for the best epoch; None: the last epoch is kept.
        teacher: another view, whose outputs the loss gets.
        device: torch's name of where to compute.
        folder: checkpoints lie below.
        report: told what goes on, and the fraction done.
        seed: of the order of samples and of dropout.
        clock: for ``max_seconds``.

    Raises:
        UsageError: settings do not fit what is there.
    """

    def __init__(  # noqa: PLR0913 - most have a default
        self,
        view: torch.fx.GraphModule,
        samples: Samples,
        loss: Loss,
        settings: TrainSettings,
        *,
        hooks: Sequence[Hook] = (),
        validation: Samples | None = None,
        teacher: torch.fx.GraphModule | None = None,
        device: str = "cpu",
        folder: Path,
        report: Callable[[str, float | None], None],
        seed: int = 0,
        clock: Clock | None = None,
    ) -> None:
        for given in (samples, validation):
            if given is not None:
                given.need_row_labels()
        moved = settings.flip or settings.shift
        if moved and samples.labels is not None and samples.labels.ndim > 2:
            raise UsageError("flip and shift move images away from labels that are maps", hint="leave them out")
        if settings.patience is not None and validation is None:
            raise UsageError("patience needs held-out samples, and there are none")
        self.device = torch.device(device)
        self.view, self.loss, self.settings = view.to(self.device), loss.to(self.device), settings
        self.samples, self.validation = samples, validation
        self.teacher = None if teacher is None else teacher.to(self.device).eval()
        self.hooks, self.folder, self.report, self.seed = list(hooks), folder, report, seed
        self.clock = clock or MonotonicClock()
        self.progress = Progress()

    def run(self) -> Trained:
        """Train, going on from the checkpoint of this very training where there is one.

        Ctrl-C leaves the checkpoint of the last whole epoch.

        Raises:
            ModelError: the networks put out NaN, or the loss became so. The view then has the best weights so far.
            UsageError: the loss does not fit the network or the samples.
            StorageError: a checkpoint cannot be written or read.
        """
        weights = list(self.view.parameters())
        asked = [tensor.requires_grad for tensor in weights]
        try:
            with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
                torch.manual_seed(self.seed)
                return self._run()
        finally:
            for tensor, grad in zip(weights, asked, strict=True):
                tensor.requires_grad_(grad)
                tensor.grad = None
            self.loss.finish()
            self.view.eval()

    def _run(self) -> Trained:
        parts: list[Loss | Hook] = [self.loss, *self.hooks]
        about = [f"{type(part).__name__}({part.told()})" for part in parts]
        given = [self.view, self.teacher, self.samples, self.validation, *about]
        name = identity(self.settings, self.seed, given)
        self.checkpoint = Checkpoint(self.folder, name)
        self.view.eval()
        inputs, _ = tensors(self.view, next(self.samples.in_order()), self.device)
        self.loss.start(self.view, self.teacher, inputs)
        self.loss.to(self.device)
        with torch.no_grad():
            for samples in (self.samples, self.validation):
                self.loss.check(self.view(*inputs), None if samples is None else samples.labels)
        self.stepper = Stepper(self.view, self.loss, self.teacher, self.settings, self.hooks, self.device)
        for hook in self.hooks:
            hook.start(self.view)
        self.progress.kept = self._weights()
        self._resume()
        self._earlier, self._started = self.progress.seconds, self.clock.now_ns()
        if not self.progress.epoch and self.settings.epochs and self.settings.keep_best and self.validation is not None:
            self._keep(*self._judged())  # the first weights are a candidate too: training must not make things worse
        while self.progress.stopped is None and self.progress.epoch < self.settings.epochs:
            self._epoch()
        self._take(self.progress.kept)
        for hook in self.hooks:
            with torch.no_grad():
                hook.finish()
        return self.progress.trained()

    # One epoch

    def _epoch(self) -> None:
        progress = self.progress
        progress.epoch += 1
        self.stepper.training()
        rng = np.random.default_rng([_SHUFFLE, self.seed, progress.epoch])
        batches = self.samples.shuffled(rng)
        augment = Augment(flip=self.settings.flip, shift=self.settings.shift, rng=rng)
        losses: list[float] = []
        rate = 0.0
        while progress.stopped is None and (group := list(islice(batches, self.settings.accumulate))):
            rate = self.settings.rate(self._done(), 1 / self._steps)
            losses.append(self.stepper.step(group, rate, augment))
            if not math.isfinite(losses[-1]):
                self._diverged(losses[-1])
            progress.steps += 1
            self._after_step(rate)
        with torch.no_grad():
            for hook in self.hooks:
                hook.after_epoch(progress.epoch, self.settings.epochs)
        held_out, score = self._judged()
        progress.history.append(
            Epoch(epoch=progress.epoch, loss=float(np.mean(losses)), held_out=held_out, score=score, rate=rate)
        )
        write_bytes(self.folder / EPOCHS, msgspec.json.encode(progress.history))
        judged = "" if held_out is None else f", held out {held_out:.4g}"
        self.report(f"epoch {progress.epoch}: loss {progress.history[-1].loss:.4g}{judged}", self._done())
        self._keep(held_out, score)
        progress.seconds = self._seconds()
        self.checkpoint.save({**self._state(), "progress": progress.state()})

    def _after_step(self, rate: float) -> None:
        progress, done = self.progress, self._done()
        with torch.no_grad():
            for hook in self.hooks:
                hook.rate = self.settings.reach(rate)
                hook.after_step(done)
        if progress.steps >= self._steps and self.settings.max_steps is not None:
            progress.stopped = f"max_steps, {self.settings.max_steps}, is reached"
        elif self.settings.max_seconds is not None and self._seconds() >= self.settings.max_seconds:
            progress.stopped = f"max_seconds, {self.settings.max_seconds:g}, is reached"
        if progress.steps % max(1, self._steps // 100) == 0:
            self.report(f"epoch {progress.epoch} of {self.settings.epochs}", done)

    @property
    def _steps(self) -> int:
        every = -(-self.samples.batches // self.settings.accumulate) * self.settings.epochs
        return max(1, min(every, self.settings.max_steps or every))

    def _seconds(self) -> float:
        return self._earlier + (self.clock.now_ns() - self._started) / 1e9

    def _done(self) -> float:
        by_time = self._seconds() / self.settings.max_seconds if self.settings.max_seconds else 0.0
        return min(1.0, max(self.progress.steps / self._steps, by_time))

    # Which weights are kept

    def _judged(self) -> tuple[float | None, float | None]:
        if self.validation is None:
            return None, None
        self.view.eval()
        losses, weights, right, rows = [], [], 0, 0
        for batch in self.validation.in_order():
            loss, weight, score = self.stepper.judged(batch, len(self.validation))
            losses.append(loss)
            weights.append(weight)
            right, rows = right + (score or (0, 0))[0], rows + (score or (0, 0))[1]
        held_out = float(np.average(losses, weights=weights)) if any(weights) else None
        return held_out, right / rows if rows else None

    def _keep(self, held_out: float | None, score: float | None) -> None:
        if not all(hook.ready for hook in self.hooks):
            return
        value = held_out
        if self.settings.judge == "score" and self.validation is not None:
            if score is None:
                raise UsageError("judge is 'score', and there are no classes to be right about", hint="judge=loss")
            value = -score
        if self.progress.judge(value, self.settings.patience, keep_best=self.settings.keep_best):
            self.progress.kept = self._weights()

    def _diverged(self, loss: float) -> None:
        self._take(self.progress.kept)
        raise ModelError(
            f"the loss is {loss} in step {self.progress.steps + 1}, epoch {self.progress.epoch}; kept are the weights "
            f"after epoch {self.progress.best_epoch}",
            hint="a lower learning_rate, warmup or clip_norm may help, and precision=none",
        )

    # State

    def _weights(self) -> dict[str, Any]:
        return {"view": snapshot(self.view.state_dict()), "hooks": [snapshot(hook.state()) for hook in self.hooks]}

    def _take(self, weights: dict[str, Any] | None) -> None:
        if weights is not None:
            self.view.load_state_dict(weights["view"])
            for hook, state in zip(self.hooks, weights["hooks"], strict=True):
                hook.restore(snapshot(state))

    def _state(self) -> dict[str, Any]:
        cuda = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        return {**self._weights(), **self.stepper.state(), "random": torch.get_rng_state(), "random_cuda": cuda}

    def _resume(self) -> None:
        state = self.checkpoint.load()
        if state is None:
            return
        self.progress = progress_of(state["progress"])
        self._take(state)
        self.stepper.restore(state)
        torch.set_rng_state(state["random"])
        if state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"], self.device)
        self.report(f"goes on after epoch {self.progress.epoch}", None)
