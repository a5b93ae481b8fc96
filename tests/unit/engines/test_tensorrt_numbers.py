"""The numbers of quantised graphs, held against fake quantisation written down in plain numpy."""

import ml_dtypes
import numpy as np
import onnx_graphs as graphs
import pytest

pytest.importorskip("onnxruntime", reason="runs the graphs")

import tensorrt_lowering as low
from tensorrt_lowering import net

HALF = {"fp32": np.float32, "fp16": np.float16, "bf16": ml_dtypes.bfloat16}
E4M3 = np.sort(np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float64))
E4M3 = E4M3[np.isfinite(E4M3)]


def nearest_e4m3(values):
    """The nearest of all 8-bit floats, found by looking; ties are not decided."""
    middle = np.clip(np.searchsorted(E4M3, values), 1, len(E4M3) - 1)
    low_, high = E4M3[middle - 1], E4M3[middle]
    return np.where(values - low_ < high - values, low_, high)


def grid(values, largest, kind, axis=None):
    """Numbers as integers or E4M3 times a scale that the float type holds, rounded up."""
    others = None if axis is None else tuple(i for i in range(values.ndim) if i != axis)
    extreme = np.abs(values).max(axis=others, keepdims=axis is not None)
    scale = np.asarray(np.float32(extreme / largest))
    rounded = scale.astype(HALF[kind])
    short = rounded.astype(np.float32) < scale
    up = (rounded.astype(np.float64) * (1 + (2.0**-10 if kind == "fp16" else 2.0**-7))).astype(HALF[kind])
    scale = np.where(short & (kind != "fp32"), up, rounded).astype(np.float64)
    steps = values.astype(np.float64) / scale
    steps = nearest_e4m3(np.clip(steps, -448, 448)) if largest == 448 else np.clip(np.rint(steps), -128, 127)
    return steps * scale


def linear(seed=0, inputs=64):
    return net(
        [("Gemm", "x w b", "y", {"transB": 1})],
        {"w": graphs.random_array(24, inputs, seed=seed) / 8, "b": graphs.random_array(24, seed=seed + 1)},
        {"x": [6, inputs]},
        {"y": [6, 24]},
    )


def parts(case):
    weights = _initializers(case)
    return case.feeds["x"], weights["w"], weights["b"]


def _initializers(case):
    import onnx
    from onnx import numpy_helper

    path = f"{case.imported.files.folder}/{case.imported.files.runtime_graph}"
    return {item.name: numpy_helper.to_array(item) for item in onnx.load(path).graph.initializer}


@pytest.mark.parametrize(("scheme", "largest"), [("int8", 127), ("fp8", 448)])
@pytest.mark.parametrize("kind", ["fp32", "fp16"])
def test_a_product_with_both_factors_quantised(scheme, largest, kind, tmp_path):
    case = low.lowered(linear(), tmp_path, scheme, floating=kind)
    x, w, b = parts(case)
    x = x.astype(HALF[kind])
    expected = grid(x, largest, kind) @ grid(w, largest, kind, axis=0).T + b
    found = case.outputs()["y"]
    assert low.sqnr_db(expected, found) > (110 if kind == "fp32" else 55)
    assert low.sqnr_db(case.float_outputs()["y"], found) < 50  # it was quantised at all


def test_a_product_in_bf16(tmp_path):
    case = low.lowered(linear(), tmp_path, "int8", floating="bf16")
    x, w, b = parts(case)
    expected = grid(x.astype(ml_dtypes.bfloat16), 127, "bf16") @ grid(w, 127, "bf16", axis=0).T + b
    assert low.sqnr_db(expected, low.reference(case.path, case.feeds)["y"]) > 40


@pytest.mark.parametrize("transposed", [False, True])
def test_a_convolution(transposed, tmp_path):
    op = "ConvTranspose" if transposed else "Conv"
    made = net(
        [(op, "x w", "y")], {"w": graphs.random_array(16, 24, 1, 1)}, {"x": [1, 16 if transposed else 24, 5, 5]},
        {"y": None},
    )  # fmt: skip
    case = low.lowered(made, tmp_path, "int8", floating="fp32")
    x, w = case.feeds["x"], _initializers(case)["w"]
    kernel = grid(w, 127, "fp32", axis=1 if transposed else 0)[:, :, 0, 0]
    expected = np.einsum("io,bihw->bohw" if transposed else "oi,bihw->bohw", kernel, grid(x, 127, "fp32"))
    assert low.sqnr_db(expected, case.outputs()["y"]) > 110


def test_int8_weights_alone(tmp_path):
    case = low.lowered(linear(), tmp_path, "int8-weights", floating="fp32", flavour="tensorrt-rtx", ranges={})
    x, w, b = parts(case)
    expected = x.astype(np.float64) @ grid(w, 127, "fp32", axis=0).T + b
    assert low.sqnr_db(expected, case.outputs()["y"]) > 110


def test_int4_weights_alone(tmp_path):
    """The scales of blocks are least squares, so they are read back, and only the rounding is done again."""
    import onnx
    from onnx import numpy_helper

    case = low.lowered(linear(inputs=128), tmp_path, "int4-weights", floating="fp32", ranges={})
    x, w, b = parts(case)
    stored = {item.name: item for item in onnx.load(case.path).graph.initializer}
    scales = np.repeat(numpy_helper.to_array(stored["y/weight/scale"]).astype(np.float64), 64, axis=1)
    blocks = np.clip(np.rint(w / scales), -7, 7) * scales
    assert low.sqnr_db(x @ blocks.T + b, case.outputs()["y"]) > 110
    assert low.sqnr_db(w, blocks) > 17  # four bits


def test_an_activation_that_was_always_zero_has_some_scale(tmp_path):
    feeds = {"x": np.zeros((6, 64), np.float32)}
    case = low.lowered(linear(), tmp_path, "int8", feeds=feeds)
    np.testing.assert_allclose(case.outputs()["y"], case.float_outputs()["y"], rtol=2e-3)


@pytest.mark.parametrize("kind", ["fp32", "fp16"])
def test_channels_of_any_size_keep_their_digits(kind, tmp_path):
    """Scales of fp16 have few digits below 6e-5; a channel of small weights must not vanish or be cut off."""
    sizes = np.array([1e-6, 1e-4, 1e-2, 1, 100], np.float32).repeat(4)
    made = net(
        [("Gemm", "x w", "y", {"transB": 1})],
        {"w": graphs.random_array(20, 64) * sizes[:, None]},
        {"x": [16, 64]},
        {"y": [16, 20]},
    )
    case = low.lowered(made, tmp_path, "int8", floating=kind)
    truth, found = case.float_outputs()["y"], case.outputs()["y"]
    signal = [low.sqnr_db(truth[:, index], found[:, index]) for index in range(20)]
    usable = slice(4, None) if kind == "fp16" else slice(None)  # 1e-6 is below what fp16 itself can tell
    assert min(signal[usable]) > 20
