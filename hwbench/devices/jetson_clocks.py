"""What a Jetson's clocks may do now, and what each power mode allows them; whether ``jetson_clocks`` holds them.

``jetson_clocks`` sets the lowest clock to the highest for CPU, GPU and memory. Nothing says that it did: it is seen
from the limits being equal. Numbers in ``/etc/nvpmodel.conf``: CPU in kilohertz, GPU and memory in hertz, -1 and 0 for
"no cap"; a bit set in the mask of the GPU's clusters (TPC) turns one off.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from hwbench.devices.tree import Tree
from hwbench.records.base import Missing
from hwbench.tegra import DEVFREQ, is_gpu_clock

_CPU = "sys/devices/system/cpu/cpufreq"
_HEAD = re.compile(r"^\s*<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>")


@dataclass(frozen=True, kw_only=True)
class PowerMode:
    """One mode of ``/etc/nvpmodel.conf``; None where it sets no cap."""

    number: int
    name: str
    cores: int | None
    cpu_max_hz: float | None
    gpu_max_hz: float | None
    memory_max_hz: float | None

    @property
    def words(self) -> str:
        """What it allows, for people."""
        caps = [f"{self.cores} cores"] if self.cores is not None else []
        for what, value in (("CPU", self.cpu_max_hz), ("GPU", self.gpu_max_hz), ("memory", self.memory_max_hz)):
            caps += [f"{what} to {value / 1e6:.0f} MHz"] if value is not None else []
        return f"{self.number}: {self.name}" + (f" ({', '.join(caps)})" if caps else "")


def power_modes(configuration: str) -> tuple[PowerMode, ...]:
    """Return the modes that a configuration file offers, with their caps."""
    found: list[tuple[int, str, list[list[str]]]] = []
    for line in configuration.splitlines():
        head = _HEAD.match(line)
        if head:
            found.append((int(head[1]), head[2], []))
        elif line.lstrip().startswith("<"):
            continue  # parameters, and the default mode
        elif found and len(words := line.split()) == 3 and not line.lstrip().startswith("#"):
            found[-1][2].append(words)
    return tuple(_mode(number, name, lines) for number, name, lines in found)


def _mode(number: int, name: str, lines: list[list[str]]) -> PowerMode:
    online = [value for group, _, value in lines if group == "CPU_ONLINE"]
    return PowerMode(
        number=number,
        name=name,
        cores=sum(value == "1" for value in online) if online else None,
        cpu_max_hz=_highest(
            [v for group, key, v in lines if re.match(r"CPU_\w*\d+$", group) and key == "MAX_FREQ"], 1e3
        ),
        gpu_max_hz=_highest([v for group, key, v in lines if group == "GPU" and key == "MAX_FREQ"], 1.0),
        memory_max_hz=_highest([v for group, key, v in lines if group == "EMC" and key == "MAX_FREQ"], 1.0),
    )


def _highest(texts: list[str], unit: float) -> float | None:
    values = [int(text) for text in texts if re.fullmatch(r"-?\d+", text)]
    return max(values) * unit if values and min(values) > 0 else None


def limits(tree: Tree) -> dict[str, tuple[int, int]]:
    """Return the lowest and the highest clock allowed now, in hertz, of each CPU policy and of the GPU."""
    found = {}
    for policy in tree.glob(_CPU, "policy*"):
        low, high = tree.integer(f"{policy}/scaling_min_freq"), tree.integer(f"{policy}/scaling_max_freq")
        if low is not None and high is not None:
            found[policy.rpartition("/")[2]] = (low * 1000, high * 1000)
    for folder in tree.glob(DEVFREQ, "*"):
        low, high = tree.integer(f"{folder}/min_freq"), tree.integer(f"{folder}/max_freq")
        if is_gpu_clock(folder.rpartition("/")[2]) and low is not None and high is not None:
            found["gpu"] = (low, high)
    return found


def held(tree: Tree) -> bool | Missing:
    """Say whether the clocks of CPU and GPU are held where they are, as ``jetson_clocks`` does."""
    found = limits(tree)
    if not found:
        why = f"the kernel shows no limits of the clocks (/{_CPU}, /{DEVFREQ})"
        return Missing(code="not_exposed", why=why)
    return all(low == high for low, high in found.values())


def gpu_max_hz(tree: Tree) -> float | Missing:
    """Return the highest clock that the GPU may take now, in hertz."""
    gpu = limits(tree).get("gpu")
    return float(gpu[1]) if gpu else Missing(code="not_exposed", why=f"there is no clock of a GPU in /{DEVFREQ}")
