from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from compress_graphs import graph, one_layer, small_cnn
from compress_subjects import imported, random_samples, run_ort, subject_of
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from hwbench.compress.methods.prune import Prune, PruneSettings
from hwbench.errors import UsageError

torch = pytest.importorskip("torch", reason="an oracle, and criteria on data")
prune = pytest.importorskip("torch.nn.utils.prune", reason="an oracle")


def pruned(subject, layers=None, **how):
    asked = PruneSettings(**how)
    legal = Prune().legal(subject, asked)
    chosen = [name for name, why in legal.items() if why is None] if layers is None else layers
    assert all(legal[name] is None for name in chosen)
    return Prune().apply(subject, chosen, asked)


def weights_of(subject):
    return {name: layer.blocks() for name, layer in subject.layers().items()}


@settings(max_examples=25, deadline=None)
@given(
    amount=st.floats(0, 0.99),
    shape=st.sampled_from([(4, 6, 1, 1), (5, 3, 3, 3), (8, 4, 2, 3)]),
    seed=st.integers(0, 5),
)
def test_magnitude_pruning_is_that_of_torch(amount, shape, seed, tmp_path_factory):
    weight = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    subject = subject_of(one_layer("Conv", weight, (2, shape[1], 5, 5)), tmp_path_factory.mktemp("p"))
    out = pruned(subject, amount=amount)
    module = torch.nn.Conv2d(shape[1], shape[0], shape[2:], bias=False)
    module.weight.data = torch.from_numpy(weight.copy())
    prune.l1_unstructured(module, "weight", amount=float(amount))
    np.testing.assert_array_equal(subject.layers()["layer"].weight, module.weight.detach().numpy())
    assert out.changes[0].zeros == pytest.approx(round(amount * weight.size) / weight.size)
    assert out.changes[0].kind == "zeroed"
    assert subject.held_zeros == {"w"}


@pytest.mark.parametrize(("op", "shape"), [("Conv", (6, 4, 3, 3)), ("ConvTranspose", (4, 6, 3, 3)), ("MatMul", (4, 6))])
def test_random_pruning_takes_as_many_as_torch_and_differs_by_seed(op, shape, tmp_path):
    weight = np.ones(shape)
    x = (2, 4, 5, 5) if op != "MatMul" else (2, 4)
    masks = []
    for seed in (0, 0, 1):
        subject = subject_of(one_layer(op, weight, x), tmp_path, seed=seed)
        pruned(subject, criterion="random", amount=0.3)
        masks.append(subject.layers()["layer"].weight == 0)
    module = torch.nn.Linear(1, weight.size, bias=False)
    prune.random_unstructured(module, "weight", amount=0.3)
    assert masks[0].sum() == int((module.weight_mask == 0).sum())
    assert (masks[0] == masks[1]).all()
    assert (masks[0] != masks[2]).any()


def test_over_all_layers_the_lowest_go_but_each_keeps_its_minimum(tmp_path):
    subject = subject_of(small_cnn(), tmp_path)
    before = weights_of(subject)
    every = np.sort(np.concatenate([np.abs(array).ravel() for array in before.values()]))
    pruned(subject, amount=0.5, scope="global", minimum_kept=0)
    cut = every[round(0.5 * len(every)) - 1]
    for name, array in weights_of(subject).items():
        np.testing.assert_array_equal(array == 0, np.abs(before[name]) <= cut)

    small = subject_of(small_cnn(), tmp_path)
    layer = small.layers()["conv2"]
    layer.set_blocks(layer.blocks() * 1e-3)
    out = pruned(small, amount=0.5, scope="global", minimum_kept=0.25)
    zeros = {name: (array == 0).mean() for name, array in weights_of(small).items()}
    assert zeros["conv2"] == pytest.approx(0.75, abs=1 / before["conv2"].size)
    assert out.figures["zeros"] == pytest.approx(0.5, abs=1e-3)


def test_layers_are_made_comparable(tmp_path):
    subject = subject_of(small_cnn(), tmp_path)
    layer = subject.layers()["conv1"]
    layer.set_blocks(layer.blocks() * 1e3)
    before = weights_of(subject)
    ratio = {name: np.abs(array) / np.abs(array).mean() for name, array in before.items()}
    cut = np.sort(np.concatenate([array.ravel() for array in ratio.values()]))
    cut = cut[round(0.3 * len(cut)) - 1]
    pruned(subject, amount=0.3, scope="global", normalise="mean")
    for name, array in weights_of(subject).items():
        np.testing.assert_array_equal(array == 0, ratio[name] <= cut * (1 + 1e-9))


def test_lamp_is_a_weights_energy_over_that_of_all_not_smaller(tmp_path):
    subject = subject_of(small_cnn(), tmp_path)
    before = weights_of(subject)
    scores = {
        name: np.array([w**2 / (array[np.abs(array) >= abs(w)] ** 2).sum() for w in array.ravel()])
        for name, array in before.items()
    }
    cut = np.sort(np.concatenate(list(scores.values())))
    cut = cut[round(0.6 * len(cut)) - 1]
    pruned(subject, amount=0.6, scope="global", normalise="lamp", criterion="l2")
    for name, array in weights_of(subject).items():
        np.testing.assert_array_equal((array == 0).ravel(), scores[name] <= cut * (1 + 1e-9))


def test_each_output_gives_the_same(tmp_path):
    subject = subject_of(small_cnn(), tmp_path)
    pruned(subject, amount=0.5, scope="output")
    for array in weights_of(subject).values():
        rows = (array == 0).reshape(-1, array.shape[2] * array.shape[3])
        assert (rows.sum(axis=1) == round(rows.shape[1] / 2)).all()


def test_a_threshold_takes_what_is_smaller(tmp_path):
    subject = subject_of(small_cnn(), tmp_path)
    before = weights_of(subject)
    pruned(subject, threshold=0.1)
    for name, array in weights_of(subject).items():
        np.testing.assert_array_equal(array == 0, np.abs(before[name]) < 0.1)
    pruned(subject, threshold=1e9, minimum_kept=0.1)
    for name, array in weights_of(subject).items():
        left = np.flatnonzero(array.ravel())
        assert len(left) == array.size - int(0.9 * array.size)
        order = np.argsort(-np.abs(before[name].ravel()))
        assert set(left) == set(order[: len(left)])


@pytest.mark.parametrize(
    ("op", "shape", "axis", "how"),
    [
        ("Conv", (8, 6, 3, 3), 1, {}),
        ("Conv", (8, 4, 1, 1), 1, {"group": 2}),
        ("ConvTranspose", (8, 6, 2, 2), 0, {}),
        ("MatMul", (10, 5), 0, {}),
        ("Gemm", (5, 10), 1, {"transB": 1}),
    ],
)
def test_n_of_m_lies_along_the_inputs(op, shape, axis, how, tmp_path):
    weight = np.random.default_rng(0).normal(size=shape)
    inputs = shape[axis] * how.get("group", 1)
    x = (2, inputs) if len(shape) == 2 else (2, inputs, 5, 5)
    subject = subject_of(one_layer(op, weight, x, **how), tmp_path)
    out = pruned(subject, pattern="2:4")
    found = np.moveaxis(subject.layers()["layer"].weight, axis, 0)
    for start in range(0, shape[axis], 4):
        part = found[start : start + 4]
        assert ((part != 0).sum(axis=0) == min(2, len(part))).all()
    assert out.changes[0].bits_per_weight == subject.bits["w"] == 0.5 * (32 + 2)


def test_blocks_go_whole_and_never_more_than_asked(tmp_path):
    subject = subject_of(small_cnn(), tmp_path)
    before = weights_of(subject)
    pruned(subject, ["conv2"], pattern="4x4", amount=0.5)
    found = weights_of(subject)["conv2"].reshape(6, 54) == 0
    assert 0.5 - 16 / 324 < found.mean() <= 0.5
    matrix = np.abs(before["conv2"].reshape(6, 54))
    means = {}
    for row in range(0, 6, 4):
        for column in range(0, 54, 4):
            part = found[row : row + 4, column : column + 4]
            assert part.all() or not part.any()
            means[row, column] = (matrix[row : row + 4, column : column + 4].mean(), bool(part.all()))
    gone = [mean for mean, zero in means.values() if zero]
    assert max(gone) <= sorted(mean for mean, _ in means.values())[len(gone)]


def test_zeros_that_are_there_stay_and_count(tmp_path):
    subject = subject_of(small_cnn(), tmp_path, seed=3)
    pruned(subject, criterion="random", amount=0.4)
    first = {name: array == 0 for name, array in weights_of(subject).items()}
    pruned(subject, criterion="random", amount=0.4)
    assert all((array == 0).mean() == first[name].mean() for name, array in weights_of(subject).items())
    out = pruned(subject, criterion="l1", amount=0.7)
    for name, array in weights_of(subject).items():
        assert ((array == 0) >= first[name]).all()
    assert out.figures["zeros"] == pytest.approx(0.7, abs=2e-3)
    pruned(subject, pattern="2:4", layers=["conv2"])
    kept = np.abs(weights_of(subject)["conv2"]) > 0
    assert kept.mean() <= 0.3 + 1e-3


def test_what_cannot_be_pruned_is_found_before(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="first"),
        helper.make_node("MatMul", ["a", "w"], ["b"], name="second"),
        helper.make_node("MatMul", ["b", "v"], ["y"], name="third"),
        helper.make_node("MatMul", ["y", "n"], ["z"], name="broken"),
    ]
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(3, 3)), "v": rng.normal(size=(3, 1)), "n": np.full((1, 2), np.nan)}
    model = graph(nodes, {name: array.astype(np.float32) for name, array in weights.items()}, (2, 3), "z")
    subject = subject_of(model, tmp_path)
    found = Prune().legal(subject, PruneSettings(pattern="2:4"))
    assert {name: why.code for name, why in found.items()} == {
        "first": "shared_weights", "second": "shared_weights", "third": "too_few_inputs", "broken": "unfit_weights",
    }  # fmt: skip
    assert "second" in found["first"].why
    assert Prune().legal(subject, PruneSettings(amount=0.5))["third"] is None
    assert Prune().legal(subject, PruneSettings(amount=0.5, pattern="8x8"))["third"].code == "one_block"


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({}, "an amount or a threshold"),
        ({"amount": 0.5, "threshold": 1.0}, "not both"),
        ({"amount": 1.5}, "between 0 and 1"),
        ({"amount": float("nan")}, "between 0 and 1"),
        ({"amount": 1.0}, "minimum_kept"),
        ({"amount": 0.5, "pattern": "2:4"}, "says how much"),
        ({"pattern": "2:4", "scope": "global"}, "no scope"),
        ({"amount": 0.5, "pattern": "2x2", "scope": "output"}, "blocks of 2 outputs"),
        ({"threshold": 0.1, "criterion": "wanda"}, "no other criterion"),
        ({"amount": 0.5, "normalise": "mean"}, "compares layers"),
        ({"amount": 0.5, "criterion": "fpgm"}, "cannot score weights"),
        ({"amount": 0.5, "criterion": "nonsense"}, "no criterion"),
        ({"amount": 0.5, "pattern": "nonsense"}, "no pattern"),
    ],
)
def test_settings_that_mean_nothing_are_refused(how, says):
    with pytest.raises(UsageError, match=says):
        PruneSettings(**how)


def test_without_data_a_criterion_on_data_is_refused(tmp_path):
    subject = subject_of(small_cnn(), tmp_path)
    before = weights_of(subject)
    with pytest.raises(UsageError, match="needs samples"):
        pruned(subject, criterion="wanda", amount=0.5)
    assert all((weights_of(subject)[name] == array).all() for name, array in before.items())


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_precisions_keep_theirs(dtype, tmp_path):
    weight = np.random.default_rng(0).normal(size=(4, 6)).astype(dtype)
    made = helper.make_model(
        helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["y"], name="layer")],
            "g",
            [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), (2, 4))],
            [helper.make_empty_tensor_value_info("y")],
            [numpy_helper.from_array(weight, "w")],
        ),
        opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
    )
    subject = subject_of(ir.from_proto(made), tmp_path)
    pruned(subject, amount=0.5)
    found = subject.model.graph.initializers["w"].const_value.numpy()
    assert found.dtype == weight.dtype
    assert (found[found != 0] == weight[found != 0]).all()
    assert subject.bits["w"] == 0.5 * 8 * weight.itemsize + 1


def test_a_whole_network_still_runs(tmp_path):
    model = imported("ds_cnn", tmp_path, batch=2)
    subject = subject_of(model, tmp_path)
    inputs = random_samples(model, 2).inputs
    pruned(subject, amount=0.5, scope="global")
    assert all(np.isfinite(array).all() for array in run_ort(subject.model, dict(inputs)))
    assert set(subject.bits) == subject.held_zeros
