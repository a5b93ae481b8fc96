"""Affine tuning: the vectors of a network (scales and shifts of norms, biases) learn from the original's outputs.

One number a channel can make up for much of what a cut has shifted and scaled, and so few parameters do not overfit a
few hundred samples. No labels are used: the loss is the distance to the original's outputs
(:class:`hwbench.train.distillation.Distillation`). Statistics of BatchNormalization stay as they are, and so do zeros
that are held and vectors in half precision, which are too coarse to add small steps to.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from hwbench.compress.base import Subject
from hwbench.records.base import Missing
from hwbench.records.compression import LeftAlone
from hwbench.torch_view.tables import layer_names, weights_back
from hwbench.train.distillation import Distillation
from hwbench.train.hooks import HoldZeros
from hwbench.train.parameters import trainable
from hwbench.train.settings import TrainSettings
from hwbench.train.trainer import Trainer


@dataclass(frozen=True)
class Tuned:
    """The layers whose vectors were trained, and those that were not."""

    changed: tuple[str, ...]
    left_alone: tuple[LeftAlone, ...]


def tune_affine(subject: Subject, *, epochs: int, learning_rate: float, only: Collection[str] | None = None) -> Tuned:
    """Train the vectors with Adam along a cosine, in place.

    ``only``: names of the layers that may change; all by default.

    Raises:
        UsageError: there are no samples, or the network puts out something else than the original.
        ModelError: the network puts out NaN.
    """
    samples = subject.need_samples("affine tuning")
    view = subject.view()
    named = layer_names(view)
    found = {name: tensor for name, tensor in trainable(view).items() if tensor.dim() == 1}
    wanted = {name: each for name, each in found.items() if only is None or named[name.rpartition(".")[0]] in only}
    chosen = {name: each for name, each in wanted.items() if each.element_size() >= 4}
    coarse = {named[name.rpartition(".")[0]]: str(each.dtype) for name, each in wanted.items() if name not in chosen}
    left = tuple(LeftAlone(layer=layer, reason=_too_coarse(dtype)) for layer, dtype in coarse.items())
    if not chosen:
        return Tuned((), left)
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
            hooks=[HoldZeros(view, subject.held_zeros)],
            teacher=subject.teacher(),
            device=subject.device,
            folder=Path(folder),
            report=subject.report,
            seed=subject.seed,
        ).run()
    weights_back(view, subject.model)
    return Tuned(tuple(dict.fromkeys(named[name.rpartition(".")[0]] for name in chosen)), left)


def _too_coarse(dtype: str) -> Missing:
    why = f"its vectors are {dtype}, too coarse to add small steps to"
    return Missing(code="half_precision", why=why, cure="bring the model in in float32")
