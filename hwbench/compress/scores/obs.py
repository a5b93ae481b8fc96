"""``obs``: what is lost when the weight, or the channel, goes and those that are left make up for it.

Optimal brain surgeon (Hassibi & Stork 1992) on the outputs of layers, H = E[x x^T] of a layer's inputs with
:data:`DAMPING` times the mean of its diagonal added. Of a weight: w^2 / [H^-1]_pp on the layer's own output, as Frantar
& Alistarh 2022 (arXiv:2208.11580). Of an output channel: what *those who read it* lose, since the layer itself loses
the channel whole: the sum over their rows of W_S [(H^-1)_SS]^-1 W_S^T, S the inputs that go, as Kurtic et al. 2023
(arXiv:2302.04089). Readers are found through the groups of coupled channels (:mod:`hwbench.structure.groups`), so
channels that are added up share one score, in which outputs that go with them do not count; of a unit of several
channels (a head) each gets an equal part.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from hwbench.compress.base import Subject
from hwbench.compress.scores.base import Array, Criterion, Form, Layers
from hwbench.compress.surgeon import damped, inverse
from hwbench.graph.linear import Linear
from hwbench.records.base import Missing
from hwbench.structure.groups import Group, channel_groups

if TYPE_CHECKING:
    from hwbench.compress.statistics.grams import Gram

DAMPING = 0.01


def _weights(subject: Subject, layers: Layers, rng: np.random.Generator) -> dict[str, Array]:
    from hwbench.compress.statistics.grams import input_grams

    grams = input_grams(subject, list(layers))
    scores = {}
    for name, layer in layers.items():
        blocks = layer.blocks()
        back = np.stack([np.diag(one) for one in _inverses(grams[name])])
        scores[name] = np.square(blocks) / back.reshape(blocks.shape[0], 1, *blocks.shape[2:])
    return scores


def _channels(subject: Subject, layers: Layers, rng: np.random.Generator) -> dict[str, Array]:
    from hwbench.compress.statistics.grams import input_grams

    every = subject.layers()
    groups = [group for group in channel_groups(subject.model).groups if layers.keys() & group.producers.keys()]
    grams = input_grams(subject, sorted({name for group in groups for name in _readers(group, every)}))
    inverses = {name: _inverses(gram) for name, gram in grams.items()}
    scores = {name: np.zeros(layer.output_channels) for name, layer in layers.items()}
    for group in groups:
        lost = _lost(group, every, inverses)
        for name in layers.keys() & group.producers.keys():
            places = group.producers[name]
            scores[name][places] = (lost / places.shape[1])[:, None]
    return scores


def _inverses(gram: Gram) -> list[Array]:
    return [inverse(damped(matrix, DAMPING)) for matrix in gram.matrix]


def _readers(group: Group, every: Layers) -> list[str]:
    """Return who reads a group's channels and keeps outputs that do; of a depthwise convolution none stays."""
    return [name for name in group.consumers if not (name in group.producers and _depthwise(every.get(name)))]


def _depthwise(layer: Linear | None) -> bool:
    return layer is not None and layer.groups > 1 and layer.input_channels == layer.groups


def _lost(group: Group, every: Layers, inverses: Mapping[str, list[Array]]) -> Array:
    """Return what the readers of a group lose with each of its units."""
    total = np.zeros(group.size)
    for name in _readers(group, every):
        weights = every[name].blocks()
        _, outputs, inputs, _ = weights.shape
        gone = group.producers.get(name, np.empty((group.size, 0), np.int64))  # outputs that go with the unit
        for unit, channels in enumerate(group.consumers[name]):
            for block in np.unique(channels // inputs):
                here = channels[channels // inputs == block] % inputs
                stay = np.setdiff1d(np.arange(outputs), gone[unit] - block * outputs)
                total[unit] += _saliency(weights[block, stay], inverses[name][block], here)
    return total


def _saliency(weights: Array, back: Array, inputs: Array) -> float:
    """Return what the rows of ``weights`` [rows, inputs, kernel] lose with some of their inputs."""
    kernel = weights.shape[2]
    columns = (inputs[:, None] * kernel + np.arange(kernel)).ravel()
    gone = weights[:, inputs].reshape(len(weights), -1)
    return float(np.sum(gone.T * np.linalg.solve(back[np.ix_(columns, columns)], gone.T)))


def _refuses(subject: Subject, layers: Layers, form: Form) -> dict[str, Missing]:
    from hwbench.compress.statistics.grams import no_gram

    if form == "weights":
        return _those({name: no_gram(layer) for name, layer in layers.items()}.items())
    groups, every = channel_groups(subject.model), subject.layers()
    return _those(
        (name, groups.locked.get(name) or _unread(layer, groups.groups, every)) for name, layer in layers.items()
    )


def _those(found: Iterable[tuple[str, Missing | None]]) -> dict[str, Missing]:
    return {name: why for name, why in found if why is not None}


def _unread(layer: Linear, groups: Iterable[Group], every: Layers) -> Missing | None:
    """Say why it is not known what the readers of a layer's channels would lose."""
    from hwbench.compress.statistics.grams import no_gram

    covered = np.zeros(layer.output_channels, bool)
    for group in groups:
        if layer.name not in group.producers:
            continue
        covered[group.producers[layer.name]] = True
        readers = _readers(group, every)
        unknown = [name for name in readers if name not in every or no_gram(every[name]) is not None]
        if unknown or not readers:
            who = ", ".join(unknown[:3]) or "nobody with weights"
            return Missing(code="no_reader", why=f"its channels are read by {who}, of which no Gram matrix can be made")
    if covered.all():
        return None
    return Missing(code="not_coupled", why=f"{int((~covered).sum())} of its channels are in no group that could be cut")


CRITERION = Criterion(
    name="obs",
    summary="w^2 / [H^-1]_pp, H the Gram matrix of the inputs; of a channel, what its readers lose",
    source="Hassibi & Stork 1992; arXiv:2208.11580, arXiv:2302.04089",
    needs="data",
    weights=_weights,
    channels=_channels,
    refuses=_refuses,
)
