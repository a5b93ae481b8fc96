"""What is known of one runtime once its costs are: what the planner solves with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast, get_args

from hwbench.planning_pipeline.ways import Ways
from hwbench.planning_pipeline.with_zeros import WithZeros
from hwbench.prediction.legality import floating_of
from hwbench.prediction.machine import Machine
from hwbench.quantize.nvidia import Flavour
from hwbench.records.planning import CostSample, Design, Interval, Platform, Space
from hwbench.records.quantization import Floating
from hwbench.tables.draw import first_designs


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """An engine and the arithmetic of what it does not quantise."""

    engine: str
    floating: Floating

    def stored(self, machine: Machine | None) -> Floating:
        """Return what weights and activations that are not quantised are held in.

        TensorRT's ``auto`` is fp16, where the GPU has it. The others' is fp32 in files, also where OpenVINO computes in
        a half.

        Args:
            machine: what is known of a device that is not attached.
        """
        if self.floating != "auto" or self.engine not in get_args(Flavour):
            return self.floating
        return "fp16" if machine is None else cast("Floating", floating_of(machine, self.floating))


@dataclass(frozen=True, kw_only=True)
class Known:
    """The costs of one runtime. ``now``: how many networks were timed for it in this run.

    ``space``: what it has of all that can be chosen, by its ``ways``.
    """

    runtime: Runtime
    platform: Platform
    costs: WithZeros
    samples: tuple[CostSample, ...]
    now: int
    space: Space
    ways: Ways = field(default_factory=Ways)

    @property
    def uniform(self) -> list[Design]:
        """The designs in which every layer that has it has one precision."""
        return first_designs(self.space, floating=self.runtime.floating)

    def baselines(self) -> dict[str, Interval]:
        """Return what the uniform designs are predicted to take."""
        return {
            next(iter(design.schemes.values()), self.runtime.floating): self.costs.predict(self.space, design)
            for design in self.uniform
        }
