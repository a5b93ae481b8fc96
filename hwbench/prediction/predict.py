"""What a network takes on a device that it was never run on: ``hwbench predict``.

A :class:`Predictor` is one device, runtime and number of threads, with the parameters to use and how far they may be
off: from priors (tier C), or adapted to what a probe measured there (tier B).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import msgspec
import onnx_ir as ir

from hwbench.errors import UsageError
from hwbench.plan.designs import sizes_of
from hwbench.prediction import priors, spread
from hwbench.prediction.energy import energy_of
from hwbench.prediction.fit import fit, left_out_errors
from hwbench.prediction.legality import check_scheme, floating_of
from hwbench.prediction.machine import Machine, machine_of
from hwbench.prediction.probe.observed import observations_of
from hwbench.prediction.roofline import Array, bases_of, times_of, unit_predictions
from hwbench.prediction.work import Works, works_of, works_of_cluster
from hwbench.records.base import Missing
from hwbench.records.planning import Design, Interval, Space
from hwbench.records.prediction import PREDICTION_SCHEMA, Prediction, Probe, Work
from hwbench.records.profile import Calibration, DeviceProfile
from hwbench.records.quantization import PRECISIONS, Floating, Scheme

NO_PROBE = Missing(code="no_probe", why="nothing was measured on this device", cure="hwbench probe pack")


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """A device and runtime with the parameters of the roofline there.

    Log spreads: ``between`` the ``n`` runtimes that were measured, ``judged`` for what was not, ``within`` of networks
    on one device. ``errors``: log residuals of the anchors of a probe, each predicted from the others; empty without.
    """

    machine: Machine
    logs: Array
    between: float
    judged: float
    within: float
    n: int
    basis: str
    errors: tuple[float, ...] = ()
    probe: str | Missing = NO_PROBE

    @property
    def tier(self) -> Literal["B", "C"]:
        return "B" if self.errors else "C"

    def interval(self, value_s: float) -> Interval:
        """Return the latency with the interval of its tier."""
        if self.errors:
            half, n = spread.conformal(self.errors), len(self.errors)
            return spread.around(value_s, half, tier="B", n=n, method="split conformal, leave-one-anchor-out")
        return spread.from_data_sheet(value_s, between=self.between, judged=self.judged, within=self.within, n=self.n)

    def ratio_spreads(self, unlike: float) -> tuple[float, float]:
        """Return the log spread of a ratio of two times on this device, and the half-width of its interval.

        What a device does to all networks cancels; two networks' own residuals do not, nor what falls on a kind of
        layer of which one has more: ``unlike``, the share of the time that is spent on other kinds (0 to 1).
        """
        if self.errors:
            own = math.sqrt(2) * _root_mean_square(self.errors)
            return own, min(math.sqrt(2) * spread.conformal(self.errors), spread.MOST)
        own = math.sqrt(2) * self.within
        half = spread.half_width(between=self.between * unlike, judged=self.judged * unlike, within=own, n=self.n)
        return math.hypot(own, math.hypot(self.between, self.judged) * unlike), half


def predictor_of(
    profile: DeviceProfile,
    *,
    engine: str,
    threads: int = 1,
    power_mode: str | None = None,
    calibration: Calibration | None = None,
    probe: Probe | None = None,
    without: Collection[str] = (),
) -> Predictor:
    """Return what predicts for one device.

    Args:
        profile: of the device.
        engine: the runtime there.
        threads: that it uses; of a GPU, none count.
        power_mode: by name or number; the profile's default where none is given.
        calibration: rates measured on the device.
        probe: what the program of a probe pack measured on the device.
        without: runtimes whose fitted efficiencies may not be used; to see how well an unknown one is predicted.

    Raises:
        UsageError: the profile lacks what a roofline needs, or the probe is of another runtime or number of threads.
        EngineError: a probe is given and scipy is not installed.
    """
    machine = machine_of(profile, engine=engine, threads=threads, power_mode=power_mode, calibration=calibration)
    prior = priors.prior_of(machine, without=without)
    begun = Predictor(
        machine=machine,
        logs=prior.logs,
        between=prior.between,
        judged=math.hypot(prior.judged, machine.doubt),
        within=prior.within,
        n=prior.n,
        basis=prior.basis,
    )
    return begun if probe is None else adapt(begun, probe)


def adapt(predictor: Predictor, probe: Probe) -> Predictor:
    """Return a predictor of tier B: parameters drawn from the prior towards what the probe measured.

    Raises:
        UsageError: the probe is of another runtime or number of threads, or holds too few anchors.
    """
    observations = observations_of(probe, predictor.machine)
    far = priors.adaptation_spread()
    return Predictor(
        machine=predictor.machine,
        logs=fit(observations, predictor.logs, far),
        between=0.0,
        judged=0.0,
        within=predictor.within,
        n=len(observations),
        basis=f"{len(observations)} anchors of a probe of {probe.started_at}, shrunk to {predictor.basis}",
        errors=tuple(float(error) for error in left_out_errors(observations, predictor.logs, far)),
        probe=probe.sha256,
    )


def predict(
    model: ir.Model, predictor: Predictor, *, name: str, hub_sha256: str, precision: str = "auto"
) -> Prediction:
    """Predict a network as it is, in one precision.

    Raises:
        UsageError: the precision is not one that a build knows.
        Unsupported: the device has no such arithmetic.
    """
    scheme, floating = _asked(precision)
    works = works_of(model, default=scheme)
    return _prediction(works, predictor, name=name, hub_sha256=hub_sha256, precision=precision, floating=floating)


def predict_design(
    space: Space, design: Design, predictor: Predictor, *, name: str = "design", weights_at: str | None = None
) -> Prediction:
    """Predict a design of a space, by its clusters.

    ``weights_at``: the memory level that weights are taken to come from; by default, the one that those of the design
    fit.

    Raises:
        Unsupported: the device lacks an arithmetic of the design.
    """
    reads: dict[str, dict[str, int]] = {}
    for one in space.clusters:
        for reader, elements in one.readers.items():
            reads.setdefault(reader, {})[one.name] = elements
    units: list[Work] = []
    for cluster in space.clusters:
        sizes = sizes_of(cluster, space, design)
        if sizes is None:
            continue
        first, *more = works_of_cluster(cluster, sizes, design.of(cluster.name))
        before = reads.get(cluster.name, {})
        ends = (0 if before else sizes.elements_in) + (0 if cluster.readers else sizes.elements_out)
        units += [msgspec.structs.replace(first, reads=before, ends=ends), *more]
    return _prediction(
        Works(units=tuple(units)), predictor, name=name, hub_sha256=space.hub_sha256,
        precision="mixed" if design.schemes else design.floating, floating=design.floating, weights_at=weights_at,
    )  # fmt: skip


def _asked(precision: str) -> tuple[Scheme, Floating]:
    if precision not in PRECISIONS:
        raise UsageError(f"no precision is called '{precision}'", hint=f"known: {', '.join(PRECISIONS)}")
    if precision in get_args(Floating):
        return "float", precision  # type: ignore[return-value]
    return precision, "auto"  # type: ignore[return-value]


def _prediction(
    works: Works,
    predictor: Predictor,
    *,
    name: str,
    hub_sha256: str,
    precision: str,
    floating: Floating,
    weights_at: str | None = None,
) -> Prediction:
    machine = predictor.machine
    for scheme in {work.scheme for work in works.units}:
        check_scheme(machine, scheme)
    kind = floating_of(machine, floating)
    bases = bases_of(works.units, machine, kind, weights_at)
    times = times_of(bases, predictor.logs)
    latency = predictor.interval(times.total)
    return Prediction(
        schema_version=PREDICTION_SCHEMA,
        model=name,
        hub_sha256=hub_sha256,
        device=machine.profile.name,
        title=machine.profile.title,
        engine=machine.engine,
        precision=precision,
        threads=machine.threads,
        power_mode=machine.power_mode,
        probe=predictor.probe,
        latency=latency,
        energy=energy_of(works.units, machine, kind, latency),
        fixed_s=times.fixed,
        borders_s=times.borders,
        units=unit_predictions(bases, times),
        assumptions=(predictor.basis, *machine.assumptions),
        not_counted=works.not_counted,
    )


def _root_mean_square(errors: Sequence[float]) -> float:
    return math.sqrt(sum(error * error for error in errors) / len(errors))
