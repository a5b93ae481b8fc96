"""Planning for a device that is not here: its profile, and a probe of it where there is one, instead of measurements.

Nothing is built or timed. Costs come from :class:`hwbench.prediction.costs.PredictedCosts`, with intervals of tier B or
C; losses are measured here, since they are those of the network. What comes out is an order of designs, not a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from hwbench.devices.profiles import load_profiles
from hwbench.errors import HwbenchError, UsageError
from hwbench.intake import Intake
from hwbench.inventory import Target, find_target
from hwbench.planning_pipeline.costs import Costing, Known, Runtime
from hwbench.planning_pipeline.solving import Found
from hwbench.prediction.costs import PredictedCosts
from hwbench.prediction.ordering import may_claim
from hwbench.prediction.predict import Predictor, predictor_of
from hwbench.prediction.probe.read import read_probe
from hwbench.records.base import Missing
from hwbench.records.data import DataResult
from hwbench.records.device import Device, DeviceKind
from hwbench.records.model import ImportResult
from hwbench.records.plan import PlanRequest
from hwbench.records.planning import NoSite, Platform, Site, Space
from hwbench.records.prediction import Probe
from hwbench.records.profile import DeviceProfile
from hwbench.records.quantization import Calibration
from hwbench.tables.draw import first_designs

NOT_KNOWN = "not known"
"""The version of a runtime on a device that nobody asked."""
_KINDS: dict[str, DeviceKind] = {"gpu": "nvidia", "jetson": "jetson", "phone": "android"}
_AWAY = Missing(code="not_attached", why="the device is not attached")
_ANY_ENGINE = "onnxruntime"  # of a profile that names none


@dataclass(frozen=True, kw_only=True)
class Away(Target):
    """A device that is not here; all that is known of it is in its profile."""

    profile: DeviceProfile


def find_or_predict(name: str) -> Target:
    """Find the device called ``name``; of the name of a profile, the device that the profile describes.

    Raises:
        DeviceError: no device and no profile is called so.
    """
    profile = load_profiles().get(name)
    if profile is None:
        return find_target(name)
    described = Device(
        name=profile.name,
        kind=_KINDS.get(profile.kind, "cpu"),
        title=profile.title,
        fingerprint=profile.name,
        profile=profile.name,
        memory_bytes=_AWAY,
        memory_limit_bytes=_AWAY,
        virtual=_AWAY,
        container=_AWAY,
        power_mode=_AWAY,
    )
    return Away(device=described, profile=profile)


def costing_of(
    request: PlanRequest, target: Target, intake: Intake, imported: ImportResult, learn: DataResult, space: Space
) -> Costing:
    """Return what finds costs: by measuring on a device that is here, else by prediction.

    Raises:
        StorageError: the probe cannot be read.
    """
    if isinstance(target, Away):
        return Predicting(request, target, intake, imported, learn, space)
    return Costing(request, target, intake, imported, learn, space)


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
        self, request: PlanRequest, target: Away, intake: Intake, imported: ImportResult, learn: DataResult,
        space: Space,
    ) -> None:  # fmt: skip
        """Find out what predicts for each runtime, and leave out what none of them computes in."""
        super().__init__(request, target, intake, imported, learn, space)
        probe = None if request.probe is None else read_probe(Path(request.probe))
        engines = request.engines or (natural_engine(target.profile, probe),)
        made = {engine: self._predictor(target.profile, engine, probe) for engine in engines}
        self.predictors = {engine: predictor for engine, predictor in made.items() if predictor is not None}
        self.space = possible(space, tuple(self.predictors.values()))

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

    def know(self, runtimes: Sequence[Runtime], calibration: Calibration | None) -> list[Known]:  # noqa: ARG002
        """Return predicted costs; none is left out for being slow, since the times of two runtimes are no order."""
        found = []
        for runtime in runtimes:
            predictor = self.predictors[runtime.engine]
            try:
                costs = PredictedCosts(self.space, predictor, runtime.floating)
            except HwbenchError as error:
                self.failed[runtime.engine] = Missing(code="not_predicted", why=error.message, cure=error.hint)
                continue
            platform = self._platform(predictor, runtime)
            found.append(Known(runtime=runtime, platform=platform, costs=costs, samples=(), now=0))
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


def possible(space: Space, predictors: Sequence[Predictor]) -> Space:
    """Return the space without options that one of the devices has no arithmetic for, and why they are not there."""
    lacking = [one for one in predictors if "int8" not in one.machine.peaks]
    if not lacking:
        return space
    why = f"{lacking[0].machine.profile.title} has no int8 arithmetic"
    sites: list[Site] = []
    left: list[NoSite] = []
    for site in space.sites:
        options = tuple(option for option in site.options if option.scheme not in {"int8", "int8-dynamic"})
        if len(options) > 1:
            sites.append(msgspec.structs.replace(site, options=options))
        else:
            reason = Missing(code="no_arithmetic", why=why)
            left.append(NoSite(kind=site.kind, about=site.about, reason=reason))
    return msgspec.structs.replace(space, sites=tuple(sites), left_alone=(*space.left_alone, *left))


def claims(known: Known, found: Found) -> tuple[str, ...]:
    """Say what may be claimed of a plan; nothing has to be said of costs that were measured."""
    costs = known.costs
    if not isinstance(costs, PredictedCosts):
        return ()
    told = (
        f"nothing was measured on {known.platform.title}: latencies are predicted, tier {costs.tier} "
        f"({costs.predictor.basis}); an order of designs is claimed, no time"
    )
    chosen = found.chosen()
    if isinstance(chosen, Missing):
        return (told,)
    space = found.solving.space
    uniform = min(
        first_designs(space, floating=known.runtime.floating), key=lambda design: costs.predict(space, design).value
    )
    order = costs.compare(found.row[chosen][1], uniform)
    may = "that is enough to call it faster" if may_claim(order) else "that is not enough to call it faster"
    return (
        told,
        f"the plan takes {order.ratio.value:.2f} ({order.ratio.low:.2f} to {order.ratio.high:.2f}) of what the best "
        f"uniform precision takes, and is the faster with probability {order.a_is_faster_probability:.2f}: {may}",
    )
