"""``taylor``: the square of the change of a batch's loss when the weight, or channel, is taken away, to first order.

Molchanov et al. 2019 (arXiv:1906.10771): mean over the batches of (g w)^2, g the gradient of the batch's mean loss. A
channel is taken as a gate behind its BatchNorm: the square of the sum of gradient times value there, not the sum over
its weights. Batches are those that the network is fixed to: with a batch of one, ``taylor`` is twice ``fisher``.
"""

from __future__ import annotations

import numpy as np

from hwbench.compress.base import Subject
from hwbench.compress.scores.base import Array, Criterion, Layers
from hwbench.compress.statistics.gradients import channel_gradients, weight_gradients


def _weights(subject: Subject, layers: Layers, rng: np.random.Generator) -> dict[str, Array]:
    seen = weight_gradients(subject, layers, rng)
    return {
        name: np.square(layer.blocks()) * layer.to_blocks(seen[name].batch_square) for name, layer in layers.items()
    }


def _channels(subject: Subject, layers: Layers, rng: np.random.Generator) -> dict[str, Array]:
    scores = {}
    for name, found in channel_gradients(subject, layers, rng).items():
        batches = found.change.reshape(-1, found.batch_size, found.change.shape[1]).mean(axis=1)
        scores[name] = np.square(batches).mean(axis=0)
    return scores


CRITERION = Criterion(
    name="taylor",
    summary="mean over batches of (g w)^2; of a channel (sum of g a)^2 at a gate behind it",
    source="arXiv:1906.10771",
    needs="gradients",
    weights=_weights,
    channels=_channels,
)
