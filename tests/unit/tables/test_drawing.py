"""Which designs are measured, and which widths are worth choosing, on a machine that is known."""

from __future__ import annotations

import random

import made_costs
import pytest
from made_costs import Machine, some_designs

from hwbench.errors import UsageError
from hwbench.plan.designs import key_of, uniform
from hwbench.records.planning import Design
from hwbench.tables.draw import Budget, at_random, drawn, first_designs, measure, places
from hwbench.tables.edges import worthwhile
from hwbench.tables.model import fit


@pytest.fixture(scope="module")
def space():
    return made_costs.space()


def covered(space, designs):
    return {place.cell for design in designs for place in places(space, design)}


class TestDrawn:
    def test_uniform_designs_come_first(self, space):
        assert first_designs(space) == [Design(), uniform(space, "int8")]
        assert first_designs(space, floating="fp32")[1].floating == "fp32"

    def test_covers_more_than_chance(self, space):
        measured = first_designs(space)
        mine = covered(space, drawn(space, 8, measured=measured))
        chance = [len(covered(space, some_designs(space, 8, seed))) for seed in range(20)]
        assert len(mine) > sorted(chance)[-3]

    def test_is_the_same_each_time_and_repeats_nothing(self, space):
        measured = some_designs(space, 5)
        one, other = (drawn(space, 6, measured=measured, seed=3) for _ in range(2))
        assert one == other
        assert len({key_of(each) for each in (*measured, *one)}) == len({key_of(each) for each in measured}) + 6
        assert drawn(space, 6, measured=measured, seed=4) != one

    def test_with_a_model_it_goes_where_curves_are_uncertain(self, space):
        machine = Machine(noise=0.02)
        float_only = [each for each in some_designs(space, 200) if not each.schemes][:14]
        samples = [machine.sample(space, design) for design in [*float_only, uniform(space, "int8")]]
        model = fit(samples, space, folds=0)
        chosen = drawn(space, 6, measured=[each.design for each in samples], model=model)
        assert sum(len(design.schemes) for design in chosen) / 6 > 3.5  # of 8 at most; float has been measured

    def test_random_designs_are_of_the_space(self, space):
        options = {site.about: {option.units for option in site.options} for site in space.sites}
        source = at_random(space, random.Random(0), "bf16")
        for _ in range(50):
            design = next(source)
            assert design.floating == "bf16"
            assert all(units in options[name] for name, units in design.widths.items())


class TestMeasure:
    def test_spends_the_budget_of_samples_in_rounds(self, space):
        machine, rounds = Machine(noise=0.02), []

        def sample(designs):
            rounds.append(len(designs))
            return [machine.sample(space, design) for design in designs]

        samples = measure(space, sample, budget=Budget(samples=20, round=8), elapsed_s=lambda: 0.0)
        assert rounds == [8, 8, 4]
        assert [each.design for each in samples[:2]] == first_designs(space)
        assert len({key_of(each.design) for each in samples}) == 20

    def test_stops_when_time_is_up(self, space):
        clock = iter([0.0, 50.0, 101.0])
        samples = measure(
            space,
            lambda designs: [Machine().sample(space, design) for design in designs],
            budget=Budget(samples=100, seconds=100, round=6),
            elapsed_s=lambda: next(clock),
        )
        assert len(samples) == 12

    def test_does_not_measure_again_what_is_known(self, space):
        machine = Machine()
        known = [machine.sample(space, design) for design in [*first_designs(space), *some_designs(space, 10)]]
        asked = []

        def sample(designs):
            asked.extend(designs)
            return [machine.sample(space, design) for design in designs]

        measure(space, sample, budget=Budget(samples=5), known=known, elapsed_s=lambda: 0.0)
        assert len(asked) == 5
        assert not {key_of(each) for each in asked} & {key_of(each.design) for each in known}


class TestEdges:
    def test_a_width_that_a_wider_one_beats_is_not_worth_it(self, space):
        """The machine has stairs of 16 channels and a kernel for 32 that is slower than that for 48."""
        machine = Machine(slow_widths=(32,))
        site = next(each for each in space.sites if each.name == "width:1.a")
        designs = [
            Design(schemes=schemes, widths=dict.fromkeys(("0.a", "1.a", "2.a"), units))
            for units in (64, 56, 48, 40, 32, 16)
            for schemes in ({}, uniform(space, "int8").schemes)
        ]
        model = fit([machine.sample(space, design) for design in designs], space)
        kept = [site.options[place].units for place in worthwhile(model, space, site)]
        assert {64, 48, 16} <= set(kept)
        assert not {56, 40} & set(kept)

    def test_only_widths_have_edges(self, space):
        model = fit([Machine().sample(space, each) for each in some_designs(space, 12)], space, folds=0)
        with pytest.raises(UsageError, match="precision:stem is no site of widths"):
            worthwhile(model, space, space.sites[0])
