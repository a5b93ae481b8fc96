"""Outputs held against the original's: what was lost.

Of scores of classes, the Kullback-Leibler divergence KL(p || q) = sum_i p_i (log p_i - log q_i) of the original's
probabilities p from those of the patched network q, in nats, as a mean over rows (samples; positions where there are
several). Rounding can make a mean of zeros negative by 1e-17; that is zero here. Where no output has scores of classes,
||y' - y||^2 / ||y||^2 of the first output in floating point, both summed over all samples.

A label for every two samples says that they are pairs of an embedding, in rows 2i and 2i + 1: accuracy is Spearman's
correlation of the labels with the cosines of the pairs then, as the certificate has it.
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
from hwbench.verify.metrics import cosine, spearman

Tensor = torch.Tensor
Array = np.ndarray[Any, np.dtype[Any]]
Measure = Literal["kl", "relative"]
_CLASSES = {"logits", "probabilities", "log-probabilities"}
_FEWEST_PAIRS = 3


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

    def __init__(self, output: Output, pairs: Array | None = None) -> None:
        """Begin. ``pairs``: a label for every two samples, of all of them, where they are pairs."""
        self.output, self.pairs = output, pairs
        self.vectors: list[Array] = []
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

    def take(self, first: Tensor, samples: int) -> None:
        """Take the network's first output of a batch, where samples are pairs of an embedding: it is what is scored."""
        if self.pairs is not None and self.trouble is None:
            if first.ndim < 2 or len(first) != samples:
                self.trouble = Missing(code="labels_do_not_fit", why="the first output is not a vector a sample")
            else:
                self.vectors.append(first.reshape(samples, -1).numpy())

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
            accuracy = no if self.pairs is None else self._correlation(self.pairs)
            return StitchAnswer(divergence=self.lost / (self.size or 1.0), agreement=no, accuracy=accuracy, n=self.n)
        unlabelled = Missing(code="no_labels", why="the samples have no labels")
        accuracy = self.right / self.judged if self.judged else (self.trouble or unlabelled)
        if self.pairs is not None:
            accuracy = self._correlation(self.pairs)
        return StitchAnswer(
            divergence=max(0.0, self.lost / self.rows),
            agreement=self.same / self.rows,
            accuracy=accuracy,
            n=self.n,
        )

    def _correlation(self, labels: Array) -> float | Missing:
        """Return Spearman's correlation over the pairs that were run; batches may begin anew at the first of them."""
        if self.trouble is not None:
            return self.trouble
        vectors = np.concatenate(self.vectors)
        count = len(vectors) // 2
        if count < _FEWEST_PAIRS:
            return Missing(code="too_few", why=f"{count} pairs tell nothing of their order")
        vectors = vectors[: 2 * count]
        return spearman(cosine(vectors[::2], vectors[1::2]), np.resize(labels, count))
