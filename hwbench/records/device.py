"""What a device is: facts read from the machine itself (a :class:`Device`), nothing looked up."""

from __future__ import annotations

from typing import Literal

from hwbench.records.base import Missing, Record, Support, check, check_finite

DeviceKind = Literal["cpu", "nvidia", "jetson", "android"]


class Cache(Record, frozen=True, kw_only=True):
    """One kind of cache: ``count`` instances of ``size_bytes``, each shared by ``shared_by`` logical CPUs."""

    level: int
    type: Literal["data", "instruction", "unified"]
    size_bytes: int
    shared_by: int
    count: int


class Cpu(Record, frozen=True, kw_only=True):
    """A CPU as the operating system shows it.

    ``isa`` holds the extensions that decide a deployment, in hwbench's spelling: ``avx2 avx512f avx512_vnni
    avx512_bf16 avx512_fp16 avx_vnni amx_tile amx_int8 amx_bf16 amx_fp16 neon fp16 dotprod i8mm bf16 sve sve2``.
    ``usable_cpus`` are the logical CPUs this process may run on; ``usable_cores`` the same with one
    logical CPU per physical core. ``cpuid`` is ``vendor-family-model-stepping`` on x86 and
    ``implementer-part`` (one per cluster, joined by ``+``) on Arm.
    """

    model_name: str
    vendor: str
    architecture: str
    cpuid: str | Missing
    isa: tuple[str, ...]
    sockets: int | Missing
    physical_cores: int
    logical_cpus: int
    threads_per_core: int | Missing
    usable_cpus: tuple[int, ...]
    usable_cores: tuple[int, ...]
    caches: tuple[Cache, ...]
    numa_nodes: int | Missing
    max_hz: float | Missing
    governor: str | Missing
    turbo: bool | Missing
    quota_cpus: float | Missing  # cgroup CPU limit, in CPUs

    def __post_init__(self) -> None:
        check(self.physical_cores > 0, "physical_cores must be positive")
        check(self.logical_cpus >= self.physical_cores, "logical_cpus must be at least physical_cores")
        check(set(self.usable_cores) <= set(self.usable_cpus), "usable_cores must be among usable_cpus")


class Gpu(Record, frozen=True, kw_only=True):
    """An NVIDIA GPU as NVML shows it."""

    name: str
    uuid: str
    compute_capability: str | Missing
    memory_bytes: int | Missing
    driver_version: str | Missing
    cuda_version: str | Missing
    power_limit_w: float | Missing
    sm_max_hz: float | Missing
    mig: bool | Missing


class Device(Record, frozen=True, kw_only=True):
    """A device that is here, or reachable from here.

    ``name`` is what ``--device`` takes. ``fingerprint`` changes when anything changes that makes old
    measurements of it incomparable (CPU, ISA, cores, memory size, virtualisation). ``profile`` is the
    file in ``profiles/`` that matches, if one does.
    """

    name: str
    kind: DeviceKind
    title: str
    fingerprint: str
    profile: str | Missing
    cpu: Cpu | None = None
    gpu: Gpu | None = None
    memory_bytes: int | Missing
    memory_limit_bytes: int | Missing  # cgroup memory limit
    virtual: str | Missing  # hypervisor; Missing on bare metal
    container: str | Missing
    power_mode: str | Missing  # nvpmodel on Jetson

    def __post_init__(self) -> None:
        check_finite(self, "memory_bytes", "memory_limit_bytes")


class Found(Record, frozen=True, kw_only=True):
    """What a device finder found: devices that are here, or why none is."""

    devices: tuple[Device, ...] = ()
    absent: Support = Support()


class PackageVersion(Record, frozen=True, kw_only=True):
    """A package that took part, and its version."""

    name: str
    version: str


class Environment(Record, frozen=True, kw_only=True):
    """The software a result was made with."""

    hwbench: str
    python: str
    os: str
    kernel: str
    libc: str | Missing
    packages: tuple[PackageVersion, ...]
    variables: dict[str, str] = {}  # of the process environment: those that change what runtimes do


class HostState(Record, frozen=True, kw_only=True):
    """What could disturb a measurement, read at one moment.

    Counters (``throttle_events``, ``steal_s``, ``busy_s``, ``swap_out_bytes``) are cumulative since boot; what matters
    is their difference over a window. ``steal_s`` and ``busy_s`` are summed over the CPUs that the reader named (of a
    measurement: those it was pinned to, ``settings.cpus``), or over all CPUs when it named none.
    """

    monotonic_s: float
    load_1min: float | Missing
    cpu_hz: tuple[float, ...] | Missing
    temperature_c: float | Missing  # hottest CPU sensor
    throttle_events: int | Missing
    steal_s: float | Missing
    busy_s: float | Missing  # user + nice + system + irq + softirq
    memory_available_bytes: int
    swap_out_bytes: int | Missing
    governor: str | Missing
