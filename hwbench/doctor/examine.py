"""All checks, in the order a person would go through them."""

from __future__ import annotations

import time
from collections.abc import Callable

import hwbench
from hwbench.doctor import clocks, cores, counters, gpu, heat, jetson, left_over, live, load, memory
from hwbench.doctor.subject import Subject
from hwbench.records.base import Missing
from hwbench.records.health import HEALTH_SCHEMA, Health, HealthCheck

Check = Callable[[Subject], HealthCheck | None]

CHECKS: tuple[Check, ...] = (
    clocks.governor,
    clocks.turbo,
    clocks.power_profile,
    clocks.clock_range,
    cores.smt,
    cores.cpu_quota,
    cores.cpu_throttling,
    cores.numa,
    cores.isolated,
    load.load_average,
    load.hypervisor,
    load.container,
    heat.headroom,
    heat.throttling,
    heat.power_supply,
    heat.jetson_mode,
    jetson.clocks,
    jetson.fan,
    jetson.over_current,
    jetson.memory,
    *gpu.CHECKS,
    memory.memory_available,
    memory.swap,
    memory.huge_pages,
    memory.address_randomisation,
    memory.disk,
    counters.rapl,
    counters.perf_events,
    clocks.clock_source,
    left_over.left_changed,
)


def examine(subject: Subject, *, work: live.Spin = live.spin) -> Health:
    """Run every check, then the clock and a second of ``work``; takes about a second and a half.

    Other processes are looked at before and after that second, so what they did then stands beside what it measured.
    """
    start = subject.clock.now_ns()
    found = [answer for check in CHECKS if (answer := check(subject)) is not None]
    before, busy_before, looked = subject.processes(), subject.busy_seconds(), subject.clock.now_ns()
    found += [live.timer(subject.clock), live.noise(subject.clock, work)]
    seconds = (subject.clock.now_ns() - looked) * 1e-9
    siblings = cores.sibling_load(subject, busy_before, subject.busy_seconds(), seconds)
    found += [siblings] if siblings is not None else []
    found.append(load.busiest(before, subject.processes(), seconds))
    device = subject.device
    return Health(
        schema_version=HEALTH_SCHEMA,
        hwbench=hwbench.__version__,
        created_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        machine=device if isinstance(device, Missing) else device.title,
        root=str(subject.tree.root),
        elapsed_s=(subject.clock.now_ns() - start) * 1e-9,
        checks=tuple(found),
    )
