"""Efficiencies fitted to what was measured: those of a runtime on zoo networks, or those of a device on a probe.

The maximum a posteriori of logarithms: residuals are ln(predicted) - ln(measured), so that a microsecond of a small
network counts as much as a millisecond of a large one, and what the measurements do not tell stays at the prior. The
few-measurement regime is that of HELP (arXiv:2106.08630) and LitePred (NSDI 2024), with a roofline in place of a
learned predictor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwbench.errors import EngineError
from hwbench.prediction.roofline import SHARES, Array, Bases, times_of

NOISE = 0.08  # log spread of what the roofline cannot tell of one network even at the best parameters
_HIGHEST_SHARE = 0.2  # ln: slightly above the roof, since data sheets and clocks are not exact


@dataclass(frozen=True, kw_only=True)
class Observation:
    """One network on the machine, and the seconds that it took."""

    bases: Bases
    measured_s: float


def fit(observations: Sequence[Observation], mean: Array, spread: Array) -> Array:
    """Return the parameters that fit the observations and a normal prior on the logarithms.

    Raises:
        EngineError: scipy is not installed.
    """
    optimize = _scipy_optimize()
    measured = np.log([one.measured_s for one in observations])

    def residuals(logs: Array) -> Array:
        predicted = np.log([times_of(one.bases, logs).total for one in observations])
        return np.concatenate([(predicted - measured) / NOISE, (logs - mean) / spread])

    top = np.full(len(mean), np.inf)
    top[: len(SHARES)] = _HIGHEST_SHARE
    start = np.minimum(mean, top - 1e-6)
    found = optimize.least_squares(residuals, start, bounds=(np.full(len(mean), -np.inf), top), loss="soft_l1")
    return np.asarray(found.x, dtype=np.float64)


def log_errors(observations: Sequence[Observation], logs: Array) -> Array:
    """Return ln(measured / predicted) of every observation."""
    return np.array([np.log(one.measured_s / times_of(one.bases, logs).total) for one in observations])


def left_out_errors(observations: Sequence[Observation], mean: Array, spread: Array) -> Array:
    """Return ln(measured / predicted) of every observation, predicted from a fit to all others."""
    found = []
    for place, one in enumerate(observations):
        logs = fit([*observations[:place], *observations[place + 1 :]], mean, spread)
        found.append(float(log_errors([one], logs)[0]))
    return np.array(found)


def _scipy_optimize() -> Any:
    try:
        from scipy import optimize  # noqa: PLC0415 - an extra, loaded when it is needed
    except ImportError as error:
        raise EngineError(
            "fitting a probe needs scipy, which is not installed", hint="pip install 'hwbench-nn[plan]'"
        ) from error
    return optimize
