"""``activation``: the mean magnitude of the channel behind its activation, or behind the layer where there is none.

Behind a Relu this is the mean activation of Molchanov et al. 2016 (arXiv:1611.06440).
"""

from __future__ import annotations

import numpy as np

from hwbench.compress.base import Subject
from hwbench.compress.scores.base import Array, Criterion, Layers
from hwbench.compress.statistics.moments import output_moments


def _channels(subject: Subject, layers: Layers, rng: np.random.Generator) -> dict[str, Array]:
    return {name: seen.mean_abs for name, seen in output_moments(subject, layers).items()}


CRITERION = Criterion(
    name="activation",
    summary="mean |a| of the activation behind the layer",
    source="arXiv:1611.06440",
    needs="data",
    channels=_channels,
    without="the layer puts out channels, not single weights; weight-activation has such a form",
)
