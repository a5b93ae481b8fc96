"""``fpgm``: how far an output channel's filter is from the other filters of its layer, summed.

What lies near the geometric median of the filters can be replaced by the others, large or not (He et al. 2018,
arXiv:1811.00250). Filters of a grouped convolution are compared across groups: they have the same size.
"""

from __future__ import annotations

import numpy as np

from hwbench.compress.base import Subject
from hwbench.compress.scores.base import Array, Criterion, Layers, each
from hwbench.graph.linear import Linear
from hwbench.records.base import Missing


def _channels(subject: Subject, layers: Layers, rng: np.random.Generator) -> dict[str, Array]:
    return {name: distances(layer.blocks().reshape(layer.output_channels, -1)) for name, layer in layers.items()}


def distances(filters: Array) -> Array:
    """Return the sum of the Euclidean distances of each row to all rows."""
    total = np.zeros(len(filters))
    for index, one in enumerate(filters):  # the product form loses digits where filters are alike, which is the point
        total[index] = np.sqrt(np.square(filters - one).sum(axis=1)).sum()
    return total


def _refuses(layer: Linear) -> Missing | None:
    if layer.output_channels > 2:
        return None
    return Missing(
        code="too_few_channels", why=f"among {layer.output_channels} filters none is nearer to the others than another"
    )


CRITERION = Criterion(
    name="fpgm",
    summary="sum over the layer's filters of the distance to each",
    source="arXiv:1811.00250",
    needs="nothing",
    channels=_channels,
    without="a single weight has no distance to the geometric median of filters",
    refuses=each(_refuses),
)
