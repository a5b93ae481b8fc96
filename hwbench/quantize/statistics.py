"""What is known of a tensor's channels: the means and the extremes over all samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Float64s = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, kw_only=True)
class ChannelStatistics:
    """Statistics of one activation tensor, one value a channel, in the tensor's own unit.

    ``mean`` is E[x] over samples and positions, which bias correction needs; ``absmax`` is max |x|, which SmoothQuant
    needs. ``axis`` is the tensor's axis that the channels lie on: 1 for what a convolution reads, the last for what a
    matrix product reads.
    """

    mean: Float64s
    absmax: Float64s
    axis: int
