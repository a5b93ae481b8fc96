"""A training function of the user's, over the torch view, in place of the trainer."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwbench.compress.base import Outcome, Report, Subject
from hwbench.compress.training import TrainingSettings, teacher_of, trained_changes, used_samples, weights_now
from hwbench.data.callables import load_callable
from hwbench.errors import HwbenchError, ModelError, UsageError
from hwbench.train.settings import TrainSettings, train_settings

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class TrainingContext:
    """What a training function is told beside the network, the samples and the teacher.

    ``hold_zeros()``, called after each step, sets weights to zero again that earlier steps of the compression have
    set to zero. ``weights``: the names of the parameters that are to be trained; of others ``requires_grad`` is off.
    """

    device: str
    seed: int
    folder: Path  # for checkpoints and the like
    report: Report  # report("epoch 3 of 10", 0.3)
    settings: TrainSettings
    weights: tuple[str, ...]
    hold_zeros: Callable[[], None]


def train_by_user(
    subject: Subject, settings: TrainingSettings, function: str, only: Collection[str], taught_by: str | None = None
) -> Outcome:
    """Call ``function(view, samples, teacher, context)``, check what it returns, and write the weights back.

    It returns the trained view: this one, or a module with the same parameters. The network is changed only when
    everything is right.

    Raises:
        UsageError: the function cannot be imported, raises, or returns something else.
        ModelError: a weight is NaN or infinite.
    """
    from hwbench.torch_view.tables import weights_back
    from hwbench.train.hooks import HoldZeros
    from hwbench.train.parameters import by_initializer, trainable

    called = load_callable(function)
    samples, view = used_samples(subject, settings), subject.view()
    for name, tensor in by_initializer(view).items():
        tensor.requires_grad_(name in only)
    trained = tuple(trainable(view))
    for name, tensor in view.named_parameters():
        tensor.requires_grad_(name in trained)
    held = HoldZeros(view, subject.held_zeros)
    held.start(view)
    context = TrainingContext(
        device=subject.device,
        seed=subject.seed,
        folder=subject.folder,
        report=subject.report,
        settings=train_settings(settings),
        weights=trained,
        hold_zeros=lambda: held.after_step(0.0),
    )
    state = {name: tensor.detach().clone() for name, tensor in view.state_dict().items()}
    teacher = teacher_of(subject, settings, taught_by)
    try:
        returned = called(view, samples, teacher, context)
    except HwbenchError:
        raise
    except Exception as error:
        raise UsageError(f"'{function}' raised {type(error).__name__}: {error}") from error
    new = _checked(function, returned, state)
    view.load_state_dict({name: new[name] for name in state})
    put_back = held.lost()
    held.after_step(0.0)
    before = weights_now(subject.model)
    weights_back(view.eval(), subject.model)
    notes = [f"trained by {function}"]
    if put_back:
        notes.append(f"{put_back} weights that must stay zero were not, and were set to zero again")
    return Outcome(changes=trained_changes(subject.model, before), notes=notes)


def _checked(function: str, returned: Any, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    import torch

    if not isinstance(returned, torch.nn.Module):
        raise UsageError(
            f"'{function}' returned a {type(returned).__name__}, not the trained network", hint="end with: return view"
        )
    new: dict[str, torch.Tensor] = returned.state_dict()
    wrong = [name for name in state if name not in new or new[name].shape != state[name].shape]
    if wrong:
        there = tuple(new[wrong[0]].shape) if wrong[0] in new else "not there"
        raise UsageError(
            f"'{function}' returned a network whose '{wrong[0]}' is {there}, not {tuple(state[wrong[0]].shape)}",
            hint="the parameters must be those of the view; methods of their own change shapes",
        )
    broken = [name for name in state if state[name].is_floating_point() and not bool(torch.isfinite(new[name]).all())]
    if broken:
        raise ModelError(f"'{function}' returned NaN or infinity in '{broken[0]}'")
    return new
