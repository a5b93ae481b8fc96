"""Fits, intervals, orders and energies: against parameters that are known, and against formulas of their own."""

import math
from dataclasses import replace

import msgspec
import numpy as np
import onnx_ir as ir
import pytest

from hwbench.devices.profiles import load_profiles
from hwbench.errors import UsageError
from hwbench.plan.assemble import assemble
from hwbench.plan.designs import design_of, sizes_of, uniform
from hwbench.plan.milp import solve
from hwbench.plan.sites import space_of
from hwbench.prediction import priors, spread
from hwbench.prediction.costs import PredictedCosts
from hwbench.prediction.fit import Observation, fit, left_out_errors
from hwbench.prediction.machine import machine_of
from hwbench.prediction.ordering import may_claim, ratio
from hwbench.prediction.predict import Predictor, predict, predict_design, predictor_of
from hwbench.prediction.probe.anchors import ANCHORS, BY_NAME
from hwbench.prediction.probe.observed import anchor_works
from hwbench.prediction.probe.onnx_files import onnx_model
from hwbench.prediction.roofline import PARAMETERS, bases_of, times_of
from hwbench.records.base import Missing
from hwbench.records.planning import Design, Loss, Sensitivity

PROFILES = load_profiles()
GENOA = PROFILES["amd-epyc-genoa"]


def hub(name):
    return ir.serde.deserialize_model(onnx_model(BY_NAME[name], "fp32"))


@pytest.fixture(scope="module")
def predictor():
    return predictor_of(GENOA, engine="onnxruntime")


@pytest.fixture(scope="module")
def space():
    return space_of(hub("model-residual"), "0" * 64)


def observed(machine, logs, noise=0.0):
    """Return what the anchors would take at some parameters."""
    chance, found = np.random.default_rng(3), []
    for anchor in ANCHORS:
        for scheme in ("float", "int8") if anchor.quantised else ("float",):
            bases = bases_of(anchor_works(anchor.name, scheme).units, machine, "fp32")
            factor = math.exp(noise * chance.standard_normal())
            found.append(Observation(bases=bases, measured_s=times_of(bases, logs).total * factor))
    return found


class TestFit:
    def test_the_anchors_tell_every_parameter(self):
        machine = machine_of(GENOA, engine="unheard-of")
        mean, _ = priors.judged()
        true = mean + np.array([0.3 if place % 2 else -0.4 for place in range(len(PARAMETERS))])
        found = fit(observed(machine, true), mean, priors.adaptation_spread())
        assert dict(zip(PARAMETERS, found - true, strict=True)) == pytest.approx(dict.fromkeys(PARAMETERS, 0), abs=0.1)

    def test_what_is_not_measured_stays_where_the_prior_has_it(self):
        machine = machine_of(GENOA, engine="unheard-of")
        mean, _ = priors.judged()
        floats = [one for one in observed(machine, mean + 0.2) if "int8" not in one.bases.arithmetics]
        found = fit(floats, mean, priors.adaptation_spread())
        assert found[PARAMETERS.index("conv.int8")] == pytest.approx(mean[PARAMETERS.index("conv.int8")], abs=1e-3)

    def test_left_out_errors_are_of_the_size_of_the_noise(self):
        machine = machine_of(GENOA, engine="unheard-of")
        mean, _ = priors.judged()
        errors = left_out_errors(observed(machine, mean, noise=0.1)[:16], mean, priors.adaptation_spread())
        assert 0.04 < np.std(errors) < 0.3


class TestIntervals:
    def test_conformal_covers_what_it_says(self):
        chance = np.random.default_rng(0)
        draws = chance.standard_t(4, (4000, 21))
        halves = np.array([spread.conformal(row[:20]) for row in draws])
        assert np.mean(np.abs(draws[:, 20]) <= halves) == pytest.approx(19 / 21, abs=0.02)  # the 19th of 20

    def test_too_few_residuals_widen(self):
        assert spread.conformal([0.1, -0.3]) == pytest.approx(0.3 * 3 / 2)

    @pytest.mark.parametrize("n", [2, 5, 12])
    def test_the_interval_of_few_groups_is_students(self, n):
        t = pytest.importorskip("scipy.stats").t
        half = spread.half_width(between=0.1, judged=0, within=0, n=n)
        assert half == pytest.approx(0.1 * t.ppf(0.95, n - 1) * (1 + 1 / n) ** 0.5, rel=1e-3)

    def test_less_is_known_of_a_runtime_that_was_never_fitted_and_of_a_gpu(self, predictor):
        def half(other):
            return math.log(other.interval(1.0).high)

        unheard = predictor_of(GENOA, engine="unheard-of")
        held_out = predictor_of(GENOA, engine="onnxruntime", without=["onnxruntime"])
        gpu = predictor_of(PROFILES["jetson-orin-nano-super"], engine="tensorrt")
        assert half(predictor) < half(unheard)
        assert half(predictor) < half(held_out)
        assert half(predictor) > math.log(1.4)  # honest: a data sheet does not tell a latency
        assert (predictor.tier, gpu.tier, gpu.interval(1.0).n) == ("C", "C", 0)
        assert "judgement" in gpu.basis


class TestPrediction:
    def test_the_table_adds_up(self, predictor):
        found = predict(hub("model-inverted"), predictor, name="m", hub_sha256="0", precision="int8")
        assert sum(unit.time_s for unit in found.units) + found.fixed_s + found.borders_s == pytest.approx(
            found.latency.value
        )
        assert {unit.arithmetic for unit in found.units} == {"int8"}
        with pytest.raises(UsageError, match="no precision is called 'int9'"):
            predict(hub("model-inverted"), predictor, name="m", hub_sha256="0", precision="int9")

    def test_energy_follows_the_formula_or_is_missing(self):
        board = PROFILES["raspberry-pi-5"]
        found = predict(hub("conv3-64-56"), predictor_of(board, engine="litert"), name="m", hub_sha256="0")
        idle, load, cores = 3.3, 9.8, 4
        moved = 4 * (2 * 64 * 56 * 56 + 64 * 64 * 9 + 64) / 7e9
        dynamic = (load - idle) / cores * (0.6 * 2 * 115_605_504 / (153.6e9 / cores) + 0.4 * moved)
        assert found.energy.value_j == pytest.approx(idle * found.latency.value + dynamic)
        assert found.energy.low_j < found.energy.value_j / 2
        phone = predictor_of(PROFILES["google-pixel-8"], engine="litert")
        none = predict(hub("conv3-64-56"), phone, name="m", hub_sha256="0").energy
        assert isinstance(none, Missing)
        assert none.code == "no_power_figure"


class TestOrder:
    def test_a_network_and_itself(self, predictor):
        one = predict(hub("model-residual"), predictor, name="a", hub_sha256="0")
        same = ratio(one, one, predictor)
        assert (same.ratio.value, same.a_is_faster_probability) == (1, 0.5)

    def test_a_ratio_of_like_networks_is_better_known_than_a_time(self, predictor):
        a = predict(hub("conv3-64-56"), predictor, name="a", hub_sha256="0")
        b = predict(hub("conv3-256-14"), predictor, name="b", hub_sha256="0")
        found = ratio(a, b, predictor)
        assert found.ratio.high / found.ratio.low < 0.8 * a.latency.high / a.latency.low
        quantised = predict(hub("conv3-64-56"), predictor, name="a", hub_sha256="0", precision="int8")
        found, like = ratio(quantised, a, predictor), found
        assert found.ratio.high / found.ratio.low > like.ratio.high / like.ratio.low  # another arithmetic
        assert found.a_is_faster_probability > 0.8
        a, b = quantised, a
        back = ratio(b, a, predictor)
        assert back.a_is_faster_probability == pytest.approx(1 - found.a_is_faster_probability)

    def test_tier_c_never_claims_and_tier_b_where_it_is_sure(self, predictor):
        adapted = Predictor(
            machine=predictor.machine, logs=predictor.logs, between=0, judged=0, within=0.1, n=20, basis="a test",
            errors=(0.01,) * 20, probe="0",
        )  # fmt: skip
        for one, claims in ((predictor, False), (adapted, True)):
            small = predict(hub("conv3-16-32"), one, name="small", hub_sha256="0")
            large = predict(hub("conv3-512-7"), one, name="large", hub_sha256="0")
            found = ratio(small, large, one)
            assert found.a_is_faster_probability > 0.99
            assert may_claim(found) is claims
            assert not may_claim(ratio(large, small, one))
        with pytest.raises(UsageError, match="one device"):
            ratio(small, large, predictor)


class TestCosts:
    @pytest.mark.parametrize("scheme", ["float", "int8"])
    def test_clusters_borders_and_the_rest_are_the_whole(self, space, predictor, scheme):
        costs = PredictedCosts(space, predictor)
        design = uniform(space, scheme)
        found = predict_design(space, design, predictor)
        clusters = sum(
            costs.cluster(one, [sizes_of(one, space, design)], design.of(one.name))[0] for one in space.clusters
        )
        assert clusters + found.borders_s + costs.start_s == pytest.approx(costs.predict(space, design).value)
        assert (found.borders_s > 0) is (scheme == "int8")  # the ends of the network are floats

    def test_so_are_they_of_designs_whose_weights_fit_a_faster_level(self, space, predictor):
        machine, whole = predictor.machine, sum(cluster.weights for cluster in space.clusters)
        fast = replace(machine.levels[0], capacity_bytes=3.0 * whole)  # of 4 in floats: int8 and narrow ones fit
        slow = replace(machine.levels[-1], bytes_per_s=fast.bytes_per_s / 1000)
        costs = PredictedCosts(space, replace(predictor, machine=replace(machine, levels=(fast, slow))))
        widths = [site for site in space.sites if site.kind == "width"]
        narrow = design_of(space, {site.name: len(site.options) - 1 for site in widths})
        for design in (Design(), narrow, uniform(space, "int8")):
            found = costs.prediction(design, "it")
            clusters = sum(
                costs.cluster(one, [sizes_of(one, space, design)], design.of(one.name))[0] for one in space.clusters
            )
            assert found.latency.value == pytest.approx(clusters + found.borders_s + found.fixed_s)
            assert costs.predict(space, design) == found.latency

    def test_several_sizes_at_once_are_each_alone(self, space, predictor):
        costs = PredictedCosts(space, predictor)
        cluster = space.clusters[3]
        whole = sizes_of(cluster, space, Design())
        some = [whole, msgspec.structs.replace(whole, rank=4), msgspec.structs.replace(whole, macs=whole.macs // 2)]
        found = costs.cluster(cluster, some, "float")
        assert found == pytest.approx([costs.cluster(cluster, [one], "float")[0] for one in some])
        assert len(set(found)) == 3

    def test_a_plan_is_assembled_from_them(self, space, predictor):
        losses = tuple(
            Loss(site=site.name, option=option.name, divergence=0.01 * place, n=1, how="forward")
            for site in space.sites
            for place, option in enumerate(site.options)
            if place
        )
        found = Sensitivity(hub_sha256="0" * 64, measure="kl", n=1, losses=losses, pairs=(), took_s=0.0)
        problem = assemble(space, PredictedCosts(space, predictor), found)
        fast = solve(problem, objective="latency", bounds={"loss": 0.05})
        assert fast.status == "optimal"
        whole = solve(problem, objective="latency", bounds={"loss": 0.0})
        assert fast.objective < whole.objective

    def test_a_border_is_paid_between_int8_and_float_alone(self, space, predictor):
        costs = PredictedCosts(space, predictor)
        assert costs.border("float", "int8", 1000) > costs.border("float", "int8", 10) > 0
        assert costs.border("int8", "int8", 1000) == costs.border("float", "int8-weights", 1000) == 0

    def test_the_whole_by_clusters_is_the_whole_by_layers(self, predictor):
        model = hub("model-inverted")
        by_layers = predict(model, predictor, name="m", hub_sha256="0", precision="auto").latency.value
        by_clusters = predict_design(space_of(model, "0" * 64), Design(), predictor).latency.value
        assert by_clusters == pytest.approx(by_layers, rel=0.05)

    def test_less_width_costs_less_and_a_vector_less_costs_a_step(self, space, predictor):
        costs = PredictedCosts(space, predictor)
        whole = costs.predict(space, Design()).value
        widths = [site for site in space.sites if site.kind == "width"]
        narrow = design_of(space, {widths[0].name: len(widths[0].options) - 1})
        assert costs.predict(space, narrow).value < whole
        assert costs.compare(narrow, Design()).a_is_faster_probability > 0.5
