"""The power setting of a run: limit, mode and governor, as far as the machine told them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from hwbench.records.base import Missing
from hwbench.records.device import Device

ENFORCED, REQUESTED = "power_limit_enforced", "power_limit_requested"  # of an instrument's settings: ``700 W``

_NO_LIMIT = Missing(code="no_power_limit", why="no power limit is known for this device")
_NO_CPU = Missing(code="no_cpu", why="no CPU is described")
_WATTS = re.compile(r"(\d+(?:\.\d+)?) W")


@dataclass(frozen=True, kw_only=True)
class PowerSetting:
    """``limit_w``: the limit in force. ``mode``: a named power mode (nvpmodel). ``governor``: of the CPU's clock.

    ``requested_w``: the limit that was asked for, None where nobody tells.
    """

    limit_w: float | Missing
    mode: str | Missing
    governor: str | Missing
    requested_w: float | None = None

    @property
    def words(self) -> str:
        """Everything that is known; empty when nothing is."""
        parts = []
        if not isinstance(self.mode, Missing):
            parts.append(f"mode {self.mode}")
        if not isinstance(self.limit_w, Missing):
            other = self.requested_w is not None and self.requested_w != self.limit_w
            parts.append(f"limit {self.limit_w:g} W{f' (requested {self.requested_w:g} W)' if other else ''}")
        if not isinstance(self.governor, Missing):
            parts.append(f"governor {self.governor}")
        return ", ".join(parts)


def power_setting(device: Device, settings: Mapping[str, str]) -> PowerSetting:
    """Return the setting of a run: what the instrument's ``settings`` say, else what the device says."""
    limit_w: float | Missing = device.gpu.power_limit_w if device.gpu is not None else _NO_LIMIT
    enforced_w = _watts(settings.get(ENFORCED, ""))
    return PowerSetting(
        limit_w=limit_w if enforced_w is None else enforced_w,
        mode=device.power_mode,
        governor=device.cpu.governor if device.cpu is not None else _NO_CPU,
        requested_w=_watts(settings.get(REQUESTED, "")),
    )


def _watts(text: str) -> float | None:
    found = _WATTS.fullmatch(text)
    return float(found[1]) if found and float(found[1]) > 0 else None
