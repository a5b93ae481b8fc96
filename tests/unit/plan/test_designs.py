"""Sites, clusters and designs: what is said about a design is held against the network that it makes."""

from __future__ import annotations

import re

import numpy as np
import onnx_ir as ir
import pytest
from compress_hubs import hub
from structure_graphs import WIDTH, Net, attended, heads_of, joined

from hwbench.compress.api import compress
from hwbench.errors import UsageError
from hwbench.plan.clusters import owners
from hwbench.plan.designs import choice_of, design_of, precision_plan, sizes_of, steps_of, uniform
from hwbench.plan.sites import space_of, widths
from hwbench.records.compression import Step
from hwbench.records.planning import Design


def encoder() -> ir.Model:
    net = Net(2, 5, 16)
    q, k, v = (net.node("MatMul", "x", net.random(16, 16), name=name) for name in "qkv")
    mixed = joined(net, attended(net, heads_of(net, q, 4), heads_of(net, k, 4), heads_of(net, v, 4)), 4)
    out = net.node("MatMul", mixed, net.random(WIDTH, 16), name="out")
    inner = net.node("Relu", net.node("MatMul", out, net.random(16, 64), name="up"))
    return net.model(net.node("MatMul", inner, net.random(64, 16), name="down"))


def drawn(space, seed: int, kinds=("precision", "width", "depth", "replace", "rank")) -> Design:
    rng = np.random.default_rng(seed)
    choice = {site.name: int(rng.integers(len(site.options))) for site in space.sites if site.kind in kinds}
    return design_of(space, choice)


@pytest.mark.parametrize(("name", "seed"), [("resnet20", 0), ("mobilenet_v2", 1)])
def test_a_cut_network_has_the_sizes_that_its_design_says(name, seed):
    model = hub(name, 1)
    space = space_of(model, "it")
    design = drawn(space, seed, ("width", "depth", "replace"))
    made = space_of(compress(model, steps_of(space, design, data=False), repair="none").model, "made")
    real = {cluster.name: cluster for cluster in made.clusters}
    told = {cluster.name: sizes_of(cluster, space, design) for cluster in space.clusters}
    assert {cluster for cluster, sizes in told.items() if sizes is not None} == set(real)
    for cluster, sizes in told.items():
        if sizes is not None:
            other = real[cluster]
            assert (sizes.channels_in, sizes.channels_out) == (other.channels_in, other.channels_out), cluster
            assert sizes.macs == pytest.approx(other.macs, abs=1), cluster
            assert sizes.weights == pytest.approx(other.weights, abs=1), cluster
            assert sizes.elements_out == other.elements_out, cluster


def test_heads_and_hidden_units_scale_the_products_of_attention():
    model = encoder()
    space = space_of(model, "it")
    heads = next(site for site in space.sites if site.name == "width:q")
    columns = next(site for site in space.sites if site.name == "width:up")
    assert [option.units for option in heads.options] == [4, 3, 2, 1]
    assert columns.options[2].units == 48
    design = design_of(space, {"width:q": 2, "width:up": 2})
    made = space_of(compress(model, steps_of(space, design, data=False), repair="none").model, "made")
    for cluster, real in zip(space.clusters, made.clusters, strict=True):
        sizes = sizes_of(cluster, space, design)
        assert (cluster.name, sizes.macs, sizes.weights) == (real.name, real.macs, real.weights)


def test_a_layer_of_low_rank_has_the_multiply_adds_of_its_factors():
    net = Net(2, 64, 8, 8)
    wide = net.conv("x", 64, 128, 3, name="wide")
    model = net.model(net.pooled(net.conv(wide, 128, 256, 1, name="flat"), 256))
    space = space_of(model, "it", kinds=("rank",))
    assert [site.about for site in space.sites] == ["wide"]
    design = design_of(space, {"rank:wide": 2})
    made = compress(model, steps_of(space, design, data=False), repair="none")
    factors = [cluster for cluster in space_of(made.model, "made").clusters if cluster.name.startswith("wide.")]
    sizes = sizes_of(space.clusters[0], space, design)
    assert sizes.rank == design.ranks["wide"]
    assert sizes.macs == sum(factor.macs for factor in factors)
    assert sizes.weights == sum(factor.weights for factor in factors)


def test_every_layer_that_hangs_on_the_input_is_in_one_cluster_and_constants_are_in_none():
    model = hub("resnet20", 1)
    owner = owners(model)
    clusters = space_of(model, "it").clusters
    assert sorted(name for cluster in clusters for name in cluster.layers) == sorted(owner)
    assert all(cluster.layers[0] == cluster.name for cluster in clusters)
    assert {node.op_type for node in model.graph if node.name in owner} >= {"Conv", "Add", "Relu", "Gemm"}
    assert not [node.op_type for node in model.graph if node.name in owner and node.op_type.startswith("Constant")]


def test_a_design_and_its_choice_are_two_ways_to_say_the_same():
    space = space_of(hub("resnet20", 1), "it")
    for seed in range(5):
        design = drawn(space, seed)
        assert design_of(space, choice_of(space, design)) == design


def test_mixed_precision_asks_for_int8_by_default_and_names_what_stays_float():
    space = space_of(hub("resnet20", 1), "it")
    layers = [name for cluster in space.clusters for name in cluster.layers]
    assert precision_plan(space, Design(), layers).default == "float"
    whole = precision_plan(space, uniform(space, "int8"), layers)
    assert (whole.default, whole.layers) == ("int8", {})
    first, last = space.clusters[0], space.clusters[-1]
    some = Design(schemes={first.name: "int8", last.name: "int8"})
    plan = precision_plan(space, some, layers)
    assert {name for name in layers if plan.of(name) == "int8"} == {*first.layers, *last.layers}
    assert set(plan.layers) <= set(layers)


def test_widths_are_multiples_of_what_machines_compute_at_once():
    assert widths(64) == [56, 48, 40, 32, 16]
    assert widths(16) == [12, 8, 4]
    assert widths(512) == [448, 384, 320, 256, 128]
    assert widths(12, heads=True) == [11, 9, 8, 6, 3]
    assert widths(3) == []


def test_the_width_of_a_group_may_be_said_by_any_layer_that_makes_it():
    model = hub("resnet20", 1)
    group = next(site for site in space_of(model, "it").sites if site.kind == "width")
    other = next(c.name for c in space_of(model, "it").clusters if group.name in c.widths_out and c.name != group.about)
    one, two = (
        compress(model, [Step(method="width", settings={"keep": {name: 8}})], repair="none").after
        for name in (group.about, other)
    )
    assert one == two


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep": {"nobody": 3}}, "'nobody' stands for no group of channels that may be cut"),
        ({"keep": {"conv1": 99}}, "has 16 units, and 99 were to stay"),
        ({"keep": {"conv1": 8}, "amount": 0.5}, "width takes one of amount and keep, and both are given"),
        ({"keep": {"conv1": 8}, "multiple_of": 8}, "widths, multiple_of and scope have no say"),
        ({}, "neither is given"),
    ],
)
def test_what_cannot_be_kept_is_said(settings, message):
    model = hub("resnet20", 1)
    with pytest.raises(UsageError, match=re.escape(message)):
        compress(model, [Step(method="width", settings=settings)], repair="none")
