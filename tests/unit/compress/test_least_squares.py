from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from compress_graphs import graph, norms, one_layer, small_cnn
from compress_subjects import random_samples, run_ort, subject_of
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

torch = pytest.importorskip("torch", reason="the torch view gives the activations")

from hwbench.compress.repair.least_squares import Problem, reconstruct  # noqa: E402
from hwbench.compress.repair.match import Match, match  # noqa: E402
from hwbench.compress.statistics.pairs import paired  # noqa: E402
from hwbench.graph.linear import set_constant  # noqa: E402
from hwbench.graph.onnx_file import infer_shapes  # noqa: E402

TINY = 1e-7


def solve(subject, name="layer", damping=TINY, own=True):
    one = match(subject, subject.layers()[name])
    assert isinstance(one, Match)
    ((_, pair),) = paired(subject, [one], own=own, per_input=None)
    return reconstruct(subject, one, pair, damping), pair


@pytest.mark.parametrize("groups", [1, 2])
def test_changed_weights_of_a_convolution_come_back(groups, tmp_path):
    rng = np.random.default_rng(0)
    how = {"group": groups, "strides": [2, 1], "pads": [1, 0, 1, 2], "dilations": [1, 2]}
    model = one_layer("Conv", rng.normal(size=(4, 4 // groups, 3, 2)), (3, 4, 8, 9), **how)
    subject = subject_of(model, tmp_path, samples=random_samples(model, 9))
    layer = subject.layers()["layer"]
    exact = layer.weight
    set_constant(layer.node, 1, rng.normal(size=exact.shape))
    done, _ = solve(subject)
    np.testing.assert_allclose(subject.layers()["layer"].weight, exact, atol=1e-4)
    assert done.before > 0.1
    assert done.after < 1e-6


def cut_input(tmp_path, left, *, damping=TINY, add=True, own=True):
    """x -> first -> second: some outputs of the first are gone; returns rows, targets and what came out."""
    rng = np.random.default_rng(1)
    weights = {"w1": rng.normal(size=(6, 5)), "w2": rng.normal(size=(6, 3)), "b2": rng.normal(size=3)}
    weights["w1"][:, 4] = weights["w1"][:, 0] + 0.1 * weights["w1"][:, 4]  # what is lost is partly in what is left
    nodes = [
        helper.make_node("MatMul", ["x", "w1p"], ["h"], name="first"),
        helper.make_node("Relu", ["h"], ["r"], name="relu"),
        helper.make_node("MatMul", ["r", "w2p"], ["m"], name="second"),
        helper.make_node("Add", ["m", "b2"], ["y"], name="add"),
    ]
    made = {"w1p": weights["w1"], "w2p": weights["w2"][:5], "b2": weights["b2"]}
    nodes = nodes if add else [*nodes[:2], helper.make_node("MatMul", ["r", "w2p"], ["y"], name="second")]
    made = {name: array.astype(np.float32) for name, array in made.items() if add or name != "b2"}
    model = graph(nodes, made, (4, 7, 6), "y")
    subject = subject_of(model, tmp_path, samples=random_samples(model, 20))
    layers = subject.layers()
    set_constant(layers["first"].node, 1, layers["first"].weight[:, left])
    set_constant(layers["second"].node, 1, layers["second"].weight[left])
    for tensor in ("h", "r"):
        subject.keep(tensor, 2, np.array(left))
    for node in subject.model.graph:
        for value in node.outputs:
            value.shape = None
    subject.model = infer_shapes(subject.model)
    x = subject.samples.inputs["x"].reshape(-1, 6).astype(np.float64)
    hidden = np.maximum(x @ made["w1p"], 0)
    targets = hidden @ made["w2p"] + (made["b2"] if add else 0)
    done, _ = solve(subject, "second", damping, own)
    return hidden[:, left], targets, subject, done


@pytest.mark.parametrize("own", [True, False])
def test_cut_inputs_are_made_up_for_as_lstsq_does_with_a_shift(own, tmp_path):
    rows, targets, subject, done = cut_input(tmp_path, [0, 2, 3], own=own)
    best, *_ = np.linalg.lstsq(np.c_[rows, np.ones(len(rows))], targets, rcond=None)
    layer = subject.layers()["second"]
    np.testing.assert_allclose(layer.weight, best[:-1], atol=2e-4)
    np.testing.assert_allclose(layer.bias(), best[-1], atol=2e-4)
    left = np.square(np.c_[rows, np.ones(len(rows))] @ best - targets).sum()
    assert done.after == pytest.approx(left / np.square(targets - targets.mean(axis=0)).sum(), rel=1e-3)


def test_without_a_place_for_a_shift_nothing_is_centred(tmp_path):
    rows, targets, subject, _ = cut_input(tmp_path, [0, 2, 3], add=False)
    best, *_ = np.linalg.lstsq(rows, targets, rcond=None)
    np.testing.assert_allclose(subject.layers()["second"].weight, best, atol=2e-4)


def test_damping_holds_on_to_the_weights_that_are_there(tmp_path):
    rows, targets, subject, _ = cut_input(tmp_path, [0, 2, 3], damping=2.0)
    spread = rows - rows.mean(axis=0)
    gram = spread.T @ spread / len(rows)
    size = 2.0 * np.trace(gram) / 3
    old = subject.original.graph.initializers["w2p"].const_value.numpy()[[0, 2, 3]]
    cross = spread.T @ (targets - targets.mean(axis=0)) / len(rows)
    expected = np.linalg.solve(gram + size * np.eye(3), cross + size * old)
    np.testing.assert_allclose(subject.layers()["second"].weight, expected, rtol=1e-4, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), outputs=st.integers(1, 5), width=st.integers(1, 8), share=st.booleans())
def test_zeros_stay_and_the_rest_is_each_rows_own_lstsq(seed, outputs, width, share):
    rng = np.random.default_rng(seed)
    rows, targets = rng.normal(size=(40, width)), rng.normal(size=(40, outputs))
    mask = rng.random((1 if share else outputs, width)) < 0.6
    mask = np.repeat(mask, outputs, axis=0) if share else mask
    old = torch.from_numpy(rng.normal(size=(1, outputs, width)) * mask)
    parts = (rows.T @ rows / 40, targets.T @ rows / 40, np.square(targets).mean(axis=0))
    problem = Problem(*(torch.from_numpy(part[None]) for part in parts))
    found = problem.solve(old, 1e-9, torch.from_numpy(mask[None]))[0].numpy()
    for output in range(outputs):
        best, *_ = np.linalg.lstsq(rows[:, mask[output]], targets[:, output], rcond=None)
        np.testing.assert_allclose(found[output, mask[output]], best, atol=1e-5)
        assert not found[output, ~mask[output]].any()


def test_many_supports_are_solved_for_by_conjugate_gradients_as_well(tmp_path):
    from hwbench.compress.repair import least_squares

    rng = np.random.default_rng(0)
    rows = rng.normal(size=(200, 30)) @ rng.normal(size=(30, 30))
    matrix, mask = torch.from_numpy(rows.T @ rows / 200 + 0.1 * np.eye(30)), torch.from_numpy(rng.random((9, 30)) < 0.5)
    right = torch.from_numpy(rng.normal(size=(9, 30)))
    found = least_squares._conjugate_gradients(matrix, right, mask)
    for row, one, support in zip(found, right, mask, strict=True):
        exact = np.linalg.solve(matrix[support][:, support].numpy(), one[support].numpy())
        assert np.linalg.norm(row[support].numpy() - exact) < 1e-2 * np.linalg.norm(exact)
        assert not row[~support].any()


def test_held_zeros_of_a_layer_stay(tmp_path):
    rng = np.random.default_rng(0)
    model = one_layer("Conv", rng.normal(size=(4, 3, 3, 3)), (3, 3, 8, 8))
    subject = subject_of(model, tmp_path, samples=random_samples(model, 9))
    layer = subject.layers()["layer"]
    zeros = rng.random(layer.weight.shape) < 0.5
    set_constant(layer.node, 1, np.where(zeros, 0, layer.weight))
    subject.held_zeros.add("w")
    done, _ = solve(subject)
    new = subject.layers()["layer"].weight
    assert not new[zeros].any()
    assert (new != 0).sum() == (~zeros).sum()
    assert done.after < done.before


def test_the_norm_behind_takes_the_shift_and_its_output_is_what_counts(tmp_path):
    rng = np.random.default_rng(2)
    parts = norms(rng, "bn", 4)
    parts["bn.scale"][2] = 0  # the target of this channel cannot be told: its weights stay
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="conv"),
        helper.make_node("BatchNormalization", ["a", *parts], ["y"], name="bn"),
    ]
    weight = rng.normal(size=(4, 3, 2, 2)).astype(np.float32)
    model = graph(nodes, {"w": weight} | parts, (4, 3, 6, 6), "y")
    samples = random_samples(model, 12)
    samples.inputs["x"] += 1  # so that a mean comes through
    subject = subject_of(model, tmp_path, samples=samples)
    set_constant(subject.layers()["conv"].node, 1, weight + 0.3 * rng.normal(size=weight.shape) + 0.2)
    changed = subject.layers()["conv"].weight
    solve(subject, "conv")
    x = samples.inputs["x"][:4]
    np.testing.assert_allclose(run_ort(subject.model, {"x": x})[0], run_ort(model, {"x": x})[0], atol=2e-3)
    np.testing.assert_array_equal(subject.layers()["conv"].weight[2], changed[2])


def test_an_untouched_layer_stays_as_it_is(tmp_path):
    model = small_cnn()
    subject = subject_of(model, tmp_path, samples=random_samples(model, 8))
    for name in ("conv1", "conv2", "fc"):
        before = subject.layers()[name].weight
        solve(subject, name, 1e-2)
        np.testing.assert_allclose(subject.layers()[name].weight, before, atol=1e-5)


def test_what_cannot_be_lined_up_says_why(tmp_path):
    model = small_cnn(norm=False)
    subject = subject_of(model, tmp_path, samples=random_samples(model, 8))
    next(node for node in subject.model.graph if node.name == "conv2").outputs[0].name = "new"
    assert match(subject, subject.layers()["conv2"]).code == "no_counterpart"
    shared = subject.layers()["conv1"].node.inputs[1]
    subject.layers()["conv2"].node.replace_input_with(1, shared)
    assert match(subject, subject.layers()["conv1"]).code == "shared"
    model = small_cnn(norm=False)
    subject = subject_of(model, tmp_path, samples=random_samples(model, 8))
    subject.keep("a1", 2, np.arange(3))
    assert match(subject, subject.layers()["conv1"]).code == "other_axis"
    subject.layers()["conv1"].output.shape = ir.Shape((4, 5, 8, 8))
    subject.kept.clear()
    assert match(subject, subject.layers()["conv1"]).code == "not_lined_up"
