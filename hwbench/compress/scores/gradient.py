"""``gradient``: the mean over the samples of |dloss/dw|; a channel is worth the sum over its weights.

How much the loss feels the weight move, whatever its size: the weight sensitivity of Mozer & Smolensky 1989 without
the factor w. ``taylor`` and ``fisher`` weigh with the size as well.
"""

from __future__ import annotations

import numpy as np

from hwbench.compress.base import Subject
from hwbench.compress.scores.base import Array, Criterion, Layers, summed
from hwbench.compress.statistics.gradients import weight_gradients


def _weights(subject: Subject, layers: Layers, rng: np.random.Generator) -> dict[str, Array]:
    seen = weight_gradients(subject, layers, rng)
    return {name: layer.to_blocks(seen[name].absolute) for name, layer in layers.items()}


CRITERION = Criterion(
    name="gradient",
    summary="mean over samples of |dloss/dw|",
    source="Mozer & Smolensky 1989",
    needs="gradients",
    weights=_weights,
    channels=summed(_weights),
)
