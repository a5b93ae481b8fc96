"""A graph whose layers are all outputs, so that what each of them puts out can be compared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import onnx

from hwbench.errors import EngineError
from hwbench.records.model import Model, ModelFiles, TensorSpec

EXPOSED = "exposed.onnx"
_FLOATS = (1, 10, 11, 16)  # onnx.TensorProto: FLOAT, FLOAT16, DOUBLE, BFLOAT16


def expose(
    model: Model, files: ModelFiles, folder: Path, names: Mapping[str, str] | None = None
) -> tuple[Model, ModelFiles]:
    """Write the graph with every floating-point tensor between its layers as an output too; return what it is now.

    Args:
        model: the network.
        files: where its graph is.
        folder: gets the new graph.
        names: tensors that are to go by the name of another, which then goes by none.

    Raises:
        EngineError: the weights lie beside the graph, so that it is too large to be written again.
    """
    source = Path(files.folder) / files.runtime_graph
    proto = onnx.load(source, load_external_data=False)
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in proto.graph.initializer):
        raise EngineError("layers are compared only in models below 1.5 GB", hint="leave --layers out")
    _rename(proto.graph, names or {})
    graph = onnx.shape_inference.infer_shapes(proto).graph
    typed = {value.name: value for value in graph.value_info}
    shown = {spec.name for spec in model.outputs}
    added: list[TensorSpec] = []
    for name in (name for node in graph.node for name in node.output if name in typed and name not in shown):
        kind = typed[name].type.tensor_type
        if kind.elem_type in _FLOATS:
            proto.graph.output.append(typed[name])
            dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
            shape = tuple(axis.dim_value for axis in kind.shape.dim)
            added.append(TensorSpec(name=name, dtype=dtype.name, shape=shape))
    onnx.save(proto, folder / EXPOSED)
    return (
        msgspec.structs.replace(model, outputs=(*model.outputs, *added)),
        msgspec.structs.replace(files, folder=str(folder.resolve()), runtime_graph=EXPOSED),
    )


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    new = {**{old: f"{old}.before" for old in names.values()}, **names}
    for node in graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]
    kept = [value for value in graph.value_info if value.name not in new]
    del graph.value_info[:]
    graph.value_info.extend(kept)
