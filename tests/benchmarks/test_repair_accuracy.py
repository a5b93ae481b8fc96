"""Whether the repairs of weights help: int8 simulated in a float network for CIFAR-10 (docs/quantization.md).

make bench PYTEST_ARGS="-k repairs"
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import repair_graphs as nets
from command import shared_data
from onnx import helper

from hwbench.graph.linear import Linear, linear_layers, set_constant
from hwbench.graph.onnx_file import fix_axes, infer_shapes
from hwbench.quantize.adaround import adaround
from hwbench.quantize.bias import correct_bias, weights_of
from hwbench.quantize.equalize import equalize

BATCH = 50
MEAN = np.array([0.485, 0.456, 0.406], np.float32).reshape(3, 1, 1)
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32).reshape(3, 1, 1)


def pictures(name, count):
    stored = np.load(shared_data(f"cifar10/{name}.npz"))
    x = stored["x"][:count].transpose(0, 3, 1, 2).astype(np.float32) / 255
    return (x - MEAN) / DEVIATION, stored["y"][:count]


def outputs(model, x, names=None):
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime computes the networks")
    proto = ir.to_proto(model)
    proto.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names or ())
    session = runtime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    wanted = names or [proto.graph.output[0].name]
    batches = [session.run(wanted, {"input": x[i : i + BATCH]}) for i in range(0, len(x), BATCH)]
    return {name: np.concatenate(parts) for name, parts in zip(wanted, zip(*batches, strict=True), strict=True)}


def simulated(model, seen, bits):
    """The network with rounded weights and, at the input of each layer, a grid of 8 bits over what was seen."""
    model = ir.from_proto(ir.to_proto(model))
    done = {}
    for layer in [item for item in linear_layers(model) if isinstance(item, Linear)]:
        set_constant(layer.node, 1, nets.fake_quantised(layer.weight, layer.output_axis, bits))
        value = layer.input
        if value.name not in done:
            low, high = min(float(seen[value.name].min()), 0.0), max(float(seen[value.name].max()), 0.0)
            step = (high - low) / 255
            grid = [
                ir.Value(name=f"{value.name}.{part}", const_value=ir.tensor(array))
                for part, array in (("step", np.float32(step)), ("zero", np.uint8(round(-low / step))))
            ]
            for part in grid:
                model.graph.initializers[part.name] = part
            there = ir.Node("", "QuantizeLinear", [value, *grid])
            back = ir.Node("", "DequantizeLinear", [there.outputs[0], *grid])
            there.outputs[0].name, back.outputs[0].name = f"{value.name}.q", f"{value.name}.dq"
            model.graph.insert_before(layer.node, [there, back])
            done[value.name] = back.outputs[0]
        layer.node.replace_input_with(0, done[value.name])
    return model


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("repairs", ["none", "equalize", "bias", "adaround", "adaround bias"])
def test_repairs_on_resnet20(benchmark, bits, repairs):
    some, _ = pictures("calib_train", 500)
    x, y = pictures("test_A", 5000)
    model = ir.load(shared_data("cifar10/resnet20.onnx"))
    fix_axes(model, {}, BATCH)
    model = infer_shapes(model)
    exact = outputs(model, x)[model.graph.outputs[0].name]

    def repaired():
        if "equalize" in repairs:
            equalize(model)
        layers = [item for item in linear_layers(model) if isinstance(item, Linear)]
        axes = {layer.input.name: 1 for layer in layers}
        seen = outputs(model, some, [name for name in axes if name != "input"]) | {"input": some}
        floats = weights_of(model)
        if "adaround" in repairs:
            adaround(model, lambda name: [seen[name]], bits=bits)
        if "bias" in repairs:
            facts = {name: nets.measured(seen[name], axis) for name, axis in axes.items()}
            correct_bias(model, facts, lambda w, axis: nets.fake_quantised(w, axis, bits), before=floats)
        return simulated(model, seen, bits)

    changed = benchmark.pedantic(repaired, rounds=1)
    got = next(iter(outputs(changed, x).values()))
    right, same = (got.argmax(1) == y).mean(), (got.argmax(1) == exact.argmax(1)).mean()
    noise = 10 * np.log10(np.square(exact).sum() / np.square(got - exact).sum())
    print(f"\nweights {bits} bits, {repairs}: top-1 {right:.2%}, as the float network {same:.2%}, {noise:.1f} dB")
    assert same > 0.85
