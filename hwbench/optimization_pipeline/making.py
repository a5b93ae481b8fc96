"""From a design to a bundle: the recipe carried out, the ranges found again, the engine built, each in a child."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from hwbench import plugins
from hwbench.build.plan import reads_ranges, settled
from hwbench.build_pipeline import licence_of, with_examples
from hwbench.compress.layout import MODEL
from hwbench.compress.methods.finetune import FinetuneSettings, check_recovery
from hwbench.compress.order import settings_of
from hwbench.compression_pipeline import carried_out, for_training
from hwbench.data.store import LABELS
from hwbench.devices import environment
from hwbench.errors import EngineError
from hwbench.graph.artefact import import_bundle
from hwbench.graph.spec import parse_spec
from hwbench.intake import Intake
from hwbench.inventory import Target
from hwbench.optimization_pipeline.kept import Kept
from hwbench.plan.designs import precision_plan, steps_of
from hwbench.records.base import Missing, Record
from hwbench.records.build import BundleJob, EngineBuilt
from hwbench.records.compression import Compressed, CompressJob, CompressRequest, NetworkFacts, Step
from hwbench.records.data import DataResult
from hwbench.records.model import ImportJob, ImportResult
from hwbench.records.optimization import Made, OptimizeRequest, Parts
from hwbench.records.planning import Design, Space
from hwbench.records.quantization import CalibrateJob, CalibrateResult, Calibration, PrecisionPlan
from hwbench.units import MonotonicClock

BUNDLES = "bundles"


class Network(Record, frozen=True, kw_only=True):
    """A network whose structure a recipe has made, ready to be built from."""

    imported: ImportResult
    facts: NetworkFacts | None
    warnings: tuple[str, ...] = ()


class Trainable(Record, frozen=True, kw_only=True):
    """A network at the batch of training, and at another one, which tells what depends on it."""

    training: ImportResult
    other_batch: ImportResult | None
    warnings: tuple[str, ...] = ()


class Maker:
    """Realises designs. What it has made it keeps, in the folder of ``kept``."""

    def __init__(self, request: OptimizeRequest, target: Target, intake: Intake, kept: Kept) -> None:
        self.request, self.target, self.intake, self.kept = request, target, intake, kept
        self.folder = kept.folder
        (self.folder / BUNDLES).mkdir(parents=True, exist_ok=True)

    def bring_in(self) -> ImportResult:
        """Bring the model in at the batch size that it is to be deployed with."""
        request = self.request
        return self.intake.model(request.model, batch_size=request.batch_size, shapes=request.shapes)

    def prepare(self, imported: ImportResult, parts: Parts) -> None:
        """Take the network and the data that everything is made from."""
        learn = DataResult(facts=parts.learn.facts, folder=parts.learn.folder)
        self.learn = learn
        self.recover_on = self._recovery_data(imported)
        self._check_recovery()
        self.original = Network(imported=with_examples(imported, learn), facts=None)

    def made(self, engine: str, plan: PrecisionPlan, name: str, steps: Sequence[Step] = ()) -> Made:
        """Build a bundle.

        Raises:
            HwbenchError: a step, the calibration or the engine failed; Unsupported where the engine does not offer it.
        """
        clock = MonotonicClock()
        began_ns = clock.now_ns()
        network = self._network(tuple(steps)) if steps else self.original
        plan = settled(plan, network.imported.model, ())
        bundle = self.folder / BUNDLES / name
        shutil.rmtree(bundle, ignore_errors=True)  # of a run that was ended before it was written down
        calibration, imported = self._calibrated(engine, network.imported, plan, name)
        built = self._built(engine, plan, bundle, calibration, imported)
        return Made(
            engine=built,
            plan=plan,
            steps=tuple(steps),
            network=network.facts,
            imported=self._imported_bundle(bundle),
            bundle=f"{BUNDLES}/{name}",
            took_s=(clock.now_ns() - began_ns) / 1e9,
            warnings=network.warnings,
        )

    def designed(self, engine: str, space: Space, design: Design, name: str) -> Made:
        """Realise a design; raises like :meth:`made`."""
        steps = steps_of(space, design)
        if design.cuts and self.request.recover is not None:
            steps = (*steps, self.request.recover)
        layers = [layer.name for layer in (self._network(steps) if steps else self.original).imported.model.layers]
        return self.made(engine, precision_plan(space, design, layers), name, steps)

    def _network(self, steps: tuple[Step, ...]) -> Network:
        """Return what a recipe makes of the network; once for all engines."""
        key = _key(steps)
        return self.kept.once(f"networks/{key}", Network, lambda: self._compressed(steps, key))

    def _compressed(self, steps: tuple[Step, ...], key: str) -> Network:
        """Carry a recipe out; what a run that was ended has finished of it is not done again."""
        place = self.folder / "networks" / key
        place.mkdir(parents=True, exist_ok=True)
        begin = self.kept.once("training", Trainable, lambda: self._trainable(self.request.model, "training"))
        if steps[-1] != self.request.recover:
            return self._carried_out(begin, steps, self.learn, key, place)
        self._network(steps[:-1])
        cut = self.folder / "networks" / _key(steps[:-1]) / MODEL
        student = self._trainable(str(cut), f"networks/{key}/cut")
        return self._carried_out(student, (_taught_by(begin, student, steps[-1]),), self.recover_on, key, place)

    def _carried_out(
        self, begin: Trainable, steps: tuple[Step, ...], data: DataResult, key: str, place: Path
    ) -> Network:
        job = CompressJob(
            imported=begin.training,
            other_batch=begin.other_batch,
            request=self._compress_request(steps, data),
            data=data.facts,
            data_folder=data.folder,
            target=str(place.resolve()),
        )
        what = f"carrying out {', '.join(step.method for step in steps)}"
        child = f"networks/{key}/child"
        done = self.kept.once(f"networks/{key}/done", Compressed, lambda: carried_out(self.intake, job, child, what))
        batch = self.original.imported.model.batch_size
        size = batch if isinstance(batch, int) and isinstance(done.batch_size, Missing) else None
        imported = self.intake.model(str(place / MODEL), f"networks/{key}/model", batch_size=size)
        imported = with_examples(imported, self.learn)
        model = msgspec.structs.replace(imported.model, name=self.original.imported.model.name)
        imported = msgspec.structs.replace(imported, model=model)
        return Network(imported=imported, facts=done.after, warnings=done.warnings)

    def _trainable(self, model: str, where: str) -> Trainable:
        request = self.request
        training, other, warnings = for_training(self.intake, model, request.training_batch_size, request.shapes, where)
        return Trainable(training=training, other_batch=other, warnings=warnings)

    def _recovery_data(self, imported: ImportResult) -> DataResult:
        """Return what is trained on after a cut: data of its own where some were given."""
        source = self.request.recover_data
        if source is None:
            return self.learn
        return self.kept.once(
            "recovery-data",
            DataResult,
            lambda: self.intake.data(source, imported.model, "recovery-data", preprocess=self.request.preprocess),
        )

    def _check_recovery(self) -> None:
        """Refuse a training that could not be done before anything is measured."""
        recover, data = self.request.recover, self.recover_on
        if recover is not None:
            labels = len(np.load(Path(data.folder) / LABELS, mmap_mode="r")) if data.facts.labels else None
            check_recovery(_finetune(recover), data.facts.samples, labels)

    def _compress_request(self, steps: tuple[Step, ...], data: DataResult) -> CompressRequest:
        request = self.request
        return CompressRequest(
            model=request.model,
            steps=steps,
            data=data.facts.source,
            preprocess=request.preprocess,
            samples=data.facts.samples,
            batch_size=request.training_batch_size,
            shapes=request.shapes,
            resume=True,
            device=request.device,
            threads=request.threads,
            seed=request.seed,
            timeout_s=request.timeout_s,
        )

    def _calibrated(
        self, engine: str, imported: ImportResult, plan: PrecisionPlan, name: str
    ) -> tuple[Calibration | None, ImportResult]:
        """Find the ranges of one plan; a copy of the network gets them, as its repairs depend on the plan.

        Where nothing is quantised, ranges tell an engine what overflows a half, and nothing is repaired.
        """
        settings = self.request.calibration
        if not plan.needs_ranges:
            if not reads_ranges(plugins.load("engines", engine), plan, imported.model):
                return None, imported
            settings = settings.without_repairs()
        home = self.folder / "calibrations" / name
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(imported.files.folder, home / "model", ignore=shutil.ignore_patterns("*.json", "log.txt"))
        files = msgspec.structs.replace(imported.files, folder=str((home / "model").resolve()))
        job = CalibrateJob(
            model=imported.model,
            files=files,
            plan=plan,
            settings=settings,
            data=self.learn.facts,
            data_folder=self.learn.folder,
            threads=self.request.threads,
        )
        found = self.intake.run(
            "hwbench.quantize.calibrate",
            job,
            CalibrateResult,
            f"calibrations/{name}",
            f"calibrating {name}",
            EngineError,
        )
        return found.calibration, msgspec.structs.replace(imported, files=found.files)

    def _built(
        self, engine: str, plan: PrecisionPlan, bundle: Path, calibration: Calibration | None, imported: ImportResult
    ) -> EngineBuilt:
        job = BundleJob(
            engine=engine,
            imported=imported,
            plan=plan,
            calibration=calibration,
            device=self.target.device,
            environment=environment.capture(),
            threads=self.request.threads,
            name=bundle.name,
            target=str(bundle),
            replace=True,
            licence=licence_of(self.request.model),
            preprocessing_note=self.request.preprocess,
            postprocessing_note=None,
        )
        where, what = f"builds/{bundle.name}", f"building {bundle.name}"
        shutil.rmtree(self.folder / where, ignore_errors=True)
        return self.intake.run("hwbench.build.worker", job, EngineBuilt, where, what, EngineError)

    def _imported_bundle(self, bundle: Path) -> ImportResult:
        """Lay the bundle's engine out to be run; it was written a moment ago, so that nothing foreign is read."""
        job = ImportJob(model=str(bundle), batch_size=None, shapes={}, input_data=None, seed=self.request.seed)
        place = self.folder / "runs" / bundle.name
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        return import_bundle(parse_spec(str(bundle)), job, place)


def _key(steps: tuple[Step, ...]) -> str:
    return hashlib.sha256(msgspec.json.encode(steps, order="sorted")).hexdigest()[:16]


def _taught_by(original: Trainable, student: Trainable, training: Step) -> Step:
    """Return the training of a network that has been cut, with the original, at its batch size, as its teacher."""
    settings = _finetune(training)
    if settings.taught_by is not None or not settings.teacher:
        return training
    there = [each for each in (original.training, original.other_batch) if each is not None]
    size = student.training.model.batch_size
    files = next((each.files for each in there if each.model.batch_size == size), there[0].files)
    teacher = str(Path(files.folder).resolve() / files.hub)
    return msgspec.structs.replace(training, settings={**training.settings, "taught_by": teacher})


def _finetune(training: Step) -> FinetuneSettings:
    found = settings_of(training, plugins.load("compressors", training.method))
    assert isinstance(found, FinetuneSettings)
    return found
