"""What layers are offered on a GPU, and what zeros make of costs; re-derived here from the model of single products."""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace
from types import SimpleNamespace

import msgspec
import pytest
from structure_graphs import Net
from test_assemble import losses

from hwbench.crossover import saved
from hwbench.crossover.expected import machine_for
from hwbench.inventory import find_or_describe
from hwbench.plan.assemble import assemble
from hwbench.plan.designs import design_of, layers_left, precision_plan, sizes_of, steps_of
from hwbench.plan.sites import FLOAT, space_of
from hwbench.planning_pipeline import ratios as ratios_module
from hwbench.planning_pipeline.known import Known, Runtime
from hwbench.planning_pipeline.planner import Planner, offered_of
from hwbench.planning_pipeline.ratios import ratios_of
from hwbench.planning_pipeline.solving import Solving
from hwbench.planning_pipeline.spaces import alternatives, own, shared
from hwbench.planning_pipeline.unattached import claims
from hwbench.planning_pipeline.ways import LEAST_GAIN, Ways, offered, union, values_of, ways_of, with_timed
from hwbench.planning_pipeline.with_zeros import Shrunk, WithZeros
from hwbench.prediction.costs import PredictedCosts
from hwbench.prediction.predict import predictor_of
from hwbench.records.base import Missing
from hwbench.records.crossover import CROSSOVER_SCHEMA, Cell, Contender, Crossover, Times
from hwbench.records.plan import EnginePlan, Joint
from hwbench.records.planning import TWO_FOUR, Design, Option, Platform, SparseCost, Zeros, name_of
from hwbench.report.plan import _engine
from hwbench.sparse.formats import FORMATS
from hwbench.sparse.manifest import kernel_for, load_manifest
from hwbench.sparse.onnx_kernels import LayerProduct
from hwbench.sparse.select import LAUNCH_S, dense_time_s, expected
from hwbench.tables.zeros import where_faster

KERNELS = load_manifest()
RTX = "nvidia-rtx-4090"
NOBODY = Missing(code="nobody", why="nobody knows")
LARGE = (2048, 4096)  # rows and columns of the layer that kernels gain most on


@pytest.fixture(scope="module")
def net():
    """A row of inputs through a large product; pixels through two convolutions, one of which is small enough."""
    made = Net(1, 1, LARGE[1])
    y = made.node("Relu", made.linear("x", LARGE[1], LARGE[0], "large"), name="relu")
    y = made.linear(y, LARGE[0], 24, "narrow")
    image = made.reshape(made.linear(y, 24, 1024, "image"), 1, 16, 8, 8)
    y = made.conv(image, 16, 512, 3, name="seen")
    y = made.conv(y, 512, 512, 3, name="patches")
    y = made.conv(y, 512, 512, 1, group=4, name="grouped")
    return made.model(y)


@functools.cache
def ratios_on(device):
    return ratios_of(find_or_describe(device))


def given(net, device=RTX, engine="tensorrt", floating="auto"):
    target = find_or_describe(device)
    predictor = predictor_of(target.profile, engine=engine)
    ways = ways_of(net, engine, floating, target, ratios=ratios_on(device), machine=predictor.machine)
    return ways, predictor


@pytest.fixture(scope="module")
def rtx(net):
    return given(net)


@pytest.fixture(scope="module")
def space(net, rtx):
    return space_of(net, "it", kinds=("precision", "width", "rank"), ways=rtx[0].options)


@pytest.fixture(scope="module")
def costs(space, rtx):
    ways, predictor = rtx
    shrunk = Shrunk(products=ways.products, ratios=ways.ratios)
    return WithZeros(dense=PredictedCosts(space, predictor), shrunk=shrunk)


def names(ways, layer):
    return [option.name for option in ways.options[layer]]


def reasons(ways, layer, way):
    return [each.reason.why for each in ways.not_offered if (each.layer, each.way) == (layer, way)]


def by_hand(name, sparsity, m, k, n, moved=0.0):
    """A kernel's time over that of dense fp16, from the model of one product."""
    machine = machine_for(find_or_describe(RTX).profile)
    took = expected(kernel_for(KERNELS, name), (m, k), n, sparsity, machine).time_s
    return (took + moved / machine.bandwidth_bytes_per_s) / dense_time_s("fp16", (m, k), n, machine)


def test_what_layers_are_offered(rtx):
    ways, _ = rtx
    assert names(ways, "large")[:3] == ["int8", "fp8", "int4-weights"]
    assert all(option.scheme == "float" for option in ways.options["large"][3:])
    assert {option.zeros.format for option in ways.options["large"][3:]} <= set(FORMATS)
    assert "int4-weights" not in names(ways, "seen")
    assert reasons(ways, "seen", "int4-weights") == ["TensorRT packs the weights of linear layers only"]
    assert "4 groups" in reasons(ways, "grouped", "zeros")[0]
    assert reasons(ways, "narrow", "zeros")
    assert any("2:4" in note and "nothing was timed" in note for note in ways.notes)


def test_zeros_are_offered_where_they_beat_all_that_is_dense_and_by_what_the_model_says(rtx):
    machine = machine_for(find_or_describe(RTX).profile)
    found = [each for each in rtx[0].sparse if each.cluster == "large"]
    assert found
    best = min(dense_time_s(values, LARGE, 1, machine) for values in ("fp16", "int8", "int4"))
    for each in found:
        name, sparsity = each.zeros.format, each.zeros.sparsity
        assert each.ratio == pytest.approx(by_hand(name, sparsity, *LARGE, 1))
        assert best / expected(kernel_for(KERNELS, name), LARGE, 1, sparsity, machine).time_s >= LEAST_GAIN
        assert (each.basis, "model, not measured" in each.why) == ("model", True)


def test_what_patches_move_is_in_the_time_of_a_convolution(rtx):
    ways, _ = rtx
    patches = ways.products["patches"]
    assert (patches.m, patches.k, patches.n) == (512, 4608, 64)
    moved = 2 * (512 * 64 + 64 * 4608) + 2 * 2 * 64 * 512  # read and written; the result turned round
    some = [each for each in ways.sparse if each.cluster == "patches"]
    assert some
    for each in some:
        wanted = by_hand(each.zeros.format, each.zeros.sparsity, 512, 4608, 64, moved)
        assert each.ratio == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("device", "engine", "lacking"),
    [
        ("nvidia-t4", "tensorrt", {"fp8", "int4-weights"}),
        ("jetson-agx-orin-64gb", "tensorrt", {"fp8"}),
        ("nvidia-rtx-3090", "tensorrt-rtx", {"fp8"}),
        ("nvidia-h200", "tensorrt", set()),
        (RTX, "tensorrt-rtx", set()),
    ],
)
def test_precisions_are_those_of_the_architecture(net, device, engine, lacking):
    ways, _ = given(net, device, engine)
    assert {"int8", "fp8", "int4-weights"} - set(names(ways, "large")) == lacking
    for scheme in lacking:
        assert "compute capability" in reasons(ways, "large", scheme)[0]


def test_a_runtime_without_plugins_is_offered_no_zeros_and_says_so(net):
    ways, _ = given(net, RTX, "tensorrt-rtx")
    assert not ways.sparse
    assert any("TensorRT-RTX has no plugins" in note for note in ways.notes)


def test_kernels_in_fp16_do_not_go_with_other_floats(net):
    ways, _ = given(net, floating="fp32")
    assert not ways.sparse
    assert any("fp32" in note for note in ways.notes)


def test_an_engine_that_cannot_tell_is_offered_int8_everywhere(net):
    ways = ways_of(net, "onnxruntime", "auto", find_or_describe("cpu"), ratios=NOBODY)
    assert {option.name for some in ways.options.values() for option in some} == {"int8"}
    assert set(ways.options) == {"large", "narrow", "image", "seen", "patches", "grouped"}
    assert space_of(net, "it", ways=ways.options) == space_of(net, "it")


def test_every_format_has_its_place_among_the_others():
    from hwbench.planning_pipeline import ways as module

    assert {name.removesuffix("_int8") for name, each in FORMATS.items() if each.values not in {"int4", "int2"}} == set(
        module._TOGETHER
    )


def test_dense_weights_are_those_that_the_layer_may_have():
    def options(*schemes):
        return [Option(name=each, scheme=each) for each in schemes]

    assert values_of(options()) == ("fp16",)
    assert values_of(options("fp8")) == ("fp16", "int8")
    assert values_of(options("int8", "int4-weights")) == ("fp16", "int8", "int4")


def test_a_design_takes_what_the_sum_of_its_parts_says(space, costs):
    """The difference that the solver sees between two designs is that of their predictions, whatever else differs."""
    problem = assemble(space, costs, losses(space))
    sites = {site.name: site for site in space.sites}
    wide = next(site for site in space.sites if site.kind == "width" and site.about == "large")
    site = sites["precision:large"]
    for units, (place, option) in itertools.product(
        (0, len(wide.options) - 1), [each for each in enumerate(site.options) if each[1].zeros is not None]
    ):
        choice = {wide.name: units, site.name: place}
        sparse, dense = design_of(space, choice), design_of(space, {wide.name: units})
        assert sparse.zeros == {"large": option.zeros}
        totals = [
            problem.totals([mine.get(variable.name, 0) for variable in problem.variables])
            for mine in (choice, {wide.name: units})
        ]
        seen = totals[0]["latency"] - totals[1]["latency"]
        predicted = costs.predict(space, sparse).value - costs.predict(space, dense).value
        assert predicted == pytest.approx(seen, rel=1e-9)
        cluster = next(each for each in space.clusters if each.name == "large")
        size = sizes_of(cluster, space, dense)
        alone = costs.dense.cluster(cluster, [size], "float")[0]
        format_ = FORMATS[option.zeros.format]
        able = format_.refuses(size.channels_out, LARGE[1]) is None
        ratio = by_hand(option.zeros.format, option.zeros.sparsity, size.channels_out, LARGE[1], 1) if able else 1.0
        assert seen == pytest.approx((ratio - 1) * alone, rel=1e-9)
        bytes_ = format_.bytes_of(size.channels_out, LARGE[1], option.zeros.sparsity)
        assert totals[0]["size"] - totals[1]["size"] == pytest.approx(bytes_ - 4 * size.weights)


def test_few_bits_take_no_longer_than_the_model_that_kernels_are_held_against_says(space, costs):
    machine = machine_for(find_or_describe(RTX).profile)
    cluster = next(each for each in space.clusters if each.name == "large")
    problem = assemble(space, costs, losses(space))
    dense = costs.dense.cluster(cluster, [sizes_of(cluster, space, Design())], "float")[0]
    site = next(each for each in space.sites if each.name == "precision:large")
    for scheme, values in (("int4-weights", "int4"), ("int8", "int8"), ("fp8", "int8")):
        design = Design(schemes={"large": scheme})
        size = sizes_of(cluster, space, design)
        plain = costs.dense.cluster(cluster, [size], scheme)[0]
        most = dense * dense_time_s(values, LARGE, 1, machine) / dense_time_s("fp16", LARGE, 1, machine)
        took = costs.cluster(cluster, [size], scheme)[0]
        assert took == pytest.approx(min(plain, most))
        place = [option.name for option in site.options].index(scheme)
        choice = [place if variable.name == site.name else 0 for variable in problem.variables]
        seen = problem.totals(choice)["latency"] - problem.totals([0] * len(choice))["latency"]
        predicted = costs.predict(space, design).value - costs.predict(space, Design()).value
        assert predicted == pytest.approx(seen, rel=1e-6)


def test_what_a_kernel_does_not_take_is_dense_and_costs_what_that_costs(space, costs):
    cluster = next(each for each in space.clusters if each.name == "large")
    whole = sizes_of(cluster, space, Design())
    zeros = Zeros(format="bsr32", sparsity=0.9)
    odd = msgspec.structs.replace(whole, channels_in=whole.channels_in - 8)  # blocks are of 32 columns
    two = msgspec.structs.replace(whole, rank=64)
    assert costs.shrunk.factors(cluster, [whole, odd, two], "float", zeros)[0] < 1
    assert costs.shrunk.factors(cluster, [whole, odd, two], "float", zeros).tolist()[1:] == [1.0, 1.0]
    assert costs.shrunk.factors(cluster, [whole], "float", Zeros(format=TWO_FOUR, sparsity=0.5)).tolist() == [1.0]


def test_zeros_that_were_timed_in_vain_have_a_reason_and_are_not_shown_as_offered(rtx, space, costs):
    ways, _ = rtx
    two_four = Zeros(format=TWO_FOUR, sparsity=0.5)
    asked = Option(name="int8, 2:4", scheme="int8", zeros=two_four)
    ways = replace(ways, options={**ways.options, "large": (*ways.options["large"], asked)})
    (zeros, *_) = [each.zeros for each in ways.sparse if each.cluster == "large"]
    slow = SparseCost(cluster="large", zeros=zeros, ratio=1.2, basis="network", why="timed: 1.20", error=0.01)
    found = with_timed(ways, (slow,))
    told = reasons(found, "large", "zeros")
    assert told == [
        "int8, 2:4 was not timed; it is offered only where it was timed to be faster",
        f"{name_of(zeros)} is no faster than the dense layer: timed: 1.20",
    ]
    left = where_faster(space, (slow,))
    known = Known(
        runtime=Runtime(engine="tensorrt", floating="auto"), platform=_platform(), costs=costs, samples=(), now=0,
        space=left, ways=found,
    )  # fmt: skip
    some = offered_of(known)
    assert slow not in some
    assert some == tuple(each for each in ways.sparse if (each.cluster, each.zeros) != ("large", zeros))
    shown = EnginePlan(
        platform=_platform(), samples=1, sampled_now=0, baselines={}, front=(), chosen=NOBODY,
        sparse=(slow, SparseCost(cluster="x", zeros=two_four, scheme="int8", ratio=0.6, basis="network", why="fast")),
        not_offered=found.not_offered[-2:],
    )  # fmt: skip
    text = "\n".join(str(part) for part in _engine(shown))
    assert "offered at 1 layers" in text
    assert "x: int8, 2:4 takes 0.60" in text
    assert f"no zeros at 1: {told[1]}" in text


def test_kernels_are_held_against_products_whose_activations_have_eight_bits_too():
    """At 256 rows of X an H200 multiplies int8 in half the time of fp16: what is slower than that is not offered."""
    device = "nvidia-h200"
    profile = find_or_describe(device).profile
    m, k, n = 4096, 14336, 256
    took = 2 * n * m * k / profile.peak_ops_per_s["int8"].value
    product = LayerProduct(m=m, k=k, n=n, inputs=k, x_shape=(n, k))
    found = offered(ratios_on(device), product, ("fp16", "int8"))
    machine = machine_for(profile)
    assert dense_time_s("int8", (m, k), n, machine) == pytest.approx(took + LAUNCH_S)
    some = [] if isinstance(found, Missing) else found
    for each in some:
        own = each.ratio * dense_time_s("fp16", (m, k), n, machine)
        assert own <= (took + LAUNCH_S) / LEAST_GAIN
    assert dense_time_s("int4", (m, k), n, machine) > took + LAUNCH_S, "its activations are halves"


@pytest.mark.parametrize(
    ("engine", "floating", "each"),
    [("tensorrt", "auto", 2), ("tensorrt-rtx", "auto", 2), ("tensorrt", "fp32", 4), ("onnxruntime", "auto", 4)],
)
@pytest.mark.parametrize("attached", [True, False])
def test_what_is_not_quantised_has_two_bytes_where_auto_is_fp16(space, rtx, costs, engine, floating, each, attached):
    machine = None if attached else rtx[1].machine
    planner = SimpleNamespace(
        request=SimpleNamespace(budgets=3, objective="latency", criterion="l2"), joules={}, _joint={}, _left_s=None,
        _max_drop=lambda: 0.1, losses=SimpleNamespace(found=losses(space), joint=None),
        costing=SimpleNamespace(machine=lambda _: machine),
    )  # fmt: skip
    runtime = Runtime(engine=engine, floating=floating)
    known = Known(runtime=runtime, platform=_platform(), costs=costs, samples=(), now=0, space=space)
    solving = Planner._solving(planner, known, space)
    totals = solving.values(solving.costed, solving.as_it_is)
    assert totals["size"] == each * sum(cluster.weights for cluster in space.clusters)
    alive = max(one.elements_in + one.elements_out for one in space.clusters)
    assert totals["memory"] == pytest.approx(totals["size"] + each * alive)
    assert solving.as_it_is.floating == floating, "what is asked for stays"


def test_what_was_timed_in_the_network_goes_before_the_table(space, costs):
    cluster = next(each for each in space.clusters if each.name == "large")
    whole, zeros = sizes_of(cluster, space, Design()), Zeros(format="vw16", sparsity=0.9)
    known = SparseCost(cluster="large", zeros=zeros, ratio=0.77, basis="network", why="timed")
    timed = replace(costs, shrunk=replace(costs.shrunk, timed={("large", "float", zeros): known}))
    assert timed.shrunk.factors(cluster, [whole], "float", zeros).tolist() == [0.77]
    design = Design(zeros={"large": zeros})
    assert costs.modelled(space, design)
    assert not timed.modelled(space, design)
    one, other = costs.predict(space, design), timed.predict(space, design)
    assert (
        one.high / one.value
        > other.high / other.value
        == pytest.approx(costs.predict(space, Design()).high / costs.predict(space, Design()).value)
    )


def solving(space, costs, lost, remarks):
    found = losses(space)
    cheap = tuple(msgspec.structs.replace(each, divergence=lost(each)) for each in found.losses)
    return Solving(
        space=space, costs=costs, sensitivity=msgspec.structs.replace(found, losses=cheap, pairs=()), max_drop=1.0,
        budgets=4, remarks=remarks,
        ask=lambda _, rough: Joint(divergence=0.1, agreement=0.95, accuracy=0.9, before=0.95, n=64),
    )  # fmt: skip


def test_zeros_are_chosen_where_they_win_and_the_plan_says_by_what(space, costs, rtx):
    ways, predictor = rtx
    runtime = Runtime(engine="tensorrt", floating="auto")
    found = solving(space, costs, lambda each: 0.001 if each.site.startswith("precision") else 1.0, ways.remarks).run()
    design = found.row[found.chosen()][1]
    zeros = design.zeros["large"]
    (decision,) = [each for each in found.decisions(design) if each.site == "precision:large"]
    assert decision.option == name_of(zeros)
    assert "model, not measured" in decision.why
    plan = precision_plan(space, design, layers_left(space, design))
    assert plan.kernels["large"] == zeros.format
    assert plan.layers.get("large", plan.default) == "float"
    pruned = [step for step in steps_of(space, design) if step.method == "prune"]
    assert {"pattern": f"format:{zeros.format}", "amount": zeros.sparsity} in [step.settings for step in pruned]
    known = Known(runtime=runtime, platform=_platform(), costs=costs, samples=(), now=0, space=space, ways=ways)
    told = claims(known, found)
    assert told[1].endswith("that is not enough to call it faster")
    probed = PredictedCosts(space, replace(predictor, errors=(0.001,) * 10))
    told = claims(replace(known, costs=replace(costs, dense=probed)), found)
    assert "known by a model alone" in told[1]
    plans = EnginePlan(
        platform=_platform(), samples=0, sampled_now=0, baselines=known.baselines(), front=found.planned(),
        chosen=found.chosen(), sparse=ways.sparse, not_offered=ways.not_offered, notes=ways.notes,
    )  # fmt: skip
    assert {"int8", "fp8", "int4-weights", "auto"} == set(plans.baselines)
    text = "\n".join(str(part) for part in _engine(plans))
    assert "zeros for kernels are offered at" in text
    assert "no zeros at 1: it is a Conv of 4 groups" in text
    assert msgspec.json.decode(msgspec.json.encode(plans), type=EnginePlan) == plans


def _platform():
    return Platform(
        device=RTX, title="a card", engine="tensorrt", version="not known", isa=(), threads=1, batch_size=1,
        floating="auto", power_mode=NOBODY,
    )  # fmt: skip


def test_one_network_does_not_mix_what_its_runtime_cannot(space, rtx):
    ways, _ = rtx
    assert ways.one_of == ("int8", "fp8")
    apart = alternatives(space, ways.one_of)
    schemes = [{option.scheme for site in each.sites for option in site.options} for each in apart]
    assert [("int8" in each, "fp8" in each) for each in schemes] == [(True, False), (False, True)]
    assert all("int4-weights" in each for each in schemes)
    assert alternatives(space, ()) == (space,)
    assert alternatives(space, ("int8",)) == (space,)


def test_runtimes_have_their_own_parts_of_one_space(net, rtx):
    ways, _ = rtx
    plain = ways_of(net, "onnxruntime", "auto", find_or_describe("cpu"), ratios=NOBODY)
    whole = space_of(net, "it", kinds=("precision",), ways=union([ways, plain]))
    mine, other = own(whole, ways), own(whole, plain)
    assert {option.name for site in other.sites for option in site.options} == {"float", "int8"}
    assert [site.options for site in mine.sites] == [(FLOAT, *ways.options[site.about]) for site in mine.sites]
    assert shared(whole, other) == other
    assert shared(mine, other).sites == tuple(
        msgspec.structs.replace(site, options=tuple(each for each in site.options if each.scheme in {"float", "int8"}
                                                    and each.zeros is None))
        for site in mine.sites if "int8" in names(ways, site.about)
    )  # fmt: skip
    none = own(whole, Ways())
    assert not none.sites
    assert {each.about for each in none.left_alone} == {site.about for site in whole.sites}


def test_of_a_gpu_that_is_here_the_table_is_the_one_that_was_measured_there(net, monkeypatch, tmp_path):
    monkeypatch.setenv("HWBENCH_HOME", str(tmp_path))
    monkeypatch.setattr(ratios_module, "kernels_sha256", lambda kernels: "0" * 64)
    away = find_or_describe(RTX)
    gpu = msgspec.structs.replace(away.device.gpu, cuda_version="13.0")
    here = ratios_module.Target(device=msgspec.structs.replace(away.device, gpu=gpu), profile=away.profile)
    none = ratios_of(here)
    assert isinstance(none, Missing)
    assert "hwbench kernels" in none.cure
    ways = ways_of(net, "tensorrt", "auto", here, ratios=none)
    assert not ways.sparse
    assert any("no kernels were timed on this GPU" in note for note in ways.notes)
    saved.keep(_table(here.device))
    ways = ways_of(net, "tensorrt", "auto", here, ratios=ratios_of(here))
    assert [(each.cluster, each.zeros, each.ratio, each.basis) for each in ways.sparse] == [
        ("large", Zeros(format="vw16", sparsity=0.7), pytest.approx(0.4), "table")
    ]
    assert "no table has a product near" in reasons(ways, "patches", "zeros")[0]


def _table(device):
    m, k = LARGE

    def cell(name, us, sparsity=0.0):
        return Cell(
            m=m, k=k + 64, n=1, sparsity=sparsity, contender=name, read_bytes=1.0, bound_s=1e-6, error=0.1,
            bound_by=NOBODY, time=Times(value_s=us / 1e6, low_s=us / 1e6, high_s=us / 1e6),
        )  # fmt: skip

    roles = {"dense-fp16": ("dense", "fp16"), "dense-int8": ("dense", "int8"), "dense-int4": ("dense", "int4"),
             "vw16": ("kernel", "fp16"), "bsr32": ("kernel", "fp16")}  # fmt: skip
    return Crossover(
        schema_version=CROSSOVER_SCHEMA, created_at="now", basis="measured", device="cuda:0", title=device.title,
        compute_capability=device.gpu.compute_capability, driver="CUDA 13.0", kernels_sha256="0" * 64,
        environment=ratios_module.environment.capture(), memory_bytes_per_s=1e12, memory_from="a copy",
        contenders=tuple(Contender(name=n, role=r, values=v, summary=n) for n, (r, v) in roles.items()),
        cells=(cell("dense-fp16", 10), cell("dense-int8", 6), cell("dense-int4", 5), cell("vw16", 4, 0.7),
               cell("vw16", 5.5, 0.5), cell("bsr32", 4, 0.7)),
        left_out=(), control=1.02, protocol=(),
    )  # fmt: skip
