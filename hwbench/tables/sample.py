"""Build designs with the real engine, time them from end to end and unit by unit. Runs as a child process.

Designs are taken a few at a time: each is cut, lowered, loaded and run once, then all of them are timed in turn with
the unchanged network (:mod:`hwbench.tables.turns`), then each is profiled in a build of its own. A sample goes to the
parent as an event as soon as it is there, and so does what the child is about to do: if it dies, the parent knows of
which design, and has the others.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import onnx_ir as ir

from hwbench import plugins
from hwbench.build.plan import wants_ranges
from hwbench.bundles.hashing import artefact_sha256
from hwbench.children import Emit, serve
from hwbench.errors import HwbenchError, Unsupported, UsageError
from hwbench.files import read_bytes
from hwbench.graph.onnx_file import infer_shapes
from hwbench.inference import inference
from hwbench.measure.job import Arrays
from hwbench.protocols import Bound, BuildRequest, Builds, Engine, LowerRequest, Runner
from hwbench.records.base import Missing
from hwbench.records.measurement import LayerRun, UnitSamples
from hwbench.records.model import Artefact, ModelFiles
from hwbench.records.planning import CostSample, Design, Drawn
from hwbench.records.quantization import Lowered
from hwbench.records.sampling import NotSampled, SampleJob, SamplingDone
from hwbench.tables.booking import booked
from hwbench.tables.metering import Metering, metering
from hwbench.tables.platform import platform_of
from hwbench.tables.turns import Timed, in_turn
from hwbench.tables.variant import Variant, variant
from hwbench.units import Clock, MonotonicClock

AT_ONCE = 4  # designs that are loaded beside the reference
_PROFILE_S = 0.15
_FEWEST_PROFILED, _MOST_PROFILED = 16, 120


@dataclass(frozen=True, kw_only=True)
class _Ready:
    """A design that is loaded and has run once."""

    design: Design
    made: Variant
    lowered: Lowered
    request: BuildRequest
    runner: Runner
    bound: Bound


def work(job: SampleJob, folder: Path, emit: Emit) -> SamplingDone:
    """Sample every design of the job.

    Raises:
        UsageError: the designs are not all of one floating-point arithmetic, whose costs are apart.
        EngineError: the unchanged network cannot be built or run.
    """
    if len({design.floating for design in job.designs}) != 1:
        raise UsageError("designs of one sampling must have one floating-point arithmetic")
    if job.cpus and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, job.cpus)
    clock = MonotonicClock()
    with metering(job.meter, job.device, clock, job.cpus) as meter:
        return _Sampler(job, folder, emit, clock, meter).run()


class _Sampler:
    """Holds what all designs of a job share."""

    def __init__(self, job: SampleJob, folder: Path, emit: Emit, clock: Clock, meter: Metering) -> None:
        self.job, self.folder, self.emit, self.clock, self.meter = job, folder, emit, clock, meter
        engine: Engine = plugins.load("engines", job.engine)
        if not isinstance(engine, Builds):
            raise Unsupported(f"the engine '{engine.name}' runs models and cannot save what it runs")
        engine.start()
        self.engine, self.builder = engine, engine
        home = Path(job.imported.files.folder)
        self.hub = infer_shapes(ir.load(home / job.imported.files.hub))
        with np.load(io.BytesIO(read_bytes(home / job.imported.files.inputs)), allow_pickle=False) as archive:
            self.inputs: Arrays = {name: archive[name] for name in archive.files}
        self.platform = platform_of(
            job.device, job.engine, job.imported.model, threads=job.threads, floating=job.designs[0].floating
        )
        self.failed: list[NotSampled] = []
        self.timed = 0

    def run(self) -> SamplingDone:
        reference = self._ready(Design(floating=self.job.designs[0].floating), "reference")
        for start in range(0, len(self.job.designs), AT_ONCE):
            self._few(reference, range(start, min(start + AT_ONCE, len(self.job.designs))))
        reference.runner.close()
        return SamplingDone(timed=self.timed, not_sampled=tuple(self.failed))

    def _few(self, reference: _Ready, numbers: Sequence[int]) -> None:
        ready = list(self._loaded(numbers))
        if not ready:
            return
        self._say(f"timing {len(ready)} networks", -1)
        with inference(self.job.engine):
            timed = in_turn(reference.bound.run, [one.bound.run for _, one in ready], self.clock)
            drawn = [self.meter.of(one.bound.run) for _, one in ready]
        for (number, one), times, energy in zip(ready, timed, drawn, strict=True):
            one.runner.close()
            self._say("timing its layers", number)
            self._finish(one, times, number, energy)
            shutil.rmtree(self.folder / str(number), ignore_errors=True)

    def _loaded(self, numbers: Sequence[int]) -> Iterator[tuple[int, _Ready]]:
        for number in numbers:
            design = self.job.designs[number]
            self._say("building", number)
            try:
                yield number, self._ready(design, str(number))
            except (HwbenchError, OSError) as error:
                self._fail(design, error)

    def _ready(self, design: Design, where: str) -> _Ready:
        folder = self.folder / where
        shutil.rmtree(folder, ignore_errors=True)
        made = variant(
            self.hub, self.job.imported, self.job.space, design, self.job.calibration, folder.resolve() / "graph"
        )
        (folder / "engine").mkdir()
        asked = LowerRequest(
            model=made.model,
            files=made.files,
            plan=made.plan,
            calibration=made.calibration if wants_ranges(self.builder, made.plan) else None,
            device=self.job.device,
            folder=folder / "engine",
        )
        lowered = self.builder.lower(asked)
        request = self._request(made, lowered, asked, folder)
        runner = self.engine.load(request).compile()
        with inference(self.job.engine):
            bound = runner.bind(self.inputs)
            bound.run()
        return _Ready(design=design, made=made, lowered=lowered, request=request, runner=runner, bound=bound)

    def _request(self, made: Variant, lowered: Lowered, asked: LowerRequest, folder: Path) -> BuildRequest:
        artefact = Artefact(
            engine=self.job.engine,
            sha256=artefact_sha256(asked.folder, lowered.files),
            files=lowered.files,
            label=made.plan.label,
            settings=lowered.settings,
            isa=lowered.isa,
        )
        first = lowered.files[0]
        (folder / "scratch").mkdir()
        return BuildRequest(
            model=msgspec.structs.replace(made.model, artefact=artefact, arithmetic=lowered.arithmetic),
            files=ModelFiles(folder=str(asked.folder), hub=first, runtime_graph=first, merged=made.files.merged),
            device=self.job.device,
            precision="auto",
            threads=self.job.threads,
            streams=1,
            profile_layers=False,
            workdir=folder / "scratch",
        )

    def _finish(self, one: _Ready, times: Timed, number: int, energy: Drawn | Missing) -> None:
        try:
            run = self._profiled(one, times.median_s)
        except (HwbenchError, OSError) as error:
            self._fail(one.design, error)
            return
        found = booked(self.job.space, one.design, one.made, one.lowered, run, times.median_s)
        if isinstance(found, Missing):
            self.failed.append(NotSampled(design=one.design, reason=found))
            return
        sample = CostSample(
            platform=self.platform,
            hub_sha256=self.job.space.hub_sha256,
            design=one.design,
            clusters=found.clusters,
            border=found.border,
            samples_ns=times.samples_ns,
            median_s=times.median_s,
            reference_s=times.reference_s,
            profiled_s=found.profiled_s,
            units=found.units,
            energy=energy,
        )
        self.timed += 1
        self._say("timed", number, sample=msgspec.to_builtins(sample))

    def _profiled(self, one: _Ready, median_s: float) -> LayerRun:
        workdir = one.request.workdir / "profile"
        workdir.mkdir()
        runner = self.engine.load(replace(one.request, profile_layers=True, workdir=workdir)).compile()
        count = max(_FEWEST_PROFILED, min(_MOST_PROFILED, int(_PROFILE_S / max(median_s, 1e-9))))
        with inference(self.job.engine):
            profile = runner.profile_layers(self.inputs, count)
        runner.close()
        if isinstance(profile, Missing):
            return LayerRun(units=profile, end_to_end_s=(), method="")
        units = tuple(UnitSamples(unit=times.unit, times_s=times.times_s) for times in profile.units)
        return LayerRun(units=units, end_to_end_s=profile.end_to_end_s, method=profile.method)

    def _fail(self, design: Design, error: HwbenchError | OSError) -> None:
        if isinstance(error, HwbenchError):
            code = "unsupported" if isinstance(error, Unsupported) else "engine_failed"
            reason = Missing(code=code, why=error.message, cure=error.hint)
        else:
            reason = Missing(code="file_failed", why=f"{Path(error.filename or '').name}: {error.strerror or error}")
        self.failed.append(NotSampled(design=design, reason=reason))

    def _say(self, what: str, number: int, **more: object) -> None:
        fraction = max(0, number) / len(self.job.designs)
        self.emit({"event": "progress", "what": what, "fraction": fraction, "number": number, **more})


if __name__ == "__main__":
    serve(work, SampleJob)
