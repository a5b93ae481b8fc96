"""The arithmetic of OpenVINO against its CPU plugin: off by one step at most, and seldom."""

import numpy as np
import pytest
import quantised_operators as ops
import torch

from hwbench.engines import openvino_quantize as lowering
from hwbench.fake_quant.openvino import OpenVino
from hwbench.records.quantization import TensorRange

ov = pytest.importorskip("openvino")
RULES = OpenVino()
OFF = {False: 1 / 5000, True: 1 / 1000}  # of the results, with random and with round scales (ties)


def _fake_quantize(source, grid):
    from openvino import opset13

    low, high = (opset13.constant(np.float32(end)) for end in grid.ends)
    return opset13.fake_quantize(source, low, high, low, high, 256)


def _weights(values, scales):
    from openvino import opset13

    return opset13.multiply(opset13.convert(opset13.constant(values.astype("i1")), "f32"), opset13.constant(scales))


def _read_on(source, channels, *, matrix):
    """A product by one behind a quantisation, so that the plugin keeps integers there."""
    from openvino import opset13

    one = np.eye(channels) * 64
    shape = one.shape if matrix else (*one.shape, 1, 1)
    scales = np.full((channels, *[1] * (len(shape) - 1)), 1 / 64, "f4")
    values = _weights(one.reshape(shape), scales)
    if matrix:
        return opset13.matmul(source, values, False, True)
    return opset13.convolution(source, values, [1, 1], [0, 0], [0, 0], [1, 1])


def _run(result, parameters, feeds):
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = ov.Core().compile_model(ov.Model([result], parameters, "one"), "CPU", settings)
    kinds = {node.get_rt_info()["runtimePrecision"].value for node in compiled.get_runtime_model().get_ordered_ops()}
    return compiled(feeds)[0], kinds


def _check(real, found, y, *, awkward):
    real = np.rint(real / np.float32(y.scale)) + y.zero_point
    apart = np.abs(ops.steps_of(y, found) - real)
    assert apart.max() <= 1
    assert np.mean(apart > 0) <= OFF[awkward]


@pytest.mark.parametrize("kind", ["convolution", "depthwise", "product"])
@pytest.mark.parametrize("seed", range(3))
def test_layers(kind, seed):
    from openvino import opset13

    rng = np.random.default_rng(seed)
    awkward, inputs, matrix = seed == 0, 8, kind == "product"
    x = ops.random_grid(rng, awkward=awkward)
    data = rng.integers(0, 256, (600, 72) if matrix else (1, inputs, 24, 24))
    outputs = inputs if kind == "depthwise" else 16
    shape = {"convolution": (outputs, inputs, 3, 3), "depthwise": (outputs, 1, 3, 3), "product": (outputs, 72)}[kind]
    values = rng.integers(-127, 128, shape)
    scales = (rng.choice([0.01, 0.05, 0.02], outputs) if awkward else rng.uniform(1e-4, 1e-2, outputs)).astype("f4")
    centred = torch.from_numpy((data - x.zero_point).astype("f8"))
    kernel = torch.from_numpy(values.astype("f8"))
    stride = 1 + seed % 2
    if matrix:
        sums = centred @ kernel.T
    else:
        sums = torch.conv2d(centred, kernel, None, stride, 1, 1, inputs if kind == "depthwise" else 1)
    given = ops.products(x, sums.numpy(), scales, rng.integers(-20000, 20000, outputs), axes=0 if matrix else 2)
    y = ops.output_grid(rng, x, scales, sums.numpy(), awkward=awkward)
    entry = opset13.parameter(data.shape, np.float32)
    rounded, over = _fake_quantize(entry, x), scales.reshape(-1, *[1] * (len(shape) - 1))
    if matrix:
        made = opset13.matmul(rounded, _weights(values, over), False, True)
    elif kind == "depthwise":
        grouped = _weights(values[:, None], over[:, None])
        made = opset13.group_convolution(rounded, grouped, [stride] * 2, [1, 1], [1, 1], [1, 1])
    else:
        made = opset13.convolution(rounded, _weights(values, over), [stride] * 2, [1, 1], [1, 1], [1, 1])
    made = opset13.add(made, opset13.constant(given.bias.numpy()[None]))
    result = _read_on(_fake_quantize(made, y), outputs, matrix=matrix)
    real, kinds = _run(result, [entry], [ops.numbers(x, data).numpy()])
    assert "u8" in kinds, "the plugin ran it in floats"
    _check(real, RULES.products(given, y), y, awkward=awkward)


@pytest.mark.parametrize("seed", range(3))
def test_addition(seed):
    from openvino import opset13

    rng = np.random.default_rng(seed)
    a, b, y = (ops.random_grid(rng, awkward=seed == 0) for _ in range(3))
    first, second = (rng.integers(0, 256, (1, 8, 32, 32)) for _ in range(2))
    entries = [opset13.parameter(first.shape, np.float32) for _ in range(2)]
    total = opset13.add(_fake_quantize(entries[0], a), _fake_quantize(entries[1], b))
    result = _read_on(_fake_quantize(total, y), 8, matrix=False)
    feeds = [ops.numbers(a, first), ops.numbers(b, second)]
    real, _ = _run(result, entries, [one.numpy() for one in feeds])
    _check(real, RULES.add(*feeds, (a, b), y), y, awkward=seed == 0)


@pytest.mark.parametrize("product", [False, True])
@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (-2.0, 2.5), (0.5, 4.0), (-4.0, -1.0), (0.0, 0.0)])
def test_grid_is_that_of_the_lowering(product, low, high):
    magnitude = max(abs(low), abs(high))
    one = TensorRange(low=low, high=high, magnitude=magnitude, seen_low=low, seen_high=high)
    asymmetric = not product or lowering.is_skewed(one)
    wanted = lowering.asymmetric(low, high) if asymmetric else lowering.symmetric(magnitude)
    found = RULES.grid(one, bits=8, product=product).ends
    np.testing.assert_allclose(found, (wanted.low, wanted.high), rtol=1e-6, atol=1e-7)
