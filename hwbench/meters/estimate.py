"""A guess at the energy where no instrument is: rated power per core times the cores this process kept busy.

This is not a meter and must never become one: it does not satisfy ``hwbench.protocols.Meter``, is no plugin, returns an
:class:`EnergyEstimate` and never an ``EnergyReading``, and belongs in a column of its own, out of every ranking.
"""

from __future__ import annotations

from collections.abc import Mapping

from hwbench.records.base import Missing
from hwbench.records.energy import EnergyEstimate
from hwbench.records.profile import Figure

METHOD = "tdp-per-core-cpu-time"
TDP_KEY = "tdp_per_core"
MODEL_BAND = 0.5  # k=2, relative
_MODEL_BAND_BASIS = (
    "±50 % (k=2), judgement: models of this kind were up to 40 % off in hundreds of runs (Fischer, arXiv 2509.22092)"
)


def estimate(
    power_w: Mapping[str, Figure], *, cpu_time_s: float, window_s: float, inferences: int, cores: int
) -> EnergyEstimate | Missing:
    """Guess the energy of one inference.

    ``P = tdp_per_core * min(cpu_time / window, cores)`` and ``E = P * window / inferences``: linear in CPU time,
    blind to clock, instruction mix, memory and idle power. The band goes from the figure's ``low`` less 50 % to its
    ``high`` plus 50 %: both errors at once, at their worst.

    Args:
        power_w: the figures of a device profile; ``tdp_per_core`` is the one used, in watts per physical core.
        cpu_time_s: user and system time of the process in the window, over all its threads.
        window_s: length of the window.
        inferences: inferences finished in it.
        cores: physical cores the process may use. Two busy hardware threads of one core draw that core's power once,
            so no more than these are counted.

    Returns:
        The estimate; Missing with ``no_tdp`` (the profile has no figure), or ``no_cpu_time`` or ``no_inferences``
        (there is nothing to estimate from).
    """
    figure = power_w.get(TDP_KEY)
    if figure is None:
        return Missing(
            code="no_tdp",
            why=f"the device profile has no power_w.{TDP_KEY}",
            cure=f"add power_w.{TDP_KEY} to the profile, with its source",
        )
    if inferences < 1:
        return Missing(code="no_inferences", why="no inference finished in the window")
    if not (cpu_time_s > 0 and window_s > 0 and cores > 0):
        why = f"{cpu_time_s:g} s of CPU time in {window_s:g} s on {cores} cores give no power"
        return Missing(code="no_cpu_time", why=why)
    busy_cores = min(cpu_time_s / window_s, cores)
    core_s = busy_cores * window_s / inferences
    low_w = figure.value if figure.low is None else figure.low
    high_w = figure.value if figure.high is None else figure.high
    return EnergyEstimate(
        method=METHOD,
        boundary="CPU cores, as long as this process ran on them; no DRAM, no idle power, no power supply",
        energy_per_inference_j=figure.value * core_s,
        low_j=(1 - MODEL_BAND) * low_w * core_s,
        high_j=(1 + MODEL_BAND) * high_w * core_s,
        inputs={
            "tdp_per_core_w": _describe(figure),
            "cpu_time_s": f"{cpu_time_s:.6g} (measured)",
            "window_s": f"{window_s:.6g} (measured)",
            "inferences": f"{inferences} (counted)",
            "busy_cores": f"{busy_cores:.3g} of {cores} (cpu_time_s / window_s, at most all)",
            "model_band": _MODEL_BAND_BASIS,
        },
    )


def _describe(figure: Figure) -> str:
    bounds = "".join(
        f", {name} {value:g}" for name, value in (("low", figure.low), ("high", figure.high)) if value is not None
    )
    note = f"; {figure.note}" if figure.note else ""
    return f"{figure.value:g}{bounds} ({figure.basis}, source {figure.source}{note})"
