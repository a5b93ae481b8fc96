"""Hardware monitors of CPUs that are not RAPL: AMD ``amd_energy`` and HSMP, NVIDIA Grace, Ampere Altra.

Linux shows hundreds of kinds of chips with inputs for power or energy, and nothing in them says which inputs contain
which. So only drivers in ``KNOWN`` make a total, by the table there; the first of them that is here is taken. All else
is listed with the reason why it is not used, and what it can read is recorded as a breakdown, once a second, never
added.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hwbench import resources
from hwbench.energy.uncertainty import GAIN
from hwbench.meters.hwmon_tree import (
    HWMON,
    Attribute,
    Chip,
    Reader,
    Readings,
    SensorInstrument,
    absent,
    find_chips,
    first_missing,
)
from hwbench.meters.thermal import context_sources
from hwbench.protocols import NOT_NOW
from hwbench.records.base import Missing, Support, unsupported
from hwbench.records.device import Device
from hwbench.records.energy import Channel, Provenance, Role
from hwbench.units import Clock, MonotonicClock

POWER_EVERY_S = 0.05
LISTED_EVERY_S = 1.0
_INPUTS = r"(power\d+_(input|average)|energy\d+_input)"
_UNKNOWN = Missing(code="not_known", why="how often this sensor changes is not documented; it is found from the data")
_UNKNOWN_STEP = Missing(code="not_known", why="the size of a step is not documented")
_MAX_POWER_W = 1000.0  # of a socket, as for RAPL


@dataclass(frozen=True, kw_only=True)
class Driver:
    """What is known of a driver: which of its inputs are the total and which a breakdown, by label."""

    boundary: str
    provenance: Provenance
    gain: str
    total: str  # regular expression of labels; inputs without a label are called by their chip's number
    part: str = r"(?!)"
    label_from: str = "label"  # or "oem_info"
    period_s: float | Missing = _UNKNOWN
    lsb: float | Missing = _UNKNOWN_STEP
    basis: str


KNOWN = {
    "amd_energy": Driver(
        boundary="CPU sockets, without DRAM",
        provenance="vendor_modelled",
        gain="rapl",
        total=r"Esocket\d+",
        period_s=1e-3,
        lsb=15.3e-6,
        basis="Documentation/hwmon/amd_energy.rst: the RAPL registers, accumulated to 64 bits by the driver",
    ),
    "power_meter": Driver(
        boundary="Grace CPU sockets: cores, system I/O and memory, without GPU",
        provenance="measured_onboard",
        gain="soc_telemetry",
        total=r"Grace Power Socket \d+",
        part=r"(CPU|SysIO|Module) Power Socket \d+",
        label_from="oem_info",
        basis="ACPI power meter of NVIDIA Grace: «Grace» contains «CPU» and «SysIO», «Module» contains «Grace» and GPU",
    ),
    "smpro_hwmon": Driver(
        boundary="Altra sockets: the regulators of cores, SoC, PCIe (RCA) and DIMMs, their losses not included",
        provenance="measured_onboard",
        gain="soc_telemetry",
        total=r"power\d+ (CORE VRD|SoC|DIMM VRD[12]|RCA VRD)",
        lsb=1e-3,
        basis="Documentation/hwmon/smpro-hwmon.rst: five regulators beside each other",
    ),
    "amd_hsmp_hwmon": Driver(
        boundary="CPU sockets, as their firmware reports it",
        provenance="vendor_modelled",
        gain="soc_telemetry",
        total=r"socket \d+",
        lsb=1e-3,
        basis="drivers/platform/x86/amd/hsmp/hwmon.c: one monitor a socket, its power in mW",
    ),
    "fam15h_power": Driver(
        boundary="CPU packages, as the northbridge estimates it",
        provenance="vendor_modelled",
        gain="soc_telemetry",
        total=r"socket \d+",
        basis="Documentation/hwmon/fam15h_power.rst: power1_input is of the whole package",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Input:
    """One input of one chip."""

    chip: Chip
    attribute: str  # "power1_average"
    label: str

    @property
    def is_energy(self) -> bool:
        """Whether it counts energy; else it shows power."""
        return self.attribute.startswith("energy")


class Hwmon:
    """The meter.

    Args:
        root: where ``/sys`` is; ``resources.sysfs_root()`` when not given.
        clock: tests pass a fake.
    """

    name = "hwmon"
    priority = 40

    def __init__(self, root: Path | None = None, clock: Clock | None = None) -> None:
        self.root = resources.sysfs_root() if root is None else root
        self.clock = MonotonicClock() if clock is None else clock

    def supports(self, device: Device) -> Support:
        """Say whether a known monitor of the CPU is here and readable.

        Codes: ``wrong_device``, ``no_sensor``, ``not_exposed_in_vm``, ``masked_by_container``, ``no_known_total``
        (there are inputs for power or energy, and what they contain is not known), ``permission_denied``,
        ``sensor_off``, ``sensor_unreadable``.
        """
        instrument = self.open(device)
        if isinstance(instrument, Missing):
            return Support(reasons=(instrument,))
        source = instrument.sources[0]
        totals = [value for c, value in zip(source.channels, source.read(), strict=True) if c.role == "total"]
        instrument.close()
        failed = first_missing(totals, lambda code: code == NOT_NOW)
        return Support() if failed is None else Support(reasons=(failed,))

    def open(self, device: Device) -> SensorInstrument | Missing:
        """Find the chips; see :meth:`supports` for the codes."""
        if device.kind != "cpu":
            return unsupported("wrong_device", f"hwmon measures the CPU of this machine, not {device.name}").reasons[0]
        inputs = find_inputs(find_chips(self.root))
        name = next((name for name in KNOWN if any(_is_total(item) for item in inputs if item.chip.name == name)), None)
        if name is None:
            return _no_total(inputs) if inputs else absent("power or energy monitor", HWMON, device, self.root)
        driver = KNOWN[name]
        used = [item for item in inputs if item.chip.name == name and _role(item) is not None]
        others = [item for item in inputs if item not in used]
        every_s = None if all(item.is_energy for item in used) else _interval_s(used)
        main = Readings([_described(item, driver, _role(item) or "part") for item in used], every_s)
        settings = {"driver": f"{name}: {driver.basis}"}
        if others:
            settings["not_added"] = f"{_listed(others)}: what these contain is not known, or another driver came first"
        return SensorInstrument(
            meter=self.name,
            boundary=driver.boundary,
            provenance=driver.provenance,
            sources=(main, *_listed_sources(others), *context_sources(self.root)),
            settings=settings,
        )


def find_inputs(chips: Sequence[Chip]) -> list[Input]:
    """Return every input for power or energy, of one measured twice (now and averaged) the average alone."""
    found: list[Input] = []
    for chip in chips:
        names = chip.inputs(_INPUTS)
        kept = [name for name in names if not (name.endswith("_input") and f"{name.split('_')[0]}_average" in names)]
        found += [Input(chip=chip, attribute=name, label=_label(chip, name, chips)) for name in kept]
    return found


def _label(chip: Chip, attribute: str, chips: Sequence[Chip]) -> str:
    driver = KNOWN.get(chip.name)
    number = attribute.partition("_")[0]
    if driver is not None and driver.label_from == "oem_info":
        return chip.text(f"{number}_oem_info") or number
    if driver is not None and driver.total == r"socket \d+" and attribute == "power1_input":
        return f"socket {[other for other in chips if other.name == chip.name].index(chip)}"
    return chip.label(attribute) or number


def _role(item: Input) -> Role | None:
    driver = KNOWN[item.chip.name]
    if re.fullmatch(driver.total, item.label):
        return "total"
    return "part" if re.fullmatch(driver.part, item.label) else None


def _is_total(item: Input) -> bool:
    return _role(item) == "total"


def _interval_s(items: Sequence[Input]) -> float:
    """Return how often to read: twice in the shortest averaging time, where one is told."""
    told = [averaging for item in items if isinstance(averaging := _averaging_s(item), float) and averaging > 0]
    return max(0.02, min(told, default=2 * POWER_EVERY_S) / 2)


def _averaging_s(item: Input) -> float | Missing:
    if item.attribute.endswith("_input"):
        return Missing(code="not_known", why="over how long this reading is averaged is not documented")
    interval_ms = item.chip.integer(f"{item.attribute}_interval")
    if interval_ms is None:
        return Missing(code="not_known", why=f"the chip has no {item.attribute}_interval")
    return interval_ms / 1e3


def _described(item: Input, driver: Driver | None, role: Role) -> tuple[Channel, Reader]:
    """Return channel and reader of an input; of an unknown chip, with nothing promised."""
    several = driver is None or driver.label_from == "label"
    gain = GAIN[driver.gain] if driver is not None else None
    path = item.chip.path(item.attribute) or item.chip.folders[0] / item.attribute
    channel = Channel(
        name=f"{item.chip.name} {item.chip.place}/{item.label}" if several else item.label,
        quantity="energy" if item.is_energy else "power",
        role=role,
        source=str(path),
        period_s=driver.period_s if driver is not None else _UNKNOWN,
        averaging_s=0.0 if item.is_energy else _averaging_s(item),
        lsb=driver.lsb if driver is not None else _UNKNOWN_STEP,
        max_w=_MAX_POWER_W if item.is_energy and driver is not None else None,
        gain=gain.standard if gain is not None else 0.0,
        gain_basis=gain.basis if gain is not None else "",
    )
    return channel, Attribute(path, 1e-6)


def _listed_sources(items: Sequence[Input]) -> list[Readings]:
    """Return the inputs that are not understood and can be read, as a breakdown: energy at marks, power each second."""
    sources: list[Readings] = []
    for energy, every_s in ((True, None), (False, LISTED_EVERY_S)):
        pairs = [_described(item, None, "part") for item in items if item.is_energy == energy]
        readable = [pair for pair in pairs if isinstance(pair[1].read(), float)]
        if readable:
            sources.append(Readings(readable, every_s))
    return sources


def _no_total(inputs: Sequence[Input]) -> Missing:
    return Missing(
        code="no_known_total",
        why=f"the hardware monitors here ({_listed(inputs)}) do not tell which of them add up to the CPU's energy",
        cure="use RAPL or an external meter; to have a driver known, add it to KNOWN in hwbench/meters/hwmon.py",
    )


def _listed(inputs: Sequence[Input]) -> str:
    return ", ".join(f"{item.chip.name} {item.chip.place}/{item.label}" for item in inputs)
