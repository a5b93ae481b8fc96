"""Memory that a runtime tells of itself, and memory on a GPU: each number a value or the reason why there is none."""

from __future__ import annotations

from hwbench.records.base import Missing, Record, check, check_finite


class RuntimeMemory(Record, frozen=True, kw_only=True, tag_field="kind", tag="runtime_memory"):
    """What a runtime holds for one model, as it says itself; not what the operating system counts.

    In host memory, or in that of a GPU where ``method`` says so.

    ``weights``: constants, and the copies of them that its kernels packed. ``activations``: highest sum of tensors
    alive at one time during an inference, outputs included. ``workspace``: what scratch memory inside kernels adds to
    the peak. ``arena``: what its allocator holds, in use or not. How each was read, and what it leaves out, is in
    ``method``; the definitions of two runtimes differ, so compare with care.
    """

    weights_bytes: int | Missing
    activations_bytes: int | Missing
    workspace_bytes: int | Missing
    arena_bytes: int | Missing
    method: str

    def __post_init__(self) -> None:
        check_finite(self, "weights_bytes", "activations_bytes", "workspace_bytes", "arena_bytes")


class GpuMemory(Record, frozen=True, kw_only=True, tag_field="kind", tag="gpu_memory"):
    """Peak memory on one GPU in one phase of a run, seen four ways.

    ``torch_peak_allocated`` and ``torch_peak_reserved`` are exact, of torch's own allocator. ``nvml_process_peak`` and
    ``nvml_device_delta`` (used now less used before the process had a context) are the highest of ``samples`` looks,
    one every ``sampled_every_s`` and the longest pause ``longest_gap_s``: a peak between two looks is not in them.

    ``flags``: ``device_delta_only`` (the process cannot be told from others: whatever else ran on the GPU is in the
    delta), ``pid_unsure`` (this process has process ids of its own, and the driver named one like its own: it should be
    it), ``other_processes`` (others used the GPU since the start).
    """

    torch_peak_allocated_bytes: int | Missing
    torch_peak_reserved_bytes: int | Missing
    nvml_process_peak_bytes: int | Missing
    nvml_device_delta_bytes: int | Missing
    samples: int
    sampled_every_s: float
    longest_gap_s: float | Missing
    flags: tuple[str, ...] = ()
    method: str

    def __post_init__(self) -> None:
        check_finite(self, "torch_peak_allocated_bytes", "torch_peak_reserved_bytes", "nvml_process_peak_bytes")
        check_finite(self, "nvml_device_delta_bytes", "sampled_every_s", "longest_gap_s")
        check(self.samples >= 0, "samples must not be negative")
