"""Samples with their labels, in batches of the size that a network is fixed to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hwbench.data.store import LABELS, Array, stored_inputs


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Inputs [N, ...] by name, and labels [N, ...] or None. ``batch``: the size of the network's batch axis.

    ``N`` is at least one. Batches are always full, since the network takes nothing else.
    """

    inputs: Mapping[str, Array]
    labels: Array | None
    batch: int

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

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
        """
        order = np.random.default_rng(seed).permutation(len(self))
        at = len(self) - min(len(self) - 1, max(1, round(held_out * len(self))))
        return self._taken(np.sort(order[:at])), self._taken(np.sort(order[at:]))

    def in_order(self) -> Iterator[tuple[dict[str, Array], Array | None]]:
        """Go through the samples once, as they come; one short batch is filled up from its beginning."""
        for start in range(0, self.batches * self.batch, self.batch):
            yield self._batch(np.arange(start, start + self.batch) % len(self))

    def shuffled(self, rng: np.random.Generator) -> Iterator[tuple[dict[str, Array], Array | None]]:
        """Go through the samples once in a random order; what does not fill a batch is left out this time."""
        order = np.resize(rng.permutation(len(self)), self.batches * self.batch)
        for start in range(0, len(order), self.batch):
            yield self._batch(order[start : start + self.batch])

    def _batch(self, rows: Array) -> tuple[dict[str, Array], Array | None]:
        inputs = {name: np.array(array[rows]) for name, array in self.inputs.items()}
        return inputs, None if self.labels is None else self.labels[rows]

    def _taken(self, rows: Array) -> Samples:
        inputs, labels = {name: array[rows] for name, array in self.inputs.items()}, self.labels
        return Samples(inputs=inputs, labels=None if labels is None else labels[rows], batch=self.batch)


def stored_samples(folder: Path, *, batch: int) -> Samples:
    """Return the samples that a data child has laid down in ``folder``; inputs are read when used."""
    labels = folder / LABELS
    return Samples(inputs=stored_inputs(folder), labels=np.load(labels) if labels.exists() else None, batch=batch)
