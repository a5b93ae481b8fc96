"""The arithmetic of LiteRT, bit for bit against XNNPACK's kernels and, for 16 bits, its own."""

import numpy as np
import pytest
import quantised_operators as ops
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwbench.fake_quant.litert import LiteRt
from hwbench.records.quantization import TensorRange
from hwbench.testing.tflite import Node, Tensor, write_tflite

pytest.importorskip("ai_edge_litert")
RULES = LiteRt()
FEW = settings(
    max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
KINDS = st.sampled_from(["CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"])
_VERSIONS_16 = {"CONV_2D": 4, "DEPTHWISE_CONV_2D": 5, "FULLY_CONNECTED": 7}
pytestmark = pytest.mark.filterwarnings("ignore")


def _activation(name, shape, grid):
    kind = "int16" if grid.bits == 16 else "int8"
    return Tensor(name=name, shape=tuple(shape), dtype=kind, scale=(grid.scale,), zero_point=grid.zero_point)


def _layer(rng, kind, *, bits, stride, dilation, awkward):
    """A layer's random integers: input, weights as LiteRT has them, sums, and the axis of output channels."""
    x = ops.random_grid(rng, signed=True, bits=bits, awkward=awkward)
    inputs, outputs = 8, 8 if kind == "DEPTHWISE_CONV_2D" else 16
    data = rng.integers(x.low, x.high + 1, (1, 9, 9, inputs))
    if kind == "FULLY_CONNECTED":
        data = data.reshape(9, -1)
        values = rng.integers(-127, 128, (outputs, data.shape[1]))
        return x, data, values, (data - x.zero_point) @ values.T, 0, {}
    depthwise = kind == "DEPTHWISE_CONV_2D"
    values = rng.integers(-127, 128, (1, 3, 3, inputs) if depthwise else (outputs, 3, 3, inputs))
    kernel = values.transpose(3, 0, 1, 2) if depthwise else values.transpose(0, 3, 1, 2)
    centred = torch.from_numpy((data - x.zero_point).transpose(0, 3, 1, 2).astype("f8"))
    sums = torch.conv2d(
        centred, torch.from_numpy(kernel.astype("f8")), None, stride, 0, dilation, inputs if depthwise else 1
    )
    options = {"padding": 1, "strideW": stride, "strideH": stride}
    options |= {"dilationWFactor": dilation, "dilationHFactor": dilation}
    return x, data, values, sums.numpy(), 3 if depthwise else 0, options | ({"depthMultiplier": 1} if depthwise else {})


def _compare(tmp_path, rng, kind, *, bits, stride=1, dilation=1, awkward=False, relu=False):
    x, data, values, sums, axis, options = _layer(
        rng, kind, bits=bits, stride=stride, dilation=dilation, awkward=awkward
    )
    outputs = values.shape[axis]
    scales = (rng.choice([0.01, 0.05, 0.02], outputs) if awkward else rng.uniform(1e-4, 1e-2, outputs)).astype("f4")
    bias = rng.integers(-20000, 20000, outputs)
    y = ops.output_grid(rng, x, scales, sums, awkward=awkward and bits == 8, relu=relu)
    axes = sums.ndim - 2
    found = ops.steps_of(y, RULES.products(ops.products(x, sums, scales, bias, axes=axes), y))
    found = found.transpose(0, 2, 3, 1) if axes else found
    path = write_tflite(
        tmp_path / "one.tflite",
        [
            _activation("x", data.shape, x),
            Tensor(
                name="w", shape=values.shape, dtype="int8", values=values.astype("i1"), scale=scales.tolist(), axis=axis
            ),
            Tensor(
                name="b",
                shape=(outputs,),
                dtype="int64" if bits == 16 else "int32",
                values=bias.astype("i8" if bits == 16 else "i4"),
                scale=(np.float32(x.scale) * scales).tolist(),
            ),
            _activation("y", found.shape, y),
        ],
        [
            Node(
                op=kind,
                inputs=("x", "w", "b"),
                outputs=("y",),
                options=options,
                version=_VERSIONS_16[kind] if bits == 16 else None,
            )
        ],
        ("x",),
        ("y",),
    )
    real = ops.run_tflite(path, [data.astype("i2" if bits == 16 else "i1")])
    np.testing.assert_array_equal(found, real)


@FEW
@given(st.integers(0, 2**32 - 1), KINDS, st.integers(1, 2), st.integers(1, 2), st.booleans(), st.booleans())
def test_layers_of_eight_bits(tmp_path, seed, kind, stride, dilation, awkward, relu):
    stride = 1 if dilation > 1 else stride  # LiteRT has no kernel for both
    rng = np.random.default_rng(seed)
    _compare(tmp_path, rng, kind, bits=8, stride=stride, dilation=dilation, awkward=awkward, relu=relu)


@FEW
@given(st.integers(0, 2**32 - 1), KINDS, st.integers(1, 2))
def test_layers_of_sixteen_bits(tmp_path, seed, kind, stride):
    _compare(tmp_path, np.random.default_rng(seed), kind, bits=16, stride=stride)


@pytest.mark.parametrize("seed", range(12))
def test_addition_of_all_pairs(tmp_path, seed):
    rng = np.random.default_rng(seed)
    a, b, y = (ops.random_grid(rng, signed=True, awkward=seed % 2 == 0) for _ in range(3))
    left, right = np.meshgrid(np.arange(-128, 128), np.arange(-128, 128))
    tensors = [_activation(name, left.shape, grid) for name, grid in (("a", a), ("b", b), ("y", y))]
    node = Node(op="ADD", inputs=("a", "b"), outputs=("y",), version=2)
    path = write_tflite(tmp_path / "add.tflite", tensors, [node], ("a", "b"), ("y",))
    real = ops.run_tflite(path, [left.astype("i1"), right.astype("i1")])
    found = RULES.add(ops.numbers(a, left), ops.numbers(b, right), (a, b), y)
    np.testing.assert_array_equal(ops.steps_of(y, found), real)


@FEW
@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 3, 4, 7, 8]), st.booleans())
def test_mean(tmp_path, seed, side, awkward):
    rng = np.random.default_rng(seed)
    x, y = (ops.random_grid(rng, signed=True, awkward=awkward) for _ in range(2))
    data = rng.integers(-128, 128, (1, side, side, 32))
    axes = Tensor(name="axes", shape=(2,), dtype="int32", values=np.array([1, 2], "i4"))
    tensors = [_activation("x", data.shape, x), axes, _activation("y", (1, 1, 1, 32), y)]
    node = Node(op="MEAN", inputs=("x", "axes"), outputs=("y",), options={"keepDims": True})
    path = write_tflite(tmp_path / "mean.tflite", tensors, [node], ("x",), ("y",))
    total = torch.from_numpy((data - x.zero_point).sum((1, 2), keepdims=True).astype("f8"))
    real = ops.run_tflite(path, [data.astype("i1")])
    np.testing.assert_array_equal(ops.steps_of(y, RULES.mean(total, side * side, x, y)), real)


@FEW
@given(st.integers(0, 2**32 - 1))
def test_quantisation_of_floats(tmp_path, seed):
    rng = np.random.default_rng(seed)
    y = ops.random_grid(rng, signed=True, awkward=True)
    data = (rng.integers(-600, 600, (1, 16, 16, 8)) * np.float32(y.scale / 2)).astype("f4")  # half of them ties
    tensors = [Tensor(name="x", shape=data.shape), _activation("y", data.shape, y)]
    node = Node(op="QUANTIZE", inputs=("x",), outputs=("y",))
    path = write_tflite(tmp_path / "quantize.tflite", tensors, [node], ("x",), ("y",))
    found = RULES.round(torch.from_numpy(data), y)
    np.testing.assert_array_equal(ops.steps_of(y, found), ops.run_tflite(path, [data]))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.floats(-50, 50, width=32), st.floats(-50, 50, width=32), st.sampled_from([8, 16]))
def test_grid_is_that_of_the_tool(one, other, bits):
    tensor = pytest.importorskip("litert_quantizer.algorithms.uniform_quantize.uniform_quantize_tensor")
    qtyping = pytest.importorskip("litert_quantizer.qtyping")
    low, high = min(one, other), max(one, other)
    magnitude = max(abs(low), abs(high))
    found = RULES.grid(
        TensorRange(low=low, high=high, magnitude=magnitude, seen_low=low, seen_high=high), bits=bits, product=False
    )
    zero_point, scale = tensor.tensor_zp_scale_from_min_max(
        np.float32(min(low, 0)), np.float32(max(high, 0)), bits, bits == 16, qtyping.QuantGranularity.TENSORWISE
    )
    assert (found.scale, found.zero_point) == (float(np.float32(scale)), int(zero_point))
