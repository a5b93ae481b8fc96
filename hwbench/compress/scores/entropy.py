"""``entropy``: how much a channel's mean activation tells samples apart, in nats.

Luo & Wu 2017 (arXiv:1706.05791): each sample gives one number a channel, the mean over its positions; the numbers of
all samples go into a histogram of :data:`BINS` equal bins over the channel's own range, and its entropy is the score. A
channel that is the same for all samples scores 0, whatever its size. With N samples it cannot be more than log(N).
"""

from __future__ import annotations

import numpy as np

from hwbench.compress.base import Subject
from hwbench.compress.scores.base import Array, Criterion, Layers
from hwbench.compress.statistics.moments import output_moments

BINS = 32


def _channels(subject: Subject, layers: Layers, rng: np.random.Generator) -> dict[str, Array]:
    return {name: histogram_entropy(seen.sample_means) for name, seen in output_moments(subject, layers).items()}


def histogram_entropy(values: Array, bins: int = BINS) -> Array:
    """Return the entropy in nats of each column of ``values`` [samples, channels] over its own range."""
    low, high = values.min(axis=0), values.max(axis=0)
    spread = np.where(high > low, high - low, 1)
    index = np.minimum((bins * ((values - low) / spread)).astype(np.int64), bins - 1)
    channels = values.shape[1]
    counts = np.bincount((index + bins * np.arange(channels)).ravel(), minlength=bins * channels)
    shares = counts.reshape(channels, bins) / len(values)
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    entropy: Array = np.abs((shares * logs).sum(axis=1))  # not -0
    return entropy


CRITERION = Criterion(
    name="entropy",
    summary=f"entropy over the samples of the channel's mean activation, {BINS} bins over its range",
    source="arXiv:1706.05791",
    needs="data",
    channels=_channels,
    without="a single weight has no activation of its own",
)
