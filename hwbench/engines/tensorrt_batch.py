"""A batch axis that stays open: the typed graph with axis 0 of inputs and outputs as a symbol.

Exporters write the batch into the shapes of ``Reshape``; where it stands first there it becomes -1. Whether the symbol
then reaches every output is asked of ONNX's shape inference, and a graph where it does not is refused.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from hwbench.errors import Unsupported

_SYMBOL = "batch"


def open_batch(path: Path, batch: int) -> None:
    """Rewrite a graph, whose batch is ``batch`` now, in place.

    Raises:
        Unsupported: the batch is written into the graph somewhere else.
    """
    model = onnx.load(path, load_external_data=False)
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    for value in [*(value for value in graph.input if value.name not in weights), *graph.output]:
        sizes = value.type.tensor_type.shape.dim
        if not sizes or sizes[0].dim_value != batch:
            raise Unsupported(f"axis 0 of '{value.name}' is not the batch", hint="leave --option batch out")
        sizes[0].dim_param = _SYMBOL
    shapes = {node.input[1] for node in graph.node if node.op_type == "Reshape"}
    for tensor in graph.initializer:
        if tensor.name in shapes:
            _open_shape(tensor, batch)
    del graph.value_info[:]
    _require_open(model)
    onnx.save(model, path)


def _open_shape(tensor: onnx.TensorProto, batch: int) -> None:
    """Write -1 for a batch that stands first in the shape of a ``Reshape``, where no other axis is open."""
    sizes = np.array(onnx.numpy_helper.to_array(tensor))
    if sizes.size and sizes[0] == batch and -1 not in sizes:
        sizes[0] = -1
        tensor.CopyFrom(onnx.numpy_helper.from_array(sizes, tensor.name))


def _require_open(model: onnx.ModelProto) -> None:
    """Refuse a graph in which a constant batch meets the symbol, or reaches an output."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    for value in bare.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        inferred = onnx.shape_inference.infer_shapes(bare, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        said = " ".join(str(error).split())[:200]
        raise Unsupported(f"the batch cannot be left open: {said}", hint="leave --option batch out") from error
    for value in inferred.graph.output:
        sizes = value.type.tensor_type.shape.dim
        if sizes and sizes[0].HasField("dim_value"):
            raise Unsupported(
                f"the batch cannot be left open: it is written into the graph, and '{value.name}' would always have "
                f"{sizes[0].dim_value} rows",
                hint="leave --option batch out, or export the model with a dynamic batch",
            )
