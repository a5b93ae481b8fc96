"""Which CPUs there are to run on, and how much of them."""

from __future__ import annotations

from collections.abc import Sequence

from hwbench.devices import cgroup
from hwbench.devices.tree import cpu_list
from hwbench.doctor.answers import cannot_tell, info, ok, warning
from hwbench.doctor.subject import CpuSeconds, Subject
from hwbench.records.base import Missing
from hwbench.records.health import HealthCheck
from hwbench.units import format_seconds

_BUSY_SIBLING = 0.05  # of the time
_NAMED = 4


def smt(subject: Subject) -> HealthCheck:
    """Check that no core has to be shared by two threads, be the other thread's CPU usable here or not."""
    name, cpu = "smt", subject.cpu
    if isinstance(cpu, Missing):
        return cannot_tell(name, cpu)
    if isinstance(cpu.threads_per_core, Missing):
        return cannot_tell(name, cpu.threads_per_core)
    usable, cores, others = len(cpu.usable_cpus), len(cpu.usable_cores), subject.siblings_of_others
    figures = {"usable_cpus": float(usable), "usable_cores": float(cores), "siblings_of_others": float(len(others))}
    if usable == cores and not others:
        return ok(name, f"{usable} usable CPUs, each a core of its own", **figures)
    text = f"{usable} usable CPUs on {cores} cores (SMT)"
    if others:
        text += f"; CPU {_listed(others)} may not be used here, and shares a core with one that may"
    return warning(
        name,
        text,
        "hwbench runs one thread a core, but whatever the system puts on the sibling takes part of that core",
        "hwbench doctor --apply smt -- COMMAND (or: echo off | sudo tee /sys/devices/system/cpu/smt/control), or keep "
        "the siblings idle",
        **figures,
    )


def sibling_load(subject: Subject, before: CpuSeconds, after: CpuSeconds, seconds: float) -> HealthCheck | None:
    """Check that nobody was busy on the other half of a core that this process may use, ``seconds`` between two looks.

    Only of siblings that this process may not use itself: for the others, whoever is busy there is seen anyway.
    """
    name, siblings = "sibling_load", subject.siblings_of_others
    known = [cpu for cpu in siblings if cpu in before and cpu in after]
    if not siblings:
        return None
    if not known or seconds <= 0:
        return cannot_tell(name, subject.not_shown("how busy the siblings of the usable CPUs are", "/proc/stat"))
    shares = {cpu: (after[cpu] - before[cpu]) / seconds for cpu in known}
    busiest = max(known, key=lambda cpu: shares[cpu])
    text = f"CPU {busiest}, on the same core as a usable one, was busy {shares[busiest]:.0%} of the time"
    if shares[busiest] < _BUSY_SIBLING:
        return ok(name, text, busy_share=shares[busiest])
    return warning(
        name,
        text,
        "two threads on a core share its units and caches: each runs much slower than alone, and not evenly",
        "stop what runs there, or pin hwbench to cores whose siblings are idle (taskset)",
        busy_share=shares[busiest],
    )


def _listed(cpus: Sequence[int]) -> str:
    named = ", ".join(map(str, cpus[:_NAMED]))
    return named if len(cpus) <= _NAMED else f"{named} and {len(cpus) - _NAMED} more"


def isolated(subject: Subject) -> HealthCheck:
    """Tell which CPUs the kernel keeps free of other work."""
    name, text = "isolated_cpus", subject.tree.text("sys/devices/system/cpu/isolated")
    if text is None:
        return cannot_tell(name, subject.not_shown("isolated CPUs", "/sys/devices/system/cpu/isolated"))
    cpus = cpu_list(text)
    if not cpus:
        return info(name, "no CPUs are isolated (isolcpus)")
    return info(
        name,
        f"CPUs {text} are isolated: the scheduler puts nothing there by itself",
        f"to measure on them: taskset -c {text} hwbench profile ...",
        isolated_cpus=len(cpus),
    )


def numa(subject: Subject) -> HealthCheck:
    """Check that all memory is equally near."""
    name, cpu = "numa", subject.cpu
    if isinstance(cpu, Missing):
        return cannot_tell(name, cpu)
    if isinstance(cpu.numa_nodes, Missing):
        return cannot_tell(name, cpu.numa_nodes)
    if cpu.numa_nodes == 1:
        return ok(name, "one NUMA node")
    return warning(
        name,
        f"{cpu.numa_nodes} NUMA nodes",
        "weights may lie in another node's memory, which is slower, and differently from one run to the next",
        "stay on one: numactl --cpunodebind=0 --membind=0 hwbench profile ...",
        numa_nodes=cpu.numa_nodes,
    )


def cpu_quota(subject: Subject) -> HealthCheck:
    """Check that the control group leaves the CPUs alone."""
    name, cpu = "cpu_quota", subject.cpu
    if isinstance(cpu, Missing):
        return cannot_tell(name, cpu)
    quota = cpu.quota_cpus
    if isinstance(quota, Missing):
        return ok(name, quota.why) if quota.code == "no_limit" else cannot_tell(name, quota)
    usable = len(cpu.usable_cpus)
    if quota >= usable:
        return ok(name, f"the control group allows {quota:g} CPUs, no fewer than the {usable} usable", quota_cpus=quota)
    return warning(
        name,
        f"the control group allows {quota:g} CPUs of the {usable} usable",
        "more threads than that are stopped for the rest of each period (100 ms as a rule): long outliers",
        "raise the limit (docker run --cpus, Kubernetes limits.cpu), or run no more threads than it allows (--threads)",
        quota_cpus=quota,
        usable_cpus=usable,
    )


def cpu_throttling(subject: Subject) -> HealthCheck:
    """Check that the quota has never stopped this control group."""
    name = "cpu_quota_throttling"
    counts = [found for folder in cgroup.cpu_folders(subject.tree) if (found := _stopped(subject, folder)) is not None]
    if not counts:
        reason = Missing(code="not_exposed", why="no control group here counts how often it was stopped (cpu.stat)")
        return cannot_tell(name, reason)
    times, seconds = max(counts)
    if not times:
        return ok(name, "the control group has never been stopped by its CPU quota")
    return warning(
        name,
        f"the control group was stopped by its CPU quota {times} times, {format_seconds(seconds)} in all",
        "an inference that is stopped waits for the next period: long outliers",
        "raise the limit, or run fewer threads (--threads)",
        throttled_count=times,
        throttled_s=seconds,
    )


def _stopped(subject: Subject, folder: str) -> tuple[int, float] | None:
    """Return how often and how long a group was stopped; microseconds in v2, nanoseconds in v1."""
    lines = (line.split() for line in (subject.tree.text(f"{folder}/cpu.stat") or "").splitlines())
    numbers = {line[0]: int(line[1]) for line in lines if len(line) == 2 and line[1].isdecimal()}
    if "nr_throttled" not in numbers:
        return None
    seconds = numbers.get("throttled_usec", 0) * 1e-6 or numbers.get("throttled_time", 0) * 1e-9
    return numbers["nr_throttled"], seconds
