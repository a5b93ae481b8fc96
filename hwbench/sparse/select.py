"""How long a kernel should take on a GPU that is not attached: a model, and labelled as one.

A kernel reads each weight once, so memory bounds it; what sparsity saves in bytes it pays in instructions. A GPU offers
some number of lane instructions for every byte that it can read, :attr:`Machine.lane_instructions_per_byte`: 7 on an
H200, 41 on an RTX 4090. Where decoding a format takes more than that for each of its bytes, the kernel is bound by
issue and not by memory, and a format that pays on one GPU does not on the other. Shared memory bounds likewise: a cycle
for every access of a warp without bank conflicts, and more with them. So does the L2 cache: every block reads the
inputs again, for as few rows of W as it has, and the weights come through it too. Where there are fewer blocks than
multiprocessors, or a few more, some wait: what a multiprocessor does takes as long as on the one with most blocks.

Dense products are held to the same: they read X again for every tile of :data:`DENSE_TILE`, through the L2 cache, and
bring both operands through shared memory. They are given what suits them: large tiles, K split between blocks so that
none waits, no instructions for widening int8 and int4. Where weights have eight bits, activations have as many, and
are multiplied at the rate of int8 or fp8: so does TensorRT, and products of int8 weights alone are not faster.

What the model leaves out: small matrices that the cache keeps, inputs that a block finds in L1 because another read
them, the last wave of blocks beyond the first, the latency that too few warps leave open. It was made from machine
code, data sheets and others' measurements of caches, and has not been held against a GPU yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from hwbench.errors import UsageError
from hwbench.records.base import Missing, Record
from hwbench.records.profile import DeviceProfile
from hwbench.sparse.formats import FORMATS
from hwbench.sparse.formats.gap4 import entries_of
from hwbench.sparse.manifest import Issue, Kernel, Multiplies

Bound = Literal["memory", "l2", "issue", "shared", "tensor", "launch"]
Dense = Literal["fp16", "int8", "int4"]

LAUNCH_S: Final = 3e-6
"""What a launch takes inside a CUDA graph, drained and filled again: an estimate, the same for every GPU."""
REACHED: Final = 0.9
"""Share of the data sheet's bandwidth that a good kernel reaches: an estimate."""
ISSUED: Final = 0.75
"""Share of the cycles in which a scheduler, or shared memory, has something to do at best: an estimate."""
L2_BYTES_PER_CYCLE: Final[dict[int, float]] = {75: 20, 80: 35, 86: 16, 89: 15, 90: 35, 110: 16, 120: 15}
"""Bytes that a multiprocessor gets from the L2 cache in a cycle, while all of them read, by compute capability.

What a benchmark of reading found over multiprocessors and boost clock: T4 1270 GB/s (arXiv:1903.07486); A100 5.4 TB/s,
A40 2.4, L40 5.2, H100 PCIe 6.9, H200 9.7 (github.com/RRZE-HPC/gpu-benches at 1038c5d, gpu-l2-cache and gpu-cache: data
of 10 to 30 MB). GPUs between take the older one's; 11.0 and 12.0 are taken to be as 8.6 and 8.9, by judgement.
"""
L2_OVER_MEMORY: Final = 1.5
"""What the L2 cache gives at least, over what the memory does: by judgement, for GPUs of the fastest memories."""
PORT_BYTES_PER_CYCLE: Final = 64.0
"""Bytes a cycle that one multiprocessor can take from the L2 cache (arXiv:1804.06826, taken for newer ones too)."""
DENSE_TILE: Final = (256, 256)
"""Rows of W and of X for which a dense product brings X and W through the L2 cache once.

cuBLAS's blocks have 64 to 256 rows by 64 to 256 (NVIDIA, Matrix Multiplication Background, DU-09799, 2.3), fewer where
X has fewer; from 9.0 on, blocks of a cluster share what one of them reads (CUTLASS, multicast by TMA). An assumption in
favour of dense products: what cuBLAS chooses is not known.
"""
SHARED_BYTES_PER_CYCLE: Final = 128.0
"""Bytes of shared memory that a multiprocessor reads or writes in a cycle: 32 banks of 4."""
X_BYTES: Final[dict[Dense, float]] = {"fp16": 2.0, "int8": 1.0, "int4": 2.0}
"""Bytes an input that a dense product reads; what it writes is in fp16."""
DENSE_BYTES: Final[dict[Dense, float]] = {"fp16": 2.0, "int8": 1.0, "int4": 0.515625}
"""Bytes a weight of what sparsity competes with; int4 has an fp16 scale for 128 columns."""

_MULTIPLIED: Final[dict[Multiplies, float | None]] = {"none": 0.0, "all": 1.0, "half": 0.5, "kept": None}
_LANES: Final = 128  # instructions a multiprocessor can issue in a cycle, times 32 lanes: four schedulers from Volta on


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What the model knows of a GPU."""

    name: str
    arch: int  # 90 for compute capability 9.0
    multiprocessors: float
    clock_hz: float
    bandwidth_bytes_per_s: float
    fp16_ops_per_s: float
    eight_bits_ops_per_s: float  # of int8 or fp8, whichever is faster; that of fp16 where neither is known

    @property
    def lane_instructions_per_byte(self) -> float:
        """Return the lane instructions that can be issued while one byte is read from memory."""
        return self.multiprocessors * _LANES * self.clock_hz / self.bandwidth_bytes_per_s

    @property
    def l2_bytes_per_s(self) -> float:
        """Return what the L2 cache is taken to give to all multiprocessors together."""
        known = max(arch for arch in L2_BYTES_PER_CYCLE if arch <= max(self.arch, min(L2_BYTES_PER_CYCLE)))
        measured = L2_BYTES_PER_CYCLE[known] * self.multiprocessors * self.clock_hz
        return max(measured, L2_OVER_MEMORY * self.bandwidth_bytes_per_s)


class Expected(Record, frozen=True, kw_only=True):
    """What the model expects of a kernel and a shape.

    ``speedup`` is over what the model expects of dense products, by precision (:func:`dense_expected`).
    """

    kernel: str
    machine: str
    time_s: float
    bound: Bound
    weight_bytes: float
    speedup: dict[Dense, float]
    basis: Literal["model"] = "model"


def machine_of(profile: DeviceProfile) -> Machine | Missing:
    """Return what a device profile says of a GPU, or what it lacks for the model."""
    jetson = profile.kind == "jetson"
    wanted = {
        "compute_capability": profile.compute_capability,
        "counts": profile.counts.get("gpu_sm" if jetson else "sm"),
        "clock_hz": profile.clock_hz.get("gpu" if jetson else "boost"),
        "bandwidth_bytes_per_s.dram": profile.bandwidth_bytes_per_s.get("dram"),
        "peak_ops_per_s.fp16": profile.peak_ops_per_s.get("fp16"),
    }
    if lacking := [name for name, value in wanted.items() if value is None]:
        why = f"the profile {profile.name} has no {', '.join(lacking)}"
        return Missing(code="no_gpu_figures", why=why, cure="add them to profiles/, with their source")
    capability = profile.compute_capability or ""
    return Machine(
        name=profile.name,
        arch=int(capability.replace(".", "")),
        multiprocessors=profile.counts["gpu_sm" if jetson else "sm"].value,
        clock_hz=profile.clock_hz["gpu" if jetson else "boost"].value,
        bandwidth_bytes_per_s=profile.bandwidth_bytes_per_s["dram"].value,
        fp16_ops_per_s=profile.peak_ops_per_s["fp16"].value,
        eight_bits_ops_per_s=max(
            profile.peak_ops_per_s[each].value for each in ("fp16", "int8", "fp8") if each in profile.peak_ops_per_s
        ),
    )


def expected(kernel: Kernel, shape: tuple[int, int], n: int, sparsity: float, machine: Machine) -> Expected | Missing:
    """Return what the model expects of ``Y[n, m] = X[n, k] W[m, k]^T`` with ``shape`` = (m, k).

    Returns:
        Missing where the kernel does not take the shape, is not for this GPU, or its instructions were not counted.

    Raises:
        UsageError: the format of the kernel is unknown here, or the sparsity no share from 0 to 1.
    """
    m, k = shape
    if kernel.format not in FORMATS:
        raise UsageError(f"the format {kernel.format} of the kernel {kernel.name} is unknown")
    if not 0 <= sparsity <= 1:
        raise UsageError(f"a sparsity of {sparsity:g} is no share from 0 to 1")
    if why := kernel.shape.refuses(n=n, m=m, k=k) or FORMATS[kernel.format].refuses(m, k):
        return Missing(code="outside_contract", why=why, cure="the layer stays dense")
    if kernel.arch_for(machine.arch) is None:
        return Missing(code="not_for_gpu", why=f"{kernel.name} is not for sm_{machine.arch}")
    tile = kernel.tile_for(n)
    issue = next((each for each in kernel.issue if each.tile_n == tile), None)
    if issue is None:
        why = f"the instructions of {kernel.name} at a tile of {tile} were not counted"
        return Missing(code="not_counted", why=why, cure="count them in its machine code (kernels/README.md)")
    weight_bytes = FORMATS[kernel.format].bytes_of(m, k, sparsity)
    time_s, bound = _together(_times(kernel, issue, shape, n, sparsity, weight_bytes, machine))
    speedup = {each: dense_time_s(each, (m, k), n, machine) / time_s for each in DENSE_BYTES}
    return Expected(
        kernel=kernel.name,
        machine=machine.name,
        time_s=time_s,
        bound=bound,
        weight_bytes=weight_bytes,
        speedup=speedup,
    )


def dense_expected(dense: Dense, shape: tuple[int, int], n: int, machine: Machine) -> tuple[float, Bound]:
    """Return what the model expects a dense product to take in seconds, a launch with it, and what bounds it."""
    m, k = shape
    rows, columns = DENSE_TILE
    weights, x = m * k * DENSE_BYTES[dense], X_BYTES[dense] * n * k
    again = -(-n // columns)  # W is read for every tile of rows of X
    through_l2 = again * weights + -(-m // rows) * x + 2.0 * n * m
    # In shared memory a tile is of half the rows; W is written and read once, X read for the 64 rows of an instruction.
    in_shared = 2 * again * weights + (-(-2 * m // rows) + -(-m // 64)) * x
    rate = machine.eight_bits_ops_per_s if dense == "int8" else machine.fp16_ops_per_s
    times: dict[Bound, float] = {
        "memory": (weights + x + 2.0 * n * m) / (machine.bandwidth_bytes_per_s * REACHED),
        "l2": through_l2 / machine.l2_bytes_per_s,
        "shared": in_shared / (SHARED_BYTES_PER_CYCLE * machine.multiprocessors * machine.clock_hz),
        "tensor": 2.0 * -(-n // 8) * 8 * m * k / rate,
        "launch": LAUNCH_S,
    }
    return _together(times)


def dense_time_s(dense: Dense, shape: tuple[int, int], n: int, machine: Machine) -> float:
    """Return the time of :func:`dense_expected`."""
    return dense_expected(dense, shape, n, machine)[0]


def _together(times: dict[Bound, float]) -> tuple[float, Bound]:
    """Return the longest, with a launch on top of the work; a launch bounds where it is the longer part."""
    bound: Bound = max(times, key=lambda each: times[each])
    return max(times[each] for each in times if each != "launch") + times["launch"], bound


def _times(
    kernel: Kernel, issue: Issue, shape: tuple[int, int], n: int, sparsity: float, weight_bytes: float, machine: Machine
) -> dict[Bound, float]:
    m, k = shape
    tiles = -(-n // issue.tile_n)
    weights = float(m) * k
    kept = weights * (entries_of(sparsity) if kernel.format == "gap4" else 1 - sparsity)
    instructions = tiles * (issue.per_weight * weights + issue.per_kept * kept)
    waves = tiles * (issue.waves_per_weight * weights + issue.waves_per_kept * kept)
    blocks = tiles * -(-m // kernel.rows_per_block)
    most = -(-blocks // machine.multiprocessors)  # blocks of the multiprocessor that has most of them
    busy = blocks / most  # as many multiprocessors, all with as much to do
    port = PORT_BYTES_PER_CYCLE * busy * machine.clock_hz
    cycles_per_s = busy * machine.clock_hz * ISSUED
    columns = tiles * max(issue.tile_n, 8)  # of Y that tensor cores compute
    share = _MULTIPLIED[kernel.multiplies]
    multiplied = 2.0 * columns * weights * (1 - sparsity if share is None else share)
    return {
        "memory": (tiles * weight_bytes + _activation_bytes(shape, n))
        / min(machine.bandwidth_bytes_per_s * REACHED, port),
        "l2": (tiles * weight_bytes + _l2_bytes(kernel, shape, n, sparsity)) / min(machine.l2_bytes_per_s, port),
        "issue": instructions / (cycles_per_s * _LANES),
        "shared": waves / cycles_per_s,
        "tensor": multiplied / (machine.fp16_ops_per_s * busy / machine.multiprocessors),
        "launch": LAUNCH_S,
    }


def _l2_bytes(kernel: Kernel, shape: tuple[int, int], n: int, sparsity: float) -> float:
    """Return what goes through the L2 cache beside weights: X, once for every strip of rows of W, and Y."""
    m, k = shape
    read = 2.0 * n * k * (1 - sparsity if kernel.reads_x == "kept" else 1)
    return -(-m // kernel.rows_per_block) * read + 2.0 * n * m


def _activation_bytes(shape: tuple[int, int], n: int) -> float:
    m, k = shape
    return 2.0 * n * (m + k)
