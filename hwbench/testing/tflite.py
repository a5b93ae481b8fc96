"""Small ``.tflite`` files, written with the schema that comes with LiteRT, for tests.

A file is a list of :class:`Tensor` and a list of :class:`Node` that name them. Only what tests need is here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hwbench.engines.litert_describe import describe
from hwbench.records.model import Artefact, Model, ModelFiles

_VERSIONS = {
    "CONV_2D": 5, "FULLY_CONNECTED": 9, "QUANTIZE": 2, "DEQUANTIZE": 3, "DEPTHWISE_CONV_2D": 3, "MEAN": 2,
}  # fmt: skip
_RELU = 1  # ActivationFunctionType


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """A tensor; ``scale`` (one, or one for each size of ``axis``) makes it quantised, -1 in ``shape`` opens an axis."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    values: np.ndarray[Any, Any] | None = None
    scale: Sequence[float] = ()
    zero_point: int = 0
    axis: int = 0


@dataclass(frozen=True, kw_only=True)
class Node:
    """A node; ``options`` are the fields of its options table, ``custom`` the name of an op that no schema knows.

    ``version``: of the operator, where the table here is not right.
    """

    op: str
    inputs: Sequence[str]
    outputs: Sequence[str]
    options: Mapping[str, object] = field(default_factory=dict)
    custom: str | None = None
    version: int | None = None


def write_tflite(
    path: Path,
    tensors: Sequence[Tensor],
    nodes: Sequence[Node],
    inputs: Sequence[str],
    outputs: Sequence[str],
    signature: Mapping[str, str] | None = None,
) -> Path:
    """Write a file of one subgraph; ``signature`` gives names to inputs and outputs, by tensor."""
    import flatbuffers  # noqa: PLC0415 - comes with LiteRT
    from ai_edge_litert import schema_py_generated as schema  # noqa: PLC0415 - only files need it

    places = {tensor.name: place for place, tensor in enumerate(tensors)}
    model = schema.ModelT()
    model.version = 3
    model.buffers = [schema.BufferT(), *(_buffer(schema, tensor) for tensor in tensors)]
    model.operatorCodes = [_code(schema, node) for node in nodes]
    graph = schema.SubGraphT()
    graph.tensors = [_tensor(schema, tensor, place + 1) for place, tensor in enumerate(tensors)]
    graph.operators = [_operator(schema, node, place, places) for place, node in enumerate(nodes)]
    graph.inputs = [places[name] for name in inputs]
    graph.outputs = [places[name] for name in outputs]
    model.subgraphs = [graph]
    if signature is not None:
        model.signatureDefs = [_signature(schema, signature, inputs, outputs, places)]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def _buffer(schema: Any, tensor: Tensor) -> Any:
    buffer = schema.BufferT()
    if tensor.values is not None:
        buffer.data = np.frombuffer(np.ascontiguousarray(tensor.values).tobytes(), np.uint8)
    return buffer


def _tensor(schema: Any, tensor: Tensor, buffer: int) -> Any:
    made = schema.TensorT()
    made.name = tensor.name
    made.shape = [abs(size) for size in tensor.shape]
    if -1 in tensor.shape:
        made.shapeSignature = list(tensor.shape)
    made.type = getattr(schema.TensorType, tensor.dtype.upper())
    made.buffer = buffer
    if tensor.scale:
        made.quantization = schema.QuantizationParametersT()
        made.quantization.scale = list(tensor.scale)
        made.quantization.zeroPoint = [tensor.zero_point] * len(tensor.scale)
        made.quantization.quantizedDimension = tensor.axis
    return made


def _code(schema: Any, node: Node) -> Any:
    code = schema.OperatorCodeT()
    kind = getattr(schema.BuiltinOperator, node.op)
    code.builtinCode, code.deprecatedBuiltinCode = kind, min(kind, 127)
    code.version = node.version or _VERSIONS.get(node.op, 1)
    code.customCode = node.custom
    return code


def _operator(schema: Any, node: Node, place: int, places: Mapping[str, int]) -> Any:
    operator = schema.OperatorT()
    operator.opcodeIndex = place
    operator.inputs = [places[name] for name in node.inputs]
    operator.outputs = [places[name] for name in node.outputs]
    table = {
        "CONV_2D": "Conv2DOptions",
        "FULLY_CONNECTED": "FullyConnectedOptions",
        "BATCH_MATMUL": "BatchMatMulOptions",
        "RESHAPE": "ReshapeOptions",
        "ADD": "AddOptions",
        "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
        "MEAN": "ReducerOptions",
    }.get(node.op)
    if table is not None:
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, table)
        operator.builtinOptions = getattr(schema, f"{table}T")()
        for name, value in node.options.items():
            setattr(operator.builtinOptions, name, value)
    return operator


def _signature(
    schema: Any, names: Mapping[str, str], inputs: Sequence[str], outputs: Sequence[str], places: Mapping[str, int]
) -> Any:
    def ends(tensors: Sequence[str]) -> list[Any]:
        made = []
        for tensor in tensors:
            end = schema.TensorMapT()
            end.name, end.tensorIndex = names.get(tensor, tensor), places[tensor]
            made.append(end)
        return made

    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = "serving_default", 0
    signature.inputs, signature.outputs = ends(inputs), ends(outputs)
    return signature


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
