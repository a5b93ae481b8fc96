"""``weight-activation``: |w| times the mean magnitude of what the weight is multiplied with.

A channel is worth the sum of its weights. The mean size of what the weight adds to its output: where ``wanda`` takes
the root mean square, which rare large inputs rule, this takes the mean magnitude.
"""

from __future__ import annotations

import numpy as np

from hwbench.compress.base import Subject
from hwbench.compress.scores.base import Array, Criterion, Layers, summed
from hwbench.compress.statistics.moments import input_moments


def _weights(subject: Subject, layers: Layers, rng: np.random.Generator) -> dict[str, Array]:
    seen = input_moments(subject, layers)
    return {name: np.abs(layer.blocks()) * seen[name].mean_abs[:, None] for name, layer in layers.items()}


CRITERION = Criterion(
    name="weight-activation",
    summary="|w| times the mean magnitude of its input",
    source="the product that arXiv:2306.11695 takes with another norm",
    needs="data",
    weights=_weights,
    channels=summed(_weights),
)
