"""All criteria by name, and scores computed with them.

A criterion that has no form for what is asked, or a layer that it cannot score, is refused before anything is run.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from hwbench.compress.base import Subject
from hwbench.compress.scores import (
    activation,
    apoz,
    bn_gamma,
    entropy,
    fisher,
    fpgm,
    gradient,
    l1,
    l2,
    obs,
    random,
    taylor,
    wanda,
    weight_activation,
)
from hwbench.compress.scores.base import Criterion, Form, Layers, Scorer
from hwbench.errors import ModelError, UsageError
from hwbench.records.base import Missing

Array = np.ndarray[Any, np.dtype[Any]]

CRITERIA: dict[str, Criterion] = {
    module.CRITERION.name: module.CRITERION
    for module in (
        random, l1, l2, fpgm, bn_gamma, activation, apoz, entropy, weight_activation, wanda, gradient, taylor, fisher,
        obs,
    )
}  # fmt: skip


def element_criterion(name: str) -> Criterion:
    """Return a criterion that scores single weights.

    Raises:
        UsageError: there is none of the name, or it has no such form.
    """
    return _criterion(name, "weights")


def channel_criterion(name: str) -> Criterion:
    """Return a criterion that scores output channels.

    Raises:
        UsageError: there is none of the name, or it has no such form.
    """
    return _criterion(name, "channels")


def refused(subject: Subject, layers: Collection[str], criterion: str, form: Form) -> dict[str, Missing]:
    """Return the layers that a criterion cannot score, and why. Nothing is run.

    Raises:
        UsageError: there is no such criterion, or it has no such form.
    """
    chosen, every = _criterion(criterion, form), subject.layers()
    return chosen.refuses(subject, {name: every[name] for name in layers}, form)


def score_weights(
    subject: Subject, layers: Collection[str], criterion: str, *, rng: np.random.Generator
) -> dict[str, Array]:
    """Return the importance of each weight, by layer, float64 in the shape of the layer's initialiser.

    Raises:
        UsageError: there is no such criterion, it has no element-wise form or cannot score one of the layers, or
            samples are wanting.
        ModelError: the network puts out NaN on the data.
    """
    every = subject.layers()
    scores = score_blocks(subject, layers, criterion, rng=rng)
    return {name: every[name].from_blocks(found) for name, found in scores.items()}


def score_blocks(
    subject: Subject, layers: Collection[str], criterion: str, *, rng: np.random.Generator
) -> dict[str, Array]:
    """Return what :func:`score_weights` does in the form of :meth:`Linear.blocks`; raises as it does."""
    return _scores(subject, layers, criterion, "weights", rng)


def score_channels(
    subject: Subject, layers: Collection[str], criterion: str, *, rng: np.random.Generator
) -> dict[str, Array]:
    """Return the importance of each output channel, by layer: float64 [output channels].

    Raises:
        UsageError: there is no such criterion, it has no form for channels or cannot score one of the layers, or
            samples are wanting.
        ModelError: the network puts out NaN on the data.
    """
    return _scores(subject, layers, criterion, "channels", rng)


def _scores(
    subject: Subject, layers: Collection[str], criterion: str, form: Form, rng: np.random.Generator
) -> dict[str, Array]:
    for name, why in refused(subject, layers, criterion, form).items():
        raise UsageError(f"'{criterion}' cannot score layer '{name}': {why}")
    chosen = CRITERIA[criterion]
    if chosen.needs != "nothing":
        subject.need_samples(f"criterion '{criterion}'")
    every = subject.layers()
    found: Layers = {name: layer for name, layer in every.items() if name in layers}
    scores = _scorer(chosen, form)(subject, found, rng) if found else {}
    for name, array in scores.items():
        if not np.isfinite(array).all():
            raise ModelError(f"'{criterion}' gives layer '{name}' scores that are NaN or infinite")
    return scores


def _criterion(name: str, form: Form) -> Criterion:
    found = CRITERIA.get(name)
    fitting = ", ".join(sorted(key for key, one in CRITERIA.items() if getattr(one, form) is not None))
    if found is None:
        raise UsageError(f"there is no criterion '{name}'", hint=f"for {form}: {fitting}")
    if getattr(found, form) is None:
        raise UsageError(f"criterion '{name}' cannot score {form}: {found.without}", hint=f"for {form}: {fitting}")
    return found


def _scorer(criterion: Criterion, form: Form) -> Scorer:
    scorer = criterion.weights if form == "weights" else criterion.channels
    assert scorer is not None
    return scorer
