"""Goals beyond accuracy steer the solver: held against trying every design of a small network."""

from __future__ import annotations

import io
import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
from made_costs import PLATFORM, conv
from rich.console import Console
from test_assemble import Made

pytest.importorskip("scipy.optimize", reason="the solver needs scipy")

from hwbench.cli.main import main
from hwbench.devices.profiles import load_profiles
from hwbench.energy.choose import Chosen
from hwbench.errors import DeviceError
from hwbench.inventory import find_or_describe
from hwbench.plan.assemble import assemble
from hwbench.plan.designs import choice_of, design_of
from hwbench.plan.goals import bounds_of, parse_goal
from hwbench.planning_pipeline.energy import refuse_energy
from hwbench.planning_pipeline.meeting import baseline_of, best_of_either, held, meeting
from hwbench.planning_pipeline.solving import Solving
from hwbench.records.base import Missing
from hwbench.records.plan import EnginePlan, Joint
from hwbench.records.planning import Design, Interval, Loss, Option, Sensitivity, Site, Space
from hwbench.report.plan import _engine
from hwbench.testing import example_cpu

START_S, START_J = 2e-6, 5e-6
AWAY = Missing(code="no_labels", why="there are none")


class Whole(Made):
    """Whole networks take ``more`` than the sum of their parts."""

    start_s, start_j, basis = START_S, START_J, "made up"

    def __init__(self, space, watts=None, more=1.0):
        super().__init__(space)
        self.watts, self.more = watts, more

    def one(self, cluster, sizes, scheme):
        return super().one(cluster, sizes, scheme) * (1.0 if self.watts is None else self.watts[scheme])

    def predict(self, space, design):
        start = START_S if self.watts is None else START_J
        value = self.more * (total(space, self, design) + start)
        return Interval(value=value, low=value, high=value, coverage=0.9, tier="A", n=1, method="made up")


def total(space, costs, design):
    choice = choice_of(space, design)
    return assemble(space, costs, sensitivity(space)).totals([choice[site.name] for site in space.sites])["latency"]


def network():
    """Four layers: each in float or int8, two of them narrower."""
    group = ("width:a", "width:b")
    clusters = (
        conv("a", 3, 64, 64, widths_out={group[0]: 1}, readers={"b": 64 * 64}),
        conv("b", 64, 64, 64, widths_in={group[0]: 1}, widths_out={group[1]: 1}, readers={"c": 64 * 64}),
        conv("c", 64, 64, 64, widths_in={group[1]: 1}, readers={"d": 64 * 64}),
        conv("d", 64, 32, 64),
    )
    both = (Option(name="float", scheme="float"), Option(name="int8", scheme="int8"))
    widths = tuple(Option(name=f"{count} of 64", units=count) for count in (64, 48, 32))
    sites = [Site(kind="precision", about=each.name, options=both) for each in clusters]
    sites += [Site(kind="width", about=name, options=widths) for name in "ab"]
    return Space(hub_sha256="it", sites=tuple(sites), clusters=clusters)


def sensitivity(space):
    rng = np.random.default_rng(3)
    found = [
        Loss(site=site.name, option=option.name, divergence=float(rng.uniform(0.01, 0.3)), n=8, how="forward")
        for site in space.sites
        for option in site.options[1:]
    ]
    return Sensitivity(hub_sha256="it", measure="kl", n=8, losses=tuple(found), pairs=(), took_s=0)


SPACE = network()
TIMES = Whole(SPACE)
JOULES = Whole(SPACE, {"float": 3.0, "int8": 12.0})  # int8 is quick and thirsty


def lost(space, design):
    choice = choice_of(space, design)
    known = {(each.site, each.option): each.divergence for each in sensitivity(space).losses}
    return sum(known[site.name, site.options[choice[site.name]].name] for site in space.sites if choice[site.name])


def ask(design, rough):
    loss = lost(SPACE, design)
    return Joint(divergence=loss, agreement=math.exp(-loss / 3), accuracy=AWAY, before=AWAY, n=100)


def solving(**changes):
    given = {
        "space": SPACE, "costs": TIMES, "joules": JOULES, "sensitivity": sensitivity(SPACE), "ask": ask,
        "max_drop": 0.1, "budgets": 12, "known": {},
    }  # fmt: skip
    return Solving(**{**given, **changes})


def everything():
    """Every design with what it takes and loses."""
    found = []
    for options in itertools.product(*(range(len(site.options)) for site in SPACE.sites)):
        design = design_of(SPACE, dict(zip((s.name for s in SPACE.sites), options, strict=True)))
        found.append(
            {
                "latency": TIMES.predict(SPACE, design).value,
                "energy": JOULES.predict(SPACE, design).value,
                "drop": 1 - math.exp(-lost(SPACE, design) / 3),
            }
        )
    return found


EVERY = everything()


def asked(*goals, accuracy=1, **changes):
    one = solving(**changes)
    wanted = bounds_of([parse_goal(each) for each in goals], baseline_of(one, 1), batch_size=1)
    return meeting(one, wanted, accuracy)


def values(found):
    chosen = found.chosen()
    assert not isinstance(chosen, Missing), str(chosen)
    design = found.row[chosen][1]
    return {**found.values(design), "drop": found.solving.drop(design)}


def between(name, share):
    ordered = sorted(each[name] for each in EVERY)
    return ordered[int(share * (len(ordered) - 1))]


def test_the_objective_energy_finds_what_trying_everything_finds():
    mine = values(asked(objective="energy"))
    best = min(each["energy"] for each in EVERY if each["drop"] <= 0.1)
    fast = values(asked(objective="latency"))
    assert mine["drop"] <= 0.1
    assert mine["energy"] == pytest.approx(best, rel=0.03), "a row of budgets, halved around the limit"
    assert mine["energy"] < 0.9 * fast["energy"]
    assert fast["latency"] < 0.9 * mine["latency"]


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
def test_the_best_accuracy_under_a_bound_is_exact(share):
    limit = between("energy", share)
    mine = values(asked(f"energy<{limit!r}", objective="accuracy", max_drop=1.0))
    assert mine["energy"] <= limit * (1 + 1e-6)
    assert mine["drop"] == pytest.approx(min(each["drop"] for each in EVERY if each["energy"] <= limit), rel=1e-6)


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_bounds_are_kept_whatever_is_made_small(share):
    limit = between("energy", share)
    mine = values(asked(f"energy<{limit!r}", max_drop=1.0))
    able = [each for each in EVERY if each["energy"] <= limit]
    assert mine["energy"] <= limit * (1 + 1e-6)
    assert mine["latency"] == pytest.approx(min(each["latency"] for each in able), rel=0.02)


def test_a_larger_budget_never_gives_a_slower_plan():
    slower = [
        values(asked(f"energy<{between('energy', share)!r}", max_drop=1.0))["latency"] for share in (0.1, 0.4, 0.8)
    ]
    assert slower == sorted(slower, reverse=True)


def test_bounds_of_whole_networks_are_kept_where_parts_promise_less():
    dear = Whole(SPACE, more=1.2)
    limit = 1.2 * between("latency", 0.3)
    found = asked(f"latency<{limit!r}", objective="accuracy", max_drop=1.0, costs=dear)
    assert values(found)["latency"] <= limit * (1 + 1e-6)
    able = [each for each in EVERY if 1.2 * each["latency"] <= limit]
    assert values(found)["drop"] == pytest.approx(min(each["drop"] for each in able), rel=1e-6)


def front_with(scheme, used, latency_s):
    """The front of a space that offers a scheme, whose best design has some schemes."""
    options = (Option(name="float", scheme="float"), Option(name=scheme, scheme=scheme))
    space = SimpleNamespace(sites=(SimpleNamespace(options=options),))
    answer, design = SimpleNamespace(objective=latency_s), Design(schemes=dict(enumerate(used)))
    row, solving = [(answer, design)], SimpleNamespace(space=space, name="latency")
    return SimpleNamespace(chosen=lambda: 0, row=row, told=(), solving=solving)


@pytest.mark.parametrize(
    ("int8", "fp8", "told"),
    [
        ((["int8"], 1e-3), (["fp8"], 2e-3), True),
        ((["int8"], 1e-3), ([], 2e-3), True),
        (([], 1e-3), ([], 1e-3), False),
        ((["int4-weights"], 1e-3), (["int4-weights"], 1.1e-3), False),
        ((["int8"], 1e-3), (["fp8"], 1e-3), False),
    ],
)
def test_that_schemes_are_not_mixed_is_told_where_it_decides(int8, fp8, told):
    fronts = [front_with("int8", *int8), front_with("fp8", *fp8)]
    text = best_of_either(fronts, ("int8", "fp8"))
    assert bool(text) == told
    assert all("with int8 1.00 ms of latency, with fp8 2.00 ms" in one for one in text)
    assert best_of_either(fronts[:1], ("int8", "fp8")) == ()


def test_what_cannot_be_met_is_given_up_by_priority_and_missed_by_little():
    least = min(each["energy"] for each in EVERY)
    found = asked(f"energy<{0.5 * least!r} priority 2", f"latency<{between('latency', 0.4)!r}", max_drop=1.0)
    mine = values(found)
    able = [each for each in EVERY if each["latency"] <= between("latency", 0.4)]
    assert mine["latency"] <= between("latency", 0.4) * (1 + 1e-6)
    assert mine["energy"] == pytest.approx(min(each["energy"] for each in able), rel=0.03)
    assert "energy of at most" in found.told[0]
    assert "cannot be met whatever else is given up" in found.told[0]
    goals = [parse_goal(f"energy<{0.5 * least!r} priority 2"), parse_goal("accuracy drop<99pp")]
    outcome = held(found, goals, baseline_of(found.solving, 1), 1)
    assert [each.met for each in outcome] == [False, True]
    assert outcome[0].value == pytest.approx(mine["energy"])


def test_accuracy_comes_first_unless_it_is_said_otherwise():
    limit = min(each["latency"] for each in EVERY if each["drop"] <= 0.1) * 0.8
    first = asked(f"latency<{limit!r}")
    assert values(first)["drop"] <= 0.1
    assert "loses" in first.told[0]
    assert values(first)["latency"] == pytest.approx(limit / 0.8, rel=0.03), "as fast as the drop lets"
    later = asked(f"latency<{limit!r}", accuracy=2)
    assert values(later)["latency"] <= limit * (1 + 1e-6)
    assert values(later)["drop"] == pytest.approx(
        min(each["drop"] for each in EVERY if each["latency"] <= limit), rel=1e-6
    )


def test_an_infeasible_question_says_which_bounds_conflict_and_what_would_relax_them():
    limit_s, limit_j = between("latency", 0.02), between("energy", 0.02)
    one = solving(max_drop=1.0).asking("latency", {"latency": limit_s, "energy": limit_j})
    found = one.run()
    reason = found.chosen()
    assert not any(each["latency"] <= limit_s and each["energy"] <= limit_j for each in EVERY)
    assert reason.code == "infeasible"
    least = min(each["latency"] for each in EVERY if each["energy"] <= limit_j)
    assert {each.quantity: each.beside for each in one.shortfalls}["latency"] == pytest.approx(least, rel=2e-3)
    assert reason.cure.startswith("relax latency to ")
    assert [each.solved.design for each in found.planned()] == [one.as_it_is], "what is left is the network as it is"


def test_relative_goals_are_held_against_the_network_as_it_is():
    mine = values(asked("latency percent-min-improvement 30", objective="accuracy", max_drop=1.0))
    assert mine["latency"] <= 0.7 * EVERY[0]["latency"] * (1 + 1e-6)


def test_reasons_name_what_was_bounded():
    found = asked(f"energy<{between('energy', 0.3)!r}", objective="accuracy", max_drop=1.0)
    design = found.row[found.chosen()][1]
    assert any("which breaks the bound of energy" in each.why for each in found.decisions(design))


def test_a_goal_that_is_missed_is_shown_with_the_energy_of_the_front():
    least = min(each["energy"] for each in EVERY)
    goals = [parse_goal(f"energy<{0.5 * least!r}")]
    found = asked(goals[0].text, max_drop=1.0)
    shown = EnginePlan(
        platform=PLATFORM, samples=40, sampled_now=0, baselines={}, front=found.planned(), chosen=found.chosen(),
        goals=held(found, goals, baseline_of(found.solving, 1), 1), notes=found.notes,
    )  # fmt: skip
    assert not shown.met
    console = Console(width=200, record=True, file=io.StringIO())
    for part in _engine(shown):
        console.print(part)
    text = console.export_text()
    assert f"goal '{goals[0].text}' MISSED; predicted: energy is" in text
    assert "is given up as a bound; energy is made small instead" in text
    assert "energy: made up" in text, "the source of the joules"
    assert "J" in text.split("energy", 1)[1]


def test_energy_is_refused_before_anything_is_done_where_there_is_no_meter(monkeypatch):
    none = Missing(code="no_meter", why="no energy meter here measures a cpu", cure="buy one")
    monkeypatch.setattr("hwbench.energy.choose._best", lambda device: Chosen(instrument=none))
    target = SimpleNamespace(device=example_cpu())
    request = SimpleNamespace(needs_energy=True)
    with pytest.raises(DeviceError, match="no energy can be measured") as raised:
        refuse_energy(request, target)
    assert "buy one" in raised.value.hint
    assert "--objective latency" in raised.value.hint
    refuse_energy(SimpleNamespace(needs_energy=False), target)


WITH_POWER = {
    name
    for name, profile in load_profiles().items()
    if {"load", "tdp", "tdp_per_core"} & set(profile.power_w) or any(mode.budget_w for mode in profile.power_modes)
}


@pytest.mark.parametrize("name", sorted(load_profiles().keys() - WITH_POWER))
def test_energy_is_refused_before_anything_is_done_where_the_profile_has_no_power(name):
    target = find_or_describe(name)
    with pytest.raises(DeviceError, match="has no power figure") as raised:
        refuse_energy(SimpleNamespace(needs_energy=True), target)
    assert "--objective latency" in raised.value.hint
    assert "meter" not in raised.value.hint
    refuse_energy(SimpleNamespace(needs_energy=False), target)


def test_energy_is_planned_for_where_the_profile_has_power():
    assert WITH_POWER
    assert "apple-m1" not in WITH_POWER
    for name in WITH_POWER:
        refuse_energy(SimpleNamespace(needs_energy=True), find_or_describe(name))


def test_accuracy_is_no_objective_without_a_goal(capsys, tmp_path):
    asked = ("plan", "digits_cnn", "--data", "d.npz", "-o", str(tmp_path), "--objective", "accuracy")
    assert main([*asked]) == 2
    assert "holds it back" in capsys.readouterr().err
    assert main([*asked, "--goal", "accuracy drop<1pp"]) == 2


def test_optimizing_for_a_device_that_is_not_attached_names_what_can_be_done(capsys, tmp_path):
    assert main(["optimize", "digits_cnn", "--data", "d.npz", "-o", str(tmp_path), "--device", "nvidia-h200"]) != 0
    said = " ".join(capsys.readouterr().err.split())
    assert "hwbench plan --device nvidia-h200" in said
