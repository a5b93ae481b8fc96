"""``.tflite`` files written operator by operator, with the schema that comes with LiteRT.

A file is a list of :class:`Tensor` and a list of :class:`Node` that name them. Networks go through the
converter (:mod:`hwbench.engines.litert_convert`); this is for files whose operators are known beforehand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

_VERSIONS = {
    "CONV_2D": 5, "FULLY_CONNECTED": 9, "QUANTIZE": 2, "DEQUANTIZE": 3, "DEPTHWISE_CONV_2D": 3, "MEAN": 2,
}  # fmt: skip


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
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

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
        "MUL": "MulOptions",
        "SOFTMAX": "SoftmaxOptions",
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
