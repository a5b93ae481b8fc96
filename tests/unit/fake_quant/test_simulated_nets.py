"""Whole networks simulated, held against what ONNX Runtime makes of hwbench's own lowering."""

from pathlib import Path

import numpy as np
import onnx_graphs as graphs
import onnx_ir as ir
import pytest
import torch
from lowered_onnxruntime import lowered
from onnx import helper

from hwbench.errors import UsageError
from hwbench.fake_quant.grids import WeightSteps
from hwbench.fake_quant.place import place
from hwbench.fake_quant.simulate import Simulation, integer_layers, simulate
from hwbench.graph.importer import import_model
from hwbench.quantize.collect import Batches, collect
from hwbench.quantize.weights import quantise, weight_scales
from hwbench.records.model import ImportJob
from hwbench.records.quantization import CalibrationSettings, TensorRange


def _net():
    """A residual block, a padded pool, a mean over space, a classifier of two layers."""
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], "first", pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["c1"], ["r1"], "first_relu"),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], "depthwise", group=8, pads=[1, 1, 1, 1]),
        helper.make_node("Clip", ["c2", "zero", "six"], ["r2"], "clip"),
        helper.make_node("Conv", ["r2", "w3"], ["c3"], "pointwise"),
        helper.make_node("Add", ["c3", "r1"], ["a"], "residual"),
        helper.make_node("Relu", ["a"], ["ra"], "residual_relu"),
        helper.make_node("MaxPool", ["ra"], ["p"], "pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["p", "w4", "b4"], ["c4"], "after", dilations=[2, 2]),
        helper.make_node("GlobalAveragePool", ["c4"], ["g"], "mean"),
        helper.make_node("Flatten", ["g"], ["f"], "flat"),
        helper.make_node("Gemm", ["f", "w5", "b5"], ["h"], "hidden", transB=1),
        helper.make_node("Relu", ["h"], ["hr"], "hidden_relu"),
        helper.make_node("MatMul", ["hr", "w6"], ["m"], "product"),
        helper.make_node("Add", ["m", "b6"], ["logits"], "bias"),
    ]
    shapes = {"w1": (8, 3, 3, 3), "w2": (8, 1, 3, 3), "w3": (8, 8, 1, 1), "w4": (12, 8, 2, 2), "w5": (16, 12)}
    shapes |= {"w6": (16, 5), "b1": (8,), "b2": (8,), "b4": (12,), "b5": (16,), "b6": (5,)}
    weights = [
        graphs.weight(name, graphs.random_array(*shape, seed=seed) * 0.5)
        for seed, (name, shape) in enumerate(shapes.items())
    ]
    weights += [graphs.weight("zero", np.float32(0)), graphs.weight("six", np.float32(6))]
    ends = [graphs.tensor("x", [4, 3, 16, 16])], [graphs.tensor("logits", [4, 5])]
    return graphs.model(nodes, *ends, weights)


def _steps(layers):
    found = {}
    for name, layer in layers.items():
        scales = weight_scales(layer.weight, layer.output_axis)
        values = quantise(layer.weight, scales, layer.output_axis)
        found[name] = WeightSteps(values=values, scales=scales, axis=layer.output_axis)
    return found


def _model(case):
    return ir.load(Path(case.imported.files.folder) / case.imported.files.runtime_graph)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("nets")
    job = ImportJob(model=str(graphs.save(_net(), tmp_path)), batch_size=None, shapes={}, input_data=None, seed=0)
    files = import_model(job, tmp_path / "plain").files
    samples = {"x": np.concatenate([graphs.random_array(4, 3, 16, 16, seed=seed) for seed in range(3)])}
    ranges = collect(
        ir.load(tmp_path / "plain" / files.runtime_graph),
        Batches(arrays=samples, samples=12, size=4),
        CalibrationSettings(),
        folder=tmp_path,
        threads=1,
        progress=lambda fraction: None,
    ).ranges
    (tmp_path / "own").mkdir()
    return lowered(_net(), tmp_path / "own", tensors=ranges), ranges


def test_simulated_network_is_onnxruntimes_to_the_bit(case):
    made, ranges = case
    model = _model(made)
    layers = integer_layers(model)
    view = simulate(
        model, ranges, Simulation(runtime="onnxruntime", weights=_steps(layers), bits=dict.fromkeys(layers, 8))
    )
    for seed in range(10, 14):
        x = graphs.random_array(4, 3, 16, 16, seed=seed)
        with torch.no_grad():
            (found,) = view(torch.from_numpy(x))
        real = made.outputs({"x": x})["logits"]
        assert np.abs(real).max() > 0.1
        np.testing.assert_array_equal(found.numpy(), real)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "litert"])
def test_simulations_are_near_the_float_network(case, runtime):
    made, ranges = case
    model = _model(made)
    layers = integer_layers(model)
    wanted = Simulation(runtime=runtime, weights=_steps(layers), bits=dict.fromkeys(layers, 8))
    view = simulate(model, ranges, wanted)
    x = graphs.random_array(4, 3, 16, 16, seed=1)
    with torch.no_grad():
        found = view(torch.from_numpy(x))[0].numpy()
    truth = made.float_outputs({"x": x})["logits"]
    assert 0 < np.linalg.norm(found - truth) < 0.05 * np.linalg.norm(truth)


def test_sixteen_bit_activations_are_nearer_than_eight(case):
    made, ranges = case
    model = _model(made)
    layers = integer_layers(model)
    x = torch.from_numpy(graphs.random_array(4, 3, 16, 16, seed=1))
    exact = _steps(layers)
    with torch.no_grad():
        weights_alone = simulate(model, {}, Simulation(runtime="litert", weights=exact))(x)[0]
        off = [
            torch.linalg.norm(
                simulate(model, ranges, Simulation(runtime="litert", weights=exact, bits=dict.fromkeys(layers, bits)))(
                    x
                )[0]
                - weights_alone
            )
            for bits in (8, 16)
        ]
    assert off[1] < off[0] / 50


def test_layers_that_are_left_out_stay_in_floats(case):
    made, ranges = case
    model = _model(made)
    layers = integer_layers(model)
    view = simulate(model, ranges, Simulation(runtime="onnxruntime", weights={}, bits={}))
    x = graphs.random_array(4, 3, 16, 16, seed=1)
    with torch.no_grad():
        found = view(torch.from_numpy(x))[0].numpy()
    np.testing.assert_allclose(found, made.float_outputs({"x": x})["logits"], rtol=1e-4, atol=1e-5)
    assert set(layers) == {"first", "depthwise", "pointwise", "after", "hidden", "product"}


def test_a_tensor_without_a_range_is_refused(case):
    made, ranges = case
    model = _model(made)
    layers = integer_layers(model)
    short = {name: found for name, found in ranges.items() if name != "x"}
    with pytest.raises(UsageError, match="no range for tensor 'x'"):
        simulate(model, short, Simulation(runtime="onnxruntime", weights=_steps(layers), bits={"first": 8}))


def test_a_layer_without_steps_is_refused(case):
    made, ranges = case
    with pytest.raises(UsageError, match="'pool' cannot run on integers"):
        simulate(_model(made), ranges, Simulation(runtime="litert", weights={}, bits={"pool": 8}))


def test_unknown_runtime(case):
    made, ranges = case
    with pytest.raises(UsageError, match="'tvm' is not known"):
        simulate(_model(made), ranges, Simulation(runtime="tvm", weights={}))


def test_what_is_rounded_where(case):
    model = _model(case[0])
    layers = set(integer_layers(model))
    for_ort, for_openvino, for_litert = (place(model, layers, name) for name in ("onnxruntime", "openvino", "litert"))
    assert {"residual", "mean", "pool"} <= for_ort.integer
    assert {"x", "c1", "c2", "c3", "a", "p", "c4", "g", "hr"} <= for_ort.made
    assert not {"h", "m", "logits"} & for_ort.made, "matrix products give floats there"
    assert for_openvino.integer == {"residual", "mean"}
    assert for_openvino.read["r1"] == {"depthwise", "residual"}
    assert for_openvino.read["ra"] == {"pool"}, "demand climbs through what only moves"
    assert for_openvino.clipped == {"c3"}, "the plugin fuses the addition into the convolution"
    assert {"h", "m", "c1", "a"} <= for_litert.made
    assert for_litert.read == {"x": {"first"}}


def test_what_begins_in_float_is_added_in_int8_where_it_is_rounded_anyway(case):
    model = _model(case[0])
    without = set(integer_layers(model)) - {"first"}
    placed = place(model, without, "openvino")
    assert "residual" in placed.integer
    assert placed.read["r1"] == {"depthwise", "residual"}


def test_one_sided_ranges_have_their_zero_on_the_grid(case):
    from hwbench.fake_quant.runtimes import RUNTIMES

    for rules in RUNTIMES.values():
        for low, high in ((2.0, 5.0), (-5.0, -2.0), (0.0, 0.0)):
            one = TensorRange(low=low, high=high, magnitude=max(-low, high), seen_low=low, seen_high=high)
            grid = rules.grid(one, bits=8, product=False)
            assert grid.low <= grid.zero_point <= grid.high
            assert float(rules.round(torch.zeros(1), grid)) == 0
