"""``fisher``: half the weight's square times the diagonal of the Fisher information: the expected rise of the loss.

Optimal brain damage (LeCun et al. 1989) with the Hessian's diagonal from squared gradients of single samples, as Theis
et al. 2018 (arXiv:1801.05787) do; a channel is a gate behind its BatchNorm: half the mean over samples of the square
of the sum of gradient times value. Per sample: squares of gradients averaged over a batch are no Fisher information.
"""

from __future__ import annotations

import numpy as np

from hwbench.compress.base import Subject
from hwbench.compress.scores.base import Array, Criterion, Layers
from hwbench.compress.statistics.gradients import channel_gradients, weight_gradients


def _weights(subject: Subject, layers: Layers, rng: np.random.Generator) -> dict[str, Array]:
    seen = weight_gradients(subject, layers, rng)
    return {
        name: 0.5 * np.square(layer.blocks()) * layer.to_blocks(seen[name].square) for name, layer in layers.items()
    }


def _channels(subject: Subject, layers: Layers, rng: np.random.Generator) -> dict[str, Array]:
    seen = channel_gradients(subject, layers, rng)
    return {name: 0.5 * np.square(found.change).mean(axis=0) for name, found in seen.items()}


CRITERION = Criterion(
    name="fisher",
    summary="w^2 / 2 times the mean over samples of g^2; of a channel the same at a gate behind it",
    source="LeCun et al. 1989; arXiv:1801.05787",
    needs="gradients",
    weights=_weights,
    channels=_channels,
)
