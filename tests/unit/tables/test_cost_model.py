"""The model of costs against a machine whose costs are known exactly."""

from __future__ import annotations

import math

import made_costs
import msgspec
import numpy as np
import pytest
from made_costs import Machine, some_designs
from scipy.optimize import lsq_linear

from hwbench.errors import UsageError
from hwbench.plan.designs import sizes_of, uniform
from hwbench.records.planning import Design
from hwbench.tables.borders import crossings
from hwbench.tables.describe import describe
from hwbench.tables.least_squares import robust_nnls
from hwbench.tables.model import fit, half_width
from hwbench.tables.pace import profiler_of


def fitted(machine, space, count=24, seed=0):
    designs = [Design(), uniform(space, "int8"), *some_designs(space, count - 2, seed)]
    return fit([machine.sample(space, design, at) for at, design in enumerate(designs)], space)


@pytest.fixture(scope="module")
def space():
    return made_costs.space()


class TestPrediction:
    def test_of_unseen_designs_is_near_the_truth(self, space):
        machine = Machine(noise=0.03)
        model = fitted(machine, space)
        unseen = some_designs(space, 100, seed=9)
        off = [model.sum(space, each) / machine.whole(space, each) - 1 for each in unseen]
        assert np.mean(np.abs(off)) < 0.03
        assert np.quantile(np.abs(off), 0.9) < 0.06

    def test_interval_covers_what_it_says(self, space):
        held, half_widths = [], []
        for seed in range(3):
            machine = Machine(noise=0.05)
            machine.rng = np.random.default_rng(seed)
            model = fitted(machine, space, count=30, seed=seed)
            half_widths.append(model.interval())
            for design in some_designs(space, 60, seed=50 + seed):
                predicted = model.predict(space, design)
                held.append(predicted.low <= machine.sample(space, design).median_s <= predicted.high)
        assert 0.82 <= np.mean(held) <= 0.98  # 180 of 90 %, from three calibrations of 30 each
        assert max(half_widths) < 0.25

    def test_a_machine_that_is_slow_for_a_while_is_seen_through(self, space):
        steady, unsteady = Machine(), Machine(slower=(1.0, 1.0, 1.7, 1.0, 1.3))
        models = fitted(steady, space), fitted(unsteady, space)
        for design in some_designs(space, 20, seed=3):
            one, other = (model.sum(space, design) for model in models)
            assert other == pytest.approx(one, rel=0.01)

    def test_what_the_profiler_takes_is_told_apart(self, space):
        machine = Machine(noise=0.01, profiler=(1e-5, 0.75), slower=(1.0, 1.2))
        samples = [machine.sample(space, design, at) for at, design in enumerate(some_designs(space, 30))]
        found = profiler_of(samples)
        assert found.each_s == pytest.approx(1.1e-5, rel=0.15)
        assert found.inside >= 0.5  # less would leave more in the parts than the whole has
        model = fit(samples, space, folds=0)
        off = [model.sum(space, each) / machine.whole(space, each) - 1 for each in some_designs(space, 40, seed=8)]
        assert np.median(np.abs(np.array(off) - np.median(off))) < 0.02  # the pace is that of one half or the other

    def test_other_networks_help_where_nothing_was_measured(self, space):
        """Of the small network only float was measured; of the other one, on the same platform, int8 too."""
        machine, small = Machine(noise=0.01), made_costs.space(blocks=1)
        mine = [each for each in some_designs(small, 400) if not each.schemes][:12]
        samples = [machine.sample(small, design) for design in mine]
        others = [
            msgspec.structs.replace(machine.sample(space, design), hub_sha256="c" * 64)
            for design in some_designs(space, 20)
        ]
        cluster = next(each for each in small.clusters if each.name == "0.a")
        assert not fit(samples, small).knows(cluster, "int8")
        model = fit(samples, small, known=others)
        sizes = sizes_of(cluster, small, Design(widths={"0.a": 48}))
        assert model.cluster(cluster, [sizes], "int8")[0] == pytest.approx(
            1.1 * machine.part(cluster, sizes, "int8"), rel=0.1
        )

    def test_the_hardest_networks_are_not_left_out_of_the_interval(self, space):
        """Two of twelve are int8, each in a kind that the other has not: they count, and with large errors."""
        machine = Machine(noise=0.01)
        floats = [each for each in some_designs(space, 400) if not each.schemes][:10]
        firsts = dict.fromkeys(("stem", "last", *(f"{n}.a" for n in range(3))), "int8")
        odd = [Design(schemes=firsts), Design(schemes={f"{n}.b": "int8" for n in range(3)})]
        model = fit([machine.sample(space, design) for design in [*floats, *odd]], space)
        residuals = {
            tuple(design.schemes): abs(off) for design, off in zip(model.designs, model.residuals, strict=True)
        }
        assert len(model.residuals) == 12
        assert min(residuals[tuple(each.schemes)] for each in odd) > 3 * residuals[()]
        assert model.interval() == pytest.approx(max(model.residuals, key=abs) * -1, rel=1e-9)

    def test_is_the_sum_of_its_parts(self, space):
        model = fitted(Machine(noise=0.02), space)
        for design in some_designs(space, 10, seed=4):
            parts = model.start_s
            for cluster in space.clusters:
                sizes = sizes_of(cluster, space, design)
                if sizes is not None:
                    parts += model.cluster(cluster, [sizes], design.of(cluster.name))[0]
            for each in crossings(space, design):
                parts += model.border(each.scheme_from, each.scheme_to, each.elements)
            assert model.predict(space, design).value == pytest.approx(parts, rel=1e-9)

    def test_a_scheme_that_is_refused_costs_what_is_built(self, space):
        machine = Machine(refuses=("last", "1.a"))
        model = fitted(machine, space)
        last = next(each for each in space.clusters if each.name == "last")
        sizes = sizes_of(last, space, Design())
        assert model.built(last, "int8") == "float"
        assert model.cluster(last, [sizes], "int8") == pytest.approx(model.cluster(last, [sizes], "float"))
        other = next(each for each in space.clusters if each.name == "0.a")
        assert model.built(other, "int8") == "int8"

    def test_a_border_costs_what_it_costs(self, space):
        machine = Machine()
        model = fitted(machine, space, count=40)
        made = next(each for each in crossings(space, uniform(space, "int8")) if each.maker is None)
        assert model.border("float", "float", 1000) == 0
        per_element = (model.border("int8", "float", 16384) - model.border("int8", "float", 8192)) / 8192
        assert per_element == pytest.approx(1.1 * 5e-10, rel=0.15)
        assert made.elements == 3 * 256

    def test_tables_for_people(self, space):
        tables = describe(fitted(Machine(refuses=("last",)), space), space)
        headings, rows = tables["uniform networks (made 1.0, 1 thread(s))"]
        assert headings[0] == "all layers in"
        assert [row[0] for row in rows] == ["float", "int8"]
        _, kinds = tables["clusters at full size (made 1.0, 1 thread(s))"]
        assert {row[0]: row[1] for row in kinds} == {"Conv 3x3": "5", "Conv 3x3 + Add": "3"}


class TestWhatIsRefused:
    def test_too_few_networks(self, space):
        samples = [Machine().sample(space, design) for design in some_designs(space, 9)]
        with pytest.raises(UsageError, match="9 networks were measured, and costs need 10"):
            fit(samples, space)

    def test_several_platforms(self, space):
        samples = [Machine().sample(space, design) for design in some_designs(space, 12)]
        other = msgspec.structs.replace(samples[0], platform=msgspec.structs.replace(made_costs.PLATFORM, threads=2))
        with pytest.raises(UsageError, match="several platforms"):
            fit([*samples, other], space)

    def test_another_network(self, space):
        samples = [Machine().sample(space, design) for design in some_designs(space, 12)]
        with pytest.raises(UsageError, match="another network"):
            fit(samples, msgspec.structs.replace(space, hub_sha256="b" * 64))

    def test_a_scheme_that_was_never_measured(self, space):
        model = fit([Machine().sample(space, Design()) for _ in range(12)], space)
        cluster = space.clusters[1]
        assert model.knows(cluster, "float")
        assert not model.knows(cluster, "int8")
        with pytest.raises(UsageError, match="no network was measured in which a cluster 'Conv 3x3' is int8"):
            model.cluster(cluster, [sizes_of(cluster, space, Design())], "int8")


def test_conformal_is_the_order_statistic():
    residuals = [(-1) ** n * n / 100 for n in range(1, 20)]  # 19 of them: the 18th of 20 places
    assert half_width(residuals, 0.9) == pytest.approx(0.18)
    assert half_width(residuals[:9], 0.9) == pytest.approx(0.09)
    with pytest.raises(UsageError, match="3 of 19 networks have layers"):
        half_width([*residuals[:16], math.inf, math.inf, math.inf], 0.9)
    with pytest.raises(UsageError, match="8 networks hold no interval of 90%"):
        half_width(residuals[:8], 0.9)


class TestLeastSquares:
    def test_without_outliers_it_is_non_negative_least_squares(self):
        rng = np.random.default_rng(0)
        features = rng.uniform(0, 1, (60, 4)) * [1, 1e3, 1e-3, 1]
        values = features @ [1.0, 2e-3, 0.0, 3.0] + 1e-4 * rng.uniform(-1, 1, 60)
        found = robust_nnls(features, values, np.ones(60))
        oracle = lsq_linear(features, values, bounds=(0, np.inf)).x
        assert features @ found == pytest.approx(features @ oracle, abs=1e-4)

    def test_outliers_do_not_bend_it(self):
        rng = np.random.default_rng(1)
        features = np.stack([np.ones(40), rng.uniform(0, 10, 40)], axis=1)
        values = features @ [1.0, 2.0] + 0.01 * rng.standard_normal(40)
        values[:4] *= 10
        assert robust_nnls(features, values, np.ones(40)) == pytest.approx([1.0, 2.0], abs=0.05)
        assert math.dist(lsq_linear(features, values, bounds=(0, np.inf)).x, [1.0, 2.0]) > 0.5
