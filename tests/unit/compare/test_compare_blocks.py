"""Interleaving, with talks that answer at once and a clock that moves when they work."""

import contextlib

import pytest
from fixtures_results import make_measurement

from hwbench.compare.blocks import MIN_ROUNDS, interleave
from hwbench.compare.metrics import verdicts
from hwbench.records.base import Missing
from hwbench.records.comparison import Block, Plan, ProcessRun, Ready, Settings

SETTINGS = Settings(min_effect=0.02, min_latency_s=1e-6, min_memory_bytes=2**20, between_runs=0.005, seed=0)


class FakeClock:
    def __init__(self):
        self.ns = 0

    def now_ns(self):
        return self.ns

    def sleep(self, seconds):
        self.ns += round(seconds * 1e9)


class Lab:
    """Starts talks, and keeps who was started, asked and let go, in order."""

    def __init__(self, latency_s, memory=None):
        self.clock = FakeClock()
        self.latency_s = latency_s
        self.started, self.asked, self.open = [], [], set()
        self.run = make_measurement()

    @contextlib.contextmanager
    def start(self, restart, process):
        assert process not in self.open
        self.open.add(process)
        self.started.append((restart, process))
        self.clock.sleep(0.5)
        yield Talk(self, restart, process)
        self.open.discard(process)


class Talk:
    def __init__(self, lab, restart, process):
        self.lab, self.restart, self.process = lab, restart, process

    def hear(self, kind):
        assert kind is Ready
        return Ready(latency_s=self.lab.latency_s[self.process])

    def ask(self, question, kind):
        assert kind is Block
        lab = self.lab
        assert lab.open == {"a", "control", "b"}  # kept alive beside each other
        lab.asked.append((self.restart, self.process, question.count))
        lab.clock.sleep(question.count * lab.latency_s[self.process])
        wobble = 1 + 0.001 * ((len(lab.asked) * 7919) % 11 - 5)
        value = round(lab.latency_s[self.process] * 1e9 * wobble)
        return Block(samples_ns=(value,) * question.count, energy=Missing(code="not_asked", why="not asked for"))

    def finish(self, kind):
        run = self.lab.run
        return ProcessRun(built=run.built, phases=run.phases, memory=run.memory, timed_region=run.timed_region)


def plan(**changes):
    fields = {
        "threads": 1, "cpus": (0,), "batch_size": None, "budget_s": 30.0, "restarts": 3, "block_s": 0.1,
        "warmup_s": 0.1, "meter": "none", "looks": (1, 2, 3), "levels": (0.01, 0.01, 0.03), "timeout_s": 10.0,
    }  # fmt: skip
    return Plan(**{**fields, **changes})


def measure(lab, chosen, settled=lambda processes, look: False):
    return interleave(lab.start, chosen, settled, seed=0, clock=lab.clock, watch=lambda label, fraction: None)


@pytest.fixture
def lab():
    return Lab({"a": 1e-3, "control": 1e-3, "b": 2e-3})


def test_each_round_asks_each_process_once_in_changing_order(lab):
    processes, looked = measure(lab, plan())
    assert looked == 3
    rounds = [tuple(name for _, name, _ in lab.asked[i : i + 3]) for i in range(0, len(lab.asked), 3)]
    assert all(sorted(names) == ["a", "b", "control"] for names in rounds)
    assert len(set(rounds)) == 6
    assert len(processes) == 9
    assert len({len(item.blocks) for item in processes if item.restart == 0}) == 1


def test_blocks_take_the_same_time_and_at_least_five_inferences(lab):
    measure(lab, plan())
    assert {(name, count) for _, name, count in lab.asked} == {("a", 100), ("control", 100), ("b", 50)}
    slow = Lab(dict.fromkeys(("a", "control", "b"), 1.0))
    processes, _ = measure(slow, plan(restarts=1, looks=(1,), levels=(0.05,), budget_s=1.0))
    assert {count for *_, count in slow.asked} == {5}
    assert len(processes[0].blocks) == MIN_ROUNDS


def test_it_keeps_to_the_budget(lab):
    measure(lab, plan())
    assert 28 < lab.clock.now_ns() / 1e9 <= 30


def test_processes_are_new_in_each_restart_and_started_in_changing_order(lab):
    measure(lab, plan(restarts=6, looks=(2, 4, 6)))
    orders = [tuple(name for number, name in lab.started if number == restart) for restart in range(6)]
    assert all(sorted(order) == ["a", "b", "control"] for order in orders)
    assert len(set(orders)) > 1
    assert not lab.open


def test_it_stops_at_a_look_that_settles_it(lab):
    looks = []

    def settled(processes, look):
        looks.append((len(processes), look))
        return look == 1

    processes, looked = measure(lab, plan(restarts=6, looks=(2, 4, 6)), settled)
    assert looks == [(6, 0), (12, 1)]
    assert (looked, len(processes)) == (2, 12)


def test_verdicts_on_what_was_measured(lab):
    processes, _ = measure(lab, plan())
    found, absent = verdicts(processes, SETTINGS, plan(), 0.97)
    words = {item.metric: item.word for item in found}
    assert words == {"latency": "SLOWER", "latency_p90": "SLOWER", "peak_memory": "SAME"}
    assert found[0].a == pytest.approx(1e-3, rel=0.01)
    assert found[0].ratio.value == pytest.approx(2, rel=0.01)
    assert set(absent) == {"throughput", "energy", "accuracy"}


def test_a_control_that_differs_makes_it_inconclusive():
    lab = Lab({"a": 1e-3, "control": 1.2e-3, "b": 2e-3})
    processes, _ = measure(lab, plan())
    found, _ = verdicts(processes, SETTINGS, plan(), 0.97)
    assert found[0].word == "INCONCLUSIVE"
    assert found[0].why.code == "control_differs"
