"""Samples with their labels, in batches of the size that a network is fixed to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hwbench.data.store import LABELS, Array, stored_inputs
from hwbench.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Inputs [N, ...] by name, and labels [N, ...] or None. ``batch``: the size of the network's batch axis.

    ``N`` is at least one. Batches are always full, since the network takes nothing else. Labels of another length than
    ``N``, such as one for each pair of samples, can be verified with and not be trained on.

    Raises:
        UsageError: there are no samples, or inputs have different numbers of them.
    """

    inputs: Mapping[str, Array]
    labels: Array | None
    batch: int

    def __post_init__(self) -> None:
        counts = {name: len(array) for name, array in self.inputs.items()}
        if min(counts.values(), default=0) < 1 or len(set(counts.values())) > 1:
            told = ", ".join(f"'{name}' has {count}" for name, count in counts.items()) or "there is no input"
            raise UsageError(f"samples are one or more, and as many for every input: {told}")

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def need_row_labels(self) -> Array | None:
        """Return the labels, one for each sample, or None where there are none.

        Raises:
            UsageError: there are more or fewer labels than samples.
        """
        if self.labels is not None:
            require_row_labels(len(self.labels), len(self))
        return self.labels

    @property
    def pair_labels(self) -> Array | None:
        """The labels of pairs, which are rows 2i and 2i + 1, where there is a number for every two samples."""
        pairs = self.labels is not None and self.labels.ndim == 1 and 2 * len(self.labels) == len(self)
        return self.labels if pairs else None

    @property
    def batches(self) -> int:
        """How many batches a pass has: what does not fill one is left out, unless there is less than one."""
        return max(1, len(self) // self.batch)

    def first(self, count: int) -> Samples:
        """Return the first ``count`` samples, or all."""
        inputs = {name: array[:count] for name, array in self.inputs.items()}
        labels = None if self.labels is None else self.labels[:count]
        return Samples(inputs=inputs, labels=labels, batch=self.batch)

    def split(self, held_out: float, seed: int) -> tuple[Samples, Samples]:
        """Return two parts without a sample in common; the second has about the fraction ``held_out``, at least one.

        The parts are copies in memory.

        Raises:
            UsageError: there are more or fewer labels than samples.
        """
        order = np.random.default_rng(seed).permutation(len(self))
        at = len(self) - min(len(self) - 1, max(1, round(held_out * len(self))))
        return self._taken(np.sort(order[:at])), self._taken(np.sort(order[at:]))

    def in_order(self) -> Iterator[tuple[dict[str, Array], Array | None]]:
        """Go through the samples once, as they come; one short batch is filled up from its beginning.

        Labels are None where there is not one for each sample.
        """
        labels = self.labels if self.labels is not None and len(self.labels) == len(self) else None
        for start in range(0, self.batches * self.batch, self.batch):
            yield self._batch(np.arange(start, start + self.batch) % len(self), labels)

    def shuffled(self, rng: np.random.Generator) -> Iterator[tuple[dict[str, Array], Array | None]]:
        """Go through the samples once in a random order; what does not fill a batch is left out this time.

        Raises:
            UsageError: there are more or fewer labels than samples.
        """
        labels = self.need_row_labels()
        order = np.resize(rng.permutation(len(self)), self.batches * self.batch)
        for start in range(0, len(order), self.batch):
            yield self._batch(order[start : start + self.batch], labels)

    def _batch(self, rows: Array, labels: Array | None) -> tuple[dict[str, Array], Array | None]:
        inputs = {name: np.array(array[rows]) for name, array in self.inputs.items()}
        return inputs, None if labels is None else labels[rows]

    def _taken(self, rows: Array) -> Samples:
        inputs, labels = {name: array[rows] for name, array in self.inputs.items()}, self.need_row_labels()
        return Samples(inputs=inputs, labels=None if labels is None else labels[rows], batch=self.batch)


def stored_samples(folder: Path, *, batch: int) -> Samples:
    """Return the samples that a data child has laid down in ``folder``; inputs are read when used."""
    labels = folder / LABELS
    return Samples(inputs=stored_inputs(folder), labels=np.load(labels) if labels.exists() else None, batch=batch)


def require_row_labels(labels: int, samples: int) -> None:
    """Refuse to train on labels of which there is not one for each sample.

    Raises:
        UsageError: there are more or fewer labels than samples.
    """
    if labels != samples:
        raise UsageError(
            f"there are {labels} labels for {samples} samples, and training needs one for each",
            hint="labels=false trains without them",
        )
