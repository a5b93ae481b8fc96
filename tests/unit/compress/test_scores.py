from __future__ import annotations

import numpy as np
import pytest
from compress_graphs import graph, one_layer, small_cnn
from compress_subjects import random_samples, run_ort, subject_of
from onnx import helper

from hwbench.compress.scores.criteria import (
    CRITERIA,
    channel_criterion,
    element_criterion,
    refused,
    score_channels,
    score_weights,
)
from hwbench.compress.scores.entropy import histogram_entropy
from hwbench.compress.scores.fpgm import distances
from hwbench.compress.statistics.grams import input_grams
from hwbench.errors import UsageError

pytest.importorskip("torch", reason="criteria on data use the view")
stats = pytest.importorskip("scipy.stats", reason="an oracle")
distance = pytest.importorskip("scipy.spatial.distance", reason="an oracle")
LAYERS = ("conv1", "conv2", "fc")


@pytest.fixture
def subject(tmp_path):
    model = small_cnn(batch=4)
    return subject_of(model, tmp_path, samples=random_samples(model, 8, classes=5))


def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("name", [name for name, one in CRITERIA.items() if one.weights])
def test_scores_of_weights_have_their_shape_and_are_not_negative(name, subject):
    scores = score_weights(subject, LAYERS, name, rng=rng())
    assert list(scores) == list(LAYERS)
    for layer, found in scores.items():
        assert found.shape == subject.layers()[layer].weight.shape
        assert (found >= 0).all()
        assert found.std() > 0


@pytest.mark.parametrize("name", [name for name, one in CRITERIA.items() if one.channels])
def test_scores_of_channels_are_one_each(name, subject):
    legal = [layer for layer in LAYERS if layer not in refused(subject, LAYERS, name, "channels")]
    scores = score_channels(subject, legal, name, rng=rng())
    assert {"conv1", "conv2"} <= set(legal) == set(scores)
    for layer, found in scores.items():
        assert found.shape == (subject.layers()[layer].output_channels,)
        assert (found >= 0).all()
        assert found.std() > 0


def test_every_criterion_is_scored_for_weights_or_says_why_not():
    assert set(CRITERIA) == {
        "random", "l1", "l2", "gradient", "taylor", "fisher", "weight-activation", "activation", "apoz", "entropy",
        "wanda", "bn-gamma", "fpgm", "obs",
    }  # fmt: skip
    for name, one in CRITERIA.items():
        assert one.channels is not None
        assert one.weights is not None or one.without
        if one.weights is None:
            with pytest.raises(UsageError, match="cannot score weights"):
                element_criterion(name)
        assert channel_criterion(name) is one
    with pytest.raises(UsageError, match="no criterion 'magnitude'"):
        element_criterion("magnitude")


def test_norms_of_channels(subject):
    weight = subject.layers()["conv2"].weight.reshape(6, -1)
    found = {name: score_channels(subject, ["conv2"], name, rng=rng())["conv2"] for name in ("l1", "l2", "fpgm")}
    np.testing.assert_allclose(found["l1"], np.linalg.norm(weight, 1, axis=1))
    np.testing.assert_allclose(found["l2"], np.linalg.norm(weight, axis=1))
    np.testing.assert_allclose(found["fpgm"], distance.cdist(weight, weight).sum(axis=1))
    two = np.vstack([weight[0], weight[0], weight[1]])
    assert distances(two)[0] == distances(two)[1] < distances(two)[2]


def test_a_transposed_convolutions_channels_go_through_its_groups(tmp_path):
    weight = np.random.default_rng(0).normal(size=(4, 3, 2, 2))  # two groups of 2 inputs and 3 outputs
    subject = subject_of(one_layer("ConvTranspose", weight, (1, 4, 3, 3), group=2), tmp_path)
    found = score_channels(subject, ["layer"], "l1", rng=rng())["layer"]
    expected = [np.abs(weight[2 * group : 2 * group + 2, one]).sum() for group in (0, 1) for one in range(3)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_bn_gamma_and_who_has_none(subject, tmp_path):
    scale = subject.model.graph.initializers["bn1.scale"].const_value.numpy()
    np.testing.assert_array_equal(score_channels(subject, ["conv1"], "bn-gamma", rng=rng())["conv1"], np.abs(scale))
    assert refused(subject, LAYERS, "bn-gamma", "channels")["fc"].code == "no_batch_norm"
    with pytest.raises(UsageError, match="cannot score layer 'fc'"):
        score_channels(subject, LAYERS, "bn-gamma", rng=rng())
    assert set(refused(subject, LAYERS, "apoz", "channels")) == {"fc"}
    narrow = subject_of(one_layer("MatMul", np.ones((3, 2)), (2, 3)), tmp_path)
    assert refused(narrow, ["layer"], "fpgm", "channels")["layer"].code == "too_few_channels"


def test_apoz_and_activation_are_those_of_the_relu(subject):
    model = subject.model.clone()
    values = {value.name: value for node in model.graph for value in node.outputs}
    model.graph.outputs.extend([values["r2"]])
    x = subject.samples.inputs["x"]
    relu = np.concatenate([run_ort(model, {"x": x[start : start + 4]})[1] for start in (0, 4)])
    alive = score_channels(subject, ["conv2"], "apoz", rng=rng())["conv2"]
    np.testing.assert_allclose(alive, (relu > 0).mean(axis=(0, 2, 3)), atol=3e-3)
    mean = score_channels(subject, ["conv2"], "activation", rng=rng())["conv2"]
    np.testing.assert_allclose(mean, relu.mean(axis=(0, 2, 3)), rtol=1e-5)


@pytest.mark.parametrize("count", [1, 5, 300])
def test_entropy_is_that_of_a_histogram(count):
    values = np.random.default_rng(1).gamma(2, size=(count, 7))
    values[:, 3] = 4.2
    found = histogram_entropy(values)
    for channel, one in enumerate(values.T):
        counts = np.histogram(one, 32)[0]
        assert found[channel] == pytest.approx(stats.entropy(counts), abs=1e-12)
    assert found[3] == 0
    assert found.max() <= np.log(min(count, 32)) + 1e-12


def test_wanda_and_weight_times_activation_of_a_matrix(tmp_path):
    weight = np.random.default_rng(0).normal(size=(3, 5))
    model = one_layer("MatMul", weight, (4, 3))
    subject = subject_of(model, tmp_path, samples=random_samples(model, 8))
    x = subject.samples.inputs["x"].astype(np.float64)
    wanda = score_weights(subject, ["layer"], "wanda", rng=rng())["layer"]
    np.testing.assert_allclose(wanda, np.abs(weight) * np.linalg.norm(x, axis=0)[:, None] / np.sqrt(8), rtol=1e-5)
    product = score_weights(subject, ["layer"], "weight-activation", rng=rng())["layer"]
    np.testing.assert_allclose(product, np.abs(weight) * np.abs(x).mean(axis=0)[:, None], rtol=1e-5)


def test_first_and_second_order_scores_of_a_softmax_regression(tmp_path):
    """Everything in closed form: g = x (p - onehot)."""
    weight = np.random.default_rng(0).normal(size=(3, 4))
    model = one_layer("MatMul", weight, (2, 3))
    subject = subject_of(model, tmp_path, samples=random_samples(model, 6, classes=4))
    x, labels = subject.samples.inputs["x"].astype(np.float64), subject.samples.labels
    logits = x @ weight
    delta = np.exp(logits) / np.exp(logits).sum(1, keepdims=True) - np.eye(4)[labels]
    g = x[:, :, None] * delta[:, None]
    batches = g.reshape(3, 2, 3, 4).mean(1)
    weights = {
        name: score_weights(subject, ["layer"], name, rng=rng())["layer"] for name in ("gradient", "taylor", "fisher")
    }
    np.testing.assert_allclose(weights["gradient"], np.abs(g).mean(0), rtol=1e-4)
    np.testing.assert_allclose(weights["taylor"], np.square(batches * weight).mean(0), rtol=1e-4)
    np.testing.assert_allclose(weights["fisher"], np.square(g * weight).mean(0) / 2, rtol=1e-4)
    gate = delta * logits
    channels = {
        name: score_channels(subject, ["layer"], name, rng=rng())["layer"] for name in ("gradient", "taylor", "fisher")
    }
    np.testing.assert_allclose(channels["gradient"], np.abs(g).mean(0).sum(0), rtol=1e-4)
    np.testing.assert_allclose(channels["taylor"], np.square(gate.reshape(3, 2, 4).mean(1)).mean(0), rtol=1e-4)
    np.testing.assert_allclose(channels["fisher"], np.square(gate).mean(0) / 2, rtol=1e-4)


def least_loss(weights, gram, gone):
    """What a row must lose when some columns go, by least squares on a root of the Gram matrix."""
    root = np.linalg.cholesky(gram).T
    left = np.setdiff1d(np.arange(weights.shape[1]), gone)
    target = root @ weights.T
    fit = np.linalg.lstsq(root[:, left], target, rcond=None)[0]
    return np.square(target - root[:, left] @ fit).sum(axis=0)


def damp(matrix):
    return matrix + 0.01 * np.trace(matrix) / len(matrix) * np.eye(len(matrix))


def test_obs_of_a_weight_is_what_least_squares_cannot_mend(subject):
    scores = score_weights(subject, ["conv2"], "obs", rng=rng())["conv2"].reshape(6, -1)
    gram = damp(input_grams(subject, ["conv2"])["conv2"].matrix[0])
    weights = subject.layers()["conv2"].weight.reshape(6, -1)
    for column in (0, 17, 53):
        np.testing.assert_allclose(scores[:, column], least_loss(weights, gram, [column]), rtol=1e-6)


def test_obs_of_a_channel_is_what_its_reader_cannot_mend(subject):
    scores = score_channels(subject, ["conv1", "conv2"], "obs", rng=rng())
    grams = input_grams(subject, ["conv2", "fc"])
    layers = subject.layers()
    for channel in range(6):
        gone = np.arange(9 * channel, 9 * channel + 9)
        expected = least_loss(layers["conv2"].weight.reshape(6, -1), damp(grams["conv2"].matrix[0]), gone).sum()
        assert scores["conv1"][channel] == pytest.approx(expected, rel=1e-6)
        expected = least_loss(layers["fc"].weight, damp(grams["fc"].matrix[0]), [channel]).sum()
        assert scores["conv2"][channel] == pytest.approx(expected, rel=1e-6)
    assert "fc" in refused(subject, LAYERS, "obs", "channels")  # the network's outputs


def residual():
    """first -+- depthwise - pointwise -+- last, added up; the stream's channels are read twice."""
    rng = np.random.default_rng(3)
    shapes = {"a": (4, 3, 1, 1), "d": (4, 1, 3, 3), "p": (4, 4, 1, 1), "l": (2, 4, 1, 1)}
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["s"], name="first"),
        helper.make_node("Conv", ["s", "d"], ["t"], name="depthwise", group=4, pads=[1] * 4),
        helper.make_node("Conv", ["t", "p"], ["u"], name="pointwise"),
        helper.make_node("Add", ["s", "u"], ["v"], name="add"),
        helper.make_node("Conv", ["v", "l"], ["y"], name="last"),
    ]
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return graph(nodes, weights, (2, 3, 5, 5), "y")


def test_obs_adds_up_over_all_readers_of_a_stream(tmp_path):
    model = residual()
    subject = subject_of(model, tmp_path, samples=random_samples(model, 4))
    scores = score_channels(subject, ["first", "pointwise"], "obs", rng=rng())
    np.testing.assert_array_equal(scores["first"], scores["pointwise"])
    grams, layers = input_grams(subject, ["pointwise", "last"]), subject.layers()
    for channel in range(4):
        inner, last = (
            least_loss(layers[name].weight[:, :, 0, 0], damp(grams[name].matrix[0]), [channel])
            for name in ("pointwise", "last")
        )
        stays = np.arange(4) != channel  # the stream's own channel goes too
        assert scores["first"][channel] == pytest.approx(inner[stays].sum() + last.sum(), rel=1e-6)


def test_random_follows_the_seed(subject):
    one, again, other = (
        score_weights(subject, LAYERS, "random", rng=np.random.default_rng(seed)) for seed in (0, 0, 1)
    )
    assert all((one[name] == again[name]).all() for name in LAYERS)
    assert all((one[name] != other[name]).any() for name in LAYERS)
