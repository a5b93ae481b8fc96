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

Tested with simulated drivers; not verified on a GPU.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from hwbench.nvml import Nvml, load
from hwbench.records.base import Missing
from hwbench.records.memory import GpuMemory
from hwbench.units import Clock, MonotonicClock

EVERY_S = 0.02
_MEMORY_V2 = 0x02000028  # nvmlMemory_v2: `used` without what the driver reserves
_HOST_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO of the kernel (include/linux/proc_ns.h)
_CONTAINER = "start the container with --pid=host; until then only the device's delta is known"
_NOT_READ = Missing(code="no_samples", why="the GPU's memory was not read")


class GpuMemoryTrack:
    """Follows the memory of one GPU through a run.

    Enter it before the process has a CUDA context (that is the baseline); call :meth:`start_run` when the model is
    ready; :meth:`finish` when inference is over.

    Args:
        uuid: of the GPU (``gpu.uuid`` of its device).
        torch_index: CUDA's own number of it in this process, for torch's allocator.
        nvml: the module ``pynvml`` or what stands in for it; loaded when not given.
        torch: the module, or what stands in for it; by default torch where this process has imported it.
        clock: tests pass a fake; then nothing is read but by :meth:`look`.
        every_s: how often to look.
        root: where ``/proc`` is.
    """

    def __init__(
        self,
        uuid: str,
        *,
        torch_index: int = 0,
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

    def start_run(self) -> None:
        """Inference starts: forget the peaks of building and loading."""
        torch = self._allocator()
        if not isinstance(torch, Missing):
            torch.cuda.reset_peak_memory_stats(self._torch_index)
        with self._lock:
            self._seen = _Seen()
        self.look()

    def look(self) -> None:
        """Read the GPU's memory once."""
        with self._lock:
            self._seen.look(self._clock.now_ns(), self._used_bytes(), self._own_bytes())

    def finish(self) -> GpuMemory:
        """Inference is over: return what was seen since :meth:`start_run`."""
        self.look()
        torch = self._allocator()
        allocated: int | Missing = torch if isinstance(torch, Missing) else _peak(torch, "allocated", self._torch_index)
        reserved: int | Missing = torch if isinstance(torch, Missing) else _peak(torch, "reserved", self._torch_index)
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
            "pid_unsure": not isinstance(own, Missing) and not self._sees_host_ids(),
            "other_processes": self._others,
        }
        return tuple(flag for flag, holds in said.items() if holds)

    def _find(self) -> Any:
        """Initialise NVML and return the GPU's handle, or why there is none."""
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
        if own in self._strangers and not self._sees_host_ids():
            why = f"process {own} was on this GPU before this process used it: NVML tells the ids of the host"
            return Missing(code="pid_of_another", why=why, cure=_CONTAINER)
        if own not in processes:
            if self._sees_host_ids():
                return Missing(code="not_on_gpu", why="this process has no CUDA context on this GPU")
            why = "NVML tells the process ids of the host, and this process has others (a private PID namespace)"
            return Missing(code="pid_not_found", why=why, cure=_CONTAINER)
        used = processes[own]
        if used is None:
            why = "the driver does not tell memory by process here (Windows with WDDM, WSL)"
            return Missing(code="not_supported", why=why, cure="Linux, or Windows with the TCC driver")
        return used

    def _sees_host_ids(self) -> bool:
        """Say whether this process is in the PID namespace of the host, whose ids NVML tells."""
        with contextlib.suppress(OSError):
            return (self._root / "proc/self/ns/pid").readlink().name == _HOST_NAMESPACE
        return False

    def _allocator(self) -> Any:
        torch = sys.modules.get("torch") if self._torch is None else self._torch
        if torch is None:
            return Missing(code="no_torch", why="torch is not loaded in this process: its allocator holds nothing")
        if not torch.cuda.is_initialized():
            return Missing(code="no_torch", why="torch has no CUDA context in this process")
        return torch

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
