"""A new head: fitted as scikit-learn fits it, put into graphs of several forms, trained alone or with the rest."""

import numpy as np
import onnx_graphs as graphs
import onnx_ir as ir
import pytest
from compress_subjects import run_ort, subject_of
from onnx import helper
from train_nets import conv_net, digits_subject, images, weight_of

torch = pytest.importorskip("torch", reason="training is done by torch")

from hwbench.compress.methods.finetune import Finetune, FinetuneSettings  # noqa: E402
from hwbench.compress.methods.transfer import Transfer, TransferSettings  # noqa: E402
from hwbench.data.samples import Samples  # noqa: E402
from hwbench.errors import ModelError, UsageError  # noqa: E402
from hwbench.graph.onnx_file import infer_shapes  # noqa: E402
from hwbench.train.head import fitted_classes, fitted_values  # noqa: E402

node = helper.make_node


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def transfer(subject, **given):
    method, settings = Transfer(), TransferSettings(**given)
    layers = [name for name, reason in method.legal(subject, settings).items() if reason is None]
    return method.apply(subject, layers, settings)


def relabelled(subject, labels):
    samples = subject.samples
    subject.samples = Samples(inputs=samples.inputs, labels=labels, batch=samples.batch)
    return subject


def test_the_fit_is_scikit_learns():
    linear_model = pytest.importorskip("sklearn.linear_model", reason="what the fit is held against")
    rng = np.random.default_rng(0)
    x, penalty = rng.normal(size=(200, 6)), 0.05
    labels = (x @ rng.normal(size=(6, 3)) + rng.normal(size=(200, 3))).argmax(1)
    oracle = linear_model.LogisticRegression(C=1 / (penalty * len(x)), tol=1e-10, max_iter=10_000).fit(x, labels)
    weight, bias = fitted_classes(x, labels, 3, penalty)
    np.testing.assert_allclose(weight, oracle.coef_, atol=1e-4)
    np.testing.assert_allclose(bias - bias.mean(), oracle.intercept_ - oracle.intercept_.mean(), atol=1e-4)
    targets = x @ rng.normal(size=(6, 2)) + 3 + 0.1 * rng.normal(size=(200, 2))
    for intercept in (True, False):
        ridge = linear_model.Ridge(alpha=penalty * len(x), fit_intercept=intercept).fit(x, targets)
        weight, bias = fitted_values(x, targets, penalty, bias=intercept)
        np.testing.assert_allclose(weight, ridge.coef_, atol=1e-8)
        np.testing.assert_allclose(bias, ridge.intercept_ if intercept else np.zeros(2), atol=1e-8)


def test_rows_that_are_not_judged_are_not_fitted():
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(50, 3)), rng.integers(0, 2, 50)
    more, unjudged = np.concatenate([x, 100 * np.ones((5, 3))]), np.concatenate([labels, np.full(5, -100)])
    np.testing.assert_allclose(fitted_classes(x, labels, 2, 0.1)[0], fitted_classes(more, unjudged, 2, 0.1)[0])


def test_digits_learn_to_tell_even_from_odd(tmp_path):
    from hwbench.models.digits import load_digits_split

    subject, _ = digits_subject(tmp_path)
    relabelled(subject, subject.samples.labels % 2)
    before = weight_of(subject.model, "features.3.weight")
    outcome = transfer(subject, epochs=1)
    assert subject.model.graph.outputs[0].shape.numpy() == (32, 2)
    change = outcome.changes[0]
    assert (change.layer, change.shape_before, change.shape_after) == ("fc", (10, 512), (2, 512))
    assert len(outcome.changes) == 1, "the rest is as it was"
    assert np.array_equal(weight_of(subject.model, "features.3.weight"), before)
    x, y = load_digits_split()["test"]
    scores = np.concatenate([run_ort(subject.model, {"image": x[at : at + 32]})[0] for at in range(0, 352, 32)])
    assert (scores.argmax(1) == y[:352] % 2).mean() > 0.95
    assert run_ort(subject.original, {"image": x[:32]})[0].shape == (32, 2), "what it is now is the new original"
    applied = Finetune().apply(subject, ["fc"], FinetuneSettings(epochs=1))
    assert applied.figures["score"] > 0.9, "and can teach"


def test_the_whole_network_or_the_head_alone_is_trained(tmp_path):
    for backbone in ("frozen", "trained"):
        subject = subject_of(conv_net(), tmp_path, samples=images(40, classes=4))
        before = {name: weight_of(subject.model, name) for name in subject.model.graph.initializers}
        outcome = transfer(subject, backbone=backbone, init="random", epochs=2)
        same = {name for name, old in before.items() if np.array_equal(old, weight_of(subject.model, name))}
        expected = {"w1", "w2", "b2", "g", "b", "m", "v"} if backbone == "frozen" else set()
        assert same == expected
        assert weight_of(subject.model, "w3").shape == (4, 4)
        assert {change.layer for change in outcome.changes} == ({"fc"} | (set() if same else {"conv1", "bn1", "conv2"}))


def test_without_epochs_the_fit_alone_is_the_head(tmp_path):
    subject = subject_of(conv_net(), tmp_path, samples=images(60, classes=3))
    outcome = transfer(subject, epochs=0, held_out=0)
    scores = np.concatenate([run_ort(subject.model, inputs)[0] for inputs, _ in subject.samples.in_order()])
    assert (scores.argmax(1) == subject.samples.labels).mean() > 0.9
    assert outcome.figures == {"epochs": 0, "steps": 0}


def squeezenet_like(*, fixed_shape=True):
    """Conv 1x1, Relu, the mean over space, Reshape, Softmax: the end of SqueezeNet; ``w`` has five classes."""
    shape = [4, 5] if fixed_shape else [4, -1]
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"], name="head"),
        node("Relu", ["c"], ["r"], name="relu"),
        node("GlobalAveragePool", ["r"], ["p"], name="pool"),
        node("Reshape", ["p", "shape"], ["f"], name="reshape"),
        node("Softmax", ["f"], ["y"], name="softmax"),
    ]
    weights = [graphs.weight("w", graphs.random_array(5, 2, 1, 1)), graphs.weight("b", np.zeros(5, np.float32)),
               graphs.weight("shape", np.array(shape))]  # fmt: skip
    made = graphs.model(nodes, [graphs.tensor("x", [4, 2, 5, 5])], [graphs.tensor("y", [4, 5])], weights)
    return infer_shapes(ir.from_proto(made))


@pytest.mark.parametrize("fixed_shape", [True, False])
def test_a_convolution_as_head_with_a_reshape_behind(tmp_path, fixed_shape):
    subject = subject_of(squeezenet_like(fixed_shape=fixed_shape), tmp_path, samples=images(60, classes=3))
    transfer(subject, epochs=0, held_out=0, penalty=1e-4)
    assert subject.model.graph.outputs[0].shape.numpy() == (4, 3)
    scores = np.concatenate([run_ort(subject.model, inputs)[0] for inputs, _ in subject.samples.in_order()])
    assert (scores.argmax(1) == subject.samples.labels).mean() > 0.9


def test_a_product_without_bias_and_labels_in_floating_point(tmp_path):
    nodes = [node("Relu", ["x"], ["r"], name="relu"), node("MatMul", ["r", "w"], ["y"], name="fc")]
    made = graphs.model(nodes, [graphs.tensor("x", [4, 3])], [graphs.tensor("y", [4, 2])],
                        [graphs.weight("w", graphs.random_array(3, 2))])  # fmt: skip
    rng = np.random.default_rng(0)
    x, truth = rng.random((40, 3)).astype(np.float32), rng.normal(size=(3, 4))
    samples = Samples(inputs={"x": x}, labels=(x @ truth).astype(np.float32), batch=4)
    subject = subject_of(infer_shapes(ir.from_proto(made)), tmp_path, samples=samples)
    transfer(subject, epochs=0, held_out=0, penalty=1e-9)
    np.testing.assert_allclose(weight_of(subject.model, "w"), truth, atol=1e-4)
    with pytest.raises(UsageError, match="floating point"):
        transfer(subject, classes=3)


def test_what_cannot_be_transferred_says_why(tmp_path):
    with pytest.raises(UsageError, match="needs labels"):
        transfer(subject_of(conv_net(), tmp_path, samples=images(8, classes=None)))
    subject = subject_of(conv_net(), tmp_path, samples=images(8))
    with pytest.raises(UsageError, match="replaces one layer, and 0"):
        Transfer().apply(subject, [], TransferSettings())
    with pytest.raises(UsageError, match="a label 2, and classes is 2"):
        transfer(subject, classes=2)
    with pytest.raises(UsageError, match="classes is 1"):
        TransferSettings(classes=1)
    wrong = relabelled(subject, np.full(8, -3))
    with pytest.raises(UsageError, match="classes from 0 on"):
        transfer(wrong)
    added = conv_net()
    add = ir.node("Add", [added.graph.outputs[0], added.graph.outputs[0]], name="twice")
    assert Transfer().legal(subject, TransferSettings()) == {"fc": None}
    added.graph.append(add)
    added.graph.outputs[0] = add.outputs[0]
    assert Transfer().legal(subject_of(added, tmp_path), TransferSettings())["fc"].code == "branches"


def test_a_training_that_breaks_puts_the_old_head_back(tmp_path):
    subject = subject_of(conv_net(), tmp_path, samples=images(40, classes=5))
    inputs, _ = next(subject.samples.in_order())
    before = run_ort(subject.model, inputs)[0]
    with pytest.raises(ModelError, match="the loss is"):
        transfer(subject, backbone="trained", learning_rate=1e20, momentum=0.0)
    np.testing.assert_allclose(run_ort(subject.model, inputs)[0], before, rtol=1e-6)
