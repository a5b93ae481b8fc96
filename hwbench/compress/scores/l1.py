"""``l1``: the magnitude |w| of a weight; of a channel the sum over its weights (Li et al. 2016, arXiv:1608.08710)."""

from __future__ import annotations

import numpy as np

from hwbench.compress.base import Subject
from hwbench.compress.scores.base import Array, Criterion, Layers, summed


def _weights(subject: Subject, layers: Layers, rng: np.random.Generator) -> dict[str, Array]:
    return {name: np.abs(layer.blocks()) for name, layer in layers.items()}


CRITERION = Criterion(
    name="l1",
    summary="|w|; of a channel, the sum",
    source="arXiv:1608.08710",
    needs="nothing",
    weights=_weights,
    channels=summed(_weights),
)
