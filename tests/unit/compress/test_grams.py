from __future__ import annotations

import numpy as np
import pytest
from compress_graphs import graph, one_layer, small_cnn
from compress_subjects import random_samples, subject_of
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from hwbench.compress.statistics.grams import input_grams, no_gram
from hwbench.errors import ModelError, UsageError

torch = pytest.importorskip("torch", reason="the torch view gives the activations")


def unfolded(x, kernel, strides, dilations, pads, groups):
    """Every patch of every image, one by one: groups x rows x (channels of a group * kernel)."""
    axes = len(kernel)
    x = np.pad(x.astype(np.float64), [(0, 0), (0, 0), *zip(pads[:axes], pads[axes:], strict=True)])
    sizes = [(n - (k - 1) * d - 1) // s + 1 for n, k, s, d in zip(x.shape[2:], kernel, strides, dilations, strict=True)]
    rows = []
    for image in x:
        for at in np.ndindex(*sizes):
            cut = [
                slice(p * s, p * s + (k - 1) * d + 1, d)
                for p, s, k, d in zip(at, strides, kernel, dilations, strict=True)
            ]
            rows.append(image[(slice(None), *cut)].reshape(groups, -1))
    return np.stack(rows, axis=1)


def gram_of(model, tmp_path, count=4, **how):
    subject = subject_of(model, tmp_path, samples=random_samples(model, count))
    return input_grams(subject, ["layer"], **how)["layer"], subject.samples.inputs["x"]


@st.composite
def convolutions(draw):
    axes = draw(st.integers(1, 2))
    groups = draw(st.sampled_from([1, 2, 3]))
    each = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(axes))  # noqa: E731
    kernel, dilations = each(1, 3), each(1, 2)
    pads = tuple(draw(st.integers(0, 2)) for _ in range(2 * axes))
    size = tuple((k - 1) * d + 1 + draw(st.integers(0, 4)) for k, d in zip(kernel, dilations, strict=True))
    return groups, draw(st.integers(1, 2)), kernel, each(1, 3), dilations, pads, size


@settings(max_examples=40, deadline=None)
@given(case=convolutions())
def test_a_convolutions_gram_is_that_of_its_patches(case, tmp_path_factory):
    groups, each, kernel, strides, dilations, pads, size = case
    weight = np.ones((2 * groups, each, *kernel))
    model = one_layer(
        "Conv", weight, (2, groups * each, *size), group=groups, strides=strides, dilations=dilations, pads=pads
    )
    found, x = gram_of(model, tmp_path_factory.mktemp("g"), per_input=None)
    rows = unfolded(x, kernel, strides, dilations, pads, groups)
    assert found.rows == found.of == rows.shape[1]
    np.testing.assert_allclose(found.matrix, rows.swapaxes(1, 2) @ rows / rows.shape[1], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.mean, rows.mean(axis=1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_padding_by_a_rule(mode, tmp_path):
    model = one_layer("Conv", np.ones((2, 2, 3, 2)), (2, 2, 6, 7), auto_pad=mode, strides=[2, 2])
    found, x = gram_of(model, tmp_path, per_input=None)
    pads = {"SAME_UPPER": [0, 0, 1, 1], "SAME_LOWER": [1, 1, 0, 0], "VALID": [0] * 4}[mode]
    rows = unfolded(x, (3, 2), (2, 2), (1, 1), pads, 1)[0]
    np.testing.assert_allclose(found.matrix[0], rows.T @ rows / len(rows), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("pads", [[0, 0, 0, 0], [1, 0, 0, 1]])
@pytest.mark.parametrize("dilation", [1, 2])
def test_a_transposed_convolutions_rows_are_what_each_single_weight_puts_out(groups, stride, pads, dilation, tmp_path):
    rng = np.random.default_rng(1)
    extra = [1, 0] if stride > 1 else [0, 0]
    how = {"strides": [stride] * 2, "pads": pads, "dilations": [dilation] * 2, "output_padding": extra, "group": groups}
    model = one_layer("ConvTranspose", rng.normal(size=(2 * groups, 3, 2, 3)), (2, 2 * groups, 4, 3), **how)
    found, x = gram_of(model, tmp_path, count=2, per_input=None)
    for group in range(groups):
        part, rows = torch.from_numpy(x[:, 2 * group : 2 * group + 2]).double(), []
        for at in np.ndindex(2, 2, 3):
            weight = torch.zeros(2, 1, 2, 3, dtype=torch.float64)
            weight[at[0], 0, at[1], at[2]] = 1
            y = torch.nn.functional.conv_transpose2d(part, weight, stride=stride, dilation=dilation)
            y = torch.nn.functional.pad(y, (0, extra[1], 0, extra[0]))
            rows.append(y[:, 0, pads[0] : y.shape[2] - pads[2], pads[1] : y.shape[3] - pads[3]].reshape(-1).numpy())
        rows = np.stack(rows, axis=1)
        np.testing.assert_allclose(found.matrix[group], rows.T @ rows / len(rows), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("op", "shape", "how"), [("Gemm", (4, 7), {"transB": 1}), ("MatMul", (4, 3, 7), {})])
def test_matrix_products(op, shape, how, tmp_path):
    weight = np.ones((5, 7) if op == "Gemm" else (7, 5))
    found, x = gram_of(one_layer(op, weight, shape, **how), tmp_path, count=12, per_input=None)
    rows = x.reshape(-1, 7).astype(np.float64)
    np.testing.assert_allclose(found.matrix[0], rows.T @ rows / len(rows), rtol=1e-5, atol=1e-6)


def test_long_rows_are_added_up_in_one_triangle_and_come_out_whole(tmp_path):
    found, x = gram_of(one_layer("Gemm", np.ones((1300, 2)), (50, 1300)), tmp_path, count=700, per_input=None)
    assert found.matrix.dtype == np.float32
    rows = x.astype(np.float64)
    np.testing.assert_allclose(found.matrix[0], rows.T @ rows / len(rows), atol=2e-6)
    np.testing.assert_array_equal(found.matrix, found.matrix.swapaxes(1, 2))


def test_the_sampled_matrix_comes_nearer_the_full_one_with_more_rows(tmp_path):
    model = one_layer("Conv", np.ones((2, 3, 3, 3)), (4, 3, 24, 24), pads=[1] * 4)
    full, _ = gram_of(model, tmp_path, count=16, per_input=None)

    def error(per_input, seed):
        some, _ = gram_of(model, tmp_path, count=16, per_input=per_input, least=1, seed=seed)
        assert some.rows == per_input * 27
        assert some.of == full.of == full.rows == 16 * 24 * 24
        return np.square(some.matrix - full.matrix).sum()

    means = [np.mean([error(per_input, seed) for seed in range(4)]) for per_input in (2, 8, 32, 128)]
    for more, fewer in zip(means[1:], means, strict=False):
        assert 2 < fewer / more < 9  # four times the rows: a quarter of the squared error, and less without replacement


def test_a_seed_draws_the_same_rows(tmp_path):
    model = one_layer("Conv", np.ones((2, 3, 3, 3)), (4, 3, 24, 24))
    first, again, other = (gram_of(model, tmp_path, per_input=1, least=1, seed=seed)[0] for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.matrix, again.matrix)
    assert not np.array_equal(first.matrix, other.matrix)


def test_layers_that_read_the_same_rows_share_their_matrix(tmp_path):
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "wq"], ["q"], name="q"),
        helper.make_node("MatMul", ["x", "wk"], ["k"], name="k"),
        helper.make_node("Add", ["q", "k"], ["y"], name="add"),
    ]
    weights = {name: rng.normal(size=(6, 4)).astype(np.float32) for name in ("wq", "wk")}
    model = graph(nodes, weights, (2, 3, 6), "y")
    subject = subject_of(model, tmp_path, samples=random_samples(model, 4))
    found = input_grams(subject, ["q", "k"])
    assert found["q"] is found["k"]


def test_only_what_leads_to_the_layers_is_computed(tmp_path, monkeypatch):
    model = small_cnn()
    subject = subject_of(model, tmp_path, samples=random_samples(model, 8))
    seen = []
    view = subject.view()
    view.fc.register_forward_hook(lambda *_: seen.append("fc"))
    view.conv2.register_forward_hook(lambda *_: seen.append("conv2"))
    monkeypatch.setattr(subject, "view", lambda: view)
    input_grams(subject, ["conv1", "conv2"])
    assert seen == ["conv2", "conv2"]


def test_refusals(tmp_path):
    model = one_layer("Gemm", np.ones((20000, 1)), (2, 20000))
    subject = subject_of(model, tmp_path, samples=random_samples(model, 2))
    assert no_gram(subject.layers()["layer"]).code == "too_large"
    with pytest.raises(UsageError, match="too large"):
        input_grams(subject, ["layer"])
    with pytest.raises(UsageError, match="'nothing' is no layer"):
        input_grams(subject, ["nothing"])
    with pytest.raises(UsageError, match="needs samples"):
        input_grams(subject_of(model, tmp_path), ["layer"])
    same = one_layer("ConvTranspose", np.ones((2, 2, 3, 3)), (2, 2, 4, 4), auto_pad="SAME_UPPER")
    assert no_gram(subject_of(same, tmp_path).layers()["layer"]).code == "padding"


def test_nan_in_the_data_is_an_error_that_names_the_layer(tmp_path):
    model = one_layer("Gemm", np.ones((3, 2)), (2, 3))
    samples = random_samples(model, 4)
    samples.inputs["x"][1, 1] = np.nan
    with pytest.raises(ModelError, match="'layer' hold NaN"):
        input_grams(subject_of(model, tmp_path, samples=samples), ["layer"])
