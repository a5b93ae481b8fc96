"""What ``hwbench doctor --apply`` can change, and which changes that takes.

A setting has the name of the check that asks for it, where there is one. It is a function of a
:class:`~hwbench.doctor.subject.Subject` and the value asked for that returns the changes of files, none where the
machine is set so already; nothing is written here. Files and values: Documentation/admin-guide/pm/cpufreq.rst,
intel_pstate.rst and Documentation/admin-guide/sysctl/kernel.rst of the kernel.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hwbench.doctor import gpu_settings, jetson_settings
from hwbench.doctor.subject import Subject
from hwbench.errors import DeviceError, UsageError
from hwbench.meters.powercap import find_zones
from hwbench.records.base import Missing
from hwbench.records.changes import Change

_CPU = "sys/devices/system/cpu"
_NO_TURBO = f"{_CPU}/intel_pstate/no_turbo"
_BOOST = f"{_CPU}/cpufreq/boost"
_SMT = f"{_CPU}/smt/control"
_PARANOID = "proc/sys/kernel/perf_event_paranoid"
_READ_BY_ALL = stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH

Planner = Callable[[Subject, str], tuple[Change, ...]]


def _rapl(subject: Subject, value: str) -> tuple[Change, ...]:
    _one_of("rapl", value, ("readable",))
    device = subject.device
    virtual = subject.virtual
    container = not isinstance(device, Missing) and isinstance(device.container, str)
    zones = find_zones(subject.tree.root, virtual=virtual, container=container)
    if isinstance(zones, Missing):
        raise _cannot("rapl", zones.why, zones.cure)
    changes = []
    for zone in zones:
        mode = stat.S_IMODE(zone.counter.stat().st_mode)
        path = str(zone.counter.relative_to(subject.tree.root))
        after = f"{mode | _READ_BY_ALL:04o}"
        changes.append(Change(setting="rapl", path=path, kind="mode", before=f"{mode:04o}", after=after))
    return _unless_so_already(changes)


def _perf_events(subject: Subject, value: str) -> tuple[Change, ...]:
    _one_of("perf_events", value, ("-1", "0", "1", "2"))
    return _unless_so_already([_content(subject, "perf_events", _PARANOID, value)])


def _turbo(subject: Subject, value: str) -> tuple[Change, ...]:
    _one_of("turbo", value, ("off", "on"))
    if subject.tree.exists(_NO_TURBO):
        return _unless_so_already([_content(subject, "turbo", _NO_TURBO, "1" if value == "off" else "0")])
    # The switch of all policies sets each policy's own: it comes last, so that on the way back they come after it.
    paths = [f"{policy}/boost" for policy in subject.tree.glob(f"{_CPU}/cpufreq", "policy*")] + [_BOOST]
    there = [path for path in paths if subject.tree.exists(path)]
    if not there:
        raise _cannot("turbo", subject.not_shown("a switch for turbo", f"/{_NO_TURBO}, /{_BOOST}").why, None)
    return _unless_so_already(
        [_content(subject, "turbo", path, "0" if value == "off" else "1") for path in there],
    )


def _governor(subject: Subject, value: str) -> tuple[Change, ...]:
    tree = subject.tree
    policies = [policy for policy in tree.glob(f"{_CPU}/cpufreq", "policy*") if _is_usable(subject, policy)]
    if not policies:
        raise _cannot("governor", subject.not_shown("a frequency governor", f"/{_CPU}/cpufreq").why, None)
    changes = []
    for policy in policies:
        offered = (tree.text(f"{policy}/scaling_available_governors") or "").split()
        if offered and value not in offered:
            msg = f"there is no governor {value!r} in /{policy}"
            raise UsageError(msg, hint=f"there are: {', '.join(offered)}")
        changes.append(_content(subject, "governor", f"{policy}/scaling_governor", value))
    if not _unless_so_already(changes):
        return ()
    # Some drivers (amd_pstate) leave the preference where the governor has put it, so it is put back after that.
    preferences = [(f"{policy}/energy_performance_preference", policy) for policy in policies]
    found = [(path, text) for path, _ in preferences if (text := tree.text(path))]
    kept = [Change(setting="governor", path=path, kind="content", before=text, after=None) for path, text in found]
    return (*kept, *changes)


def _smt(subject: Subject, value: str) -> tuple[Change, ...]:
    _one_of("smt", value, ("off", "on"))
    now = subject.tree.text(_SMT)
    if value == "off" and now in {"off", "forceoff", "notsupported"}:
        return ()
    if now is None or now not in {"on", "off"}:
        why = f"/{_SMT} says {now}" if now else subject.not_shown("a switch for SMT", f"/{_SMT}").why
        raise _cannot("smt", why, "see the firmware's settings and the kernel's command line (nosmt)")
    return _unless_so_already([_content(subject, "smt", _SMT, value)])


@dataclass(frozen=True)
class Setting:
    """One thing that can be changed; ``quiet`` is the value taken where none is given, empty where one is needed."""

    plan: Planner
    quiet: str


# In this order whatever the user's: CPUs that SMT or a power mode takes away lose their governors' files, so these come
# late; and what jetson_clocks holds is what the power mode allows.
SETTINGS: dict[str, Setting] = {
    "rapl": Setting(_rapl, "readable"),
    "perf_events": Setting(_perf_events, "0"),
    "turbo": Setting(_turbo, "off"),
    "governor": Setting(_governor, "performance"),
    "gpu_persistence": Setting(gpu_settings.persistence, "on"),
    "gpu_power": Setting(gpu_settings.power, ""),
    "gpu_memory_clocks": Setting(gpu_settings.memory_clocks, ""),
    "gpu_clocks": Setting(gpu_settings.clocks, ""),
    "smt": Setting(_smt, "off"),
    "power_mode": Setting(jetson_settings.mode, ""),
    "jetson_clocks": Setting(jetson_settings.clocks, "on"),
}


def of_gpu(name: str) -> bool:
    """Say whether a setting is of a GPU, which must be known by then."""
    return name.startswith("gpu_")


def parse_settings(texts: Sequence[str]) -> dict[str, str]:
    """Read ``governor=performance,turbo`` into values by name.

    Raises:
        UsageError: a name is unknown or given twice.
    """
    values: dict[str, str] = {}
    for text in texts:
        for part in text.split(","):
            name, equals, value = part.strip().partition("=")
            name = name.replace("-", "_")
            if name not in SETTINGS:
                msg = f"--apply cannot set {name!r}"
                raise UsageError(msg, hint=f"it can set: {', '.join(SETTINGS)}")
            if name in values:
                msg = f"--apply names {name} twice"
                raise UsageError(msg, hint="give each setting once")
            values[name] = value if equals else SETTINGS[name].quiet
    return values


def plan(subject: Subject, values: dict[str, str]) -> tuple[Change, ...]:
    """Return every change that ``values`` takes, in the order to make them; empty where all is so already.

    Raises:
        UsageError: a value is unknown.
        DeviceError: this machine offers no such switch.
    """
    return tuple(change for name in SETTINGS if name in values for change in SETTINGS[name].plan(subject, values[name]))


def _is_usable(subject: Subject, policy: str) -> bool:
    cpu, listed = subject.cpu, (subject.tree.text(f"{policy}/related_cpus") or "").split()
    if isinstance(cpu, Missing) or not listed:
        return True
    return bool(set(listed) & {str(number) for number in cpu.usable_cpus})


def _content(subject: Subject, setting: str, path: str, after: str) -> Change:
    before = subject.tree.text(path)
    if not before:
        raise _cannot(setting, subject.not_shown(f"what {setting} is set to", f"/{path}").why, None)
    return Change(setting=setting, path=path, kind="content", before=before, after=after)


def _unless_so_already(changes: Sequence[Change]) -> tuple[Change, ...]:
    return tuple(changes) if any(change.before != change.after for change in changes) else ()


def _one_of(setting: str, value: str, values: Sequence[str]) -> None:
    if value not in values:
        msg = f"{setting} cannot be set to {value!r}"
        raise UsageError(msg, hint=f"it can be: {', '.join(values)}")


def _cannot(setting: str, why: str, cure: str | None) -> DeviceError:
    return DeviceError(f"{setting} cannot be set here: {why}; nothing has been changed", hint=cure)
