"""What a kind of device gives to one runtime: peaks, memory levels and what may be computed in which arithmetic.

Everything comes from a :class:`~hwbench.records.profile.DeviceProfile`, or from a calibration where the device is
attached. What nobody publishes is assumed, said in words, and widens the interval (``doubt``). A power mode is part of
the device: on a Jetson it caps clocks and switches units off.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from hwbench.errors import UsageError
from hwbench.records.base import Missing
from hwbench.records.profile import Calibration, DeviceProfile, PowerMode

Processor = Literal["cpu", "gpu"]

MIB = float(1 << 20)
_CPU_ENGINES = ("litert",)  # the engines that never run on the GPU of a Jetson
_CORE_BYTES_PER_S = {"cpu": 15e9, "board": 7e9, "phone": 16e9}  # what one core draws from memory
_CACHE = {  # level: (bytes, bytes a cycle) of one core; both are typical, not of any one processor
    "cpu": {"l2": (1 * MIB, 32.0), "l3": (16 * MIB, 24.0)},
    "board": {"l2": (0.5 * MIB, 16.0), "l3": (2 * MIB, 6.0)},
    "phone": {"l2": (0.5 * MIB, 16.0), "l3": (4 * MIB, 8.0)},
}
_GPU_L2_OVER_DRAM = 3.0
_CLASSES = ("prime", "performance", "middle", "efficiency")
_PARALLEL = 0.92  # power of the number of threads that the rate grows with
_UNKNOWN_FIGURE = 0.15  # log spread for each figure that is assumed


@dataclass(frozen=True, kw_only=True)
class Level:
    """A level of memory: what it holds and what it delivers."""

    name: str
    capacity_bytes: float
    bytes_per_s: float


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A device as one runtime with a number of threads sees it.

    ``peaks``: operations a second by arithmetic, a multiply-add being two. ``levels``: fastest first; the last one
    holds everything. ``doubt``: standard deviation of the log of a prediction that the assumed figures add.
    """

    profile: DeviceProfile
    processor: Processor
    engine: str
    threads: int
    power_mode: str | Missing
    isa: frozenset[str]
    peaks: Mapping[str, float]
    levels: tuple[Level, ...]
    clock_hz: float
    sm: int
    power_w: Mapping[str, float]
    calibrated: bool
    assumptions: tuple[str, ...]
    doubt: float

    def level(self, size: float) -> Level:
        """Return the fastest level that ``size`` bytes fit into."""
        return next((level for level in self.levels if size <= level.capacity_bytes), self.levels[-1])


def machine_of(
    profile: DeviceProfile,
    *,
    engine: str,
    threads: int = 1,
    power_mode: str | None = None,
    calibration: Calibration | None = None,
) -> Machine:
    """Return what is known of a device, for one runtime.

    Raises:
        UsageError: the profile has no such power mode, or no figures for what the engine runs on.
    """
    mode = _mode(profile, power_mode)
    machine = _gpu(profile, engine, mode) if profile.kind in {"gpu", "jetson"} else _cpu(profile, engine, threads)
    return machine if calibration is None else _calibrated(machine, calibration)


def _mode(profile: DeviceProfile, wanted: str | None) -> PowerMode | None:
    if wanted is None:
        return next((mode for mode in profile.power_modes if mode.default), None)
    for mode in profile.power_modes:
        if wanted.lower() in {mode.name.lower(), str(mode.id)}:
            return mode
    known = ", ".join(mode.name for mode in profile.power_modes)
    raise UsageError(
        f"{profile.title} has no power mode '{wanted}'",
        hint=f"known: {known}" if known else "it has none: leave it out",
    )


def _figure(figures: Mapping[str, object], *names: str) -> float | None:
    """Return the first of the named figures that is there."""
    return next((getattr(figures[name], "value", None) for name in names if name in figures), None)


# GPUs


def _gpu(profile: DeviceProfile, engine: str, mode: PowerMode | None) -> Machine:
    if engine in _CPU_ENGINES:
        raise UsageError(
            f"{engine} runs on the CPU of {profile.title}, and its profile has figures for the GPU alone",
            hint=f"--engine {profile.engines[0]}" if profile.engines else "name another engine",
        )
    sm = _figure(profile.counts, "gpu_sm", "sm")
    clock = _figure(profile.clock_hz, "gpu", "tensor", "boost")
    dram = profile.bandwidth_bytes_per_s.get("dram")
    if not profile.peak_ops_per_s or sm is None or clock is None or dram is None:
        raise UsageError(f"the profile of {profile.title} lacks the peaks, the SM, the clock or the bandwidth")
    share, memory, said = _capped(profile, mode, sm, clock)
    on = mode.gpu_sm.value if mode is not None and mode.gpu_sm is not None else sm
    l2 = profile.capacity_bytes.get("l2")
    bandwidth = dram.value * memory
    levels = [Level(name="dram", capacity_bytes=float("inf"), bytes_per_s=bandwidth)]
    if l2 is not None:
        levels.insert(0, Level(name="l2", capacity_bytes=l2.value, bytes_per_s=bandwidth * _GPU_L2_OVER_DRAM))
    return Machine(
        profile=profile,
        processor="gpu",
        engine=engine,
        threads=1,
        power_mode=mode.name if mode is not None else Missing(code="no_power_modes", why="the profile has none"),
        isa=frozenset(profile.isa),
        peaks={str(name): figure.value * share for name, figure in profile.peak_ops_per_s.items()},
        levels=tuple(levels),
        clock_hz=clock * share * sm / on,
        sm=round(on),
        power_w=_power(profile, mode),
        calibrated=False,
        assumptions=(*said, f"the L2 of a GPU delivers {_GPU_L2_OVER_DRAM:g} times what its memory does"),
        doubt=_UNKNOWN_FIGURE,
    )


def _capped(
    profile: DeviceProfile, mode: PowerMode | None, sm: float, clock: float
) -> tuple[float, float, tuple[str, ...]]:
    """Return the shares of the peak and of the memory's bandwidth that a power mode leaves, and what was assumed."""
    if mode is None:
        return 1.0, 1.0, ()
    units = mode.gpu_sm.value / sm if mode.gpu_sm is not None else 1.0
    cycles = min(mode.gpu_max_hz.value / clock, 1.0) if mode.gpu_max_hz is not None else 1.0
    if mode.memory_max_hz is None:
        return units * cycles, 1.0, ()
    fastest = max(one.memory_max_hz.value for one in profile.power_modes if one.memory_max_hz is not None)
    said = f"the memory's full bandwidth is at {fastest / 1e9:g} GHz, the highest clock that any power mode names"
    return units * cycles, mode.memory_max_hz.value / fastest, (said,)


# CPUs


def _cpu(profile: DeviceProfile, engine: str, threads: int) -> Machine:
    clock = _figure(profile.clock_hz, "cpu", "prime", "boost", "turbo", "performance", "performance_turbo", "base")
    if clock is None:
        raise UsageError(f"the profile of {profile.title} has no clock of its CPU")
    cores = _cores(profile, clock)
    if cores and threads > sum(count for _, count in cores):
        raise UsageError(f"{profile.title} has {sum(count for _, count in cores)} cores, not {threads}")
    peaks, said = _peaks(profile, threads, clock, cores)
    if "fp32" not in peaks:
        raise UsageError(
            f"the profile of {profile.title} has no peak in fp32", hint="hwbench devices shows its figures"
        )
    levels, more = _levels(profile, threads, clock)
    assumptions = (*said, *more)
    if threads > 1:
        assumptions += (f"rates grow with the number of threads to the power of {_PARALLEL:g}",)
    return Machine(
        profile=profile,
        processor="cpu",
        engine=engine,
        threads=threads,
        power_mode=Missing(code="no_power_modes", why="the profile has none"),
        isa=frozenset(profile.isa),
        peaks=peaks,
        levels=levels,
        clock_hz=clock,
        sm=1,
        power_w=_power(profile, None),
        calibrated=False,
        assumptions=assumptions,
        doubt=_UNKNOWN_FIGURE * len(assumptions) ** 0.5,
    )


def _cores(profile: DeviceProfile, clock: float) -> list[tuple[float, int]]:
    """Return clock and number of the cores, fastest first; nothing where the profile does not know how many."""
    classes = []
    for name in _CLASSES:
        count, hz = profile.counts.get(f"{name}_cores"), profile.clock_hz.get(name)
        if count is not None:
            classes.append((hz.value if hz is not None else clock, int(count.value)))
    if classes:
        return classes
    count = profile.counts.get("cores") or profile.counts.get("cpu_cores")
    return [(clock, int(count.value))] if count is not None else []


def _peaks(
    profile: DeviceProfile, threads: int, clock: float, cores: list[tuple[float, int]]
) -> tuple[dict[str, float], tuple[str, ...]]:
    grown = threads**_PARALLEL / threads
    said: list[str] = []
    rates = {
        name.partition("_ops_per_cycle")[0]: figure.value * clock * threads * grown
        for name, figure in profile.counts.items()
        if name.endswith("_ops_per_cycle_per_core")
    }
    if cores:
        share = _share(cores, threads) * grown
        rates.update({str(name): figure.value * share for name, figure in profile.peak_ops_per_s.items()})
    fp32 = rates.get("fp32")
    if fp32 is not None and "int8" not in rates:
        factor = 4.0 if {"dotprod", "i8mm", "avx512_vnni", "avx_vnni"} & set(profile.isa) else 1.0
        rates["int8"] = fp32 * factor
        said.append(f"int8 runs at {factor:g} times the peak of fp32, which the profile does not tell")
    return rates, tuple(said)


def _share(cores: list[tuple[float, int]], threads: int) -> float:
    """Return the share of all cores' cycles that the ``threads`` fastest have."""
    every = [clock for clock, count in cores for _ in range(count)]
    return sum(every[:threads]) / sum(every)


def _levels(profile: DeviceProfile, threads: int, clock: float) -> tuple[tuple[Level, ...], tuple[str, ...]]:
    said: list[str] = []
    levels = []
    for name, (size, cycle_bytes) in _CACHE[profile.kind].items():
        known = next((figure.value for key, figure in profile.capacity_bytes.items() if key == name), None)
        fast = next((figure.value for key, figure in profile.bandwidth_bytes_per_s.items() if key == name), None)
        if known is None:
            said.append(f"the {name.upper()} that a core sees holds {size / MIB:g} MiB")
        rate = fast if fast is not None else cycle_bytes * clock * threads
        levels.append(Level(name=name, capacity_bytes=known or size, bytes_per_s=rate))
    dram = profile.bandwidth_bytes_per_s.get("dram")
    reach = threads * _CORE_BYTES_PER_S[profile.kind]
    said.append(f"a core draws at most {_CORE_BYTES_PER_S[profile.kind] / 1e9:g} GB/s from memory")
    rate = min(dram.value, reach) if dram is not None else reach
    levels.append(Level(name="dram", capacity_bytes=float("inf"), bytes_per_s=rate))
    return tuple(levels), tuple(said)


def _power(profile: DeviceProfile, mode: PowerMode | None) -> dict[str, float]:
    """Return idle and full power in watts, as far as they are known."""
    found = {name: figure.value for name, figure in profile.power_w.items()}
    if mode is not None and mode.budget_w is not None:
        found["tdp"] = mode.budget_w.value
    return found


def _calibrated(machine: Machine, calibration: Calibration) -> Machine:
    """Put measured rates over those of the profile."""
    peaks, levels = dict(machine.peaks), list(machine.levels)
    for point in calibration.points:
        scaled = point.value * (machine.threads / point.threads) ** _PARALLEL
        if point.quantity == "peak_ops_per_s":
            peaks[point.key] = scaled
        else:
            levels = [replace(one, bytes_per_s=scaled) if one.name == point.key else one for one in levels]
    return replace(
        machine, peaks=peaks, levels=tuple(levels), calibrated=True,
        assumptions=(f"rates measured on {calibration.created_at}",), doubt=0.0,
    )  # fmt: skip
