"""``random``: uniform numbers. The baseline that every other criterion must beat."""

from __future__ import annotations

import numpy as np

from hwbench.compress.base import Subject
from hwbench.compress.scores.base import Array, Criterion, Layers


def _weights(subject: Subject, layers: Layers, rng: np.random.Generator) -> dict[str, Array]:
    return {name: rng.random(layer.blocks().shape) for name, layer in layers.items()}


def _channels(subject: Subject, layers: Layers, rng: np.random.Generator) -> dict[str, Array]:
    return {name: rng.random(layer.output_channels) for name, layer in layers.items()}


CRITERION = Criterion(
    name="random",
    summary="uniform between 0 and 1",
    source="the baseline",
    needs="nothing",
    weights=_weights,
    channels=_channels,
)
