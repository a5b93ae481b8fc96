"""Who else wants the machine: other processes, other guests of the hypervisor; and what a container hides."""

from __future__ import annotations

from hwbench.doctor.answers import cannot_tell, info, ok, warning
from hwbench.doctor.subject import Processes, Subject
from hwbench.records.base import Missing
from hwbench.records.health import HealthCheck

_IDLE_SHARE = 0.1  # of the usable CPUs; the verdict on a measurement warns from the same share of foreign load
_BUSY_PROCESS = 0.05  # of one CPU
_STEAL_SHARE = 0.005
_NAMED = 3
# What hwbench reads, and a container runtime may cover with an empty file system (Docker does the first and last).
_WANTED = ("/sys/devices/virtual/powercap", "/sys/class/powercap", "/sys/class/hwmon", "/sys/class/thermal",
           "/sys/devices/system/cpu", "/proc/stat", "/proc/meminfo", "/sys/firmware")  # fmt: skip


def load_average(subject: Subject) -> HealthCheck:
    """Check that few others have been running during the last minute."""
    name, load, cpu = "load_average", subject.host.load_1min, subject.cpu
    if isinstance(load, Missing):
        return cannot_tell(name, load)
    if isinstance(cpu, Missing):
        return cannot_tell(name, cpu)
    usable = len(cpu.usable_cpus)
    text = f"load {load:.2f} over the last minute, {usable} usable CPUs"
    if load <= max(0.5, _IDLE_SHARE * usable):
        return ok(name, text, load_1min=load)
    return warning(
        name,
        text,
        "others run at the same time: they take CPU time, cache and memory bandwidth",
        "stop them, or wait until they are done (the load of the last minute falls slowly)",
        load_1min=load,
    )


def busiest(before: Processes, after: Processes, seconds: float) -> HealthCheck:
    """Check that no other process was busy between two looks, ``seconds`` apart."""
    name = "other_processes"
    if seconds <= 0:
        return cannot_tell(name, Missing(code="no_time", why="no time passed between the two looks"))
    shares = sorted(
        ((spent - before[key][1] if key in before else spent) / seconds, key[0], what)
        for key, (what, spent) in after.items()
    )[::-1]
    named = [(share, pid, what) for share, pid, what in shares if share >= _BUSY_PROCESS][:_NAMED]
    total = sum(share for share, _, _ in shares)
    if not named:
        return ok(name, f"no other process used {_BUSY_PROCESS:.0%} of a CPU, all of them {total:.0%}", busy_cpus=total)
    listed = ", ".join(f"{what} (process {pid}) {share:.0%}" for share, pid, what in named)
    return warning(
        name,
        f"busy now, in shares of one CPU: {listed}; all others {total - sum(share for share, _, _ in named):.0%}",
        "they take CPU time, cache and memory bandwidth, and move threads between cores",
        "stop them while you measure",
        busy_cpus=total,
    )


def hypervisor(subject: Subject) -> HealthCheck:
    """Check that nobody else's virtual machine takes CPU time from this one."""
    name, device, host = "virtual_machine", subject.device, subject.host
    if isinstance(device, Missing):
        return cannot_tell(name, device)
    if isinstance(device.virtual, Missing):
        return (
            ok(name, device.virtual.why) if device.virtual.code == "bare_metal" else cannot_tell(name, device.virtual)
        )
    what = f"virtual machine ({device.virtual})"
    steal_s, busy_s = host.steal_s, host.busy_s
    if isinstance(steal_s, Missing):
        return cannot_tell(name, Missing(code=steal_s.code, why=f"{what}, and {steal_s.why}"))
    if isinstance(busy_s, Missing):
        return cannot_tell(name, Missing(code=busy_s.code, why=f"{what}, and {busy_s.why}"))
    share = steal_s / (steal_s + busy_s) if steal_s else 0.0
    text = f"{what}; {share:.2%} of the CPU time it wanted since boot was taken from it (steal)"
    figures = {"steal_s": steal_s, "steal_share": share}
    if share <= _STEAL_SHARE:
        told = f"{text}; what neighbours take of cache and memory bandwidth is not shown"
        return info(name, told, "for numbers to publish, measure on the physical machine", **figures)
    return warning(
        name,
        text,
        "the hypervisor stops this machine for others: outliers and drifting medians",
        "use a dedicated or bare-metal instance, or one that is not of a burstable kind",
        **figures,
    )


def container(subject: Subject) -> HealthCheck:
    """Check that a container does not hide what hwbench reads."""
    name, device = "container", subject.device
    if isinstance(device, Missing):
        return cannot_tell(name, device)
    covered = _covered(subject)
    if not covered:
        inside = f"{device.container} container" if isinstance(device.container, str) else "no container"
        return ok(name, f"{inside}; nothing that hwbench reads is covered")
    kind = device.container if isinstance(device.container, str) else "unnamed"
    return warning(
        name,
        f"{kind} container; covered: {', '.join(covered)}",
        "sensors and counters below them cannot be read, so some disturbances stay unseen",
        "start it with -v /sys:/host/sys:ro -v /proc:/host/proc:ro and set HWBENCH_SYSFS_ROOT=/host",
    )


def _covered(subject: Subject) -> list[str]:
    """Return what is mounted over with an empty file system; fields as in proc_pid_mountinfo(5)."""
    covered = []
    for line in (subject.tree.text("proc/self/mountinfo") or "").splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        if len(fields) < 5 or not kind or kind[0] not in {"tmpfs", "devtmpfs"}:
            continue
        point = fields[4]
        if any(point == wanted or point.startswith(f"{wanted}/") for wanted in _WANTED):
            covered.append(point)
    return covered
