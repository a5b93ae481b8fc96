"""What NVML can tell about one GPU: which of its sensors answer, as channels and the sources that read them.

* ``energy_counter``: millijoules since the driver was loaded (Volta and newer). Read at the edges of windows and once a
  second; read faster, it loses energy on some cards (HotCarbon'26, paper 46: 76 % at 10 ms).
* ``power_instant``: field 186. Sampled at twice its update rate; more adds nothing.
* ``power_average``: field 185, the mean over one second (Ampere, except GA100, and newer).
* ``power_usage``: the legacy call, only where field 186 is not answered. Its meaning changes with the architecture: the
  mean over one second on Ampere (except GA100) and newer, instantaneous before (``nvml.h``).
* ``memory_power``: a part of the GPU's, where it answers and is not zero.
* On a Grace superchip the counter is that of the whole module, so the power held against it is the module's
  (``module_power_instant``), and the GPU's own is a part of it.
* durations of clock limits, in nanoseconds since the driver was loaded; temperatures; clocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hwbench.energy.uncertainty import GAIN
from hwbench.energy.update_period import Timing
from hwbench.nvml import Nvml as Api
from hwbench.records.base import Missing
from hwbench.records.energy import Channel, Quantity, Role

FIELD_ENERGY = 83  # NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION, mJ
FIELD_AVERAGE, FIELD_INSTANT = 185, 186  # NVML_FI_DEV_POWER_AVERAGE, NVML_FI_DEV_POWER_INSTANT, mW
SCOPE_GPU, SCOPE_MODULE, SCOPE_MEMORY = 0, 1, 2  # NVML_POWER_SCOPE_*
_FIELD_MEMORY_TEMPERATURE = 82  # NVML_FI_DEV_MEMORY_TEMP, °C
_TEMPERATURE_GPU, _CLOCK_SM, _CLOCK_MEMORY = 0, 1, 2

COUNTER, MODULE_POWER = "energy_counter", "module_power_instant"
COUNTER_PERIOD_S = 0.1  # the longest that is told of: 10 ms (gpuopenanalytics/pynvml#18) to 100 ms (ML.ENERGY)
_SLOW_S = 1.0
_DEFAULT_PERIOD_S = 0.1  # how often to read a sensor of unknown period; none slower is known
_AVERAGING_S = 1.0
_MILLI = 1e-3


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU that NVML gave a handle for."""

    api: Api
    handle: Any
    name: str
    driver: str
    capability: str | Missing
    mig: bool
    superchip: bool  # GPU and Grace CPU in one module


@dataclass(frozen=True, kw_only=True)
class Read:
    """A channel and how it is read: a field of ``nvmlDeviceGetFieldValues``, or a function of its own."""

    channel: Channel
    unit: float
    field: tuple[int, int] | None = None
    call: tuple[Any, ...] = ()


class FieldSource:
    """Channels that one call for several fields reads."""

    def __init__(self, gpu: Gpu, reads: Sequence[Read], every_s: float) -> None:
        self._gpu, self._units = gpu, [read.unit for read in reads]
        self._fields = [read.field for read in reads if read.field is not None]
        self.channels = tuple(read.channel for read in reads)
        self.every_s: float | None = every_s

    def read(self) -> Sequence[float | Missing]:
        values = self._gpu.api.fields(self._gpu.handle, self._fields)
        return [v if isinstance(v, Missing) else v * unit for v, unit in zip(values, self._units, strict=True)]


class CallSource:
    """Channels that have a function each."""

    def __init__(self, gpu: Gpu, reads: Sequence[Read], every_s: float) -> None:
        self._gpu, self._reads = gpu, tuple(reads)
        self.channels = tuple(read.channel for read in reads)
        self.every_s: float | None = every_s

    def read(self) -> Sequence[float | Missing]:
        found: list[float | Missing] = []
        for read in self._reads:
            value = self._gpu.api.ask(read.call[0], self._gpu.handle, *read.call[1:])
            found.append(value if isinstance(value, Missing) else value * read.unit)
        return found


NvmlSource = FieldSource | CallSource


def counter_j(gpu: Gpu) -> float | Missing:
    """Return the energy counter in joules, or why there is none."""
    (value,) = gpu.api.fields(gpu.handle, [(FIELD_ENERGY, SCOPE_GPU)])
    if isinstance(value, Missing):
        return value
    if value == 0:
        return Missing(code="counter_constant", why="NVML's energy counter stands at zero")
    return value * _MILLI


def instant_w(gpu: Gpu, scope: int = SCOPE_GPU) -> float | Missing:
    """Return the instantaneous power in watts, or why there is none."""
    return _positive_w(gpu, FIELD_INSTANT, scope)


def _positive_w(gpu: Gpu, field: int, scope: int) -> float | Missing:
    (value,) = gpu.api.fields(gpu.handle, [(field, scope)])
    if isinstance(value, Missing) or value > 0:
        return value if isinstance(value, Missing) else value * _MILLI
    return Missing(code="no_reading", why=f"NVML field {field} in scope {scope} reads {value:g} mW")


def find_sources(gpu: Gpu, timing: Timing, counter_period_s: float | None) -> tuple[NvmlSource, ...] | Missing:
    """Return the sources of a GPU, or why it tells no energy at all.

    Args:
        gpu: the GPU.
        timing: of its instantaneous power.
        counter_period_s: how often its energy counter moves; None when it does not, or is not there.
    """
    power = _power(gpu, timing, counted=counter_period_s is not None)
    if isinstance(power, Missing) and counter_period_s is None:
        why = f"{gpu.name} tells neither energy nor power: {power.why}"
        return Missing(code=power.code, why=why, cure=power.cure or "record an external meter, and import that")
    edges = [] if counter_period_s is None else [_counter(timing, counter_period_s)]
    throttled = [
        Read(channel=_context(name, "throttled", f"NVML field {field}"), unit=1e-9, field=(field, 0))
        for name, field in gpu.api.counter_fields().items()
        if not isinstance(field, Missing)
    ]
    slow: list[Read] = [*edges, *_answering(gpu, throttled), *_answering(gpu, [_memory_temperature()])]
    sources: list[NvmlSource] = [] if not slow else [FieldSource(gpu, slow, _SLOW_S)]
    if not isinstance(power, Missing):
        sources.append(power)
    calls = _calls(gpu)
    return (*sources, CallSource(gpu, calls, _SLOW_S)) if calls else tuple(sources)


def _counter(timing: Timing, period_s: float) -> Read:
    """Return the channel of the counter; nobody says that its sensor looks at more than the power reading's.

    However often it moves, its period is not shorter than that of its sensor, which decides what it may miss.
    """
    slowest_s = max(period_s, timing.period_s) if isinstance(timing.period_s, float) else period_s
    source = f"NVML field {FIELD_ENERGY}"
    channel = _electric(COUNTER, "energy", "total", source, period_s=slowest_s, sensed_s=timing.sensed_s)
    return Read(channel=channel, unit=_MILLI, field=(FIELD_ENERGY, SCOPE_GPU))


def _power(gpu: Gpu, timing: Timing, *, counted: bool) -> NvmlSource | Missing:
    """Return the source of power: the check of the counter, or the total where there is none."""
    every_s = (timing.period_s if isinstance(timing.period_s, float) else _DEFAULT_PERIOD_S) / 2
    module = gpu.superchip and not isinstance(instant_w(gpu, SCOPE_MODULE), Missing)
    role: Role = "check" if counted else "total"
    reads: list[Read] = []
    own = instant_w(gpu)
    if module:
        reads.append(_instant(MODULE_POWER, role, timing, SCOPE_MODULE))
    if not isinstance(own, Missing):
        # The counter of a superchip is the module's: the GPU's own power is no check of it.
        part = module or (gpu.superchip and counted)
        reads.append(_instant("power_instant", "part" if part else role, timing, SCOPE_GPU))
    if not reads:
        legacy = _legacy(gpu, timing, role)
        return legacy if isinstance(legacy, Missing) else CallSource(gpu, [legacy], every_s)
    if not isinstance(_positive_w(gpu, FIELD_AVERAGE, SCOPE_GPU), Missing):
        reads.append(_average("power_average", "context", SCOPE_GPU))
    if not isinstance(instant_w(gpu, SCOPE_MEMORY), Missing):
        reads.append(_instant("memory_power", "part", timing, SCOPE_MEMORY))
    elif not isinstance(_positive_w(gpu, FIELD_AVERAGE, SCOPE_MEMORY), Missing):
        reads.append(_average("memory_power", "part", SCOPE_MEMORY))
    return FieldSource(gpu, reads, every_s)


def _instant(name: str, role: Role, timing: Timing, scope: int) -> Read:
    channel = _electric(
        name,
        "power",
        role,
        f"NVML field {FIELD_INSTANT}, scope {scope}",
        period_s=timing.period_s,
        sensed_s=timing.sensed_s,
        averaging_s=timing.sensed_s,
    )
    return Read(channel=channel, unit=_MILLI, field=(FIELD_INSTANT, scope))


def _average(name: str, role: Role, scope: int) -> Read:
    channel = _electric(
        name,
        "power",
        role,
        f"NVML field {FIELD_AVERAGE}, scope {scope}",
        period_s=_DEFAULT_PERIOD_S,
        averaging_s=_AVERAGING_S,
    )
    return Read(channel=channel, unit=_MILLI, field=(FIELD_AVERAGE, scope))


def _legacy(gpu: Gpu, timing: Timing, role: Role) -> Read | Missing:
    """Return the channel of nvmlDeviceGetPowerUsage with the meaning that it has on this architecture."""
    if isinstance(gpu.capability, Missing):
        return Missing(
            code="unit_guess",
            why=f"what nvmlDeviceGetPowerUsage averages over depends on the architecture, and {gpu.capability.why}",
            cure="upgrade the NVIDIA driver",
        )
    value = gpu.api.ask("nvmlDeviceGetPowerUsage", gpu.handle)
    if isinstance(value, Missing):
        return value
    averaged = tuple(int(part) for part in gpu.capability.split(".")) > (8, 0)
    channel = _electric(
        "power_usage",
        "power",
        role,
        f"nvmlDeviceGetPowerUsage, {'the mean over 1 s' if averaged else 'instantaneous'} on {gpu.capability}",
        period_s=_DEFAULT_PERIOD_S if averaged else timing.period_s,
        sensed_s=_NOT_KNOWN if averaged else timing.sensed_s,
        averaging_s=_AVERAGING_S if averaged else timing.sensed_s,
    )
    return Read(channel=channel, unit=_MILLI, call=("nvmlDeviceGetPowerUsage",))


def _memory_temperature() -> Read:
    channel = _context("memory_temperature", "temperature", f"NVML field {_FIELD_MEMORY_TEMPERATURE}")
    return Read(channel=channel, unit=1.0, field=(_FIELD_MEMORY_TEMPERATURE, 0))


def _calls(gpu: Gpu) -> list[Read]:
    """Return temperature and clocks, those that answer; of two calls for the temperature the newer."""
    found: list[Read] = []
    for function in ("nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature"):  # the second goes with CUDA 14
        if not isinstance(gpu.api.ask(function, gpu.handle, _TEMPERATURE_GPU), Missing):
            channel = _context("temperature", "temperature", function)
            found.append(Read(channel=channel, unit=1.0, call=(function, _TEMPERATURE_GPU)))
            break
    for name, clock in (("sm_clock", _CLOCK_SM), ("memory_clock", _CLOCK_MEMORY)):
        if not isinstance(gpu.api.ask("nvmlDeviceGetClockInfo", gpu.handle, clock), Missing):
            channel = _context(name, "frequency", "nvmlDeviceGetClockInfo")
            found.append(Read(channel=channel, unit=1e6, call=("nvmlDeviceGetClockInfo", clock)))
    return found


def _answering(gpu: Gpu, reads: Sequence[Read]) -> list[Read]:
    values = gpu.api.fields(gpu.handle, [read.field for read in reads if read.field is not None])
    return [read for read, value in zip(reads, values, strict=True) if not isinstance(value, Missing)]


_NOT_KNOWN = Missing(code="not_known", why="how much of the time is sensed is not documented")


def _electric(
    name: str,
    quantity: Literal["energy", "power"],
    role: Role,
    source: str,
    *,
    period_s: float | Missing,
    sensed_s: float | Missing = _NOT_KNOWN,
    averaging_s: float | Missing = 0.0,
) -> Channel:
    return Channel(
        name=name,
        quantity=quantity,
        role=role,
        source=source,
        period_s=period_s,
        averaging_s=averaging_s,
        sensed_s=sensed_s,
        lsb=_MILLI,
        gain=GAIN["nvml"].standard,
        gain_basis=GAIN["nvml"].basis,
    )


def _context(name: str, quantity: Quantity, source: str) -> Channel:
    return Channel(name=name, quantity=quantity, role="context", source=source, period_s=_SLOW_S)
