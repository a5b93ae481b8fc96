"""Training a network on the bench: settings that the methods share, one call, and what is told about it afterwards."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from hwbench.compress.base import Array, Settings, Subject
from hwbench.data.samples import Samples
from hwbench.errors import UsageError
from hwbench.graph.linear import Linear, linear_of
from hwbench.graph.onnx_file import fix_axes, graph_inputs, infer_shapes, read_onnx
from hwbench.records.base import Missing
from hwbench.records.compression import Change
from hwbench.train.places import trained_weights
from hwbench.train.settings import TrainSettings, train_settings, within

if TYPE_CHECKING:
    import torch

    from hwbench.train.hooks import Hook
    from hwbench.train.losses import Loss
    from hwbench.train.progress import Trained

MakeHooks = Callable[["torch.fx.GraphModule"], "Sequence[Hook]"]
_HALF = {ir.DataType.FLOAT16, ir.DataType.BFLOAT16}


class TrainingSettings(Settings, TrainSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a method trains: the trainer's settings, and what the loss is.

    Without labels, what the original puts out is all there is to learn from; with labels, the loss is a mixture.
    """

    held_out: float = 0.1
    """The fraction of the samples that is not trained on but tells which epoch was the best; 0: none."""
    labels: bool = True
    """Use the labels where the samples have some."""
    teacher: bool = True
    """Learn from the original's outputs: softened by a temperature where they are classes (arXiv:1503.02531)."""
    alpha: float | None = None
    """The original's share of the loss; the labels have the rest. Left out: 0.9 with labels, 1 without."""
    temperature: float = 4.0
    """Of the softening."""
    features: str | None = None
    """Layers whose outputs are to be like the original's, as a regular expression (FitNets, arXiv:1412.6550)."""
    feature_weight: float = 1.0
    """The factor of that part of the loss."""
    attention: str | None = None
    """Layers whose attention maps are to be like the original's (arXiv:1612.03928)."""
    attention_weight: float = 1.0
    """The factor of that part of the loss."""

    def __post_init__(self) -> None:
        super().__post_init__()
        within("held_out", self.held_out, 0, 1, below=True)
        within("alpha", self.alpha, 0, 1)
        within("temperature", self.temperature, 0, above=True)
        within("feature_weight", self.feature_weight, 0)
        within("attention_weight", self.attention_weight, 0)
        if not self.teacher and (self.features or self.attention or self.alpha):
            raise UsageError(
                "alpha, features and attention are about a teacher", hint="teacher=true, or leave them out"
            )


@dataclass(frozen=True, kw_only=True)
class Training:
    """A training that is over; the weights are in the model."""

    trained: Trained
    hooks: Sequence[Hook]
    before: Mapping[str, Array]  # the weights as they were, by initialiser

    @property
    def figures(self) -> dict[str, float]:
        """What is told of it: losses and scores of the epoch that was kept, beside the first."""
        history = self.trained.history
        if not history:
            return {"epochs": 0.0, "steps": 0.0}
        kept = history[max(0, self.trained.best_epoch - 1)]
        told = {"loss_first": history[0].loss, "loss": kept.loss, "held_out_loss": kept.held_out, "score": kept.score}
        found = {name: value for name, value in told.items() if value is not None}
        return {
            **found,
            "epochs": float(len(history)),
            "best_epoch": float(self.trained.best_epoch),
            "steps": float(self.trained.steps),
        }

    @property
    def notes(self) -> list[str]:
        """Why it ended, and which epoch was kept."""
        return [f"trained until {self.trained.stopped}; the weights are those after epoch {self.trained.best_epoch}"]


def recover(
    subject: Subject,
    settings: TrainingSettings,
    hooks: MakeHooks | None = None,
    *,
    only: Collection[str] | None = None,
    taught_by: str | None = None,
) -> Training:
    """Train the network with the samples, the loss and the teacher that the settings say; see :func:`train`.

    ``taught_by``: as :func:`teacher_of` has it.
    """
    samples = used_samples(subject, settings)
    part, held_out = split(samples, settings.held_out, subject.seed)
    loss = loss_of(settings, samples, subject.seed)
    teacher = teacher_of(subject, settings, taught_by)
    return train(subject, settings, part, held_out, loss, hooks, teacher=teacher, only=only)


def teacher_of(subject: Subject, settings: TrainingSettings, taught_by: str | None) -> torch.fx.GraphModule | None:
    """Return a torch view of the original, or of the ONNX file ``taught_by`` in its place; None: nobody teaches.

    Raises:
        ModelError: the file cannot be read.
        UsageError: its batch axis has another size, or its inputs have other names.
    """
    if not settings.teacher:
        return None
    return subject.teacher() if taught_by is None else _view_of_file(subject, Path(taught_by))


def _view_of_file(subject: Subject, path: Path) -> torch.fx.GraphModule:
    """Return a network with the same inputs as a torch view, its batch axis fixed to the subject's.

    Raises:
        ModelError: it cannot be read.
        UsageError: its batch axis has another size, or its inputs have other names.
    """
    from hwbench.torch_view.build import to_torch
    from hwbench.torch_view.place import on_device

    model = read_onnx(path)
    fix_axes(model, {}, subject.batch)
    names = [[value.name for value in graph_inputs(each)] for each in (model, subject.model)]
    if names[0] != names[1]:
        raise UsageError(f"'{path}' takes {', '.join(map(str, names[0]))}, the network {', '.join(map(str, names[1]))}")
    return on_device(to_torch(infer_shapes(model)), subject.device)


def train(
    subject: Subject,
    settings: TrainSettings,
    samples: Samples,
    held_out: Samples | None,
    loss: Loss,
    hooks: MakeHooks | None = None,
    *,
    teacher: torch.fx.GraphModule | None = None,
    only: Collection[str] | None = None,
) -> Training:
    """Train the network and write the weights back; zeros that must be held are.

    Args:
        subject: the network.
        settings: how.
        samples: to learn from.
        held_out: to judge by.
        loss: what to lower.
        hooks: makes the hooks for a view.
        teacher: whose outputs the loss needs.
        only: initialisers that may change; None: all that are weights.

    Raises:
        UsageError: samples or labels are wanting, or the settings do not fit.
        ModelError: NaN; the network is as it was.
    """
    from hwbench.torch_view.tables import weights_back
    from hwbench.train.hooks import HoldZeros
    from hwbench.train.parameters import by_initializer
    from hwbench.train.trainer import Trainer

    view = subject.view()
    for name, tensor in by_initializer(view).items():
        tensor.requires_grad_(only is None or name in only)
    made = list(hooks(view)) if hooks else []
    trainer = Trainer(
        view,
        samples,
        loss,
        train_settings(settings),
        hooks=[HoldZeros(view, subject.held_zeros), *made],
        validation=held_out,
        teacher=teacher,
        device=subject.device,
        folder=subject.folder,
        report=subject.report,
        seed=subject.seed,
    )
    before = weights_now(subject.model)
    trained = trainer.run()
    weights_back(view, subject.model)
    return Training(trained=trained, hooks=made, before=before)


def used_samples(subject: Subject, settings: TrainingSettings) -> Samples:
    """Return the samples, without labels where they are not to be used."""
    samples = subject.need_samples("training")
    if settings.labels:
        return samples
    return Samples(inputs=samples.inputs, labels=None, batch=samples.batch)


def split(samples: Samples, held_out: float, seed: int) -> tuple[Samples, Samples | None]:
    """Return what to train on and what to judge on, if anything.

    Raises:
        UsageError: there is nothing to split.
    """
    if not held_out:
        return samples, None
    if len(samples) < 2:
        raise UsageError("one sample cannot be both trained on and held out", hint="held_out=0, or more samples")
    return samples.split(held_out, seed)


def loss_of(settings: TrainingSettings, samples: Samples, seed: int) -> Loss:
    """Return the loss that settings and samples ask for.

    Raises:
        UsageError: there are neither labels nor a teacher, or alpha asks for labels that are not there.
    """
    from hwbench.train.distillation import Distillation
    from hwbench.train.losses import TaskLoss

    alpha = teachers_share(settings, labelled=samples.labels is not None)
    if alpha is None:
        return TaskLoss()
    return Distillation(
        settings.temperature,
        alpha,
        features=settings.features,
        feature_weight=settings.feature_weight,
        attention=settings.attention,
        attention_weight=settings.attention_weight,
        seed=seed,
    )


def teachers_share(settings: TrainingSettings, *, labelled: bool) -> float | None:
    """Return how much of the loss is the teacher's; None: there is no teacher.

    Raises:
        UsageError: there are neither labels nor a teacher, or alpha asks for labels that are not there.
    """
    if not settings.teacher:
        if not labelled:
            raise UsageError("there is nothing to learn from: no labels, and no teacher", hint="teacher=true")
        return None
    alpha = settings.alpha if settings.alpha is not None else 0.9 if labelled else 1.0
    if alpha < 1 and not labelled:
        raise UsageError(f"alpha={alpha:g} leaves a part of the loss to labels, and there are none", hint="alpha=1")
    return alpha


def trainable_layers(model: ir.Model) -> dict[str, Missing | None]:
    """Return the layers with weights that training can change: None, or why it must not."""
    return {layer: _hindrance(model, names) for layer, names in trained_weights(model).items()}


def weights_of(model: ir.Model, layers: Collection[str]) -> set[str]:
    """Return the initialisers that training ``layers`` changes."""
    return {name for layer, names in trained_weights(model).items() if layer in layers for name in names}


def weights_now(model: ir.Model) -> dict[str, Array]:
    """Return all weights that can be trained, by initialiser."""
    names = {name for several in trained_weights(model).values() for name in several}
    return {name: _array(model, name) for name in names}


def trained_changes(model: ir.Model, before: Mapping[str, Array], leave_out: Collection[str] = ()) -> list[Change]:
    """Return a change for each layer whose weights are not as they were: how far they moved."""
    changes = []
    for layer, names in trained_weights(model).items():
        now = {name: _array(model, name) for name in names if name in before}
        if layer in leave_out or all(np.array_equal(now[name], before[name]) for name in now):
            continue
        largest = max(now.values(), key=np.size)
        changes.append(
            Change(layer=layer, kind="trained", what=f"weights moved by {moved(before, now):.2%} of their norm",
                   zeros=float(np.mean(largest == 0)))
        )  # fmt: skip
    return changes


def moved(before: Mapping[str, Array], now: Mapping[str, Array]) -> float:
    """Return ||now - before|| / ||before|| over some weights."""
    change = sum(float(np.square(now[name].astype(float) - before[name]).sum()) for name in now)
    size = sum(float(np.square(before[name].astype(float)).sum()) for name in now)
    return float(np.sqrt(change / size)) if size else float(np.sqrt(change))


def zero_part(model: ir.Model, layer: str) -> float:
    """Return the fraction of a linear layer's weights that is zero."""
    found = next(linear_of(node) for node in model.graph if node.name == layer)
    assert isinstance(found, Linear)
    return float(np.mean(found.weight == 0))


def _hindrance(model: ir.Model, names: Collection[str]) -> Missing | None:
    for name in names:
        tensor = model.graph.initializers[name].const_value
        assert tensor is not None
        if tensor.dtype in _HALF:
            why = f"its weight '{name}' is {tensor.dtype.name}, too coarse to add small steps to"
            return Missing(code="half_precision", why=why, cure="bring the model in in float32")
        if not np.isfinite(tensor.numpy()).all():
            return Missing(code="not_finite", why=f"its weight '{name}' holds NaN or infinity")
    return None


def _array(model: ir.Model, name: str) -> Array:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return np.array(tensor.numpy())
