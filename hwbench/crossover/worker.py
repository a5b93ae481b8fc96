"""Measure a table in a process of its own: a kernel that faults takes the context, and the process, with it."""

from __future__ import annotations

from pathlib import Path

from hwbench.children import Emit, serve
from hwbench.crossover.baselines import Torch, torch_of
from hwbench.crossover.grid import Grid
from hwbench.crossover.measure import measure
from hwbench.cuda.choose import open_cuda
from hwbench.errors import UsageError
from hwbench.files import write_record
from hwbench.records.base import Missing
from hwbench.records.crossover import CrossoverJob, Raced
from hwbench.sparse.manifest import load_manifest

SO_FAR = "so-far.json"


def work(job: CrossoverJob, folder: Path, emit: Emit) -> Raced:
    """Do the job; after each product :data:`SO_FAR` has what was measured until then, should the process end.

    Raises:
        EngineError: there is no CUDA, or it fails.
        UsageError: nothing can be measured.
    """
    gpu = job.device.gpu
    cuda = open_cuda(gpu.uuid if gpu is not None and isinstance(gpu.uuid, str) else None)
    try:
        asked = Missing(code="not_asked", why="they were not asked for")
        torch = torch_of(cuda, job.device) if job.baselines else asked
        return measure(
            cuda,
            Grid(shapes=job.shapes, rows=job.rows, sparsities=job.sparsities, formats=job.formats),
            kernels=load_manifest(),
            torch=torch,
            memory=_memory(job, torch),
            rounds=job.rounds,
            seed=job.seed,
            watch=lambda what, fraction: emit({"event": "progress", "what": what, "fraction": fraction}),
            keep=lambda raced: write_record(folder / SO_FAR, raced),
        )
    finally:
        cuda.close()


def _memory(job: CrossoverJob, torch: Torch | Missing) -> tuple[float, str]:
    if not isinstance(torch, Missing):
        return torch.copy_rate(), "a copy measured here, bytes read and written"
    if isinstance(job.memory_bytes_per_s, Missing):
        raise UsageError(
            f"the memory's rate is not known, and the bound goes by it: {job.memory_bytes_per_s.why}",
            hint="install torch with CUDA, which measures a copy",
        )
    return job.memory_bytes_per_s, job.memory_from


if __name__ == "__main__":
    serve(work, CrossoverJob)
