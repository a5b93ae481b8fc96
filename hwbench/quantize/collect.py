"""Run the float network over the data, and reduce what its activations are to statistics.

One pass, batch by batch: nothing of a batch stays but counts, extremes and sums. The extremes and means are over every
value. A histogram gets a sample of the places of a large tensor (the same in every batch), at least
:data:`SAMPLED_IN_ALL` values of a tensor where the data have as many: the share beyond a percentile of 99.99 is then
known to some 9 %, and the time for counting is small beside the time for running.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from hwbench.errors import ModelError
from hwbench.quantize.estimators import MovingExtremes, estimate, needs_counts
from hwbench.quantize.histogram import Histogram
from hwbench.quantize.instrument import Instrumented, Probe
from hwbench.quantize.session import run_for
from hwbench.quantize.statistics import ChannelStatistics
from hwbench.quantize.tensors import choose
from hwbench.records.quantization import CalibrationSettings, TensorRange

Array = np.ndarray[Any, np.dtype[Any]]
Arrays = Mapping[str, Array]

SAMPLED_IN_ALL = 1_250_000
_SAMPLED_PER_SAMPLE = 4096
_LIKE_INFINITY = 1e30  # magnitudes that only a mask has


@dataclass(frozen=True, kw_only=True)
class Batches:
    """Samples in batches of one size.

    ``arrays``: by input, samples along the first axis. ``samples``: how many of them to use. The last batch is filled
    up with samples from the beginning, which then count twice.
    """

    arrays: Arrays
    samples: int
    size: int

    @property
    def count(self) -> int:
        """How many batches there are."""
        return -(-self.samples // self.size)

    def __iter__(self) -> Iterator[dict[str, Array]]:
        for start in range(0, self.samples, self.size):
            rows = np.arange(start, start + self.size) % self.samples
            yield {name: array[rows] for name, array in self.arrays.items()}


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What a pass over the data has found.

    ``ranges`` by tensor name. ``channels`` by the name of the tensor that a layer with weights reads. ``masks`` are
    tensors without a range, since they hold what stands for minus infinity on their way to a softmax.
    """

    ranges: dict[str, TensorRange]
    channels: dict[str, ChannelStatistics]
    masks: tuple[str, ...]


def collect(
    model: ir.Model,
    batches: Batches,
    settings: CalibrationSettings,
    *,
    folder: Path,
    threads: int,
    progress: Callable[[float], None],
) -> Collected:
    """Return the ranges and channel statistics of the activations of a model.

    Args:
        model: the float network, shapes inferred.
        batches: of the size that the model takes.
        settings: the estimator, and the seed of the sampled places.
        folder: scratch space.
        threads: of the runtime.
        progress: called with the share of batches that are done.

    Raises:
        ModelError: an activation is NaN or infinite; the message names the first.
        EngineError: onnxruntime is missing or cannot run the network.
    """
    chosen = choose(model.graph)
    own = frozenset(seen.value.name or "" for seen in chosen.observed) - frozenset(chosen.shared)
    limit = max(_SAMPLED_PER_SAMPLE * batches.size, -(-SAMPLED_IN_ALL // batches.count))
    sampled = own if needs_counts(settings) else frozenset[str]()
    instrumented = Instrumented(model, chosen.observed, sampled, limit=limit, seed=settings.seed)
    tallies = [_Tally(probe, settings) for probe in instrumented.probes]
    names = [name for probe in instrumented.probes for name in _outputs(probe)]
    run = run_for(instrumented.model, names, folder / "instrumented.onnx", threads)
    for index, batch in enumerate(batches):
        found = dict(zip(names, run(batch), strict=True))
        for tally in tallies:
            tally.take(found)
        progress((index + 1) / batches.count)
    return _reduced(tallies, own, chosen.shared, settings)


def _outputs(probe: Probe) -> Iterator[str]:
    yield from (probe.low, probe.high, probe.mean)
    if probe.sample is not None:
        yield probe.sample


def _reduced(
    tallies: list[_Tally], own: frozenset[str], shared: Mapping[str, str], settings: CalibrationSettings
) -> Collected:
    ranges = {t.probe.tensor: t.range(settings) for t in tallies if t.probe.tensor in own and not t.is_mask}
    masks = [tally.probe.tensor for tally in tallies if tally.is_mask]
    for name, leader in shared.items():
        if leader in ranges:
            ranges[name] = ranges[leader]
    channels = {t.probe.tensor: t.channels(t.probe.axis) for t in tallies if t.probe.axis is not None}
    return Collected(ranges=ranges, channels=channels, masks=tuple(masks))


class _Tally:
    """What is kept of one tensor from batch to batch."""

    def __init__(self, probe: Probe, settings: CalibrationSettings) -> None:
        self.probe = probe
        self.is_mask = False
        self._histogram = Histogram()
        self._moving = MovingExtremes(momentum=settings.momentum)
        self._batches = 0
        self._sum: Array = np.zeros(())
        self._absmax: Array = np.zeros(())

    def take(self, found: Arrays) -> None:
        """Take in what the probe told of one batch."""
        if self.is_mask:
            return
        lows, highs, mean = (found[name] for name in (self.probe.low, self.probe.high, self.probe.mean))
        low, high = float(lows.min()), float(highs.max())
        if not self._is_sound(low, high, mean):
            self.is_mask = True
            return
        self._histogram.saw(low, high)
        self._moving.saw(low, high)
        self._batches += 1
        if self.probe.axis is not None:
            self._sum = self._sum + mean.astype(np.float64)
            self._absmax = np.maximum(self._absmax, np.maximum(np.abs(lows), np.abs(highs)).astype(np.float64))
        if self.probe.sample is not None:
            self._histogram.add(found[self.probe.sample])

    def _is_sound(self, low: float, high: float, mean: Array) -> bool:
        """Say whether the values are numbers to be quantised.

        A maximum passes over NaN in onnxruntime, a mean does not.

        Raises:
            ModelError: they are not, and the tensor is not on its way to a softmax.
        """
        largest = max(abs(low), abs(high))
        if self.probe.mask and largest >= _LIKE_INFINITY:
            return False
        if np.isfinite(largest) and np.isfinite(mean).all():
            return True
        what = "infinite values" if np.isinf(largest) else "NaN"
        raise ModelError(
            f"the activation '{self.probe.tensor}' holds {what} on the calibration data, so it has no range",
            hint="find the layer with `hwbench verify`, or check the data: are they preprocessed as in training?",
        )

    def range(self, settings: CalibrationSettings) -> TensorRange:
        return estimate(self._histogram, self._moving, settings)

    def channels(self, axis: int) -> ChannelStatistics:
        return ChannelStatistics(mean=self._sum / max(1, self._batches), absmax=self._absmax, axis=axis)
