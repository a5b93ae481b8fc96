"""Anchors as ``.tflite`` files, float and int8 with floats at both ends, as ``hwbench build`` gives them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hwbench.engines.litert_write import Node, Tensor, write_tflite
from hwbench.prediction.probe.anchors import ACTIVATION_STEP, Anchor, Step, in_int8, weights

_SAME, _RELU = 0, 1  # Padding and ActivationFunctionType of the schema


@dataclass
class _File:
    precision: str
    tensors: list[Tensor] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    chance: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def activation(self, shape: tuple[int, ...], *, positive: bool = False, floating: bool = False) -> str:
        name = f"t{len(self.tensors)}"
        if self.precision == "fp32" or floating:
            self.tensors.append(Tensor(name=name, shape=shape))
        else:
            zero = -128 if positive else 0
            self.tensors.append(Tensor(name=name, shape=shape, dtype="int8", scale=(ACTIVATION_STEP,), zero_point=zero))
        return name

    def weight_and_bias(self, shape: tuple[int, ...], order: tuple[int, ...], outputs: int) -> list[str]:
        """Return the names of random weights and of a bias of zeros; ``order``: of the axes in the file."""
        values, names = weights(self.chance, shape), [f"w{len(self.tensors)}", f"b{len(self.tensors)}"]
        if self.precision == "fp32":
            lying, zeros = values.transpose(order), np.zeros(outputs, np.float32)
            self.tensors.append(Tensor(name=names[0], shape=lying.shape, values=lying))
            self.tensors.append(Tensor(name=names[1], shape=(outputs,), values=zeros))
            return names
        stored, step = in_int8(values)
        lying, bias = stored.transpose(order), np.zeros(outputs, np.int32)
        scale = (ACTIVATION_STEP * step,)
        self.tensors.append(Tensor(name=names[0], shape=lying.shape, dtype="int8", values=lying, scale=(step,)))
        self.tensors.append(Tensor(name=names[1], shape=(outputs,), dtype="int32", values=bias, scale=scale))
        return names

    def add(self, op: str, inputs: list[str], output: str, **options: object) -> str:
        self.nodes.append(Node(op=op, inputs=inputs, outputs=(output,), options=options))
        return output


def write_anchor(anchor: Anchor, precision: str, path: Path) -> None:
    """Write an anchor as a ``.tflite`` file; pictures lie with the channels last."""
    file = _File(precision)
    shape = (1, anchor.size, anchor.size, anchor.channels) if anchor.size else (anchor.rows, anchor.channels)
    entry = file.activation(shape, floating=True)
    first = entry if precision == "fp32" else file.add("QUANTIZE", [entry], file.activation(shape))
    past: list[tuple[str, tuple[int, ...]]] = [(first, shape)]
    for step in anchor.steps:
        past.append(_layer(file, step, past))
    end = past[-1][0]
    if precision != "fp32":
        end = file.add("DEQUANTIZE", [end], file.activation(past[-1][1], floating=True))
    write_tflite(path, file.tensors, file.nodes, (entry,), (end,), {entry: "x", end: "y"})


def _layer(file: _File, step: Step, past: list[tuple[str, tuple[int, ...]]]) -> tuple[str, tuple[int, ...]]:
    source, shape = past[-1]
    relu = {"fusedActivationFunction": _RELU} if step.relu else {}
    if step.op in {"conv", "depthwise"}:
        return _convolve(file, step, source, shape, relu)
    if step.op == "dense":
        out = (shape[0], step.channels)
        inputs = file.weight_and_bias((shape[-1], step.channels), (1, 0), step.channels)
        return file.add("FULLY_CONNECTED", [source, *inputs], file.activation(out, positive=step.relu), **relu), out
    if step.op == "add":
        inputs = [source, past[-step.back][0]]
        return file.add("ADD", inputs, file.activation(shape, positive=step.relu), **relu), shape
    if step.op == "mean":
        axes = f"a{len(file.tensors)}"
        file.tensors.append(Tensor(name=axes, shape=(2,), dtype="int32", values=np.array([1, 2], np.int32)))
        out = (shape[0], shape[-1])
        return file.add("MEAN", [source, axes], file.activation(out)), out
    if step.op == "swish":
        gate = file.add("LOGISTIC", [source], file.activation(shape))
        return file.add("MUL", [source, gate], file.activation(shape)), shape
    return file.add("SOFTMAX", [source], file.activation(shape), beta=1.0), shape


def _convolve(
    file: _File, step: Step, source: str, shape: tuple[int, ...], relu: dict[str, int]
) -> tuple[str, tuple[int, ...]]:
    size = -(-shape[1] // step.stride)
    depthwise = step.op == "depthwise"
    channels = shape[-1] if depthwise else step.channels
    out = (1, size, size, channels)
    kernel = (channels, 1 if depthwise else shape[-1], step.kernel, step.kernel)
    options: dict[str, object] = {"padding": _SAME, "strideW": step.stride, "strideH": step.stride, **relu}
    if depthwise:
        options["depthMultiplier"] = 1
    inputs = [source, *file.weight_and_bias(kernel, (1, 2, 3, 0) if depthwise else (0, 2, 3, 1), channels)]
    op = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
    return file.add(op, inputs, file.activation(out, positive=step.relu), **options), out
