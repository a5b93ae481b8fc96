"""Energy of clusters on a device that is not attached, in the shape that the planner takes latencies in.

Nothing was measured: the prior of :mod:`hwbench.prediction.energy`, spread over the parts of a network.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hwbench.prediction.costs import PredictedCosts
from hwbench.prediction.energy import Prior, prior_of
from hwbench.prediction.legality import floating_of
from hwbench.prediction.predict import predict_design
from hwbench.prediction.roofline import Array
from hwbench.prediction.work import works_of_cluster
from hwbench.records.base import Missing
from hwbench.records.planning import Cluster, Design, Interval, Sizes, Space
from hwbench.records.quantization import Floating, Scheme


class PredictedJoules:
    """Energy of the parts of one space on one device. Make it with :func:`predicted_joules`."""

    def __init__(self, costs: PredictedCosts, prior: Prior) -> None:
        self.costs, self.prior, self.tier = costs, prior, costs.tier

    @property
    def basis(self) -> str:
        """Where the joules come from."""
        return self.prior.basis

    @property
    def start_j(self) -> float:
        """What an inference takes beyond its clusters and borders, in joules."""
        return self.prior.idle_w * self.costs.start_s

    def cluster(self, cluster: Cluster, sizes: Sequence[Sizes], scheme: Scheme) -> Array:
        """Return the joules of a cluster at each of several sizes, [sizes]; raises as the costs do."""
        times = self.costs.cluster(cluster, sizes, scheme)
        works = [works_of_cluster(cluster, one, scheme) for one in sizes]
        above: Array = np.array([sum(map(self.prior.above_idle_j, parts)) for parts in works])
        return self.prior.idle_w * times + above

    def border(self, of: Scheme, to: Scheme, elements: int) -> float:
        """Return the joules of handing a tensor from one scheme to another."""
        return self.prior.idle_w * self.costs.border(of, to, elements)

    def predict(self, space: Space, design: Design) -> Interval:
        """Return the joules of one inference, with the interval of the prior."""
        found = predict_design(space, design, self.costs.predictor, weights_at=self.costs.weights_at)
        assert not isinstance(found.energy, Missing)  # there is a prior
        return Interval(
            value=found.energy.value_j,
            low=found.energy.low_j,
            high=found.energy.high_j,
            coverage=found.energy.coverage,
            tier=found.latency.tier,
            n=found.latency.n,
            method=found.energy.basis,
        )


def predicted_joules(costs: PredictedCosts, floating: Floating) -> PredictedJoules | Missing:
    """Return the energy of parts of a network, or why nothing can be said: the profile has no power figure."""
    machine = costs.predictor.machine
    prior = prior_of(machine, floating_of(machine, floating))
    return prior if isinstance(prior, Missing) else PredictedJoules(costs, prior)
