"""What a bundle says about itself: ``manifest.json``, beside an engine that can be deployed."""

from __future__ import annotations

from typing import Literal

from hwbench.records.base import Missing, Record, check
from hwbench.records.device import Device, Environment
from hwbench.records.model import DataFacts, Model
from hwbench.records.quantization import Calibration, CalibrationSettings, LoweredLayer, PrecisionPlan
from hwbench.records.verification import Agreement, Certificate, Score, Task, Verification, Verified

BUNDLE_SCHEMA = 1
NOT_GIVEN = Missing(code="not_given", why="nobody has said")
NOT_VERIFIED = Missing(code="not_verified", why="nobody has run it over data", cure="hwbench verify BUNDLE --data D")


NOT_NEEDED = Missing(code="not_needed", why="the engine itself was run when it was built")


class GraphChecked(Record, frozen=True, kw_only=True, tag_field="kind", tag="graph_checked"):
    """The numbers of the graph that an engine was built from, run by another runtime; not those of the engine.

    ``graph`` is its file, among the engine's. ``runtime`` ran it, as it is written and with no optimisation, on the
    bundle's example inputs. The differences are from the outputs of the original network, over all outputs;
    ``max_relative`` is ``max|y - r| / max|r|``.
    """

    graph: str
    runtime: str
    max_absolute: float | Missing
    max_relative: float | Missing
    finite: bool


class CalibrationSummary(Record, frozen=True, kw_only=True, tag_field="kind", tag="calibration"):
    """How the ranges were found and on what; ``tensors``: how many have one. The ranges are in the engine itself."""

    settings: CalibrationSettings
    data: DataFacts
    graph_sha256: str
    tensors: int
    repairs: tuple[str, ...]
    warnings: tuple[str, ...]


class VerificationSummary(Record, frozen=True, kw_only=True, tag_field="kind", tag="verification"):
    """What ``verification.json`` found for this engine; the dates and everything else are there."""

    data: DataFacts
    task: Task
    reference: str | Missing
    scores: tuple[Score, ...]
    agreement: Agreement | Missing
    certificate: Certificate | Missing
    outputs_sha256: str


class Runtime(Record, frozen=True, kw_only=True, tag_field="kind", tag="runtime"):
    """The package that an engine was built with and is run by."""

    package: str
    version: str


class Manifest(Record, frozen=True, kw_only=True):
    """A bundle: what is in it, what it was built from, for what and with what.

    Building again from the same inputs, with the same versions on the same device, gives the same manifest: it holds no
    date and no path. ``model`` describes the source network, with its ``artefact`` set and its arithmetic that of the
    engine; ``merged`` is that of :class:`~hwbench.records.model.ModelFiles`. ``runtime`` is of the machine that built
    it. ``sizes`` are those of the engine's files, in bytes. ``preprocessing`` and ``postprocessing`` are the user's own
    words. ``licence`` is the name of the file that the source's licence came in. ``run_example`` tells why there is
    none. ``expected``: whose outputs ``expected.npz`` holds: the engine's; or, of an engine for a device that was not
    attached, those of the graph it was built from (``graph_checked``), or of the original network where no runtime here
    executes that graph.
    """

    schema_version: int
    name: str
    hwbench: str
    model: Model
    merged: dict[str, str]
    plan: PrecisionPlan
    calibration: CalibrationSummary | Missing
    layers: tuple[LoweredLayer, ...]
    device: Device
    environment: Environment
    runtime: Runtime | Missing
    preprocessing: str | Missing = NOT_GIVEN
    postprocessing: str | Missing = NOT_GIVEN
    same_bytes: Literal[True] | Missing
    licence: str | Missing
    run_example: Literal[True] | Missing
    verification: VerificationSummary | Missing = NOT_VERIFIED
    expected: Literal["engine", "graph", "original"] = "engine"
    graph_checked: GraphChecked | Missing = NOT_NEEDED
    sizes: dict[str, int]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        artefact = self.model.artefact
        check(artefact is not None and bool(artefact.files), "the model of a bundle must have an artefact with files")
        assert artefact is not None
        check(set(self.sizes) == set(artefact.files), "sizes must be those of the artefact's files")
        check(all(size >= 0 for size in self.sizes.values()), "sizes must not be negative")


def summary_of(calibration: Calibration) -> CalibrationSummary:
    """Return a calibration without its ranges, and without the folder its data lay in."""
    return CalibrationSummary(
        settings=calibration.settings,
        data=calibration.data,
        graph_sha256=calibration.graph_sha256,
        tensors=len(calibration.tensors),
        repairs=calibration.repairs,
        warnings=calibration.warnings,
    )


def verification_of(found: Verification, row: Verified) -> VerificationSummary:
    """Return what a verification says in one of its rows, without dates and paths."""
    return VerificationSummary(
        data=found.data,
        task=found.task,
        reference=found.reference,
        scores=row.scores,
        agreement=row.agreement,
        certificate=row.certificate,
        outputs_sha256=row.outputs_sha256,
    )
