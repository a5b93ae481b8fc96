"""The power setting of a run: limit, mode and governor, as far as the machine told them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from hwbench.records.base import Missing
from hwbench.records.device import Device

LIMIT_KEY = "power_limit_w"  # of an instrument's settings: the limit in force during the run
MODE_KEY = "power_mode"

_NO_LIMIT = Missing(code="no_power_limit", why="no power limit is known for this device")


@dataclass(frozen=True, kw_only=True)
class PowerSetting:
    """``limit_w``: the limit in force. ``mode``: a named power mode (nvpmodel). ``governor``: of the CPU's clock."""

    limit_w: float | Missing
    mode: str | Missing
    governor: str | Missing

    @property
    def words(self) -> str:
        """Everything that is known; empty when nothing is."""
        parts = []
        if not isinstance(self.mode, Missing):
            parts.append(f"mode {self.mode}")
        if not isinstance(self.limit_w, Missing):
            parts.append(f"limit {self.limit_w:g} W")
        if not isinstance(self.governor, Missing):
            parts.append(f"governor {self.governor}")
        return ", ".join(parts)


def power_setting(device: Device, settings: Mapping[str, str]) -> PowerSetting:
    """Return the setting of a run: what the instrument's ``settings`` say, else what the device says."""
    limit_w: float | Missing = device.gpu.power_limit_w if device.gpu is not None else _NO_LIMIT
    told = _number(settings.get(LIMIT_KEY, ""))
    governor = device.cpu.governor if device.cpu is not None else Missing(code="no_cpu", why="no CPU is described")
    return PowerSetting(
        limit_w=limit_w if told is None else told, mode=settings.get(MODE_KEY) or device.power_mode, governor=governor
    )


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None
