"""The method: which layers it takes, which ranks, what it says, and that the network still runs."""

import math

import numpy as np
import onnx_graphs as graphs
import onnx_ir as ir
import pytest
from compress_subjects import imported, random_samples, run_ort, subject_of
from factor_graphs import conv, given, layer_of, plain_grams, product
from onnx import helper

from hwbench.compress.methods.low_rank import LowRank, LowRankSettings
from hwbench.data.samples import Samples
from hwbench.errors import UsageError
from hwbench.graph.count import macs_of
from hwbench.graph.onnx_file import infer_shapes
from hwbench.torch_view.build import to_torch

METHOD = LowRank()


def settings_of(**given_settings):
    return LowRankSettings(**(given_settings or {"amount": 0.5}))


def applied(subject, **given_settings):
    settings = settings_of(**given_settings)
    legal = METHOD.legal(subject, settings)
    return METHOD.apply(subject, [name for name, reason in legal.items() if reason is None], settings)


def macs(model):
    return sum(count for node in model.graph if isinstance(count := macs_of(node), int))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"amount": None}, "one of amount"),
        ({"amount": 0.5, "rank": 3}, "one of amount"),
        ({"amount": 0.0}, "between 0 and 1"),
        ({"amount": 1.0}, "between 0 and 1"),
        ({"energy": 0.0}, "above 0"),
        ({"energy": 1.1}, "at most 1"),
        ({"rank": 0}, "at least 1"),
        ({"rank": 3, "multiple_of": 0}, "at least 1"),
        ({"energy": 0.5, "form": "cp"}, "no singular values"),
    ],
)
def test_wrong_settings_are_refused(wrong, said):
    with pytest.raises(UsageError, match=said):
        LowRankSettings(**wrong)


@pytest.mark.parametrize("form", ["channel-svd", "spatial-svd", "tucker", "cp"])
@pytest.mark.parametrize("amount", [0.3, 0.5, 0.8])
def test_the_amount_is_taken_away_and_not_much_more(tmp_path, form, amount):
    model = conv(outputs=24, inputs=16, pads=(1, 1, 1, 1))
    before, expected = macs(model), [node.name for node in model.graph]
    subject = subject_of(model, tmp_path)
    outcome = applied(subject, form=form, amount=amount)
    assert len(outcome.changes) == 1
    assert not outcome.left_alone
    assert expected == ["conv"]
    assert outcome.figures["macs_before"] == before / subject.batch
    assert outcome.figures["macs_after"] == macs(subject.model) / subject.batch
    assert (1 - amount) * before * 0.8 < macs(subject.model) <= (1 - amount) * before
    change = outcome.changes[0]
    assert (change.kind, change.layer, change.shape_before) == ("factorised", "conv", (24, 16, 3, 3))
    assert "rank" in change.what
    assert run_ort(subject.model, given(model))[0].shape == (2, 24, 9, 11)
    to_torch(subject.model)


def test_energy_keeps_the_least_rank_that_has_it(tmp_path):
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.standard_normal((12, 12)))[0] for _ in range(2))
    values = np.sqrt([50, 30, 10, 5, 1, 1, 1, 1, 0.25, 0.25, 0.25, 0.25])
    weight = ((left * values) @ right).reshape(12, 12, 1, 1)
    for energy, rank in ((0.49, 1), (0.79, 2), (0.89, 3), (0.94, 4)):
        subject = subject_of(conv(outputs=12, inputs=12, kernel=(1, 1), weight=weight), tmp_path)
        (change,) = applied(subject, energy=energy).changes
        assert change.what.startswith(f"rank {rank} of 12"), change.what


def test_ranks_are_rounded_to_a_multiple_down_for_an_amount_up_for_an_energy(tmp_path):
    def rank(**given_settings):
        subject = subject_of(conv(outputs=64, inputs=64, kernel=(1, 1)), tmp_path)
        (change,) = applied(subject, **given_settings).changes
        return int(change.what.split()[1])

    assert rank(amount=0.3) == 22
    assert rank(amount=0.3, multiple_of=8) == 16
    assert rank(amount=0.3, multiple_of=32) == 22, "there is no multiple below"
    exact = rank(energy=0.5)
    assert rank(energy=0.5, multiple_of=8) == math.ceil(exact / 8) * 8


def test_a_layer_that_would_grow_is_left_alone_with_the_numbers(tmp_path):
    subject = subject_of(conv(outputs=6, inputs=4, kernel=(1, 1)), tmp_path)
    outcome = applied(subject, rank=4)
    assert not outcome.changes
    (left,) = outcome.left_alone
    assert left.reason.code == "no_gain"
    assert "40 weights" in left.reason.why
    assert "24" in left.reason.why
    assert [node.name for node in subject.model.graph] == ["conv"]


def test_what_cannot_be_done_is_found_before(tmp_path):
    x, y = graphs.tensor("x", [1, 8, 6, 6]), graphs.tensor("y", [1, 8, 6, 6])
    same = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "shared"], ["t1"], name="one", **same),
        helper.make_node("Conv", ["t1", "shared"], ["t2"], name="two", **same),
        helper.make_node("Conv", ["t2", "depth"], ["t3"], name="depthwise", group=8, **same),
        helper.make_node("ConvTranspose", ["t3", "up"], ["t4"], name="up", **same),
        helper.make_node("Conv", ["t4", "held"], ["t5"], name="held", **same),
        helper.make_node("Conv", ["t5", "point"], ["t6"], name="point"),
        helper.make_node("Conv", ["t6", "nan"], ["y"], name="broken", **same),
    ]
    shapes = {"shared": (8, 8, 3, 3), "depth": (8, 1, 3, 3), "up": (8, 8, 3, 3), "held": (8, 8, 3, 3)}
    weights = [graphs.weight(name, graphs.random_array(*shape)) for name, shape in shapes.items()]
    weights += [graphs.weight("point", graphs.random_array(8, 8, 1, 1))]
    weights += [graphs.weight("nan", np.full((8, 8, 3, 3), np.nan, np.float32))]
    subject = subject_of(infer_shapes(ir.from_proto(graphs.model(nodes, [x], [y], weights))), tmp_path)
    subject.held_zeros.add("held")

    def codes(form):
        found = METHOD.legal(subject, settings_of(amount=0.5, form=form))
        return {name: None if reason is None else reason.code for name, reason in found.items()}

    always = {"one": "shared_weight", "two": "shared_weight", "up": "no_form", "held": "held_zeros"}
    always["broken"] = "unfit_layer"
    assert codes("channel-svd") == always | {"depthwise": "no_gain", "point": None}
    assert codes("spatial-svd") == always | {"depthwise": None, "point": "no_kernel"}
    assert codes("svd") == always | {"depthwise": "kernel", "point": None}
    assert codes("tucker") == always | {"depthwise": "no_gain", "point": "no_kernel"}


def test_unknown_shapes_are_a_reason(tmp_path):
    model = conv()
    model.graph.inputs[0].shape = ir.Shape([2, 4, "h", "w"])
    legal = METHOD.legal(subject_of(model, tmp_path), settings_of())
    assert legal["conv"].code == "unknown_shape"


def test_data_aware_tells_the_error_of_the_output_which_is_that_of_the_network(tmp_path, monkeypatch):
    plain_grams(monkeypatch)
    model = product(outputs=10, inputs=12, lead=(4,))
    inputs = given(model, count=64)
    samples = Samples(inputs=inputs, labels=None, batch=4)
    blind, aware = (subject_of(ir.from_proto(ir.to_proto(model)), tmp_path, samples=samples) for _ in range(2))
    (change,) = applied(aware, rank=3, data_aware=True).changes
    applied(blind, rank=3)

    def lost(subject):
        off, there = 0.0, 0.0
        bias = layer_of(model).bias()
        for batch, _ in samples.in_order():
            before = run_ort(model, batch)[0]
            off += ((run_ort(subject.model, batch)[0] - before) ** 2).sum()
            there += ((before - bias) ** 2).sum()
        return off / there

    assert change.error == pytest.approx(lost(aware), rel=1e-3)
    assert change.error < lost(blind)


@pytest.mark.parametrize("form", ["channel-svd", "spatial-svd"])
def test_the_streamed_gram_matrices_tell_the_error_of_a_convolution(tmp_path, form):
    model = conv(outputs=12, inputs=8, pads=(1, 1, 1, 1), strides=(2, 1), bias=False)
    samples = Samples(inputs=given(model, count=32), labels=None, batch=2)
    subject = subject_of(ir.from_proto(ir.to_proto(model)), tmp_path, samples=samples)
    (change,) = applied(subject, form=form, amount=0.5, data_aware=True).changes
    off, there = 0.0, 0.0
    for batch, _ in samples.in_order():
        before = run_ort(model, batch)[0]
        off, there = off + ((run_ort(subject.model, batch)[0] - before) ** 2).sum(), there + (before**2).sum()
    assert change.error == pytest.approx(off / there, rel=1e-3)


def test_data_aware_without_data_is_refused(tmp_path, monkeypatch):
    plain_grams(monkeypatch)
    subject = subject_of(product(), tmp_path)
    with pytest.raises(UsageError, match="needs samples"):
        METHOD.apply(subject, ["fc"], settings_of(rank=2, data_aware=True))


def test_books_of_the_weight_that_is_gone_are_closed(tmp_path):
    subject = subject_of(conv(outputs=16, inputs=16), tmp_path)
    subject.keep("w", 0, np.arange(16))
    subject.keep("y", 1, np.arange(16))
    subject.bits["w"] = 4.0
    applied(subject, amount=0.5)
    assert "w" not in subject.kept
    assert "w" not in subject.bits
    assert "y" in subject.kept


@pytest.fixture(scope="module")
def resnet8(tmp_path_factory):
    return imported("zoo:resnet8", tmp_path_factory.mktemp("resnet8"), batch=2)


@pytest.mark.parametrize(("form", "least"), [("channel-svd", 2), ("spatial-svd", 2), ("tucker", 2), ("cp", 2)])
def test_a_whole_network_keeps_running_and_computes_what_the_torch_view_computes(tmp_path, form, least, resnet8):
    model = ir.from_proto(ir.to_proto(resnet8))
    before = macs(model)
    names = {value.name for value in model.graph.outputs}
    subject = subject_of(model, tmp_path)
    settings = settings_of(form=form, amount=0.4)
    legal = [name for name, reason in METHOD.legal(subject, settings).items() if reason is None]
    outcome = METHOD.apply(subject, legal[:3], settings)
    assert len(outcome.changes) >= least
    assert macs(subject.model) < before
    assert {value.name for value in subject.model.graph.outputs} == names
    inputs, _ = next(random_samples(subject.model, 2).in_order())
    expected = run_ort(subject.model, inputs)[0]
    got = subject.view()(*subject.tensors(inputs))[0].detach().numpy()
    np.testing.assert_allclose(got, expected, atol=1e-4 * np.abs(expected).max())
    assert len({node.name for node in subject.model.graph}) == len(list(subject.model.graph))


def test_the_same_seed_gives_the_same_factors(tmp_path):
    def weights():
        subject = subject_of(conv(outputs=16, inputs=12), tmp_path, seed=7)
        applied(subject, form="cp", amount=0.5)
        return {name: value.const_value.numpy() for name, value in subject.model.graph.initializers.items()}

    first, second = weights(), weights()
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)
