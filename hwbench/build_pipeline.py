"""The story of a build, above :mod:`hwbench.pipeline` and :mod:`hwbench.verification_pipeline`, which it uses.

    find the device -> bring the model in -> bring the data in and calibrate, once for all runtimes
        -> each engine and plan: lower, load, run once, bundle -> verify every bundle against the original
        -> time every bundle -> save

For a device that is not attached it ends with the bundles: what they were built from is compared with the original, and
nothing is loaded, judged on data or timed.

Every bundle is whole as soon as it is there: whatever ends the run early, those that were made stay. Nothing here
renders anything.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Collection, Iterator
from datetime import datetime, timezone
from pathlib import Path

import msgspec
import numpy as np

from hwbench import plugins
from hwbench.build.elsewhere import not_attached
from hwbench.build.plan import reads_ranges, settled
from hwbench.bundles.writer import add_verification, licence_beside, require_free, tidy
from hwbench.data.store import stored_inputs
from hwbench.devices import environment
from hwbench.errors import EngineError, HwbenchError, Interrupted, StorageError, Unsupported, UsageError
from hwbench.files import write_record
from hwbench.graph.spec import parse_spec
from hwbench.intake import Intake, Watch
from hwbench.inventory import Away, Target, cannot_build, find_or_describe, is_news
from hwbench.measure.placement import unmet
from hwbench.pipeline import Watcher, profile
from hwbench.protocols import Builds, Engine
from hwbench.records.base import Missing
from hwbench.records.build import (
    BUILD_SCHEMA,
    BuildResult,
    Bundled,
    BundleJob,
    BundleRequest,
    CalibrationFacts,
    EngineBuilt,
)
from hwbench.records.data import DataResult
from hwbench.records.measurement import LatencySummary, NotMeasured, ProfileResult
from hwbench.records.model import ImportResult
from hwbench.records.quantization import CalibrateJob, CalibrateResult, Calibration, PrecisionPlan
from hwbench.records.verification import Verification, Verified
from hwbench.units import MonotonicClock
from hwbench.verification_pipeline import verify

BUILD = "build.json"
MEASUREMENTS = "measurements"  # folder of the timed runs, one a bundle
_NOT_ASKED = Missing(code="not_asked", why="nobody asked for it")
_NOT_TIMED = Missing(code="not_timed", why="its layers were not timed")
_NO_RANGES = Missing(code="not_needed", why="no plan has ranges")


def build(request: BundleRequest, folder: Path, *, target: Target | None = None, watch: Watch) -> BuildResult:
    """Build a bundle for every engine and plan, judge and time each, and save what was found in ``folder``.

    Raises:
        UsageError: a plan does not fit the model, data are wanting, or a bundle is there already; or something is to be
            run on a device that is not attached.
        HwbenchError: the model, the data or every engine failed.
        Interrupted: Ctrl-C; the bundles made by then are in ``folder``.
    """
    target = target or find_or_describe(request.device)
    parse_spec(request.model)
    scratch = Path(tempfile.mkdtemp(prefix="hwbench-build-"))
    run = _Build(request, folder, target, scratch, watch)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return run.run()
    except (KeyboardInterrupt, Interrupted) as error:
        made = ", ".join(item.path for item in run.bundles) or "none"
        raise Interrupted("stopped by Ctrl-C", hint=f"bundles that are finished: {made}") from error
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        raise StorageError(f"cannot use {folder}:{where} {error.strerror or error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


class _Build:
    """One run of :func:`build`."""

    def __init__(self, request: BundleRequest, folder: Path, target: Target, scratch: Path, watch: Watch) -> None:
        self.request = request
        self.folder = folder
        self.target = target
        self.watch = watch
        self.intake = Intake(
            folder=scratch, watch=watch, threads=request.threads, timeout_s=request.timeout_s, seed=request.seed
        )
        self.bundles: list[Bundled] = []
        self.failed: list[NotMeasured] = []
        self.reference: Verified | Missing = _NOT_ASKED
        self.untested = not_attached(target.device) if isinstance(target, Away) else _NOT_ASKED

    def run(self) -> BuildResult:
        self._refuse_running_away()
        self.imported = self._import()
        plans = [settled(plan, self.imported.model, self.request.keep_float) for plan in self.request.plans]
        work = [(engine, plan, self._path(engine, plan, plans)) for engine in self._engines() for plan in plans]
        if not work:
            raise self._nothing()
        for _, _, path in work:
            require_free(path, replace=self.request.replace)
        self._look_at_verify_data()
        facts, calibrated = self._calibrated(plans, {engine for engine, _, _ in work})
        for engine, plan, path in work:
            try:
                self._build(engine, plan, path, calibrated)
            finally:
                tidy(path)
        if not self.bundles:
            raise self._nothing()
        self._save(facts)
        if not isinstance(self.target, Away):
            self._verify()
            self._save(facts)
            self._measure()
        return self._save(facts)

    def _refuse_running_away(self) -> None:
        """Refuse what can only be found by running, of a device that is not attached."""
        request, title = self.request, self.target.device.title
        if not isinstance(self.target, Away):
            return
        if not isinstance(request.verify, Missing):
            raise UsageError(
                f"{title} is not attached, so nothing built for it can be judged on data here",
                hint=f"leave --verify-data out; {not_attached(self.target.device).cure}",
            )
        if request.required.any:
            raise UsageError(
                f"{title} is not attached, so what runs where cannot be told", hint="leave the --require options out"
            )

    def _nothing(self) -> EngineError:
        reasons = "\n".join(
            f"{' '.join(filter(None, (each.engine, each.precision)))}: {each.reason}" for each in self.failed
        )
        return EngineError(f"nothing could be built of '{self.request.model}'", hint=reasons)

    def _look_at_verify_data(self) -> None:
        """Read the first of the data that bundles are judged on: what is wrong with them is said before the work."""
        wanted = self.request.verify
        if not isinstance(wanted, Missing):
            self._read(wanted.data, "verify-data", 1)

    def _import(self) -> ImportResult:
        request = self.request
        return self.intake.model(request.model, batch_size=request.batch_size, shapes=request.shapes)

    def _engines(self) -> Iterator[str]:
        """Yield the engines that can build; note those that cannot, and why."""
        model, files = self.imported.model, self.imported.files
        if model.artefact is not None:
            raise UsageError(f"'{self.request.model}' is a built engine already", hint="build from the source model")
        asked = self.request.engines
        for name in asked or plugins.available("engines"):
            try:
                engine: Engine = plugins.load("engines", name)
            except HwbenchError as error:
                self._note(name, "", Missing(code="plugin", why=error.message, cure=error.hint))
                continue
            reason = cannot_build(engine, self.imported, self.target, self.request.options)
            if not isinstance(engine, Builds):
                if asked:
                    self._note(name, "", Missing(code="cannot_build", why="it runs models and saves nothing that runs"))
            elif not asked and of_builder(engine):
                continue  # it runs the same files in another setting
            elif files.no_graph is not None:
                self._note(name, "", files.no_graph)
            elif reason is not None:
                if asked or is_news(reason, self.imported, self.target.device):
                    self._note(name, "", reason)
            else:
                yield name

    def _calibrated(
        self, plans: list[PrecisionPlan], engines: Collection[str]
    ) -> tuple[CalibrationFacts | Missing, tuple[Calibration, ImportResult] | None]:
        """Find the ranges, once for every engine; also the network whose weights were repaired for them.

        Where there are data, also for an engine that only reads them, to keep in fp32 what overflows a half.

        Raises:
            UsageError: a plan needs ranges, and there are no data to find them in.
        """
        request, settings = self.request, self.request.calibration
        wanting = [plan for plan in plans if plan.needs_ranges]
        if not wanting and request.data is not None:
            wanting = [plan for plan in plans if any(self._reads_ranges(engine, plan) for engine in engines)]
            settings = settings.without_repairs()
        if not wanting:
            return _NO_RANGES, None
        if request.data is None:
            raise UsageError(
                f"{wanting[0].label} needs the ranges of activations, and there are no data to find them in",
                hint="give --data: samples like those of use; docs/data.md",
            )
        clock = MonotonicClock()
        read = self._read(request.data, "data", request.samples)
        self.imported = with_examples(self.imported, read)
        started = clock.now_ns()
        job = CalibrateJob(
            model=self.imported.model,
            files=self.imported.files,
            plan=wanting[0],
            settings=settings,
            data=read.facts,
            data_folder=read.folder,
            threads=request.threads,
        )
        found = self.intake.run(
            "hwbench.quantize.calibrate", job, CalibrateResult, "calibration", "calibrating", EngineError
        )
        facts = CalibrationFacts(
            settings=found.calibration.settings,
            data=found.calibration.data,
            repairs=found.calibration.repairs,
            warnings=found.calibration.warnings,
            took_s=(clock.now_ns() - started) / 1e9,
        )
        return facts, (found.calibration, msgspec.structs.replace(self.imported, files=found.files))

    def _reads_ranges(self, engine: str, plan: PrecisionPlan) -> bool:
        return reads_ranges(plugins.load("engines", engine), plan, self.imported.model)

    def _read(self, data: str, where: str, limit: int) -> DataResult:
        return self.intake.data(data, self.imported.model, where, limit=limit, preprocess=self.request.preprocess)

    def _build(
        self, engine: str, plan: PrecisionPlan, path: Path, calibrated: tuple[Calibration, ImportResult] | None
    ) -> None:
        request = self.request
        calibration, imported = calibrated if plan.needs_ranges and calibrated else (None, self.imported)
        if calibrated and self._reads_ranges(engine, plan) and not calibrated[0].settings.moves_ranges:
            calibration = calibrated[0]
        licence = request.licence or licence_of(request.model)
        job = BundleJob(
            engine=engine,
            imported=imported,
            plan=plan,
            calibration=calibration,
            device=self.target.device,
            attached=not isinstance(self.target, Away),
            options=request.options,
            environment=environment.capture(),
            threads=request.threads,
            name=_name(path),
            target=str(path),
            replace=request.replace,
            licence=licence,
            preprocessing_note=request.preprocessing_note,
            postprocessing_note=request.postprocessing_note,
        )
        what = f"building {engine} {plan.label}"
        try:
            built = self.intake.run(
                "hwbench.build.worker", job, EngineBuilt, f"builds/{_name(path)}", what, EngineError
            )
        except StorageError:
            raise
        except HwbenchError as error:
            failed = bool(request.engines) or not isinstance(error, Unsupported)
            reason = Missing(code="engine_failed" if failed else "unsupported", why=error.message, cure=error.hint)
            self._note(engine, plan.label, reason, failed=failed)
            return
        self.bundles.append(
            Bundled(
                path=path.name,
                plan=plan,
                engine=built,
                unmet=()
                if isinstance(built.built, Missing)
                else unmet(request.required, self.imported.model, built.built, _NOT_TIMED),
                verified=self.untested,
                median_s=self.untested,
                result=self.untested,
            )
        )

    def _verify(self) -> None:
        """Judge every bundle on the data for it, and put what was found into it."""
        wanted = self.request.verify
        if isinstance(wanted, Missing):
            return
        paths = tuple(str(self.folder / item.path) for item in self.bundles)
        request = msgspec.structs.replace(wanted, model=paths[0], more=paths[1:], reference=self.request.model)
        found = verify(request, target=self.target, watch=self.watch)
        rows = {row.artefact_sha256: number for number, row in enumerate(found.rows)}
        self.reference = found.rows[0]
        for number, item in enumerate(self.bundles):
            row = rows.get(item.engine.artefact.sha256)
            if row is not None:
                add_verification(self.folder / item.path, found, row=row)
            verified = _why_not(found, item) if row is None else found.rows[row]
            self.bundles[number] = msgspec.structs.replace(item, verified=verified)

    def _measure(self) -> None:
        """Time every bundle, each in a profile of its own."""
        wanted = self.request.measure
        if isinstance(wanted, Missing):
            return
        for number, item in enumerate(self.bundles):
            request = msgspec.structs.replace(wanted, model=str(self.folder / item.path))
            where = Path(MEASUREMENTS) / _name(self.folder / item.path)
            shutil.rmtree(self.folder / where, ignore_errors=True)
            try:
                result = profile(
                    request, self.folder / where, target=self.target, watcher=_Told(self.watch, item.label)
                )
                _require_same(result, item)
            except EngineError as error:
                reason = Missing(code="engine_failed", why=error.message, cure=error.hint)
                self.bundles[number] = msgspec.structs.replace(item, median_s=reason, result=reason)
                continue
            self.bundles[number] = msgspec.structs.replace(item, median_s=_median(result), result=where.as_posix())

    def _save(self, facts: CalibrationFacts | Missing) -> BuildResult:
        result = BuildResult(
            schema_version=BUILD_SCHEMA,
            created_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            request=self.request,
            environment=environment.capture(),
            device=self.target.device,
            model=self.imported.model,
            calibration=facts,
            bundles=tuple(self.bundles),
            not_built=tuple(self.failed),
            reference=self.reference,
            warnings=self.imported.model.warnings,
        )
        write_record(self.folder / BUILD, result)
        return result

    def _path(self, engine: str, plan: PrecisionPlan, plans: list[PrecisionPlan]) -> Path:
        alike = sum(other.label == plan.label for other in plans) > 1
        label = f"{plan.label}-{plan.default}-{plan.floating}" if alike else plan.label
        name = f"{_plain(self.imported.model.name)}-{engine}-{label}"
        return self.folder / (f"{name}.hwbundle" if self.request.one_file else name)

    def _note(self, engine: str, precision: str, reason: Missing, *, failed: bool | None = None) -> None:
        failed = bool(self.request.engines) if failed is None else failed
        self.failed.append(NotMeasured(engine=engine, precision=precision, reason=reason, failed=failed))


def with_examples(imported: ImportResult, read: DataResult) -> ImportResult:
    """Make the first samples the model's inputs: those of a bundle should be such as its ranges were found for."""
    batch = imported.model.batch_size
    assert isinstance(batch, int)  # without a batch axis no data can be read
    rows = np.minimum(np.arange(batch), read.facts.samples - 1)
    arrays = {name: np.array(array[rows]) for name, array in stored_inputs(Path(read.folder)).items()}
    np.savez(Path(imported.files.folder) / imported.files.inputs, **arrays)  # type: ignore[arg-type]
    return msgspec.structs.replace(imported, model=msgspec.structs.replace(imported.model, input_origin="file"))


class _Told(Watcher):
    """Passes on what a profile is doing."""

    def __init__(self, watch: Watch, label: str) -> None:
        self.watch = watch
        self.label = label

    def phase(self, label: str, phase: str, fraction: float | None) -> None:  # noqa: ARG002 - of the watcher
        self.watch(f"timing {self.label}", fraction)


def of_builder(engine: Engine) -> bool:
    """Say whether an engine runs what another builds, in another setting."""
    other = getattr(engine, "variant_of", None)
    return other is not None and isinstance(plugins.load("engines", other), Builds)


def licence_of(model: str) -> str | None:
    """Return the licence that lies beside a model's file, where there is exactly one."""
    spec = parse_spec(model)
    found = licence_beside(Path(spec.where)) if spec.kind in {"onnx", "pt2"} else None
    return None if found is None else str(found)


def _why_not(found: Verification, item: Bundled) -> Missing:
    engine = item.engine.artefact.engine
    reasons = [each.reason for each in found.not_verified if each.engine == engine]
    return reasons[0] if reasons else Missing(code="engine_failed", why="the verification has no row for it")


def _require_same(result: ProfileResult, item: Bundled) -> None:
    if result.measurements[0].artefact_sha256 != item.engine.artefact.sha256:
        raise EngineError(f"another engine lay in {item.path} when it was timed", hint="build again")


def _median(result: ProfileResult) -> float | Missing:
    latency = result.measurements[0].latency
    return latency.median_s if isinstance(latency, LatencySummary) else latency


def _name(path: Path) -> str:
    return path.name.removesuffix(".hwbundle")


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "model"
