from __future__ import annotations

import numpy as np
import pytest
from compress_graphs import small_cnn
from compress_subjects import random_samples, run_ort, subject_of

torch = pytest.importorskip("torch", reason="the torch view gives the activations")

from hwbench.compress.repair.batch_norm import reestimate  # noqa: E402
from hwbench.compress.repair.moments import correct_moments  # noqa: E402
from hwbench.compress.repair.norm import MEAN, VARIANCE, norm_of  # noqa: E402
from hwbench.data.samples import Samples  # noqa: E402
from hwbench.graph.linear import set_constant  # noqa: E402


def damaged(tmp_path, *, batch=4, count=8, norm=True, noise=0.05):
    model = small_cnn(batch=batch, norm=norm)
    subject = subject_of(model, tmp_path, samples=random_samples(model, count))
    rng = np.random.default_rng(3)
    for layer in subject.layers().values():
        set_constant(layer.node, 1, layer.weight + noise * rng.normal(size=layer.weight.shape) + 0.02)
    return subject


def tensors(model, names, samples):
    """What ONNX Runtime finds for some tensors over all samples, from a copy that also puts these out."""
    import onnx_ir as ir
    from onnx import helper

    proto = ir.to_proto(model)
    proto.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    copy = ir.from_proto(proto)
    runs = [run_ort(copy, inputs)[1:] for inputs, _ in samples.in_order()]
    return {name: np.concatenate(parts) for name, parts in zip(names, zip(*runs, strict=True), strict=True)}


def test_statistics_are_those_that_torchs_own_batch_norm_gathers_without_momentum(tmp_path):
    subject = damaged(tmp_path, batch=4, count=12)
    convs = [torch.from_numpy(subject.layers()[name].weight).float() for name in ("conv1", "conv2")]
    given = [norm_of(node) for node in subject.model.graph if node.op_type == "BatchNormalization"]
    theirs = []
    for norm in given:
        one = torch.nn.BatchNorm2d(6, momentum=None)
        one.weight.data, one.bias.data = (torch.from_numpy(norm.get(which)).float() for which in (1, 2))
        theirs.append(one.train())
    for start in range(0, 12, 4):
        x = torch.from_numpy(subject.samples.inputs["x"][start : start + 4])
        for weight, one in zip(convs, theirs, strict=True):
            x = torch.relu(one(torch.nn.functional.conv2d(x, weight, padding=1)))
    found = reestimate(subject)
    assert found.changed == ("bn1", "bn2")
    for norm, one in zip(given, theirs, strict=True):
        np.testing.assert_allclose(norm.get(MEAN), one.running_mean.numpy(), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(norm.get(VARIANCE), one.running_var.numpy(), rtol=1e-4)


def test_only_the_norms_that_are_named(tmp_path):
    subject = damaged(tmp_path)
    assert reestimate(subject, ["bn2", "conv1"]).changed == ("bn2",)


def test_too_small_a_batch_is_left_alone(tmp_path):
    from compress_graphs import graph, norms
    from onnx import helper

    parts = norms(np.random.default_rng(0), "bn", 3)
    model = graph([helper.make_node("BatchNormalization", ["x", *parts], ["y"], name="bn")], parts, (2, 3, 2, 2), "y")
    subject = subject_of(model, tmp_path, samples=random_samples(model, 8))
    found = reestimate(subject)
    assert not found.changed
    assert found.left_alone[0].reason.code == "small_batch"


@pytest.mark.parametrize("deviations", [False, True])
def test_moments_are_the_originals_after_one_batch(deviations, tmp_path):
    subject = damaged(tmp_path, norm=False, batch=8, count=8)
    found = correct_moments(subject, deviations=deviations)
    assert list(found.changed) == ["conv1", "conv2", "fc"]
    names = {"a1": (0, 2, 3), "a2": (0, 2, 3), "y": 0}
    now, wanted = (tensors(each, list(names)[:2], subject.samples) for each in (subject.model, subject.original))
    for tensor in now:
        axes = names[tensor]
        np.testing.assert_allclose(now[tensor].mean(axis=axes), wanted[tensor].mean(axis=axes), atol=1e-5)
        if deviations:
            np.testing.assert_allclose(now[tensor].std(axis=axes), wanted[tensor].std(axis=axes), rtol=1e-4)


def test_with_several_batches_as_many_passes_as_layers_make_means_exact(tmp_path):
    subject = damaged(tmp_path, norm=False, batch=4, count=16, noise=0.2)

    def off():
        now, wanted = (tensors(each, ["a1", "a2"], subject.samples) for each in (subject.model, subject.original))
        return {name: np.abs(now[name].mean((0, 2, 3)) - wanted[name].mean((0, 2, 3))).max() for name in now}

    before = off()
    correct_moments(subject)
    once = off()
    assert once["a1"] < 1e-5
    assert once["a2"] < before["a2"] / 4
    correct_moments(subject, passes=2)
    assert off()["a2"] < 1e-5


def test_a_bias_is_made_where_there_is_none(tmp_path):
    subject = damaged(tmp_path, norm=False)
    assert subject.layers()["conv1"].bias() is None
    correct_moments(subject, ["conv1"])
    assert np.abs(subject.layers()["conv1"].bias()).max() > 0
    assert subject.layers()["conv2"].bias() is None


def test_a_norm_behind_a_layer_is_no_place_for_a_bias(tmp_path):
    found = correct_moments(damaged(tmp_path))
    assert list(found.changed) == ["fc"]
    assert {each.reason.code for each in found.left_alone} == {"normalised"}


def test_a_channel_that_is_dead_gets_the_mean_and_no_infinite_factor(tmp_path):
    subject = damaged(tmp_path, norm=False, batch=8, count=8)
    weight = subject.layers()["conv1"].weight
    weight[2] = 0
    set_constant(subject.layers()["conv1"].node, 1, weight)
    correct_moments(subject, deviations=True)
    assert not subject.layers()["conv1"].weight[2].any()
    wanted = tensors(subject.original, ["a1"], subject.samples)["a1"].mean((0, 2, 3))
    assert subject.layers()["conv1"].bias()[2] == pytest.approx(wanted[2], abs=1e-5)


def test_nothing_changes_in_an_undamaged_network(tmp_path):
    model = small_cnn(norm=False)
    subject = subject_of(model, tmp_path, samples=random_samples(model, 8))
    correct_moments(subject, deviations=True)
    x = subject.samples.inputs["x"][:4]
    np.testing.assert_allclose(run_ort(subject.model, {"x": x})[0], run_ort(model, {"x": x})[0], atol=1e-5)


def test_nan_is_an_error(tmp_path):
    from hwbench.errors import ModelError

    subject = damaged(tmp_path, norm=False)
    x = subject.samples.inputs["x"].copy()
    x[0, 0, 0, 0] = np.nan
    subject.samples = Samples(inputs={"x": x}, labels=None, batch=4)
    with pytest.raises(ModelError, match="'conv1'"):
        correct_moments(subject)
