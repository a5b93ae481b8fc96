"""What a criterion of importance is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from hwbench.compress.base import Subject
from hwbench.graph.linear import Linear
from hwbench.records.base import Missing

Array = np.ndarray[Any, np.dtype[Any]]
Form = Literal["weights", "channels"]
Layers = Mapping[str, Linear]
Scorer = Callable[[Subject, Layers, np.random.Generator], dict[str, Array]]
Refuser = Callable[[Subject, Layers, Form], dict[str, Missing]]


def never(subject: Subject, layers: Layers, form: Form) -> dict[str, Missing]:
    """Refuse no layer."""
    return {}


def each(refuses: Callable[[Linear], Missing | None]) -> Refuser:
    """Return the refusals of layers that are looked at one by one."""

    def refuser(subject: Subject, layers: Layers, form: Form) -> dict[str, Missing]:
        found = {name: refuses(layer) for name, layer in layers.items()}
        return {name: why for name, why in found.items() if why is not None}

    return refuser


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """A criterion. ``summary``: the formula, on a line. ``source``: the paper it is from.

    ``weights`` returns one score for each weight in the form of :meth:`Linear.blocks`, ``channels`` one for each output
    channel; None where the criterion has no such form, for the reason ``without``. ``refuses`` says which layers cannot
    be scored and why, without running anything.
    """

    name: str
    summary: str
    source: str
    needs: Literal["nothing", "data", "gradients"]
    weights: Scorer | None = None
    channels: Scorer | None = None
    without: str = ""
    refuses: Refuser = never


def of_channels(blocks: Array) -> Array:
    """Return the sum of the weights' scores over each output channel."""
    total: Array = blocks.sum(axis=(2, 3)).reshape(-1)
    return total


def summed(weights: Scorer) -> Scorer:
    """Return the form for channels of a criterion whose channel is worth the sum of its weights."""

    def channels(subject: Subject, layers: Layers, rng: np.random.Generator) -> dict[str, Array]:
        return {name: of_channels(blocks) for name, blocks in weights(subject, layers, rng).items()}

    return channels
