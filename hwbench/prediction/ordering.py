"""Which of two networks is faster on a device, and with what probability.

Times on a device that was not measured are poorly known, their ratios much better: u(device) is in both. What is left
are the residuals of the two networks, and what the device does to kinds of layer of which one has more than the other.
"""

from __future__ import annotations

import math
from collections import defaultdict
from statistics import NormalDist

from hwbench.errors import UsageError
from hwbench.prediction import spread
from hwbench.prediction.predict import Predictor
from hwbench.records.prediction import Ordering, Prediction

_LEAST_SPREAD = 0.02


def ratio(a: Prediction, b: Prediction, predictor: Predictor) -> Ordering:
    """Return how the time of ``a`` is to that of ``b``, with its interval, and P(a is faster).

    Raises:
        UsageError: the two, or the predictor, are of different devices, runtimes or numbers of threads.
    """
    machine = predictor.machine
    places = {(one.device, one.engine, one.threads, str(one.power_mode), str(one.probe)) for one in (a, b)}
    here = (machine.profile.name, machine.engine, machine.threads, str(machine.power_mode), str(predictor.probe))
    if places != {here}:
        raise UsageError("a ratio is of two predictions for one device, runtime, power mode and probe")
    value = a.latency.value / b.latency.value
    own, half = predictor.ratio_spreads(unlikeness(a, b))
    own = max(own, _LEAST_SPREAD)
    return Ordering(
        a=a.model,
        b=b.model,
        ratio=spread.around(value, half, tier=predictor.tier, n=predictor.n, method="ratio on one device"),
        a_is_faster_probability=NormalDist().cdf(-math.log(value) / own),
    )


def unlikeness(a: Prediction, b: Prediction) -> float:
    """Return how differently two networks spend their time over kinds of layer: 0 alike, 1 nothing in common.

    The total variation distance between the shares of time by family, arithmetic and what bounds.
    """
    first, second = _shares(a), _shares(b)
    return sum(abs(first[key] - second[key]) for key in {*first, *second}) / 2


def _shares(prediction: Prediction) -> defaultdict[tuple[str, str, str], float]:
    found: defaultdict[tuple[str, str, str], float] = defaultdict(float)
    for unit in prediction.units:
        found[unit.family, unit.arithmetic, unit.bound] += unit.time_s
    found["", "", "besides"] = prediction.fixed_s + prediction.borders_s
    total = sum(found.values())
    return defaultdict(float, {key: time / total for key, time in found.items()})


def may_claim(ordering: Ordering) -> bool:
    """Say whether ``a`` may be called faster than ``b``, as a fact to decide a Pareto front by.

    Never in tier C, whatever the numbers: there is an order with a probability and no more. In tier B where the whole
    interval of the ratio is on one side.
    """
    return ordering.ratio.tier != "C" and ordering.ratio.high < 1
