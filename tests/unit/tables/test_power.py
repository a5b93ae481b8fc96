"""Watts of the parts of made-up networks on a made-up machine, whose power is known exactly."""

from __future__ import annotations

import math

import made_costs
import msgspec
import numpy as np
import pytest
from made_costs import Machine, some_designs

from hwbench.plan.assemble import ENERGY, assemble
from hwbench.plan.designs import choice_of, key_of, sizes_of, uniform
from hwbench.planning_pipeline.with_zeros import JoulesWithZeros, Shrunk, WithZeros
from hwbench.records.base import Missing
from hwbench.records.planning import Design, Drawn, Loss, Sensitivity, SparseCost, Zeros
from hwbench.tables.model import fit
from hwbench.tables.power import FEWEST_METERED, MeasuredJoules, count_metered, power_of

pytest.importorskip("scipy.optimize", reason="costs are fitted with scipy")

SPACE = made_costs.space()
TRUE_W = {"float": 30.0, "int8": 20.0}
BETWEEN_W = 12.0


def true_power(sample):
    """Time-weighted watts of what the machine did."""
    clusters = sum(each.time_s for each in sample.clusters)
    energy = sum(TRUE_W[each.scheme] * each.time_s for each in sample.clusters)
    return (energy + BETWEEN_W * (sample.median_s - clusters)) / sample.median_s


def metered(sample, noise=0.0, rng=None, meter="rapl"):
    watts = true_power(sample) * math.exp(noise * (rng.standard_normal() if rng else 0.0))
    drawn = Drawn(
        energy_j=watts * sample.median_s, inferences=100, window_s=1.0, relative_uncertainty=0.05, meter=meter,
        boundary="package", provenance="vendor_modelled",
    )  # fmt: skip
    return msgspec.structs.replace(sample, energy=drawn)


@pytest.fixture(scope="module")
def world():
    rng = np.random.default_rng(0)
    machine = Machine()
    designs = [Design(), uniform(SPACE, "int8"), *some_designs(SPACE, 28)]
    samples = [metered(machine.sample(SPACE, design), 0.01, rng) for design in designs]
    costs = fit(samples, SPACE)
    return machine, samples, costs


def test_watts_by_scheme_are_found_again(world):
    _, samples, costs = world
    power = power_of(samples, SPACE, costs)
    for scheme, watts in TRUE_W.items():
        assert power.of("Conv 3x3", scheme) == pytest.approx(watts, rel=0.1)
    assert power.of("Gemm", "float") == power.mean_w, "of what was never seen the mean is taken"
    assert "rapl (vendor_modelled) on 30 networks" in power.source


def test_energies_of_networks_that_were_not_in_the_fit(world):
    machine, samples, costs = world
    joules = MeasuredJoules(costs, power_of(samples, SPACE, costs))
    known = {key_of(each.design) for each in samples}
    others = [each for each in some_designs(SPACE, 60, seed=5) if key_of(each) not in known][:20]
    inside = 0
    for design in others:
        sample = machine.sample(SPACE, design)
        truth = true_power(sample) * machine.whole(SPACE, design)
        found = joules.predict(SPACE, design)
        assert found.value == pytest.approx(truth, rel=0.1)
        inside += found.low <= truth <= found.high
    assert inside >= 16
    assert found.n == 30
    assert "rapl" in found.method


def test_the_solver_is_given_what_is_predicted(world):
    _, samples, costs = world
    joules = MeasuredJoules(costs, power_of(samples, SPACE, costs))
    losses = tuple(
        Loss(site=site.name, option=option.name, divergence=0.1, n=8, how="forward")
        for site in SPACE.sites
        for option in site.options[1:]
    )
    found = Sensitivity(hub_sha256=SPACE.hub_sha256, measure="kl", n=8, losses=losses, pairs=(), took_s=0)
    problem = assemble(SPACE, costs, found, joules=joules).plus({"latency": costs.start_s, ENERGY: joules.start_j})
    for design in some_designs(SPACE, 12, seed=9):
        choice = choice_of(SPACE, design)
        totals = problem.totals([choice[site.name] for site in SPACE.sites])
        assert totals[ENERGY] == pytest.approx(joules.predict(SPACE, design).value, rel=1e-9)
        assert totals["latency"] == pytest.approx(costs.predict(SPACE, design).value, rel=1e-9)


def test_what_differs_in_time_alone_is_told_by_time(world):
    _, samples, costs = world
    even = [
        msgspec.structs.replace(each, energy=msgspec.structs.replace(each.energy, energy_j=25 * each.median_s))
        for each in samples
    ]
    power = power_of(even, SPACE, costs)
    assert power.of("Conv 3x3", "int8") == pytest.approx(25, rel=1e-3)
    assert power.of("Conv 3x3", "float") == pytest.approx(25, rel=1e-3)


def test_too_few_networks_or_a_meter_that_fails_is_a_reason_and_no_joule(world):
    _, samples, costs = world
    few = power_of(samples[: FEWEST_METERED - 1], SPACE, costs)
    assert (few.code, isinstance(few, Missing)) == ("too_few", True)
    gone = Missing(code="permission_denied", why="the counter cannot be read", cure="chmod it")
    denied = power_of([msgspec.structs.replace(each, energy=gone) for each in samples], SPACE, costs)
    assert (denied.code, denied.cure) == ("permission_denied", "chmod it")
    assert "the counter cannot be read" in denied.why


def test_meters_are_not_mixed(world):
    _, samples, costs = world
    mixed = [
        msgspec.structs.replace(each, energy=msgspec.structs.replace(each.energy, meter="hwmon", energy_j=1.0))
        if number % 3 == 0
        else each
        for number, each in enumerate(samples)
    ]
    power = power_of(mixed, SPACE, costs)
    assert power.source.startswith("rapl (vendor_modelled) on 20 networks")


def test_readings_that_may_not_be_of_the_load_do_not_count(world):
    """A store of before may still hold them: half of these are flagged and tell of another power altogether."""
    _, samples, costs = world
    wrong = [
        msgspec.structs.replace(
            each, energy=msgspec.structs.replace(each.energy, energy_j=1.0, flags=("sensor_stale",))
        )
        for each in samples[1::2]
    ]
    power = power_of([*samples[::2], *wrong], SPACE, costs)
    alone = power_of(samples[::2], SPACE, costs)
    assert power.mean_w == pytest.approx(alone.mean_w)
    assert count_metered([*samples[::2], *wrong]) == len(samples[::2])
    late = [msgspec.structs.replace(each, energy=msgspec.structs.replace(each.energy, flags=("late_readings",)))
            for each in samples]  # fmt: skip
    assert count_metered(late) == len(samples), "other flags are told and count"


def test_zeros_save_energy_as_they_save_time(world):
    _, samples, costs = world
    dense = MeasuredJoules(costs, power_of(samples, SPACE, costs))
    cluster, zeros = SPACE.clusters[1], Zeros(format="vw16", sparsity=0.7)
    tenth = SparseCost(cluster=cluster.name, zeros=zeros, ratio=0.1, basis="network", why="timed")
    shrunk = Shrunk(timed={(cluster.name, "float", zeros): tenth})
    joules = JoulesWithZeros(dense=dense, costs=WithZeros(dense=costs, shrunk=shrunk))
    whole, sparse = (joules.predict(SPACE, each).value for each in (Design(), Design(zeros={cluster.name: zeros})))
    alone = dense.cluster(cluster, [sizes_of(cluster, SPACE, Design())], "float")[0]
    assert whole - sparse == pytest.approx(0.9 * alone, rel=1e-9)
    assert joules.start_j == dense.start_j
    assert "rapl" in joules.basis
