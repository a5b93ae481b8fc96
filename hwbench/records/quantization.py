"""What precision each layer is to have, and the ranges that quantisation goes by."""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

from hwbench.records.base import Missing, Record, check, check_finite
from hwbench.records.model import DataFacts, Model, ModelFiles

CALIBRATION_SCHEMA = 1

# What a layer's weights and activations become. ``float``: whatever the plan's ``floating`` says. ``fp8``: E4M3.
Scheme = Literal["float", "int8", "int8-dynamic", "int8-weights", "int4-weights", "fp8"]
Floating = Literal["auto", "fp32", "tf32", "fp16", "bf16"]
Estimator = Literal["minmax", "ema", "percentile", "mse", "entropy"]

PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "auto", *get_args(Scheme)[1:])  # what ``--precision`` of a build may be


class PrecisionPlan(Record, frozen=True, kw_only=True):
    """One precision for every layer, and the layers that have another.

    ``default`` holds for every layer that a runtime can run so; the others stay in floating point, and the build says
    which and why. A layer named in ``layers`` (by its hub name) gets that or the build is refused; ``float`` is always
    possible. ``floating``: the arithmetic of what is not quantised; ``auto`` leaves it to the runtime. ``kernels``: by
    layer, the sparse format whose kernel is to run it (``vw16``); only engines that take hwbench's kernels have them.
    """

    default: Scheme
    floating: Floating = "auto"
    layers: dict[str, Scheme] = {}
    kernels: dict[str, str] = {}

    def __post_init__(self) -> None:
        both = sorted(name for name in self.kernels if self.layers.get(name, "float") != "float")
        check(not both, f"layers have a sparse kernel and a scheme both: {', '.join(both)}")

    def of(self, layer: str) -> Scheme:
        """Return the scheme of a layer."""
        return self.layers.get(layer, self.default)

    @property
    def needs_ranges(self) -> bool:
        """Say whether any layer's activations are quantised with fixed ranges."""
        return bool({"int8", "fp8"} & {self.default, *self.layers.values()})

    @property
    def label(self) -> str:
        """A short name: the precision asked for, with ``-mixed`` where some layers have another."""
        name: str = self.default if self.default != "float" else self.floating
        name = f"{name}-mixed" if self.layers and set(self.layers.values()) != {self.default} else name
        return f"{name}-sparse" if self.kernels else name


class CalibrationSettings(Record, frozen=True, kw_only=True):
    """How ranges are found, and what is done to the weights beforehand.

    ``percentile``: share of the samples inside, in percent, read by the estimator of that name. ``momentum``: of the
    moving average. ``smooth_quant``: alpha (Xiao et al. 2022, arXiv:2211.10438), None for none.
    """

    estimator: Estimator = "mse"
    percentile: float = 99.99
    momentum: float = 0.9
    equalize: bool = False
    smooth_quant: float | None = None
    adaround: bool = False
    bias_correction: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        check(50 < self.percentile <= 100, f"percentile must be above 50 and at most 100, got {self.percentile}")
        check(0 <= self.momentum < 1, f"momentum must be at least 0 and below 1, got {self.momentum}")
        alpha = self.smooth_quant
        check(alpha is None or 0 <= alpha <= 1, f"smooth_quant must be between 0 and 1, got {alpha}")

    @property
    def moves_ranges(self) -> bool:
        """Say whether weights are changed so that activations have other ranges."""
        return self.equalize or self.smooth_quant is not None

    def without_repairs(self) -> CalibrationSettings:
        """Return settings that find the same ranges and leave weights as they are."""
        return msgspec.structs.replace(self, equalize=False, smooth_quant=None, adaround=False, bias_correction=False)


class TensorRange(Record, frozen=True, kw_only=True):
    """The range of one activation tensor, in the tensor's own unit.

    ``low`` and ``high``: where an asymmetric quantiser clips; both may have one sign, and whoever quantises must widen
    them to hold zero. ``magnitude``: where a symmetric one clips. ``seen_low`` and ``seen_high``: the extremes over all
    samples.
    """

    low: float
    high: float
    magnitude: float
    seen_low: float
    seen_high: float

    def __post_init__(self) -> None:
        check_finite(self, "low", "high", "seen_low", "seen_high", minimum=None)
        check_finite(self, "magnitude")
        check(self.low <= self.high, "low must not be above high")


class Calibration(Record, frozen=True, kw_only=True):
    """The ranges of every activation of a graph, found once and shared by all runtimes.

    ``graph_sha256`` is of the float graph they belong to: the hub after the repairs named in ``repairs`` (in words, one
    for each kind, with how many layers it changed). ``tensors`` is keyed by the graph's tensor names.
    """

    schema_version: int
    settings: CalibrationSettings
    data: DataFacts
    graph_sha256: str
    tensors: dict[str, TensorRange]
    repairs: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class CalibrateJob(Record, frozen=True, kw_only=True):
    """A network to be calibrated on ``data``, whose samples lie in ``data_folder``."""

    model: Model
    files: ModelFiles
    plan: PrecisionPlan
    settings: CalibrationSettings
    data: DataFacts
    data_folder: str
    threads: int


class CalibrateResult(Record, frozen=True, kw_only=True):
    """The ranges, and the files of the model with the graph that they belong to."""

    calibration: Calibration
    files: ModelFiles


class LoweredLayer(Record, frozen=True, kw_only=True):
    """What a runtime's graph holds for a layer that the plan wants quantised; ``why``: the reason for another."""

    layer: str
    asked: Scheme
    got: Scheme
    why: str | None = None


class Lowered(Record, frozen=True, kw_only=True):
    """What an engine has written: its files, the first of which is what the runtime is given to read.

    ``arithmetic``: in what most multiply-adds are written down, as :attr:`Model.arithmetic` has it. ``settings``: what
    the runtime is to be told beside the file. ``same_bytes``: whether building again gives the same bytes, or why not.
    ``isa``: as :attr:`Artefact.isa <hwbench.records.model.Artefact>` has it. ``graph``: which of the files is the ONNX
    graph that was built, where one is kept: it computes what the engine does, in any ONNX runtime.
    """

    files: tuple[str, ...]  # relative to the folder
    arithmetic: str
    settings: dict[str, str]
    layers: tuple[LoweredLayer, ...]
    same_bytes: Literal[True] | Missing
    isa: tuple[str, ...] = ()
    graph: str | None = None
    notes: tuple[str, ...] = ()
