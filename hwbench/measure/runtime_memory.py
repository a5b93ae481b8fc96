"""Ask a runtime what memory it holds, where it tells."""

from __future__ import annotations

from hwbench.errors import EngineError
from hwbench.inference import inference
from hwbench.protocols import Runner, TellsMemory, Tensors
from hwbench.records.base import Missing
from hwbench.records.memory import RuntimeMemory


def runtime_memory(engine: str, runner: Runner, inputs: Tensors) -> RuntimeMemory | Missing:
    """Return what the runtime of a compiled model says about its memory, or why it says nothing.

    To be called when everything is timed and the process's own memory is read: the runtime may build the model again.
    A runtime that fails at this has still been measured; the reason is its own (``engine_failed``).
    """
    if not isinstance(runner, TellsMemory):
        return Missing(code="not_told", why="this engine does not tell what memory its runtime holds")
    try:
        with inference(engine):
            return runner.memory(inputs)
    except EngineError as error:
        return Missing(code="engine_failed", why=error.message, cure=error.hint)
