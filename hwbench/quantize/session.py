"""A network in onnxruntime, asked for some of its tensors.

Batches run beside each other, each on a thread of its own, rather than each on all threads: layers need no waiting for
one another's threads then, and what is done with the results goes on meanwhile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from hwbench.errors import EngineError
from hwbench.graph.parts import write_graph

if TYPE_CHECKING:
    import onnxruntime

Array = np.ndarray[Any, np.dtype[Any]]
Run = Callable[[Mapping[str, Array]], list[Array]]

_BESIDE = 8  # batches at once, at most: each has activations of its own


def tensors_of(
    model: ir.Model, names: list[str], batches: Iterable[Mapping[str, Array]], *, path: Path, threads: int
) -> Iterator[list[Array]]:
    """Yield the tensors called ``names``, for one batch after the other.

    Args:
        model: stays as it is; what is not needed for the tensors is not run.
        names: of any tensors in the graph.
        batches: the inputs.
        path: where the graph may be written.
        threads: over all batches that run beside each other.

    Raises:
        EngineError: onnxruntime is missing, or refuses the network or a batch.
    """
    beside = min(threads, _BESIDE)
    run = _run_for(model, names, path, threads // beside)
    waiting: deque[Future[list[Array]]] = deque()
    with ThreadPoolExecutor(beside) as pool:
        for batch in batches:
            waiting.append(pool.submit(run, batch))
            if len(waiting) > beside:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _run_for(model: ir.Model, names: list[str], path: Path, threads: int) -> Run:
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
