"""A sweep: one model measured for energy at several batch sizes and power settings, and what follows side by side."""

from __future__ import annotations

from hwbench.records.base import Missing, Record, check, check_finite

SWEEP_SCHEMA = 1


class PowerAsked(Record, frozen=True, kw_only=True):
    """What was set for the points of a sweep; None where nothing was. ``clocks_hz``: the lowest and the highest."""

    power_limit_w: float | None = None
    clocks_hz: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        check_finite(self, "power_limit_w")
        check(self.clocks_hz is None or 0 < self.clocks_hz[0] <= self.clocks_hz[1] < float("inf"), "lowest and highest")

    @property
    def limit_words(self) -> str:
        """``300 W``; empty where none was set."""
        return "" if self.power_limit_w is None else f"{self.power_limit_w:.10g} W"

    @property
    def clock_words(self) -> str:
        """``1500 MHz``, ``1200-1500 MHz``; empty where none was set."""
        if self.clocks_hz is None:
            return ""
        return "-".join(f"{each / 1e6:.10g}" for each in dict.fromkeys(self.clocks_hz)) + " MHz"

    @property
    def words(self) -> str:
        """What was set; ``as it is`` where nothing was."""
        parts = [f"limit {self.limit_words}"] if self.power_limit_w is not None else []
        parts += [f"clock {self.clock_words}"] if self.clocks_hz is not None else []
        return ", ".join(parts) or "as it is"

    @property
    def applied(self) -> dict[str, str]:
        """What ``hwbench doctor --apply`` would be told."""
        clocks = "-".join(f"{each / 1e6:.10g}MHz" for each in dict.fromkeys(self.clocks_hz or ()))
        limit = "" if self.power_limit_w is None else f"{self.power_limit_w:.10g}W"
        return {name: text for name, text in (("gpu_power", limit), ("gpu_clocks", clocks)) if text}


class SweepFigures(Record, frozen=True, kw_only=True, tag_field="kind", tag="figures"):
    """What one point of a sweep says, by the plateau method (docs/energy.md).

    ``items_per_s``: during the energy windows, one request in flight. ``item_j``: joules for one item, everything
    inside the boundary, with the 95 % interval of the mean over the windows; ``relative_uncertainty``: k=2, what
    the meter may be off by. ``items_per_j``: items per joule, which is items per second per watt. ``clock_hz``: of
    the GPU where it is one, else the mean of the CPUs, before and after the windows. ``memory_bytes``: the highest
    while inferences ran, ``memory_of`` says of what. ``front``: no other point of the sweep has both more items in
    a second and less energy for one; by means, so neighbours may be tied.
    """

    items_per_s: float
    power_w: float | Missing
    item_j: float
    item_low_j: float
    item_high_j: float
    relative_uncertainty: float
    items_per_j: float
    clock_hz: float | Missing
    memory_bytes: int | Missing
    memory_of: str
    boundary: str
    provenance: str
    validity: str
    front: bool = False

    def __post_init__(self) -> None:
        check_finite(self, "items_per_s", "power_w", "item_j", "item_low_j", "item_high_j", "items_per_j")
        check_finite(self, "relative_uncertainty", "clock_hz", "memory_bytes")
        check(self.item_low_j <= self.item_j <= self.item_high_j, "an interval contains its mean")


class SweepPoint(Record, frozen=True, kw_only=True):
    """One batch size at one power setting; ``folder`` holds its result, as seen from that of the sweep."""

    batch_size: int
    setting: PowerAsked
    folder: str
    figures: SweepFigures | Missing


class SweepResult(Record, frozen=True, kw_only=True):
    """What ``hwbench energy sweep`` writes beside the results of its points: a function of these."""

    schema_version: int
    hwbench: str
    created_at: str  # UTC
    model: str
    device: str
    engine: str
    precision: str
    points: tuple[SweepPoint, ...]
