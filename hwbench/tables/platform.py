"""What costs are of: this device with this runtime, run like this."""

from __future__ import annotations

from hwbench.bundles.runtimes import runtime_of
from hwbench.errors import EngineError
from hwbench.records.base import Missing
from hwbench.records.device import Device
from hwbench.records.model import Model
from hwbench.records.planning import Platform
from hwbench.records.quantization import Floating


def platform_of(device: Device, engine: str, model: Model, *, threads: int, floating: Floating) -> Platform:
    """Return the platform of a run, without importing the runtime.

    The power mode is the device's own, or else the governor of its CPU.

    Raises:
        EngineError: the version of the runtime is not known.
    """
    runtime = runtime_of(engine)
    if isinstance(runtime, Missing):
        raise EngineError(f"costs of '{engine}' cannot be kept: {runtime.why}")
    mode = device.power_mode
    if isinstance(mode, Missing) and device.cpu is not None:
        mode = device.cpu.governor
    return Platform(
        device=device.fingerprint,
        title=device.title,
        engine=engine,
        version=runtime.version,
        isa=() if device.cpu is None else device.cpu.isa,
        threads=threads,
        batch_size=model.batch_size,
        floating=floating,
        power_mode=mode,
    )
