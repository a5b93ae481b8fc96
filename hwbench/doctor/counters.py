"""Counters that the kernel keeps from ordinary users."""

from __future__ import annotations

from hwbench.doctor.answers import cannot_tell, info, ok, warning
from hwbench.doctor.subject import Subject
from hwbench.meters.rapl import Rapl
from hwbench.records.base import Missing
from hwbench.records.health import HealthCheck

_PARANOID = "proc/sys/kernel/perf_event_paranoid"


def rapl(subject: Subject) -> HealthCheck:
    """Check that the CPU's energy counters can be read."""
    name, device = "rapl", subject.device
    if isinstance(device, Missing):
        return cannot_tell(name, device)
    support = Rapl(subject.tree.root, subject.clock).supports(device)
    if support.usable:
        return ok(name, "energy counters (RAPL) can be read")
    reason = support.reasons[0]
    if reason.code != "permission_denied" or reason.cure is None:
        return cannot_tell(name, reason)
    return warning(name, reason.why, "energy stays unmeasured", reason.cure)


def perf_events(subject: Subject) -> HealthCheck:
    """Tell whether this user may read hardware counters; hwbench does not need them, other tools do."""
    name, level = "perf_events", subject.tree.integer(_PARANOID)
    if level is None:
        return cannot_tell(name, subject.not_shown("who may use performance counters", f"/{_PARANOID}"))
    allowed = {-1: "everything", 0: "all but raw tracepoints", 1: "own processes and the kernel", 2: "own processes"}
    told = f"perf_event_paranoid {level}: users may read {allowed.get(level, 'nothing' if level > 2 else 'everything')}"
    cure = f"for perf over the whole machine: echo 0 | sudo tee /{_PARANOID}" if level > 0 else None
    return info(name, told, cure, level=level)
