"""Costs of clusters on a device that is not attached, in the shape that the planner takes measured ones in.

The same questions as of the cost model in ``hwbench/tables/``: what a cluster takes, what a border between two
precisions takes, what a whole design takes. Here the answers come from a roofline; nothing was measured.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hwbench.errors import Unsupported
from hwbench.prediction.legality import bytes_of, check_scheme, floating_of
from hwbench.prediction.ordering import ratio
from hwbench.prediction.predict import Predictor, predict_design
from hwbench.prediction.roofline import ON_GRIDS, Array, as_names, bases_of, border_bytes_s, times_of
from hwbench.prediction.work import works_of_cluster
from hwbench.records.planning import Cluster, Design, Interval, Sizes, Space
from hwbench.records.prediction import Ordering, Prediction
from hwbench.records.quantization import Floating, Scheme


class PredictedCosts:
    """Costs of one space on one device.

    Weights come from the memory level that those of the whole network fit in floating point at full size, whatever the
    design: a cluster's cost does not depend on what is chosen for the others, and a design takes the sum of its parts.
    What a smaller network gains where its weights fit a faster level is left out.

    Attributes:
        weights_at: the name of that level.

    Args:
        space: what can be chosen.
        predictor: of the device.
        floating: the arithmetic of what is not quantised.

    Raises:
        Unsupported: the device has no such arithmetic.
    """

    def __init__(self, space: Space, predictor: Predictor, floating: Floating = "auto") -> None:
        self.space = space
        self.predictor = predictor
        self.tier = predictor.tier
        self._kind = floating_of(predictor.machine, floating)
        works = [work for one in space.clusters for work in works_of_cluster(one, _full(one), "float")]
        stored = sum(bytes_of(work, self._kind)[1] for work in works)
        self.weights_at = predictor.machine.level(stored).name
        self._values = as_names(predictor.logs)

    @property
    def start_s(self) -> float:
        """What an inference takes beyond its clusters and borders."""
        return times_of(bases_of((), self.predictor.machine, self._kind), self.predictor.logs).fixed

    def cluster(self, cluster: Cluster, sizes: Sequence[Sizes], scheme: Scheme) -> Array:
        """Return the seconds that a cluster takes at each of several sizes, [sizes].

        Raises:
            Unsupported: the device cannot compute in that scheme.
        """
        machine = self.predictor.machine
        check_scheme(machine, scheme)
        parts = [works_of_cluster(cluster, one, scheme) for one in sizes]
        owner = [place for place, works in enumerate(parts) for _ in works]
        bases = bases_of([work for works in parts for work in works], machine, self._kind, self.weights_at)
        times = times_of(bases, self.predictor.logs).units
        found = np.zeros(len(sizes))
        np.add.at(found, owner, times)
        return found

    def built(self, cluster: Cluster, scheme: Scheme) -> Scheme:  # noqa: ARG002 - as measured costs have it
        """Return in what the runtime builds a cluster: what it was asked for, since nobody has seen it refuse."""
        return scheme

    def knows(self, cluster: Cluster, scheme: Scheme) -> bool:  # noqa: ARG002 - as measured costs have it
        """Say whether the device computes in a scheme."""
        try:
            check_scheme(self.predictor.machine, scheme)
        except Unsupported:
            return False
        return True

    def border(self, of: Scheme, to: Scheme, elements: int) -> float:
        """Return the seconds that taking a tensor from one scheme to another costs.

        Only those of fixed ranges, int8 and fp8, are passed on.
        """
        if (of if of in ON_GRIDS else "float") == (to if to in ON_GRIDS else "float"):
            return 0.0
        machine = self.predictor.machine
        launch = times_of(bases_of((), machine, self._kind), self.predictor.logs).launch
        return launch + border_bytes_s(elements, machine, self._kind) / self._values["border"]

    def predict(self, space: Space, design: Design) -> Interval:
        """Return the latency of a whole design, with the interval of its tier."""
        return predict_design(space, design, self.predictor, weights_at=self.weights_at).latency

    def prediction(self, design: Design, name: str) -> Prediction:
        """Return the latency of a whole design, unit by unit."""
        return predict_design(self.space, design, self.predictor, name=name, weights_at=self.weights_at)

    def compare(self, a: Design, b: Design) -> Ordering:
        """Return how two designs are to each other on this device; better known than either time."""
        return ratio(self.prediction(a, "a"), self.prediction(b, "b"), self.predictor)


def _full(cluster: Cluster) -> Sizes:
    return Sizes(
        channels_in=cluster.channels_in,
        channels_out=cluster.channels_out,
        macs=cluster.macs,
        elements_in=cluster.elements_in,
        elements_out=cluster.elements_out,
        weights=cluster.weights,
    )
