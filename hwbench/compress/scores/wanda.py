"""``wanda``: |w| times the root mean square of what the weight is multiplied with.

Sun et al. 2023 (arXiv:2306.11695), who compare the weights of one output with each other: ``scope=output``. For
convolutions the mean is over what each kernel position really meets, padding included. A channel is worth the sum.
"""

from __future__ import annotations

import numpy as np

from hwbench.compress.base import Subject
from hwbench.compress.scores.base import Array, Criterion, Layers, summed
from hwbench.compress.statistics.moments import input_moments


def _weights(subject: Subject, layers: Layers, rng: np.random.Generator) -> dict[str, Array]:
    seen = input_moments(subject, layers)
    return {name: np.abs(layer.blocks()) * np.sqrt(seen[name].mean_square)[:, None] for name, layer in layers.items()}


CRITERION = Criterion(
    name="wanda",
    summary="|w| times the root mean square of its input",
    source="arXiv:2306.11695",
    needs="data",
    weights=_weights,
    channels=summed(_weights),
)
