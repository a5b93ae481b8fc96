"""Layers merged: ONNX Runtime before and after, over kernels, strides, dilations, groups, padding and bias."""

from __future__ import annotations

import numpy as np
import onnx_graphs as graphs
import onnx_ir as ir
import pytest
from compress_subjects import run_ort
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from residual_graphs import PADDED, drawn, net

from hwbench.graph.linear import linear_of
from hwbench.records.base import Missing
from hwbench.structure.merge import Merge, chain_at, merge, sum_at
from hwbench.torch_view.build import to_torch

pytest.importorskip("onnxruntime", reason="onnxruntime computes the networks")
EXAMPLES = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)


def _chain(model: ir.Model, name: str, **how: bool) -> Merge | Missing | None:
    layer = linear_of(next(node for node in model.graph if node.name == name))
    return chain_at(layer, **how)


def _same(model: ir.Model, plan: Merge, x: np.ndarray, nodes: int, tolerance: float = 1e-5) -> None:
    """Merge, and hold ONNX Runtime's results and torch's against those before."""
    shape = model.graph.outputs[0].shape
    before = run_ort(model, {"x": x})[0]
    merge(model, plan)
    after = run_ort(model, {"x": x})[0]
    assert len(list(model.graph)) == nodes
    assert after.shape == before.shape == tuple(shape.numpy())
    scale = max(1.0, float(np.abs(before).max()))
    np.testing.assert_allclose(after / scale, before / scale, atol=tolerance, rtol=0)
    import torch

    seen = to_torch(model)(torch.from_numpy(x))[0].detach().numpy()
    np.testing.assert_allclose(seen / scale, after / scale, atol=tolerance, rtol=0)


@st.composite
def _layer(draw, axes: int, inputs: int, outputs: int):
    groups = draw(st.sampled_from([g for g in (1, 2, 4) if inputs % g == 0 and outputs % g == 0]))
    small = st.integers(1, 2)
    kernel = [draw(st.integers(1, 3)) for _ in range(axes)]
    attributes = {
        "strides": [draw(small) for _ in range(axes)],
        "dilations": [draw(small) for _ in range(axes)],
        "pads": [draw(st.sampled_from([0, 0, 1, 2])) for _ in range(2 * axes)],
        "group": groups,
    }
    return (outputs, inputs // groups, *kernel), attributes, draw(st.booleans())


@st.composite
def _two(draw):
    axes = draw(st.integers(1, 2))
    channels = [draw(st.sampled_from([1, 2, 4])) for _ in range(3)]
    return axes, channels, [draw(_layer(axes, channels[i], channels[i + 1])) for i in range(2)]


def _two_net(axes, channels, layers, *, size: int = 9, norm: bool = False) -> ir.Model:
    weights, lines, source = {}, [], "x"
    for index, (shape, attributes, biased) in enumerate(layers):
        name = f"c{index}"
        weights[f"{name}.w"] = drawn(*shape, seed=index + 1)
        if biased:
            weights[f"{name}.b"] = drawn(shape[0], seed=index + 7)
        lines.append(("Conv", f"{source} {name}.w" + (f" {name}.b" if biased else ""), name, attributes))
        source = name
        if norm and index == 0:
            lines.append(
                ("BatchNormalization", f"c0 {' '.join(f'n.{p}' for p in ('scale', 'bias', 'mean', 'var'))}", "n")
            )
            weights |= {each.name: numpy_helper.to_array(each) for each in graphs.statistics("n", channels[1])}
            source = "n"
    return net(lines, weights, x=(2, channels[0], *[size] * axes))


def _fit(axes, layers, size=9):
    """Whether every kernel lies within its padded input: shape inference gives a size all the same."""
    sizes = [size] * axes
    for (_, _, *kernel), attributes, _ in layers:
        for axis, width in enumerate(kernel):
            padded = sizes[axis] + attributes["pads"][axis] + attributes["pads"][axes + axis]
            reach = attributes["dilations"][axis] * (width - 1) + 1
            if padded < reach:
                return False
            sizes[axis] = (padded - reach) // attributes["strides"][axis] + 1
    return True


@EXAMPLES
@given(_two(), st.booleans())
def test_a_convolution_after_another_is_one(case, norm):
    axes, channels, layers = case
    model = _two_net(axes, channels, layers, norm=norm)
    assume(_fit(axes, layers))
    x = drawn(2, channels[0], *[9] * axes, seed=5)
    plan = _chain(model, "c1", more_macs=True)
    if isinstance(plan, Merge):
        assert plan.exact
        _same(model, plan, x, nodes=1, tolerance=3e-5)
        return
    assert plan.code in {"border", "size"}
    moved = _chain(model, "c1", more_macs=True, move_padding=True)
    if isinstance(moved, Merge):  # what was refused is really another function
        before = run_ort(model, {"x": x})[0]
        merge(model, moved)
        after = run_ort(model, {"x": x})[0]
        assert after.shape == before.shape
        assert np.abs(after - before).max() > 1e-5 * np.abs(before).max()  # rounding is ten times less


@st.composite
def _sides(draw):
    """Two branches of the same stride and output size: kernels k with dilation d and padding d (k - 1) / 2."""
    channels = draw(st.sampled_from([2, 4]))
    stride = draw(st.integers(1, 2))
    sides = []
    for _ in range(2):
        kernel, dilation = draw(st.sampled_from([1, 3, 5])), draw(st.integers(1, 2))
        groups = draw(st.sampled_from([1, 2]))
        pad = dilation * (kernel - 1) // 2
        attributes = {"strides": [stride] * 2, "dilations": [dilation] * 2, "pads": [pad] * 4, "group": groups}
        sides.append(((channels, channels // groups, kernel, kernel), attributes, draw(st.booleans())))
    norms = [draw(st.booleans()) for _ in range(2)]
    return channels, sides, norms, draw(st.sampled_from(["conv", "norm", "identity"])) if stride == 1 else "conv"


@EXAMPLES
@given(_sides())
def test_branches_added_up_are_one(case):
    channels, sides, norms, second = case
    weights, lines, ends = {}, [], []
    for index, (shape, attributes, biased) in enumerate(sides):
        name, source = f"c{index}", "x"
        if index == 0 or second == "conv":
            weights[f"{name}.w"] = drawn(*shape, seed=index + 1)
            weights |= {f"{name}.b": drawn(shape[0], seed=index + 7)} if biased else {}
            lines.append(("Conv", f"x {name}.w" + (f" {name}.b" if biased else ""), name, attributes))
            source = name
        if (source != "x" and norms[index]) or (source == "x" and second == "norm"):
            norm = f"n{index}"
            lines.append(
                (
                    "BatchNormalization",
                    f"{source} {' '.join(f'{norm}.{p}' for p in ('scale', 'bias', 'mean', 'var'))}",
                    norm,
                )
            )
            weights |= {
                each.name: numpy_helper.to_array(each) for each in graphs.statistics(norm, channels, seed=index)
            }
            source = norm
        ends.append(source)
    lines += [("Add", " ".join(ends), "sum"), ("Relu", "sum", "y")]
    model = net(lines, weights, x=(2, channels, 9, 9))
    plan = sum_at(next(node for node in model.graph if node.name == "sum"), more_macs=True)
    assert isinstance(plan, Merge)
    _same(model, plan, drawn(2, channels, 9, 9, seed=5), nodes=2, tolerance=3e-5)
    assert [node.op_type for node in model.graph] == ["Conv", "Relu"]
    assert next(iter(model.graph)).outputs[0].name == "sum"


@pytest.mark.parametrize("bias", [(True, True), (True, False), (False, False)])
@pytest.mark.parametrize("kinds", [("Gemm", "Gemm"), ("Gemm", "MatMul"), ("MatMul", "MatMul"), ("MatMul", "Gemm")])
def test_matrix_products_merge(kinds, bias):
    lines, weights, source, widths = [], {}, "x", (6, 3, 5)
    for index, kind in enumerate(kinds):
        name = f"l{index}"
        shape = (widths[index + 1], widths[index]) if kind == "Gemm" else (widths[index], widths[index + 1])
        weights[f"{name}.w"] = drawn(*shape, seed=index)
        weights |= {f"{name}.b": drawn(widths[index + 1], seed=index + 4)} if bias[index] else {}
        if kind == "Gemm":
            lines.append(("Gemm", f"{source} {name}.w" + f" {name}.b" * bias[index], name, {"transB": 1}))
            source = name
        else:
            lines.append(("MatMul", f"{source} {name}.w", name))
            source = name
            if bias[index]:
                lines.append(("Add", f"{name}.b {name}" if index else f"{name} {name}.b", f"{name}.add"))
                source = f"{name}.add"
    model = net([*lines, ("Relu", source, "y")], weights, x=(4, 6))
    plan = _chain(model, "l1", more_macs=True)
    biased = any(bias)
    _same(model, plan, drawn(4, 6, seed=9), nodes=2 + (biased and kinds[1] == "MatMul"))
    assert (plan.macs_before, plan.macs_after) == (6 * 3 + 3 * 5, 6 * 5)
    assert isinstance(_chain(net([*lines, ("Relu", source, "y")], weights, x=(4, 6)), "l1"), Merge)


def test_a_matrix_product_keeps_its_axes():
    lines = [("MatMul", "x a", "p"), ("MatMul", "p b", "y")]
    model = net(lines, {"a": drawn(6, 8), "b": drawn(8, 2, seed=1)}, x=(2, 3, 6))
    _same(model, _chain(model, "y"), drawn(2, 3, 6, seed=3), nodes=1)


def test_a_residual_convolution_takes_the_identity_in():
    model = net([("Conv", "x w", "c", PADDED), ("Add", "c x", "y")], {"w": drawn(4, 4, 3, 3)})
    plan = sum_at(list(model.graph)[1])
    assert plan.macs_before == plan.macs_after == 4 * 4 * 9 * 64
    _same(model, plan, drawn(2, 4, 8, 8), nodes=1)


def test_a_bottleneck_merges_as_a_whole_where_its_pairs_would_not():
    """Expansion, depthwise, projection: the last two alone would take more multiply-adds, all three take fewer."""
    lines = [
        ("Conv", "x w1", "expand"),
        ("Relu", "expand", "act1"),
        ("Conv", "act1 w2", "depthwise", {"group": 24}),
        ("Relu", "depthwise", "act2"),
        ("Conv", "act2 w3", "project"),
    ]
    weights = {"w1": drawn(24, 4, 1, 1), "w2": drawn(24, 1, 3, 3, seed=1), "w3": drawn(4, 24, 1, 1, seed=2)}
    model = net(lines, weights)
    kept = _chain(model, "project")
    assert kept.code == "activation"
    plan = _chain(model, "project", activations=True)
    assert len(plan.layers) == 3
    assert [node.name for node in plan.activations] == ["act1", "act2"]
    assert plan.macs_after == 4 * 4 * 9 * 36 < plan.macs_before == 24 * 4 * 64 + 24 * 9 * 36 + 4 * 24 * 36
    straight = [lines[0], ("Conv", "expand w2", "depthwise", {"group": 24}), ("Conv", "depthwise w3", "project")]
    linear = net(straight, weights)
    x = drawn(2, 4, 8, 8, seed=3)
    merge(model, plan)
    np.testing.assert_allclose(run_ort(model, {"x": x})[0], run_ort(linear, {"x": x})[0], atol=1e-4)


@pytest.mark.parametrize(
    ("lines", "name", "code"),
    [
        ([("Conv", "x v", "a"), ("Conv", "a u", "y")], "y", "more_macs"),
        ([("Conv", "x w", "a"), ("Relu", "a", "r"), ("Conv", "r w", "y")], "y", "activation"),
        ([("Conv", "x w", "a", PADDED), ("Conv", "a w", "b", PADDED), ("Mul", "a b", "y")], "b", "used_outside"),
        ([("Conv", "x w", "a", PADDED), ("Conv", "a w", "y", PADDED)], "y", "border"),
    ],
)
def test_what_cannot_be_merged_says_why(lines, name, code):
    model = net(lines, {"w": drawn(4, 4, 3, 3), "v": drawn(1, 4, 1, 1), "u": drawn(4, 1, 1, 1)})
    assert _chain(model, name).code == code


def test_the_first_layer_has_none_before_it():
    model = net([("Conv", "x w", "y")], {"w": drawn(4, 4, 3, 3)})
    assert _chain(model, "y") is None


def test_sums_of_different_inputs_are_none():
    lines = [("Conv", "x w", "a", PADDED), ("Relu", "a", "r"), ("Conv", "r w", "b", PADDED), ("Add", "x b", "y")]
    model = net(lines, {"w": drawn(4, 4, 3, 3)})
    assert sum_at(list(model.graph)[-1]) is None


def test_automatic_padding_is_resolved():
    lines = [
        ("Conv", "x w", "a", {"auto_pad": "VALID"}),
        ("Conv", "a v", "y", {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    ]
    weights = {"w": drawn(4, 4, 3, 3), "v": drawn(4, 4, 2, 2, seed=1)}
    model = net(lines, weights)  # 8 -> 6 -> 3: nothing to pad
    _same(model, _chain(model, "y", more_macs=True), drawn(2, 4, 8, 8), nodes=1)
    padded = net([("Conv", "x w", "y", {"auto_pad": "SAME_UPPER"}), ("Add", "x y", "z")], {"w": drawn(4, 4, 2, 2)})
    _same(padded, sum_at(list(padded.graph)[1]), drawn(2, 4, 8, 8), nodes=1)


@pytest.mark.parametrize(
    ("pads", "attributes", "taken"),
    [
        ([0, 0, 0, 1, 0, 0, 2, 1], {}, True),
        ([0, 0, 0, 1, 0, 0, 2, 1], {"mode": "reflect"}, False),
        ([0, 1, 0, 0, 0, 0, 0, 0], {}, False),
        ([0, 0, -1, 0, 0, 0, 0, 0], {}, False),
    ],
)
def test_zeros_padded_before_are_padding_of_the_layer(pads, attributes, taken):
    lines = [("Conv", "x w", "a"), ("Pad", "a pads", "p", attributes), ("Conv", "p v", "y")]
    channels = 5 if pads[1] else 4
    weights = {"w": drawn(4, 4, 1, 1), "v": drawn(4, channels, 3, 3, seed=1), "pads": np.array(pads)}
    model = net(lines, weights)
    plan = _chain(model, "y")
    assert isinstance(plan, Merge) == taken
    if taken:
        _same(model, plan, drawn(2, 4, 8, 8), nodes=1)


def test_shared_weights_stay_as_they_are():
    lines = [("Conv", "x w", "a"), ("Conv", "a w", "b"), ("Relu", "b", "r"), ("Conv", "r w", "y")]
    model = net(lines, {"w": drawn(4, 4, 1, 1)})
    _same(model, _chain(model, "b"), drawn(2, 4, 8, 8), nodes=3)
    np.testing.assert_array_equal(model.graph.initializers["w"].const_value.numpy(), drawn(4, 4, 1, 1))
