"""What would disturb a measurement on an NVIDIA GPU: who else is on it, what holds it back, what is wrong with it.

The checks ask through NVML and change nothing. Each is left out where no GPU was named (``--device``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hwbench.doctor.answers import cannot_tell, info, ok, warning
from hwbench.doctor.subject import Subject
from hwbench.measure.gpu_state import Card
from hwbench.nvml import sees_host_ids
from hwbench.records.base import Missing
from hwbench.records.health import HealthCheck
from hwbench.units import format_bytes, format_si

_HEADROOM_C = 15.0
_SLOWDOWN, _GPU_MAX = 1, 3  # NVML_TEMPERATURE_THRESHOLD_*
_CLOCK_SM = 1
_COMPUTE_MODES = {0: "shared", 1: "one thread", 2: "prohibited", 3: "one process"}  # NVML_COMPUTEMODE_*
_UNCORRECTED, _CORRECTED, _SINCE_LOADED = 1, 0, 0  # NVML_MEMORY_ERROR_TYPE_*, NVML_VOLATILE_ECC
_BAD = frozenset({"hw_slowdown", "sw_thermal", "hw_thermal", "hw_power_brake"})
_LESS = 0.5e3  # mW; limits are whole watts


def _of_card(check: Callable[[Subject, Card], HealthCheck | None]) -> Callable[[Subject], HealthCheck | None]:
    """Make a check of a GPU one of a subject: left out where there is none that can be reached."""

    def of_subject(subject: Subject) -> HealthCheck | None:
        card = subject.card
        if card is None or isinstance(card, Missing) or isinstance(card.connect(), Missing):
            return None
        return check(subject, card)

    of_subject.__doc__ = check.__doc__
    return of_subject


def reachable(subject: Subject) -> HealthCheck | None:
    """Check that the GPU that was named can be asked."""
    card = subject.card
    if card is None:
        return None
    reached = card if isinstance(card, Missing) else card.connect()
    return cannot_tell("gpu", reached) if isinstance(reached, Missing) else None


@_of_card
def persistence(_: Subject, card: Card) -> HealthCheck:
    """Check that the driver stays loaded for the GPU between two programs."""
    name, mode = "gpu_persistence", card.ask("nvmlDeviceGetPersistenceMode")
    if isinstance(mode, Missing):
        return cannot_tell(name, mode)
    if mode:
        return ok(name, "persistence mode is on")
    return warning(
        name,
        "persistence mode is off",
        "when the last program ends the driver lets go of the GPU: the next one starts seconds later, on a GPU "
        "that has forgotten its clocks and limits",
        "hwbench doctor --apply gpu_persistence -- COMMAND, as root; or sudo nvidia-smi -pm 1 (lost at the next boot)",
    )


@_of_card
def processes(subject: Subject, card: Card) -> HealthCheck:
    """Check that nobody else computes or draws on the GPU."""
    name = "gpu_processes"
    found: dict[int, int | None] = {}
    for kind in ("Compute", "Graphics"):
        listed = card.ask(f"nvmlDeviceGet{kind}RunningProcesses_v3")
        if isinstance(listed, Missing):
            return cannot_tell(name, listed)
        found.update({process.pid: process.usedGpuMemory for process in listed})
    foreign = "; ids are the host's, those in this container are others (--pid=host)"
    hosts = "" if sees_host_ids(subject.tree.root) else foreign
    if not found:
        return ok(name, f"no other process is on the GPU{hosts}")
    told = [f"{pid} ({'memory not told' if used is None else format_bytes(used)})" for pid, used in found.items()]
    return warning(
        name,
        f"{len(found)} other processes are on the GPU: {', '.join(told[:5])}{hosts}",
        "they take its time, its memory bandwidth and its power limit",
        "end them (nvidia-smi lists them), or measure when they are done",
        processes=len(found),
    )


@_of_card
def sharing(_: Subject, card: Card) -> HealthCheck:
    """Check how processes share the GPU: its compute mode, and MPS."""
    name, mode = "gpu_sharing", card.ask("nvmlDeviceGetComputeMode")
    if isinstance(mode, Missing):
        return cannot_tell(name, mode)
    text = f"compute mode: {_COMPUTE_MODES.get(mode, f'number {mode}, which is new')}"
    if mode == 2:
        return warning(
            name, text, "no program can compute on the GPU", "sudo nvidia-smi --compute-mode=DEFAULT, or another GPU"
        )
    served = card.ask("nvmlDeviceGetMPSComputeRunningProcesses_v3")
    if not isinstance(served, Missing) and served:
        return warning(
            name,
            f"{text}; {len(served)} processes are served by MPS",
            "their kernels run at the same time as those that are measured, on the same multiprocessors",
            "end them, or stop MPS: echo quit | nvidia-cuda-mps-control",
        )
    if mode in {1, 3}:
        return info(name, f"{text}: hwbench starts one process at a time, and another's would be refused")
    return ok(name, text)


@_of_card
def instances(_: Subject, card: Card) -> HealthCheck | None:
    """Tell what MIG makes of clocks and energy; left out where it is off or there is none."""
    name, mode = "gpu_mig", card.ask("nvmlDeviceGetMigMode")
    if isinstance(mode, Missing) or not mode[0]:
        return None
    if card.uuid.startswith("MIG-"):
        return info(
            name,
            "a MIG instance: clocks, temperature and power are those of the whole GPU, shared with the others on it",
        )
    return info(name, "MIG is on: programs run on instances (hwbench devices lists them); energy is of all together")


@_of_card
def clocks(_: Subject, card: Card) -> HealthCheck:
    """Tell the clock, and that it follows heat and power unless it is locked."""
    name = "gpu_clocks"
    now = card.number("nvmlDeviceGetClockInfo", _CLOCK_SM, unit=1e6)
    most = card.number("nvmlDeviceGetMaxClockInfo", _CLOCK_SM, unit=1e6)
    if isinstance(now, Missing) or isinstance(most, Missing):
        return cannot_tell(name, now if isinstance(now, Missing) else most if isinstance(most, Missing) else _NEVER)
    return info(
        name,
        f"clock {format_si(now, 'Hz')} now, at most {format_si(most, 'Hz')}; unless it is locked, which NVML does not "
        "tell, it follows heat, power and load",
        "to compare two programs: hwbench doctor --apply gpu_clocks=... -- COMMAND, as root",
        sm_hz=now,
        sm_max_hz=most,
    )


_NEVER = Missing(code="not_read", why="the GPU's clocks were not read")


@_of_card
def power_limit(_: Subject, card: Card) -> HealthCheck:
    """Check that no limit below the card's own holds its power down."""
    name = "gpu_power_limit"
    limit, default = card.ask("nvmlDeviceGetEnforcedPowerLimit"), card.ask("nvmlDeviceGetPowerManagementDefaultLimit")
    if isinstance(limit, Missing) or isinstance(default, Missing):
        return cannot_tell(name, limit if isinstance(limit, Missing) else default)
    figures = {"power_limit_w": limit / 1e3, "default_power_limit_w": default / 1e3}
    if limit < default - _LESS:
        return warning(
            name,
            f"power limit {limit / 1e3:g} W, below the card's own {default / 1e3:g} W",
            "clocks are held down to keep to it: times are of a slower GPU",
            f"sudo nvidia-smi --power-limit={default / 1e3:g}, unless the limit is meant",
            **figures,
        )
    return ok(name, f"power limit {limit / 1e3:g} W; the card's own is {default / 1e3:g} W", **figures)


@_of_card
def temperature(_: Subject, card: Card) -> HealthCheck:
    """Check that the GPU is not close to the temperature at which it slows down."""
    name, now = "gpu_temperature", card.temperature()
    if isinstance(now, Missing):
        return cannot_tell(name, now)
    left = card.ask("nvmlDeviceGetMarginTemperature")
    if isinstance(left, Missing):
        limit = card.ask("nvmlDeviceGetTemperatureThreshold", _SLOWDOWN)
        limit = card.ask("nvmlDeviceGetTemperatureThreshold", _GPU_MAX) if isinstance(limit, Missing) else limit
        if isinstance(limit, Missing):
            return cannot_tell(name, limit, temperature_c=now)
        left = limit - now
    text, figures = f"{now:.0f} °C, {left:.0f} °C below where it slows down", {"temperature_c": now, "headroom_c": left}
    if left >= _HEADROOM_C:
        return ok(name, text, **figures)
    return warning(
        name,
        text,
        "under load it will get there, and its clock falls in the middle of a measurement",
        "cool it: clean fans and filters, more air; let it rest before each run, or lower its power limit",
        **figures,
    )


@_of_card
def held_back(_: Subject, card: Card) -> HealthCheck:
    """Check that nothing slows the GPU down now."""
    name, reasons = "gpu_held_back", card.limited_by()
    if isinstance(reasons, Missing):
        return cannot_tell(name, reasons)
    if set(reasons) & _BAD:
        return warning(
            name,
            f"its clocks are held down: {', '.join(reasons)}",
            "times are of a slower GPU, and change as the cause comes and goes",
            "see its temperature, its fans and its power cables",
        )
    return ok(name, f"clocks held down by: {', '.join(reasons) or 'nothing'}")


@_of_card
def memory_errors(_: Subject, card: Card) -> HealthCheck:
    """Check that the GPU's memory has shown no errors that it could not correct."""
    name, mode = "gpu_ecc", card.ask("nvmlDeviceGetEccMode")
    if isinstance(mode, Missing):
        return (
            info(name, "this GPU's memory has no error correction")
            if mode.code == "not_supported"
            else cannot_tell(name, mode)
        )
    if not mode[0]:
        return info(name, "error correction is off: there is a little more bandwidth, and errors stay unseen")
    counts = [card.ask("nvmlDeviceGetTotalEccErrors", kind, _SINCE_LOADED) for kind in (_UNCORRECTED, _CORRECTED)]
    missing = next((count for count in counts if isinstance(count, Missing)), None)
    if missing is not None:
        return cannot_tell(name, missing)
    uncorrected, corrected = counts
    rows = card.ask("nvmlDeviceGetRemappedRows")
    pending = not isinstance(rows, Missing) and bool(rows[2] or rows[3])
    text = f"since the driver was loaded {uncorrected} errors were not corrected, {corrected} were"
    if uncorrected or pending:
        return warning(
            name,
            text + ("; rows of memory wait to be replaced" if pending else ""),
            "results may be wrong, and programs on the GPU are ended",
            "reset the GPU or reboot when nobody uses it; if it comes back, have the card replaced",
            uncorrected=uncorrected,
            corrected=corrected,
        )
    return ok(name, text, uncorrected=uncorrected, corrected=corrected)


@_of_card
def driver_errors(_: Subject, __: Card) -> HealthCheck:
    """Say that the driver's own errors (Xid) cannot be looked up."""
    why = "NVML tells of driver errors (Xid) only while they happen, to programs that wait for them"
    return cannot_tell("gpu_xid", Missing(code="not_told", why=why, cure="sudo dmesg | grep -i xid"))


CHECKS: tuple[Any, ...] = (
    reachable, processes, sharing, instances, persistence, clocks, power_limit, temperature, held_back, memory_errors,
    driver_errors,
)  # fmt: skip
