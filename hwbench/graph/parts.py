"""The parts that every import writes, whatever the model came as."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

from hwbench.errors import ModelError
from hwbench.graph.inputs import Arrays
from hwbench.records.base import Missing
from hwbench.records.model import TensorSpec

_EXTERNAL_ABOVE_BYTES = 1_500_000_000  # protobuf ends at 2 GiB


def write_graph(model: ir.Model, path: Path) -> tuple[Path, ...]:
    """Write a graph, with its weights beside it where protobuf cannot hold them, and return the files."""
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    data = f"{path.name}.data" if size > _EXTERNAL_ABOVE_BYTES else None
    ir.save(model, path, external_data=data)
    return (path, path.parent / data) if data else (path,)


def save_inputs(arrays: Arrays, path: Path) -> None:
    """Write the inputs that every engine is given; the same arrays give the same bytes.

    Raises:
        ModelError: the folder cannot be written.
    """
    try:
        np.savez(path, **arrays)  # type: ignore[arg-type]
    except OSError as error:
        raise ModelError(f"cannot write the inputs to {path.parent}: {error}") from error


def common_batch(inputs: tuple[TensorSpec, ...]) -> int | Missing:
    """Return the size that axis 0 has in every input that has one."""
    sizes = {spec.shape[0] for spec in inputs if spec.shape}
    if len(sizes) == 1:
        return sizes.pop()
    return Missing(code="no_common_batch", why="the inputs have no common size on axis 0")
