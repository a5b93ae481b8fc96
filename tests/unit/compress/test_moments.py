from __future__ import annotations

import numpy as np
import pytest
from compress_graphs import graph, one_layer, small_cnn
from compress_subjects import random_samples, run_ort, subject_of
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from hwbench.compress.statistics.behind import behind
from hwbench.compress.statistics.moments import input_moments, output_moments
from hwbench.errors import ModelError, UsageError
from hwbench.graph.linear import set_constant

pytest.importorskip("torch", reason="the view is observed")


def met_by_each_weight(subject, x):
    """What each weight of the first output of a group meets, over all rows: from ONNX Runtime, one weight at a time."""
    layer = subject.layers()["layer"]
    shape = layer.blocks().shape
    found = {}
    for place in np.ndindex(shape[0], shape[2], shape[3]):
        blocks = np.zeros(shape)
        blocks[place[0], 0, place[1], place[2]] = 1
        layer.set_blocks(blocks)
        y = run_ort(subject.model, {"x": x})[0].astype(np.float64)
        channel = place[0] * shape[1]
        found[place] = (y[:, channel] if layer.spatial else y[..., channel]).ravel()
    layer.set_blocks(np.ones(shape))
    return found


@st.composite
def layers(draw):
    op = draw(st.sampled_from(["Conv", "ConvTranspose", "MatMul", "Gemm"]))
    outputs, inputs = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    if op in {"MatMul", "Gemm"}:
        turned = op == "Gemm" and draw(st.booleans())
        shape = (outputs, inputs) if turned else (inputs, outputs)
        return op, shape, (3, inputs) if op == "Gemm" else (3, 2, inputs), {"transB": 1} if turned else {}
    groups, kernel = draw(st.integers(1, 2)), tuple(draw(st.integers(1, 3)) for _ in range(2))
    how = {
        "group": groups,
        "strides": [draw(st.integers(1, 2)) for _ in range(2)],
        "dilations": [draw(st.integers(1, 2)) for _ in range(2)],
        "pads": [draw(st.integers(0, 1)) for _ in range(4)],
    }
    weight = (groups * outputs, inputs) if op == "Conv" else (groups * inputs, outputs)
    return op, (*weight, *kernel), (3, groups * inputs, 7, 6), how


@settings(max_examples=15, deadline=None)
@given(case=layers())
def test_inputs_are_what_each_weight_is_multiplied_with(case, tmp_path_factory):
    op, shape, x, how = case
    model = one_layer(op, np.ones(shape), x, **how)
    subject = subject_of(model, tmp_path_factory.mktemp("m"), samples=random_samples(model, x[0]))
    expected = met_by_each_weight(subject, subject.samples.inputs["x"])
    found = input_moments(subject, subject.layers())["layer"]
    for place, values in expected.items():
        assert found.rows == len(values)
        assert found.mean[place] == pytest.approx(values.mean(), abs=1e-5)
        assert found.mean_abs[place] == pytest.approx(np.abs(values).mean(), abs=1e-5)
        assert found.mean_square[place] == pytest.approx(np.square(values).mean(), rel=1e-5, abs=1e-5)


def test_outputs_are_seen_behind_norm_and_activation_over_all_batches(tmp_path):
    model = small_cnn(batch=4)
    subject = subject_of(model, tmp_path, samples=random_samples(model, 12))
    found = output_moments(subject, subject.layers())
    seen = model.clone()
    graph_ = seen.graph
    values = {value.name: value for node in graph_ for value in node.outputs}
    graph_.outputs.extend([values["r1"]])
    x = subject.samples.inputs["x"]
    parts = [run_ort(seen, {"x": x[start : start + 4]}) for start in (0, 4, 8)]
    relu, last = (np.concatenate([part[index] for part in parts]).astype(np.float64) for index in (1, 0))
    first = found["conv1"]
    np.testing.assert_allclose(first.mean, relu.mean(axis=(0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(first.mean_abs, relu.mean(axis=(0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(first.mean_square, np.square(relu).mean(axis=(0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(first.zeros, (relu == 0).mean(axis=(0, 2, 3)), atol=2e-3)  # rounding near zero
    np.testing.assert_allclose(first.sample_means, relu.mean(axis=(2, 3)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["fc"].mean_abs, np.abs(last).mean(axis=0), rtol=1e-5)


def chain(*ops):
    """MatMul and what is behind it, each op reading the one before; a string with '&' is x * op(x)."""
    nodes, last = [helper.make_node("MatMul", ["x", "w"], ["m"], name="layer")], "m"
    weights = {"w": np.eye(3, dtype=np.float32), "low": np.zeros((), np.float32), "b": np.ones(3, np.float32)}
    for index, op in enumerate(ops):
        name = f"t{index}"
        if op.startswith("&"):
            nodes.append(helper.make_node(op[1:], [last], [f"g{index}"], name=f"g{index}"))
            nodes.append(helper.make_node("Mul", [last, f"g{index}"], [name], name=name))
        else:
            more = {"Clip": ["low"], "Add": ["b"]}.get(op, ["x"] if op == "Residual" else [])
            nodes.append(helper.make_node("Add" if op == "Residual" else op, [last, *more], [name], name=name))
        last = name
    return graph(nodes, weights, (2, 3), last)


@pytest.mark.parametrize(
    ("ops", "normed", "activated", "zeroing"),
    [
        (("Relu",), "m", "t0", True),
        (("Add", "Relu"), "t0", "t1", True),  # its bias
        (("Clip",), "m", "t0", True),
        (("Tanh",), "m", "t0", False),
        (("&Sigmoid",), "m", "t0", False),
        (("&HardSigmoid",), "m", "t0", True),
        (("Residual", "Relu"), "m", "m", False),
        ((), "m", "m", False),
    ],
)
def test_what_is_behind_a_layer(ops, normed, activated, zeroing, tmp_path):
    subject = subject_of(chain(*ops), tmp_path)
    found = behind(subject.layers()["layer"])
    assert (found.normed.name, found.activated.name, found.zeroing) == (normed, activated, zeroing)
    assert found.norm is None


def test_nan_and_missing_data_are_told(tmp_path):
    model = small_cnn()
    with pytest.raises(UsageError, match="needs samples"):
        input_moments(subject_of(model, tmp_path), subject_of(model, tmp_path).layers())
    subject = subject_of(model, tmp_path, samples=random_samples(model, 4))
    bias = np.full(6, np.nan)
    set_constant(next(node for node in model.graph if node.name == "bn1"), 2, bias)
    with pytest.raises(ModelError, match="NaN"):
        output_moments(subject, subject.layers())
    with pytest.raises(ModelError, match="conv2"):
        input_moments(subject, subject.layers())
