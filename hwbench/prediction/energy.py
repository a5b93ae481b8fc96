"""The energy of an inference that was not measured: E = P_idle T + sum(e_op ops + e_byte bytes).

The prior: what a device draws above idle at full load goes by 60 % to arithmetic at its peak rate and by 40 % to
memory at its full bandwidth; so e_op and e_byte follow from the profile's power. It is a judgement, and its interval
(a factor of 2.3 either way beside what the time adds) says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hwbench.prediction.legality import arithmetic_of, bytes_of, rate_of
from hwbench.prediction.machine import Machine
from hwbench.records.base import Missing
from hwbench.records.planning import Interval
from hwbench.records.prediction import PredictedEnergy, Work
from hwbench.records.profile import DeviceProfile

_ON_ARITHMETIC = 0.6
_IDLE_SHARE = 0.3  # of full power, where no idle power is known
_SPREAD = 0.5  # log spread of the prior: judgement
_Z95 = 1.645
_FULL = ("load", "tdp", "tdp_per_core")  # figures of full power, the best first


@dataclass(frozen=True, kw_only=True)
class Prior:
    """What a device draws: ``idle_w`` all the time, up to ``above_w`` more at full load; ``basis``: where from."""

    machine: Machine
    floating: str
    idle_w: float
    above_w: float
    basis: str

    def above_idle_j(self, work: Work) -> float:
        """Return what a piece of work takes beyond what the device takes anyway."""
        peak = rate_of(self.machine, arithmetic_of(self.machine, work, self.floating)) or self.machine.peaks["fp32"]
        moved = sum(bytes_of(work, self.floating)) / self.machine.levels[-1].bytes_per_s
        return self.above_w * (_ON_ARITHMETIC * 2 * work.macs / peak + (1 - _ON_ARITHMETIC) * moved)


def has_power(profile: DeviceProfile) -> bool:
    """Say whether a profile has a power figure, by itself or of a power mode."""
    return not profile.power_w.keys().isdisjoint(_FULL) or any(
        mode.budget_w is not None for mode in profile.power_modes
    )


def prior_of(machine: Machine, floating: str) -> Prior | Missing:
    """Return what a device is taken to draw, or why nothing can be said."""
    full = _full_power(machine)
    if full is None:
        why = f"the profile of {machine.profile.title} has no power figure"
        return Missing(code="no_power_figure", why=why, cure="measure it: hwbench profile --mode energy")
    idle = machine.power_w.get("idle")
    said = "idle power of the profile" if idle is not None else f"idle taken as {_IDLE_SHARE:.0%} of full power"
    idle_w = idle if idle is not None else _IDLE_SHARE * full
    return Prior(
        machine=machine,
        floating=floating,
        idle_w=idle_w,
        above_w=max(full - idle_w, 0.0) * _busy(machine),
        basis=f"prior: {full:g} W at full load, {said}; 60 % of the rest on arithmetic, 40 % on memory; not measured",
    )


def energy_of(works: Sequence[Work], machine: Machine, floating: str, latency: Interval) -> PredictedEnergy | Missing:
    """Return the energy of one inference of the whole device, or why nothing can be said."""
    prior = prior_of(machine, floating)
    if isinstance(prior, Missing):
        return prior
    value = prior.idle_w * latency.value + sum(map(prior.above_idle_j, works))
    wide = math.log(latency.high / latency.value)
    factor = math.exp(math.hypot(wide, _Z95 * _SPREAD))
    return PredictedEnergy(
        value_j=value, low_j=value / factor, high_j=value * factor, coverage=latency.coverage, basis=prior.basis
    )


def _full_power(machine: Machine) -> float | None:
    power = machine.power_w
    each = power.get("tdp_per_core")
    return power.get("load", power.get("tdp", each * machine.threads if each is not None else None))


def _busy(machine: Machine) -> float:
    """Return the share of the device's power above idle that the threads in use can draw."""
    cores = machine.profile.counts.get("cores")
    if machine.processor == "gpu" or cores is None:
        return 1.0
    return min(machine.threads / cores.value, 1.0)
