"""Proposals from a front: none twice, between what counted and what did not, scaled by what was measured."""

from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_optimize_parts import NO, candidate, request, scored

from hwbench.files import write_record
from hwbench.optimization_pipeline import planned
from hwbench.optimization_pipeline.gauging import gauge_of, gauges_of, steering
from hwbench.optimization_pipeline.planned import FromCosts, allowed_drop
from hwbench.optimization_pipeline.rounds import _feedback
from hwbench.plan.goals import parse_goal
from hwbench.planning_pipeline.meeting import Gauge
from hwbench.records.base import Missing
from hwbench.records.compression import Step
from hwbench.records.optimization import Made
from hwbench.records.plan import Joint
from hwbench.records.planning import Design, Interval, Option, Site, Space

SPACE = Space(hub_sha256="0" * 64, sites=(), clusters=())


def design(units):
    return Design(widths={"w": units})


class Front:
    """Designs of 1 to 8 units: more units lose less and take longer; ``at`` finds nothing that is not in the row.

    A design of no width is uniform, and takes as long as nine units.
    """

    solving = SimpleNamespace(objective="latency", space=SPACE)

    def __init__(self):
        self.row = [(None, design(units)) for units in range(8, 0, -1)]
        self.solved = []

    def has(self, one):
        return "fp8" not in one.schemes.values()

    def loss(self, one):
        assert self.has(one)
        return 0.1 / one.widths.get("w", 100)

    def joint(self, one):
        return Joint(divergence=0.0, agreement=1 - 0.0399 / one.widths["w"], accuracy=NO, before=NO, n=9)

    def within(self, max_drop):
        able = [each for _, each in self.row if self.joint(each).drop <= max_drop]
        return able[-1] if able else None

    def predict(self, one):
        value = 1e-3 * one.widths.get("w", 9)
        return Interval(value=value, low=0.9 * value, high=1.1 * value, coverage=0.9, tier="A", n=9, method="m")

    def energy(self, one):
        raw = self.predict(one)
        return msgspec.structs.replace(raw, value=7 * raw.value, low=7 * raw.low, high=7 * raw.high)

    def values(self, one):
        units = one.widths.get("w", 9)
        return {"latency": 1e-3 * units, "energy": 7e-3 * units, "memory": 1e6 * units, "size": 1e6}

    def at(self, budget):
        self.solved.append(budget)

    def decisions(self, one):
        return ()

    def after_training(self):
        return AfterTraining()


class AfterTraining(Front):
    """For what it is predicted to lose after a training, one unit less than before it."""

    def at(self, budget):
        super().at(budget)
        return design(max(1, round(0.1 / budget) - 1))


@pytest.fixture
def asked(tmp_path):
    def make(**changes):
        known = SimpleNamespace(request=request(**changes), baselines=(), folder=tmp_path)
        found = FromCosts(known)
        found.planner, found.found = SimpleNamespace(space=SPACE), {"e": Front(), "other": Front()}
        found.stitched = dict(found.found)
        return found

    return make


def told(proposal, *, counts=True, built=True, ratio=NO, lost=0):
    seen = scored(worse=lost) if built else NO
    new = msgspec.structs.replace(candidate("it", seen, counts=counts), design=proposal.design)
    return msgspec.structs.replace(_feedback(new, None), engine=proposal.engine, ratio=ratio)


def units(proposals):
    return [(each.engine, each.design.widths["w"]) for each in proposals]


def test_what_could_not_be_built_is_not_proposed_again(asked):
    planner = asked()
    first = planner.propose([])
    assert units(first) == [("e", 4), ("other", 4), ("e", 8), ("other", 8), ("e", 3)]
    feedback = [told(each, built=False) for each in first]
    second = planner.propose(feedback)
    assert len(second) == 3
    assert not set(units(first)) & set(units(second))
    again = asked()  # a run that goes on knows from what it is told
    assert set(units(again.propose(feedback))) == set(units(second))


def test_what_is_predicted_to_be_well_behind_what_counts_is_not_made(asked):
    class Slow(Front):
        def values(self, one):
            return {name: 2 * value for name, value in super().values(one).items()}

    def engines(**changes):
        planner = asked(**changes)
        planner.found["other"] = planner.stitched["other"] = Slow()
        first = planner.propose([])
        assert {each.engine for each in first} == {"e", "other"}, "nothing was built yet"
        return [each.engine for each in planner.propose(eight_units_count(first))]

    assert engines() == ["e"], "what counts takes 8 ms, and six units of the other runtime 12"
    assert engines(objective="accuracy") == ["e", "other"]


def test_the_next_designs_come_fastest_first(asked):
    planner = asked()
    first = planner.propose([])
    planner.found["e"].values = lambda one: {"latency": 1.05e-3 * one.widths.get("w", 9)}
    assert units(planner.propose(eight_units_count(first))) == [("other", 6), ("e", 6)]


def eight_units_count(proposals):
    return [told(each, counts=each.design.widths["w"] == 8) for each in proposals]


def test_what_will_be_trained_may_lose_more_before(asked):
    plain, trained = asked(max_drop=0.004), asked(max_drop=0.004, recover=Step(method="finetune"))
    assert units(plain.propose([])) == [("e", 7), ("other", 7)]  # 8 units lose 0.005: the bold one, of 0.0064
    trained.found = {"e": AfterTraining(), "other": AfterTraining()}
    assert units(trained.propose([])) == [("e", 3), ("other", 3), ("e", 6), ("other", 6)]  # of 0.012, and of 0.006
    assert trained.found["e"].solved == [pytest.approx(0.1 / 4), pytest.approx(0.1 / 7)]


def test_fronts_of_what_will_be_trained_are_solved_again_with_bounds_that_moved(asked):
    planner = asked(max_drop=0.004, recover=Step(method="finetune"), goals=(parse_goal("latency<5ms"),))
    planner.found = {"e": AfterTraining(), "other": AfterTraining()}
    anew = Front()
    planner.planner.again = lambda engine, gauges: anew
    planner.planner.after_training = lambda front: front.after_training()
    before = planner.found["e"]
    first = planner.propose([])
    planner.propose([msgspec.structs.replace(told(each, ratio=1.0), value=1.0) for each in first])
    assert planner.stitched["e"] is anew, "what can be run as a whole"
    assert isinstance(planner.found["e"], AfterTraining), "what is to be judged"
    assert planner.found["e"] is not before


@pytest.mark.parametrize("counts", [True, False])
def test_what_loses_no_more_than_a_uniform_precision_that_counts_is_allowed(asked, counts):
    """A few samples may say that int8 loses too much; where it was built and counts, it does not."""

    class InInt8(Front):
        solving = SimpleNamespace(objective="latency", space=space_of_one_layer())

        def loss(self, one):
            return 0.05 if one.schemes else super().loss(one)

        def at(self, budget):
            super().at(budget)
            return design(2)  # which is predicted to lose 0.05 too

    planner = asked(max_drop=0.005)
    planner.found = {"e": InInt8()}
    uniform = candidate("e int8", scored(), uniform=True, counts=counts)
    first = planner.propose([_feedback(uniform, None)])
    assert units(first) == [*([("e", 2)] if counts else []), ("e", 8), ("e", 5)]
    assert planner.found["e"].solved == ([0.05] if counts else [])
    assert not planner._new("e", Design(schemes={"a": "int8"})), "it was built already"


def space_of_one_layer():
    options = (Option(name="float", scheme="float"), Option(name="int8", scheme="int8"))
    return Space(hub_sha256="0" * 64, sites=(Site(kind="precision", about="a", options=options),), clusters=())


def test_designs_of_the_row_between_are_proposed_before_it_is_solved_again(asked):
    planner = asked()
    del planner.found["other"]
    first = {each.design.widths["w"]: each for each in planner.propose([])}
    assert set(first) == {8, 4, 3}
    feedback = [told(first[8]), told(first[4], counts=False), told(first[3], counts=False)]
    second = planner.propose(feedback)
    assert units(second) == [("e", 6)]
    third = planner.propose([*feedback, told(second[0])])
    assert units(third) == [("e", 5)]
    assert planner.found["e"].solved == []
    planner.propose([*feedback, told(second[0]), told(third[0])])
    assert len(planner.found["e"].solved) == 1


def test_the_next_budget_is_where_the_drops_seen_say_that_what_is_allowed_lies(asked):
    planner = asked(max_drop=0.01)
    planner.found = planner.stitched = {"e": Front()}
    careful, bold = (SimpleNamespace(engine="e", design=design(units)) for units in (8, 1))
    below, beyond = told(careful, lost=4), told(bold, lost=40, counts=False)
    (one,) = planner._between("e", planner.found["e"], [below, beyond])
    wanted = 0.1 / 8 + (0.010 - 0.004) / (0.040 - 0.004) * (0.1 - 0.1 / 8)  # 0.027
    assert one == ("e", design(min(range(1, 9), key=lambda units: abs(np.log(0.1 / units / wanted)))))
    (two,) = planner._between("e", planner.found["e"], [beyond])
    assert two == ("e", design(4)), (
        "nothing is lost where nothing is changed: a quarter of what lost four times as much"
    )


def test_where_the_drops_do_not_tell_the_budget_is_halved(asked):
    planner = asked(max_drop=0.004)
    middle = pytest.approx(0.2)
    assert planner._crossing((0.1, 0.006), (0.4, 0.03)) == middle, "it counted although it lost more than is sought"
    assert planner._crossing((0.1, 0.001), (0.4, 0.002)) == middle, "it failed although it lost less"


def test_where_nothing_better_is_known_after_a_training_the_design_itself_is_trained(asked):
    planner = asked(max_drop=0.004, recover=Step(method="finetune"), objective="accuracy")
    planner.found["e"].at = lambda budget: None  # as where loss is what is minimised
    planner.found["other"].at = lambda budget: Design()
    assert set(units(planner.propose([]))) == {("e", 4), ("e", 7), ("other", 4), ("other", 7)}


@given(
    low=st.floats(0, 0.9), dropped=st.floats(-0.01, 0.02), too_much=st.floats(-0.01, 1), allowed=st.floats(0.0001, 0.1)
)
def test_the_next_budget_lies_between(low, dropped, too_much, allowed):
    planner = SimpleNamespace(allowed=allowed)
    budget = FromCosts._crossing(planner, (low, dropped), (1.0, too_much))
    assert max(low, 0.02) < budget < 1


def test_what_is_cut_little_is_not_worth_a_training(asked):
    planner = asked(max_drop=0.004, recover=Step(method="finetune"))
    planner.found["e"].at = lambda budget: design(7) if budget == 0.05 else design(2)
    planner.found["e"].loss = lambda one: 0.05 if one.schemes else 0.1
    uniform = candidate("e int8", scored(), uniform=True, counts=True)
    planner.found["e"].solving = planner.stitched["e"].solving = SimpleNamespace(
        objective="latency", space=space_of_one_layer()
    )
    assert ("e", 7) not in units(planner.propose([_feedback(uniform, None)]))
    planner.trains = False
    assert ("e", 7) in units(planner.propose([_feedback(uniform, None)]))


def test_a_front_is_not_asked_about_designs_with_a_scheme_that_it_was_not_left(asked):
    """A network has int8 or fp8; where the front is one of int8 now, what became of fp8 before says nothing here."""
    planner = asked()
    first = planner.propose([])
    feedback = [told(each) for each in first]
    strange = msgspec.structs.replace(first[0].design, schemes={"w": "fp8"})
    other = msgspec.structs.replace(feedback[0], design=strange, counts=False)
    again, plain = planner.propose([*feedback, other]), asked().propose(feedback)
    assert units(again) == units(plain)
    planner.swaps([msgspec.structs.replace(other, counts=True, ratio=0.1)])


def test_what_is_measured_scales_what_is_predicted_free_of_drift(asked):
    planner = asked()
    first = planner.propose([])
    uniform = told(first[0])
    uniform = msgspec.structs.replace(uniform, precision="int8", value=4e-3, ratio=1.0, engine="e")
    one = next(each for each in first if units([each]) == [("e", 4)])
    measured = msgspec.structs.replace(told(one, ratio=1.5), value=99.0)  # of another minute
    (next_one, *_) = [each for each in planner.propose([uniform, measured]) if each.engine == "e"]
    raw = planner.found["e"].predict(next_one.design)
    assert next_one.predicted.value == pytest.approx(1.5 * raw.value)
    assert next_one.predicted.high == pytest.approx(1.5 * raw.high)


def test_energy_is_predicted_as_latency_is_and_the_memory_of_a_process_is_not(asked):
    energies = asked(objective="energy").propose([])
    assert [each.predicted.value for each in energies] == [
        pytest.approx(7e-3 * units([each])[0][1]) for each in energies
    ]
    assert {each.predicted.code for each in asked(objective="memory").propose([])} == {"not_predicted"}


def test_goals_of_what_is_measured_are_bounds_of_what_is_predicted(asked):
    """Twice as slow and 80 MB larger than predicted: the front is solved again with bounds so far off, once."""
    planner = asked(goals=(parse_goal("latency<5ms"), parse_goal("memory<100MB priority 2")))
    first = planner.propose([])
    again = []
    planner.planner.again = lambda engine, gauges: again.append((engine, gauges)) or Front()
    mine = [each for each in first if each.engine == "e"]
    feedback = [
        msgspec.structs.replace(
            told(each, ratio=1.0), value=2e-3 * each.design.widths["w"],
            also={"memory": 8e7 + 1e6 * each.design.widths["w"]},
        )
        for each in mine
    ]  # fmt: skip
    planner.propose(feedback)
    ((engine, gauges),) = again
    assert engine == "e"
    assert gauges["latency"].predicted(5e-3) == pytest.approx(2.5e-3)
    assert gauges["memory"].predicted(1e8) == pytest.approx(2e7)
    planner.propose(feedback)
    assert len(again) == 1, "nothing new was measured"


def given_up(objective):
    """A front that a goal was given up for: it was solved for something else than the request."""
    found = Front()
    found.solving = SimpleNamespace(objective=objective, space=SPACE)
    return found


@pytest.mark.parametrize("solved_for", ["memory", "size", "energy", "accuracy"])
@pytest.mark.parametrize("objective", ["latency", "accuracy"])
def test_what_is_measured_is_held_against_what_is_predicted_of_the_same_quantity(asked, solved_for, objective):
    planner = asked(objective=objective, goals=(parse_goal("latency<1ms"),))
    planner.found = {"e": given_up(solved_for), "other": Front()}
    planner.planner.again = lambda engine, gauges: given_up(solved_for)
    first = planner.propose([])
    one = next(each for each in first if units([each]) == [("e", 4)])
    uniform = msgspec.structs.replace(told(one), precision="int8", value=4e-3, ratio=1.0)
    measured = msgspec.structs.replace(told(one, ratio=1.5), value=6e-3)
    second = [each for each in planner.propose([uniform, measured]) if each.engine == "e"]
    assert second
    for each in second:
        assert each.predicted.value == pytest.approx(1.5 * 1e-3 * each.design.widths["w"])


def test_where_accuracy_is_the_objective_the_design_that_loses_least_comes_first(asked):
    planner = asked(objective="accuracy", goals=(parse_goal("latency<1ms"),))
    planner.found["e"].within = lambda max_drop: design(3)
    planner.found["other"].within = lambda max_drop: design(5)
    planner.scales = {"other": Gauge(factor=100.0)}
    assert units(planner.propose([]))[:2] == [("other", 5), ("e", 3)]


def test_a_memory_is_expected_with_what_the_runtime_adds(asked):
    """The network as it is predicted is smaller on one runtime, which takes far more beside it."""
    planner = asked(objective="memory", goals=(parse_goal("latency<1s"),))
    planner.planner.again = lambda engine, gauges: Front()
    first = {each.engine: each for each in planner.propose([]) if units([each])[0][1] == 4}
    feedback = [
        msgspec.structs.replace(told(each, ratio=1.0), value=offset + 1e6 * 4)
        for each, offset in ((first["e"], 9e7), (first["other"], 1e7))
    ]
    planner.propose(feedback)
    assert planner._worth("e", planner.found["e"], design(2)) == pytest.approx(9.2e7)
    assert planner._worth("other", planner.found["other"], design(6)) == pytest.approx(1.6e7)


def test_the_size_of_what_was_built_is_told_and_gauged():
    engine = SimpleNamespace(size_bytes=123_456)
    made = Made(engine=engine, plan=None, steps=(), network=None, imported=None, bundle="it", took_s=1.0)
    one = msgspec.structs.replace(candidate("it", scored()), made=made)
    found = _feedback(one, None)
    assert found.also == {"size": 123_456.0}
    timed = [
        msgspec.structs.replace(found, engine="e", value=1e-3, design=design(units), also={"size": 1e6 + 5e4})
        for units in (2, 4)
    ]
    assert gauges_of("e", Front(), timed, "latency")["size"].predicted(1.2e6) == pytest.approx(1.15e6)


def test_what_is_predicted_to_take_nothing_scales_nothing():
    """A design may drop every layer; of another one beside it the factor is told all the same."""
    uniform = msgspec.structs.replace(
        _feedback(candidate("it", scored(), uniform=True), None), engine="e", value=9e-3, ratio=1.0
    )
    empty, half = (
        msgspec.structs.replace(
            uniform, precision=None, value=1e-3 * units, ratio=units / 9, design=design(units), also={"size": 1e6}
        )
        for units in (0, 4)
    )
    front = Front()
    assert front.values(empty.design)["latency"] == 0
    assert gauge_of("e", front, [uniform, empty], "latency") == Gauge()
    assert gauge_of("e", front, [uniform, empty, half], "latency").factor == pytest.approx(1.0)
    assert gauges_of("e", front, [empty], "latency") == {"size": Gauge(offset=0.0)}
    assert gauges_of("e", front, [empty, half], "latency")["latency"].factor == pytest.approx(1.0)


def test_goals_of_accuracy_reach_the_planner_as_one_drop_with_their_priority():
    goals = tuple(parse_goal(each) for each in ("latency<5ms priority 2", "accuracy>90% priority 3"))
    found = steering(goals, 0.02)
    assert [(each.metric, each.value, each.priority) for each in found] == [
        ("latency", 0.005, 2),
        ("accuracy", 0.02, 3),
    ]
    assert steering(goals[1:], 0.02) == (), "the drop alone is in the request"


def test_the_margin_of_a_certificate_is_taken_from_what_may_be_lost():
    sound = scored(worse=4, better=4)
    margin = sound.drop.expected - sound.drop.drop
    assert allowed_drop(0.02, [sound, sound, NO]) == pytest.approx(0.02 - margin)
    assert allowed_drop(1.001 * margin, [sound]) == pytest.approx(0.25 * 1.001 * margin)
    few = scored(n=50, certify=50)
    assert few.drop.expected > 0.01
    assert allowed_drop(0.01, [few]) == 0.01, "nothing can be certified: the drop seen decides"


def test_a_run_that_goes_on_plans_in_the_space_that_it_had(tmp_path, monkeypatch):
    given = []

    class Planner:
        def __init__(self, *args):
            given.append(args[-1])
            self.space = args[-1] or SPACE

        def __enter__(self):
            return self

        def __exit__(self, *args):
            return None

        def prepare(self):
            return None

        def fronts(self):
            return {}

    monkeypatch.setattr(planned, "Planner", Planner)
    monkeypatch.setattr(planned, "_request", lambda known, allowed: request())
    part = SimpleNamespace(facts=None, folder="")
    parts = SimpleNamespace(learn=part, select=part)
    monkeypatch.setattr(planned, "DataResult", lambda **fields: None)
    known = SimpleNamespace(request=request(), baselines=(), folder=tmp_path, watch=None, parts=parts, target=None)
    assert FromCosts(known).propose([]) == []
    narrow = msgspec.structs.replace(SPACE, hub_sha256="1" * 64)
    write_record(tmp_path / "space.json", narrow)
    planner = FromCosts(known)
    assert planner.space == narrow
    planner.propose([])
    assert given == [None, narrow]
    assert isinstance(NO, Missing)
