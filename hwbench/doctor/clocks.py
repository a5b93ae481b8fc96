"""How fast the CPU runs, who decides, and where the time is read."""

from __future__ import annotations

from hwbench.doctor.answers import cannot_tell, info, ok, warning
from hwbench.doctor.subject import Subject
from hwbench.records.base import Missing
from hwbench.records.health import HealthCheck
from hwbench.units import format_si

_CPUFREQ = "sys/devices/system/cpu/cpufreq"
_HINT = "energy_performance_preference"
_PROFILE = "sys/firmware/acpi/platform_profile"
_SAVING = frozenset({"low-power", "cool", "quiet", "power", "balance_power"})  # names of the kernel's two interfaces
_CLOCKSOURCE = "sys/devices/system/clocksource/clocksource0"
# Clock sources that a process can read without entering the kernel; the others cost a system call or a device access.
_FAST_SOURCES = frozenset({"tsc", "arch_sys_counter", "kvm-clock", "hyperv_clocksource_tsc_page", "riscv_clocksource"})


def governor(subject: Subject) -> HealthCheck:
    """Check that the CPU does not wait for load before it runs fast."""
    name, cpu = "governor", subject.cpu
    if isinstance(cpu, Missing):
        return cannot_tell(name, cpu)
    if isinstance(cpu.governor, Missing):
        return cannot_tell(name, cpu.governor)
    if cpu.governor == "performance":
        return ok(name, "frequency governor performance")
    return warning(
        name,
        f"frequency governor {cpu.governor}",
        "the clock follows the load: the first inferences run slower, and pauses between inferences slow them again",
        "hwbench doctor --apply governor -- COMMAND, as root; or sudo cpupower frequency-set -g performance (lost at "
        "the next boot), unless the target is to run with this one",
    )


def turbo(subject: Subject) -> HealthCheck:
    """Check that the clock does not depend on temperature and on what other cores do."""
    name, cpu = "turbo", subject.cpu
    if isinstance(cpu, Missing):
        return cannot_tell(name, cpu)
    if isinstance(cpu.turbo, Missing):
        return cannot_tell(name, cpu.turbo)
    if not cpu.turbo:
        return ok(name, "turbo is off")
    path = f"/{_CPUFREQ}/boost"
    switch = f"echo 0 | sudo tee {path}"
    if subject.tree.exists("sys/devices/system/cpu/intel_pstate/no_turbo"):
        switch = "echo 1 | sudo tee /sys/devices/system/cpu/intel_pstate/no_turbo"
    return warning(
        name,
        "turbo is on",
        "the clock depends on temperature and on how many cores are busy, so a run is not like the one before",
        f"to compare two programs: hwbench doctor --apply turbo -- COMMAND, as root (or {switch}); "
        "to learn what users will see, leave it on and run longer",
    )


def power_profile(subject: Subject) -> HealthCheck | None:
    """Check that no power profile of the firmware, or hint to the CPU, asks for less than full speed."""
    name, tree = "power_profile", subject.tree
    profile = tree.text(_PROFILE)
    hints = sorted({text for path in tree.glob(_CPUFREQ, "policy*") if (text := tree.text(f"{path}/{_HINT}"))})
    told = ([f"firmware's power profile {profile}"] if profile else []) + [f"energy hint {hint}" for hint in hints]
    if not told:
        return None
    saving = [word for word in (profile, *hints) if word in _SAVING]
    if not saving:
        return ok(name, "; ".join(told))
    offered = tree.text(f"{_PROFILE}_choices")
    return warning(
        name,
        "; ".join(told),
        "clocks and power limits are held down, or rise late, to save power: times are of a slower machine",
        "powerprofilesctl set performance (or: echo performance | sudo tee /"
        + (f"{_PROFILE}; it offers {offered})" if profile else f"{_CPUFREQ}/policy*/{_HINT})")
        + ", unless the target is to run like this",
    )


def clock_range(subject: Subject) -> HealthCheck:
    """Check that no limit below the hardware's own holds the clock down."""
    name, tree = "clock_range", subject.tree
    policies = tree.glob(_CPUFREQ, "policy*")
    limits = [
        (tree.integer(f"{policy}/scaling_min_freq"), tree.integer(f"{policy}/scaling_max_freq"), policy)
        for policy in policies
    ]
    known = [(low * 1e3, high * 1e3, policy) for low, high, policy in limits if low is not None and high is not None]
    if not known:
        return cannot_tell(name, subject.not_shown("the range of the clocks", f"/{_CPUFREQ}/policy*/scaling_max_freq"))
    low, high = min(low for low, _, _ in known), max(high for _, high, _ in known)
    text = f"clocks from {format_si(low, 'Hz')} to {format_si(high, 'Hz')}"
    figures = {"min_hz": low, "max_hz": high}
    capped = [(top, tree.integer(f"{policy}/cpuinfo_max_freq")) for _, top, policy in known]
    held = [hardware * 1e3 for top, hardware in capped if hardware is not None and top < hardware * 1e3]
    if held:
        return warning(
            name,
            f"{text}, though the hardware goes up to {format_si(max(held), 'Hz')}",
            "a limit holds the clock down: times are of a slower machine than this one can be",
            "sudo cpupower frequency-set --max to the hardware's maximum, unless the limit is meant",
            **figures,
        )
    return ok(name, f"{text}: fixed", **figures) if low == high else info(name, text, None, **figures)


def clock_source(subject: Subject) -> HealthCheck:
    """Check that reading the time does not enter the kernel."""
    name, source = "clock_source", subject.tree.text(f"{_CLOCKSOURCE}/current_clocksource")
    if not source:
        return cannot_tell(name, subject.not_shown("the clock source", f"/{_CLOCKSOURCE}/current_clocksource"))
    if source in _FAST_SOURCES:
        return ok(name, f"clock source {source}")
    listed = subject.tree.text(f"{_CLOCKSOURCE}/available_clocksource") or "none listed"
    return warning(
        name,
        f"clock source {source}",
        "each reading of the time enters the kernel, about a microsecond: short inferences seem longer",
        f"available: {listed}; if tsc is among them, boot with clocksource=tsc tsc=reliable, else see why with "
        "dmesg | grep -i clocksource",
    )
