"""``transfer``: the network learns another task, before it is compressed for that one.

The layer that decides the output is replaced by one for the new labels, fitted to what the network makes of the samples
(logistic regression for classes, ridge regression for values) or small and random. Then it is trained: alone, on
features that stay as they are, or with the whole network.

From then on the network as it is now is the original: later steps are held against it, and it is what teaches.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from hwbench.compress.base import Array, Outcome, Settings, Subject
from hwbench.compress.new_head import Head, heads
from hwbench.compress.training import split, train, trained_changes
from hwbench.data.samples import Samples
from hwbench.errors import HwbenchError, UsageError
from hwbench.records.base import Missing
from hwbench.records.compression import Change
from hwbench.train.settings import TrainSettings, within

_IGNORE = -100


class TransferSettings(Settings, TrainSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the new head is, and what is trained."""

    classes: int | None = None
    """How many classes there are; left out: one more than the largest label."""
    backbone: Literal["frozen", "trained"] = "frozen"
    """frozen: only the head is trained (feature extraction); trained: all weights are."""
    init: Literal["fit", "random"] = "fit"
    """The head's first weights: fitted to features and labels, or small and random."""
    penalty: float = 1e-3
    """Of the fit: its factor of half the squared weights beside the mean loss."""
    held_out: float = 0.1
    """The fraction of the samples that is not trained on but tells which epoch was the best; 0: none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        within("classes", self.classes, 2)
        within("penalty", self.penalty, 0, above=True)
        within("held_out", self.held_out, 0, 1, below=True)


class Transfer:
    """A new head, and training."""

    stage: ClassVar[str] = "train"
    summary: ClassVar[str] = "give the network a new head for other labels, and train it"
    settings_type: ClassVar[type[TransferSettings]] = TransferSettings

    def legal(self, subject: Subject, settings: TransferSettings) -> dict[str, Missing | None]:
        return {name: head if isinstance(head, Missing) else None for name, head in heads(subject).items()}

    def apply(self, subject: Subject, layers: Collection[str], settings: TransferSettings) -> Outcome:
        from hwbench.train.losses import TaskLoss

        samples = subject.need_samples("transfer")
        if samples.labels is None:
            raise UsageError("transfer needs labels, and the samples have none", hint="docs/data.md")
        if len(layers) != 1:
            raise UsageError(
                f"transfer replaces one layer, and {len(layers)} are chosen: {', '.join(layers) or 'none'}",
                hint="choose one by --layers",
            )
        name = next(iter(layers))
        head = heads(subject)[name]
        assert isinstance(head, Head)
        size = _outputs(samples.labels, settings.classes)
        _check_end(head, samples.labels)
        part, held_out = split(samples, settings.held_out, subject.seed)
        shape, old = tuple(head.layer.weight.shape), (head.layer.blocks()[0, :, :, 0], head.layer.bias())
        _replace(subject, head, part, size, settings)
        own = {value.name or "" for value in _own(head)}
        subject.held_zeros -= own
        only = own if settings.backbone == "frozen" else None
        try:
            training = train(subject, settings, part, held_out, TaskLoss(), only=only)
        except HwbenchError:
            head.replace(*old)
            raise
        what = f"a new head with {size} outputs, {'fitted' if settings.init == 'fit' else 'random'} and then trained"
        change = Change(
            layer=name, kind="trained", what=what, shape_before=shape, shape_after=tuple(head.layer.weight.shape)
        )
        _is_original(subject, own)
        others = trained_changes(subject.model, training.before, leave_out={name})
        return Outcome(changes=[change, *others], figures=training.figures, notes=training.notes)


def _outputs(labels: Array, classes: int | None) -> int:
    if np.issubdtype(labels.dtype, np.floating):
        if classes is not None:
            raise UsageError("classes are given, and the labels are numbers in floating point")
        return int(np.prod(labels.shape[1:], dtype=int))
    judged = labels[labels != _IGNORE]
    if not judged.size or judged.min() < 0:
        raise UsageError("labels must be classes from 0 on, -100 where nothing is judged; there are others, or none")
    largest = int(judged.max())
    if classes is not None and largest >= classes:
        raise UsageError(f"there is a label {largest}, and classes is {classes}", hint="classes are counted from 0")
    return classes or max(2, largest + 1)


def _check_end(head: Head, labels: Array) -> None:
    ends = [node.op_type for node in head.behind if node.op_type in {"Relu", "Softmax", "LogSoftmax"}]
    if ends and np.issubdtype(labels.dtype, np.floating):
        raise UsageError(f"the network ends in a {ends[0]}, which cannot put out any values that labels may be")


def _replace(subject: Subject, head: Head, samples: Samples, size: int, settings: TransferSettings) -> None:
    layer, inputs = head.layer, head.layer.input_channels
    if settings.init == "random":
        rng = np.random.default_rng(subject.seed)
        weight, bias = rng.normal(0, 0.01, (size, inputs)), np.zeros(size)
    else:
        weight, bias = _fit(subject, head, samples, size, settings)
    head.replace(weight, bias if layer.takes_bias else None)


def _fit(subject: Subject, head: Head, samples: Samples, size: int, settings: TransferSettings) -> tuple[Array, Array]:
    from hwbench.train.head import features_of, fitted_classes, fitted_values

    x, labels = features_of(subject.view(), head.layer.name, samples, subject.device)
    if head.layer.spatial:
        x = x.mean(tuple(range(2, x.ndim)))
    bias = head.layer.takes_bias
    if np.issubdtype(labels.dtype, np.floating):
        rows = x.reshape(-1, x.shape[-1])
        if len(rows) != len(labels):
            raise UsageError(f"labels of shape {labels.shape} do not fit features of {x.shape}", hint="init=random")
        return fitted_values(rows, labels, settings.penalty, bias=bias)
    classes = labels[..., 0] if labels.shape == (*x.shape[:-1], 1) else labels
    if classes.shape != x.shape[:-1]:
        raise UsageError(f"labels of shape {labels.shape} do not fit features of {x.shape}", hint="init=random")
    rows = x.reshape(-1, x.shape[-1])
    weight, shift = fitted_classes(rows, classes.reshape(-1), size, settings.penalty, bias=bias)
    if any(node.op_type == "Relu" for node in head.behind):
        shift = shift - (rows @ weight.T + shift).min()  # all positive: scores of classes may be moved together
    return weight, shift


def _own(head: Head) -> list[ir.Value]:
    layer = head.layer
    holder = layer.add or layer.node
    values = [layer.node.inputs[1]]
    if layer.takes_bias and len(holder.inputs) > layer.bias_index:
        values.append(holder.inputs[layer.bias_index])
    return [value for value in values if value is not None]


def _is_original(subject: Subject, own: Collection[str]) -> None:
    subject.original, subject.transferred = subject.model.clone(), True
    subject.kept.clear()
    for name in own:
        subject.bits.pop(name, None)
