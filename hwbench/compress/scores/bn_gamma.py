"""``bn-gamma``: |gamma|, the factor that the BatchNorm behind a layer scales the channel with.

Liu et al. 2017 (arXiv:1708.06519). It tells most after training that drives these factors to zero.
"""

from __future__ import annotations

import numpy as np

from hwbench.compress.base import Subject
from hwbench.compress.scores.base import Array, Criterion, Layers, each
from hwbench.compress.statistics.behind import behind
from hwbench.graph.linear import Linear, constant
from hwbench.records.base import Missing


def _channels(subject: Subject, layers: Layers, rng: np.random.Generator) -> dict[str, Array]:
    found = {name: _gamma(layer) for name, layer in layers.items()}
    return {name: np.abs(gamma) for name, gamma in found.items() if gamma is not None}


def _gamma(layer: Linear) -> Array | None:
    norm = behind(layer).norm
    return None if norm is None else constant(norm.inputs[1])


def _refuses(layer: Linear) -> Missing | None:
    if _gamma(layer) is not None:
        return None
    return Missing(code="no_batch_norm", why="no BatchNorm with constant factors follows it alone")


CRITERION = Criterion(
    name="bn-gamma",
    summary="|gamma| of the BatchNorm behind the layer",
    source="arXiv:1708.06519",
    needs="nothing",
    channels=_channels,
    without="a BatchNorm scales channels, not single weights",
    refuses=each(_refuses),
)
