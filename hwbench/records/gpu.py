"""The state of a GPU at one moment, as its driver tells it."""

from __future__ import annotations

from typing import Final

from hwbench.records.base import Missing, Record, check, check_finite

COVERED_BY: Final = {"sw_power_cap": "power", "sw_thermal": "thermal", "hw_thermal": "thermal"}
"""By reason the name of the coarser counter of older drivers that it is a part of."""


class Limited(Record, frozen=True, kw_only=True):
    """For how long the driver has held a GPU's clocks down for one reason, in all, since it was loaded.

    ``reason``: ``sw_power_cap``, ``sync_boost``, ``sw_thermal``, ``hw_thermal``, ``hw_power_brake``, as channels of the
    NVML meter are called; for those that a driver has no counter of ``power`` and ``thermal``, see :data:`COVERED_BY`.
    """

    reason: str
    held_s: float


class GpuState(Record, frozen=True, kw_only=True, tag_field="kind", tag="gpu_state"):
    """What could disturb a measurement on a GPU.

    ``of``: which GPU, in words; of a MIG instance it is the whole GPU, which others use too. ``limited_by``: why the
    clocks are held down at this moment; ``limited``: for how long they have been, by reason. What matters of
    ``limited`` and ``throttle_events`` is their difference over a window. ``sm_least_hz`` and ``sm_most_hz``: between
    which clocks the GPU may choose now. ``memory_used_bytes``: by everybody on it.
    """

    of: str
    sm_hz: float | Missing
    memory_hz: float | Missing
    sm_least_hz: float | Missing
    sm_most_hz: float | Missing
    temperature_c: float | Missing
    power_w: float | Missing
    performance_state: str | Missing  # P0 (fastest) to P15
    limited_by: tuple[str, ...] | Missing
    limited: tuple[Limited, ...] | Missing
    throttle_events: int | Missing  # over-current events of a Jetson
    power_limit_w: float | Missing  # in force
    default_power_limit_w: float | Missing
    memory_used_bytes: int | Missing

    def __post_init__(self) -> None:
        check_finite(self, "sm_hz", "memory_hz", "sm_least_hz", "sm_most_hz", "power_w", "memory_used_bytes")
        check_finite(self, "power_limit_w", "default_power_limit_w")
        check_finite(self, "temperature_c", minimum=-273.15)
        check(
            isinstance(self.limited, Missing) or all(entry.held_s >= 0 for entry in self.limited),
            "held_s must not be negative",
        )


NOT_A_GPU = Missing(code="no_gpu", why="the device that was measured is no GPU")
