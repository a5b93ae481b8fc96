"""The story of a verification, beside :mod:`hwbench.pipeline`.

    find the device -> bring the model in -> bring the data in -> run the reference over all samples
        -> run every engine over all samples -> judge each against labels and reference

Everything that runs foreign code does so in a child. Nothing here renders anything.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import TypeVar

import msgspec

from hwbench import plugins
from hwbench.children import run_child, thread_limits
from hwbench.devices import environment
from hwbench.errors import EngineError, HwbenchError, Interrupted, ModelError, Unsupported, UsageError
from hwbench.graph.spec import parse_spec
from hwbench.inventory import Target, find_target, pinned_cpus
from hwbench.protocols import Engine
from hwbench.records.base import Missing, Record
from hwbench.records.measurement import NotMeasured
from hwbench.records.model import ImportJob, ImportResult
from hwbench.records.verification import (
    VERIFICATION_SCHEMA,
    DataJob,
    DataResult,
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

R = TypeVar("R", bound=Record)
Watch = Callable[[str, float | None], None]

_REFERENCE_ENGINE = "onnxruntime"  # runs the graph as it is written, in the precision it is written in


def verify(request: VerifyRequest, *, target: Target | None = None, watch: Watch) -> Verification:
    """Run a model over data with every engine asked for, and judge what each puts out.

    The reference is the model in the precision it came in, on ONNX Runtime where it is here.

    Raises:
        UsageError: the data do not fit the model, or the task does not fit the data.
        HwbenchError: the model, the device, the reference or every engine failed.
        Interrupted: Ctrl-C; nothing is kept.
    """
    target = target or find_target(request.device)
    parse_spec(request.model)
    folder = Path(tempfile.mkdtemp(prefix="hwbench-verify-"))
    try:
        return _Verify(request, target, folder, watch).run()
    except KeyboardInterrupt:
        raise Interrupted("stopped by Ctrl-C", hint="nothing was kept") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Verify:
    """One run of :func:`verify`."""

    def __init__(self, request: VerifyRequest, target: Target, folder: Path, watch: Watch) -> None:
        self.request = request
        self.target = target
        self.folder = folder
        self.watch = watch
        self.rows: list[Verified] = []
        self.failed: list[NotMeasured] = []
        self.reference: Path | None = None
        self.exposed: Path | None = None  # the reference's run of the graph whose layers are all outputs
        self.task = request.task

    def run(self) -> Verification:
        request = self.request
        self.imported = self._child(
            "hwbench.graph.importer",
            ImportJob(
                model=request.model,
                batch_size=request.batch_size,
                shapes=request.shapes,
                input_data=None,
                seed=request.seed,
            ),
            ImportResult,
            "model",
            f"reading '{request.model}'",
            ModelError,
        )
        self.data = self._child(
            "hwbench.verify.data",
            DataJob(data=request.data, model=self.imported.model, limit=request.limit),
            DataResult,
            "data",
            f"reading '{request.data}'",
            UsageError,
        )
        for engine, precision in self._plan():
            self._verify(engine, precision)
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
            model=self.imported.model,
            data=self.data.facts,
            task=self.task,
            reference=self.rows[0].label,
            rows=tuple(self.rows),
            not_verified=tuple(self.failed),
            warnings=self._warnings(),
        )

    def _warnings(self) -> tuple[str, ...]:
        found = list(self.imported.model.warnings)
        if self.imported.model.weights == "untrained":
            found.append("this network is untrained: its accuracy says nothing, agreement with the reference does")
        return tuple(found)

    def _plan(self) -> Iterator[tuple[str, str]]:
        """Yield the reference, then every other engine and precision."""
        plan = [pair for name in self.request.engines or plugins.default_engines() for pair in self._of(name)]
        known = "fp32" if self.imported.model.arithmetic == "fp32" else "auto"
        able = [_REFERENCE_ENGINE, *plugins.default_engines()]
        first = next(((name, known) for name in able if self._usable(name) is None), None)
        if first is not None:
            yield first
        yield from (pair for pair in plan if pair != first)

    def _of(self, name: str) -> list[tuple[str, str]]:
        reason = self._usable(name)
        if reason is not None:
            self._note(name, "", reason, failed=bool(self.request.engines))
            return []
        engine: Engine = plugins.load("engines", name)
        own = engine.precisions(self.target.device) if self.imported.model.arithmetic == "fp32" else ("auto",)
        return [(name, precision) for precision in self.request.precisions or own]

    def _usable(self, name: str) -> Missing | None:
        try:
            engine: Engine = plugins.load("engines", name)
            support = engine.supports(self.imported.model, self.imported.files, self.target.device)
        except HwbenchError as error:
            return Missing(code="plugin", why=error.message, cure=error.hint)
        return None if support.usable else support.reasons[0]

    def _verify(self, engine: str, precision: str) -> None:
        label = f"{engine} {precision}"
        try:
            run, where = self._run(engine, precision, expose=False)
            judged = self._score(where, label)
        except HwbenchError as error:
            if self.reference is None:  # nothing else may stand in for what the others are held against
                raise
            unsupported = isinstance(error, Unsupported)
            reason = Missing(code="unsupported" if unsupported else "engine_failed", why=error.message, cure=error.hint)
            self._note(engine, precision, reason, failed=bool(self.request.engines) or not unsupported)
            return
        self.task = judged.task
        row = Verified(
            engine=engine,
            precision_asked=precision,
            **msgspec.structs.asdict(run),
            scores=judged.scores,
            agreement=judged.agreement,
            outputs=judged.outputs,
            certificate=judged.certificate,
            layers=self._layers(engine, precision),
        )
        self.rows.append(row)
        self.reference = self.reference or where

    def _run(self, engine: str, precision: str, *, expose: bool) -> tuple[RunResult, Path]:
        where = f"{'exposed' if expose else 'runs'}/{engine}-{precision}"
        job = RunJob(
            engine=engine,
            precision=precision,
            model=self.imported.model,
            files=self.imported.files,
            device=self.target.device,
            data_folder=self.data.folder,
            samples=self.data.facts.samples,
            expose=expose,
            threads=self.request.threads,
            cpus=pinned_cpus(self.target, self.request.threads),
        )
        what = f"{engine} {precision}, every layer" if expose else f"{engine} {precision}"
        return self._child("hwbench.verify.run", job, RunResult, where, what, EngineError), self.folder / where

    def _layers(self, engine: str, precision: str) -> LayerErrors | Missing:
        """Compare every layer with the reference's, where that was asked for and the engine runs the ONNX graph."""
        if not self.request.layers:
            return Missing(code="not_asked", why="layers were not asked for", cure="--layers")
        if engine.startswith("torch"):
            return Missing(code="no_graph", why="this engine runs the torch module, not the graph")
        batch, samples = self.imported.model.batch_size, self.data.facts.samples
        if isinstance(batch, int) and batch > samples:
            return Missing(code="too_few_samples", why=f"{samples} samples do not fill a batch of {batch}")
        try:
            return self._shown_layers(engine, precision)
        except HwbenchError as error:  # its outputs have been judged all the same
            return Missing(code="engine_failed", why=error.message, cure=error.hint)

    def _shown_layers(self, engine: str, precision: str) -> LayerErrors | Missing:
        _, where = self._run(engine, precision, expose=True)
        if not self.rows:
            self.exposed = where
            return Missing(code="is_reference", why="the others are held against this one")
        if self.exposed is None:
            return Missing(code="no_reference", why="the layers of the reference could not be shown")
        batch = self.imported.model.batch_size
        job = LayersJob(
            folder=str(where),
            reference_folder=str(self.exposed),
            layers=self.imported.model.layers,
            samples=batch if isinstance(batch, int) else 1,
        )
        what = f"comparing the layers of {engine} {precision}"
        return self._child("hwbench.verify.layers", job, LayerErrors, f"layers/{engine}-{precision}", what, EngineError)

    def _score(self, where: Path, label: str) -> ScoreResult:
        job = ScoreJob(
            folder=str(where),
            reference_folder=None if self.reference is None else str(self.reference),
            data_folder=self.data.folder,
            labels=self.data.facts.labels,
            task=self.task,
            metric=self.request.metric,
            max_drop=self.request.max_drop,
            seed=self.request.seed,
        )
        return self._child(
            "hwbench.verify.score", job, ScoreResult, f"scores/{where.name}", f"judging {label}", UsageError
        )

    def _child(
        self, module: str, job: Record, result: type[R], where: str, what: str, failure: type[HwbenchError]
    ) -> R:
        self.watch(what, None)
        return run_child(
            module,
            job,
            result,
            folder=self.folder / where,
            what=what,
            failure=failure,
            timeout_s=self.request.timeout_s,
            env=thread_limits(self.request.threads),
            on_event=lambda event: self.watch(what, event.get("fraction")),
        )

    def _note(self, engine: str, precision: str, reason: Missing, *, failed: bool) -> None:
        self.failed.append(NotMeasured(engine=engine, precision=precision, reason=reason, failed=failed))
