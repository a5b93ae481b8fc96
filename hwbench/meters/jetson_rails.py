"""The power rails of a Jetson: where each JetPack shows them, and which of them make up the module.

* JetPack 4 (L4T 32): driver ``ina3221x``, industrial I/O: ``rail_name_0``, ``in_power0_input`` in mW.
* JetPack 5 and later: driver ``ina3221``, hwmon: ``in1_label``, ``in1_input`` in mV, ``curr1_input`` in mA; there is no
  power file. Channels 4 to 6 are shunt voltages and channel 7 their sum: no rails.
* Thor's carrier board has an INA238 besides: ``power1_input`` in µW, of the whole input, called ``VIN`` here.

Sources: Documentation/hwmon/ina3221.rst, drivers/hwmon/ina3221.c and ina238.c of Linux; for the boards see ``RULES``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from hwbench.meters.hwmon_tree import Chip, find_chips, text_of
from hwbench.records.base import Missing

_BUS_STEP_V = 8e-3  # ina3221.c
SHUNT_STEP_V = 40e-6  # ina3221.c
SHUNT_OFFSET_V = 80e-6  # the largest at the input of the INA3221, by its data sheet
_CYCLE_S = 6.6e-3  # ina3221.c: 3 channels x (1.1 ms bus + 1.1 ms shunt), the state after reset
_INA238_CYCLE_S = 16 * 3 * 1.052e-3  # ina238.c: 16 samples of bus, shunt and temperature


@dataclass(frozen=True, kw_only=True)
class Rail:
    """One measured rail; it has a file of its power, or one of its voltage and one of its current."""

    label: str
    chip: str
    power: Path | None = None
    power_scale: float = 1.0
    voltage: Path | None = None  # mV
    current: Path | None = None  # mA
    shunt_ohm: float | None = None
    period_s: float | Missing
    averaging_s: float | Missing
    sensed_s: float | Missing


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Which rails are the total where all of ``total`` are there; ``more`` are added for an upper bound."""

    total: tuple[str, ...]
    boundary: str
    why: str
    more: tuple[str, ...] = ()


RULES = (
    Rule(
        total=("VIN",),
        boundary="the input of the carrier board, with the module and all that hangs on it",
        why="VIN is measured before everything else and contains the other rails (NVIDIA forum 366461)",
    ),
    Rule(
        total=("VDD_IN",),
        boundary="the module's input, without the carrier board",
        why="VDD_IN is the whole module, by NVIDIA (forum 200883); the other rails are inside",
    ),
    Rule(
        total=("POM_5V_IN",),
        boundary="the 5 V input of the board",
        why="POM_5V_IN is the whole board, by NVIDIA (forum 73608); the GPU and CPU rails are inside",
    ),
    Rule(
        total=("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),
        boundary="the module: the sum of its six monitored supplies, without the carrier board",
        why="five supplies hang on the high input and SYS5V is the 5 V input (AGX Xavier design guide DG-09840, 5.6.2)",
    ),
    Rule(
        total=("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
        boundary="the module: GPU and SoC, CPU and CV, and the 5 V input, without the carrier board",
        why="VDDQ_VDD2_1V8AO is left out: it is fed with 5 V (tegrastats: 1091 mW, which is 4.96 V x 220 mA), so it "
        "most likely hangs on VIN_SYS_5V0 and would count twice; this was not verified on a board, and the sum with it "
        "stands beside the total as an upper bound",
        more=("VDDQ_VDD2_1V8AO",),
    ),
    Rule(
        total=("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"),
        boundary="the module: GPU, CPU with SoC and memory, and the 5 V input, without the carrier board",
        why="there is no VIN rail, and these three are monitored side by side (Thor); not verified on a board",
    ),
)


def rule_for(labels: set[str]) -> Rule | None:
    """Return the first rule whose rails are all there."""
    return next((rule for rule in RULES if labels.issuperset(rule.total)), None)


def find_rails(root: Path) -> tuple[tuple[Rail, ...], dict[str, str]]:
    """Return the rails under ``root``, and each chip's settings in words."""
    rails: list[Rail] = []
    settings: dict[str, str] = {}
    for chip in find_chips(root):
        if chip.name == "ina3221":
            rails += _ina3221(chip, settings)
        elif chip.name == "ina238":
            rails.append(_ina238(chip, settings))
    for folder in sorted((root / "sys/bus/i2c/drivers/ina3221x").glob("*/iio*device*")):
        rails += _iio(folder, settings)
    return tuple(_distinct(rails)), settings


def connected(label: str | None) -> bool:
    """Say whether a label names a rail: ``NC`` is «not connected», and the sum of shunt voltages is no rail."""
    words = re.split(r"[^A-Za-z0-9]+", label or "")
    return any(words) and "NC" not in (word.upper() for word in words) and "sum of shunt" not in (label or "")


def _ina3221(chip: Chip, settings: dict[str, str]) -> list[Rail]:
    samples, interval_ms = chip.integer("samples"), chip.integer("update_interval")
    enabled = [n for n in (1, 2, 3) if chip.integer(f"in{n}_enable") != 0]
    cycle_s = interval_ms / 1e3 if interval_ms else _CYCLE_S
    sensed_s = cycle_s / (2 * max(1, len(enabled)))
    rails: list[Rail] = []
    for n in enabled:
        label, voltage, current = chip.text(f"in{n}_label"), chip.path(f"in{n}_input"), chip.path(f"curr{n}_input")
        if label is None or not connected(label) or voltage is None or current is None:
            continue
        shunt = chip.integer(f"shunt{n}_resistor")
        rails.append(
            Rail(
                label=label,
                chip=f"{chip.name} {chip.place}",
                voltage=voltage,
                current=current,
                shunt_ohm=shunt / 1e6 if shunt else None,
                period_s=cycle_s,
                averaging_s=cycle_s if samples is not None and samples > 1 else sensed_s,
                sensed_s=sensed_s,
            )
        )
    shunts = "/".join(str(chip.integer(f"shunt{n}_resistor") or "?") for n in (1, 2, 3))
    settings[f"{chip.name} {chip.place}"] = (
        f"samples {_told(samples)}, update_interval {_told(interval_ms)} ms, shunts {shunts} µΩ, "
        f"channels enabled {','.join(map(str, enabled))}"
    )
    return rails


def _ina238(chip: Chip, settings: dict[str, str]) -> Rail:
    shunt = chip.integer("shunt_resistor")
    settings[f"{chip.name} {chip.place}"] = f"shunt {_told(shunt)} µΩ"
    return Rail(
        label=chip.label("power1_input") or "VIN",
        chip=f"{chip.name} {chip.place}",
        power=chip.path("power1_input"),
        power_scale=1e-6,
        voltage=chip.path("in1_input"),
        period_s=_INA238_CYCLE_S,
        averaging_s=_INA238_CYCLE_S,
        sensed_s=_INA238_CYCLE_S / 3,
    )


def _iio(folder: Path, settings: dict[str, str]) -> list[Rail]:
    unknown = Missing(code="not_known", why="the driver of JetPack 4 does not show its settings")
    chip = f"ina3221x {folder.parent.name}"
    settings[chip] = "JetPack 4: neither shunts nor conversion times are shown"
    rails: list[Rail] = []
    for n in (0, 1, 2):
        label = text_of(folder / f"rail_name_{n}")
        power, voltage = folder / f"in_power{n}_input", folder / f"in_voltage{n}_input"
        if label is None or not connected(label) or not power.exists():
            continue
        rails.append(
            Rail(
                label=label,
                chip=chip,
                power=power,
                power_scale=1e-3,
                voltage=voltage if voltage.exists() else None,
                period_s=unknown,
                averaging_s=unknown,
                sensed_s=unknown,
            )
        )
    return rails


def _distinct(rails: list[Rail]) -> list[Rail]:
    """Return the rails under names that differ: a label that comes again is followed by its chip."""
    seen: set[str] = set()
    named: list[Rail] = []
    for rail in rails:
        named.append(rail if rail.label not in seen else replace(rail, label=f"{rail.label}@{rail.chip}"))
        seen.add(rail.label)
    return named


def _told(number: int | None) -> str:
    return "?" if number is None else str(number)
