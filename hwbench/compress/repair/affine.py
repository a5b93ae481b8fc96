"""Affine tuning: the vectors of a network (scales and shifts of norms, biases) learn from the original's outputs.

One number a channel can make up for much of what a cut has shifted and scaled, and so few parameters do not overfit a
few hundred samples. No labels are used: the loss is the distance to the original's outputs
(:class:`hwbench.train.distillation.Distillation`). Statistics of BatchNormalization stay as they are.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from pathlib import Path

from hwbench.compress.base import Subject
from hwbench.torch_view.tables import layer_names, weights_back
from hwbench.train.distillation import Distillation
from hwbench.train.parameters import trainable
from hwbench.train.settings import TrainSettings
from hwbench.train.trainer import Trainer


def tune_affine(
    subject: Subject, *, epochs: int, learning_rate: float, only: Collection[str] | None = None
) -> tuple[str, ...]:
    """Train the vectors with Adam along a cosine, in place; return the layers whose vectors were trained.

    ``only``: names of the layers that may change; all by default.

    Raises:
        UsageError: there are no samples, or the network puts out something else than the original.
        ModelError: the network puts out NaN.
    """
    samples = subject.need_samples("affine tuning")
    view = subject.view()
    named = layer_names(view)
    found = {name: tensor for name, tensor in trainable(view).items() if tensor.dim() == 1}
    chosen = {name: each for name, each in found.items() if only is None or named[name.rpartition(".")[0]] in only}
    if not chosen:
        return ()
    for tensor in view.parameters():
        tensor.requires_grad_(False)
    for tensor in chosen.values():
        tensor.requires_grad_(True)
    settings = TrainSettings(
        epochs=epochs, learning_rate=learning_rate, optimizer="adamw", weight_decay=0, freeze_norms=True
    )
    with tempfile.TemporaryDirectory(dir=subject.folder) as folder:
        Trainer(
            view,
            samples,
            Distillation(temperature=1.0),
            settings,
            teacher=subject.teacher(),
            device=subject.device,
            folder=Path(folder),
            report=subject.report,
            seed=subject.seed,
        ).run()
    weights_back(view, subject.model)
    return tuple(dict.fromkeys(named[name.rpartition(".")[0]] for name in chosen))
