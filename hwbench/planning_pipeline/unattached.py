"""Planning for a device that is not here: its profile, and a probe of it where there is one, instead of measurements.

Nothing is built or timed. Costs come from :class:`hwbench.prediction.costs.PredictedCosts`, with intervals of tier B or
C; losses are measured here, since they are those of the network. What comes out is an order of designs, not a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hwbench.errors import HwbenchError, UsageError
from hwbench.intake import Intake
from hwbench.inventory import Away, Target
from hwbench.planning_pipeline.costs import Costing
from hwbench.planning_pipeline.found import Found
from hwbench.planning_pipeline.known import Known, Runtime
from hwbench.planning_pipeline.ways import Ways
from hwbench.planning_pipeline.with_zeros import Shrunk, WithZeros
from hwbench.prediction.costs import PredictedCosts
from hwbench.prediction.machine import Machine
from hwbench.prediction.ordering import may_claim
from hwbench.prediction.predict import Predictor, predictor_of
from hwbench.prediction.probe.read import read_probe
from hwbench.records.base import Missing
from hwbench.records.data import DataResult
from hwbench.records.model import ImportResult
from hwbench.records.plan import PlanRequest
from hwbench.records.planning import Platform
from hwbench.records.prediction import Probe
from hwbench.records.profile import DeviceProfile
from hwbench.records.quantization import Calibration

NOT_KNOWN = "not known"
"""The version of a runtime on a device that nobody asked."""
_ANY_ENGINE = "onnxruntime"  # of a profile that names none


def costing_of(
    request: PlanRequest, target: Target, intake: Intake, imported: ImportResult, learn: DataResult
) -> Costing:
    """Return what finds costs: by measuring on a device that is here, else by prediction.

    Raises:
        StorageError: the probe cannot be read.
    """
    if isinstance(target, Away):
        return Predicting(request, target, intake, imported, learn)
    return Costing(request, target, intake, imported, learn)


def refuse_probe(request: PlanRequest, target: Target) -> None:
    """Refuse a probe of a device that is here.

    Raises:
        UsageError: there is one.
    """
    if request.probe is not None and not isinstance(target, Away):
        raise UsageError(
            f"'{request.device}' is here: what its parts cost is measured, not taken from a probe",
            hint="leave --probe out, or name a profile (`hwbench devices` lists them) with --device",
        )


class Predicting(Costing):
    """Costs of one network on a device that is not here. Nothing is sampled, and nothing goes into the store."""

    def __init__(
        self, request: PlanRequest, target: Away, intake: Intake, imported: ImportResult, learn: DataResult
    ) -> None:
        """Find out what predicts for each runtime."""
        super().__init__(request, target, intake, imported, learn)
        probe = None if request.probe is None else read_probe(Path(request.probe))
        engines = request.engines or (natural_engine(target.profile, probe),)
        made = {engine: self._predictor(target.profile, engine, probe) for engine in engines}
        self.predictors = {engine: predictor for engine, predictor in made.items() if predictor is not None}

    def _predictor(self, profile: DeviceProfile, engine: str, probe: Probe | None) -> Predictor | None:
        try:
            return predictor_of(profile, engine=engine, threads=self.request.threads, probe=probe)
        except HwbenchError as error:
            self.failed[engine] = Missing(code="not_predicted", why=error.message, cure=error.hint)
            return None

    def runtimes(self) -> list[Runtime]:
        """Return those that can be predicted, whether or not they are installed here."""
        return [
            Runtime(engine=engine, floating=floating)
            for engine in self.predictors
            for floating in self.request.floating
        ]

    def machine(self, runtime: Runtime) -> Machine | None:
        """Return what is known of the device, as the runtime sees it."""
        return self.predictors[runtime.engine].machine

    def know(self, runtimes: Sequence[Runtime], calibration: Calibration | None) -> list[Known]:  # noqa: ARG002
        """Return predicted costs; none is left out for being slow, since the times of two runtimes are no order."""
        found = []
        for runtime in runtimes:
            predictor = self.predictors[runtime.engine]
            space, ways = self.space_for(runtime), self.ways.get(runtime, Ways())
            try:
                dense = PredictedCosts(space, predictor, runtime.floating)
            except HwbenchError as error:
                self.failed[runtime.engine] = Missing(code="not_predicted", why=error.message, cure=error.hint)
                continue
            costs = WithZeros(dense=dense, shrunk=Shrunk(products=ways.products, ratios=ways.ratios))
            platform = self._platform(predictor, runtime)
            found.append(
                Known(runtime=runtime, platform=platform, costs=costs, samples=(), now=0, space=space, ways=ways)
            )
        return found

    def _platform(self, predictor: Predictor, runtime: Runtime) -> Platform:
        profile = predictor.machine.profile
        return Platform(
            device=profile.name,
            title=profile.title,
            engine=runtime.engine,
            version=NOT_KNOWN,
            isa=profile.isa,
            threads=self.request.threads,
            batch_size=self.imported.model.batch_size,
            floating=runtime.floating,
            power_mode=predictor.machine.power_mode,
        )


def natural_engine(profile: DeviceProfile, probe: Probe | None = None) -> str:
    """Return the runtime to predict for when none is named: the probe's, or the first of the profile."""
    if probe is not None:
        return probe.runtime
    return profile.engines[0] if profile.engines else _ANY_ENGINE


def claims(known: Known, found: Found) -> tuple[str, ...]:
    """Say what may be claimed of a plan; nothing has to be said of costs that were measured."""
    costs = known.costs
    if not isinstance(costs.dense, PredictedCosts):
        return ()
    told = (
        f"nothing was measured on {known.platform.title}: latencies are predicted, tier {costs.dense.tier} "
        f"({costs.dense.predictor.basis}); an order of designs is claimed, no time"
    )
    chosen = found.chosen()
    if isinstance(chosen, Missing):
        return (told,)
    design = found.row[chosen][1]
    uniform = min(known.uniform, key=lambda each: costs.predict(known.space, each).value)
    order = costs.compare(known.space, design, uniform)
    may = "that is enough to call it faster" if may_claim(order) else "that is not enough to call it faster"
    if may_claim(order) and costs.modelled(known.space, design):
        may = "its kernels or few bits are known by a model alone, so that is not enough to call it faster"
    return (
        told,
        f"the plan takes {order.ratio.value:.2f} ({order.ratio.low:.2f} to {order.ratio.high:.2f}) of what the best "
        f"uniform precision takes, and is the faster with probability {order.a_is_faster_probability:.2f}: {may}",
    )
