"""The graph that ONNX Runtime's quantisers are given, and what is to be known about it.

Their tools work on ``ModelProto``. Before they see the hub, constants become initialisers (they look for weights there
alone), GELU becomes one operator (a pattern that is torn apart by quantised pieces runs slower and less exactly), and
what the exporter wrote about where a node comes from is dropped: a file that is deployed needs no stack traces.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper
from onnx_ir.passes.common import LiftConstantsToInitializersPass

Array = np.ndarray[tuple[int, ...], np.dtype[Any]]

MICROSOFT = "com.microsoft"
_CHANNELS_SINCE = 13  # the opset in which DequantizeLinear got its axis
_EXTERNAL_ABOVE_BYTES = 1_500_000_000  # protobuf ends at 2 GiB


def read_hub(path: Path) -> onnx.ModelProto:
    """Return the float graph of a hub file, made ready for ONNX Runtime's quantisers."""
    hub = ir.from_proto(onnx.load(path))
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(hub)
    model: onnx.ModelProto = ir.to_proto(hub)
    for node in model.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    _fuse_gelu(model)
    return model


def own_weights(model: onnx.ModelProto, layers: Collection[str]) -> None:
    """Give each layer of the named operators weights of its own: what one is quantised to is none of another's affair.

    Weights that a single node reads stay as they are; of others, each layer gets a copy.
    """
    net = Net(model)
    taken = {*net.weights, *net.producer, *net.types}
    for node in net.nodes:
        if node.op_type not in layers or node.domain:
            continue
        for index, name in enumerate(node.input):
            if name not in net.weights or (len(net.consumers[name]) == 1 and name not in net.outputs):
                continue
            copy = onnx.TensorProto()
            copy.CopyFrom(net.weights[name])
            while copy.name in taken:
                copy.name += "_again"
            taken.add(copy.name)
            model.graph.initializer.append(copy)
            node.input[index] = copy.name


def with_axes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model in an opset whose Q/DQ operators know channels: 13, or what it has where that is newer."""
    version = next((opset.version for opset in model.opset_import if opset.domain in {"", "ai.onnx"}), 1)
    if version >= _CHANNELS_SINCE:
        return model
    import onnx.version_converter

    converted: onnx.ModelProto = onnx.version_converter.convert_version(model, _CHANNELS_SINCE)
    return converted


def _fuse_gelu(model: onnx.ModelProto) -> None:
    """Make one operator of each GELU: ONNX Runtime does not know the order in which torch multiplies by a half."""
    from onnxruntime.transformers.fusion_gelu import FusionGelu
    from onnxruntime.transformers.onnx_model import OnnxModel

    if any(node.op_type == "Erf" for node in model.graph.node):
        FusionGelu(OnnxModel(model)).apply()
        import_microsoft(model)


def import_microsoft(model: onnx.ModelProto) -> None:
    """Declare the operators of ONNX Runtime's own domain."""
    if all(opset.domain != MICROSOFT for opset in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid(MICROSOFT, 1))


def save(model: onnx.ModelProto, folder: Path, name: str) -> tuple[str, ...]:
    """Write the model, its weights beside it where it is too large for one file; return the names of the files."""
    if model.ByteSize() <= _EXTERNAL_ABOVE_BYTES:
        (folder / name).write_bytes(model.SerializeToString(deterministic=True))
        return (name,)
    data = f"{name}.data"
    onnx.save(model, str(folder / name), save_as_external_data=True, all_tensors_to_one_file=True, location=data)
    return name, data


class Net:
    """Who makes and who reads each tensor of a graph, and which tensors are constants; does not follow changes."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self.nodes: Sequence[onnx.NodeProto] = list(graph.node)
        self.weights: dict[str, onnx.TensorProto] = {item.name: item for item in graph.initializer}
        self.producer = {name: node for node in self.nodes for name in node.output if name}
        self.consumers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in (*node.input, *_read_inside(node)):
                self.consumers[name].append(node)
        values = (*graph.value_info, *graph.input, *graph.output)
        self.types = {value.name: value.type.tensor_type for value in values}
        self.outputs = {value.name for value in graph.output}

    def array(self, name: str) -> Array:
        """Return a constant."""
        array: Array = numpy_helper.to_array(self.weights[name])
        return array

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Return the shape of a tensor, or None where it is not known in full."""
        if name in self.weights:
            return tuple(self.weights[name].dims)
        kind = self.types.get(name)
        if kind is None or not kind.HasField("shape"):
            return None
        if any(not axis.HasField("dim_value") for axis in kind.shape.dim):
            return None
        return tuple(axis.dim_value for axis in kind.shape.dim)

    def is_float32(self, name: str) -> bool:
        """Say whether a tensor is known to be of 32-bit floats."""
        if name in self.weights:
            return bool(self.weights[name].data_type == onnx.TensorProto.FLOAT)
        return name in self.types and bool(self.types[name].elem_type == onnx.TensorProto.FLOAT)

    def activations(self, node: onnx.NodeProto) -> list[str]:
        """Return the floating inputs of a node that are no constants."""
        return [name for name in node.input if name and name not in self.weights and self.is_float32(name)]

    def only_consumer(self, name: str) -> onnx.NodeProto | None:
        """Return the one node that reads a tensor, where no other does and it is no output of the graph."""
        readers = self.consumers[name]
        return readers[0] if len(readers) == 1 and name not in self.outputs else None


def _read_inside(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the tensors that the bodies of a Loop, If or Scan read, whoever makes them."""
    for item in node.attribute:
        for graph in (*([item.g] if item.HasField("g") else []), *item.graphs):
            for inner in graph.node:
                yield from inner.input
                yield from _read_inside(inner)


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """Return the value of a node's attribute."""
    found = next((item for item in node.attribute if item.name == name), None)
    return default if found is None else onnx.helper.get_attribute_value(found)
