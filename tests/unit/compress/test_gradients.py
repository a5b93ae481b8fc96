from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from compress_graphs import graph, small_cnn
from compress_subjects import random_samples, subject_of
from onnx import helper

from hwbench.compress.statistics.gradients import channel_gradients, weight_gradients
from hwbench.data.samples import Samples
from hwbench.errors import ModelError, UsageError

torch = pytest.importorskip("torch", reason="gradients are torch's")
RNG = np.random.default_rng(0)


def cross_entropy(outputs, labels):
    return torch.nn.functional.cross_entropy(outputs[0], labels)


def bench(tmp_path, batch, count=8, model=None):
    model = model or small_cnn(batch=batch)
    return subject_of(model, tmp_path, samples=random_samples(model, count, classes=5))


def one_by_one(subject, module):
    """Autograd on one sample alone, in a network of batch one: gradients of a weight, sample by sample."""
    view = subject_of(small_cnn(batch=1), subject.folder).view()
    found = []
    for x, label in zip(subject.samples.inputs["x"], subject.samples.labels, strict=True):
        view.zero_grad()
        cross_entropy(view(torch.from_numpy(x[None])), torch.tensor([label])).backward()
        layer = view.get_submodule(module)
        found.append(layer.W.grad.clone().numpy() if hasattr(layer, "W") else layer.B.grad.clone().numpy())
    return np.stack(found).astype(np.float64)


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_weights_gradients_are_those_of_samples_alone(batch, tmp_path):
    subject = bench(tmp_path, batch)
    found = weight_gradients(subject, subject.layers(), RNG, loss=cross_entropy)
    for name in ("conv1", "conv2", "fc"):
        each = one_by_one(subject, name)
        np.testing.assert_allclose(found[name].absolute, np.abs(each).mean(0), rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(found[name].square, np.square(each).mean(0), rtol=1e-4, atol=1e-9)
        means = each.reshape(-1, batch, *each.shape[1:]).mean(1)
        np.testing.assert_allclose(found[name].batch_square, np.square(means).mean(0), rtol=1e-4, atol=1e-9)
        assert (found[name].samples, found[name].batch_size) == (8, batch)


def test_the_task_loss_is_taken_where_there_are_labels_and_drawn_ones_where_not(tmp_path):
    subject = bench(tmp_path, 4)
    with_labels = weight_gradients(subject, subject.layers(), RNG)["fc"].square
    expected = weight_gradients(subject, subject.layers(), RNG, loss=cross_entropy)["fc"].square
    np.testing.assert_allclose(with_labels, expected, rtol=1e-5)

    inputs = np.repeat(subject.samples.inputs["x"][:1], 1600, axis=0)
    subject = subject_of(small_cnn(batch=200), tmp_path, samples=Samples(inputs={"x": inputs}, labels=None, batch=200))
    drawn = weight_gradients(subject, {"fc": subject.layers()["fc"]}, np.random.default_rng(0))["fc"].square
    view = subject.view()
    features = {}
    view.get_submodule("fc").register_forward_hook(lambda module, given, output: features.update(x=given[0], y=output))
    view(torch.from_numpy(inputs[:200]))
    x, p = features["x"][0].double().detach(), torch.softmax(features["y"][0].double(), 0).detach()
    fisher = (p * (1 - p))[:, None] * x[None].square()  # of a softmax, in closed form
    np.testing.assert_allclose(drawn, fisher.numpy(), rtol=0.1, atol=0.02 * float(fisher.max()))


def double_model():
    """fc1 - tanh - fc2, in float64, batch 2."""
    rng = np.random.default_rng(4)
    weights = {"w1": rng.normal(size=(3, 4)), "b1": rng.normal(size=4), "w2": rng.normal(size=(4, 3))}
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], name="fc1"),
        helper.make_node("Tanh", ["h"], ["t"], name="tanh"),
        helper.make_node("MatMul", ["t", "w2"], ["y"], name="fc2"),
    ]
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.DOUBLE, (2, 3))],
        [helper.make_tensor_value_info("y", onnx.TensorProto.DOUBLE, (2, 3))],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return ir.from_proto(helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))


def test_gradients_are_finite_differences(tmp_path):
    rng = np.random.default_rng(1)
    samples = Samples(inputs={"x": rng.normal(size=(2, 3))}, labels=np.array([0, 2]), batch=2)
    subject = subject_of(double_model(), tmp_path, samples=samples)
    x, labels = (torch.from_numpy(array) for array in (samples.inputs["x"], samples.labels))

    def losses():
        y = subject.view()(x)[0].detach()
        return np.array([float(torch.nn.functional.cross_entropy(y[i : i + 1], labels[i : i + 1])) for i in (0, 1)])

    found = weight_gradients(subject, subject.layers(), RNG, loss=cross_entropy)
    for layer in subject.layers().values():
        blocks = layer.blocks()
        square = layer.to_blocks(found[layer.name].square)
        for place in np.ndindex(blocks.shape):
            each = []
            for step in (1e-5, -1e-5):
                moved = blocks.copy()
                moved[place] += step
                layer.set_blocks(moved)
                each.append(losses())
            layer.set_blocks(blocks)
            gradient = (each[0] - each[1]) / 2e-5
            assert square[place] == pytest.approx(np.square(gradient).mean(), rel=1e-4, abs=1e-8)


def test_a_channels_change_is_the_slope_of_scaling_it(tmp_path):
    subject = bench(tmp_path, 4)
    found = channel_gradients(subject, subject.layers(), RNG, loss=cross_entropy)
    assert found["conv1"].change.shape == (8, 6)
    view = subject.view()
    at = {"conv1": "bn1", "conv2": "bn2", "fc": "fc"}
    x, labels = torch.from_numpy(subject.samples.inputs["x"]), torch.from_numpy(subject.samples.labels)
    for name, place in at.items():
        channels = found[name].change.shape[1]
        gate = torch.ones(4, channels, requires_grad=True)
        handle = view.get_submodule(place).register_forward_hook(
            lambda module, given, output, gate=gate: output * gate.reshape(4, -1, *[1] * (output.dim() - 2))
        )
        for start in (0, 4):
            gate.grad = None
            logits = view(x[start : start + 4])[0]
            torch.nn.functional.cross_entropy(logits, labels[start : start + 4], reduction="sum").backward()
            np.testing.assert_allclose(found[name].change[start : start + 4], gate.grad.numpy(), rtol=1e-3, atol=1e-6)
        handle.remove()


def test_a_network_that_mixes_samples_is_refused(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="layer"),
        helper.make_node("ReduceMean", ["a", "axes"], ["m"], name="mix", keepdims=1),
        helper.make_node("Add", ["a", "m"], ["y"], name="add"),
    ]
    weights = {"w": np.eye(3, dtype=np.float32), "axes": np.array([0], np.int64)}
    model = graph(nodes, weights, (2, 3), "y")
    subject = subject_of(model, tmp_path, samples=random_samples(model, 4, classes=3))
    with pytest.raises(UsageError, match="told apart at layer 'layer'"):
        weight_gradients(subject, subject.layers(), RNG)


def test_tokens_side_by_side_are_kept_apart_by_sample(tmp_path):
    """Tokens folded into the first axis: rows of a sample lie together, which is fine."""
    nodes = [
        helper.make_node("Reshape", ["x", "rows"], ["f"], name="fold"),
        helper.make_node("MatMul", ["f", "w"], ["a"], name="layer"),
        helper.make_node("Reshape", ["a", "back"], ["b"], name="unfold"),
        helper.make_node("ReduceMean", ["b", "axes"], ["y"], name="mean", keepdims=0),
    ]
    weights = {
        "w": np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32),
        "rows": np.array([10, 3]), "back": np.array([2, 5, 4]), "axes": np.array([1]),
    }  # fmt: skip
    model = graph(nodes, weights, (2, 5, 3), "y")
    subject = subject_of(model, tmp_path, samples=random_samples(model, 2, classes=4))
    found = weight_gradients(subject, subject.layers(), RNG)["layer"].square
    x, labels = subject.samples.inputs["x"].astype(np.float64).mean(1), subject.samples.labels
    logits = x @ weights["w"]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True) - np.eye(4)[labels]
    np.testing.assert_allclose(found, np.square(x[:, :, None] * p[:, None]).mean(0), rtol=1e-4)


def test_nan_is_told(tmp_path):
    subject = bench(tmp_path, 4)
    subject.samples.inputs["x"][0, 0, 0, 0] = np.nan
    with pytest.raises(ModelError, match="NaN"):
        weight_gradients(subject, subject.layers(), RNG)
