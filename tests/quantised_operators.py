"""Single operators on integers in each runtime, for tests that hold a simulation against the real kernels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

from hwbench.fake_quant.arithmetic import Products
from hwbench.fake_quant.grids import Grid


def random_grid(rng, *, signed=False, bits=8, awkward=False):
    """A grid with any zero point; ``awkward`` scales are round numbers, so that ties are common."""
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    scale = rng.choice([0.1, 0.05, 0.02, 0.25]) if awkward else rng.uniform(0.001, 0.1)
    return Grid(
        scale=float(np.float32(scale)),
        zero_point=0 if bits == 16 else int(rng.integers(low, high + 1)),
        low=low,
        high=high,
    )


def numbers(grid, steps):
    return grid.numbers(torch.from_numpy(np.asarray(steps, np.float64)))


def steps_of(grid, result):
    return (grid.centred(result) + grid.zero_point).numpy().astype(np.int64)


def output_grid(rng, x, scales, sums, *, awkward=False, relu=False):
    """A grid on which most results fall inside and some are cut off."""
    real = np.abs(sums).mean() * x.scale * float(scales.mean()) or 1.0
    scale = x.scale * float(rng.choice([0.5, 1.0, 2.0, 5.0])) if awkward else real / 60 * rng.uniform(0.5, 2)
    zero = x.low if relu else int(rng.integers(x.low, x.high + 1)) if x.bits == 8 else 0
    return Grid(scale=float(np.float32(scale)), zero_point=zero, low=x.low, high=x.high)


def products(x, sums, scales, bias, *, axes):
    """What an arithmetic takes; ``bias`` in steps of the products."""
    shape = [-1] + [1] * axes
    real = (np.float32(x.scale) * scales * bias.astype(np.float32)).astype(np.float32)
    return Products(
        accumulators=torch.from_numpy(np.asarray(sums, np.float64)),
        x=x,
        weight_scales=torch.from_numpy(scales.reshape(shape)),
        bias=torch.from_numpy(real.reshape(shape)),
        matrix=axes == 0,
    )


def session(nodes, inputs, constants, output):
    """An ONNX Runtime session over nodes with one output ``y``; and the operators it makes of them."""
    ends = [helper.make_tensor_value_info(name, TensorProto.UINT8, list(shape)) for name, shape in inputs.items()]
    graph = helper.make_graph(
        nodes,
        "one",
        ends,
        [helper.make_tensor_value_info("y", output, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])


def dequantised(source, grid, *, name):
    """A DequantizeLinear of an input, and its constants."""
    node = helper.make_node("DequantizeLinear", [source, f"{name}s", f"{name}z"], [f"{name}f"])
    return node, {f"{name}s": np.float32(grid.scale), f"{name}z": np.uint8(grid.zero_point)}


def quantised(source, grid):
    node = helper.make_node("QuantizeLinear", [source, "ys", "yz"], ["y"])
    return node, {"ys": np.float32(grid.scale), "yz": np.uint8(grid.zero_point)}


def weights(values, scales, bias, x):
    """DequantizeLinear nodes of int8 weights and an int32 bias, and their constants."""
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wf"], axis=0),
        helper.make_node("DequantizeLinear", ["b", "bs", "bz"], ["bf"], axis=0),
    ]
    constants = {
        "w": values.astype(np.int8),
        "ws": scales,
        "wz": np.zeros(len(scales), np.int8),
        "b": bias.astype(np.int32),
        "bs": (np.float32(x.scale) * scales).astype(np.float32),
        "bz": np.zeros(len(scales), np.int32),
    }
    return nodes, constants


def run_tflite(path: Path, feeds, *, delegate=True):
    """Run a file in LiteRT, with XNNPACK or with its own kernels; inputs in order."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    kinds = (OpResolverType.AUTO, OpResolverType.BUILTIN_REF)
    interpreter = Interpreter(
        model_path=str(path), experimental_op_resolver_type=kinds[0 if delegate else 1], num_threads=1
    )
    interpreter.allocate_tensors()
    for detail, array in zip(interpreter.get_input_details(), feeds, strict=True):
        interpreter.set_tensor(detail["index"], array)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
