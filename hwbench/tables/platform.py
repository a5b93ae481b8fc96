"""What costs are of: this device with this runtime, run like this."""

from __future__ import annotations

from hwbench.bundles.runtimes import runtime_of
from hwbench.errors import EngineError
from hwbench.records.base import Missing
from hwbench.records.device import Device, Gpu
from hwbench.records.model import Model
from hwbench.records.planning import Platform
from hwbench.records.quantization import Floating


def platform_of(device: Device, engine: str, model: Model, *, threads: int, floating: Floating) -> Platform:
    """Return the platform of a run, without importing the runtime.

    Of a CPU, ``isa`` are its extensions, and the power mode is its governor where the device has none. Of a GPU they
    are its compute capability and its driver, and the power mode is nvpmodel's or the power limit; threads are one,
    since one launches. Clocks that change within that are seen by the reference timed in turn with every network.

    Raises:
        EngineError: the version of the runtime is not known.
    """
    runtime = runtime_of(engine)
    if isinstance(runtime, Missing):
        raise EngineError(f"costs of '{engine}' cannot be kept: {runtime.why}")
    gpu = device.gpu if device.kind in {"nvidia", "jetson"} else None
    cpu = device.cpu if device.kind == "cpu" else None  # that of a GPU is its host's
    mode = device.power_mode
    if isinstance(mode, Missing) and cpu is not None:
        mode = cpu.governor
    if isinstance(mode, Missing) and gpu is not None and not isinstance(gpu.power_limit_w, Missing):
        mode = f"power limit {gpu.power_limit_w:g} W"
    return Platform(
        device=device.fingerprint,
        title=device.title,
        engine=engine,
        version=runtime.version,
        isa=cpu.isa if cpu is not None else () if gpu is None else _of_gpu(gpu),
        threads=threads if gpu is None else 1,
        batch_size=model.batch_size,
        floating=floating,
        power_mode=mode,
    )


def _of_gpu(gpu: Gpu) -> tuple[str, ...]:
    """Return ``sm_90``, and the driver where it tells its version: on a Jetson it is part of the release of L4T."""
    capability, driver = gpu.compute_capability, gpu.driver_version
    found = [] if isinstance(capability, Missing) else [f"sm_{capability.replace('.', '')}"]
    return (*found, *([] if isinstance(driver, Missing) else [f"driver {driver}"]))
