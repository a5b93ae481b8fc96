"""Weights alone in int8 and int4, and activations quantised on the fly."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("openvino", reason="lowers to OpenVINO")
pytest.importorskip("onnxruntime", reason="the float truth is onnxruntime's")

from onnx import helper
from onnx_graphs import convnet, model, random_array, tensor, weight
from openvino_lowering import case, integers, relative_error, saved

from hwbench.engines.openvino_quantize import asymmetric, channel_integers, symmetric
from hwbench.errors import Unsupported
from hwbench.records.quantization import PrecisionPlan


def products(width=128, narrow=16):
    """Two products with wide matrices, and one that adds up only ``narrow`` numbers."""
    made = [
        helper.make_node("MatMul", ["x", "a.w"], ["a"], name="first"),
        helper.make_node("Gemm", ["a", "b.w", "b.b"], ["b"], name="second", transB=1),
        helper.make_node("MatMul", ["b", "c.w"], ["y"], name="narrow"),
    ]
    weights = [
        weight("a.w", random_array(width, width) / 11),
        weight("b.w", random_array(narrow, width, seed=3) / 11),
        weight("b.b", random_array(narrow, seed=4)),
        weight("c.w", random_array(narrow, 8, seed=5) / 4),
    ]
    return model(made, [tensor("x", [16, width])], [tensor("y", [16, 8])], weights)


def sample(width=128):
    return {"x": random_array(16, width, seed=9)}


def weights_rounded_to_int8(x):
    """The same network in numpy, each weight rounded to 127 steps of its output channel's largest."""
    first, second, bias, last = (random_array(128, 128) / 11, random_array(16, 128, seed=3) / 11,
                                 random_array(16, seed=4), random_array(16, 8, seed=5) / 4)  # fmt: skip

    def rounded(matrix, axis):
        scale = np.abs(matrix).max(axis=axis, keepdims=True) / 127
        return np.round(matrix / scale) * scale

    return (x @ rounded(first, 0) @ rounded(second, 1).T + bias) @ rounded(last, 0)


def got(lowered):
    return {layer.layer: layer.got for layer in lowered.layers}


def has_vnni():
    info = Path("/proc/cpuinfo")
    return info.is_file() and "vnni" in info.read_text()


def test_int8_weights_leave_the_arithmetic_in_float(tmp_path):
    one = case(products(), tmp_path, sample())
    lowered = one.lower(PrecisionPlan(default="int8-weights", floating="fp32"))
    runner = one.program(lowered)
    # OpenVINO's own default would quantise the activations too, for an error of some thousandths.
    assert lowered.settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] == "0"
    assert relative_error(one.outputs(runner)["y"], weights_rounded_to_int8(sample()["x"])) < 1e-5
    assert (lowered.arithmetic, runner.built().precision) == ("fp32", "fp32")
    assert set(got(lowered).values()) == {"int8-weights"}


@pytest.mark.skipif(not has_vnni(), reason="OpenVINO quantises activations on the fly with VNNI or AMX alone")
def test_dynamic_quantises_the_activations_of_wide_products(tmp_path):
    one = case(products(), tmp_path, sample())
    lowered = one.lower(PrecisionPlan(default="int8-dynamic", floating="fp32"))
    assert got(lowered) == {"first": "int8-dynamic", "second": "int8-dynamic", "narrow": "int8-weights"}
    runner = one.program(lowered)
    built = {name: unit.precision for unit in runner.built().layers for name in unit.members}
    assert (built["first"], built["second"], built["narrow"]) == ("int8", "int8", "fp32")
    assert (lowered.arithmetic, runner.built().precision) == ("int8", "int8")
    error = relative_error(one.outputs(runner)["y"], weights_rounded_to_int8(sample()["x"]))
    assert 1e-4 < error < 0.03  # the activations are rounded, and not badly


def test_dynamic_beside_weights_alone_is_refused(tmp_path):
    one = case(products(), tmp_path, sample())
    with pytest.raises(Unsupported, match="for all products with compressed weights or for none: second"):
        one.lower(PrecisionPlan(default="int8-dynamic", layers={"second": "int8-weights"}))


def test_dynamic_needs_dot_products(tmp_path):
    with pytest.raises(Unsupported, match="only with VNNI or AMX"):
        case(products(), tmp_path, sample()).lower(PrecisionPlan(default="int8-dynamic"), isa=("avx2",))


def test_dynamic_leaves_convolutions_alone(tmp_path):
    one = case(convnet(), tmp_path)
    with pytest.raises(Unsupported, match="'conv' in int8-dynamic: OpenVINO quantises activations on the fly"):
        one.lower(PrecisionPlan(default="float", layers={"conv": "int8-dynamic"}))


def test_a_convolution_has_its_weights_in_int8_and_not_in_int4(tmp_path):
    one = case(convnet(), tmp_path)
    lowered = one.lower(PrecisionPlan(default="int4-weights", floating="fp32"))
    assert got(lowered) == {"conv": "int8-weights"}
    runner = one.program(lowered)
    assert relative_error(one.outputs(runner)["y"], one.truth[0]["y"]) < 0.01
    assert runner.built().precision == "fp32"
    with pytest.raises(Unsupported, match="'conv' in int4-weights: OpenVINO packs int4"):
        one.lower(PrecisionPlan(default="float", layers={"conv": "int4-weights"}), into="again")


def test_int4_weights_are_four_bits(tmp_path):
    one = case(products(), tmp_path, sample())
    lowered = one.lower(PrecisionPlan(default="int4-weights", floating="fp32"))
    assert set(got(lowered).values()) == {"int4-weights"}
    assert (tmp_path / "ir" / "model.bin").stat().st_size < 0.2 * one.result.model.weight_bytes
    assert len(integers(saved(tmp_path / "ir"), "i4")) == 3
    # 15 steps over a range of some five deviations: an error of 0.1 in each of three products
    assert relative_error(one.outputs(one.program(lowered))["y"], one.truth[0]["y"]) < 0.25


def test_a_mixture_gives_each_layer_its_own(tmp_path):
    one = case(products(), tmp_path, sample())
    plan = PrecisionPlan(default="int8", floating="fp32", layers={"second": "int4-weights", "narrow": "float"})
    lowered = one.lower(plan)
    assert got(lowered) == {"first": "int8", "second": "int4-weights"}
    built = {name: unit.precision for unit in one.program(lowered).built().layers for name in unit.members}
    assert (built["first"], built["second"], built["narrow"]) == ("int8", "fp32", "fp32")


@pytest.mark.parametrize(("low", "high"), [(0.0, 6.0), (-1.0, 3.0), (-3.0, 0.0), (2.0, 5.0), (-5.0, -2.0), (0.0, 0.0)])
def test_zero_is_on_the_grid(low, high):
    grid = asymmetric(low, high)
    step = (grid.high - grid.low) / 255
    assert abs(grid.low / step - round(grid.low / step)) < 1e-9
    assert grid.low <= 0 <= grid.high
    assert grid.low <= low + step / 2
    assert grid.high >= high - step / 2


def test_a_symmetric_grid_holds_its_magnitude_at_step_127():
    grid = symmetric(2.54)
    assert (grid.low, grid.high) == pytest.approx((-2.56, 2.54))


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1), (0, 2), ()])
def test_every_weight_is_off_by_half_a_step_of_its_channel(axes):
    array = random_array(3, 4, 5, 6) * np.logspace(-2, 2, 60).reshape(3, 4, 5, 1).astype(np.float32)
    numbers, scales = channel_integers(array, axes, 127)
    others = tuple(axis for axis in range(4) if axis not in axes)
    assert np.allclose(scales, np.abs(array).max(axis=others, keepdims=True) / 127)
    assert (np.abs(numbers * scales - array) <= scales * 0.5001).all()
    assert (numbers.shape, numbers.dtype) == (array.shape, np.int8)


@pytest.mark.parametrize("transposed", [False, True])
def test_int4_is_unpacked_to_what_was_packed(tmp_path, transposed):
    steps = np.random.default_rng(0).integers(-7, 8, (96, 40)).astype(np.float32)
    steps[::16] = 7  # so that every block has its largest number, and 0.5 for a scale
    matrix = steps * np.float32(0.5)
    gemm = helper.make_node("Gemm", ["x", "w"], ["y"], name="product", transB=int(transposed))
    ends = [tensor("x", [4, 96])], [tensor("y", [4, 40])]
    made = model([gemm], *ends, [weight("w", matrix.T.copy() if transposed else matrix)])
    one = case(made, tmp_path, {"x": random_array(4, 96)})
    out = one.outputs(one.program(one.lower(PrecisionPlan(default="int4-weights", floating="fp32"))))["y"]
    assert relative_error(out, one.truth[0]["y"]) < 1e-6
