"""One inference on a loaded runtime, and what it raises while it runs as errors of ours."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from hwbench.errors import EngineError, HwbenchError
from hwbench.protocols import Runner

Array = np.ndarray[Any, np.dtype[Any]]


@contextlib.contextmanager
def inference(engine: str) -> Iterator[None]:
    """Turn what a runtime raises while it runs into an :class:`EngineError`."""
    try:
        yield
    except (HwbenchError, KeyboardInterrupt, SystemExit):
        raise
    except Exception as error:
        raise EngineError(f"{engine} failed while running: {' '.join(str(error).split())[:500]}") from error


def run_once(runner: Runner, engine: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Run one batch and return copies of the outputs; element types that numpy does not have come as float32.

    Raises:
        EngineError: the runtime fails.
    """
    with inference(engine):
        bound = runner.bind(inputs)
        bound.run()
        outputs = {name: np.array(array) for name, array in bound.outputs().items()}
    return {name: array.astype(np.float32) if array.dtype.kind == "V" else array for name, array in outputs.items()}
