"""The assembled problem holds what is known of the parts: its totals are summed up here cluster by cluster."""

from __future__ import annotations

import made_costs
import numpy as np
import pytest
from compress_hubs import hub
from structure_graphs import Net

from hwbench.errors import UsageError
from hwbench.plan.assemble import assemble
from hwbench.plan.designs import choice_of, design_of, sizes_of
from hwbench.plan.sites import space_of
from hwbench.records.planning import Loss, PairLoss, Sensitivity
from hwbench.tables.borders import crossings


class Made:
    """Costs that no two clusters share, so that a mix-up shows."""

    def __init__(self, space):
        self.number = {cluster.name: 1 + at for at, cluster in enumerate(space.clusters)}

    def one(self, cluster, sizes, scheme):
        work = sizes.macs * 1e-9 + sizes.elements_out * 1e-8 + sizes.rank * 1e-7
        return self.number[cluster.name] * work * (0.5 if scheme == "int8" else 1.0)

    def cluster(self, cluster, sizes, scheme):
        return np.array([self.one(cluster, each, scheme) for each in sizes])

    def border(self, of, to, elements):
        return 1e-7 + elements * (1e-8 if of == "float" else 3e-8)


class Free(Made):
    def border(self, of, to, elements):
        return 0.0


def losses(space, seed=0):
    rng = np.random.default_rng(seed)
    found = [
        Loss(site=site.name, option=option.name, divergence=float(rng.uniform(0.01, 1)), n=8, how="forward")
        for site in space.sites
        for option in site.options[1:]
    ]
    one, other = space.sites[0], space.sites[-1]
    extra = PairLoss(site=other.name, option=other.options[1].name, other_site=one.name,
                     other_option=one.options[1].name, extra=-0.005)  # fmt: skip
    return Sensitivity(hub_sha256="it", measure="kl", n=8, losses=tuple(found), pairs=(extra,), took_s=0)


def summed(space, design, made, sensitivity):
    """Latency, size and loss of a design, part by part."""
    sizes = {cluster.name: sizes_of(cluster, space, design) for cluster in space.clusters}
    latency, size = 0.0, 0.0
    for cluster in space.clusters:
        mine = sizes[cluster.name]
        if mine is not None:
            latency += made.one(cluster, mine, design.of(cluster.name))
            size += mine.weights * (1 if design.of(cluster.name) == "int8" else 4)
    latency += sum(made.border(each.scheme_from, each.scheme_to, each.elements) for each in crossings(space, design))
    chosen = {(site.name, site.options[choice_of(space, design)[site.name]].name) for site in space.sites}
    loss = sum(each.divergence for each in sensitivity.losses if (each.site, each.option) in chosen)
    loss += sum(
        pair.extra
        for pair in sensitivity.pairs
        if {(pair.site, pair.option), (pair.other_site, pair.other_option)} <= chosen
    )
    return latency, size, loss


@pytest.mark.parametrize("drops", [False, True])
@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2"])
def test_totals_are_those_of_the_parts(name, drops):
    """Where blocks go and borders cost, tables of borders are left incomplete: see the next test."""
    space = space_of(hub(name, 1), "it")
    made, sensitivity = (Free if drops else Made)(space), losses(space)
    problem = assemble(space, made, sensitivity)
    rng = np.random.default_rng(1)
    for _ in range(5):
        blocks = {"depth", "replace"}
        most = [1 if site.kind in blocks and not drops else len(site.options) for site in space.sites]
        drawn = dict(zip((site.name for site in space.sites), rng.integers(most).tolist(), strict=True))
        design = design_of(space, drawn)
        choice = tuple(choice_of(space, design).values())  # a block that is dropped is not replaced as well
        totals = problem.totals(choice)
        assert (totals["latency"], totals["size"], totals["loss"]) == pytest.approx(
            summed(space, design, made, sensitivity), rel=1e-9
        )


def borders_of(problem, free, choice):
    return problem.totals(choice)["latency"] - free.totals(choice)["latency"]


def test_borders_are_those_that_costs_are_fitted_on(monkeypatch):
    """A tensor once for each scheme that reads it, the two ends of the network, and through blocks that are dropped."""
    space = made_costs.space()
    monkeypatch.setattr("hwbench.plan.assemble._LARGEST_BORDER", 1 << 14)
    problem, free = (assemble(space, kind(space), losses(space)) for kind in (Made, Free))
    counted = 0
    for design in made_costs.some_designs(space, 60):
        choice = tuple(choice_of(space, design).values())
        found = crossings(space, design)
        counted += len(found)
        truth = sum(Made(space).border(each.scheme_from, each.scheme_to, each.elements) for each in found)
        assert borders_of(problem, free, choice) == pytest.approx(truth, rel=1e-6, abs=1e-12)
    assert counted > 100


def test_a_cluster_that_reads_many_groups_is_taken_apart_and_right_where_one_of_them_changes():
    net = Net(2, 16, 8, 8)
    branches = [net.conv("x", 16, 64, name=f"branch{number}") for number in range(6)]
    joined = net.node("Concat", *branches, axis=1)
    space = space_of(net.model(net.pooled(net.conv(joined, 384, 64, name="reader"), 64)), "it")
    made, sensitivity = Made(space), losses(space)
    problem = assemble(space, made, sensitivity)
    assert max(factor.table.size for factor in problem.quantities["latency"]) <= 10_000
    names = [site.name for site in space.sites]
    assert len([name for name in names if name.startswith("width:branch")]) == 6
    for name in names:
        choice = tuple(int(other == name) for other in names)
        design = design_of(space, {name: 1})
        assert problem.totals(choice)["latency"] == pytest.approx(summed(space, design, made, sensitivity)[0], rel=1e-9)


def test_memory_is_the_largest_that_is_alive_at_once():
    net = Net(1, 8, 4, 4)
    one = net.conv("x", 8, 32, name="one")
    two = net.conv(one, 32, 16, name="two")
    space = space_of(net.model(net.conv(two, 16, 8, name="three")), "it", kinds=("precision",))
    problem = assemble(space, Made(space), losses(space))
    weights = 8 * 32 + 32 * 16 + 16 * 8
    floats = problem.totals((0, 0, 0))
    assert floats["memory"] == 4 * (weights + 16 * (32 + 16))  # one's result and two's
    assert problem.totals((1, 0, 0))["memory"] == 4 * weights - 3 * 256 + 16 * (32 + 16 * 4)


def test_what_a_dropped_block_read_lives_until_its_readers_have_read_it():
    space = made_costs.space(blocks=2)
    problem = assemble(space, Made(space), losses(space))
    names = [site.name for site in space.sites]

    def activations(*dropped):
        totals = problem.totals([int(name in dropped) for name in names])
        return totals["memory"] - totals["size"]

    tensor, last = 4 * 64 * 256, 4 * 32 * 256
    assert activations() == 3 * tensor  # in a block: what it read, and what its two layers make
    assert activations("depth:0") == 3 * tensor  # of them one is the stem's
    assert activations("depth:0", "depth:1") == tensor + last  # the stem's result, which the last layer reads


def test_an_option_without_a_loss_is_refused():
    space = space_of(hub("resnet20", 1), "it")
    known = losses(space)
    lacking = Sensitivity(hub_sha256="it", measure="kl", n=8, losses=known.losses[:-1], pairs=(), took_s=0)
    with pytest.raises(UsageError, match="nobody has measured what"):
        assemble(space, Made(space), lacking)
