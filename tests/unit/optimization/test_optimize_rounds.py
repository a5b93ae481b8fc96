"""The loop: what is asked of a planner, what it is told, and when it ends; with a workshop that makes nothing."""

from contextlib import nullcontext

import msgspec
import pytest
from fake_contests import FakeClock, Machine, Talk, contest, entrants
from fixtures_results import make_model
from test_optimize_parts import candidate, request, scored

from hwbench.errors import EngineError, ModelError
from hwbench.files import write_record
from hwbench.optimization_pipeline.judging import Eligibility
from hwbench.optimization_pipeline.kept import Kept
from hwbench.optimization_pipeline.rounds import MOST_SWAPS, ROUNDS, Loop
from hwbench.optimization_pipeline.run import STAGES, Optimization, _far
from hwbench.optimization_pipeline.timing import Timer as RealTimer
from hwbench.records.base import Missing
from hwbench.records.build import EngineBuilt
from hwbench.records.model import Artefact, ImportResult, ModelFiles
from hwbench.records.optimization import Made, Proposal, Round
from hwbench.records.planning import Design, Interval
from hwbench.records.quantization import Lowered, PrecisionPlan

BASE_S = {"e int8": 1e-3, "e fp32": 2e-3}
EXPECTED = Interval(value=1e-3, low=1e-4, high=1e-2, coverage=0.9, tier="A", n=9, method="guess")


def made(name):
    model = make_model()
    engine = EngineBuilt(
        artefact=Artefact(engine="e", sha256=name, files=("f",), label="int8"),
        lowered=Lowered(files=("f",), arithmetic="int8", settings={}, layers=(), same_bytes=True),
        built=Machine({}).run.built,
        size_bytes=1,
        lower_s=0.0,
        load_s=0.0,
    )
    return Made(
        engine=engine, plan=PrecisionPlan(default="int8"), steps=(), network=None, bundle=name, took_s=0.0,
        imported=ImportResult(model=model, files=ModelFiles(folder=".")),
    )  # fmt: skip


class Workshop:
    """Makes what is asked for; a design's ``floating`` is not read, its widths say how many samples it loses."""

    def __init__(self):
        self.asked = []

    def proposal(self, name, proposal, number, space):
        self.asked.append((number, name, space))
        lost = proposal.design.widths.get("lost", 0)
        new = candidate(name, scored(worse=lost))
        failed = Missing(code="engine_failed", why="it does not build")
        return msgspec.structs.replace(
            new, engine=proposal.engine, made=failed if lost == 99 else made(name), predicted=proposal.predicted,
            design=proposal.design, round=number,
        )  # fmt: skip


class Timer:
    """Holds the contest on a machine where every proposal takes 0.9 ms."""

    def __init__(self):
        self.held = []

    def contest(self, who, budget_s, where, restarts):
        self.held.append(([each.name for each in who], where, restarts))
        latency_s = {each.name: BASE_S.get(each.name, 0.9e-3) for each in who}
        uniform = [each.name for each in who if each.uniform]
        refused = [each.name for each in who if not each.counts]
        planned = [each.name for each in who if not each.uniform]
        machine = Machine(latency_s, between=0.001)
        return contest(machine, entrants(uniform, planned, refused), restarts=restarts)[0]


class Planner:
    space = "the space"

    def __init__(self, rounds, swaps=0, each=1, lost=0):
        self.rounds, self.left, self.each, self.lost = rounds, swaps, each, lost
        self.told = []

    def propose(self, feedback):
        self.told.append(list(feedback))
        return self._some(self.each if len(self.told) <= self.rounds else 0)

    def swaps(self, feedback):
        self.told.append(list(feedback))
        count = min(self.left, self.each)
        self.left -= count
        return self._some(count)

    def _some(self, count):
        design = Design(widths={"lost": self.lost})
        return [Proposal(engine="e", design=design, predicted=EXPECTED) for _ in range(count)]


class Bench:
    def __init__(self, folder, clock=None, **changes):
        clock = clock or FakeClock()
        self.kept = Kept(folder, request(**changes), STAGES, clock, lambda what, fraction: None)
        baselines = [
            msgspec.structs.replace(candidate(name, scored(), uniform=True), made=made(name)) for name in BASE_S
        ]
        self.workshop, self.timer = Workshop(), Timer()
        self.loop = Loop(self.workshop, self.timer, self.kept, Eligibility(0.01, baselines), baselines)

    def run(self, planner):
        self.loop.run(planner)
        return planner


def test_the_first_round_is_held_against_every_baseline_and_the_next_against_the_best(tmp_path):
    bench = Bench(tmp_path)
    bench.run(Planner(rounds=2))
    (first, where, restarts), (second, _, _) = bench.timer.held
    assert first == ["e int8", "e fp32", "e plan 1.1"]
    assert second == ["e int8", "e plan 2.1"]
    assert (where, restarts) == ("round-1-contest", 2)
    assert {each[2] for each in bench.workshop.asked} == {"the space"}


def test_a_planner_is_told_of_all_that_was_measured(tmp_path):
    planner = Bench(tmp_path).run(Planner(rounds=1))
    before, after = planner.told[:2]
    assert [(each.name, each.value.code) for each in before] == [(name, "not_timed") for name in BASE_S]
    told = {each.name: each for each in after if not isinstance(each.value, Missing)}
    assert told["e plan 1.1"].ratio == pytest.approx(0.9, rel=0.01)
    assert told["e plan 1.1"].value == pytest.approx(0.9e-3, rel=0.01)
    assert told["e plan 1.1"].predicted == EXPECTED
    assert told["e int8"].ratio == 1.0
    assert told["e int8"].precision == "int8"
    assert planner.told[2] == after  # asked for swaps


def test_rounds_and_swaps_are_bounded(tmp_path):
    bench = Bench(tmp_path)
    bench.run(Planner(rounds=99, swaps=99, each=9))
    numbers = [number for number, _, _ in bench.workshop.asked]
    assert [numbers.count(number) for number in range(1, ROUNDS + 1)] == [5] * ROUNDS
    assert sum(number > ROUNDS for number in numbers) == MOST_SWAPS
    assert {each.kind for each in bench.loop.rounds[:ROUNDS]} == {"proposals"}
    assert {each.kind for each in bench.loop.rounds[ROUNDS:]} == {"swaps"}
    assert bench.kept.best.endswith("of the best uniform one")


def test_no_round_begins_when_the_time_is_spent(tmp_path):
    clock = FakeClock()
    bench = Bench(tmp_path, clock)
    clock.sleep(80)
    bench.run(Planner(rounds=4))
    assert bench.workshop.asked == []


def test_nothing_more_of_a_round_is_made_when_the_time_is_spent(tmp_path):
    clock = FakeClock()
    bench = Bench(tmp_path, clock)
    make = bench.workshop.proposal
    bench.workshop.proposal = lambda *args: clock.sleep(30) or make(*args)
    bench.run(Planner(rounds=1, each=5))
    assert [name for _, name, _ in bench.workshop.asked] == ["e plan 1.1", "e plan 1.2", "e plan 1.3"]


def test_what_had_no_time_is_asked_for_when_there_is_more(tmp_path):
    clock = FakeClock()
    bench = Bench(tmp_path, clock)
    clock.sleep(80)
    bench.run(Planner(rounds=1))
    bench.kept.save()
    again = Bench(tmp_path, resume=True, time_budget_s=1000.0)
    again.run(Planner(rounds=1))
    assert len(again.workshop.asked) == 1
    write_record(tmp_path / "contest.json", Missing(code="x", why="the last contest"))
    late = Bench(tmp_path, resume=True, time_budget_s=1000.0)
    planner = late.run(Planner(rounds=9))
    assert (late.workshop.asked, planner.told, len(late.loop.rounds)) == ([], [], 1)


class Fails(Talk):
    def __init__(self, machine, name, failed):
        super().__init__(machine, 0, 0, name)
        self.failed = failed

    def ask(self, question, kind):
        if self.name == "e plan 1":
            self.failed.add(self.name)
            raise EngineError("it crashed")
        return super().ask(question, kind)


def test_who_fails_in_a_contest_is_left_out_of_it(tmp_path, monkeypatch):
    machine = Machine({**BASE_S, "e plan 1": 1e-4, "e plan 2": 5e-4})
    timer = RealTimer(request(memory_limit_bytes=10_000), None, tmp_path, lambda what, fraction: None)
    monkeypatch.setattr(
        timer, "_dialogue", lambda made, name, folder, failed: nullcontext(Fails(machine, name, failed))
    )
    who = [
        msgspec.structs.replace(candidate(name, scored(), uniform="plan" not in name), made=made(name))
        for name in machine.latency_s
    ]
    held = timer.contest(who, 1.0, "it", 2)
    assert sorted(each.entrant for each in held.standings) == ["e fp32", "e int8", "e plan 2"]
    assert "e plan 1 was left out, since it failed: it crashed" in held.notes
    with pytest.raises(EngineError, match="it crashed"):
        timer.contest(
            [msgspec.structs.replace(each, precision="int8") for each in who if each.name == "e plan 1"], 1.0, "it"
        )


def test_what_cannot_be_built_is_told_and_not_timed(tmp_path):
    bench = Bench(tmp_path)
    planner = bench.run(Planner(rounds=1, lost=99))
    assert planner.told[1][-1].name == "e plan 1.1"
    assert isinstance(planner.told[1][-1].drop, Missing) is False
    assert bench.timer.held == []
    assert bench.loop.rounds[0].contest.code == "nothing_made"
    assert isinstance(bench.loop.candidates[-1].made, Missing)


def test_what_loses_too_much_is_timed_for_the_planner_and_does_not_count(tmp_path):
    planner = Bench(tmp_path).run(Planner(rounds=1, lost=50))
    told = next(each for each in planner.told[1] if each.name == "e plan 1.1")
    assert not told.counts
    assert told.value == pytest.approx(0.9e-3, rel=0.01)
    assert told.drop.drop == pytest.approx(0.05)


def test_a_run_that_goes_on_asks_only_for_what_is_left(tmp_path):
    Bench(tmp_path).run(Planner(rounds=2))
    again = Bench(tmp_path, resume=True)
    planner = again.run(Planner(rounds=0))
    assert again.workshop.asked == []
    assert len(again.loop.rounds) == 2
    assert len(planner.told) == 0  # it has no more: that was kept too


def test_who_is_far_slower_than_the_best_that_counts_is_not_timed_again(tmp_path):
    latency_s = {"int8": 1e-3, "fp32": 2.5e-3, "plan": 2.2e-3, "slow": 4.6e-3}
    who = entrants(("int8", "fp32", "slow"), ("plan",), refused=("int8",))
    held = contest(Machine(latency_s), who, restarts=2)[0]
    rounds = [Round(number=1, kind="proposals", candidates=(), contest=held)]
    far = [name for name in latency_s if _far(candidate(name, scored()), rounds)]
    assert far == ["slow"]


def test_a_planner_that_fails_ends_the_rounds_and_not_the_run(tmp_path):
    class Broken(Planner):
        def propose(self, feedback):
            if self.told:
                raise ModelError("no batch axis", hint="give one")
            return super().propose(feedback)

        def close(self):
            self.closed = True

    bench, planner = Bench(tmp_path), Broken(rounds=9)
    run = object.__new__(Optimization)
    run.kept, run.request, run.target, run.watch = bench.kept, request(), None, lambda what, fraction: None
    run.planner_of = lambda known: planner
    run._planned(run.planner_of, None, None, bench.loop)
    assert planner.closed
    assert [each.name for each in bench.loop.candidates] == ["e int8", "e fp32", "e plan 1.1"]
    told = run._warnings(ImportResult(model=make_model(), files=ModelFiles(folder=".")))
    assert any("no batch axis; give one" in text for text in told)
