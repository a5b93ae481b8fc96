"""Peak memory on an NVIDIA GPU: four numbers, since no single one tells all.

=========================  ====================================================================  =========
``torch_peak_allocated``   tensors, by torch's allocator                                         exact
``torch_peak_reserved``    what torch's allocator took from CUDA                                 exact
``nvml_process_peak``      the process as the driver counts it: CUDA context, workspaces of      sampled
                           cuBLAS and cuDNN, other allocators (ONNX Runtime, TensorRT)
``nvml_device_delta``      the whole GPU, less what was used before                              sampled
=========================  ====================================================================  =========

Inside a container NVML tells the process ids of the host. A process with ids of its own then finds itself missing, or
finds a stranger's id equal to its own; both are seen here, and then only the device's delta is given, and flagged.

Loading is watched closely, :data:`EVERY_S`. While inferences are timed a look would cost them time, and what they
take was taken by the first of them: then :data:`RUN_EVERY_S`, and at both ends.

On a Jetson GPU and CPU share one memory: there torch's two numbers are known, and the process's own resident set.

Tested with simulated drivers; not verified on a GPU.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from hwbench.cuda.torch_devices import torch_index
from hwbench.nvml import Nvml, load, sees_host_ids
from hwbench.records.base import Missing
from hwbench.records.device import Device
from hwbench.records.memory import GpuMemory
from hwbench.units import Clock, MonotonicClock

EVERY_S = 0.02
RUN_EVERY_S = 0.5
NO_GPU = Missing(code="no_gpu", why="it ran on the CPU: its memory is the process's")
_MEMORY_V2 = 0x02000028  # nvmlMemory_v2: `used` without what the driver reserves
_CONTAINER = "start the container with --pid=host; until then only the device's delta is known"
_UNIFIED = Missing(code="unified", why="CPU and GPU share one memory here: see that of the process")
_NOT_READ = Missing(code="no_samples", why="the GPU's memory was not read")


@contextlib.contextmanager
def gpu_track(device: Device) -> Iterator[GpuMemoryTrack | None]:
    """Follow the memory of a device from now on; None where it is no GPU."""
    if device.kind not in {"nvidia", "jetson"}:
        yield None
        return
    uuid = _UNIFIED if device.gpu is None else device.gpu.uuid
    with GpuMemoryTrack(uuid, torch_index=lambda torch: torch_index(torch, device)) as track:
        yield track


def told(track: GpuMemoryTrack | None) -> GpuMemory | Missing:
    """Return what was seen in the phase that ends now."""
    return NO_GPU if track is None else track.finish()


class GpuMemoryTrack:
    """Follows the memory of one GPU through a run.

    Enter it before the process has a CUDA context (that is the baseline); call :meth:`finish` and :meth:`start_run`
    when the model is ready; :meth:`finish` when inference is over.

    Args:
        uuid: of the GPU (``gpu.uuid`` of its device), or why it has none.
        torch_index: torch's own number of it in this process, or what finds it, given torch.
        nvml: the module ``pynvml`` or what stands in for it; loaded when not given.
        torch: the module, or what stands in for it; by default torch where this process has imported it.
        clock: tests pass a fake; then nothing is read but by :meth:`look`.
        every_s: how often to look.
        root: where ``/proc`` is.
    """

    def __init__(
        self,
        uuid: str | Missing,
        *,
        torch_index: int | Callable[[Any], int | Missing] = 0,
        nvml: Any = None,
        torch: Any = None,
        clock: Clock | None = None,
        every_s: float = EVERY_S,
        root: Path = Path("/"),
    ) -> None:
        self._uuid, self._torch_index, self._torch = uuid, torch_index, torch
        self._module, self._clock, self.every_s, self._root = nvml, clock or MonotonicClock(), every_s, root
        self._api: Nvml | None = None
        self._handle: Any = _NOT_READ
        self._before: int | Missing = _NOT_READ
        self._strangers: set[int] = set()
        self._others = False
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None
        self._seen = _Seen()

    def __enter__(self) -> GpuMemoryTrack:
        self._handle = self._find()
        self._before = self._used_bytes()
        found = self._processes()
        self._strangers = set() if isinstance(found, Missing) else set(found)
        if isinstance(self._clock, MonotonicClock) and not isinstance(self._handle, Missing):
            self._thread = threading.Thread(target=self._work, daemon=True, name="hwbench-gpu-memory")
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if self._api is not None:
            self._api.ask("nvmlShutdown")

    def start_run(self, every_s: float = RUN_EVERY_S) -> None:
        """Inference starts: forget the peaks of building and loading, and look less often."""
        torch, index = self._allocator()
        if not isinstance(index, Missing):
            torch.cuda.reset_peak_memory_stats(index)
        with self._lock:
            self.every_s, self._seen = every_s, _Seen()
        self.look()

    def look(self) -> None:
        """Read the GPU's memory once."""
        with self._lock:
            self._seen.look(self._clock.now_ns(), self._used_bytes(), self._own_bytes())

    def finish(self) -> GpuMemory:
        """A phase is over: return what was seen since :meth:`start_run`, or since the beginning."""
        self.look()
        torch, index = self._allocator()
        allocated: int | Missing = index if isinstance(index, Missing) else _peak(torch, "allocated", index)
        reserved: int | Missing = index if isinstance(index, Missing) else _peak(torch, "reserved", index)
        seen = self._seen
        used, own = seen.used.value, seen.own.value
        delta: int | Missing = used if isinstance(used, Missing) else self._before
        if not isinstance(used, Missing) and not isinstance(self._before, Missing):
            delta = max(0, used - self._before)
        return GpuMemory(
            torch_peak_allocated_bytes=allocated,
            torch_peak_reserved_bytes=reserved,
            nvml_process_peak_bytes=own,
            nvml_device_delta_bytes=delta,
            samples=seen.samples,
            sampled_every_s=self.every_s,
            longest_gap_s=seen.longest_s,
            flags=self._flags(own, delta),
            method="torch: torch.cuda.max_memory_allocated, max_memory_reserved; NVML: "
            "nvmlDeviceGetComputeRunningProcesses_v3 of this process, nvmlDeviceGetMemoryInfo less that at the start",
        )

    def _flags(self, own: int | Missing, delta: int | Missing) -> tuple[str, ...]:
        said = {
            "device_delta_only": isinstance(own, Missing) and not isinstance(delta, Missing),
            "pid_unsure": not isinstance(own, Missing) and not sees_host_ids(self._root),
            "other_processes": self._others,
        }
        return tuple(flag for flag, holds in said.items() if holds)

    def _find(self) -> Any:
        """Initialise NVML and return the GPU's handle, or why there is none."""
        if isinstance(self._uuid, Missing):
            return self._uuid
        module = load() if self._module is None else self._module
        if isinstance(module, Missing):
            return module
        api = Nvml(module)
        started = api.ask("nvmlInit")
        if isinstance(started, Missing):
            return started
        self._api = api
        return api.ask("nvmlDeviceGetHandleByUUID", self._uuid)

    def _used_bytes(self) -> int | Missing:
        if self._api is None or isinstance(self._handle, Missing):
            return self._handle if isinstance(self._handle, Missing) else _NOT_READ
        memory = self._api.ask("nvmlDeviceGetMemoryInfo", self._handle, _MEMORY_V2)
        if isinstance(memory, Missing):  # an older driver: with what is reserved, which the difference takes off again
            memory = self._api.ask("nvmlDeviceGetMemoryInfo", self._handle)
        return memory if isinstance(memory, Missing) else int(memory.used)

    def _processes(self) -> dict[int, int | None] | Missing:
        """Return memory by process id; None where the driver does not tell it."""
        if self._api is None or isinstance(self._handle, Missing):
            return self._handle if isinstance(self._handle, Missing) else _NOT_READ
        found = self._api.ask("nvmlDeviceGetComputeRunningProcesses_v3", self._handle)
        if isinstance(found, Missing):
            return found
        used: dict[int, int | None] = {}
        for process in found:  # one entry for each MIG instance that a process uses
            before = used.get(process.pid, 0)
            told = process.usedGpuMemory
            used[process.pid] = None if before is None or told is None else before + told
        return used

    def _own_bytes(self) -> int | Missing:
        """Return what this process uses, or why that is not known."""
        processes = self._processes()
        if isinstance(processes, Missing):
            return processes
        own = os.getpid()
        self._others |= bool(set(processes) - {own})
        if own in self._strangers and not sees_host_ids(self._root):
            why = f"process {own} was on this GPU before this process used it: NVML tells the ids of the host"
            return Missing(code="pid_of_another", why=why, cure=_CONTAINER)
        if own not in processes:
            if sees_host_ids(self._root):
                return Missing(code="not_on_gpu", why="this process has no CUDA context on this GPU")
            why = "NVML tells the process ids of the host, and this process has others (a private PID namespace)"
            return Missing(code="pid_not_found", why=why, cure=_CONTAINER)
        used = processes[own]
        if used is None:
            why = "the driver does not tell memory by process here (Windows with WDDM, WSL)"
            return Missing(code="not_supported", why=why, cure="Linux, or Windows with the TCC driver")
        return used

    def _allocator(self) -> tuple[Any, int | Missing]:
        """Return torch, and its number of the GPU or why its allocator holds nothing there."""
        torch = sys.modules.get("torch") if self._torch is None else self._torch
        if torch is None:
            return None, Missing(
                code="no_torch", why="torch is not loaded in this process: its allocator holds nothing"
            )
        if not torch.cuda.is_initialized():
            return torch, Missing(code="no_torch", why="torch has no CUDA context in this process")
        return torch, self._torch_index(torch) if callable(self._torch_index) else self._torch_index

    def _work(self) -> None:
        while not self._stop.wait(self.every_s):
            self.look()


class _Peak:
    """The highest of several readings; of failed ones the last reason, where none worked."""

    def __init__(self) -> None:
        self.value: int | Missing = _NOT_READ

    def add(self, value: int | Missing) -> None:
        if isinstance(self.value, Missing):
            self.value = value
        elif not isinstance(value, Missing):
            self.value = max(self.value, value)


class _Seen:
    """What the looks of one phase showed."""

    def __init__(self) -> None:
        self.used, self.own = _Peak(), _Peak()
        self.samples = 0
        self.longest_s: float | Missing = Missing(code="no_samples", why="fewer than two looks at the GPU")
        self._last_ns: int | None = None

    def look(self, now_ns: int, used: int | Missing, own: int | Missing) -> None:
        self.used.add(used)
        self.own.add(own)
        self.samples += 1
        if self._last_ns is not None:
            gap_s = (now_ns - self._last_ns) / 1e9
            self.longest_s = gap_s if isinstance(self.longest_s, Missing) else max(self.longest_s, gap_s)
        self._last_ns = now_ns


def _peak(torch: Any, kind: str, index: int) -> int:
    return int(getattr(torch.cuda, f"max_memory_{kind}")(index))
