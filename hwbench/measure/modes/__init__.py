"""The modes: one a module, each a function ``run(session) -> Seen``; the worker picks by ``settings.mode``."""

from __future__ import annotations

from collections.abc import Callable

from hwbench.measure.modes import burst, cold, energy, latency, server, steady, sustained, throughput
from hwbench.measure.session import Seen, Session
from hwbench.records.measurement import Mode

MODES: dict[Mode, Callable[[Session], Seen]] = {
    "latency": latency.run,
    "throughput": throughput.run,
    "burst": burst.run,
    "steady": steady.run,
    "sustained": sustained.run,
    "server": server.run,
    "cold": cold.run,
    "energy": energy.run,
}
