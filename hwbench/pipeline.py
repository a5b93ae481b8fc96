"""The story: the only module that knows all the stages.

    profile:  find the device -> bring the model in -> time every engine, each in a process of its own
              -> compare their outputs -> profile their layers -> judge -> save

The result is saved after every engine, so that whatever ends the run early, what was finished is kept, and
``resume`` goes on from there. Nothing here renders anything.
"""

from __future__ import annotations

import shlex
import shutil
import uuid
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import TypeVar

import msgspec

from hwbench import plugins
from hwbench.bundles.reader import artefact_in, check
from hwbench.children import run_child, thread_limits
from hwbench.devices import environment
from hwbench.energy.choose import require
from hwbench.errors import EngineError, HwbenchError, Interrupted, ModelError, StorageError, Unsupported, UsageError
from hwbench.files import REQUEST, RESULT, write_record
from hwbench.graph.spec import parse_spec
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
from hwbench.measure.builds import build_variance, over_builds
from hwbench.measure.cold import together
from hwbench.measure.job import BUILD, OUTPUTS, Job
from hwbench.measure.layers import iterations_for, reconcile
from hwbench.measure.mlperf import check_preset
from hwbench.measure.parity import compare_outputs, worst
from hwbench.measure.placement import unmet
from hwbench.measure.validity import judge
from hwbench.meters.estimate import estimate
from hwbench.protocols import NOT_OFFERED, Engine
from hwbench.records.base import Missing, Record
from hwbench.records.energy import EnergyEstimate, EnergyRun
from hwbench.records.measurement import (
    NOT_SAVED,
    NOT_THIS_MODE,
    NOT_VERIFIED,
    PROFILE_RESULT_SCHEMA,
    Accuracy,
    LayerRun,
    LayerTable,
    Measurement,
    NotMeasured,
    Parity,
    ProfileRequest,
    ProfileResult,
    RunSettings,
    TimedRun,
    Validity,
    artefact_hash,
)
from hwbench.records.model import ImportJob, ImportResult
from hwbench.records.verification import accuracy_of
from hwbench.results import earlier_result
from hwbench.roofs import roofs_of
from hwbench.units import format_seconds

R = TypeVar("R", bound=Record)

_WORKER = "hwbench.measure.worker"
IS_REFERENCE = "is_reference"  # code of a Missing: the others are compared with this one
NOT_REACHED = "not_reached"  # code of a Missing: the run ended before
ENGINE_FAILED = "engine_failed"  # code of a Missing: there should have been numbers
_IN_THROUGHPUT = Missing(
    code=NOT_THIS_MODE, why="measured in throughput mode, where requests wait for each other", cure="--mode latency"
)


class Watcher:
    """What a caller may want to see while a profile runs; every method may be overridden, none must be."""

    def step(self, label: str, done: int, total: int) -> None:
        """A piece of work begins; ``done`` of ``total`` are finished."""

    def phase(self, label: str, phase: str, fraction: float | None) -> None:
        """The piece of work is in ``phase``, ``fraction`` of it done where that is known."""

    def measured(self, measurement: Measurement) -> None:
        """One engine is finished."""

    def not_measured(self, reason: NotMeasured) -> None:
        """One engine gave no numbers."""


def profile(
    request: ProfileRequest,
    folder: Path,
    *,
    target: Target | None = None,
    resume: bool = False,
    watcher: Watcher | None = None,
) -> ProfileResult:
    """Measure a model on a device with every engine asked for, and save the result in ``folder``.

    Args:
        request: what to do, with nothing left open.
        folder: gets ``request.json``, ``result.json``, the imported model, and a log for each engine.
        target: the device, when the caller has found it already.
        resume: keep what an earlier, interrupted run of the same request in this folder has measured.
        watcher: told what is going on.

    Raises:
        HwbenchError: the model, the device or every engine failed; partial results are in ``folder``. Of mode
            ``energy`` before anything is done, where no meter can be read.
        Interrupted: Ctrl-C; partial results are in ``folder``.
    """
    watcher = watcher or Watcher()
    target = target or find_target(request.device)
    parse_spec(request.model)
    if request.mode == "energy":
        require(request.meter, target.device)
    earlier = earlier_result(folder, request, target) if resume else None
    run = _Profile(request, folder, target, watcher, earlier)
    try:
        return run.run()
    except KeyboardInterrupt as error:
        raise Interrupted("stopped by Ctrl-C", hint=run.left()) from error
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        raise StorageError(f"cannot use {folder}:{where} {error.strerror or error}") from error


class _Profile:
    """One run of :func:`profile`."""

    def __init__(
        self,
        request: ProfileRequest,
        folder: Path,
        target: Target,
        watcher: Watcher,
        earlier: ProfileResult | None,
    ) -> None:
        self.request = request
        self.folder = folder
        self.target = target
        self.watcher = watcher
        self.earlier = earlier
        self.reference: tuple[str, str, Path] | None = None  # label, precision, outputs
        self.finished = len(earlier.measurements) if earlier is not None else 0

    def left(self) -> str:
        """Say what an interrupted run has left behind."""
        count = self.finished
        again = f"the same command with --resume --output {shlex.quote(str(self.folder))} goes on"
        if not count:
            return f"nothing had been measured yet; {again}"
        kept = "1 measurement is" if count == 1 else f"{count} measurements are"
        return f"{kept} in {self.folder / RESULT}; {again}"

    def run(self) -> ProfileResult:
        self.imported = self._import()
        refuse_precisions(self.imported, self.request.precisions)
        self.accuracy = self._accuracy()  # now: what is in the bundle later may be another's
        self.result = self._start()
        write_record(self.folder / REQUEST, self.request)
        self._save()
        self._restore_reference()
        try:
            plan = list(self._plan())
            for number, (engine, precision) in enumerate(plan):
                label = f"{engine} {precision}"
                self.watcher.step(label, number, len(plan))
                if not self._kept(engine, precision):
                    self._measure(engine, precision, label)
        except KeyboardInterrupt:
            self._replace(status="interrupted")
            raise
        self._replace(status="complete")
        if self.imported.files.torch_state is not None:
            (Path(self.imported.files.folder) / self.imported.files.torch_state).unlink()
        if not self.result.measurements:
            reasons = "\n".join(f"{item.engine}: {item.reason}" for item in self.result.not_measured)
            raise EngineError(f"no engine could measure '{self.request.model}'", hint=reasons)
        return self.result

    def _import(self) -> ImportResult:
        request = self.request
        self.watcher.step(f"reading {request.model}", 0, 1)
        imported = run_child(
            "hwbench.graph.importer",
            ImportJob(
                model=request.model,
                batch_size=request.batch_size,
                shapes=request.shapes,
                input_data=request.input_data,
                seed=request.seed,
            ),
            ImportResult,
            folder=self.folder / "model",
            what=f"reading '{request.model}'",
            failure=ModelError,
            timeout_s=request.timeout_s,
            on_event=lambda event: self.watcher.phase("model", event["phase"], None),
        )
        if self.earlier is not None and self.earlier.model != imported.model:
            raise UsageError(f"'{request.model}' has changed since {self.folder} was begun", hint="leave --resume out")
        return imported

    def _start(self) -> ProfileResult:
        peaks, bandwidths, source = roofs_of(self.target, self.request.threads)
        earlier = self.earlier
        return ProfileResult(
            schema_version=PROFILE_RESULT_SCHEMA,
            run_id=earlier.run_id if earlier else uuid.uuid4().hex,
            created_at=earlier.created_at if earlier else datetime.now(timezone.utc).isoformat(timespec="seconds"),
            status="partial",
            request=self.request,
            environment=environment.capture(),
            device=self.target.device,
            model=self.imported.model,
            measurements=earlier.measurements if earlier else (),
            not_measured=(),
            peak_ops_per_s=peaks,
            bandwidth_bytes_per_s=bandwidths,
            roofline_source=source,
        )

    def _plan(self) -> Iterator[tuple[str, str]]:
        """Yield each engine and precision to measure; note those that cannot be."""
        asked = self.request.engines
        for name in engines_for(self.imported, asked):
            precisions = self._precisions(name)
            if isinstance(precisions, Missing):
                if not asked and not is_news(precisions, self.imported, self.target.device):
                    continue  # nothing was expected of it
                self._note(name, "", precisions, failed=bool(asked) or precisions.code == "plugin")
                continue
            for precision in precisions:
                yield name, precision

    def _precisions(self, name: str) -> tuple[str, ...] | Missing:
        """Return the precisions to measure an engine in, or why it cannot be used."""
        device = self.target.device
        try:
            engine: Engine = plugins.load("engines", name)
            reason = unusable(engine, self.imported, device)
            return reason or precisions_for(engine, self.imported, device, self.request.precisions)
        except HwbenchError as error:
            return Missing(code="plugin", why=error.message, cure=error.hint)
        except Exception as error:  # noqa: BLE001 - one plugin's bug must not take the other engines' results along
            return Missing(code="plugin", why=f"the engine plugin '{name}' failed: {type(error).__name__}: {error}")

    def _kept(self, engine: str, precision: str) -> bool:
        """Say whether an earlier run has this one; layers that it has not done are done now, its timing stays."""
        measurements = self.result.measurements
        for number, measurement in enumerate(measurements):
            if (measurement.engine, measurement.precision_asked) == (engine, precision):
                if isinstance(measurement.layers, Missing) and measurement.layers.code in {ENGINE_FAILED, NOT_REACHED}:
                    whole = self._with_layers(measurement, f"{engine} {precision}")
                    self._replace(measurements=(*measurements[:number], whole, *measurements[number + 1 :]))
                self.watcher.measured(self.result.measurements[number])
                return True
        return False

    def _restore_reference(self) -> None:
        """Take up again, on resuming, the outputs that the kept measurements were compared with."""
        for measurement in self.result.measurements:
            if isinstance(measurement.parity, Missing) and measurement.parity.code == IS_REFERENCE:
                folder = self._job_folder(measurement.engine, measurement.precision_asked)
                self._remember_reference(measurement.engine, measurement.built.precision, folder)

    def _measure(self, engine: str, precision: str, label: str) -> None:
        try:
            measurement = self._measurement(engine, precision, label)
        except StorageError:
            raise
        except HwbenchError as error:
            log = self._job_folder(engine, precision) / "log.txt"
            failed = bool(self.request.engines) or not isinstance(error, Unsupported)
            reason = Missing(code=ENGINE_FAILED if failed else "unsupported", why=error.message, cure=error.hint)
            self._note(engine, precision, reason, failed=failed, log=str(log) if log.exists() else None)
            return
        others = self.result.measurements
        self._replace(measurements=(*others, measurement))  # the timing is kept, whatever happens to the layers
        self.finished += 1
        measurement = self._with_layers(measurement, label)
        required, model = self.request.required, self.imported.model
        found = unmet(required, model, measurement.built, measurement.layers)
        measurement = msgspec.structs.replace(measurement, unmet=found)
        self._replace(measurements=(*others, measurement))
        self.watcher.measured(measurement)

    def _job(self, engine: str, precision: str, settings: RunSettings) -> Job:
        return Job(
            engine=engine,
            precision=precision,
            model=self.imported.model,
            files=self.imported.files,
            device=self.target.device,
            settings=settings,
        )

    def _measurement(self, engine: str, precision: str, label: str) -> Measurement:
        settings = self._settings()
        job = self._job(engine, precision, settings)
        folder = self._job_folder(engine, precision)
        run = self._timed(job, folder, label)
        others = tuple(
            self._child(_WORKER, job, TimedRun, folder / f"build-{number}", f"{label} build {number}")
            for number in range(2, self.request.repeat_build + 1)
        )
        samples = [one.samples_ns for one in (run, *others)]
        builds = build_variance(samples)
        parity = self._parity(engine, run.built.precision, folder)
        measurement = Measurement(
            **msgspec.structs.asdict(run),
            engine=engine,
            precision_asked=precision,
            artefact_sha256=artefact_hash(self.imported.model),
            accuracy=self.accuracy,
            settings=settings,
            latency=_IN_THROUGHPUT if settings.mode == "throughput" else over_builds(samples, builds),
            energy_per_inference_j=_per_inference(run),
            energy_estimate=self._estimate(run),
            parity=parity,
            layers=Missing(code=NOT_REACHED, why="the run ended before the layers were profiled", cure="--resume"),
            more_builds=others,
            builds=builds,
            validity=Validity(status="valid"),
        )
        preset = check_preset(measurement, self.imported.model.batch_size)
        return self._judged(msgspec.structs.replace(measurement, preset=preset))

    def _accuracy(self) -> Accuracy | Missing:
        """Return what is known of the accuracy of a saved engine: a bundle may hold its verification."""
        model = self.imported.model
        if model.artefact is None:
            return NOT_SAVED
        if model.kind != "bundle":
            return NOT_VERIFIED
        manifest = check(Path(model.source))
        if artefact_in(manifest).sha256 != model.artefact.sha256:
            raise ModelError(f"'{model.source}' has changed while it was read", hint="run it again")
        found = manifest.verification
        if isinstance(found, Missing):
            return NOT_VERIFIED
        return accuracy_of(model.artefact.sha256, found.data, found.scores, found.certificate)

    def _timed(self, job: Job, folder: Path, label: str) -> TimedRun:
        """Return the run of the mode; in mode ``cold`` that of several processes, after one that is not counted."""
        if job.settings.mode != "cold":
            return self._child(_WORKER, msgspec.structs.replace(job, ask_memory=True), TimedRun, folder, label)
        run = self._child(_WORKER, job, TimedRun, folder, label)
        count = int(job.settings.stop.settings["count"])
        starts = [
            self._child(_WORKER, job, TimedRun, folder / f"start-{number}", f"{label} start {number} of {count}")
            for number in range(1, count + 1)
        ]
        return together(run, starts)

    def _judged(self, measurement: Measurement) -> Measurement:
        cpu = self.target.device.cpu
        verdict = judge(measurement, len(cpu.usable_cpus) if cpu is not None else 1)
        return msgspec.structs.replace(measurement, validity=verdict)

    def _with_layers(self, measurement: Measurement, label: str) -> Measurement:
        """Return the measurement with its layer table, or with why it has none."""
        latency, built = measurement.latency, measurement.built.layers
        layers: LayerTable | Missing
        if isinstance(latency, Missing):
            layers = Missing(code=NOT_THIS_MODE, why="per-layer times belong to latency mode", cure="--mode latency")
        elif not measurement.settings.layers:
            layers = Missing(code="not_asked", why="per-layer times were not asked for")
        elif isinstance(built, Missing) and built.code == NOT_OFFERED:
            layers = built
        else:
            layers = self._layers(measurement, f"{label} layers", latency.median_s)
        return self._judged(msgspec.structs.replace(measurement, layers=layers))

    def _layers(self, measurement: Measurement, label: str, median_s: float) -> LayerTable | Missing:
        """Profile the layers; when that fails, the timing that was measured before stays."""
        engine, precision = measurement.engine, measurement.precision_asked
        job = self._job(engine, precision, measurement.settings)
        job = msgspec.structs.replace(job, layer_iterations=iterations_for(median_s))
        try:
            folder = self._job_folder(engine, precision) / "layers"
            run = self._child("hwbench.measure.layers", job, LayerRun, folder, label)
        except StorageError:
            raise
        except HwbenchError as error:
            return Missing(code=ENGINE_FAILED, why=error.message, cure=error.hint)
        return reconcile(run, self.imported.model.layers, median_s)

    def _child(self, module: str, job: Job, result: type[R], folder: Path, label: str) -> R:
        per_stream = max(1, job.settings.threads // job.settings.streams)
        returned = run_child(
            module,
            job,
            result,
            folder=folder,
            what=label,
            failure=EngineError,
            timeout_s=self.request.timeout_s,
            env=thread_limits(per_stream),
            on_event=lambda event: self.watcher.phase(label, event["phase"], event.get("fraction")),
        )
        shutil.rmtree(folder / BUILD)  # compilers leave hundreds of megabytes; kept after a failure
        return returned

    def _settings(self) -> RunSettings:
        request = self.request
        return RunSettings(
            mode=request.mode,
            threads=request.threads,
            streams=request.streams,
            cpus=pinned_cpus(self.target, request.threads),
            warmup=request.warmup,
            stop=request.stop,
            layers=request.layers,
            meter="none" if request.mode == "cold" else request.meter,
            seed=request.seed,
            mode_settings=request.mode_settings,
            preset=request.preset,
        )

    def _parity(self, engine: str, precision: str, folder: Path) -> Parity | Missing:
        """Compare the outputs with the reference's; of several builds, those of the one that differs most."""
        if self.reference is None:
            self._remember_reference(engine, precision, folder)
            return Missing(code=IS_REFERENCE, why="the other engines are compared with this one")
        label, of, reference = self.reference
        folders = [folder, *(folder / f"build-{number}" for number in range(2, self.request.repeat_build + 1))]
        return worst([compare_outputs(reference, one / OUTPUTS, label=label, precision=of) for one in folders])

    def _remember_reference(self, engine: str, precision: str, folder: Path) -> None:
        if self.reference is None and (folder / OUTPUTS).exists():
            self.reference = (f"{engine} {precision}", precision, folder / OUTPUTS)

    def _estimate(self, run: TimedRun) -> EnergyEstimate | Missing:
        if not isinstance(run.cold, Missing):
            return Missing(code=NOT_THIS_MODE, why="a cold start is no inference", cure="--mode latency")
        if self.target.device.kind != "cpu":
            return Missing(
                code="not_applicable", why="CPU time tells nothing of the energy of a GPU", cure="--meter nvml"
            )
        power = self.target.profile.power_w if self.target.profile is not None else {}
        return estimate(
            power,
            cpu_time_s=run.process_cpu_s,
            window_s=run.window_s,
            inferences=_inferences(run),
            cores=max(1, len(self.target.cores)),
        )

    def _job_folder(self, engine: str, precision: str) -> Path:
        return self.folder / "runs" / f"{engine}-{precision}"

    def _note(self, engine: str, precision: str, reason: Missing, *, failed: bool, log: str | None = None) -> None:
        note = NotMeasured(engine=engine, precision=precision, reason=reason, failed=failed, log=log)
        self._replace(not_measured=(*self.result.not_measured, note))
        self.watcher.not_measured(note)

    def _replace(self, **changes: object) -> None:
        self.result = msgspec.structs.replace(self.result, **changes)
        self._save()

    def _save(self) -> None:
        write_record(self.folder / RESULT, self.result)


def _per_inference(run: TimedRun) -> float | Missing:
    if isinstance(run.energy_run, EnergyRun):
        total = run.energy_run.total_j
        return total if isinstance(total, Missing) else total.value
    if isinstance(run.energy, Missing):
        return run.energy
    if "window_too_short" in run.energy.flags:
        return Missing(
            code="window_too_short",
            why=f"a window of {format_seconds(run.energy.window_s)} is less than ten updates of {run.energy.meter}",
            cure="measure for longer (--duration), or with --mode energy",
        )
    return run.energy.energy_j / _inferences(run)


def _inferences(run: TimedRun) -> int:
    """Return how many were done in the window: a long series keeps but some of its samples."""
    return len(run.samples_ns) if isinstance(run.series, Missing) else sum(part.inferences for part in run.series.bins)
