"""``apoz``: how often the channel's activation is not zero: one minus the average percentage of zeros.

Hu et al. 2016 (arXiv:1607.03250). Only for layers directly before an activation that puts out exact zeros.
"""

from __future__ import annotations

import numpy as np

from hwbench.compress.base import Subject
from hwbench.compress.scores.base import Array, Criterion, Layers, each
from hwbench.compress.statistics.behind import behind
from hwbench.compress.statistics.moments import output_moments
from hwbench.graph.linear import Linear
from hwbench.records.base import Missing


def _channels(subject: Subject, layers: Layers, rng: np.random.Generator) -> dict[str, Array]:
    return {name: 1 - seen.zeros for name, seen in output_moments(subject, layers).items()}


def _refuses(layer: Linear) -> Missing | None:
    if behind(layer).zeroing:
        return None
    return Missing(code="no_zeros", why="no activation that puts out exact zeros (such as Relu) follows it alone")


CRITERION = Criterion(
    name="apoz",
    summary="the fraction of the activations behind the layer that is not zero",
    source="arXiv:1607.03250",
    needs="data",
    channels=_channels,
    without="zeros of activations are counted for channels",
    refuses=each(_refuses),
)
