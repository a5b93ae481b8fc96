"""What the parts of a network cost on each runtime of this device: sampled as far as they are not known already."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from hwbench import plugins
from hwbench.errors import EngineError, HwbenchError
from hwbench.intake import Intake
from hwbench.inventory import Target, pinned_cpus
from hwbench.plan.designs import key_of
from hwbench.prediction.costs import PredictedCosts
from hwbench.protocols import Builds, Engine
from hwbench.records.base import Missing
from hwbench.records.data import DataResult
from hwbench.records.model import ImportResult
from hwbench.records.plan import PlanRequest
from hwbench.records.planning import CostSample, Design, Interval, Platform, Space
from hwbench.records.quantization import CalibrateJob, CalibrateResult, Calibration, Floating, PrecisionPlan
from hwbench.records.sampling import NotSampled, SampleJob
from hwbench.store.costs import CostStore
from hwbench.tables.collect import Collected, collect
from hwbench.tables.draw import Budget, first_designs, measure
from hwbench.tables.model import FEWEST, CostModel, fit
from hwbench.tables.platform import platform_of
from hwbench.units import Clock, MonotonicClock

FAR = 1.6  # a runtime whose best uniform precision is so many times slower than the best of all is not planned for
_MOST = 40  # networks that are timed for one runtime, at most
_MOST_OTHERS = 80  # samples of other networks that help, at most; the latest
_ONE_ROUND_S = 1e-3  # more than nothing: one round of sampling
_NO_TIME = Missing(
    code="no_time", why="the time for measuring costs was over", cure="give more; what was measured is kept"
)


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
        self.store = CostStore()
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
        """Sample the uniform designs of all runtimes, then those further that are not far behind the best.

        All of it together takes ``costs_s``, looked at between rounds of sampling: what is left is divided among the
        runtimes to come, the fastest first, which gets one round in any case.
        """
        begun_ns = self.clock.now_ns()
        best: dict[Runtime, float] = {}
        for runtime in runtimes:
            late = bool(best) and self._left_s(begun_ns) <= 0
            took = self._uniform(runtime, calibration, late=late)
            if isinstance(took, Missing):
                self.failed[runtime.engine] = took
            else:
                best[runtime] = took
        near = self._near(best)
        found: list[Known] = []
        for number, runtime in enumerate(near):
            share_s = max(0.0, self._left_s(begun_ns)) / (len(near) - number)
            known = self._known(runtime, calibration, share_s if number else max(share_s, _ONE_ROUND_S))
            if isinstance(known, Missing):
                self.failed[runtime.engine] = known
            else:
                found.append(known)
        return sorted(found, key=lambda each: runtimes.index(each.runtime))

    def _left_s(self, begun_ns: int) -> float:
        return self.request.costs_s - (self.clock.now_ns() - begun_ns) / 1e9

    def _near(self, best: dict[Runtime, float]) -> list[Runtime]:
        """Return the runtimes that are not far behind, the fastest first; of the others the reason is noted."""
        fastest = min(best.values(), default=0.0)
        for runtime, took in best.items():
            if took > FAR * fastest:
                self.failed[runtime.engine] = Missing(
                    code="far_behind",
                    why=f"its best uniform precision takes {took / fastest:.2f} times as long as the best one",
                    cure=f"--engine {runtime.engine} alone plans for it anyway",
                )
        return sorted((each for each, took in best.items() if took <= FAR * fastest), key=best.__getitem__)

    def _uniform(self, runtime: Runtime, calibration: Calibration | None, *, late: bool) -> float | Missing:
        """Return what the best uniform design takes, in seconds; those that nobody has timed are timed."""
        wanted = {key_of(design): design for design in first_designs(self.space, floating=runtime.floating)}
        try:
            samples = self._kept(runtime)
            there = {key_of(each.design) for each in samples}
            lacking = [design for key, design in wanted.items() if key not in there]
            if lacking and late:
                return _NO_TIME
            refused: tuple[NotSampled, ...] = ()
            if lacking:
                done = self._collected(runtime, lacking, calibration)
                samples, refused = [*samples, *done.samples], tuple(done.not_sampled)
        except HwbenchError as error:
            return Missing(code="engine_failed", why=error.message, cure=error.hint)
        times = [each.median_s for each in samples if key_of(each.design) in wanted]
        if times:
            return min(times)
        return refused[0].reason if refused else Missing(code="not_timed", why="no uniform design could be timed")

    def _known(self, runtime: Runtime, calibration: Calibration | None, seconds: float) -> Known | Missing:
        """Return the costs of a runtime, from what is kept and what is sampled within ``seconds``."""
        begun_ns = self.clock.now_ns()
        try:
            samples = self._kept(runtime)
            if seconds <= 0 and len(samples) < FEWEST:
                return _NO_TIME
            samples = measure(
                self.space,
                lambda designs: self._collected(runtime, designs, calibration).samples,
                budget=Budget(samples=max(0, _MOST - len(samples)), seconds=seconds),
                known=samples,
                floating=runtime.floating,
                seed=self.request.seed,
                elapsed_s=lambda: (self.clock.now_ns() - begun_ns) / 1e9,
            )
        except HwbenchError as error:
            return Missing(code="engine_failed", why=error.message, cure=error.hint)
        try:
            costs = fit(samples, self.space, known=self._others(samples))
            costs.interval()
        except HwbenchError as error:
            return Missing(code="too_few", why=error.message, cure=error.hint)
        return Known(
            runtime=runtime,
            platform=costs.platform,
            costs=costs,
            samples=tuple(samples),
            now=self.counted[runtime],
        )

    def _others(self, samples: Sequence[CostSample]) -> list[CostSample]:
        """Return samples of other networks on the platform, where this one has few times of some kind of cluster."""
        times = Counter((time.kind, time.scheme) for sample in samples for time in sample.clusters)
        schemes = {option.scheme or "float" for site in self.space.sites for option in site.options}
        few = {each.kind for each in self.space.clusters if any(times[each.kind, one] < FEWEST for one in schemes)}
        if not few or not samples:
            return []
        return self.store.samples_with(samples[0].platform, few, but=self.space.hub_sha256)[-_MOST_OTHERS:]

    def _kept(self, runtime: Runtime) -> list[CostSample]:
        platform = platform_of(
            self.target.device, runtime.engine, self.imported.model, threads=self.request.threads,
            floating=runtime.floating,
        )  # fmt: skip
        return self.store.samples_of(platform, self.imported.model.hub_sha256)

    def _collected(self, runtime: Runtime, designs: Sequence[Design], calibration: Calibration | None) -> Collected:
        where = f"costs-{runtime.engine}-{runtime.floating}-{self.clock.now_ns()}"
        done = collect(self._job(runtime, designs, calibration), self.intake, where, self.store.add)
        self.counted[runtime] += len(done.samples)
        return done

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
