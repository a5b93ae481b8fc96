"""A GPU's clocks, power limit and persistence mode, set and put back through NVML.

NVML does not tell whether clocks are locked. So a lock is put back by lifting it (nvmlDeviceResetGpuLockedClocks), and
one that somebody had set before is lifted along. Without persistence mode the driver forgets settings when the last
program lets go of the GPU: this process holds on to it from the first change until it ends.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Final

from hwbench.doctor.hands import AS_ROOT, UNTOLD
from hwbench.measure.gpu_state import Card
from hwbench.records.base import Missing
from hwbench.records.changes import Change

UNSET: Final = "unlocked"
_RANGE = re.compile(r"(\d+)(?:-(\d+))? MHz")
_WATTS = re.compile(r"(\d+(?:\.\d+)?) W")
_LOCKS = {
    "clocks": ("nvmlDeviceSetGpuLockedClocks", "nvmlDeviceResetGpuLockedClocks", "nvidia-smi -i {} --reset-gpu-clocks"),
    "memory_clocks": (
        "nvmlDeviceSetMemoryLockedClocks",
        "nvmlDeviceResetMemoryLockedClocks",
        "nvidia-smi -i {} --reset-memory-clocks",
    ),
}


def clocks_text(least_mhz: int, most_mhz: int) -> str:
    """Return a pair of clocks as the journal holds it."""
    return f"{least_mhz} MHz" if least_mhz == most_mhz else f"{least_mhz}-{most_mhz} MHz"


def watts_text(milliwatts: int) -> str:
    """Return a power limit as the journal holds it."""
    return f"{milliwatts / 1000:.10g} W"


class GpuHand:
    """Settings of GPUs; each GPU is connected to once.

    Args:
        driver: the module ``pynvml``, or what stands in for it; loaded when not given.
    """

    def __init__(self, driver: Any = None) -> None:
        self._driver = driver
        self._cards: dict[str, Card] = {}

    def read(self, root: Path, change: Change) -> str | None:  # noqa: ARG002 - of a GPU nothing is below the root
        card, what = self._card(change)
        if what in _LOCKS:
            return UNTOLD
        if what == "power_limit":
            limit = card.ask("nvmlDeviceGetPowerManagementLimit")
            return None if isinstance(limit, Missing) else watts_text(limit)
        mode = card.ask("nvmlDeviceGetPersistenceMode")
        return None if isinstance(mode, Missing) else ("on" if mode else "off")

    def write(self, root: Path, change: Change, value: str) -> str | None:  # noqa: ARG002 - as above
        card, what = self._card(change)
        if what in _LOCKS:
            lock, unlock, _ = _LOCKS[what]
            numbers = _RANGE.fullmatch(value)
            done = card.ask(unlock) if numbers is None else card.ask(lock, *_both(numbers))
        elif what == "power_limit":
            watts = _WATTS.fullmatch(value)
            if watts is None:
                return "it is no power limit"
            done = card.ask("nvmlDeviceSetPowerManagementLimit", round(1000 * float(watts[1])))
        else:
            done = card.ask("nvmlDeviceSetPersistenceMode", int(value == "on"))
        return done.why if isinstance(done, Missing) else None

    def refusal(self, root: Path, change: Change) -> tuple[str, str] | None:  # noqa: ARG002 - as above
        card, _ = self._card(change)
        reached = card.connect()
        if isinstance(reached, Missing):
            return f"cannot be changed: {reached.why}", reached.cure or "see hwbench devices"
        if os.geteuid() != 0:
            return "may not be changed by this user: NVML lets root alone set it", AS_ROOT
        return None

    def where(self, change: Change) -> str:
        uuid, _, what = change.path.rpartition("/")
        return f"the {what.replace('_', ' ')} of {uuid}"

    def by_hand(self, change: Change) -> str:
        uuid, _, what = change.path.rpartition("/")
        if what in _LOCKS:
            return f"sudo {_LOCKS[what][2].format(uuid)}"
        if what == "power_limit":
            return f"sudo nvidia-smi -i {uuid} --power-limit={change.before.removesuffix(' W')}"
        return f"sudo nvidia-smi -i {uuid} --persistence-mode={int(change.before == 'on')}"

    def _card(self, change: Change) -> tuple[Card, str]:
        uuid, _, what = change.path.rpartition("/")
        return self._cards.setdefault(uuid, Card(uuid, uuid, self._driver)), what


def _both(numbers: re.Match[str]) -> tuple[int, int]:
    return int(numbers[1]), int(numbers[2] or numbers[1])
