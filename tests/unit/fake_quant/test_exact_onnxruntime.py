"""The arithmetic of ONNX Runtime, bit for bit against its CPU provider."""

import numpy as np
import pytest
import quantised_operators as ops
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnxruntime.quantization.quant_utils import compute_scale_zp

from hwbench.errors import UsageError
from hwbench.fake_quant.onnxruntime import OnnxRuntime
from hwbench.records.quantization import TensorRange

RULES = OnnxRuntime()
FEW = settings(max_examples=15, deadline=None, derandomize=True)


@FEW
@given(
    st.integers(0, 2**32 - 1), st.sampled_from([(8, 16, 1), (8, 16, 4), (8, 8, 8), (3, 5, 1)]), st.integers(1, 3),
    st.integers(1, 2), st.integers(1, 2), st.booleans(),
)  # fmt: skip
def test_convolution(seed, channels, kernel, stride, dilation, awkward):
    rng = np.random.default_rng(seed)
    inputs, outputs, groups = channels
    x = ops.random_grid(rng, awkward=awkward)
    data = rng.integers(0, 256, (2, inputs, 9, 9))
    values = rng.integers(-127, 128, (outputs, inputs // groups, kernel, kernel))
    scales = (rng.choice([0.01, 0.05, 0.02], outputs) if awkward else rng.uniform(1e-4, 1e-2, outputs)).astype("f4")
    bias = rng.integers(-20000, 20000, outputs)
    sums = torch.conv2d(
        torch.from_numpy((data - x.zero_point).astype("f8")), torch.from_numpy(values.astype("f8")), None, stride, 1,
        dilation, groups,
    )  # fmt: skip
    y = ops.output_grid(rng, x, scales, sums.numpy(), awkward=awkward, relu=seed % 3 == 0)
    attributes = {"group": groups, "strides": [stride] * 2, "dilations": [dilation] * 2, "pads": [1] * 4}
    convolve = helper.make_node("Conv", ["xf", "wf", "bf"], ["f"], **attributes)
    (first, constants), (last, more) = ops.dequantised("x", x, name="x"), ops.quantised("f", y)
    around, given_weights = ops.weights(values, scales, bias, x)
    run = ops.session(
        [first, *around, convolve, last], {"x": data.shape}, constants | more | given_weights, TensorProto.UINT8
    )
    real = run.run(None, {"x": data.astype(np.uint8)})[0]
    found = RULES.products(ops.products(x, sums, scales, bias, axes=2), y)
    np.testing.assert_array_equal(ops.steps_of(y, found), real)


@FEW
@given(st.integers(0, 2**32 - 1), st.integers(1, 200), st.integers(1, 40), st.booleans())
def test_linear_layer_on_a_grid_and_in_floats(seed, inputs, outputs, rounds):
    rng = np.random.default_rng(seed)
    x = ops.random_grid(rng)
    data, values = rng.integers(0, 256, (5, inputs)), rng.integers(-127, 128, (outputs, inputs))
    scales, bias = rng.uniform(1e-4, 1e-2, outputs).astype("f4"), rng.integers(-20000, 20000, outputs)
    sums = (data - x.zero_point) @ values.T
    y = ops.output_grid(rng, x, scales, sums)
    product = helper.make_node("Gemm", ["xf", "wf", "bf"], ["f" if rounds else "y"], transB=1)
    first, constants = ops.dequantised("x", x, name="x")
    around, given_weights = ops.weights(values, scales, bias, x)
    last, more = ops.quantised("f", y)
    nodes = [first, *around, product, *([last] if rounds else [])]
    kind = TensorProto.UINT8 if rounds else TensorProto.FLOAT
    run = ops.session(nodes, {"x": data.shape}, constants | given_weights | (more if rounds else {}), kind)
    real = run.run(None, {"x": data.astype(np.uint8)})[0]
    found = RULES.products(ops.products(x, sums, scales, bias, axes=0), y if rounds else None)
    np.testing.assert_array_equal(ops.steps_of(y, found) if rounds else found.numpy(), real)


@pytest.mark.parametrize("seed", range(12))
def test_addition_of_all_pairs(seed):
    rng = np.random.default_rng(seed)
    a, b, y = (ops.random_grid(rng, awkward=seed % 2 == 0) for _ in range(3))
    left, right = (one.ravel() for one in np.meshgrid(np.arange(256), np.arange(256)))
    (of_a, first), (of_b, second) = ops.dequantised("a", a, name="a"), ops.dequantised("b", b, name="b")
    last, third = ops.quantised("f", y)
    nodes = [of_a, of_b, helper.make_node("Add", ["af", "bf"], ["f"]), last]
    run = ops.session(nodes, {"a": left.shape, "b": left.shape}, first | second | third, TensorProto.UINT8)
    real = run.run(None, {"a": left.astype(np.uint8), "b": right.astype(np.uint8)})[0]
    found = RULES.add(ops.numbers(a, left), ops.numbers(b, right), (a, b), y)
    np.testing.assert_array_equal(ops.steps_of(y, found), real)


@FEW
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.booleans())
def test_global_average(seed, side, awkward):
    rng = np.random.default_rng(seed)
    x, y = ops.random_grid(rng, awkward=awkward), ops.random_grid(rng, awkward=awkward)
    data = rng.integers(0, 256, (2, 16, side, side))
    (first, constants), (last, more) = ops.dequantised("x", x, name="x"), ops.quantised("f", y)
    nodes = [first, helper.make_node("GlobalAveragePool", ["xf"], ["f"]), last]
    run = ops.session(nodes, {"x": data.shape}, constants | more, TensorProto.UINT8)
    real = run.run(None, {"x": data.astype(np.uint8)})[0]
    total = torch.from_numpy((data - x.zero_point).sum((2, 3), keepdims=True).astype("f8"))
    np.testing.assert_array_equal(ops.steps_of(y, RULES.mean(total, side * side, x, y)), real)


@FEW
@given(st.integers(0, 2**32 - 1))
def test_quantisation_of_floats(seed):
    rng = np.random.default_rng(seed)
    x, y = ops.random_grid(rng, awkward=True), ops.random_grid(rng, awkward=True)
    data = np.arange(256)
    (first, constants), (last, more) = ops.dequantised("x", x, name="x"), ops.quantised("f", y)
    nodes = [first, helper.make_node("Neg", ["xf"], ["f"]), last]  # an operator without an integer kernel
    real = ops.session(nodes, {"x": data.shape}, constants | more, TensorProto.UINT8).run(
        None, {"x": data.astype(np.uint8)}
    )[0]
    np.testing.assert_array_equal(ops.steps_of(y, RULES.round(-ops.numbers(x, data), y)), real)


@FEW
@given(st.floats(-50, 50, width=32), st.floats(-50, 50, width=32))
def test_grid_is_that_of_the_tool(one, other):
    low, high = min(one, other), max(one, other)
    found = RULES.grid(_range(low, high), bits=8, product=False)
    zero_point, scale = compute_scale_zp(np.float32(low), np.float32(high), np.uint8(0), np.uint8(255))
    assert (found.scale, found.zero_point) == (float(scale), int(zero_point))
    assert found.ends[0] <= 0 <= found.ends[1]


def test_sixteen_bits_are_refused():
    with pytest.raises(UsageError, match="16 bits"):
        RULES.grid(_range(0, 1), bits=16, product=False)


def _range(low, high):
    magnitude = max(abs(low), abs(high))
    return TensorRange(low=low, high=high, magnitude=magnitude, seen_low=low, seen_high=high)
