"""What ``hwbench optimize`` is made of: data divided, stages kept, who counts, the certificate, the Pareto set."""

import math
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from fake_contests import MEASURED, FakeClock, Machine, contest, entrants
from scipy import stats

from hwbench.data.split import split_stored
from hwbench.data.store import LABELS, InputWriter, stored_inputs
from hwbench.errors import EngineError, UsageError
from hwbench.optimization_pipeline.aims import by_candidate
from hwbench.optimization_pipeline.ending import (
    binding,
    careful,
    certify,
    measured_of,
    outcome,
    pareto,
    values_of,
    word_of,
)
from hwbench.optimization_pipeline.judging import Eligibility, distance, drop_of
from hwbench.optimization_pipeline.kept import Kept
from hwbench.optimization_pipeline.run import Optimization
from hwbench.plan.goals import parse_goal
from hwbench.records.base import Missing
from hwbench.records.data import DataResult
from hwbench.records.model import DataFacts, TensorSpec
from hwbench.records.optimization import Candidate, Drop, Made, OptimizeRequest, Round, Scored, Shares
from hwbench.records.planning import Design
from hwbench.records.quantization import CalibrationSettings
from hwbench.records.verification import Agreement, Certificate, ScoreResult

NO = Missing(code="no", why="there is none")
SPEC = TensorSpec(name="x", dtype="float32", shape=(1, 2))


class Inputs:
    inputs = (SPEC,)


def stored(folder, count, labels=True):
    folder.mkdir()
    values = np.arange(2 * count, dtype=np.float32).reshape(count, 2)
    with InputWriter(folder, [SPEC]) as writer:
        writer.add({"x": values})
        writer.finish()
    given = np.arange(count) if labels else None
    if labels:
        np.save(folder / LABELS, given)
    facts = DataFacts(source="d.npz", sha256=writer.sha256(given), samples=count, labels=labels)
    return DataResult(facts=facts, folder=str(folder))


class TestSplit:
    @pytest.mark.parametrize("count", [3, 10, 1001])
    def test_every_sample_is_in_one_part_with_its_label(self, tmp_path, count):
        shares = {"learn": 0.4, "select": 0.2, "certify": 0.4}
        parts = split_stored(stored(tmp_path / "all", count), Inputs, shares, 0, tmp_path)
        seen = []
        for name, part in parts.items():
            values, labels = stored_inputs(tmp_path / name)["x"], np.load(tmp_path / name / LABELS)
            np.testing.assert_array_equal(values[:, 0], 2 * labels)
            assert part.facts.samples == len(labels)
            assert list(labels) == sorted(labels)
            seen += list(labels)
        assert sorted(seen) == list(range(count))
        if count > 100:
            for name, share in shares.items():
                assert parts[name].facts.samples == pytest.approx(share * count, abs=2)

    def test_the_seed_decides(self, tmp_path):
        source = stored(tmp_path / "all", 50)
        shares = {"a": 0.5, "b": 0.5}
        hashes = [split_stored(source, Inputs, shares, seed, tmp_path / f"{n}")["a"].facts.sha256
                  for n, seed in enumerate((0, 0, 1))]  # fmt: skip
        assert hashes[0] == hashes[1] != hashes[2]

    def test_refuses_what_cannot_be_divided(self, tmp_path):
        with pytest.raises(UsageError, match="too few to be divided"):
            split_stored(stored(tmp_path / "two", 2), Inputs, {"a": 0.3, "b": 0.3, "c": 0.4}, 0, tmp_path)
        source = stored(tmp_path / "more", 5)
        np.save(tmp_path / "more" / LABELS, np.arange(10))
        with pytest.raises(UsageError, match="10 labels for 5 samples"):
            split_stored(source, Inputs, {"a": 1.0}, 0, tmp_path)
        np.save(tmp_path / "more" / LABELS, np.arange(1))
        with pytest.raises(UsageError, match="has 1 labels, too few"):
            split_stored(source, Inputs, {"a": 0.5, "b": 0.5}, 0, tmp_path)

    @pytest.mark.parametrize("count", [20, 21])
    def test_samples_that_share_a_label_stay_together(self, tmp_path, count):
        source = stored(tmp_path / "all", count)
        np.save(tmp_path / "all" / LABELS, np.arange(10) / 4)
        seen = []
        for name, part in split_stored(source, Inputs, {"a": 0.3, "b": 0.7}, 0, tmp_path).items():
            values, labels = stored_inputs(tmp_path / name)["x"][:, 0], np.load(tmp_path / name / LABELS)
            assert part.facts.samples == len(values) == 2 * len(labels)
            np.testing.assert_array_equal(values, np.repeat(16 * labels, 2) + np.tile([0, 2], len(labels)))
            seen += list(labels)
        assert sorted(seen) == list(np.arange(10) / 4)

    def test_shares_add_up(self):
        with pytest.raises(ValueError, match="add up to 1"):
            Shares(learn=0.5, select=0.5, certify=0.5)


def request(**changes):
    fields = {
        "model": "m", "device": "cpu", "data": "d", "verify_data": None, "preprocess": None, "samples": None,
        "task": "auto", "metric": None, "max_drop": 0.01, "objective": "latency", "engines": (), "precisions": (),
        "calibration": CalibrationSettings(), "time_budget_s": 100.0, "batch_size": None,
        "training_batch_size": 32, "shapes": {}, "memory_limit_bytes": 1, "threads": 1, "seed": 0, "resume": False,
        "replace": False, "timeout_s": 10.0,
    }  # fmt: skip
    return OptimizeRequest(**{**fields, **changes})


class TestKept:
    def kept(self, folder, clock, **changes):
        self.said = []
        return Kept(folder, request(**changes), ("one", "two"), clock, lambda what, fraction: self.said.append(what))

    def made(self, clock, calls, value):
        def make():
            calls.append(value)
            clock.sleep(30)
            return DataFacts(source=value, sha256="", samples=1, labels=False)

        return make

    def test_what_was_done_is_not_done_again_and_its_time_counts(self, tmp_path):
        clock, calls = FakeClock(), []
        kept = self.kept(tmp_path, clock)
        first = kept.stage("one", DataFacts, self.made(clock, calls, "first"))
        with pytest.raises(KeyboardInterrupt):
            kept.stage("two", DataFacts, self.interrupted)
        kept.save()
        again = self.kept(tmp_path, FakeClock(), resume=True, time_budget_s=50.0)
        assert again.stage("one", DataFacts, self.made(clock, calls, "second")) == first
        assert calls == ["first"]
        assert (again.stages["one"].state, again.stages["two"].state) == ("done", "left")
        assert again.spent_s == pytest.approx(30)
        assert again.left_s == pytest.approx(20)
        assert self.said[-1].startswith("[1/2] one; 20.0 s left; best so far: nothing yet")

    def interrupted(self):
        raise KeyboardInterrupt

    def test_another_request_does_not_go_on(self, tmp_path):
        self.kept(tmp_path, FakeClock())
        with pytest.raises(UsageError, match="seed: 0 then, 1 now"):
            self.kept(tmp_path, FakeClock(), seed=1)

    def test_what_is_skipped_is_not_left(self, tmp_path):
        kept = self.kept(tmp_path, FakeClock())
        kept.skip("one")
        assert kept.stages["one"].state == "skipped"


def scored(worse=0, better=0, n=1000, certify=1000, max_drop=0.01, labels=True, finite=True):
    """What verifying says of so many samples lost and won."""
    from hwbench.verify.intervals import paired_shares

    drop = (worse - better) / n
    low, high = paired_shares(worse, better, n)
    word = "CERTIFIED" if high <= max_drop else "FAILED" if low > max_drop else "NOT ENOUGH DATA"
    certificate = Certificate(
        word=word, metric="accuracy", max_drop=max_drop, drop=drop, low=low, high=high, n=n, worse=worse,
        better=better, enough=NO if word != "NOT ENOUGH DATA" else 5 * n, method="Tango",
    )  # fmt: skip
    if not labels:
        certificate = Missing(code="no_labels", why="without labels")
    different = worse + better
    interval = stats.binomtest(different, n).proportion_ci(0.95, "exact")
    agreement = Agreement(
        what="decision", n=n, different=different, rate=different / n, low=interval.low, high=interval.high
    )
    found = ScoreResult(task="classification", scores=(), agreement=agreement, outputs=NO, certificate=certificate)
    return Scored(
        part="select", task="classification", scores=(), agreement=agreement, certificate=certificate,
        drop=drop_of(found, certify / n), finite=finite,
    )  # fmt: skip


def candidate(name, selected, *, uniform=False, counts=True):
    precision = "fp32" if name == "fp32" else "int8"
    return Candidate(
        name=name, engine="e", precision=precision if uniform else None, round=0 if uniform else 1, design=Design(),
        predicted=NO, decisions=(), made=NO, selected=selected, counts=counts, why="",
    )  # fmt: skip


class TestWhoCounts:
    def test_what_is_to_be_expected_of_more_samples_is_their_interval(self):
        drop = scored(worse=2, n=500, certify=2000).drop
        assert drop.expected == pytest.approx(scored(worse=8, n=2000).certificate.high)
        assert drop.drop < drop.expected < drop.high

    def test_counts_when_its_certificate_is_to_be_expected(self):
        best = candidate("fp32", scored(), uniform=True)
        eligibility = Eligibility(0.01, [best])
        assert eligibility.certifiable
        assert eligibility.judge(scored(worse=2))[0]
        counts, why = eligibility.judge(scored(worse=9))  # 0.9 pp on 1000, and up to 1.5 pp
        assert not counts
        assert "to be certified as at most" in why
        assert eligibility.settled(candidate("a", scored(worse=9))).counts is False

    def test_where_nothing_can_be_certified_the_drop_that_is_seen_decides(self):
        eligibility = Eligibility(0.01, [candidate("fp32", scored(n=100, certify=100), uniform=True)])
        assert not eligibility.certifiable
        assert eligibility.judge(scored(worse=1, n=100, certify=100))[0]
        assert not eligibility.judge(scored(worse=2, n=100, certify=100))[0]

    def test_without_labels_other_decisions_are_counted(self):
        drop = scored(worse=3, better=2, labels=False).drop
        exact = stats.binomtest(5, 1000).proportion_ci(0.95, "exact")
        assert (drop.metric, drop.drop) == ("other decisions", 0.005)
        assert drop.high == pytest.approx(exact.high)
        assert drop.expected == pytest.approx(exact.high, rel=1e-6)

    def test_what_puts_out_nan_or_failed_does_not_count(self):
        eligibility = Eligibility(1.0, [candidate("fp32", scored(), uniform=True)])
        assert eligibility.judge(scored(finite=False)) == (False, "its outputs hold NaN or infinity")
        assert eligibility.judge(NO) == (False, "there is none")
        assert distance(NO, 0.01) == math.inf
        assert distance(scored(worse=30), 0.01) == pytest.approx(0.02)


LATENCY_S = {"fp32": 2e-3, "int8": 1e-3, "plan a": 0.7e-3, "plan b": 0.9e-3}


@pytest.fixture(scope="module")
def held():
    machine = Machine(LATENCY_S, between=0.002)
    return contest(machine, entrants(("fp32", "int8"), ("plan a", "plan b")))[0]


def candidates(**lost):
    return [
        candidate(name, scored(worse=lost.get(name.replace(" ", "_"), 0)), uniform="plan" not in name)
        for name in LATENCY_S
    ]


class TestEnding:
    def certified(self, held, lost, max_drop=0.01, counts=()):
        """Certify with so many samples lost by each on the certification split."""
        found = [msgspec.structs.replace(each, counts=not counts or each.name in counts) for each in candidates()]
        return certify(held, found, max_drop, lambda each: scored(worse=lost.get(each.name, 0), max_drop=max_drop))

    def test_the_fastest_is_certified_alone(self, held):
        verdicts = self.certified(held, {})
        assert [each.entrant for each in verdicts.certified] == ["plan a"]
        assert verdicts.choice.word == "FASTER"
        assert outcome(verdicts) == "MET"

    def test_where_it_fails_the_next_is_tried_and_all_are_told(self, held):
        verdicts = self.certified(held, {"plan a": 50, "plan b": 40})
        assert [each.entrant for each in verdicts.certified] == ["plan a", "plan b", "int8"]
        assert [each.word for each in verdicts.certified] == ["FAILED", "FAILED", "CERTIFIED"]
        assert (verdicts.choice.entrant, verdicts.choice.word) == ("int8", "UNIFORM")
        assert outcome(verdicts) == "MET"

    def test_what_cannot_be_settled_is_taken_where_nothing_is_certified(self, held):
        verdicts = self.certified(held, dict.fromkeys(LATENCY_S, 9))
        assert (verdicts.certified[-1].entrant, verdicts.certified[-1].word) == ("plan a", "NOT ENOUGH DATA")
        assert outcome(verdicts) == "UNSETTLED"
        (found,) = binding(verdicts, candidates(), {"plan a": 1.0}, 0.01)
        assert (found.constraint, found.relax) == ("samples", "5000 samples to certify with")

    def test_the_goal_is_missed_when_everything_fails(self, held):
        verdicts = self.certified(held, dict.fromkeys(LATENCY_S, 90))
        assert outcome(verdicts) == "MISSED"
        (found,) = binding(verdicts, candidates(), {}, 0.01)
        assert found.constraint == "max-drop"
        assert float(found.relax.split()[1]) == pytest.approx(verdicts.certified[-1].found.drop.high, rel=1e-3)

    def test_the_last_try_is_kept_for_the_careful_one(self):
        plans = [f"plan {number}" for number in range(6)]
        latency_s = {"fp32": 2.5e-3, "int8": 1e-3, **dict.fromkeys(plans, 0.7e-3)}
        held = contest(Machine(latency_s, between=0.002), entrants(("fp32", "int8"), plans))[0]
        found = [candidate(name, scored(), uniform=name not in plans) for name in latency_s]
        own = careful(found, "fp32", [])
        lost = {name: 50 for name in latency_s if name != own}
        verdicts = certify(held, found, 0.01, lambda each: scored(worse=lost.get(each.name, 0)), "fp32")
        assert [each.word for each in verdicts.certified] == ["FAILED"] * 4 + ["CERTIFIED"]
        assert verdicts.choice.entrant == own == "fp32"
        assert outcome(verdicts) == "MET"

    def test_the_guard_chooses_among_those_that_miss_the_goals_by_the_least(self, held):
        missed = {"fp32": (0.0,), "int8": (0.0,), "plan a": (0.2,), "plan b": (0.0,)}
        verdicts = certify(held, candidates(), 0.01, lambda each: scored(), None, missed)
        assert verdicts.choice.entrant == "plan b"
        verdicts = certify(held, candidates(), 0.01, lambda each: scored(), None, missed | {"plan b": (0.1,)})
        assert verdicts.choice.entrant == "int8"

    def test_what_fails_while_it_is_certified_has_failed(self, held):
        def score(each):
            if each.name != "plan a":
                return scored()
            raise EngineError("it crashed")

        verdicts = certify(held, candidates(), 0.01, score)
        assert [(each.entrant, each.word) for each in verdicts.certified] == [
            ("plan a", "FAILED"),
            ("plan b", "CERTIFIED"),
        ]

    def test_the_nearest_is_saved_where_nothing_counts(self, held):
        verdicts = self.certified(held, {"int8": 30}, counts=("nobody",))
        assert verdicts.choice.word == "NONE"
        assert outcome(verdicts) == "MISSED"

    def test_what_would_be_faster_with_a_larger_drop_is_named(self, held):
        verdicts = self.certified(held, {}, counts=("fp32", "int8", "plan b"))
        found = [msgspec.structs.replace(each, counts=each.name != "plan a") for each in candidates(plan_a=30)]
        (bound,) = binding(verdicts, found, LATENCY_S, 0.01)
        assert "plan a takes 0.778 of what was chosen" in bound.why
        assert float(bound.relax.split()[1]) > 0.03

    def test_without_labels_decisions_certify(self):
        assert word_of(scored(worse=1, labels=False), 0.01) == ("CERTIFIED", Missing(code="settled", why="it is"))
        word, enough = word_of(scored(worse=5, labels=False), 0.01)
        assert word == "NOT ENOUGH DATA"
        assert isinstance(enough, int)
        assert stats.binomtest(round(0.005 * enough), enough).proportion_ci(0.95, "exact").high < 0.0105
        assert word_of(scored(worse=20, labels=False), 0.01)[1].code == "no_labels"
        assert word_of(scored(finite=False), 0.01)[0] == "FAILED"


def test_the_most_accurate_of_those_that_meet_the_goals_is_taken_where_that_is_asked_for(held):
    missed = {"fp32": (1.0,), "int8": (0.0,), "plan a": (0.0,), "plan b": (0.0,)}
    found = candidates(int8=6, plan_a=4, plan_b=2)
    verdicts = certify(held, found, 0.02, lambda each: scored(), None, missed, accurate=True)
    assert verdicts.certified[-1].entrant == "plan b", "fp32 loses nothing, and misses the goals"
    assert verdicts.choice.word == "ACCURATE"
    assert "the least of those that meet the goals" in verdicts.choice.why
    equal = candidates(int8=2, plan_a=4, plan_b=2)
    again = certify(held, equal, 0.02, lambda each: scored(), None, missed, accurate=True)
    assert again.choice.word == "FASTER", "of two that lose as much, the faster one for sure"
    assert again.certified[-1].entrant == "plan b"


def test_what_else_was_measured_is_told_and_goals_are_held_against_it(held):
    assert {frozenset(each.also) for each in held.standings} == {frozenset({"memory"})}
    found = measured_of(held, [])
    assert found["int8"]["latency"] == held.standing("int8").value
    peak = max(MEASURED.memory.peak_load_rss_bytes, MEASURED.memory.peak_run_rss_bytes)
    assert found["int8"]["memory"] == peak
    goal = parse_goal(f"memory<{peak + 1}B")
    by = by_candidate([goal], candidates(), None, found, "latency", 1)
    assert set(by.values()) == {(0.0,)}


@pytest.mark.parametrize("text", ["latency<1us", "throughput>1000000000"])
def test_where_accuracy_is_the_objective_of_those_that_miss_the_goal_the_nearest_is_taken(held, text):
    found = candidates(int8=6, plan_a=4, plan_b=2)
    values = measured_of(held, [])
    missed = by_candidate([parse_goal(text)], found, None, values, "accuracy", 1)
    verdicts = certify(held, found, 1.0, lambda each: scored(), None, missed, accurate=True)
    assert verdicts.certified[-1].entrant == min(values, key=lambda name: values[name]["latency"])
    apart = by_candidate([parse_goal(text)], found, None, values, "latency", 1)
    assert len(set(apart.values())) == 1, "which of them is fast the guard says"


def test_a_run_for_accuracy_that_misses_its_goal_takes_the_nearest(held):
    """What is measured is latency, and the goal is of it; all the same no guard takes the fastest here."""
    made = Made(engine=SimpleNamespace(size_bytes=1), plan=None, steps=(), network=None, imported=None, bundle="it",
                took_s=1.0)  # fmt: skip
    found = [msgspec.structs.replace(each, made=made) for each in candidates(int8=6, plan_a=4, plan_b=2)]
    run = Optimization.__new__(Optimization)
    run.request = request(objective="accuracy", goals=(parse_goal("latency<1us"),), max_drop=1.0)
    run.judge = SimpleNamespace(reference=lambda part: None, score=lambda *given: scored())
    run.arithmetic = "fp32"
    imported = SimpleNamespace(model=SimpleNamespace(arithmetic="fp32", batch_size=1))
    verdicts = run._certified(
        held, SimpleNamespace(candidates=found, rounds=[]), imported, SimpleNamespace(certify=None)
    )
    values = measured_of(held, [])
    assert verdicts.certified[-1].entrant == min(values, key=lambda name: values[name]["latency"])


def test_the_pareto_set_is_that_of_brute_force():
    chance = np.random.default_rng(0)
    for _ in range(50):
        count = int(chance.integers(1, 12))
        found = [candidate(f"c{number}", scored(worse=int(chance.integers(0, 8)))) for number in range(count)]
        values = {each.name: float(chance.integers(1, 8)) for each in found}
        points = {(values[each.name], each.selected.drop.drop) for each in found}
        front = {
            p for p in points
            if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)
        }  # fmt: skip
        assert {(point.value, point.drop) for point in pareto(found, values)} == front


def test_values_of_rounds_are_put_on_the_scale_of_the_last_contest(held):
    machine = Machine({name: 2 * value for name, value in {**LATENCY_S, "early": 3e-3}.items()})
    earlier = contest(machine, entrants(("fp32", "int8"), ("plan a", "early")), restarts=2)[0]
    values = values_of(held, [Round(number=1, kind="proposals", candidates=(), contest=earlier)])
    assert values["early"] == pytest.approx(3e-3, rel=0.02)
    assert values["plan a"] == held.standing("plan a").value


def test_a_drop_has_an_end_on_the_certification_split():
    assert isinstance(scored().drop, Drop)
