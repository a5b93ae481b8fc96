"""What is done to the weights before they are quantised, and the pass over the data in between.

The order is that of what needs what: equalisation needs weights alone; SmoothQuant needs the extremes of channels;
ranges are those of the network as it is then; AdaRound learns on its activations; bias correction looks at the weights
that come out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx_ir as ir

from hwbench.graph.linear import Outcome
from hwbench.quantize.adaround import adaround
from hwbench.quantize.bias import correct_bias, weights_of
from hwbench.quantize.collect import Batches, Collected, collect
from hwbench.quantize.equalize import equalize
from hwbench.quantize.session import tensors_of
from hwbench.quantize.smooth import smooth
from hwbench.quantize.weights import rounded
from hwbench.records.quantization import CalibrationSettings, PrecisionPlan

Array = np.ndarray[Any, np.dtype[Any]]

_EIGHT_BITS = frozenset({"int8", "int8-dynamic", "int8-weights"})
_LEARNING_SAMPLES = 128  # for AdaRound, which runs the network anew for every layer


@dataclass(kw_only=True)
class Calibrating:
    """A network on its way to ranges. ``model`` is repaired in place; ``repairs`` says in words what was done."""

    model: ir.Model
    plan: PrecisionPlan
    settings: CalibrationSettings
    batches: Batches
    folder: Path  # scratch space
    threads: int
    progress: Callable[[float], None]
    repairs: list[str] = field(default_factory=list)

    def run(self) -> Collected:
        """Repair the weights and find the ranges.

        Raises:
            ModelError: an activation is NaN or infinite.
            EngineError: onnxruntime is missing or cannot run the network.
        """
        if self.settings.equalize:
            self._note(equalize(self.model), "cross-layer equalisation")
        passes = 1 if self.settings.smooth_quant is None else 2
        if self.settings.smooth_quant is not None:
            extremes = self._collect(msgspec.structs.replace(self.settings, estimator="minmax"), 0, passes)
            outcome = smooth(self.model, extremes.channels, self.settings.smooth_quant)
            self._note(outcome, f"SmoothQuant with alpha {self.settings.smooth_quant:g}")
        collected = self._collect(self.settings, passes - 1, passes)
        self._round(collected)
        return collected

    def _round(self, collected: Collected) -> None:
        """Repair what rounding does to the layers that get eight bits."""
        before = weights_of(self.model)
        only = {name for name in before if self.plan.of(name) in _EIGHT_BITS}
        if self.settings.adaround:
            self._note(adaround(self.model, self._activations, seed=self.settings.seed, only=only), "AdaRound")
        if self.settings.bias_correction:
            outcome = correct_bias(self.model, collected.channels, rounded, before=before, only=only)
            self._note(outcome, "bias correction")

    def _collect(self, settings: CalibrationSettings, index: int, passes: int) -> Collected:
        return collect(
            self.model,
            self.batches,
            settings,
            folder=self.folder,
            threads=self.threads,
            progress=lambda fraction: self.progress((index + fraction) / passes),
        )

    def _activations(self, name: str) -> Iterator[Array]:
        """Run the network up to a tensor, batch by batch."""
        fewer = Batches(
            arrays=self.batches.arrays, samples=min(_LEARNING_SAMPLES, self.batches.samples), size=self.batches.size
        )
        path = self.folder / "activation.onnx"
        for (activation,) in tensors_of(self.model, [name], fewer, path=path, threads=self.threads):
            yield activation

    def _note(self, outcome: Outcome, what: str) -> None:
        count = len(outcome.changed)
        if count:
            self.repairs.append(f"{what} of {count} layer{'s' if count > 1 else ''}")
