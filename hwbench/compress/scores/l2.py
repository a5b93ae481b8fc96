"""``l2``: the energy w^2 of a weight; of a channel the Euclidean norm of its weights.

For single weights it orders as ``l1`` does; blocks and sums over layers differ.
"""

from __future__ import annotations

import numpy as np

from hwbench.compress.base import Subject
from hwbench.compress.scores.base import Array, Criterion, Layers, of_channels


def _weights(subject: Subject, layers: Layers, rng: np.random.Generator) -> dict[str, Array]:
    return {name: np.square(layer.blocks()) for name, layer in layers.items()}


def _channels(subject: Subject, layers: Layers, rng: np.random.Generator) -> dict[str, Array]:
    return {name: np.sqrt(of_channels(blocks)) for name, blocks in _weights(subject, layers, rng).items()}


CRITERION = Criterion(
    name="l2",
    summary="w^2; of a channel, the Euclidean norm",
    source="arXiv:1506.02626",
    needs="nothing",
    weights=_weights,
    channels=_channels,
)
