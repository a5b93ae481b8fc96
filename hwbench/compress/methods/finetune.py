"""``finetune``: train the network as it is now, so that it recovers what earlier steps have cost it.

With the original as teacher (Hinton et al., arXiv:1503.02531), with labels where there are some, or on the original's
outputs alone. Zeros that earlier steps made stay zeros. A training function of the user's takes the place of the
trainer where one is named.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

from hwbench.compress.base import Outcome, Subject
from hwbench.compress.training import TrainingSettings, recover, trainable_layers, trained_changes, weights_of
from hwbench.compress.user_training import train_by_user
from hwbench.records.base import Missing


class FinetuneSettings(TrainingSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to recover."""

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
        if settings.function is not None:
            return train_by_user(subject, settings, settings.function, only)
        training = recover(subject, settings, only=only)
        changes = trained_changes(subject.model, training.before)
        return Outcome(changes=changes, figures=training.figures, notes=training.notes)
