"""Proposals from a front: none twice, between what counted and what did not, scaled by what was measured."""

from types import SimpleNamespace

import msgspec
import pytest
from test_optimize_parts import NO, candidate, request, scored

from hwbench.files import write_record
from hwbench.optimization_pipeline import planned
from hwbench.optimization_pipeline.planned import FromCosts, allowed_drop
from hwbench.optimization_pipeline.rounds import _feedback
from hwbench.records.base import Missing
from hwbench.records.plan import Joint
from hwbench.records.planning import Design, Interval, Space

SPACE = Space(hub_sha256="0" * 64, sites=(), clusters=())


def design(units):
    return Design(widths={"w": units})


class Front:
    """Designs of 1 to 8 units: more units lose less and take longer; ``at`` finds nothing that is not in the row."""

    solving = SimpleNamespace(objective="latency", space=SPACE)

    def __init__(self):
        self.row = [(None, design(units)) for units in range(8, 0, -1)]
        self.solved = []

    def loss(self, one):
        return 0.1 / one.widths["w"]

    def joint(self, one):
        return Joint(divergence=0.0, agreement=1 - 0.0399 / one.widths["w"], accuracy=NO, before=NO, n=9)

    def within(self, max_drop):
        able = [each for _, each in self.row if self.joint(each).drop <= max_drop]
        return able[-1] if able else None

    def predict(self, one):
        value = 1e-3 * one.widths["w"]
        return Interval(value=value, low=0.9 * value, high=1.1 * value, coverage=0.9, tier="A", n=9, method="m")

    def at(self, budget):
        self.solved.append(budget)

    def decisions(self, one):
        return ()


@pytest.fixture
def asked(tmp_path):
    def make(**changes):
        known = SimpleNamespace(request=request(**changes), baselines=(), folder=tmp_path)
        found = FromCosts(known)
        found.planner, found.found = SimpleNamespace(space=SPACE), {"e": Front(), "other": Front()}
        return found

    return make


def told(proposal, *, counts=True, built=True, ratio=NO):
    new = msgspec.structs.replace(candidate("it", scored() if built else NO, counts=counts), design=proposal.design)
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


def test_only_latency_is_predicted(asked):
    assert all(each.predicted.code == "latency_only" for each in asked(objective="energy").propose([]))


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
