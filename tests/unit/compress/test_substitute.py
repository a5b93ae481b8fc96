"""Substitute: factors against closed forms, losses against a second computation, candidates of least loss."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from compress_subjects import random_samples, run_ort, subject_of
from hypothesis import given, settings
from hypothesis import strategies as st
from text_graphs import operators, text_graph

from hwbench.compress.methods.substitute import Substitute, SubstituteSettings
from hwbench.compress.substitutes.separable import factors, fitted
from hwbench.data.samples import Samples
from hwbench.errors import UsageError
from hwbench.graph.linear import linear_layers
from hwbench.graph.onnx_file import infer_shapes


def convolution(inputs, outputs, kernel, *, groups=1, stride=1, dilation=1, pad=0, bias=False, size=9, rng=None):
    rng = rng or np.random.default_rng(0)
    weight = rng.normal(size=(outputs, inputs // groups, *kernel)).astype(np.float32)
    constants = {"w": weight} | ({"b": rng.normal(size=outputs).astype(np.float32)} if bias else {})
    attributes = (
        f"group = {groups}, strides = [{stride}, {stride}], dilations = [{dilation}, {dilation}], "
        f"pads = [{pad}, {pad}, {pad}, {pad}]"
    )
    body = f"c = Conv <{attributes}> (x, w{', b' if bias else ''}) y = Relu(c)"
    return text_graph(body, constants, x=(2, inputs, size, size)), weight


def substituted(model: ir.Model, folder, samples=None, **given_settings):
    subject = subject_of(model, folder, samples=samples)
    chosen = SubstituteSettings(**given_settings)
    legal = Substitute().legal(subject, chosen)
    outcome = Substitute().apply(subject, [name for name, reason in legal.items() if reason is None], chosen)
    subject.model = infer_shapes(subject.model)
    onnx.checker.check_model(ir.to_proto(subject.model), full_check=True)
    return subject, outcome


@settings(max_examples=20, deadline=None)
@given(
    per_group=st.integers(2, 3), outputs=st.integers(4, 6), groups=st.integers(1, 2), stride=st.integers(1, 2),
    dilation=st.integers(1, 2), pad=st.integers(0, 2), bias=st.booleans(),
    kernel=st.sampled_from([(3, 3), (1, 3), (2, 3)]),
)  # fmt: skip
def test_at_full_rank_a_separable_convolution_is_the_same(
    tmp_path_factory, per_group, outputs, groups, stride, dilation, pad, bias, kernel
):
    model, weight = convolution(
        per_group * groups,
        outputs * groups,
        kernel,
        groups=groups,
        stride=stride,
        dilation=dilation,
        pad=pad,
        bias=bias,
    )
    layer = next(iter(linear_layers(model)))
    rank = min(outputs, kernel[0] * kernel[1])
    kernels, columns = factors(layer, rank)
    np.testing.assert_allclose(
        np.einsum("gimk,goim->goik", kernels, columns), layer.blocks(), rtol=1e-6, atol=1e-6 * np.abs(weight).max()
    )
    from hwbench.compress.substitutes.separable import exchange

    x = {"x": np.random.default_rng(1).normal(size=(2, per_group * groups, 9, 9)).astype(np.float32)}
    wanted = run_ort(model, x)[0]
    exchange(layer, kernels, columns, None)
    onnx.checker.check_model(ir.to_proto(infer_shapes(model)), full_check=True)
    np.testing.assert_allclose(run_ort(model, x)[0], wanted, rtol=1e-4, atol=1e-4)
    assert [node.name for node in model.graph] == ["n0.depthwise", "n0.pointwise", "n1"]


def test_factors_are_the_best_of_their_rank():
    model, weight = convolution(4, 8, (3, 3))
    layer = next(iter(linear_layers(model)))
    for rank in (1, 2):
        kernels, columns = factors(layer, rank)
        error = ((np.einsum("gimk,goim->goik", kernels, columns) - layer.blocks()) ** 2).sum()
        tail = sum((np.linalg.svd(weight[:, c].reshape(8, 9), compute_uv=False)[rank:] ** 2).sum() for c in range(4))
        np.testing.assert_allclose(error, tail, rtol=1e-6)


def test_columns_fitted_to_data_are_those_of_a_regression():
    rng = np.random.default_rng(0)
    model, weight = convolution(3, 5, (2, 2))
    layer = next(iter(linear_layers(model)))
    rows = rng.normal(size=(4000, 12)) @ rng.normal(size=(12, 12)) + rng.normal(size=12)
    gram, mean = (rows.T @ rows / len(rows))[None], rows.mean(0)[None]
    kernels, plain = factors(layer, 1)
    columns, shift = fitted(layer, kernels, gram, mean)
    through = np.stack([rows[:, 4 * c : 4 * c + 4] @ kernels[0, c, 0] for c in range(3)], 1)
    target = rows @ weight.reshape(5, 12).T.astype(np.float64)
    solution, *_ = np.linalg.lstsq(np.c_[through, np.ones(len(rows))], target, rcond=None)
    np.testing.assert_allclose(columns[0, :, :, 0], solution[:3].T, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(shift, solution[3], rtol=1e-3, atol=1e-4)
    assert ((target - through @ columns[0, :, :, 0].T - shift) ** 2).sum() < (
        (target - through @ plain[0, :, :, 0].T) ** 2
    ).sum()


def test_data_make_a_separable_convolution_better(tmp_path):
    model, _ = convolution(4, 8, (3, 3), pad=1, bias=True)
    rng = np.random.default_rng(2)
    images = rng.normal(size=(16, 4, 12, 12)).cumsum(2).cumsum(3).astype(np.float32)[..., :9, :9]
    samples = Samples(inputs={"x": images}, labels=None, batch=2)
    errors = []
    for aware in (False, True):
        copy = ir.from_proto(ir.to_proto(model))
        subject, outcome = substituted(copy, tmp_path, samples, by=("separable",), data_aware=aware)
        before, after = (run_ort(each, {"x": images[:2]})[0] for each in (model, subject.model))
        assert np.abs(before - after).max() > 0
        (change,) = outcome.changes
        assert change.kind == "factorised"
        assert change.shape_before == (8, 4, 3, 3)
        errors.append(change.error)
    assert errors[1] < 0.7 * errors[0]


def test_what_cannot_become_separable_says_why(tmp_path):
    body = (
        "a = Conv <pads = [1, 1, 1, 1]> (x, shared) b = Conv <pads = [1, 1, 1, 1]> (a, shared) "
        "c = Conv <pads = [1, 1, 1, 1]> (b, few) d = Conv (c, one) e = Conv <group = 2> (d, deep) "
        "f = Conv <pads = [1, 1, 1, 1]> (e, held) y = Conv (f, good)"
    )
    rng = np.random.default_rng(0)
    shapes = {
        "shared": (8, 8, 3, 3), "few": (1, 8, 3, 3), "one": (2, 1, 1, 1), "deep": (2, 1, 3, 3), "held": (16, 2, 3, 3),
        "good": (16, 16, 3, 3),
    }  # fmt: skip
    constants = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    subject = subject_of(text_graph(body, constants, x=(2, 8, 7, 7)), tmp_path)
    subject.held_zeros.add("held")
    legal = Substitute().legal(subject, SubstituteSettings(by=("separable",)))
    codes = {name: None if reason is None else reason.code for name, reason in legal.items()}
    assert codes == {
        "n0": "shared_weight", "n1": "shared_weight", "n2": "no_gain", "n5": "held_weight", "n6": None
    }  # fmt: skip
    legal = Substitute().legal(subject, SubstituteSettings(by=("separable",), multiplier=10))
    assert legal["n6"].code == "no_gain"


GATES = "s = Sigmoid(x) a = Mul(x, s) m = Mul(a, {scale}) t = Sigmoid(m) b = Mul(m, t) y = MatMul(b, w)"


def test_those_of_least_loss_are_taken_and_losses_are_what_they_say(tmp_path):
    rng = np.random.default_rng(0)
    model = text_graph(
        GATES.format(scale="scale"), {"scale": np.full(4, 0.01, np.float32), "w": rng.normal(size=(4, 3)).astype("f")},
        x=(2, 4),
    )  # fmt: skip
    samples = random_samples(model, 8)
    x = samples.inputs["x"]
    subject, outcome = substituted(model, tmp_path, samples, by=("hard-swish",), amount=0.5)
    (change,), (left,) = outcome.changes, outcome.left_alone

    def silu(t):
        return t / (1 + np.exp(-t))

    def hard(t):
        return t * np.clip(t / 6 + 0.5, 0, 1)

    w = model.graph.initializers["w"].const_value.numpy() if "w" in model.graph.initializers else None
    plain = silu(0.01 * silu(x)) @ w
    first, second = silu(0.01 * hard(x)) @ w, hard(0.01 * silu(x)) @ w
    losses = [((one - plain) ** 2).sum() / (plain**2).sum() for one in (first, second)]
    best = int(np.argmin(losses))
    layer = [
        ((hard(x) - silu(x)) ** 2).sum() / (silu(x) ** 2).sum(),
        ((hard(0.01 * silu(x)) - silu(0.01 * silu(x))) ** 2).sum() / (silu(0.01 * silu(x)) ** 2).sum(),
    ]
    assert change.layer == ("n0", "n3")[best]
    assert left.layer == ("n0", "n3")[1 - best]
    assert left.reason.code == "larger_loss"
    np.testing.assert_allclose(change.error, layer[best], rtol=1e-3)
    np.testing.assert_allclose(outcome.figures["output error"], losses[best], rtol=1e-3)
    assert operators(subject.model).count("HardSwish") == 1


def test_without_data_all_are_substituted_and_no_error_is_told(tmp_path):
    model = text_graph(
        GATES.format(scale="scale"), {"scale": np.ones(4, np.float32), "w": np.eye(4, dtype=np.float32)}, x=(2, 4)
    )
    subject, outcome = substituted(model, tmp_path, by=("relu", "hard-swish"))
    assert operators(subject.model) == ["Relu", "Mul", "Relu", "MatMul"]  # the first that fits
    assert [change.error for change in outcome.changes] == [None, None]
    assert "output error" not in outcome.figures


def test_bounds_and_needs_are_told(tmp_path):
    for wrong in (
        {"by": ()}, {"by": ("relu",), "amount": 0}, {"by": ("relu",), "amount": 1.1}, {"by": ("relu",), "samples": 0},
        {"by": ("separable",), "multiplier": 0}, {"by": ("relu",), "multiplier": 2},
        {"by": ("relu",), "data_aware": True},
    ):  # fmt: skip
        with pytest.raises(UsageError):
            SubstituteSettings(**wrong)
    model = text_graph("s = Sigmoid(x) y = Mul(x, s)", x=(2, 4))
    with pytest.raises(UsageError, match="needs samples"):
        substituted(model, tmp_path, by=("relu",), amount=0.5)
