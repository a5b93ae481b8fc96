"""Contests with talks that answer at once, a clock that moves when they work, and machines whose truth is known."""

import contextlib
import math

import numpy as np
from fixtures_results import make_measurement

from hwbench.compare.contest import hold
from hwbench.records.base import Missing
from hwbench.records.comparison import Block, ProcessRun, Ready
from hwbench.records.contest import ContestPlan, Entrant

MEASURED = make_measurement()
NOT_ASKED = Missing(code="not_asked", why="not asked for")


class FakeClock:
    def __init__(self):
        self.ns = 0

    def now_ns(self):
        return self.ns

    def sleep(self, seconds):
        self.ns += round(seconds * 1e9)


class Machine:
    """True latencies by name; each process is off by ``between``, each block by ``within``, sometimes by a burst."""

    def __init__(self, latency_s, *, between=0.0, within=0.001, burst=0.0, start_s=0.5, size=100, seed=0):
        self.latency_s, self.between, self.within, self.burst = latency_s, between, within, burst
        self.start_s, self.size = start_s, size
        self.chance = np.random.default_rng(seed)
        self.clock = FakeClock()
        self.started, self.asked, self.open = [], [], []
        self.most_open = 0
        self.run = MEASURED

    @contextlib.contextmanager
    def start(self, restart, heat, name, control):
        self.open.append((name, control))
        self.most_open = max(self.most_open, len(self.open))
        self.started.append((restart, heat, name, control))
        self.clock.sleep(self.start_s)
        yield Talk(self, restart, heat, name)
        self.open.remove((name, control))


class Talk:
    def __init__(self, machine, restart, heat, name):
        self.machine, self.restart, self.heat, self.name = machine, restart, heat, name
        self.level_s = machine.latency_s[name] * math.exp(machine.between * machine.chance.standard_normal())

    def hear(self, kind):
        assert kind is Ready
        return Ready(latency_s=self.level_s, resident_bytes=self.machine.size)

    def ask(self, question, kind):
        machine = self.machine
        machine.asked.append((self.restart, self.heat, self.name, question.count))
        value_s = self.level_s * math.exp(machine.within * machine.chance.standard_normal())
        if machine.chance.random() < machine.burst:
            value_s *= 1.2
        machine.clock.sleep(question.count * value_s)
        return Block(samples_ns=(round(value_s * 1e9),), energy=NOT_ASKED)

    def finish(self, kind):
        run = self.machine.run
        return ProcessRun(
            built=run.built, phases=run.phases, memory=run.memory, timed_region=run.timed_region, outputs_finite=True
        )


def plan(**changes):
    fields = {
        "objective": "latency", "budget_s": 60.0, "block_s": 0.1, "restarts": 8, "most_live": 8,
        "memory_limit_bytes": 10_000, "level": 0.05, "seed": 0,
    }  # fmt: skip
    return ContestPlan(**{**fields, **changes})


def entrants(uniform, planned=(), refused=()):
    return [Entrant(name=name, uniform=name in uniform, counts=name not in refused) for name in (*uniform, *planned)]


def contest(machine, who, **changes):
    """Hold a contest; return it and its seats."""
    found = hold(machine.start, who, plan(**changes), clock=machine.clock, watch=lambda label, fraction: None)
    assert not isinstance(found, Missing), found
    return found
