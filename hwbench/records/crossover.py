"""Where a sparse kernel beats a dense product, shape by shape: the file ``hwbench kernels`` writes."""

from __future__ import annotations

from typing import Literal

from hwbench.records.base import Missing, Record, check, check_finite
from hwbench.records.device import Device, Environment

CROSSOVER_SCHEMA = 1

Basis = Literal["measured", "model"]
Role = Literal["kernel", "dense", "library", "control"]
"""Of a contender: a kernel of hwbench; a dense product; a sparse product of a library; a dense one timed twice."""


class Contender(Record, frozen=True, kw_only=True):
    """Who computes ``Y[N, M] = X[N, K] · Wᵀ``.

    ``name`` is stable and meant for programs: a format (``vw16``), ``dense-fp16``, ``dense-int8``, ``dense-int4``,
    ``compile-fp16``, ``torch-24``, ``torch-bsr16``. ``values``: the type the weights are held in.
    """

    name: str
    role: Role
    values: Literal["fp16", "int8", "int4", "int2"]
    summary: str


class Times(Record, frozen=True, kw_only=True, tag_field="kind", tag="times"):
    """Seconds of one product. A model has no samples, and its interval is what its assumptions leave open."""

    value_s: float
    low_s: float
    high_s: float
    samples_s: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_finite(self, "value_s", "low_s", "high_s")
        check(0 < self.low_s <= self.value_s <= self.high_s, "the interval must hold the value, above zero")


class Cell(Record, frozen=True, kw_only=True):
    """One contender at one point.

    ``sparsity``: the fraction of zeros that was asked for, 0 for a dense weight. ``read_bytes``: weight, X and Y, once.
    ``bound_s``: what the memory alone takes for them; ``bound_by``: what a model says the time is bound by. ``error``:
    the largest |y - y64| over what is allowed of this contender, found before it was timed; what is above 1 is wrong,
    and not timed. A model has none.
    """

    m: int
    k: int
    n: int
    sparsity: float
    contender: str
    time: Times | Missing
    read_bytes: float
    bound_s: float
    bound_by: str | Missing
    error: float | Missing

    def __post_init__(self) -> None:
        check(min(self.m, self.k, self.n) > 0, "m, k and n must be positive")
        check(0 <= self.sparsity <= 1, f"sparsity must be a fraction, got {self.sparsity}")
        check_finite(self, "read_bytes", "bound_s", "error")

    @property
    def bound_share(self) -> float | Missing:
        """The fraction of the memory's rate that was reached."""
        return self.time if isinstance(self.time, Missing) else self.bound_s / self.time.value_s


class LeftOut(Record, frozen=True, kw_only=True):
    """A contender that did not take part at a point, and why: a shape, a sparsity, memory, a library that refused."""

    contender: str
    m: int | None  # None: whatever it is, as for the others
    k: int | None
    n: int | None
    sparsity: float | None
    reason: Missing


class CrossoverJob(Record, frozen=True, kw_only=True):
    """A table to measure, in a process of its own.

    ``memory_bytes_per_s``: of the data sheet, for where torch is not there to measure a copy.
    """

    device: Device
    shapes: tuple[tuple[int, int], ...]
    rows: tuple[int, ...]
    sparsities: tuple[float, ...]
    formats: tuple[str, ...]
    memory_bytes_per_s: float | Missing
    memory_from: str
    rounds: int
    baselines: bool
    seed: int


class Raced(Record, frozen=True, kw_only=True):
    """What the child leaves; the fields are those of :class:`Crossover`."""

    compute_capability: str
    driver: str
    kernels_sha256: str
    memory_bytes_per_s: float
    memory_from: str
    contenders: tuple[Contender, ...]
    cells: tuple[Cell, ...]
    left_out: tuple[LeftOut, ...]
    control: float | Missing
    protocol: tuple[str, ...]
    warnings: tuple[str, ...] = ()


class Crossover(Record, frozen=True, kw_only=True):
    """A whole table, of one GPU.

    ``basis``: ``measured`` here, or ``model``, which nobody has measured. ``device``: name, as ``--device`` takes it.
    ``driver``: the GPU's, with the CUDA it implements. ``kernels_sha256``: over the sources. ``memory_bytes_per_s``:
    what ``bound_s`` goes by, and ``memory_from`` where it is from. ``control``: the largest ratio, above 1, of two
    timings of the same dense product; ratios nearer to 1 say nothing. ``protocol``: how it was measured, in sentences.
    """

    schema_version: int
    created_at: str
    basis: Basis
    device: str
    title: str
    compute_capability: str
    driver: str | Missing
    kernels_sha256: str
    environment: Environment
    memory_bytes_per_s: float
    memory_from: str
    contenders: tuple[Contender, ...]
    cells: tuple[Cell, ...]
    left_out: tuple[LeftOut, ...]
    control: float | Missing
    protocol: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        known = {each.name for each in self.contenders}
        strange = {cell.contender for cell in self.cells} - known
        check(not strange, f"cells name contenders that are not there: {', '.join(sorted(strange))}")
        check_finite(self, "memory_bytes_per_s", "control")

    def contender(self, name: str) -> Contender:
        """Return a contender by its name."""
        return next(each for each in self.contenders if each.name == name)


class Choice(Record, frozen=True, kw_only=True):
    """The fastest kernel of hwbench for one product, held against the dense products there.

    ``gain``: the time of the best dense one over that of the kernel; a gain of 1 or less, or one that the control does
    not tell from 1, is ``no gain``, in ``verdict``. ``against``: the gains over each dense product by its name.
    ``product``: rows and columns of W and rows of X of the point of the table, and ``time_s`` of the kernel there.
    """

    contender: str
    sparsity: float
    product: tuple[int, int, int]
    time_s: float
    basis: Basis
    gain: float
    best_dense: str
    against: dict[str, float]
    verdict: Literal["gain", "no gain"]
    why: str
