"""What ``hwbench build`` is asked for, and what it leaves."""

from __future__ import annotations

from hwbench.records.base import Missing, Record
from hwbench.records.bundle import NOT_NEEDED, GraphChecked
from hwbench.records.device import Device, Environment
from hwbench.records.measurement import Built, NotMeasured, ProfileRequest
from hwbench.records.model import Artefact, DataFacts, ImportResult, Model
from hwbench.records.placement import Requirements, Unmet
from hwbench.records.quantization import Calibration, CalibrationSettings, Lowered, LoweredLayer, PrecisionPlan
from hwbench.records.verification import Verified, VerifyRequest

BUILD_SCHEMA = 1


class BundleRequest(Record, frozen=True, kw_only=True):
    """A whole ``hwbench build`` request, resolved.

    ``keep_float`` names layers, with wildcards, that stay in floating point in every plan. ``verify`` and ``measure``
    say how the bundles are to be judged and timed; their ``model`` is filled in for each.
    """

    model: str
    device: str
    engines: tuple[str, ...]  # empty: every one that can
    plans: tuple[PrecisionPlan, ...]
    keep_float: tuple[str, ...]
    batch_size: int | None
    shapes: dict[str, tuple[int, ...]]
    options: dict[str, str] = {}  # of the engines' own
    data: str | None  # to calibrate with
    preprocess: str | None
    samples: int  # at most so many of the data
    calibration: CalibrationSettings
    required: Requirements = Requirements()
    verify: VerifyRequest | Missing
    measure: ProfileRequest | Missing
    one_file: bool
    replace: bool
    licence: str | None
    preprocessing_note: str | None
    postprocessing_note: str | None
    threads: int
    seed: int
    timeout_s: float


class BundleJob(Record, frozen=True, kw_only=True):
    """One engine to build by one plan, and the bundle to put it in.

    Of a device that is not ``attached`` the engine is built and not loaded.
    """

    engine: str
    imported: ImportResult
    plan: PrecisionPlan
    calibration: Calibration | None
    device: Device
    attached: bool = True
    options: dict[str, str] = {}
    environment: Environment
    threads: int
    name: str
    target: str
    replace: bool
    licence: str | None
    preprocessing_note: str | None
    postprocessing_note: str | None


class EngineBuilt(Record, frozen=True, kw_only=True):
    """An engine in its bundle, loaded once and run once; ``lower_s``: writing it down, ``load_s``: until it can run.

    One for a device that is not attached was neither loaded nor run: ``built`` and ``load_s`` say so, and
    ``graph_checked`` what is known of its numbers instead.
    """

    artefact: Artefact
    lowered: Lowered
    built: Built | Missing
    size_bytes: int
    lower_s: float
    load_s: float | Missing
    graph_checked: GraphChecked | Missing = NOT_NEEDED


class Bundled(Record, frozen=True, kw_only=True):
    """A bundle that was made, and what is known about it. ``path`` and ``result`` are relative to the folder."""

    path: str
    plan: PrecisionPlan
    engine: EngineBuilt
    unmet: tuple[Unmet, ...]  # of what was required
    verified: Verified | Missing
    median_s: float | Missing  # of the latency that ``result`` holds
    result: str | Missing

    @property
    def label(self) -> str:
        return f"{self.engine.artefact.engine} {self.plan.label}"

    @property
    def left_float(self) -> tuple[LoweredLayer, ...]:
        """The layers that have another precision than was asked for."""
        return tuple(layer for layer in self.engine.lowered.layers if layer.got != layer.asked)


class CalibrationFacts(Record, frozen=True, kw_only=True, tag_field="kind", tag="calibrated"):
    """How the ranges were found, on what, and how long that took."""

    settings: CalibrationSettings
    data: DataFacts
    repairs: tuple[str, ...]
    warnings: tuple[str, ...]
    took_s: float


class BuildResult(Record, frozen=True, kw_only=True):
    """The file ``hwbench build`` writes: ``build.json``."""

    schema_version: int
    created_at: str
    request: BundleRequest
    environment: Environment
    device: Device
    model: Model
    calibration: CalibrationFacts | Missing
    bundles: tuple[Bundled, ...]
    not_built: tuple[NotMeasured, ...]
    reference: Verified | Missing  # the original network's own row of the verification
    warnings: tuple[str, ...] = ()
