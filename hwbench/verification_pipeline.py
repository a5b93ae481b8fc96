"""The story of a verification, beside :mod:`hwbench.pipeline`.

    find the device -> bring the models in -> bring the data in -> run the reference over all samples
        -> run every engine over all samples -> judge each against labels and reference

Everything that runs foreign code does so in a child. Nothing here renders anything.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import msgspec

from hwbench import plugins
from hwbench.devices import environment
from hwbench.errors import EngineError, HwbenchError, Interrupted, Unsupported, UsageError
from hwbench.graph.spec import parse_spec
from hwbench.intake import Intake, Watch
from hwbench.inventory import (
    Target,
    engines_for,
    find_target,
    is_news,
    pinned_cpus,
    precisions_for,
    refuse_precisions,
    unusable,
)
from hwbench.measure.placement import unmet
from hwbench.protocols import Engine
from hwbench.records.base import Missing
from hwbench.records.data import DataResult
from hwbench.records.measurement import NotMeasured, artefact_hash
from hwbench.records.model import ImportResult, Model, TensorSpec
from hwbench.records.placement import Requirements
from hwbench.records.verification import (
    VERIFICATION_SCHEMA,
    LayerErrors,
    LayersJob,
    RunJob,
    RunResult,
    ScoreJob,
    ScoreResult,
    Verification,
    Verified,
    VerifyRequest,
)

_NO_REFERENCE = Missing(
    code="no_reference", why="a built engine does not hold what it was built from", cure="--reference MODEL"
)
_NOT_TIMED = Missing(code="not_timed", why="its layers were not timed")
_REFERENCE_ENGINE = "onnxruntime"  # runs the graph as it is written, in the precision it is written in


def verify(request: VerifyRequest, *, target: Target | None = None, watch: Watch) -> Verification:
    """Run models over data with every engine asked for, and judge what each puts out.

    The reference is the model in the precision it came in, or the one named as such, on ONNX Runtime where it is here.
    A built engine runs as it is; without a reference named, it is held against labels alone.

    Raises:
        UsageError: the data do not fit the model, or the task does not fit the data.
        HwbenchError: the model, the device, the reference or every engine failed.
        Interrupted: Ctrl-C; nothing is kept.
    """
    target = target or find_target(request.device)
    for text in (request.model, *request.more, *([request.reference] if request.reference is not None else [])):
        parse_spec(text)
    folder = Path(tempfile.mkdtemp(prefix="hwbench-verify-"))
    try:
        return _Verify(request, target, folder, watch).run()
    except KeyboardInterrupt:
        raise Interrupted("stopped by Ctrl-C", hint="nothing was kept") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True, kw_only=True)
class _Subject:
    """A model to run over the data, and these as it takes them."""

    key: str  # for folders
    imported: ImportResult
    data: DataResult


class _Verify:
    """One run of :func:`verify`."""

    def __init__(self, request: VerifyRequest, target: Target, folder: Path, watch: Watch) -> None:
        self.request = request
        self.target = target
        self.folder = folder
        self.intake = Intake(
            folder=folder, watch=watch, threads=request.threads, timeout_s=request.timeout_s, seed=request.seed
        )
        self.rows: list[Verified] = []
        self.failed: list[NotMeasured] = []
        self.original: _Subject | None = None  # whose first run is the reference
        self.reference: Path | None = None
        self.exposed: Path | None = None  # the reference's run of the graph whose layers are all outputs
        self.task = request.task
        self.read: dict[tuple[TensorSpec, ...], DataResult] = {}

    def run(self) -> Verification:
        request = self.request
        self.subjects = self._subjects()
        self.first = self.original or self.subjects[0]
        self.data = self.first.data
        self._require_something_to_judge()
        for subject, engine, precision in self._plan():
            self._verify(subject, engine, precision)
        if not self.rows:
            reasons = "\n".join(f"{item.engine}: {item.reason}" for item in self.failed)
            raise EngineError(f"no engine could run '{request.model}'", hint=reasons)
        assert self.task != "auto"
        return Verification(
            schema_version=VERIFICATION_SCHEMA,
            created_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            request=request,
            environment=environment.capture(),
            device=self.target.device,
            model=self.first.imported.model,
            data=self.data.facts,
            task=self.task,
            reference=_NO_REFERENCE if self.original is None else self.rows[0].label,
            rows=tuple(self.rows),
            not_verified=tuple(self.failed),
            warnings=self._warnings(),
        )

    def _subjects(self) -> list[_Subject]:
        """Bring the models in, the reference too, and the data for each; all must take the same inputs."""
        request = self.request
        given = (request.model, *request.more)
        models = [
            self._import(text, f"model-{number}", request.batch_size, request.shapes)
            for number, text in enumerate(given)
        ]
        subjects = [
            _Subject(key=str(number), imported=imported, data=self._data(imported.model))
            for number, imported in enumerate(models)
        ]
        for subject in subjects[1:]:
            _require_same_inputs(models[0].model, subject.imported.model)
        if request.reference is not None:
            batch_size, shapes = _as_taken(models[0].model)
            imported = self._import(request.reference, "reference", batch_size, shapes)
            if imported.model.artefact is not None:
                raise UsageError(f"--reference '{request.reference}' is a built engine itself", hint="give the network")
            _require_same_inputs(models[0].model, imported.model)
            self.original = _Subject(key="reference", imported=imported, data=self._data(imported.model))
        elif models[0].model.artefact is None:
            self.original = subjects[0]
        return subjects

    def _import(
        self, text: str, where: str, batch_size: int | None, shapes: dict[str, tuple[int, ...]]
    ) -> ImportResult:
        imported = self.intake.model(text, where, batch_size=batch_size, shapes=shapes)
        refuse_precisions(imported, self.request.precisions)
        return imported

    def _data(self, model: Model) -> DataResult:
        """Bring the data in, once for all models whose inputs have the same names, types and shapes."""
        request = self.request
        if model.inputs not in self.read:
            where = f"data-{len(self.read)}"
            self.read[model.inputs] = self.intake.data(
                request.data, model, where, limit=request.limit, preprocess=request.preprocess
            )
        return self.read[model.inputs]

    def _require_something_to_judge(self) -> None:
        if self.original is not None:
            return
        if self.request.max_drop is not None:
            raise UsageError("--max-drop certifies a built engine against the original", hint="give --reference MODEL")
        if not self.data.facts.labels:
            raise UsageError(
                "without labels and without a reference there is nothing to hold a built engine against",
                hint="give --reference MODEL, or data with labels",
            )

    def _warnings(self) -> tuple[str, ...]:
        models = [subject.imported.model for subject in (self.first, *self.subjects)]
        found = [warning for model in models for warning in model.warnings]
        if self.first.imported.model.weights == "untrained":
            found.append("this network is untrained: its accuracy says nothing, agreement with the reference does")
        return tuple(dict.fromkeys(found))

    def _plan(self) -> Iterator[tuple[_Subject, str, str]]:
        """Yield the reference, then every other model, engine and precision."""
        plan = [
            (subject, engine, precision)
            for subject in self.subjects
            for name in engines_for(subject.imported, self.request.engines)
            for engine, precision in self._of(subject, name)
        ]
        first = None if self.original is None else self._first(self.original)
        if first is not None:
            yield first
        elif self.original is not None and self.original not in self.subjects:
            source = self.original.imported.model.source
            raise EngineError(f"no engine here can run the reference '{source}'", hint="`hwbench devices` tells why")
        yield from (item for item in plan if item != first)

    def _first(self, original: _Subject) -> tuple[_Subject, str, str] | None:
        known = "fp32" if original.imported.model.arithmetic == "fp32" else "auto"
        able = [_REFERENCE_ENGINE, *plugins.available("engines")]
        return next(((original, name, known) for name in able if self._usable(original, name) is None), None)

    def _of(self, subject: _Subject, name: str) -> list[tuple[str, str]]:
        reason = self._usable(subject, name)
        if reason is not None:
            if not self.request.engines and not is_news(reason, subject.imported, self.target.device):
                return []  # nothing was expected of it
            built = subject.imported.model.artefact is not None
            self._note(subject, name, "", reason, failed=bool(self.request.engines) or built)
            return []
        engine: Engine = plugins.load("engines", name)
        asked = self.request.precisions
        return [(name, one) for one in precisions_for(engine, subject.imported, self.target.device, asked)]

    def _usable(self, subject: _Subject, name: str) -> Missing | None:
        try:
            engine: Engine = plugins.load("engines", name)
            return unusable(engine, subject.imported, self.target.device)
        except HwbenchError as error:
            return Missing(code="plugin", why=error.message, cure=error.hint)

    def _verify(self, subject: _Subject, engine: str, precision: str) -> None:
        label = f"{engine} {precision}"
        model = subject.imported.model
        try:
            run, where = self._run(subject, engine, precision, expose=False)
            judged = self._score(subject, where, label)
        except HwbenchError as error:
            if self.original is not None and self.reference is None:  # nothing else may stand in for it
                raise
            unsupported = isinstance(error, Unsupported)
            reason = Missing(code="unsupported" if unsupported else "engine_failed", why=error.message, cure=error.hint)
            failed = bool(self.request.engines) or not unsupported
            self._note(subject, engine, precision, reason, failed=failed)
            return
        self.task = judged.task
        asked = subject in self.subjects and engine in self.request.engines
        reference_only = self.original is not None and not self.rows and not asked  # it has nothing to meet
        required = Requirements() if reference_only else self.request.required
        row = Verified(
            name=None if subject is self.first else model.name,
            engine=engine,
            precision_asked=precision,
            artefact_sha256=artefact_hash(model),
            **msgspec.structs.asdict(run),
            scores=judged.scores,
            agreement=judged.agreement,
            outputs=judged.outputs,
            certificate=judged.certificate,
            layers=self._layers(subject, engine, precision),
            unmet=unmet(required, model, run.built, _NOT_TIMED),
        )
        self.rows.append(row)
        if self.original is not None:
            self.reference = self.reference or where

    def _run(self, subject: _Subject, engine: str, precision: str, *, expose: bool) -> tuple[RunResult, Path]:
        where = f"{'exposed' if expose else 'runs'}/{subject.key}-{engine}-{precision}"
        job = RunJob(
            engine=engine,
            precision=precision,
            model=subject.imported.model,
            files=subject.imported.files,
            device=self.target.device,
            data_folder=subject.data.folder,
            samples=subject.data.facts.samples,
            expose=expose,
            threads=self.request.threads,
            cpus=pinned_cpus(self.target, self.request.threads),
        )
        what = f"{engine} {precision}, every layer" if expose else f"{engine} {precision}"
        if subject is not self.first:
            what = f"{subject.imported.model.name} ({what})"
        return self.intake.run("hwbench.verify.run", job, RunResult, where, what, EngineError), self.folder / where

    def _layers(self, subject: _Subject, engine: str, precision: str) -> LayerErrors | Missing:
        """Compare every layer with the reference's, where that was asked for and the engine runs the ONNX graph."""
        if not self.request.layers:
            return Missing(code="not_asked", why="layers were not asked for", cure="--layers")
        if (reason := self._layerless(subject, engine)) is not None:
            return reason
        try:
            return self._shown_layers(subject, engine, precision)
        except HwbenchError as error:  # its outputs have been judged all the same
            return Missing(code="engine_failed", why=error.message, cure=error.hint)

    def _layerless(self, subject: _Subject, engine: str) -> Missing | None:
        """Return why the layers cannot be compared, where that is known beforehand."""
        original = None if self.original is None else self.original.imported.model
        same = original is not None and subject.imported.model.hub_sha256 == original.hub_sha256
        if subject is not self.original and not same:
            return Missing(code="other_graph", why="its layers are not those of the reference")
        if engine.startswith("torch"):
            return Missing(code="no_graph", why="this engine runs the torch module, not the graph")
        batch, samples = subject.imported.model.batch_size, self.data.facts.samples
        if isinstance(batch, int) and batch > samples:
            return Missing(code="too_few_samples", why=f"{samples} samples do not fill a batch of {batch}")
        return None

    def _shown_layers(self, subject: _Subject, engine: str, precision: str) -> LayerErrors | Missing:
        _, where = self._run(subject, engine, precision, expose=True)
        if not self.rows:
            self.exposed = where
            return Missing(code="is_reference", why="the others are held against this one")
        if self.exposed is None:
            return Missing(code="no_reference", why="the layers of the reference could not be shown")
        batch = subject.imported.model.batch_size
        job = LayersJob(
            folder=str(where),
            reference_folder=str(self.exposed),
            layers=subject.imported.model.layers,
            samples=batch if isinstance(batch, int) else 1,
        )
        what = f"comparing the layers of {engine} {precision}"
        return self.intake.run(
            "hwbench.verify.layers", job, LayerErrors, f"layers/{engine}-{precision}", what, EngineError
        )

    def _score(self, subject: _Subject, where: Path, label: str) -> ScoreResult:
        job = ScoreJob(
            folder=str(where),
            reference_folder=None if self.reference is None else str(self.reference),
            alone=self.original is None,
            by_position=subject.imported.model.kind == "engine",
            data_folder=subject.data.folder,
            labels=subject.data.facts.labels,
            task=self.task,
            metric=self.request.metric,
            max_drop=self.request.max_drop,
            seed=self.request.seed,
        )
        return self.intake.run(
            "hwbench.verify.score", job, ScoreResult, f"scores/{where.name}", f"judging {label}", UsageError
        )

    def _note(self, subject: _Subject, engine: str, precision: str, reason: Missing, *, failed: bool) -> None:
        if len(self.subjects) > 1:
            reason = msgspec.structs.replace(reason, why=f"{subject.imported.model.name}: {reason.why}")
        self.failed.append(NotMeasured(engine=engine, precision=precision, reason=reason, failed=failed))


def _as_taken(model: Model) -> tuple[int | None, dict[str, tuple[int, ...]]]:
    """Return what the reference's open axes are to be: a file of a runtime has names of its own for them."""
    if model.kind == "engine":
        return (model.batch_size if isinstance(model.batch_size, int) else None), {}
    return None, {spec.name: spec.shape for spec in model.inputs}


def _require_same_inputs(one: Model, other: Model) -> None:
    taken = [tuple((spec.dtype, spec.shape) for spec in model.inputs) for model in (one, other)]
    if taken[0] != taken[1]:
        said = [", ".join(f"{spec.name} {spec.dtype}{list(spec.shape)}" for spec in m.inputs) for m in (one, other)]
        raise UsageError(
            f"'{one.source}' takes {said[0]}, '{other.source}' takes {said[1]}",
            hint="what is verified together must take the same inputs",
        )
