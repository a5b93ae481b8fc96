"""Small ``.tflite`` files for tests: a net of three layers, in float and in int8, with a reference of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hwbench.engines.litert_describe import describe
from hwbench.engines.litert_write import Node, Tensor, write_tflite
from hwbench.records.model import Artefact, Model, ModelFiles

__all__ = ["Node", "Scales", "SmallNet", "Tensor", "as_model", "small_net", "write_float", "write_int8", "write_tflite"]

_RELU = 1  # ActivationFunctionType


def as_model(
    path: Path,
    *,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    batch_size: int | None = None,
    settings: Mapping[str, str] | None = None,
) -> tuple[Model, ModelFiles]:
    """Return a file as the model that it is by itself."""
    facts = describe(path, shapes or {}, batch_size)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    artefact = Artefact(
        engine="litert", sha256=sha256, files=facts.files, label=path.suffix, settings=dict(settings or {})
    )
    model = Model(
        name=path.stem,
        source=str(path),
        kind="engine",
        source_sha256=sha256,
        hub_sha256=sha256,
        weights="as_given",
        opset=0,
        inputs=facts.inputs,
        outputs=facts.outputs,
        input_origin="random",
        inputs_sha256=sha256,
        arithmetic=facts.arithmetic,
        batch_size=batch_size or 1,
        layers=facts.layers,
        parameters=facts.parameters,
        weight_bytes=facts.weight_bytes,
        artefact=artefact,
    )
    return model, ModelFiles(folder=str(path.parent), runtime_graph=path.name)


@dataclass(frozen=True, kw_only=True)
class SmallNet:
    """A convolution with its activation, a view and a product: weights by name, float or int8."""

    kernel: np.ndarray[Any, Any]  # [4, 3, 3, 2]
    bias: np.ndarray[Any, Any]
    weights: np.ndarray[Any, Any]  # [3, 144]

    def reference(self, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Compute the float net in float64: ``x`` is ``[n, 6, 6, 2]``."""
        padded = np.pad(np.asarray(x, np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
        convolved = np.einsum("nhwcij,oijc->nhwo", windows, self.kernel.astype(np.float64)) + self.bias
        flat = np.maximum(convolved, 0).reshape(len(x), -1)
        product: np.ndarray[Any, Any] = flat @ self.weights.astype(np.float64).T
        return product


def small_net(seed: int = 7) -> SmallNet:
    """Return a net with random weights."""
    chance = np.random.default_rng(seed)
    return SmallNet(
        kernel=chance.standard_normal((4, 3, 3, 2), dtype=np.float32),
        bias=chance.standard_normal(4, dtype=np.float32),
        weights=chance.standard_normal((3, 144), dtype=np.float32),
    )


_CONVOLVE = {"padding": 0, "strideW": 1, "strideH": 1, "fusedActivationFunction": _RELU}
_NODES = (
    Node(op="CONV_2D", inputs=("x", "kernel", "bias"), outputs=("net/conv/Relu;net/conv/Conv2D",), options=_CONVOLVE),
    Node(op="RESHAPE", inputs=("net/conv/Relu;net/conv/Conv2D", "shape"), outputs=("net/flat",)),
    Node(op="FULLY_CONNECTED", inputs=("net/flat", "weights"), outputs=("net/y",)),
)


def write_float(path: Path, net: SmallNet, *, batch: int = 1, signature: Mapping[str, str] | None = None) -> Path:
    """Write the net in float32; ``batch`` -1 leaves the axis open."""
    tensors = (
        Tensor(name="x", shape=(batch, 6, 6, 2)),
        Tensor(name="kernel", shape=(4, 3, 3, 2), values=net.kernel),
        Tensor(name="bias", shape=(4,), values=net.bias),
        Tensor(name="net/conv/Relu;net/conv/Conv2D", shape=(batch, 6, 6, 4)),
        Tensor(name="shape", shape=(2,), dtype="int32", values=np.array([-1, 144], np.int32)),
        Tensor(name="net/flat", shape=(batch, 144)),
        Tensor(name="weights", shape=(3, 144), values=net.weights),
        Tensor(name="net/y", shape=(batch, 3)),
    )
    return write_tflite(path, tensors, _NODES, ("x",), ("net/y",), signature)


@dataclass(frozen=True, kw_only=True)
class Scales:
    """Steps of the int8 net's tensors; zero points are 0."""

    x: float = 4 / 127
    hidden: float = 24 / 127
    y: float = 120 / 127


def write_int8(path: Path, net: SmallNet, scales: Scales) -> Path:
    """Write the net in int8, weights with a step for each output channel, int8 in and out."""
    kernel_step = np.abs(net.kernel).reshape(4, -1).max(1) / 127
    weight_step = float(np.abs(net.weights).max() / 127)
    kernel = np.round(net.kernel / kernel_step[:, None, None, None]).astype(np.int8)
    bias_step = kernel_step * scales.x
    hidden = (scales.hidden,)
    tensors = (
        Tensor(name="x", shape=(1, 6, 6, 2), dtype="int8", scale=(scales.x,)),
        Tensor(name="kernel", shape=(4, 3, 3, 2), dtype="int8", values=kernel, scale=kernel_step.tolist()),
        Tensor(
            name="bias",
            shape=(4,),
            dtype="int32",
            values=np.round(net.bias / bias_step).astype(np.int32),
            scale=bias_step.tolist(),
        ),
        Tensor(name="net/conv/Relu;net/conv/Conv2D", shape=(1, 6, 6, 4), dtype="int8", scale=hidden),
        Tensor(name="shape", shape=(2,), dtype="int32", values=np.array([-1, 144], np.int32)),
        Tensor(name="net/flat", shape=(1, 144), dtype="int8", scale=hidden),
        Tensor(
            name="weights",
            shape=(3, 144),
            dtype="int8",
            values=np.round(net.weights / weight_step).astype(np.int8),
            scale=(weight_step,),
        ),
        Tensor(name="net/y", shape=(1, 3), dtype="int8", scale=(scales.y,)),
    )
    return write_tflite(path, tensors, _NODES, ("x",), ("net/y",))
