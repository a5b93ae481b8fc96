"""Layers merged by the method: exactly, and with the activations that cost the output least."""

from __future__ import annotations

import numpy as np
import pytest
from compress_subjects import random_samples, run_ort, subject_of
from residual_graphs import PADDED, drawn, net

from hwbench.compress.methods.merge import MergeLayers, MergeSettings
from hwbench.errors import UsageError

pytest.importorskip("onnxruntime", reason="onnxruntime computes the networks")
pytest.importorskip("torch", reason="losses are measured in torch")


def _rep_block():
    """RepVGG's block: 3x3, 1x1 and the identity, added up; and a linear bottleneck behind it."""
    lines = [
        ("Conv", "x w3 b3", "c3", PADDED),
        ("Conv", "x w1", "c1"),
        ("Add", "c3 c1", "s1"),
        ("Add", "s1 x", "s2"),
        ("Relu", "s2", "r"),
        ("Conv", "r w4", "wide"),
        ("Conv", "wide w5", "y"),
    ]
    weights = {"w3": drawn(4, 4, 3, 3), "b3": drawn(4, seed=1), "w1": drawn(4, 4, 1, 1, seed=2)}
    return net(lines, weights | {"w4": drawn(12, 4, 1, 1, seed=3), "w5": drawn(4, 12, 1, 1, seed=4)})


def _legal(subject, settings):
    return [name for name, reason in MergeLayers().legal(subject, settings).items() if reason is None]


def test_exact_merges_leave_the_function_as_it_is(tmp_path):
    subject, settings = subject_of(_rep_block(), tmp_path), MergeSettings()
    x = {"x": drawn(2, 4, 8, 8, seed=9)}
    before = run_ort(subject.model, x)[0]
    legal = MergeLayers().legal(subject, settings)
    assert legal == {"s1": None, "s2": None, "y": None}
    outcome = MergeLayers().apply(subject, list(legal), settings)
    after = run_ort(subject.model, x)[0]
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5 * np.abs(before).max())
    assert [node.op_type for node in subject.model.graph] == ["Conv", "Relu", "Conv"]
    assert [change.layer for change in outcome.changes] == ["s1", "s2", "y"]
    assert all("exact" in change.what for change in outcome.changes)


def test_a_sum_of_three_goes_at_once(tmp_path):
    subject, x = subject_of(_rep_block(), tmp_path), {"x": drawn(2, 4, 8, 8, seed=9)}
    before = run_ort(subject.model, x)[0]
    (change,) = MergeLayers().apply(subject, ["s2"], MergeSettings()).changes
    assert "c3 + c1 as one 3x3 convolution" in change.what
    np.testing.assert_allclose(run_ort(subject.model, x)[0], before, rtol=1e-5, atol=1e-5 * np.abs(before).max())
    assert [node.op_type for node in subject.model.graph] == ["Conv", "Relu", "Conv", "Conv"]


def _three_hidden():
    """Three activations of growing importance: the bias keeps most of the first layers' values positive."""
    lines, weights, source = [], {}, "x"
    for index, bias in enumerate((9.0, 3.0, 0.0, 0.0)):
        lines.append(("Gemm", f"{source} l{index}.w l{index}.b", f"l{index}"))
        weights |= {f"l{index}.w": drawn(6, 6, seed=index), f"l{index}.b": np.full(6, bias, np.float32)}
        source = f"l{index}"
        if index < 3:
            lines.append(("Relu", source, f"r{index}"))
            source = f"r{index}"
    return lines, weights


def _without(gone: int, x: np.ndarray) -> np.ndarray:
    """The network without one Relu, in numpy."""
    _, weights = _three_hidden()
    for index in range(4):
        x = x.astype(np.float64) @ weights[f"l{index}.w"] + weights[f"l{index}.b"]
        x = x if index in {gone, 3} else np.maximum(x, 0)
    return x


def test_the_activations_that_cost_least_go(tmp_path):
    lines, weights = _three_hidden()
    model = net(lines, weights, x=(2, 6))
    samples = random_samples(model, 8)
    x = np.array(samples.inputs["x"])
    whole = _without(-1, x)
    losses = {f"l{i + 1}": ((_without(i, x) - whole) ** 2).sum() / (whole**2).sum() for i in range(3)}
    assert MergeLayers().legal(subject_of(model, tmp_path), MergeSettings())["l1"].code == "activation"
    subject = subject_of(model, tmp_path, samples=samples)
    settings = MergeSettings(activations="remove", amount=0.34)
    outcome = MergeLayers().apply(subject, _legal(subject, settings), settings)
    found = {name.removeprefix("mse without "): value for name, value in outcome.figures.items()}
    assert found == pytest.approx(losses, rel=1e-4)
    (change,) = outcome.changes
    assert change.layer == min(losses, key=losses.get) == "l1"
    assert "Relu 'r0' removed" in change.what
    assert "multiply-adds a sample 72 -> 36" in change.what
    np.testing.assert_allclose(run_ort(subject.model, {"x": x[:2]})[0], _without(0, x)[:2], rtol=1e-4, atol=1e-3)


def test_all_activations_need_no_data(tmp_path):
    lines, weights = _three_hidden()
    subject, settings = (
        subject_of(net(lines, weights, x=(2, 6)), tmp_path),
        MergeSettings(activations="remove", amount=1),
    )
    outcome = MergeLayers().apply(subject, _legal(subject, settings), settings)
    assert [node.op_type for node in subject.model.graph] == ["Gemm"]
    assert (len(outcome.changes), outcome.figures) == (3, {})


def test_padding_that_moves_is_told_and_measured(tmp_path):
    lines = [("Conv", "x w b", "a", PADDED), ("Relu", "a", "r"), ("Conv", "r v", "y", PADDED)]
    weights = {"w": drawn(4, 2, 3, 3), "b": drawn(4, seed=1), "v": drawn(2, 4, 3, 3, seed=2)}
    subject = subject_of(net(lines, weights, x=(2, 2, 8, 8)), tmp_path)
    assert MergeLayers().legal(subject, MergeSettings(activations="remove"))["y"].code == "border"
    settings = MergeSettings(activations="remove", move_padding=True, amount=1)
    (change,) = MergeLayers().apply(subject, _legal(subject, settings), settings).changes
    assert "5x5 convolution" in change.what
    assert "padding moved to the front" in change.what
    x = drawn(2, 2, 8, 8, seed=5)
    moved = [("Pad", "x pads", "p"), ("Conv", "p w b", "a"), ("Conv", "a v", "y")]
    other = net(moved, weights | {"pads": np.array([0, 0, 2, 2, 0, 0, 2, 2])}, x=(2, 2, 8, 8))
    np.testing.assert_allclose(run_ort(subject.model, {"x": x})[0], run_ort(other, {"x": x})[0], atol=1e-4)


def test_more_multiply_adds_only_when_allowed(tmp_path):
    lines = [("Conv", "x w", "a", {"group": 4}), ("Conv", "a v", "y")]
    weights = {"w": drawn(4, 1, 3, 3), "v": drawn(8, 4, 1, 1, seed=1)}
    subject = subject_of(net(lines, weights), tmp_path)
    assert MergeLayers().legal(subject, MergeSettings())["y"].code == "more_macs"
    settings = MergeSettings(allow_more_macs=True)
    x = {"x": drawn(2, 4, 8, 8, seed=5)}
    before = run_ort(subject.model, x)[0]
    (change,) = MergeLayers().apply(subject, ["y"], settings).changes
    assert f"{4 * 9 * 36 + 8 * 4 * 36} -> {8 * 4 * 9 * 36}" in change.what
    np.testing.assert_allclose(run_ort(subject.model, x)[0], before, atol=1e-4)


def test_zeros_that_are_held_are_left_alone(tmp_path):
    subject = subject_of(_rep_block(), tmp_path)
    subject.held_zeros.add("w4")
    assert MergeLayers().legal(subject, MergeSettings())["y"].code == "held_zeros"


def test_zeros_that_are_held_stop_a_chain_that_other_merges_have_brought_to_them(tmp_path):
    lines = [("Conv", "x wa", "a"), ("Conv", "a wb", "b"), ("Conv", "b wc", "c")]
    model = net(lines, {f"w{name}": drawn(4, 4, 1, 1, seed=seed) for seed, name in enumerate("abc")})
    subject = subject_of(model, tmp_path)
    subject.held_zeros.add("wa")
    legal = MergeLayers().legal(subject, MergeSettings())
    assert (legal["b"].code, legal["c"]) == ("held_zeros", None)
    MergeLayers().apply(subject, ["c"], MergeSettings())
    first, _ = subject.layers().values()
    np.testing.assert_array_equal(first.weight, subject.original.graph.initializers["wa"].const_value.numpy())


@pytest.mark.parametrize(
    "settings",
    [MergeSettings(amount=0.5), MergeSettings(move_padding=True), MergeSettings(activations="remove")],
)
def test_settings_that_do_not_fit_are_refused(tmp_path, settings):
    subject = subject_of(_rep_block(), tmp_path)
    with pytest.raises(UsageError):
        MergeLayers().apply(subject, ["y"], settings)
    assert len(list(subject.model.graph)) == 7


@pytest.mark.parametrize("values", [{"amount": 1.1}, {"amount": float("nan")}])
def test_values_out_of_bounds_are_refused(values):
    with pytest.raises(UsageError, match="is "):
        MergeSettings(**values)
