"""Ask an engine what bringing inputs to the device and outputs back costs, where it times that apart."""

from __future__ import annotations

from hwbench.errors import EngineError
from hwbench.inference import inference
from hwbench.protocols import Runner, Tensors, TimesTransfers
from hwbench.records.base import Missing
from hwbench.records.measurement import NO_TRANSFERS
from hwbench.records.transfers import Transfers


def transfers(engine: str, runner: Runner, inputs: Tensors) -> Transfers | Missing:
    """Return the times of the copies of a compiled model, or why there are none.

    To be called after the timed window and before the runtime is asked anything else. Where it fails the model has
    still been measured; the reason is the engine's own (``engine_failed``).
    """
    if not isinstance(runner, TimesTransfers):
        return NO_TRANSFERS
    try:
        with inference(engine):
            return runner.transfers(inputs)
    except EngineError as error:
        return Missing(code="engine_failed", why=error.message, cure=error.hint)
