"""What a device is: facts read from the machine itself (a :class:`Device`), nothing looked up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from hwbench.records.base import Missing, Record, Support, check, check_finite
from hwbench.records.gpu import NOT_A_GPU, GpuState

DeviceKind = Literal["cpu", "nvidia", "jetson", "android"]
NAMES_THERE: Final[Mapping[str, str]] = {"cpu": "cpu", "nvidia": "cuda:0", "jetson": "jetson"}
"""By kind, what a device that is not attached is called on the machine that it belongs to."""


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


class MigInstance(Record, frozen=True, kw_only=True):
    """A part of a GPU that is a device of its own (MIG): which GPU it is cut from, and how much of it."""

    parent: str  # ``cuda:0``
    parent_uuid: str
    gpu_instance: int | Missing
    compute_instance: int | Missing
    sm_count: int | Missing


class JetPack(Record, frozen=True, kw_only=True, tag_field="kind", tag="jetpack"):
    """What NVIDIA ships for a Jetson in one release of L4T.

    ``basis``: ``read`` where NVIDIA's own pages or packages were read, ``memory`` where nobody has looked it up since.
    """

    version: str  # of JetPack, ``6.2``
    cuda: str
    tensorrt: str
    python: str  # of the system, for which JetPack's own Python packages are built
    basis: Literal["read", "memory"]
    source: str


class Gpu(Record, frozen=True, kw_only=True):
    """An NVIDIA GPU as NVML shows it, or as much of one as a profile tells.

    ``mig``: whether it is cut into instances. ``instance``: what it is cut from, of a device that is one.
    """

    name: str
    uuid: str | Missing
    compute_capability: str | Missing
    memory_bytes: int | Missing
    driver_version: str | Missing
    cuda_version: str | Missing
    power_limit_w: float | Missing
    sm_max_hz: float | Missing
    mig: bool | Missing
    instance: MigInstance | None = None


NOT_A_JETSON = Missing(code="not_applicable", why="JetPack is for Jetson")


class Device(Record, frozen=True, kw_only=True):
    """A device that is here, or reachable from here.

    ``name`` is what ``--device`` takes. ``fingerprint`` changes when anything changes that makes old
    measurements of it incomparable (CPU, ISA, cores, memory size, virtualisation). ``profile`` is the
    file in ``profiles/`` that matches, if one does. ``cpu`` of a GPU is that of the machine it is in, once it has been
    selected: it launches the work.
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
    jetpack: JetPack | Missing = NOT_A_JETSON

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
    measurement: those it was pinned to, ``settings.cpus``), or over all CPUs when it named none. ``gpu``: of the device
    that was measured, where that is a GPU.
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
    gpu: GpuState | Missing = NOT_A_GPU

    @property
    def heat_c(self) -> float | Missing:
        """The temperature of what was measured: of the GPU where it is one, else of the hottest CPU sensor."""
        return self.temperature_c if isinstance(self.gpu, Missing) else self.gpu.temperature_c

    @property
    def clock_hz(self) -> float | Missing:
        """The clock of what was measured: of the GPU where it is one, else the mean of the CPUs."""
        if not isinstance(self.gpu, Missing):
            return self.gpu.sm_hz
        if isinstance(self.cpu_hz, Missing):
            return self.cpu_hz
        return sum(self.cpu_hz) / len(self.cpu_hz) if self.cpu_hz else _NO_CLOCK


_NO_CLOCK = Missing(code="no_cpu", why="the kernel shows the clock of no CPU")
