"""What a ``.tflite`` file holds: tensors and nodes of its first subgraph, and the names of what goes in and out.

Read with the schema that comes with the runtime (``ai_edge_litert.schema_py_generated``), without copying a weight. The
file must have passed the runtime's own verifier before: the Python reader of flatbuffers has none.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hwbench.errors import ModelError

# numpy has no name for the last five: they may lie between nodes, and not at the ends of a graph.
_DTYPES = {
    "FLOAT32": "float32", "FLOAT16": "float16", "FLOAT64": "float64", "BFLOAT16": "bfloat16",
    "INT8": "int8", "INT16": "int16", "INT32": "int32", "INT64": "int64",
    "UINT8": "uint8", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64",
    "BOOL": "bool", "COMPLEX64": "complex64", "COMPLEX128": "complex128",
    "INT4": "int4", "UINT4": "uint4", "INT2": "int2", "STRING": "string", "RESOURCE": "resource", "VARIANT": "variant",
}  # fmt: skip
_CLASS = re.compile(r"(\w+\.)+\w+")


@dataclass(frozen=True, kw_only=True)
class FileTensor:
    """A tensor of the file. ``shape`` is the one it is stored with, ``open_axes`` those that may be resized."""

    index: int
    name: str
    dtype: str
    shape: tuple[int, ...]
    open_axes: tuple[int, ...]
    constant_bytes: int  # of its own data; 0 for what is computed
    quantised: bool  # it has scales


@dataclass(frozen=True, kw_only=True)
class FileNode:
    """A node of the file, under a name that no other node has."""

    index: int
    name: str
    module: str | None  # path of the torch module that litert-torch made it from
    op: str  # the schema's name (``CONV_2D``), or the custom op's own
    custom: bool
    inputs: tuple[int, ...]  # omitted ones left out
    outputs: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class TfliteFile:
    """The first subgraph of a file, which is what hwbench runs.

    ``inputs`` and ``outputs`` give tensors by name, in the graph's order: the names of the signature of this subgraph
    where the file has one, else those of the tensors. ``signature_index`` counts the file's signatures; 0 where there
    is none, since the runtime then makes one up.
    """

    tensors: tuple[FileTensor, ...]
    nodes: tuple[FileNode, ...]
    inputs: dict[str, FileTensor]
    outputs: dict[str, FileTensor]
    signature_index: int

    @cached_property
    def producers(self) -> dict[int, FileNode]:
        """The node that computes each tensor."""
        return {tensor: node for node in self.nodes for tensor in node.outputs}


def read_tflite(path: Path) -> TfliteFile:
    """Read a file that the runtime has accepted.

    Raises:
        ModelError: it cannot be read, or holds no graph.
    """
    from ai_edge_litert import schema_py_generated as schema

    try:
        model: Any = schema.Model.GetRootAs(path.read_bytes(), 0)
    except OSError as error:
        raise ModelError(f"cannot read '{path}': {error.strerror}") from error
    if model.SubgraphsLength() == 0:
        raise ModelError(f"'{path.name}' holds no graph")
    graph = model.Subgraphs(0)
    kinds = _names_of(schema.TensorType)
    tensors = tuple(_tensor(index, graph.Tensors(index), model, kinds) for index in range(graph.TensorsLength()))
    signature_index, names_in, names_out = _signature(model)
    return TfliteFile(
        tensors=tensors,
        nodes=_nodes(graph, model, tensors, _names_of(schema.BuiltinOperator)),
        inputs=_ends(tensors, [graph.Inputs(index) for index in range(graph.InputsLength())], names_in),
        outputs=_ends(tensors, [graph.Outputs(index) for index in range(graph.OutputsLength())], names_out),
        signature_index=signature_index,
    )


def source_names(tensor_name: str) -> tuple[str, ...]:
    """Return the layers that a tensor's name may speak of, the tensor's own name first.

    A converter joins the names of what it fused with semicolons; hwbench's own writes ``L012|conv1``, and joins in the
    same way.
    """
    bare = tensor_name.partition("|")[2] if tensor_name[:1] == "L" and "|" in tensor_name else tensor_name
    parts = [part.strip() for part in bare.split(";")]
    return tuple(dict.fromkeys(part for part in (tensor_name, bare, *parts) if part))


def _names_of(enumeration: Any) -> dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if isinstance(value, int)}


def _text(raw: bytes | None) -> str:
    return (raw or b"").decode(errors="replace")


def _tensor(index: int, tensor: Any, model: Any, kinds: dict[int, str]) -> FileTensor:
    shape = tuple(int(tensor.Shape(axis)) for axis in range(tensor.ShapeLength()))
    signature = [int(tensor.ShapeSignature(axis)) for axis in range(tensor.ShapeSignatureLength())]
    buffer, scales = model.Buffers(tensor.Buffer()), tensor.Quantization()
    kind = kinds.get(tensor.Type(), f"type {tensor.Type()}")
    return FileTensor(
        index=index,
        name=_text(tensor.Name()) or f"tensor_{index}",
        dtype=_DTYPES.get(kind, kind.lower()),
        shape=shape,
        open_axes=tuple(axis for axis, size in enumerate(signature) if size < 0),
        constant_bytes=max(int(buffer.DataLength()), int(buffer.Size())),  # above 2 GB data lie behind the flatbuffer
        quantised=scales is not None and scales.ScaleLength() > 0,
    )


def _nodes(graph: Any, model: Any, tensors: Sequence[FileTensor], codes: dict[int, str]) -> tuple[FileNode, ...]:
    operators = [graph.Operators(index) for index in range(graph.OperatorsLength())]
    outputs = [tuple(int(op.Outputs(i)) for i in range(op.OutputsLength()) if op.Outputs(i) >= 0) for op in operators]
    kinds = [_op(model.OperatorCodes(op.OpcodeIndex()), codes) for op in operators]
    named = [_node_name(tensors, out, op) for out, (op, _) in zip(outputs, kinds, strict=True)]
    count = Counter(name for name, _ in named)
    return tuple(
        FileNode(
            index=index,
            name=name if count[name] == 1 else f"{name}#{index}",
            module=module,
            op=kind,
            custom=custom,
            inputs=tuple(int(op.Inputs(i)) for i in range(op.InputsLength()) if op.Inputs(i) >= 0),
            outputs=outputs[index],
        )
        for index, (op, (kind, custom), (name, module)) in enumerate(zip(operators, kinds, named, strict=True))
    )


def _node_name(tensors: Sequence[FileTensor], outputs: Sequence[int], op: str) -> tuple[str, str | None]:
    """Return a name made of that of the node's first output, and the torch module that it speaks of."""
    if not outputs:
        return op, None
    names = source_names(tensors[outputs[0]].name)
    name = names[-1] if len(names) == 1 else next(name for name in names if ";" not in name and name != names[0])
    module = torch_module(name)
    return module or name, module


def torch_module(name: str) -> str | None:
    """Return the path of a torch module (``blocks.0.norm``) that litert-torch wrote, None for another name.

    It writes ``net.Net/torch.nn.modules.container.Sequential_blocks/net.Block_0/...``: classes with the attribute
    behind an underscore, the model itself first.
    """
    parts = name.split("/")
    if not all(_CLASS.fullmatch(part) for part in parts):
        return None
    attributes = [part.rpartition(".")[2].partition("_")[2] for part in parts[1:]]
    return ".".join(part for part in attributes if part) or None


def _op(code: Any, names: dict[int, str]) -> tuple[str, bool]:
    """Return an op's name, and whether it is a custom one; old files have their code in the field of one byte."""
    name = names.get(max(code.BuiltinCode(), code.DeprecatedBuiltinCode()), f"op {code.BuiltinCode()}")
    return (_text(code.CustomCode()) or "CUSTOM", True) if name == "CUSTOM" else (name, False)


def _signature(model: Any) -> tuple[int, dict[int, str], dict[int, str]]:
    """Return the index of the first subgraph's signature and its names by tensor; index 0 and no names without one."""
    for index in range(model.SignatureDefsLength()):
        signature = model.SignatureDefs(index)
        if signature.SubgraphIndex() == 0:
            inputs = [signature.Inputs(i) for i in range(signature.InputsLength())]
            outputs = [signature.Outputs(i) for i in range(signature.OutputsLength())]
            names = [{int(end.TensorIndex()): _text(end.Name()) for end in ends} for ends in (inputs, outputs)]
            return index, names[0], names[1]
    return 0, {}, {}


def _ends(tensors: Sequence[FileTensor], indices: Sequence[int], names: dict[int, str]) -> dict[str, FileTensor]:
    """Return tensors by name; where two would be called alike, the later has its index behind its name."""
    found: dict[str, FileTensor] = {}
    for index in indices:
        name = names.get(int(index)) or tensors[index].name
        found[name if name not in found else f"{name}#{index}"] = tensors[index]
    return found
