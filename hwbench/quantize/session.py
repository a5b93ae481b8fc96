"""A network in onnxruntime, asked for some of its tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from hwbench.errors import EngineError

if TYPE_CHECKING:
    import onnxruntime

Array = np.ndarray[Any, np.dtype[Any]]
Run = Callable[[Mapping[str, Array]], list[Array]]

_EXTERNAL_ABOVE_BYTES = 1_500_000_000  # protobuf ends at 2 GiB


def write_graph(model: ir.Model, path: Path) -> tuple[Path, ...]:
    """Write a graph, with its weights beside it where protobuf cannot hold them, and return the files."""
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    data = f"{path.name}.data" if size > _EXTERNAL_ABOVE_BYTES else None
    ir.save(model, path, external_data=data)
    return (path, path.parent / data) if data else (path,)


def run_for(model: ir.Model, names: list[str], path: Path, threads: int) -> Run:
    """Return a function from a batch to the tensors called ``names``.

    Args:
        model: stays as it is; what is not needed for the tensors is not run.
        names: of any tensors in the graph.
        path: where the graph may be written.
        threads: of the runtime.

    Raises:
        EngineError: onnxruntime is missing or refuses the network; calling the function may raise it too.
    """
    asked = model.clone()
    values = {
        value.name: value
        for value in (*asked.graph.inputs, *(output for node in asked.graph for output in node.outputs))
    }
    asked.graph.outputs[:] = [values[name] for name in names]
    session = _session(asked, path, threads)
    known = {value.name for value in session.get_inputs()}

    def run(batch: Mapping[str, Array]) -> list[Array]:
        try:
            found: list[Array] = session.run(names, {name: array for name, array in batch.items() if name in known})
        except Exception as error:
            raise EngineError(f"onnxruntime cannot run the float network: {_told(error)}") from error
        return found

    return run


def _session(model: ir.Model, path: Path, threads: int) -> onnxruntime.InferenceSession:
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineError("calibration needs onnxruntime", hint="pip install 'hwbench-nn[cpu]'") from error
    files = write_graph(model, path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise EngineError(f"onnxruntime cannot load the float network: {_told(error)}") from error
    finally:
        for file in files:
            file.unlink()


def _told(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
