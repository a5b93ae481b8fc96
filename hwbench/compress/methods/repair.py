"""``repair``: mend what earlier steps have done, without training the weights: hwbench.compress.repair."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

from hwbench.compress.base import Outcome, Subject
from hwbench.compress.repair.run import RepairSettings, repair
from hwbench.graph.linear import Skipped, linear_layers
from hwbench.records.base import Missing
from hwbench.train.places import trained_weights


class Repair:
    """Least squares, statistics of BatchNormalization, means, deviations and vectors brought back to the original's."""

    stage: ClassVar[str] = "repair"
    summary: ClassVar[str] = "bring layers back to what the original put out, without training their weights"
    settings_type: ClassVar[type[RepairSettings]] = RepairSettings

    def legal(self, subject: Subject, settings: RepairSettings) -> dict[str, Missing | None]:
        reasons: dict[str, Missing | None] = {}
        for item in linear_layers(subject.model):
            if isinstance(item, Skipped):
                reasons[item.layer] = Missing(code="unfit", why=item.reason)
            else:
                reasons[item.name] = None
        weights = subject.model.graph.initializers
        vectors = {
            name: None
            for name, initializers in trained_weights(subject.model).items()
            if any(len(weights[each].shape or ()) == 1 for each in initializers)
        }
        found = vectors | reasons
        order = [node.name or "" for node in subject.model.graph if node.name in found]
        return {name: found[name] for name in order}

    def apply(self, subject: Subject, layers: Collection[str], settings: RepairSettings) -> Outcome:
        return repair(subject, settings.which, layers=layers, settings=settings)
