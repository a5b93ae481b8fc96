from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from compress_graphs import graph, small_cnn
from compress_subjects import random_samples, run_ort, subject_of
from onnx import TensorProto, helper

torch = pytest.importorskip("torch", reason="the torch view gives the activations")

from hwbench.compress.methods.repair import Repair  # noqa: E402
from hwbench.compress.repair.judge import Judge, copy_of  # noqa: E402
from hwbench.compress.repair.norm import Norm  # noqa: E402
from hwbench.compress.repair.run import ORDER, RepairSettings, repair, touched  # noqa: E402
from hwbench.errors import ModelError, UsageError  # noqa: E402
from hwbench.graph.linear import set_constant  # noqa: E402
from hwbench.graph.onnx_file import infer_shapes  # noqa: E402


def subject_with(tmp_path, *, norm=True, count=64, batch=8):
    model = small_cnn(norm=norm, batch=batch, channels=8)
    return subject_of(model, tmp_path, samples=random_samples(model, count))


def cut(subject, left):
    """Take output channels of conv1 away, as a method that cuts does."""
    layers, indices = subject.layers(), np.array(left)
    set_constant(layers["conv1"].node, 1, layers["conv1"].weight[left])
    set_constant(layers["conv2"].node, 1, layers["conv2"].weight[:, left])
    subject.keep("w1", 0, indices)
    subject.keep("w2", 1, indices)
    for tensor in ("a1", "n1", "r1"):
        subject.keep(tensor, 1, indices)
    for node in subject.model.graph:
        if node.name == "bn1":
            for which in range(1, 5):
                Norm(node).set(which, Norm(node).get(which)[left])
        for value in node.outputs:
            value.shape = None
    subject.model = infer_shapes(subject.model)


def error_on_new_samples(subject):
    return Judge(subject, random_samples(subject.model, 64, seed=9)).error()


def constants(model):
    return {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}


@pytest.mark.parametrize("norm", [True, False])
def test_repairs_bring_a_cut_network_nearer_to_the_original(norm, tmp_path):
    subject = subject_with(tmp_path, norm=norm)
    cut(subject, [0, 2, 3, 5, 6])
    before = error_on_new_samples(subject)
    outcome = repair(subject)
    assert error_on_new_samples(subject) < before / 2
    assert outcome.figures["output_error_before"] > 0
    assert "conv2" in {change.layer for change in outcome.changes}
    assert all(change.kind == "repaired" for change in outcome.changes)
    run_ort(subject.model, {"x": subject.samples.inputs["x"][:8]})


@pytest.mark.parametrize("which", ORDER)
@pytest.mark.parametrize("norm", [True, False])
def test_each_repair_alone_never_hurts_on_held_out_samples(which, norm, tmp_path):
    subject = subject_with(tmp_path, norm=norm)
    cut(subject, [0, 2, 3, 5, 6])
    outcome = repair(subject, [which])
    errors = list(outcome.figures.values())
    assert errors == sorted(errors, reverse=True)
    held = subject.samples.split(0.2, subject.seed)[1]
    assert Judge(subject, held).error() == pytest.approx(errors[-1])


@pytest.mark.parametrize("norm", [True, False])
def test_an_undamaged_network_stays_as_it_is(norm, tmp_path):
    subject = subject_with(tmp_path, norm=norm)
    x = subject.samples.inputs["x"][:8]
    before = run_ort(subject.model, {"x": x})[0]
    assert not repair(subject).changes
    np.testing.assert_allclose(run_ort(subject.model, {"x": x})[0], before, atol=1e-5)


def test_what_does_not_help_is_taken_back_and_told(tmp_path):
    subject = subject_with(tmp_path)
    cut(subject, [0, 2, 3, 5, 6])
    before = constants(subject.model)
    outcome = repair(subject, ["affine"], settings=RepairSettings(learning_rate=10.0, epochs=1))
    assert not outcome.changes
    assert outcome.notes[0].startswith("affine: taken back")
    for name, array in constants(subject.model).items():
        np.testing.assert_array_equal(array, before[name])


def test_only_the_layers_that_are_named_change(tmp_path):
    subject = subject_with(tmp_path, norm=False)
    cut(subject, [0, 2, 3, 5, 6])
    before = constants(copy_of(subject.model))
    repair(subject, layers=["conv2"])
    changed = {name for name, array in constants(subject.model).items() if not np.array_equal(array, before.get(name))}
    assert "w2" in changed
    assert all(name == "w2" or "conv2" in name for name in changed)


def test_zeros_that_are_held_stay(tmp_path):
    subject = subject_with(tmp_path)
    layer = subject.layers()["conv2"]
    zeros = np.random.default_rng(0).random(layer.weight.shape) < 0.7
    set_constant(layer.node, 1, np.where(zeros, 0, layer.weight))
    subject.held_zeros.add("w2")
    before = error_on_new_samples(subject)
    repair(subject)
    assert error_on_new_samples(subject) < before
    assert not subject.layers()["conv2"].weight[zeros].any()


@pytest.mark.parametrize("which", ["least-squares", "statistics", "bias", "affine"])
def test_zeros_of_biases_that_are_held_stay(which, tmp_path):
    subject = subject_with(tmp_path, norm=False)
    cut(subject, [0, 2, 3, 5, 6])
    layers = subject.layers()
    layers["conv2"].set_bias(np.zeros(8), name="b2")
    layers["fc"].set_bias(layers["fc"].bias() * [1, 0, 1, 0, 1])
    subject.held_zeros |= {"b2", "b3"}
    outcome = repair(subject, [which])
    assert outcome.changes
    assert not subject.layers()["conv2"].bias().any()
    assert np.array_equal(subject.layers()["fc"].bias() == 0, [False, True, False, True, False])


def test_vectors_in_half_precision_are_left_alone(tmp_path):
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(4, 6)).astype(np.float16), "b": np.ones(4, np.float16)}
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], name="cast", to=TensorProto.FLOAT16),
        helper.make_node("Gemm", ["h", "w", "b"], ["y"], name="fc", transB=1),
    ]
    model = graph(nodes, weights, (8, 6), "y")
    subject = subject_of(model, tmp_path, samples=random_samples(model, 64))
    set_constant(subject.layers()["fc"].node, 1, 0.5 * subject.layers()["fc"].weight)
    (left,) = repair(subject, ["affine"]).left_alone
    assert (left.layer, left.reason.code) == ("fc", "half_precision")
    assert repair(subject).changes


def test_a_network_whose_outputs_cannot_be_judged_is_left_as_it_is(tmp_path):
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["s"], name="fc"),
        helper.make_node("ArgMax", ["s"], ["y"], name="best", axis=1),
    ]
    model = graph(nodes, {"w": np.eye(6, 4, dtype=np.float32)}, (8, 6), "y")
    subject = subject_of(model, tmp_path, samples=random_samples(model, 64))
    outcome = repair(subject)
    assert not outcome.changes
    assert "no output of the network is in floating point" in outcome.notes[0]


def test_a_short_part_that_judges_counts_no_sample_twice(tmp_path):
    subject = subject_with(tmp_path)
    cut(subject, [0, 2, 3, 5, 6])
    few = random_samples(subject.model, 8).first(5)
    filled = next(few.in_order())[0]
    found, wanted = run_ort(subject.model, filled)[0][:5], run_ort(subject.original, filled)[0][:5]
    expected = ((found - wanted) ** 2).mean() / wanted.var(axis=0).mean()
    assert Judge(subject, few).error() == pytest.approx(expected, rel=1e-4)


def test_one_batch_is_judged_on_what_it_was_learned_from_and_says_so(tmp_path):
    subject = subject_with(tmp_path, count=8)
    cut(subject, [0, 2, 3, 5, 6])
    outcome = repair(subject, ["least-squares"])
    assert "but one batch" in outcome.notes[0]
    assert outcome.changes
    assert not any("held-out" in note for note in outcome.notes)


def test_a_factorised_layer_is_refined_at_its_last_factor(tmp_path):
    subject = subject_with(tmp_path, norm=False)
    node = subject.layers()["conv2"].node
    weight = subject.layers()["conv2"].weight
    up, values, down = np.linalg.svd(weight.reshape(8, -1), full_matrices=False)
    graph = subject.model.graph
    for name, array in (("d", (values[:3, None] * down[:3]).reshape(3, 8, 3, 3)), ("u", up[:, :3, None, None])):
        graph.initializers[name] = ir.Value(name=name, const_value=ir.tensor(array.astype(np.float32), name=name))
    first = ir.Node("", "Conv", [node.inputs[0], graph.initializers["d"]], name="conv2.down")
    first.attributes["pads"] = ir.AttrInt64s("pads", [1, 1, 1, 1])
    first.outputs[0].name = "mid"
    graph.insert_before(node, first)
    node.name = "conv2.up"
    node.replace_input_with(0, first.outputs[0])
    node.replace_input_with(1, graph.initializers["u"])
    node.attributes["pads"] = ir.AttrInt64s("pads", [0, 0, 0, 0])
    subject.model = infer_shapes(subject.model)
    before = error_on_new_samples(subject)
    outcome = repair(subject, ["least-squares"])
    assert error_on_new_samples(subject) < before
    assert "conv2.up" in {change.layer for change in outcome.changes}


def test_touched_layers_are_those_whose_inputs_or_weights_changed(tmp_path):
    subject = subject_with(tmp_path)
    cut(subject, [0, 2, 3])
    assert [name for name, layer in subject.layers().items() if touched(subject, layer)] == ["conv2"]


def test_refusals(tmp_path):
    subject = subject_with(tmp_path)
    with pytest.raises(UsageError, match="no repair 'magic'"):
        repair(subject, ["magic"])
    subject.samples = None
    with pytest.raises(UsageError, match="needs samples"):
        repair(subject)
    for wrong in ({"damping": 0.0}, {"rounds": -1}, {"held_out": 1.0}, {"epochs": 0}, {"which": ()}, {"rows": 0.0}):
        with pytest.raises(UsageError, match="repair: "):
            RepairSettings(**wrong)


def test_nan_on_the_samples_is_an_error(tmp_path):
    subject = subject_with(tmp_path)
    cut(subject, [0, 2, 3, 5, 6])
    subject.samples.inputs["x"][:, 0, 0, 0] = np.nan
    with pytest.raises(ModelError, match="NaN"):
        repair(subject, ["least-squares"])


def test_the_method_lists_layers_and_what_holds_vectors(tmp_path):
    subject = subject_with(tmp_path)
    cut(subject, [0, 2, 3, 5, 6])
    method, how = Repair(), RepairSettings(which=("least-squares",))
    legal = method.legal(subject, how)
    assert list(legal) == ["conv1", "bn1", "conv2", "bn2", "fc"]
    assert not any(legal.values())
    outcome = method.apply(subject, ["conv2"], how)
    assert [change.layer for change in outcome.changes] == ["conv2"]
