"""From what a build knows to a manifest: without dates, and without the paths of the machine that built it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath

import msgspec

from hwbench.bundles.hashing import artefact_sha256
from hwbench.bundles.runtimes import runtime_of
from hwbench.protocols import LowerRequest
from hwbench.records.base import Missing
from hwbench.records.bundle import BUNDLE_SCHEMA, NOT_GIVEN, Manifest, summary_of
from hwbench.records.device import Environment
from hwbench.records.model import Artefact, DataFacts, Model
from hwbench.records.quantization import Calibration, Lowered

NO_LICENCE = Missing(
    code="no_licence", why="no licence was given, and none lies beside the model", cure="--license FILE"
)
NO_RANGES = Missing(code="not_calibrated", why="the plan needs no ranges")
NO_EXAMPLE = Missing(code="no_example", why="the engine's plugin brings no example")


@dataclass(frozen=True, kw_only=True)
class Words:
    """What the user says about the model, to whoever deploys it."""

    preprocessing: str | Missing = NOT_GIVEN
    postprocessing: str | Missing = NOT_GIVEN


def manifest_of(
    name: str,
    engine: str,
    request: LowerRequest,
    lowered: Lowered,
    environment: Environment,
    *,
    words: Words | None = None,
    notes: Sequence[str] = (),
) -> Manifest:
    """Describe what an engine has lowered into ``request.folder``."""
    words = words or Words()
    artefact = Artefact(
        engine=engine,
        sha256=artefact_sha256(request.folder, lowered.files),
        files=lowered.files,
        label=request.plan.label,
        settings=lowered.settings,
        isa=lowered.isa,
    )
    return Manifest(
        schema_version=BUNDLE_SCHEMA,
        name=name,
        hwbench=environment.hwbench,
        model=_model(request.model, artefact, lowered.arithmetic),
        merged=request.files.merged,
        plan=request.plan,
        calibration=NO_RANGES if request.calibration is None else summary_of(_anywhere(request.calibration)),
        layers=lowered.layers,
        device=request.device,
        environment=msgspec.structs.replace(environment, variables={}),
        runtime=runtime_of(engine),
        preprocessing=words.preprocessing,
        postprocessing=words.postprocessing,
        same_bytes=lowered.same_bytes,
        licence=NO_LICENCE,
        run_example=NO_EXAMPLE,
        sizes={file: (request.folder / file).stat().st_size for file in lowered.files},
        notes=(*lowered.notes, *notes),
    )


def _model(model: Model, artefact: Artefact, arithmetic: str) -> Model:
    return msgspec.structs.replace(model, source=last_part(model.source), artefact=artefact, arithmetic=arithmetic)


def _anywhere(calibration: Calibration) -> Calibration:
    return msgspec.structs.replace(calibration, data=without_folder(calibration.data))


def without_folder(data: DataFacts) -> DataFacts:
    """Return data without the folder they lie in; their hash tells which they are."""
    return msgspec.structs.replace(data, source=last_part(data.source))


def last_part(source: str) -> str:
    """Return the file's name of a path, with what follows a colon; anything else as it is."""
    return PureWindowsPath(PurePosixPath(source).name).name or source
