"""Joules for the solver: measured on a device that is here, a prior of one that is not, or why there are none.

Never a made-up joule: where no meter can be read, planning for energy is refused before anything is measured.
"""

from __future__ import annotations

from hwbench.energy.choose import require
from hwbench.errors import DeviceError
from hwbench.inventory import Away, Target
from hwbench.planning_pipeline.known import Known
from hwbench.planning_pipeline.with_zeros import JoulesWithZeros
from hwbench.prediction.costs import PredictedCosts
from hwbench.prediction.energy import has_power
from hwbench.prediction.joules import PredictedJoules, predicted_joules
from hwbench.records.base import Missing
from hwbench.records.plan import PlanRequest
from hwbench.records.planning import Space
from hwbench.tables.power import MeasuredJoules, power_of

_WITHOUT = "without a meter --objective latency and goals of latency; energy is predicted for a profile as --device"


def refuse_energy(request: PlanRequest, target: Target) -> None:
    """Refuse to plan for energy on a device that is here and has no meter, or on a profile without power.

    Raises:
        DeviceError: that is so; the hint says what to do.
    """
    if not request.needs_energy:
        return
    if not isinstance(target, Away):
        require("auto", target.device, _WITHOUT)
    elif not has_power(target.profile):
        raise DeviceError(
            f"no energy can be predicted: the profile of {target.profile.title} has no power figure",
            hint="--objective latency and goals of latency, or a profile with power as --device",
        )


def joules_of(known: Known, space: Space) -> JoulesWithZeros | Missing:
    """Return the energy of the parts of a network on one runtime, or why nothing is known of it."""
    dense = _dense(known, space)
    return dense if isinstance(dense, Missing) else JoulesWithZeros(dense=dense, costs=known.costs)


def _dense(known: Known, space: Space) -> MeasuredJoules | PredictedJoules | Missing:
    costs = known.costs.dense
    if isinstance(costs, PredictedCosts):
        return predicted_joules(costs, known.runtime.floating)
    power = power_of(known.samples, space, costs)
    return power if isinstance(power, Missing) else MeasuredJoules(costs, power)
