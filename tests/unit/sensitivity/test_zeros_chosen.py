"""Zeros among the options of a space: what is asked together with them, what is refused, what is kept apart."""

import msgspec
import numpy as np
import pytest
from stitched_nets import bench, small_samples
from structure_graphs import Net

torch = pytest.importorskip("torch", reason="patches are put into the torch view")

from hwbench.errors import Unsupported, UsageError  # noqa: E402
from hwbench.plan.sites import FLOAT, INT8, space_of  # noqa: E402
from hwbench.planning_pipeline.losses import simulated_runtime  # noqa: E402
from hwbench.quantize.weights import weight_scales  # noqa: E402
from hwbench.records.planning import TWO_FOUR, Design, Option, Zeros  # noqa: E402
from hwbench.records.sensitivity import SensitivitySettings  # noqa: E402
from hwbench.sensitivity.ledger import Ledger  # noqa: E402
from hwbench.sensitivity.score import BROKEN, judged, measure_losses  # noqa: E402
from hwbench.sensitivity.stitch import Stitch  # noqa: E402


def option(name, sparsity, scheme="float"):
    return Option(name=f"{name} at {sparsity:g} {scheme}", scheme=scheme, zeros=Zeros(format=name, sparsity=sparsity))


OPTIONS = (INT8, option("s24", 0.5), option("vw16", 0.5), option("vw16", 0.7), option(TWO_FOUR, 0.5),
           option(TWO_FOUR, 0.5, "int8"))  # fmt: skip


def small_net(batch=4):
    net = Net(batch, 3, 4, 4, seed=2)
    x = net.node("Relu", net.conv("x", 3, 64, 3, name="stem"))
    x = net.node("Relu", net.conv(x, 64, 64, name="body"))
    pooled = net.node("Flatten", net.node("GlobalAveragePool", x))
    scaled = net.node("Mul", pooled, net.constant(np.float32(2e-3)))  # so that scores are no certainties
    return net.model(net.gemm(scaled, 64, 16, "head"))


@pytest.fixture(scope="module")
def made():
    model = small_net()
    space = space_of(model, "0" * 64, ways={"stem": (INT8, option("s24", 0.5)), "body": OPTIONS, "head": OPTIONS[1:3]})
    network, space, composer = bench(model, samples=small_samples(model, 64), ranges=True, space=space)
    return network, space, composer, Stitch(network)


def test_every_option_is_measured_and_more_zeros_lose_more(made, tmp_path):
    _, space, composer, stitch = made
    ledger = Ledger(tmp_path, "it", resume=False)
    settings = SensitivitySettings(screen_samples=32, budget_s=60.0)
    found = measure_losses(space, stitch, composer, ledger, settings, clock=lambda: 0.0)
    ledger.close()
    lost = {(one.site, one.option): one.divergence for one in found.losses}
    body = {each.name: lost["precision:body", each.name] for each in OPTIONS}
    assert 0 < body["vw16 at 0.5 float"] < body["vw16 at 0.7 float"] < BROKEN
    assert 0 < body["int8"] < body["2:4 at 0.5 float"] <= body["2:4 at 0.5 int8"] * 1.1
    assert body["s24 at 0.5 float"] == pytest.approx(body["2:4 at 0.5 float"], rel=0.05)  # one of them in fp16
    assert lost["precision:stem", "s24 at 0.5 float"] == BROKEN
    assert any("'stem' cannot have zeros for s24" in note for note in found.notes)
    assert all(np.isfinite(pair.extra) for pair in found.pairs)


def test_without_time_zeros_are_estimated_without_a_refit_and_it_is_said(made, tmp_path):
    _, space, composer, stitch = made
    ledger = Ledger(tmp_path, "it", resume=False)
    settings = SensitivitySettings(screen_samples=32, budget_s=60.0)
    now = iter([0.0, *([50.0] * 1000)])
    found = measure_losses(space, stitch, composer, ledger, settings, clock=lambda: next(now))
    ledger.close()
    assert any("8 options with zeros were estimated without a refit" in note for note in found.notes)
    zeros = {"body": Zeros(format="vw16", sparsity=0.7)}
    rough, whole = (composer.compose(Design(zeros=zeros), refit=refit).weights["body", 1] for refit in (False, True))
    own = stitch.network.layers["body"].weight
    np.testing.assert_allclose(rough[rough != 0], own[rough != 0], rtol=1e-3)
    assert np.abs(whole - rough).max() > 1e-2


def test_weights_are_refitted_to_other_samples_than_they_are_judged_on():
    """64 inputs of the head fit 8 samples exactly, and others not."""
    model, zeros = small_net(), {"head": Zeros(format="vw16", sparsity=0.7)}
    few, others = small_samples(model, 16).first(8), small_samples(model, 256, seed=1)
    lost = {}
    for name, learn in (("the same", None), ("others", others)):
        network, _, composer = bench(model, samples=few, learn=learn)
        lost[name] = judged(Stitch(network), composer, Design(zeros=zeros), name, None).divergence
    assert 10 * lost["the same"] < lost["others"]


def test_a_ledger_tells_zeros_apart(made, tmp_path):
    ledger = Ledger(tmp_path, "it", resume=False)
    designs = [Design(), *(Design(zeros={"body": each.zeros}) for each in OPTIONS[1:4])]
    for at, design in enumerate(designs):
        assert ledger.find(design, 8) is None
        answer = judged(made[3], made[2], design, "it", 8)
        ledger.enter(design, 8, msgspec.structs.replace(answer, divergence=float(at)))
    assert [ledger.find(design, 8).divergence for design in designs] == [0, 1, 2, 3]
    ledger.close()


def test_int8_is_rounded_after_the_zeros(made):
    _, _, composer, _ = made
    zeros = {"body": Zeros(format=TWO_FOUR, sparsity=0.5)}
    pruned = composer.compose(Design(zeros=zeros)).weights["body", 1]
    both = composer.compose(Design(zeros=zeros, schemes={"body": "int8"})).weights["body", 1]
    assert np.count_nonzero(pruned) == pruned.size // 2
    assert not both[pruned == 0].any()
    steps = both / weight_scales(pruned, 0).reshape(-1, 1, 1, 1)
    assert np.abs(steps - np.rint(steps)).max() < 1e-3
    assert 0 < np.abs(both - pruned).max() <= 0.51 * weight_scales(pruned, 0).max()


class TestRefused:
    def test_with_low_rank(self, made):
        design = Design(zeros={"body": Zeros(format="vw16", sparsity=0.5)}, ranks={"body": 8})
        with pytest.raises(Unsupported, match="'body' cannot be two factors and have zeros for vw16"):
            made[2].compose(design)
        assert judged(made[3], made[2], design, "it", 8).broken.code == "cannot_be_made"

    def test_a_layer_that_is_too_narrow_for_the_format_after_a_cut(self, made):
        _, _, composer, _ = made
        zeros = {"body": Zeros(format="s24", sparsity=0.5)}
        assert composer.compose(Design(zeros=zeros)).weights
        with pytest.raises(Unsupported, match="K is 48"):
            composer.compose(Design(zeros=zeros, widths={"stem": 48}))

    def test_what_is_no_layer(self, made):
        network, space, composer, _ = made
        with pytest.raises(UsageError, match="'nowhere' is no layer with weights"):
            composer.compose(Design(zeros={"nowhere": Zeros(format="vw16", sparsity=0.5)}))
        site = msgspec.structs.replace(space.sites[0], about="nowhere", options=(FLOAT, OPTIONS[2]))
        with pytest.raises(UsageError, match="precision:nowhere: the network has no such layer with weights"):
            type(composer)(network, msgspec.structs.replace(space, sites=(site,)))

    def test_a_scheme_of_a_gpu_on_a_runtime_of_the_cpu(self, made):
        with pytest.raises(UsageError, match="losses on onnxruntime are known of float and int8, not of fp8"):
            made[2].compose(Design(schemes={"body": "fp8"}))


@pytest.mark.parametrize(("engines", "runtime"), [
    (["tensorrt"], "tensorrt"), (["torch-compile", "tensorrt-rtx"], "tensorrt"), (["openvino"], "openvino"),
    (["openvino", "torch-eager"], "openvino"), (["onnxruntime", "openvino"], "onnxruntime"), ([], "onnxruntime"),
])  # fmt: skip
def test_whose_arithmetic_is_followed(engines, runtime):
    assert simulated_runtime(engines) == runtime
