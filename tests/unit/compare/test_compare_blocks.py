"""Interleaving, with talks that answer at once and a clock that moves when they work."""

import contextlib

import msgspec
import pytest
from fixtures_results import make_energy, make_measurement

from hwbench.compare.blocks import MIN_RESTARTS, MIN_ROUNDS, interleave, restarts_in
from hwbench.compare.metrics import verdicts
from hwbench.compare.verdict import looks
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


NOT_ASKED = Missing(code="not_asked", why="not asked for")


class Lab:
    """Starts talks, and keeps who was started, asked and let go, in order."""

    def __init__(self, latency_s, energy=NOT_ASKED, start_s=0.5):
        self.clock = FakeClock()
        self.energy, self.start_s = energy, start_s
        self.latency_s = latency_s
        self.started, self.asked, self.open = [], [], set()
        self.run = make_measurement()

    @contextlib.contextmanager
    def start(self, restart, process):
        assert process not in self.open
        self.open.add(process)
        self.started.append((restart, process))
        self.clock.sleep(self.start_s)
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
        return Block(samples_ns=(value,) * question.count, energy=lab.energy)

    def finish(self, kind):
        run = self.lab.run
        return ProcessRun(
            built=run.built,
            phases=run.phases,
            memory=run.memory,
            timed_region=run.timed_region,
            outputs_finite=True,
        )


class Judge:
    """Plans what it is told to, keeps what it was asked, and stops when told to."""

    def __init__(self, planned, stop_at=None):
        self.planned, self.stop_at = planned, stop_at
        self.checked, self.looks, self.shortest_s = [], [], None

    def plan(self, shortest_s):
        self.shortest_s = shortest_s
        return self.planned

    def check(self, processes):
        self.checked.append(len(processes))

    def settled(self, processes, look):
        self.looks.append((len(processes), look))
        return look == self.stop_at


def plan(**changes):
    fields = {
        "threads": 1, "cpus": (0,), "batch_size": None, "budget_s": 30.0, "restarts": 3, "block_s": 0.1,
        "warmup_s": 0.1, "meter": "none", "looks": (1, 2, 3), "levels": (0.01, 0.01, 0.03), "timeout_s": 10.0,
    }  # fmt: skip
    return Plan(**{**fields, **changes})


def measure(lab, chosen, judge=None):
    return interleave(
        lab.start,
        judge or Judge(chosen),
        budget_s=chosen.budget_s,
        block_s=chosen.block_s,
        seed=0,
        clock=lab.clock,
        watch=lambda label, fraction: None,
    )


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


def test_the_very_first_process_is_a(lab):
    """It finds a cold page cache; B's start would be taken for longer than it is."""
    measure(lab, plan())
    assert lab.started[0] == (0, "a")


def test_it_stops_at_a_look_that_settles_it(lab):
    chosen = plan(restarts=6, looks=(2, 4, 6))
    judge = Judge(chosen, stop_at=1)
    processes, looked = measure(lab, chosen, judge)
    assert judge.looks == [(6, 0), (12, 1)]
    assert judge.checked == [3]
    assert (looked, len(processes)) == (2, 12)


@pytest.mark.parametrize(
    ("start_s", "latency_s", "restarts"),
    [(0.4, 1e-3, 11), (0.1, 1e-3, 21), (1.0, 1e-3, 4), (5.0, 1e-3, 3), (0.4, 0.05, 4), (0.4, 1.0, 3)],
)
def test_there_are_as_many_restarts_as_the_budget_has_room_for(start_s, latency_s, restarts):
    lab = Lab(dict.fromkeys(("a", "control", "b"), latency_s), start_s=start_s)
    judge = Judge(plan(block_s=0.05))
    measure(lab, judge.planned, judge)
    assert restarts_in(30.0, judge.shortest_s) == restarts
    assert restarts_in(1.0, judge.shortest_s) == MIN_RESTARTS


def test_what_is_planned_keeps_to_the_budget():
    lab = Lab(dict.fromkeys(("a", "control", "b"), 1e-3), start_s=0.4)
    judge = Judge(plan(block_s=0.05))
    judge.plan = lambda shortest_s: plan(
        block_s=0.05, restarts=restarts_in(30.0, shortest_s), looks=looks(11)[0], levels=looks(11)[1]
    )
    processes, _ = measure(lab, judge.planned, judge)
    assert len(processes) == 33
    assert 25 < lab.clock.now_ns() / 1e9 <= 30


def test_verdicts_on_what_was_measured(lab):
    processes, _ = measure(lab, plan())
    found, absent = verdicts(processes, SETTINGS, plan(), 0.97)
    words = {item.metric: item.word for item in found}
    assert words == {"latency": "SLOWER", "latency_p90": "SLOWER", "peak_memory": "SAME"}
    assert found[0].a == pytest.approx(1e-3, rel=0.01)
    assert found[0].ratio.value == pytest.approx(2, rel=0.01)
    assert set(absent) == {"throughput", "energy"}


def test_a_control_that_differs_makes_it_inconclusive():
    lab = Lab({"a": 1e-3, "control": 1.2e-3, "b": 2e-3})
    processes, _ = measure(lab, plan())
    found, _ = verdicts(processes, SETTINGS, plan(), 0.97)
    assert found[0].word == "INCONCLUSIVE"
    assert found[0].why.code == "control_differs"


def test_a_percentile_joins_restarts_until_there_are_samples_enough():
    lab = Lab(dict.fromkeys(("a", "control", "b"), 0.01))
    processes, _ = measure(lab, plan(restarts=9, looks=(3, 6, 9)))
    samples = [sum(len(block.samples_ns) for block in item.blocks) for item in processes]
    assert 34 <= min(samples) < 100
    tail = next(item for item in verdicts(processes, SETTINGS, plan(), 0.95)[0] if item.metric == "latency_p90")
    assert tail.ratio.degrees <= 5  # 9 restarts are 3 with samples enough
    few = [item for item in processes if item.restart == 0]
    assert verdicts(few, SETTINGS, plan(), 0.95)[1]["latency_p90"].code == "too_few_samples"


def energy_of(*flags):
    reading = make_energy(0.5, 10)["energy"]
    return msgspec.structs.replace(reading, flags=flags, window_s=0.1, update_period_s=0.1)


def test_energy_of_good_blocks_is_compared(lab):
    lab.energy = energy_of()
    found, _ = verdicts(measure(lab, plan())[0], SETTINGS, plan(), 0.95)
    assert next(item.word for item in found if item.metric == "energy") == "MORE"  # B's blocks hold half as many


def test_blocks_that_are_short_for_the_meter_make_no_energy(lab):
    for energy in (energy_of("window_too_short"), Missing(code="window_too_short", why="nothing moved", cure="longer")):
        lab.energy = energy
        found, absent = verdicts(measure(lab, plan())[0], SETTINGS, plan(), 0.95)
        assert absent["energy"].code == "window_too_short"
        assert "--block" in absent["energy"].cure
        assert "energy" not in {item.metric for item in found}
    lab.energy = energy_of("window_too_short")
    assert "--block 1s" in verdicts(measure(lab, plan())[0], SETTINGS, plan(), 0.95)[1]["energy"].cure


@pytest.mark.parametrize("flag", ["low_coverage", "sensor_stale"])
def test_blocks_that_were_badly_seen_make_no_energy(lab, flag):
    lab.energy = energy_of(flag)
    assert verdicts(measure(lab, plan())[0], SETTINGS, plan(), 0.95)[1]["energy"].code == flag
