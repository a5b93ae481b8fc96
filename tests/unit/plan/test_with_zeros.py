"""What the solver adds up is what the report says, whatever the design; what a model alone knows is told as such."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structure_graphs import Net
from test_assemble import losses

from hwbench.crossover.expected import MARGIN
from hwbench.inventory import find_or_describe
from hwbench.plan.assemble import assemble
from hwbench.plan.designs import choice_of, design_of, sizes_of, uniform
from hwbench.plan.sites import space_of
from hwbench.planning_pipeline.known import Known, Runtime
from hwbench.planning_pipeline.ratios import ratios_of
from hwbench.planning_pipeline.unattached import claims
from hwbench.planning_pipeline.ways import ways_of
from hwbench.planning_pipeline.with_zeros import JoulesWithZeros, Shrunk, WithZeros
from hwbench.prediction.costs import PredictedCosts
from hwbench.prediction.joules import predicted_joules
from hwbench.prediction.predict import predictor_of
from hwbench.records.base import Missing
from hwbench.records.planning import Design, Interval, Platform, SparseCost, Zeros
from hwbench.sparse.onnx_kernels import LayerProduct

RTX = "nvidia-rtx-4090"
SMALL_L2 = 10e6  # bytes: less than the weights in fp16 (16.8 MB), more than in int4, or of a quarter of the channels


@pytest.fixture(scope="module")
def there():
    """Costs of two products on a card whose L2 cache narrow designs fit into, and the whole network does not."""
    net, target = Net(8, 1024), find_or_describe(RTX)
    y = net.node("Relu", net.linear("x", 1024, 4096, "up"), name="relu")
    model = net.model(net.linear(y, 4096, 1024, "down"))
    predictor = predictor_of(target.profile, engine="tensorrt")
    (l2, dram), ratios = predictor.machine.levels, ratios_of(target)
    machine = replace(predictor.machine, levels=(replace(l2, capacity_bytes=SMALL_L2), dram))
    predictor = replace(predictor, machine=machine)
    ways = ways_of(model, "tensorrt", "auto", target, ratios=ratios, machine=machine)
    space = space_of(model, "it", kinds=("precision", "width"), ways=ways.options)
    shrunk = Shrunk(products=ways.products, ratios=ratios)
    costs = WithZeros(dense=PredictedCosts(space, predictor), shrunk=shrunk)
    return SimpleNamespace(space=space, ways=ways, predictor=predictor, costs=costs)


@pytest.fixture(scope="module")
def problem(there):
    return assemble(there.space, there.costs, losses(there.space))


def cluster_of(space, name):
    return next(each for each in space.clusters if each.name == name)


def summed(problem, there, design):
    choice = choice_of(there.space, design)
    return problem.totals([choice[each.name] for each in problem.variables])["latency"] + there.costs.start_s


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_the_report_says_what_the_solver_adds_up(there, problem, data):
    space, costs = there.space, there.costs
    choice = {site.name: data.draw(st.integers(0, len(site.options) - 1), label=site.name) for site in space.sites}
    design = design_of(space, choice)
    found = costs.predict(space, design)
    whole = costs._prediction(space, design, "it")
    assert 0 < found.low <= found.value <= found.high
    assert found.value == pytest.approx(sum(each.time_s for each in whole.units) + whole.fixed_s + whole.borders_s)
    assert abs(found.value - summed(problem, there, design)) <= whole.borders_s + 1e-12  # borders at ends are no choice
    assert found.value > costs.start_s + whole.borders_s


@pytest.mark.parametrize("narrow", [False, True])
def test_weights_are_read_from_one_level_in_every_design(there, narrow):
    """By hand: what one product of the whole moves at the bandwidth of the memory, though L2 would hold these."""
    space, costs = there.space, there.costs
    wide = next(site for site in space.sites if site.kind == "width" and site.about == "up")
    design = design_of(space, {wide.name: len(wide.options) - 1}) if narrow else uniform(space, "int4-weights")
    size = sizes_of(cluster_of(space, "down"), space, design)
    assert costs.dense.weights_at == "dram"
    assert size.weights * (2 if narrow else 0.5) * 2 < SMALL_L2
    l2, dram = (level.bytes_per_s for level in there.predictor.machine.levels)
    moved = 2 * (size.elements_in + size.elements_out) / l2 + size.weights * (2 if narrow else 0.5) / dram
    unit = next(each for each in costs.dense.prediction(design, "it").units if each.name == "down")
    assert unit.memory_s == pytest.approx(moved / costs.dense._values["memory"])
    joules = predicted_joules(costs.dense, "auto")
    told = costs.dense.prediction(design, "it").energy
    assert joules.predict(space, design).value == told.value_j


def test_what_a_timed_ratio_may_be_off_by_widens_the_interval(there):
    space, zeros = there.space, Zeros(format="vw16", sparsity=0.9)
    timed = SparseCost(cluster="up", zeros=zeros, ratio=0.7, error=0.2, basis="network", why="timed")
    costs = replace(there.costs, shrunk=replace(there.costs.shrunk, timed={("up", "float", zeros): timed}))
    dense, found = costs.predict(space, Design()), costs.predict(space, Design(zeros={"up": zeros}))
    size = sizes_of(cluster_of(space, "up"), space, Design())
    share = costs.dense.cluster(cluster_of(space, "up"), [size], "float")[0] / dense.value
    assert found.low == pytest.approx(dense.low * (1 - 0.5 * share))
    assert found.value == pytest.approx(dense.value * (1 - 0.3 * share))
    assert found.high == pytest.approx(dense.high * (1 - 0.1 * share))
    joules = JoulesWithZeros(dense=predicted_joules(costs.dense, "auto"), costs=costs)
    plain, sparse = joules.predict(space, Design()), joules.predict(space, Design(zeros={"up": zeros}))
    assert sparse.high / sparse.value > plain.high / plain.value


def test_where_nothing_is_left_that_could_be_saved_from_the_dense_interval_is_told(there):
    """All layers of a network may lie in blocks that are dropped: what is left is predicted to take no time."""
    nothing = Interval(value=0.0, low=0.0, high=1e-4, coverage=0.9, tier="A", n=9, method="made up")
    costs = WithZeros(dense=SimpleNamespace(predict=lambda space, design: nothing), shrunk=there.costs.shrunk)
    assert costs.predict(msgspec.structs.replace(there.space, clusters=()), Design()) == nothing


def test_few_bits_of_a_model_are_as_uncertain_as_its_kernels(there):
    space, costs = there.space, there.costs
    dense, found = costs.predict(space, Design()), costs.predict(space, design := Design(schemes={"up": "int8"}))
    cluster = cluster_of(space, "up")
    size, product = sizes_of(cluster, space, design), there.ways.products["up"]
    half, plain = (costs.dense.cluster(cluster, [size], each)[0] for each in ("float", "int8"))
    few = there.ways.ratios.dense(product, "int8") * half
    assert few < plain
    before = costs.dense.predict(space, design)
    ends = zip(("low", "value", "high"), (MARGIN[0], 1.0, MARGIN[1]), strict=True)
    for end, off in ends:
        saved = plain - min(plain, off * few)
        assert getattr(found, end) == pytest.approx(getattr(before, end) * (1 - saved / before.value))
    assert found.high / found.value > dense.high / dense.value


def test_a_plan_by_few_bits_of_a_model_is_not_called_faster(there):
    space = there.space
    probed = replace(there.predictor, errors=(0.001,) * 10)
    wide = [site for site in space.sites if site.kind == "width"]
    narrow = design_of(space, {site.name: len(site.options) - 1 for site in wide})
    platform = Platform(
        device=RTX, title="a card", engine="tensorrt", version="not known", isa=(), threads=1, batch_size=8,
        floating="auto", power_mode=Missing(code="nobody", why="nobody knows"),
    )  # fmt: skip

    def told(design, shrunk):
        costs = WithZeros(dense=PredictedCosts(space, probed), shrunk=shrunk)
        known = Known(
            runtime=Runtime(engine="tensorrt", floating="auto"), platform=platform, costs=costs, samples=(), now=0,
            space=space, ways=there.ways,
        )  # fmt: skip
        found = SimpleNamespace(chosen=lambda: 0, row=[(None, design)])
        return claims(known, found)[1]

    few = msgspec.structs.replace(narrow, schemes=uniform(space, "int4-weights").schemes)
    assert told(few, there.costs.shrunk).endswith("known by a model alone, so that is not enough to call it faster")
    assert told(few, Shrunk()).endswith(": that is enough to call it faster")
    assert not there.costs.modelled(space, narrow)


def test_no_table_is_made_for_few_bits_or_for_what_no_kernel_takes(there):
    asked = []

    def tables(products):
        asked.extend(products)
        return there.ways.ratios.tables(asked)

    ratios = replace(there.ways.ratios, tables=tables)
    shrunk = replace(there.costs.shrunk, ratios=ratios)
    cluster = cluster_of(there.space, "up")
    size = sizes_of(cluster, there.space, Design())
    assert shrunk.few_bits(cluster, [size], "int8")[0] < 1
    many = LayerProduct(m=4096, k=1024, n=512, inputs=1024, x_shape=(512, 1024))
    (none,) = ratios.of([many], Zeros(format="vw16", sparsity=0.9))
    assert none.code == "outside_contract"
    assert asked == []
    assert shrunk.factors(cluster, [size], "float", Zeros(format="vw16", sparsity=0.9))[0] < 1
    assert set(asked) == {(4096, 1024, 8)}
