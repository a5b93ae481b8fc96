"""``finetune``: train the network as it is now, so that it recovers what earlier steps have cost it.

With the original as teacher (Hinton et al., arXiv:1503.02531), with labels where there are some, or on the original's
outputs alone. Zeros that earlier steps made stay zeros. A training function of the user's takes the place of the
trainer where one is named.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

import numpy as np

from hwbench.compress.base import Outcome, Subject
from hwbench.compress.training import (
    TrainingSettings,
    recover,
    teachers_share,
    trainable_layers,
    trained_changes,
    weights_of,
)
from hwbench.compress.user_training import train_by_user
from hwbench.data.callables import load_callable
from hwbench.data.samples import require_row_labels
from hwbench.errors import UsageError
from hwbench.records.base import Missing


class FinetuneSettings(TrainingSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to recover."""

    taught_by: str | None = None
    """An ONNX file to learn from in place of the original, with the same inputs: what an earlier run has compressed."""
    function: str | None = None
    """``file.py:train`` or ``package.module:train``: called instead of the trainer; docs/compress/train.md."""


class Finetune:
    """Recovery training. Only the weights of the chosen layers are changed."""

    stage: ClassVar[str] = "train"
    summary: ClassVar[str] = "train the network to be like its original, or on labels"
    settings_type: ClassVar[type[FinetuneSettings]] = FinetuneSettings

    def legal(self, subject: Subject, settings: FinetuneSettings) -> dict[str, Missing | None]:
        return trainable_layers(subject.model)

    def apply(self, subject: Subject, layers: Collection[str], settings: FinetuneSettings) -> Outcome:
        only = weights_of(subject.model, layers)
        _require_something_to_learn(subject, settings)
        if settings.function is not None:
            return train_by_user(subject, settings, settings.function, only, settings.taught_by)
        training = recover(subject, settings, only=only, taught_by=settings.taught_by)
        changes = trained_changes(subject.model, training.before)
        return Outcome(changes=changes, figures=training.figures, notes=training.notes)


def check_recovery(settings: FinetuneSettings, samples: int, labels: int | None) -> None:
    """See that a network that has been cut can be trained on data, before any is.

    Args:
        settings: of the training.
        samples: how many there are.
        labels: how many of these; None: there are none.

    Raises:
        UsageError: there would be nothing to learn from, labels do not fit the samples, or the user's function cannot
            be imported.
    """
    _require_teacher(settings)
    used = labels if settings.labels else None
    if used is not None:
        require_row_labels(used, samples)
    if settings.function is None:
        teachers_share(settings, labelled=used is not None)
    else:
        load_callable(settings.function)


def _require_teacher(settings: FinetuneSettings) -> None:
    if settings.taught_by is not None and not settings.teacher:
        raise UsageError("taught_by names a teacher, and teacher=false wants none", hint="leave one of them out")


def _require_something_to_learn(subject: Subject, settings: FinetuneSettings) -> None:
    """Refuse to distil a network into itself."""
    _require_teacher(settings)
    own_teacher = (
        settings.function is None and settings.taught_by is None and settings.teacher and settings.alpha in {None, 1}
    )
    samples = subject.need_samples("training")
    if not own_teacher or (settings.labels and samples.labels is not None) or not _is_original(subject):
        return
    raise UsageError(
        "the network is the original still, and would learn from its own outputs",
        hint="put finetune behind a step that cuts, in one recipe; or give labels; or taught_by=ORIGINAL.onnx",
    )


def _is_original(subject: Subject) -> bool:
    now, then = (model.graph.initializers for model in (subject.model, subject.original))
    return list(now) == list(then) and all(
        np.array_equal(one.const_value.numpy(), other.const_value.numpy())
        for one, other in zip(now.values(), then.values(), strict=True)
        if one.const_value is not None and other.const_value is not None
    )
