"""``obs``: what the layer's output loses when the weight goes and all other weights of its row make up for it.

Optimal brain surgeon (Hassibi & Stork 1992) on each layer's own output, as Frantar & Alistarh 2022 (arXiv:2208.11580):
w^2 / [H^-1]_pp, with H = E[x x^T] of the layer's inputs and :data:`DAMPING` times the mean of its diagonal added.
"""

from __future__ import annotations

import numpy as np

from hwbench.compress.base import Subject
from hwbench.compress.scores.base import Array, Criterion, Form, Layers
from hwbench.compress.surgeon import damped, inverse
from hwbench.graph.linear import Linear
from hwbench.records.base import Missing

DAMPING = 0.01


def _weights(subject: Subject, layers: Layers, rng: np.random.Generator) -> dict[str, Array]:
    from hwbench.compress.statistics.grams import input_grams

    grams = input_grams(subject, list(layers))
    scores = {}
    for name, layer in layers.items():
        blocks = layer.blocks()
        back = np.stack([np.diag(inverse(damped(matrix, DAMPING))) for matrix in grams[name].matrix])
        scores[name] = np.square(blocks) / back.reshape(blocks.shape[0], 1, *blocks.shape[2:])
    return scores


def _refuses(subject: Subject, layer: Linear, form: Form) -> Missing | None:
    from hwbench.compress.statistics.grams import no_gram

    return no_gram(layer)


CRITERION = Criterion(
    name="obs",
    summary="w^2 / [H^-1]_pp, H the Gram matrix of the layer's inputs",
    source="Hassibi & Stork 1992; arXiv:2208.11580",
    needs="data",
    weights=_weights,
    without="not yet",
    refuses=_refuses,
)
