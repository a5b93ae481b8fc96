"""Tiny models whose outputs are known, imported as hwbench imports any other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwbench.children import run_child
from hwbench.errors import ModelError
from hwbench.protocols import Tensors
from hwbench.records.model import ImportJob, ImportResult, Model, ModelFiles
from hwbench.testing.tflite import Scales, as_model, small_net, write_float, write_int8

_OPSET, _IR = 18, 9
_NAMES = {"x": "image", "net/y": "scores"}  # of a signature
_TORCH_SOURCE = """
import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(8, 4)
        with torch.no_grad():
            self.linear.weight.copy_(torch.arange(32).reshape(4, 8) / 32 - 0.5)
            self.linear.bias.copy_(torch.arange(4) / 4 - 0.4)

    def forward(self, x):
        return torch.relu(self.linear(x))


def make():
    return Net(), (torch.ones(2, 8),)
"""


@dataclass(frozen=True, kw_only=True)
class Example:
    """An imported model; ``inputs`` fit it, and ``reference`` computes its outputs with numpy, in float64."""

    name: str
    model: Model
    files: ModelFiles
    inputs: Tensors
    reference: Callable[[Tensors], Tensors]

    def other_inputs(self) -> Tensors:
        """Return inputs that give other outputs."""
        return {name: np.flip(array).copy() for name, array in self.inputs.items()}


def onnx_examples(folder: Path) -> tuple[Example, ...]:
    """Build and import three ONNX graphs: products, two inputs and two outputs, a convolution with a BatchNorm."""
    onnx = _onnx()
    examples = []
    for name, build in {"products": _products, "pairs": _pairs, "convolution": _convolution}.items():
        graph, inputs, reference = build(np.random.default_rng(7))
        path = folder / f"{name}.onnx"
        opset = onnx.helper.make_opsetid("", _OPSET)
        onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=_IR), path)
        imported = _imported(str(path), folder / name)
        examples.append(
            Example(name=name, model=imported.model, files=imported.files, inputs=inputs, reference=reference)
        )
    return tuple(examples)


def torch_examples(folder: Path) -> tuple[Example, ...]:
    """Write and import one torch module of two layers."""
    source = folder / "two_layers.py"
    source.write_text(_TORCH_SOURCE)
    imported = _imported(f"{source}:make", folder / "two_layers")
    weight, bias = np.arange(32).reshape(4, 8) / 32 - 0.5, np.arange(4) / 4 - 0.4
    (output,) = imported.model.outputs

    def reference(inputs: Tensors) -> Tensors:
        return {output.name: np.maximum(inputs["x"] @ weight.T + bias, 0)}

    inputs = {"x": np.random.default_rng(7).standard_normal((2, 8), dtype=np.float32)}
    return (Example(name="two_layers", model=imported.model, files=imported.files, inputs=inputs, reference=reference),)


def tflite_examples(folder: Path) -> tuple[Example, ...]:
    """Write the same small net in float32, with an open axis and in int8, as files of LiteRT."""
    pytest.importorskip("ai_edge_litert", reason="LiteRT's schema writes the examples")
    net, scales = small_net(), Scales()
    chance = np.random.default_rng(7)
    files = {
        "float": as_model(write_float(folder / "float.tflite", net)),
        "batch": as_model(write_float(folder / "batch.tflite", net, batch=-1, signature=_NAMES), batch_size=3),
        "int8": as_model(write_int8(folder / "int8.tflite", net, scales)),
    }

    def example(name: str, model: Model, files: ModelFiles) -> Example:
        (given,), (result,) = model.inputs, model.outputs
        values = chance.standard_normal(given.shape, dtype=np.float32)
        is_int8 = given.dtype == "int8"
        step_in, step_out = (scales.x, scales.y) if is_int8 else (1.0, 1.0)

        def reference(inputs: Tensors) -> Tensors:
            return {result.name: net.reference(inputs[given.name] * np.float64(step_in)) / step_out}

        x = np.clip(np.round(values / step_in), -128, 127).astype(np.int8) if is_int8 else values
        return Example(name=name, model=model, files=files, inputs={given.name: x}, reference=reference)

    return tuple(example(name, *found) for name, found in files.items())


def _onnx() -> Any:
    import onnx  # noqa: PLC0415 - the other contracts do without it

    return onnx


def _imported(model: str, folder: Path) -> ImportResult:
    job = ImportJob(model=model, batch_size=None, shapes={}, input_data=None, seed=0)
    what = f"importing {model}"
    return run_child(
        "hwbench.graph.importer", job, ImportResult, folder=folder, what=what, failure=ModelError, timeout_s=300
    )


_Built = tuple[Any, Tensors, Callable[[Tensors], Tensors]]


def _products(chance: np.random.Generator) -> _Built:
    helper = _onnx().helper
    w, b, v = (chance.standard_normal(shape, dtype=np.float32) for shape in ((8, 6), (6,), (6, 3)))
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"], name="first"),
        helper.make_node("Relu", ["h"], ["r"], name="relu"),
        helper.make_node("MatMul", ["r", "v"], ["y"], name="second"),
    ]
    graph = _graph("products", nodes, {"x": (4, 8)}, {"y": (4, 3)}, {"w": w, "b": b, "v": v})
    inputs = {"x": chance.standard_normal((4, 8), dtype=np.float32)}
    return graph, inputs, lambda given: {"y": np.maximum(given["x"] @ _wide(w) + b, 0) @ _wide(v)}


def _pairs(chance: np.random.Generator) -> _Built:
    """Outputs in another order than that of their names, and an input that is no float."""
    helper = _onnx().helper
    table = chance.standard_normal((10, 6), dtype=np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"], name="lookup"),
        helper.make_node("Add", ["rows", "x"], ["total"], name="add"),
        helper.make_node("Mul", ["rows", "x"], ["product"], name="multiply"),
    ]
    shape = (5, 6)
    graph = _graph("pairs", nodes, {"ids": (5,), "x": shape}, {"total": shape, "product": shape}, {"table": table})
    inputs: Tensors = {
        "ids": np.array([3, 0, 9, 3, 1], dtype=np.int64),
        "x": chance.standard_normal(shape, dtype=np.float32),
    }

    def reference(given: Tensors) -> Tensors:
        rows = _wide(table)[given["ids"]]
        return {"total": rows + given["x"], "product": rows * given["x"]}

    return graph, inputs, reference


def _convolution(chance: np.random.Generator) -> _Built:
    helper = _onnx().helper
    kernel = chance.standard_normal((4, 3, 3, 3), dtype=np.float32)
    scale, shift, mean = (chance.standard_normal(4, dtype=np.float32) for _ in range(3))
    variance = chance.uniform(0.5, 2, 4).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"], name="norm", epsilon=1e-5),
        helper.make_node("Relu", ["n"], ["r"], name="relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["y"], name="pool"),
    ]
    weights = {"k": kernel, "s": scale, "b": shift, "m": mean, "v": variance}
    graph = _graph("convolution", nodes, {"x": (2, 3, 6, 6)}, {"y": (2, 4, 1, 1)}, weights)

    def reference(given: Tensors) -> Tensors:
        padded = np.pad(_wide(given["x"]), ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
        convolved = np.einsum("nchwij,ocij->nohw", windows, _wide(kernel))
        factor = (_wide(scale) / np.sqrt(_wide(variance) + 1e-5))[:, None, None]
        normal = (convolved - _wide(mean)[:, None, None]) * factor + _wide(shift)[:, None, None]
        return {"y": np.maximum(normal, 0).mean(axis=(2, 3), keepdims=True)}

    return graph, {"x": chance.standard_normal((2, 3, 6, 6), dtype=np.float32)}, reference


def _wide(array: Any) -> Any:
    return np.asarray(array, dtype=np.float64)


def _graph(
    name: str,
    nodes: list[Any],
    inputs: Mapping[str, tuple[int, ...]],
    outputs: Mapping[str, tuple[int, ...]],
    weights: Mapping[str, Any],
) -> Any:
    """Return an ONNX graph; every tensor is float32, but ``ids`` are int64."""
    onnx = _onnx()

    def info(tensor: str, shape: tuple[int, ...]) -> Any:
        kind = onnx.TensorProto.INT64 if tensor == "ids" else onnx.TensorProto.FLOAT
        return onnx.helper.make_tensor_value_info(tensor, kind, shape)

    return onnx.helper.make_graph(
        nodes,
        name,
        [info(tensor, shape) for tensor, shape in inputs.items()],
        [info(tensor, shape) for tensor, shape in outputs.items()],
        [onnx.numpy_helper.from_array(array, tensor) for tensor, array in weights.items()],
    )
