"""Outputs held against the original's: what was lost.

Of scores of classes, the Kullback-Leibler divergence KL(p || q) = sum_i p_i (log p_i - log q_i) of the original's
probabilities p from those of the patched network q, in nats, as a mean over rows (samples; positions where there are
several). Rounding can make a mean of zeros negative by 1e-17; that is zero here. Where no output has scores of classes,
||y' - y||^2 / ||y||^2 of the first output in floating point, both summed over all samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from hwbench.errors import UsageError
from hwbench.records.base import Missing
from hwbench.records.sensitivity import StitchAnswer
from hwbench.train.outputs import (
    IGNORE,
    Kind,
    class_axes,
    classes_last,
    floats,
    log_probabilities,
    output_kinds,
    rows_of_classes,
)

Tensor = torch.Tensor
Array = np.ndarray[Any, np.dtype[Any]]
Measure = Literal["kl", "relative"]
_CLASSES = {"logits", "probabilities", "log-probabilities"}


@dataclass(frozen=True)
class Output:
    """Which output is held against the original's, and what it is."""

    index: int
    kind: Kind
    axis: int | None
    measure: Measure

    @classmethod
    def of(cls, view: torch.fx.GraphModule, outputs: Sequence[Tensor], inputs: Sequence[Tensor]) -> Output:
        """Tell from the last layers; see :func:`hwbench.train.outputs.output_kinds`.

        Raises:
            UsageError: no output is in floating point.
        """
        several = floats(outputs)
        kinds, axes = output_kinds(view, several, inputs), class_axes(view, several)
        classes = next((at for at, kind in enumerate(kinds) if kind in _CLASSES), None)
        if classes is not None:
            return cls(classes, kinds[classes], axes[classes], "kl")
        for at, kind in enumerate(kinds):
            if kind == "values":
                return cls(at, kind, None, "relative")
        raise UsageError("no output is in floating point, so nothing can be held against the original's")

    def pick(self, outputs: Sequence[Tensor]) -> Tensor:
        """Return the output, in at least float32."""
        return floats(outputs)[self.index]

    def rows(self, output: Tensor) -> Tensor:
        """Return logarithms of probabilities, rows x classes, in float64."""
        scores = log_probabilities(classes_last(output, self.axis), self.kind)
        return torch.log_softmax(scores.reshape(-1, scores.shape[-1]).double(), -1)


class Tally:
    """Sums over batches."""

    def __init__(self, output: Output) -> None:
        self.output = output
        self.lost = self.size = 0.0
        self.same = self.rows = self.right = self.judged = self.n = 0
        self.trouble: Missing | None = None

    def add(self, wanted: Tensor, found: Tensor, labels: Array | None, samples: int) -> None:
        """Add a batch of outputs: the original's and the patched network's."""
        self.n += samples
        if self.output.measure == "relative":
            self.lost += float((found.double() - wanted.double()).square().sum())
            self.size += float(wanted.double().square().sum())
            return
        p, q = self.output.rows(wanted), self.output.rows(found)
        self.lost += float((p.exp() * torch.where(p > -torch.inf, p - q, 0)).sum())
        self.rows += len(p)
        self.same += int((p.argmax(-1) == q.argmax(-1)).sum())
        if labels is not None and self.trouble is None:
            self._judge(found, labels)

    def _judge(self, found: Tensor, labels: Array) -> None:
        if not np.issubdtype(labels.dtype, np.integer):
            self.trouble = Missing(code="no_classes", why="the labels are no classes")
            return
        try:
            rows, classes = rows_of_classes(found, torch.from_numpy(np.array(labels)), self.output.axis)
        except UsageError as error:
            self.trouble = Missing(code="labels_do_not_fit", why=error.message)
            return
        counts = classes != IGNORE
        self.right += int((rows.argmax(-1)[counts] == classes[counts]).sum())
        self.judged += int(counts.sum())

    def result(self) -> StitchAnswer:
        """Return what was lost."""
        if self.output.measure == "relative":
            no = Missing(code="no_classes", why="no output has scores of classes")
            return StitchAnswer(divergence=self.lost / (self.size or 1.0), agreement=no, accuracy=no, n=self.n)
        unlabelled = Missing(code="no_labels", why="the samples have no labels")
        accuracy = self.right / self.judged if self.judged else (self.trouble or unlabelled)
        return StitchAnswer(
            divergence=max(0.0, self.lost / self.rows),
            agreement=self.same / self.rows,
            accuracy=accuracy,
            n=self.n,
        )
