"""What the parts of a network cost on each runtime of this device: sampled as far as they are not known already."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from hwbench import plugins
from hwbench.errors import EngineError, HwbenchError
from hwbench.intake import Intake
from hwbench.inventory import Target, pinned_cpus
from hwbench.prediction.costs import PredictedCosts
from hwbench.protocols import Builds, Engine
from hwbench.records.base import Missing
from hwbench.records.data import DataResult
from hwbench.records.model import ImportResult
from hwbench.records.plan import PlanRequest
from hwbench.records.planning import CostSample, Design, Interval, Platform, Space
from hwbench.records.quantization import CalibrateJob, CalibrateResult, Calibration, Floating, PrecisionPlan
from hwbench.records.sampling import SampleJob
from hwbench.store.costs import CostStore
from hwbench.tables.collect import collect
from hwbench.tables.draw import Budget, first_designs, measure
from hwbench.tables.model import CostModel, fit
from hwbench.tables.platform import platform_of
from hwbench.units import Clock, MonotonicClock

FAR = 1.6  # a runtime whose best uniform precision is so many times slower than the best of all is not planned for
_MOST = 40  # networks that are timed for one runtime, at most


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """An engine and the arithmetic of what it does not quantise."""

    engine: str
    floating: Floating


@dataclass(frozen=True, kw_only=True)
class Known:
    """The costs of one runtime. ``now``: how many networks were timed for it in this run."""

    runtime: Runtime
    platform: Platform
    costs: CostModel | PredictedCosts
    samples: tuple[CostSample, ...]
    now: int

    def baselines(self, space: Space) -> dict[str, Interval]:
        """Return what the uniform designs are predicted to take."""
        found: dict[str, Interval] = {}
        for design in first_designs(space, floating=self.runtime.floating):
            name = "int8" if design.schemes else self.runtime.floating
            found[name] = self.costs.predict(space, design)
        return found


class Costing:
    """Samples runtimes for one network. What is sampled goes into the store at once."""

    def __init__(
        self,
        request: PlanRequest,
        target: Target,
        intake: Intake,
        imported: ImportResult,
        learn: DataResult,
        space: Space,
    ) -> None:
        self.request, self.target, self.intake = request, target, intake
        self.imported, self.learn, self.space = imported, learn, space
        self.store = CostStore(request.store)
        self.failed: dict[str, Missing] = {}
        self.counted: Counter[Runtime] = Counter()  # networks that were timed in this run
        self.clock: Clock = MonotonicClock()

    def calibrate(self) -> Calibration | None:
        """Find ranges: of the whole network, which serve every design, since tensors keep their names."""
        if not any(site.kind == "precision" for site in self.space.sites):
            return None
        job = CalibrateJob(
            model=self.imported.model,
            files=self.imported.files,
            plan=PrecisionPlan(default="int8"),
            settings=self.request.calibration,
            data=self.learn.facts,
            data_folder=self.learn.folder,
            threads=self.request.threads,
        )
        return self.intake.run(
            "hwbench.quantize.calibrate", job, CalibrateResult, "calibration", "calibrating", EngineError
        ).calibration

    def runtimes(self) -> list[Runtime]:
        """Return those that can build here; of those that were asked for and cannot, the reason is noted."""
        found = []
        for name in self.request.engines or plugins.available("engines"):
            try:
                engine: Engine = plugins.load("engines", name)
            except HwbenchError as error:
                self.failed[name] = Missing(code="plugin", why=error.message, cure=error.hint)
                continue
            reason = _unfit(engine, asked=bool(self.request.engines))
            if reason is None:
                found += [Runtime(engine=name, floating=floating) for floating in self.request.floating]
            elif reason.code != "not_asked":
                self.failed[name] = reason
        return found

    def know(self, runtimes: Sequence[Runtime], calibration: Calibration | None) -> list[Known]:
        """Sample the uniform designs of all runtimes, then those further that are not far behind the best."""
        first = {runtime: self._samples(runtime, calibration, first_only=True) for runtime in runtimes}
        best = {runtime: min(each.median_s for each in some) for runtime, some in first.items() if some}
        fastest = min(best.values(), default=0.0)
        found = []
        for runtime in runtimes:
            if runtime not in best:
                continue
            if best[runtime] > FAR * fastest:
                self.failed[runtime.engine] = Missing(
                    code="far_behind",
                    why=f"its best uniform precision takes {best[runtime] / fastest:.2f} times as long as the best one",
                    cure=f"--engine {runtime.engine} alone plans for it anyway",
                )
                continue
            known = self._known(runtime, calibration)
            if known is not None:
                found.append(known)
        return found

    def _known(self, runtime: Runtime, calibration: Calibration | None) -> Known | None:
        samples = self._samples(runtime, calibration, first_only=False)
        if not samples:
            return None
        try:
            costs = fit(samples, self.space)
        except HwbenchError as error:
            self.failed[runtime.engine] = Missing(code="too_few", why=error.message, cure=error.hint)
            return None
        platform = samples[0].platform
        return Known(
            runtime=runtime,
            platform=platform,
            costs=costs,
            samples=tuple(samples),
            now=self.counted[runtime],
        )

    def _samples(self, runtime: Runtime, calibration: Calibration | None, *, first_only: bool) -> list[CostSample]:
        """Return what is known of a runtime, sampled further within the budget."""
        request = self.request
        try:
            platform = platform_of(
                self.target.device, runtime.engine, self.imported.model, threads=request.threads,
                floating=runtime.floating,
            )  # fmt: skip
        except HwbenchError as error:
            self.failed[runtime.engine] = Missing(code="no_platform", why=error.message, cure=error.hint)
            return []
        known = self.store.samples_of(platform, self.imported.model.hub_sha256)
        begun_ns = self.clock.now_ns()
        budget = Budget(samples=2 if first_only else max(0, _MOST - len(known)), seconds=request.costs_s)

        def sample(designs: Sequence[Design]) -> Sequence[CostSample]:
            where = f"costs-{runtime.engine}-{runtime.floating}-{len(known)}-{self.clock.now_ns()}"
            done = collect(self._job(runtime, designs, calibration), self.intake, where, self.store.add)
            self.counted[runtime] += len(done.samples)
            return done.samples

        try:
            return measure(
                self.space, sample, budget=budget, known=known, floating=runtime.floating, seed=request.seed,
                elapsed_s=lambda: (self.clock.now_ns() - begun_ns) / 1e9,
            )  # fmt: skip
        except HwbenchError as error:
            self.failed[runtime.engine] = Missing(code="engine_failed", why=error.message, cure=error.hint)
            return []

    def _job(self, runtime: Runtime, designs: Sequence[Design], calibration: Calibration | None) -> SampleJob:
        return SampleJob(
            imported=self.imported,
            space=self.space,
            calibration=calibration,
            designs=tuple(designs),
            engine=runtime.engine,
            device=self.target.device,
            threads=self.request.threads,
            cpus=pinned_cpus(self.target, self.request.threads),
        )


def _unfit(engine: Engine, *, asked: bool) -> Missing | None:
    """Say why an engine is not planned for; code ``not_asked`` where nobody expects it to be."""
    if not isinstance(engine, Builds):
        return Missing(code="cannot_build" if asked else "not_asked", why="it runs models and saves nothing that runs")
    support = engine.installed()
    if not support.usable:
        return support.reasons[0]
    if not asked and getattr(engine, "variant_of", None) is not None:
        return Missing(code="not_asked", why="it runs another engine's files in another setting")
    if not asked and "int8" not in engine.schemes:
        return Missing(code="no_int8", why="it builds no int8 here", cure=f"--engine {engine.name} plans for it anyway")
    return None
