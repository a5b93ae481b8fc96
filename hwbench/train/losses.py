"""Losses: against labels, against nothing at all, and the base of those that a trainer takes.

``outputs`` is what a view returns: a tensor, or a sequence of them. Labels belong to the first output in floating
point. Integer labels are classes, also one a token or pixel; those of -100 are not judged. Labels in floating point
are values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name

from hwbench.errors import ModelError, UsageError
from hwbench.train.outputs import (
    IGNORE,
    Kind,
    Outputs,
    Tensor,
    check_classes,
    class_axes,
    classes_last,
    floats,
    log_probabilities,
    looks_like,
    output_kinds,
    rows_of_classes,
)


def task_loss(outputs: Outputs, labels: Tensor, *, kind: Kind | None = None, axis: int | None = None) -> Tensor:
    """Return the mean cross-entropy (integer labels) or mean squared error (labels in floating point).

    Labels of -100 do not count in the mean, which is zero where there are no others.

    Args:
        outputs: [N, C], [N, T, V] or maps [N, C, H, W] for classes; any shape for values.
        labels: [N], [N, T], [N, H, W]; or values of the output's shape.
        kind: what the scores of classes are; None: logits.
        axis: the output's axis of classes, where the labels' shape leaves it open.

    Raises:
        UsageError: shapes do not fit.
    """
    output = _first(floats(outputs))
    if labels.is_floating_point():
        if labels.numel() != output.numel():
            raise UsageError(f"labels of shape {tuple(labels.shape)} do not fit an output of {tuple(output.shape)}")
        return F.mse_loss(output, labels.reshape(output.shape).to(output.dtype))
    rows, classes = rows_of_classes(output, labels, axis)
    total = F.cross_entropy(
        log_probabilities(rows, kind or "logits"), classes.long(), ignore_index=IGNORE, reduction="sum"
    )
    return total / max(1, judged_rows(classes))


def label_free_loss(
    outputs: Outputs,
    rng: np.random.Generator,
    *,
    kinds: Sequence[Kind] | None = None,
    axes: Sequence[int | None] | None = None,
) -> Tensor:
    """Return a loss whose gradients tell what weights do, for samples without labels: a mean over the rows.

    For classes: the cross-entropy of classes drawn from the network's own softmax, so that squared gradients of single
    rows average to the true Fisher information (arXiv:1905.12558). For values: their product with a vector of normal
    random numbers, so that they average to the diagonal of J^T J. Outputs of several kinds are added up.

    Args:
        outputs: what the view returned.
        rng: the draws; on the CPU, so that devices agree.
        kinds: what each output is; None: judged by their numbers, which takes embeddings for logits.
        axes: which axis of each output counts classes; None: the last, of maps the second.
    """
    several = floats(outputs)
    told = kinds or [looks_like(output) for output in several]
    places = axes or [None] * len(several)
    parts = zip(several, told, places, strict=True)
    terms = [_drawn(output, kind, axis, rng) for output, kind, axis in parts if kind != "integers"]
    if not terms:
        raise UsageError("no output is in floating point, so nothing has a gradient")
    return torch.stack(terms).sum()


class Loss(torch.nn.Module):
    """Base of losses that a trainer takes. Parameters that it has are trained along.

    ``forward(outputs, labels, taught)`` returns the loss of a batch; ``taught``: the teacher's outputs, or None.
    """

    def start(self, view: torch.fx.GraphModule, teacher: torch.fx.GraphModule | None, inputs: Sequence[Tensor]) -> None:
        """Look at the networks; both are in evaluation mode, ``inputs`` is one batch. Raises what does not fit."""

    def score(self, outputs: Outputs, labels: Tensor | None, taught: Outputs | None) -> tuple[int, int] | None:
        """Return how many rows of a batch are right, and of how many; None where there is no right and wrong."""
        return None

    def rows(self, labels: Tensor | None, samples: int) -> int:
        """Return how many rows the loss of a batch of so many samples is a mean over: its weight among batches."""
        return samples

    def check(self, outputs: Outputs, labels: np.ndarray[Any, np.dtype[Any]] | None) -> None:
        """Refuse labels that do not fit the network's outputs, all at once before the first step."""

    def told(self) -> str:
        """Return what makes this loss differ from others of its class: a checkpoint is only taken up by the same."""
        return ""

    def finish(self) -> None:
        """Take hooks off the networks."""


class TaskLoss(Loss):
    """:func:`task_loss` on the first output in floating point, with a Softmax at the network's end seen."""

    kind: Kind = "logits"
    axis: int | None = None

    def start(self, view: torch.fx.GraphModule, teacher: torch.fx.GraphModule | None, inputs: Sequence[Tensor]) -> None:
        with torch.no_grad():
            outputs = floats(view(*inputs))
        kinds = output_kinds(view, outputs, inputs)
        told = zip(kinds, class_axes(view, outputs), strict=True)
        self.kind, self.axis = next((each for each in told if each[0] != "integers"), ("values", None))
        require_finite(outputs, "the network")

    def check(self, outputs: Outputs, labels: np.ndarray[Any, np.dtype[Any]] | None) -> None:
        if labels is not None:
            check_classes(outputs, labels, self.axis)

    def forward(self, outputs: Outputs, labels: Tensor | None, taught: Outputs | None) -> Tensor:
        """Return the loss of a batch with labels."""
        return task_loss(outputs, need_labels(labels), kind=self.kind, axis=self.axis)

    def rows(self, labels: Tensor | None, samples: int) -> int:
        return samples if labels is None or labels.is_floating_point() else judged_rows(labels)

    def score(self, outputs: Outputs, labels: Tensor | None, taught: Outputs | None) -> tuple[int, int] | None:
        return None if labels is None or labels.is_floating_point() else right(outputs, labels, self.axis)


def judged_rows(labels: Tensor) -> int:
    """Return how many integer labels are judged."""
    return int((labels != IGNORE).sum())


def right(outputs: Outputs, labels: Tensor, axis: int | None = None) -> tuple[int, int]:
    """Return how many rows have their highest score at the label, and how many have a label that is judged."""
    rows, classes = rows_of_classes(_first(floats(outputs)), labels, axis)
    judged = classes != IGNORE
    return int((rows.argmax(-1) == classes)[judged].sum()), int(judged.sum())


def need_labels(labels: Tensor | None) -> Tensor:
    """Return the labels.

    Raises:
        UsageError: there are none.
    """
    if labels is None:
        raise UsageError("this loss needs labels, and the samples have none", hint="or train without labels")
    return labels


def require_finite(outputs: Sequence[Tensor], who: str) -> None:
    """Refuse outputs with NaN or infinity.

    Raises:
        ModelError: there is one; ``who`` has put it out.
    """
    if not all(bool(torch.isfinite(output).all()) for output in outputs if output.is_floating_point()):
        raise ModelError(f"{who} puts out NaN or infinity on the data before it is trained")


def _first(outputs: Sequence[Tensor]) -> Tensor:
    for output in outputs:
        if output.is_floating_point():
            return output
    raise UsageError("no output is in floating point, so nothing can be learned from it")


def _drawn(output: Tensor, kind: Kind, axis: int | None, rng: np.random.Generator) -> Tensor:
    if kind == "values":
        random = torch.from_numpy(rng.standard_normal(tuple(output.shape))).to(output)
        return (output * random).sum() / output.shape[0]
    scores = log_probabilities(classes_last(output, axis), kind)
    rows = scores.reshape(-1, scores.shape[-1])
    chance = torch.softmax(rows.detach().double(), -1).cpu().numpy()
    drawn = (chance.cumsum(-1) < rng.random((len(chance), 1)) * chance.sum(-1, keepdims=True)).sum(-1)
    classes = torch.from_numpy(np.minimum(drawn, rows.shape[-1] - 1)).to(rows.device)
    return F.cross_entropy(rows, classes)
