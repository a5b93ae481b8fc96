"""What the parts of a network cost on each runtime of this device: sampled as far as they are not known already."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from hwbench import plugins
from hwbench.build.plan import reads_ranges
from hwbench.errors import EngineError, HwbenchError
from hwbench.intake import Intake
from hwbench.inventory import Away, Target, cannot_build, pinned_cpus
from hwbench.plan.designs import key_of
from hwbench.planning_pipeline.known import Known, Runtime
from hwbench.planning_pipeline.ratios import Ratios, ratios_of
from hwbench.planning_pipeline.spaces import alternatives, own, timed
from hwbench.planning_pipeline.ways import Ways, knows_kernels, ways_of, with_timed
from hwbench.planning_pipeline.with_zeros import Shrunk, WithZeros
from hwbench.prediction.machine import Machine
from hwbench.protocols import Builds, Engine
from hwbench.records.base import Missing
from hwbench.records.data import DataResult
from hwbench.records.model import ImportResult
from hwbench.records.plan import PlanRequest
from hwbench.records.planning import TWO_FOUR, CostSample, Design, Space, SparseCost
from hwbench.records.quantization import CalibrateJob, CalibrateResult, Calibration, PrecisionPlan
from hwbench.records.sampling import NotSampled, SampleJob
from hwbench.store.costs import CostStore
from hwbench.tables.collect import Collected, collect
from hwbench.tables.draw import Budget, drawn, first_designs, measure
from hwbench.tables.model import FEWEST, fit
from hwbench.tables.platform import platform_of
from hwbench.tables.power import FEWEST_METERED, count_metered
from hwbench.tables.zeros import measured, where_faster, zeros_designs
from hwbench.units import Clock, MonotonicClock

FAR = 1.6  # a runtime whose best uniform precision is so many times slower than the best of all is not planned for
_MOST = 40  # networks that are timed for one runtime, at most
_MOST_OTHERS = 80  # samples of other networks that help, at most; the latest
_ONE_ROUND_S = 1e-3  # more than nothing: one round of sampling
NOT_ASKED = Missing(code="not_asked", why="no runtime here takes kernels")
_NO_TIME = Missing(
    code="no_time", why="the time for measuring costs was over", cure="give more; what was measured is kept"
)


class Costing:
    """Samples runtimes for one network. What is sampled goes into the store at once."""

    def __init__(
        self,
        request: PlanRequest,
        target: Target,
        intake: Intake,
        imported: ImportResult,
        learn: DataResult,
    ) -> None:
        self.request, self.target, self.intake = request, target, intake
        self.imported, self.learn = imported, learn
        self.store = CostStore()
        self.failed: dict[str, Missing] = {}
        self.counted: Counter[Runtime] = Counter()  # networks that were timed in this run
        self.clock: Clock = MonotonicClock()

    def offers(self, hub: ir.Model, runtimes: Sequence[Runtime]) -> dict[Runtime, Ways]:
        """Return what each runtime may run the layers of a network as."""
        ratios: Ratios | Missing = NOT_ASKED
        if any(knows_kernels(runtime.engine) for runtime in runtimes):
            ratios = ratios_of(self.target)
        return {
            runtime: ways_of(
                hub,
                runtime.engine,
                runtime.floating,
                self.target,
                ratios=ratios,
                machine=self.machine(runtime),
            )
            for runtime in runtimes
        }

    def machine(self, runtime: Runtime) -> Machine | None:  # noqa: ARG002 - of a device that is here nothing is assumed
        """Return what is known of a device that is not attached."""
        return None

    def choose_in(self, space: Space, ways: Mapping[Runtime, Ways] | None = None) -> None:
        """Take what can be chosen for all runtimes together; each of them has what its ways allow."""
        self.space, self.ways = space, dict(ways or {})

    def space_for(self, runtime: Runtime) -> Space:
        """Return what can be chosen for one runtime."""
        ways = self.ways.get(runtime)
        return self.space if ways is None else own(self.space, ways)

    def calibrate(self, runtimes: Sequence[Runtime]) -> Calibration | None:
        """Find ranges: of the whole network, which serve every design, since tensors keep their names.

        Where nothing can be quantised they tell an engine what overflows a half, and weights stay as they are.
        """
        settings = self.request.calibration
        if not any(site.kind == "precision" for site in self.space.sites):
            if not any(self._reads_ranges(runtime) for runtime in runtimes):
                return None
            settings = settings.without_repairs()
        job = CalibrateJob(
            model=self.imported.model,
            files=self.imported.files,
            plan=PrecisionPlan(default="int8"),
            settings=settings,
            data=self.learn.facts,
            data_folder=self.learn.folder,
            threads=self.request.threads,
        )
        return self.intake.run(
            "hwbench.quantize.calibrate", job, CalibrateResult, "calibration", "calibrating", EngineError
        ).calibration

    def _reads_ranges(self, runtime: Runtime) -> bool:
        """Say whether a runtime builds networks here, and reads the ranges of those that quantise nothing."""
        plan = PrecisionPlan(default="float", floating=runtime.floating)
        here = not isinstance(self.target, Away)
        return here and reads_ranges(plugins.load("engines", runtime.engine), plan, self.imported.model)

    def runtimes(self) -> list[Runtime]:
        """Return those that can build here; of those that were asked for and cannot, the reason is noted."""
        found = []
        for name in self.request.engines or plugins.available("engines"):
            try:
                engine: Engine = plugins.load("engines", name)
            except HwbenchError as error:
                self.failed[name] = Missing(code="plugin", why=error.message, cure=error.hint)
                continue
            reason = self._unfit(engine, asked=bool(self.request.engines))
            if reason is None:
                found += [Runtime(engine=name, floating=floating) for floating in self.request.floating]
            elif reason.code != "not_asked":
                self.failed[name] = reason
        return found

    def _unfit(self, engine: Engine, *, asked: bool) -> Missing | None:
        """Say why an engine is not planned for; code ``not_asked`` where nobody expects it to be."""
        if not isinstance(engine, Builds):
            code = "cannot_build" if asked else "not_asked"
            return Missing(code=code, why="it runs models and saves nothing that runs")
        if (reason := cannot_build(engine, self.imported, self.target)) is not None:
            return reason
        if not asked and getattr(engine, "variant_of", None) is not None:
            return Missing(code="not_asked", why="it runs another engine's files in another setting")
        if not asked and "int8" not in engine.schemes:
            cure = f"--engine {engine.name} plans for it anyway"
            return Missing(code="no_int8", why="it builds no int8 here", cure=cure)
        return None

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
        space = self.space_for(runtime)
        wanted = {key_of(design): design for design in first_designs(space, floating=runtime.floating)}
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
        space, ways, begun_ns = self.space_for(runtime), self.ways.get(runtime, Ways()), self.clock.now_ns()
        try:
            there = self._kept(runtime)
            samples = [each for each in there if not each.design.zeros]
            if seconds <= 0 and len(samples) < FEWEST:
                return _NO_TIME
            spaces = alternatives(space, ways.one_of)
            samples = self._sampled(runtime, spaces, samples, calibration, seconds)
            samples += self._metered_more(runtime, spaces[0], samples, calibration)
        except HwbenchError as error:
            return Missing(code="engine_failed", why=error.message, cure=error.hint)
        try:
            costs = fit(samples, space, known=self._others(samples, space))
            costs.interval()
        except HwbenchError as error:
            return Missing(code="too_few", why=error.message, cure=error.hint)
        left_s = seconds - (self.clock.now_ns() - begun_ns) / 1e9
        sparse = [each for each in there if each.design.zeros]
        zeros = self._timed_zeros(runtime, space, samples, sparse, calibration, left_s)
        shrunk = Shrunk(
            products=ways.products,
            ratios=ways.ratios,
            timed={(each.cluster, each.scheme, each.zeros): each for each in zeros},
        )
        return Known(
            runtime=runtime,
            platform=costs.platform,
            costs=WithZeros(dense=costs, shrunk=shrunk),
            samples=tuple(samples),
            now=self.counted[runtime],
            space=where_faster(timed(space, costs), zeros),
            ways=with_timed(ways, zeros),
        )

    def _timed_zeros(
        self,
        runtime: Runtime,
        space: Space,
        samples: Sequence[CostSample],
        sparse: Sequence[CostSample],
        calibration: Calibration | None,
        seconds: float,
    ) -> tuple[SparseCost, ...]:
        """Return what zeros make of clusters in this network, as far as it was timed or there is time left for it.

        Designs are built one by one, those for the runtime's own kernels first: of these nothing else is known.

        Args:
            runtime: that is asked.
            space: what it has.
            samples: of dense networks.
            sparse: of networks with zeros that are kept.
            calibration: ranges of activations.
            seconds: that are left.
        """
        begun_ns = self.clock.now_ns()
        found = list(sparse)
        there = {key_of(each.design) for each in found}
        wanted = [each for each in zeros_designs(space, floating=runtime.floating) if key_of(each) not in there]
        for design in sorted(wanted, key=lambda each: TWO_FOUR not in {one.format for one in each.zeros.values()}):
            if (self.clock.now_ns() - begun_ns) / 1e9 < seconds:
                found += self._collected(runtime, [design], calibration).samples
        return measured([*samples, *found], space) if found else ()

    def _metered_more(
        self, runtime: Runtime, space: Space, samples: Sequence[CostSample], calibration: Calibration | None
    ) -> list[CostSample]:
        """Return samples of further networks, where energy is wanted and too few of those that are kept have one."""
        lacking = FEWEST_METERED - count_metered(samples)
        if not self.request.needs_energy or lacking <= 0:
            return []
        designs = drawn(
            space, lacking, measured=[each.design for each in samples], floating=runtime.floating,
            seed=self.request.seed,
        )  # fmt: skip
        return self._collected(runtime, designs, calibration).samples

    def _sampled(
        self,
        runtime: Runtime,
        spaces: Sequence[Space],
        samples: Sequence[CostSample],
        calibration: Calibration | None,
        seconds: float,
    ) -> list[CostSample]:
        """Return samples of designs of some spaces, each with its share of what is still to be measured."""
        found, begun_ns = list(samples), self.clock.now_ns()
        most = max(0, _MOST - len(found))
        for number, space in enumerate(spaces, 1):
            found = measure(
                space,
                lambda designs: self._collected(runtime, designs, calibration).samples,
                budget=Budget(samples=most // len(spaces), seconds=seconds * number / len(spaces)),
                known=found,
                floating=runtime.floating,
                seed=self.request.seed,
                elapsed_s=lambda: (self.clock.now_ns() - begun_ns) / 1e9,
            )
        return found

    def _others(self, samples: Sequence[CostSample], space: Space) -> list[CostSample]:
        """Return samples of other networks on the platform, where this one has few times of some kind of cluster."""
        times = Counter((time.kind, time.scheme) for sample in samples for time in sample.clusters)
        schemes = {option.scheme or "float" for site in space.sites for option in site.options}
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
            space=self.space_for(runtime),
            calibration=calibration,
            designs=tuple(designs),
            engine=runtime.engine,
            device=self.target.device,
            threads=self.request.threads,
            cpus=pinned_cpus(self.target, self.request.threads),
            meter="auto" if self.request.needs_energy else "none",
        )
