"""Codebooks trained: weights that share a value move together (Deep Compression, arXiv:1510.00149).

There the gradients of all weights of a value are added up, and the value takes the step. Here they are averaged: the
gradient projected onto what codebooks allow. So a learning rate that suits the network before suits it now, however
many weights a value has; for AdamW, which divides by the size of the gradient, the two are the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from hwbench.compress.base import Array, Subject
from hwbench.compress.sharing.assign import joined, parted
from hwbench.errors import Unsupported
from hwbench.torch_view.tables import weights_back
from hwbench.train.distillation import Distillation
from hwbench.train.hooks import HoldZeros, Hook
from hwbench.train.parameters import by_initializer
from hwbench.train.settings import TrainSettings
from hwbench.train.trainer import Trainer

_CLIP = 1.0  # few bits cost much at first: the first gradients of softened scores would throw a network off


def tune(subject: Subject, *, epochs: int, learning_rate: float) -> dict[str, float]:
    """Train the network after its original, codebooks tied; return the loss of the first and of the last epoch.

    All other weights are trained along; zeros that are held stay zeros. Gradients are clipped to a norm of one.

    Raises:
        Unsupported: the torch view cannot express the network.
        ModelError: the loss becomes NaN.
    """
    view = subject.view()
    tied = Tied(view, labels_of(subject))
    settings = TrainSettings(epochs=epochs, learning_rate=learning_rate, clip_norm=_CLIP)
    trainer = Trainer(
        view, subject.need_samples("fine tuning of codebooks"), Distillation(), settings,
        hooks=[HoldZeros(view, subject.held_zeros), tied], teacher=subject.teacher(), device=subject.device,
        folder=subject.folder / "codebooks", report=subject.report, seed=subject.seed,
    )  # fmt: skip
    trained = trainer.run()
    weights_back(view, subject.model)
    return {"first_loss": trained.history[0].loss, "last_loss": trained.history[-1].loss}


def labels_of(subject: Subject) -> list[dict[str, Array]]:
    """Return for each codebook its initialisers, each with a number for every weight: equal ones share a value.

    Zero has the number -1: it stays zero.
    """
    books: dict[str, list[str]] = {}
    for name, book in subject.codebooks.items():
        books.setdefault(book.name, []).append(name)
    found = []
    for names in books.values():
        axes = subject.codebooks[names[0]].axes
        arrays = {name: _values(subject, name) for name in names}
        flat = joined(list(arrays.values()), axes)
        numbers, used = np.empty(flat.shape, np.int64), 0
        for index, row in enumerate(flat):
            values, inverse = np.unique(row, return_inverse=True)
            numbers[index] = np.where(row == 0, -1, inverse + used)
            used += len(values)
        shapes = [array.shape for array in arrays.values()]
        found.append(dict(zip(names, parted(numbers, shapes, axes), strict=True)))
    return found


def _values(subject: Subject, name: str) -> Array:
    tensor = subject.model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor.numpy()


class Tied(Hook):
    """Weights of one number get the mean of their gradients, so that they stay equal; those of -1 get none.

    Args:
        view: the view.
        books: for each codebook its initialisers, each with the numbers of its weights, of its shape.
    """

    def __init__(self, view: torch.nn.Module, books: Sequence[Mapping[str, Array]]) -> None:
        there = by_initializer(view)
        missing = [name for book in books for name in book if name not in there]
        if missing:
            raise Unsupported(f"the torch view does not train the weights {', '.join(missing)}")
        self._books = [_Book([there[name] for name in book], list(book.values())) for book in books]

    def start(self, view: torch.nn.Module) -> None:
        for book in self._books:
            book.move()

    def before_step(self) -> None:
        for book in self._books:
            book.average()

    def after_step(self, fraction: float) -> None:
        for book in self._books:
            book.equalise()


class _Book:
    """The weights of one codebook, number by number; the numbers of all its tensors lie one behind the other."""

    def __init__(self, tensors: Sequence[torch.nn.Parameter], numbers: Sequence[Array]) -> None:
        self._tensors = tensors
        together = np.concatenate([part.reshape(-1) for part in numbers])
        self._sizes = [part.size for part in numbers]
        self._numbers = torch.from_numpy(together + 1)  # 0: stays zero
        first = np.zeros(int(together.max()) + 2, np.int64)
        values, at = np.unique(together + 1, return_index=True)
        first[values] = at
        self._first = torch.from_numpy(first)
        self._count = torch.bincount(self._numbers, minlength=len(first)).clamp(min=1)

    def move(self) -> None:
        """Follow the weights to where they are trained."""
        device = self._tensors[0].device
        self._numbers, self._first, self._count = (
            tensor.to(device) for tensor in (self._numbers, self._first, self._count)
        )

    def average(self) -> None:
        """Give all weights of a number the mean of their gradients."""
        if any(tensor.grad is None for tensor in self._tensors):
            return
        flat = torch.cat([tensor.grad.reshape(-1) for tensor in self._tensors if tensor.grad is not None])
        total = torch.zeros(len(self._count), dtype=flat.dtype, device=flat.device).index_add_(0, self._numbers, flat)
        mean = total / self._count
        mean[0] = 0
        parts = mean[self._numbers].split(self._sizes)
        for tensor, part in zip(self._tensors, parts, strict=True):
            assert tensor.grad is not None
            tensor.grad.copy_(part.reshape(tensor.shape))

    def equalise(self) -> None:
        """Give all weights of a number the value of the first: vectors and their tails may round differently."""
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in self._tensors])
        values = flat[self._first]
        values[0] = 0
        for tensor, part in zip(self._tensors, values[self._numbers].split(self._sizes), strict=True):
            tensor.detach().copy_(part.reshape(tensor.shape))
