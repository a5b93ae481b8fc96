"""What the parts of a network draw, from the energy of whole networks: watts by operator and scheme.

A cluster takes its watts times its seconds. Meters are far too slow for one cluster, so the watts follow from whole
networks: with ``f[d, k]`` the share of design d's time that clusters of the key k (an operator in a scheme) are
predicted to take, its energy over its time is ``sum_k f[d, k] w[k]``, solved for ``w >= 0`` by least squares. Idle
power is in it: whoever takes longer idles longer. A few dozen networks cannot tell ten keys apart, so each is drawn
towards the mean power of all; how much, is what predicts networks that were left out best (ridge regression, Hoerl and
Kennedy, Technometrics 12, 1970). Where nothing differs but time, energy is time, and the fit says so.

Models of layers that were trained on the device's own meter err by 5 to 20 % (WattLayer, arXiv:2606.27841: 19.6 % in
the median over three devices); here the interval is what networks that were left out were off by, time and power
together.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hwbench.energy.flags import doubt
from hwbench.energy.nnls import nnls
from hwbench.plan.designs import key_of, sizes_of
from hwbench.plan.problem import Array
from hwbench.records.base import Missing
from hwbench.records.planning import Cluster, CostSample, Design, Drawn, Interval, Sizes, Space
from hwbench.records.quantization import Scheme
from hwbench.tables.borders import crossings
from hwbench.tables.model import CostModel, around

FEWEST_METERED = 12  # networks, for watts and an interval of nine in ten
_PULLS = tuple(10.0 ** (k / 2) for k in range(-6, 5))  # towards the mean, against one network's weight of 1
_BETWEEN = "between clusters"

Key = tuple[str, Scheme]


@dataclass(frozen=True, kw_only=True)
class Power:
    """Watts by key, and ``mean_w`` of what was never seen.

    ``residuals``: by design, log of its energy over what the others told of its power, times its predicted time.
    """

    watts: Mapping[Key, float]
    mean_w: float
    residuals: tuple[float, ...]
    source: str

    def of(self, kind: str, scheme: Scheme) -> float:
        """Return what clusters of a kind draw in a scheme, in watts."""
        return self.watts.get(_key(kind, scheme), self.mean_w)

    @property
    def between_w(self) -> float:
        """What the device draws while numbers are taken from one scheme to another, and between clusters."""
        return self.watts.get((_BETWEEN, "float"), self.mean_w)


class MeasuredJoules:
    """Energy of the parts of one network on one platform, in the shape that the planner takes latencies in.

    Args:
        costs: seconds of the parts.
        power: watts of the parts.
    """

    tier = "A"

    def __init__(self, costs: CostModel, power: Power) -> None:
        self.costs, self.power = costs, power

    @property
    def basis(self) -> str:
        """Where the joules come from."""
        return self.power.source

    @property
    def start_j(self) -> float:
        """What an inference takes beyond its clusters and borders, in joules."""
        return self.costs.start_s * self.power.between_w

    def cluster(self, cluster: Cluster, sizes: Sequence[Sizes], scheme: Scheme) -> Array:
        """Return the joules of a cluster at each of several sizes, [sizes]; raises as the costs do."""
        watts = self.power.of(cluster.kind, self.costs.built(cluster, scheme))
        return watts * self.costs.cluster(cluster, sizes, scheme)

    def border(self, of: Scheme, to: Scheme, elements: int) -> float:
        """Return the joules of handing a tensor from one scheme to another."""
        return self.power.between_w * self.costs.border(of, to, elements)

    def predict(self, space: Space, design: Design) -> Interval:
        """Return the joules of one inference, with the interval that held nine of ten networks not in the fit."""
        parts = _parts(self.costs, space, design)
        value = sum(self.power.watts.get(key, self.power.mean_w) * time_s for key, time_s in parts.items())
        method = f"{self.basis}; watts by operator and scheme times seconds, split-conformal on left-out networks"
        return around(value, self.power.residuals, method)


def power_of(samples: Sequence[CostSample], space: Space, costs: CostModel) -> Power | Missing:
    """Return what parts draw, from samples of one platform and network that have an energy.

    Where several meters have measured, those of the one that measured most count: what different ones see differs.
    """
    metered = _of_one_meter(samples)
    if len(metered) < FEWEST_METERED:
        return _too_few(samples, len(metered))
    drawn = [sample.energy for sample in metered if isinstance(sample.energy, Drawn)]
    watts = np.array([one.energy_j / sample.median_s for one, sample in zip(drawn, metered, strict=True)])
    parts = [_parts(costs, space, sample.design) for sample in metered]
    keys = sorted({key for each in parts for key in each})
    shares = np.array([[each.get(key, 0.0) / sum(each.values()) for key in keys] for each in parts])
    left_out = {pull: _left_out(shares, watts, pull) for pull in _PULLS}
    pull = min(_PULLS, key=lambda one: float(np.mean(np.log(watts / left_out[one]) ** 2)))
    mean_w = float(np.mean(watts))
    timed = {key_of(design): each for design, each in zip(costs.designs, costs.residuals, strict=True)}
    late = [timed.get(key_of(sample.design), math.log(sample.median_s / costs.sum(space, sample.design)))
            for sample in metered]  # fmt: skip
    residuals = np.log(watts / left_out[pull]) + np.array(late)
    if not np.isfinite(residuals).all():
        return Missing(code="too_few", why="a metered network has layers of which no other tells anything")
    worst = max(one.relative_uncertainty for one in drawn)
    return Power(
        watts=dict(zip(keys, _solved(shares, watts, pull).tolist(), strict=True)),
        mean_w=mean_w,
        residuals=tuple(residuals.tolist()),
        source=f"{drawn[0].meter} ({drawn[0].provenance}) on {len(metered)} networks, itself to {worst:.0%} (k=2)",
    )


def _too_few(samples: Sequence[CostSample], count: int) -> Missing:
    reasons = Counter(sample.energy for sample in samples if isinstance(sample.energy, Missing))
    told = [(reason, times) for reason, times in reasons.most_common() if reason.code != "not_asked"]
    why = f"the energy of {count} networks is known, and {FEWEST_METERED} are needed"
    if told:
        reason, times = told[0]
        return Missing(code=reason.code, why=f"{why}; of {times} it is not, since {reason.why}", cure=reason.cure)
    return Missing(code="too_few", why=why, cure="allow more time for measuring costs")


def count_metered(samples: Sequence[CostSample]) -> int:
    """Return of how many samples there is an energy, by one meter."""
    return len(_of_one_meter(samples))


def _of_one_meter(samples: Sequence[CostSample]) -> list[CostSample]:
    meters: dict[tuple[str, str, str], list[CostSample]] = {}
    for sample in samples:
        if isinstance(sample.energy, Drawn) and not sample.design.zeros:  # what zeros make of time is known apart
            if doubt(sample.energy.flags) is not None:  # of a store that still took such readings
                continue
            by = (sample.energy.meter, sample.energy.boundary, sample.energy.provenance)
            meters.setdefault(by, []).append(sample)
    return max(meters.values(), key=len, default=[])


def _key(kind: str, scheme: Scheme) -> Key:
    words = kind.partition(" + ")[0].split()
    return f"{words[0]} grouped" if "grouped" in words else words[0], scheme


def _parts(costs: CostModel, space: Space, design: Design) -> dict[Key, float]:
    """Return by key the seconds of a design that its clusters take, as they are predicted, and what lies between."""
    found: dict[Key, float] = {}
    for cluster in space.clusters:
        sizes = sizes_of(cluster, space, design)
        if sizes is not None:
            scheme = design.of(cluster.name)
            key = _key(cluster.kind, costs.built(cluster, scheme))
            found[key] = found.get(key, 0.0) + float(costs.cluster(cluster, [sizes], scheme)[0])
    crossed = sum(costs.border(one.scheme_from, one.scheme_to, one.elements) for one in crossings(space, design))
    return {**found, (_BETWEEN, "float"): costs.start_s + crossed}


def _solved(shares: Array, watts: Array, pull: float) -> Array:
    """Return the watts of each key: relative errors squared, and the distances from the mean power."""
    mean_w = float(np.mean(watts))
    rows = np.concatenate([shares / watts[:, None], math.sqrt(pull) * np.eye(shares.shape[1]) / mean_w])
    seen = np.concatenate([np.ones(len(watts)), np.full(shares.shape[1], math.sqrt(pull))])
    return nnls(rows, seen)


def _left_out(shares: Array, watts: Array, pull: float) -> Array:
    """Return what each network is told to draw by all others."""
    found = np.zeros(len(watts))
    for index in range(len(watts)):
        rest = np.arange(len(watts)) != index
        found[index] = shares[index] @ _solved(shares[rest], watts[rest], pull)
    return np.maximum(found, 1e-12)
