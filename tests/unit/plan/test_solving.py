"""The front is corrected by what whole designs lose, and the chosen design is the fastest that is allowed."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from compress_hubs import hub
from test_assemble import Made, losses

from hwbench.plan.designs import choice_of, key_of
from hwbench.plan.sites import space_of
from hwbench.planning_pipeline.factors import by_kind, held_nnls, rising, scaled
from hwbench.planning_pipeline.solving import Solving
from hwbench.records.base import Missing
from hwbench.records.plan import Joint
from hwbench.records.planning import Design, Interval, Loss, Option, PairLoss, Sensitivity, Site, Space

TRUE = {"precision": 0.5, "width": 2.0, "depth": 1.0, "replace": 1.0, "rank": 1.0}


class Predicting(Made):
    start_s = 0.0

    def predict(self, space, design):
        from hwbench.plan.assemble import assemble

        problem = assemble(space, self, losses(space))
        choice = choice_of(space, design)
        value = problem.totals([choice[site.name] for site in space.sites])["latency"]
        return Interval(value=value, low=value, high=value, coverage=0.9, tier="A", n=1, method="made up")


class World:
    """Whole designs lose other than the sum of their parts; a third of a nat is ten points."""

    def __init__(self, space, sensitivity):
        self.space, self.sensitivity, self.asked = space, sensitivity, []

    def __call__(self, design, rough):
        self.asked.append((key_of(design), rough))
        lost = sum(TRUE[kind] * value for kind, value in by_kind(self.space, self.sensitivity, design).items())
        away = Missing(code="no_labels", why="there are none")
        return Joint(divergence=lost, agreement=math.exp(-lost / 3), accuracy=away, before=away, n=100)


@pytest.fixture(scope="module")
def found(solving):
    return solving.run()


@pytest.fixture(scope="module")
def solving():
    space = space_of(hub("resnet20", 1), "it")
    sensitivity = losses(space)
    sensitivity = type(sensitivity)(hub_sha256="it", measure="kl", n=8, losses=sensitivity.losses, pairs=(), took_s=0)
    return Solving(
        space=space,
        costs=Predicting(space),
        sensitivity=sensitivity,
        ask=World(space, sensitivity),
        max_drop=0.1,
        budgets=8,
    )


def test_the_chosen_design_is_allowed_and_no_faster_one_of_the_front_is(solving, found):
    chosen = found.chosen()
    times = [found.predict(design).value for _, design in found.row]
    assert solving.drop(found.row[chosen][1]) <= 0.1
    assert times == sorted(times, reverse=True)
    assert all(solving.drop(design) > 0.1 for _, design in found.row[chosen + 1 :])
    closest = found.row[chosen + 1][0].totals["loss"] / found.row[chosen][0].totals["loss"]
    assert closest < 1.3, "budgets around the limit were looked at closely"


def test_what_whole_designs_lose_corrects_the_parts(found):
    factors = found.factors
    for kind in ("precision", "width"):
        assert factors[kind] == pytest.approx(TRUE[kind], rel=0.25), kind


def test_every_design_is_run_once(solving, found):
    world = solving.ask
    assert len(world.asked) == len(set(world.asked))


def test_asking_on_between_two_budgets_gives_something_between(solving, found):
    careful, bold = found.within(0.05), found.within(0.3)
    budget = math.sqrt(found.loss(careful) * found.loss(bold))
    between = found.at(budget)
    assert found.loss(between) <= budget * (1 + 1e-9)
    assert found.predict(bold).value <= found.predict(between).value <= found.predict(careful).value
    there = len(found.row)
    assert found.at(budget) == between, "also when it is known"
    assert len(found.row) == there
    assert found.at(-1.0) is None
    assert found.decisions(bold)[0].site == solving.space.sites[0].name


def test_before_a_training_blocks_go_rather_than_channels(solving, found):
    """A training takes back nine tenths of what blocks cost: for the same loss after it, faster designs are there."""
    after = found.after_training()
    assert after.factors == found.factors
    for allowed in (0.1, 0.3):
        careful = found.within(allowed)
        bold = after.at(after.loss(careful))
        assert after.loss(bold) <= after.loss(careful) * (1 + 1e-9)
        assert len(bold.dropped) > len(careful.dropped)
        assert after.predict(bold).value < found.predict(careful).value


def test_of_half_of_the_blocks_alone_a_training_is_said_to_take_back_what_they_lose(solving, found):
    blocks = [site.about for site in solving.space.sites if site.kind == "depth"]
    before = {block: found.loss(Design(dropped=(block,))) for block in blocks}
    after = found.after_training()
    left = {block: after.loss(Design(dropped=(block,))) / before[block] for block in blocks}
    ranked = sorted(blocks, key=before.__getitem__)
    half = math.ceil(len(blocks) / 2)
    assert len(blocks) > half > 1
    assert [left[block] for block in ranked] == pytest.approx([0.1] * half + [1.0] * (len(blocks) - half))
    other = next(site for site in solving.space.sites if site.kind == "width")
    narrow = Design(widths={other.about: other.options[-1].units})
    assert after.loss(narrow) == found.loss(narrow) > 0


def test_nothing_is_chosen_where_nothing_is_allowed(found):
    assert found.within(-0.1) is None
    reason = found.chosen(-0.1)
    assert reason.code == "over_budget"


def test_when_the_time_is_over_what_is_there_is_told_with_what_was_left_out(solving):
    asked = []
    ask = lambda design, rough: asked.append(design) or solving.ask(design, rough)  # noqa: E731
    hurried = dataclasses.replace(solving, ask=ask, known={}, cut_short={}, budgets=4, left_s=lambda: 2.5 - len(asked))
    found = hurried.run()
    assert len(asked) <= 4, "those that fit in, and the unchanged one"
    assert hurried.drop(found.row[found.chosen()][1]) <= 0.1
    assert "the time was over: not every design was run as a whole" in found.notes
    assert {each.joint.code for each in found.planned() if isinstance(each.joint, Missing)} == {"no_time"}


def test_the_recipe_chooses_channels_as_the_losses_did(solving, found):
    other = dataclasses.replace(found, solving=dataclasses.replace(solving, criterion="taylor"))
    settings = [step.settings for each in other.planned() for step in each.steps if step.method == "width"]
    assert settings
    assert {each["criterion"] for each in settings} == {"taylor"}


def test_a_front_says_what_makes_each_design(found):
    planned = found.planned()
    assert planned[0].design == Design()
    assert planned[0].steps == ()
    assert planned[-1].steps[-1].method == "repair"
    assert {each.solved.status for each in planned} == {"optimal"}


def test_least_squares_that_holds_on_to_one():
    rng = np.random.default_rng(0)
    rows = rng.uniform(0, 1, (200, 3))
    rows[:, 2] = 0.0
    found = held_nnls(rows, rows @ np.array([2.0, 0.5, 7.0]))
    assert found[:2] == pytest.approx([2.0, 0.5], rel=0.25)
    assert found[2] == pytest.approx(1.0), "of what was never seen nothing is learnt"


def test_a_sequence_that_never_falls():
    assert rising([0.1, 0.3, 0.2, 0.5]) == pytest.approx([0.1, 0.25, 0.25, 0.5])


class Overlapping:
    """Two layers whose int8 loses 0.01 each and, together, 0.04, as the pair says; or nothing beyond one of them."""

    def __init__(self, extra, together):
        both = (Option(name="float", scheme="float"), Option(name="int8", scheme="int8"))
        sites = tuple(Site(kind="precision", about=name, options=both) for name in "ab")
        self.space = Space(hub_sha256="it", sites=sites, clusters=())
        losses = tuple(Loss(site=site.name, option="int8", divergence=0.01, n=8, how="forward") for site in sites)
        pair = PairLoss(site=sites[0].name, option="int8", other_site=sites[1].name, other_option="int8", extra=extra)
        self.sensitivity = Sensitivity(hub_sha256="it", measure="kl", n=8, losses=losses, pairs=(pair,), took_s=0)
        self.together = together

    def joint(self, design, rough):
        return Joint(divergence=self.together, agreement=1.0, accuracy=1.0, before=1.0, n=8)

    def factors(self):
        solving = Solving(
            space=self.space, costs=None, sensitivity=self.sensitivity, ask=self.joint, max_drop=0.01, budgets=4
        )
        return solving._factors([(None, Design(schemes={"a": "int8", "b": "int8"}))])


def test_what_pairs_lose_is_no_part_of_the_factor():
    exact = Overlapping(0.02, 0.04)
    assert exact.factors()["precision"] == pytest.approx(1.0)
    assert Overlapping(0.02, 0.08).factors()["precision"] == pytest.approx(2.0, rel=0.05)
    twice = scaled(exact.sensitivity, dict.fromkeys(TRUE, 2.0))
    assert sum(by_kind(exact.space, twice, Design(schemes={"a": "int8", "b": "int8"})).values()) == pytest.approx(0.08)


def test_the_unchanged_design_is_there_whatever_the_solver_finds(solving, monkeypatch):
    monkeypatch.setattr("hwbench.planning_pipeline.solving.front", lambda *_, **__: ())
    _, [(answer, design)] = solving._front(dict.fromkeys(TRUE, 1.0), 1e-3)
    assert design == Design()
    assert answer.totals["loss"] == 0
    assert answer.objective == pytest.approx(solving.costs.predict(solving.space, design).value)
