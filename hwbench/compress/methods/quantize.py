"""``quantize``: weights on grids of 8, 4 or 2 bits, after training or while training.

The hub gets the weights that the integers stand for, still as floats: what makes integers of them is ``hwbench build``,
which finds the same ones where it gives the layer that grid. Activations stay floats in the hub. With
``activation_bits`` they are rounded in the simulation of the runtime that the method ends with (and in training), and
their ranges are left in ``calibration.json``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import ClassVar, Literal

import msgspec
import numpy as np
import onnx_ir as ir

from hwbench.compress.base import Array, Outcome, Settings, Subject, check_pattern
from hwbench.compress.quantising import (
    Grain,
    OnGrid,
    Scales,
    initialiser,
    largest_of,
    on_grid,
    other_readers,
    write,
    zeros_of,
)
from hwbench.compress.simulated import (
    activations_of,
    find_ranges,
    folded,
    judge,
    on_integers,
    save_calibration,
    simulated,
)
from hwbench.errors import UsageError
from hwbench.graph.linear import Linear, Skipped, linear_layers, linear_of
from hwbench.quantize.adaround import adaround
from hwbench.quantize.weights import weight_scales
from hwbench.records.base import Missing
from hwbench.records.compression import Change
from hwbench.records.quantization import CalibrationSettings, Estimator, TensorRange

_BITS = (8, 4, 2)
_LEARNING_SAMPLES = 128  # for AdaRound, which runs the network anew for every layer
BUILD = "int8 execution is made by hwbench build --precision int8; the hub's weights lie on their grid, as floats"


class QuantizeSettings(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of ``quantize``."""

    weight_bits: int = 8
    """8 (-127 to 127), 4 (-7 to 7) or 2 (-1, 0, 1)."""
    overrides: dict[str, int] = msgspec.field(default_factory=dict)
    """Bits of the weights of the layers whose whole name matches a regular expression; the first that does holds."""
    granularity: str = "channel"
    """What shares a scale: ``channel`` (an output channel), ``tensor`` (a layer), ``group:K`` (K inputs; matrices)."""
    scale: Scales = "mse"
    """``max``: the grid ends at the largest weight; ``mse``: where the squared error of the weights is least."""
    rounding: Literal["nearest", "adaround"] = "nearest"
    """``adaround`` learns on the samples whether each weight goes up or down (arXiv:2004.10568); scale ``max`` then."""
    activation_bits: int | Literal["none"] = "none"
    """Of the activations, in training and in the simulation. 16: LiteRT's 16x8 alone."""
    estimator: Estimator = "mse"
    """How the ranges of activations are found."""
    runtime: Literal["onnxruntime", "openvino", "litert"] = "onnxruntime"
    """Whose placement of roundings and whose arithmetic."""
    qat_epochs: int = 0
    """Epochs of quantisation-aware training; 0: quantisation after training."""
    learning_rate: float = 0.001
    """Of AdamW, falling to zero along a cosine."""
    learned_steps: bool = True
    """Train the scales too (LSQ, arXiv:1902.08153); otherwise they follow the largest weight."""

    def __post_init__(self) -> None:
        for bits in (self.weight_bits, *self.overrides.values()):
            if bits not in _BITS:
                raise UsageError(f"weights can have 8, 4 or 2 bits, not {bits}")
        for pattern in self.overrides:
            check_pattern(pattern, "overrides:")
        self._check_grain()
        if self.activation_bits not in {"none", 8, 16}:
            raise UsageError(f"activations can have 8 or 16 bits, or none, not {self.activation_bits}")
        if self.activation_bits == 16 and self.runtime != "litert":
            raise UsageError(f"{self.runtime} has no kernels for activations of 16 bits", hint="runtime=litert has")
        if self.qat_epochs < 0 or self.learning_rate <= 0:
            raise UsageError("qat_epochs must be at least 0, and learning_rate above 0")

    def _check_grain(self) -> None:
        group = self.grain.group
        if group is not None and self.activation_bits != "none":
            raise UsageError(
                "no runtime here multiplies 8-bit activations with weights that share scales in groups",
                hint="granularity=channel, or activation_bits=none",
            )
        if self.rounding == "adaround" and (self.granularity != "channel" or self.scale != "max" or self.qat_epochs):
            raise UsageError(
                "adaround rounds on grids by output channel that end at the largest weight, and is not trained on",
                hint="granularity=channel, scale=max, qat_epochs=0",
            )

    @property
    def grain(self) -> Grain:
        """What shares a scale."""
        if self.granularity in {"channel", "tensor"}:
            return Grain(whole=self.granularity == "tensor")
        found = re.fullmatch(r"group:([1-9]\d*)", self.granularity)
        if found is None:
            raise UsageError(f"granularity is channel, tensor or group:K with K of 1 or more, not {self.granularity}")
        return Grain(group=int(found[1]))

    def bits_of(self, layer: str) -> int:
        """Return the bits of a layer's weights."""
        return next((bits for name, bits in self.overrides.items() if re.fullmatch(name, layer)), self.weight_bits)


class Quantize:
    """Puts weights on grids of few bits."""

    stage: ClassVar[str] = "quantise"
    summary: ClassVar[str] = "weights of 8, 4 or 2 bits, with the runtime's arithmetic simulated; with training or not"
    settings_type: ClassVar[type[QuantizeSettings]] = QuantizeSettings

    def legal(self, subject: Subject, settings: QuantizeSettings) -> dict[str, Missing | None]:
        found: dict[str, Missing | None] = {}
        for layer in linear_layers(subject.model):
            if isinstance(layer, Skipped):
                found[layer.layer] = Missing(code="weights", why=layer.reason)
            else:
                found[layer.name] = subject.on_a_grid(layer) or _why_not(layer, settings) or _shared(layer, settings)
        return found

    def apply(self, subject: Subject, layers: Collection[str], settings: QuantizeSettings) -> Outcome:
        chosen = {name: layer for name, layer in subject.layers().items() if name in layers}
        before = {name: layer.weight for name, layer in chosen.items()}
        ranges = _ranges(subject, settings)
        if settings.qat_epochs:
            from hwbench.compress.qat import train

            grids, ranges = train(subject, chosen, settings, ranges)
        else:
            grids = _after_training(subject, chosen, settings)
        for name, grid in grids.items():
            write(chosen[name], grid)
            weight = initialiser(chosen[name])
            subject.on_grid.add(weight)
            subject.bits[weight] = grid.stored_bits(zeros_held=weight in subject.held_zeros)
        figures, notes = _told(subject, settings, list(chosen), ranges)
        changes = [
            _change(layer, grids[name], before[name], settings, subject.bits[initialiser(layer)])
            for name, layer in chosen.items()
        ]
        return Outcome(changes=changes, figures=figures, notes=[BUILD, *notes])


def _why_not(layer: Linear, settings: QuantizeSettings) -> Missing | None:
    grain = settings.grain
    if grain.group is not None and layer.node.op_type not in {"Gemm", "MatMul"}:
        return Missing(
            code="granularity",
            why="no runtime packs the weights of convolutions in groups",
            cure="granularity=channel",
        )
    if settings.rounding == "adaround" and layer.node.op_type == "ConvTranspose":
        return Missing(
            code="rounding", why="the rounding of a transposed convolution is not learned", cure="rounding=nearest"
        )
    if grain.whole and any(reader.op_type == "BatchNormalization" for reader, _ in layer.output.uses()):
        return Missing(
            code="batch-norm",
            why="runtimes fold the BatchNorm behind it into its weights, which then have more scales than one",
            cure="granularity=channel, or fold it first (method simplify)",
        )
    return None


def _shared(layer: Linear, settings: QuantizeSettings) -> Missing | None:
    """Say why weights that others read too cannot lie on the grid of this layer for all of them."""
    value, others = layer.node.inputs[1], other_readers(layer)
    assert value is not None
    apart = sorted({node.name or node.op_type for node, at in others if not _same_grid(node, at, layer, settings)})
    if value.is_graph_output() or (others and not value.is_initializer()):
        apart = apart or ["an output" if value.is_graph_output() else "other layers"]
    if not apart:
        return None
    return Missing(
        code="shared_weights",
        why=f"its weights are those of {', '.join(apart[:3])} too, which would not take the same grid",
        cure="the same bits for all of them, without adaround and training",
    )


def _same_grid(node: ir.Node, index: int, layer: Linear, settings: QuantizeSettings) -> bool:
    """Say whether who else reads the weights of a layer would have the same numbers, or takes rows as they are."""
    if settings.rounding == "adaround":  # learned on the inputs of one layer
        return False
    if node.op_type == "Gather" and not node.domain:
        return index == 0
    other = linear_of(node)
    return (
        isinstance(other, Linear)
        and index == 1
        and not settings.qat_epochs  # which trains scales for each layer
        and other.output_axis == layer.output_axis
        and settings.bits_of(other.name) == settings.bits_of(layer.name)
        and _why_not(other, settings) is None
    )


def calibration(settings: QuantizeSettings) -> CalibrationSettings:
    """Return the settings that ranges are found with."""
    return CalibrationSettings(estimator=settings.estimator, bias_correction=False)


def _ranges(subject: Subject, settings: QuantizeSettings) -> Mapping[str, TensorRange]:
    if settings.activation_bits == "none":
        return {}
    samples = subject.need_samples("finding ranges of activations")
    return find_ranges(folded(subject.model), subject, samples, calibration(settings))


def _after_training(subject: Subject, layers: Mapping[str, Linear], settings: QuantizeSettings) -> dict[str, OnGrid]:
    if settings.rounding == "nearest":
        return {
            name: on_grid(layer, settings.bits_of(name), settings.grain, settings.scale)
            for name, layer in layers.items()
        }
    samples = subject.need_samples("adaround").first(max(_LEARNING_SAMPLES, subject.batch))
    model = subject.model
    before = {name: layer.weight for name, layer in layers.items()}
    for bits in sorted({settings.bits_of(name) for name in layers}):
        subject.report(f"learning the rounding to {bits} bits", None)
        adaround(
            model,
            lambda name: activations_of(model, subject, samples, name),
            bits=bits,
            seed=subject.seed,
            only=[name for name in layers if settings.bits_of(name) == bits],
        )
    return {name: _learned(layer, before[name], settings.bits_of(name)) for name, layer in layers.items()}


def _learned(layer: Linear, before: Array, bits: int) -> OnGrid:
    from hwbench.compress.quantising import spread

    largest, axis = largest_of(bits), layer.output_axis
    scales = spread(weight_scales(before, axis, largest=largest), before.ndim, axis)
    return OnGrid(numbers=layer.weight, scales=scales, largest=largest, bits=bits)


def _told(
    subject: Subject, settings: QuantizeSettings, layers: list[str], ranges: Mapping[str, TensorRange]
) -> tuple[dict[str, float], list[str]]:
    """Simulate the network, and return what is told of it; without samples there is nothing to judge it on."""
    samples = subject.samples
    if samples is None:
        return {}, ["no samples: the network was not simulated"]
    model = folded(subject.model)
    if settings.activation_bits == "none":
        view, words = subject.view().cpu(), "weights alone: activations in floating point"
    else:
        bits = int(settings.activation_bits)
        view = simulated(model, ranges, layers, runtime=settings.runtime, bits=bits)
        words = f"simulated in the arithmetic of {settings.runtime}, activations of {bits} bits"
        floats = sorted(set(layers) - set(on_integers(model, ranges, layers)))
        words += f"; in floating point: {', '.join(floats)}" if floats else ""
        save_calibration(subject, model, ranges, calibration(settings), samples)
    return judge(subject, view, subject.teacher().cpu(), samples).figures, [words]


def _change(layer: Linear, grid: OnGrid, before: Array, settings: QuantizeSettings, bits: float) -> Change:
    shape = tuple(int(size) for size in before.shape)
    size = float(np.sum(before**2))
    off = float(np.sum((grid.numbers - before) ** 2)) / size if size else 0.0
    trained = f", trained for {settings.qat_epochs} epochs" if settings.qat_epochs else f", weights off by {off:.2%}"
    others = [node.name or node.op_type for node, _ in other_readers(layer)]
    too = f"; {', '.join(others)} too, which read the same weights" if others else ""
    return Change(
        layer=layer.name,
        kind="quantised",
        what=f"{grid.bits} bits, {settings.grain.words}{trained}{too}",
        shape_before=shape,
        shape_after=shape,
        zeros=zeros_of(grid.numbers),
        bits_per_weight=bits,
    )
