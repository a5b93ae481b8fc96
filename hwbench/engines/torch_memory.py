"""What torch says about its memory.

On the CPU the sizes of parameters, and its profiler's record of allocations; on a GPU its allocator's own counters,
which are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import accumulate
from typing import Any

from hwbench.engines.torch_place import OnGpu
from hwbench.records.base import Missing
from hwbench.records.memory import RuntimeMemory

_IN_ACTIVATIONS = Missing(
    code="not_separate", why="torch's operators take scratch memory where they take tensors: it is under activations"
)
_IN_ACTIVATIONS_GPU = Missing(
    code="not_separate", why="cuBLAS and cuDNN take their workspaces from torch's allocator: they are under activations"
)
_NO_ARENA = Missing(code="not_applicable", why="torch takes memory for the CPU from the C library, without an arena")


def torch_memory(module: Any, run: Callable[[], object]) -> RuntimeMemory:
    """Return what ``module`` holds and what one inference takes.

    Args:
        module: the torch module.
        run: one inference, warmed up.
    """
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    events = sorted(profiled.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    return RuntimeMemory(
        weights_bytes=_held_bytes([*module.parameters(), *module.buffers()]),
        activations_bytes=highest(event.nbytes() for event in events if event.name() == "[memory]"),
        workspace_bytes=_IN_ACTIVATIONS,
        arena_bytes=_NO_ARENA,
        method="torch: storage of parameters and buffers, each once, without copies that kernels pack; highest sum of "
        "allocations in one inference (torch.profiler, profile_memory), outputs and operators' scratch memory included",
    )


def torch_gpu_memory(place: OnGpu, module: Any, run: Callable[[], object]) -> RuntimeMemory:
    """Return what ``module`` holds in GPU memory and what one inference takes, by torch's allocator.

    Args:
        place: the GPU.
        module: the torch module.
        run: one inference, launched call by call (a CUDA graph takes its memory when it is captured), warmed up.
    """
    cuda, index = place.torch.cuda, place.index
    before = int(cuda.memory_allocated(index))
    cuda.reset_peak_memory_stats(index)
    run()
    return RuntimeMemory(
        weights_bytes=_held_bytes([*module.parameters(), *module.buffers()]),
        activations_bytes=max(0, int(cuda.max_memory_allocated(index)) - before),
        workspace_bytes=_IN_ACTIVATIONS_GPU,
        arena_bytes=int(cuda.max_memory_reserved(index)),
        method="in GPU memory. torch: storage of parameters and buffers, each once; highest "
        "torch.cuda.max_memory_allocated in one inference without a CUDA graph, less what was allocated before it; "
        "torch.cuda.max_memory_reserved",
    )


def highest(changes: Iterable[int]) -> int | Missing:
    """Return the highest running sum of allocations (positive) and releases (negative), in order of time."""
    sums = list(accumulate(changes))
    if not sums:
        return Missing(code="not_told", why="torch's profiler recorded no allocation")
    return max(0, *sums)


def _held_bytes(tensors: Iterable[Any]) -> int:
    storages = {storage.data_ptr(): storage.nbytes() for storage in (t.untyped_storage() for t in tensors)}
    return int(sum(storages.values()))
