"""The table of a GPU that is not attached: :mod:`hwbench.sparse.select`, and nothing measured.

Every kernel takes the longest of what reading its weights, reading X through the L2 cache, issuing the instructions
that unpack weights, shared memory and the tensor cores take; dense products the longest of the same, in the tiles that
cuBLAS is taken to use. What is assumed of all alike hardly moves gains; intervals say what it may move times by.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone

import numpy as np

from hwbench.crossover.grid import Grid, Product
from hwbench.crossover.kernels import contender_of
from hwbench.crossover.measure import kernels_sha256
from hwbench.errors import UsageError
from hwbench.records.base import Missing
from hwbench.records.crossover import CROSSOVER_SCHEMA, Cell, Contender, Crossover, LeftOut, Times
from hwbench.records.device import Environment
from hwbench.records.profile import DeviceProfile
from hwbench.sparse.formats import FORMATS
from hwbench.sparse.manifest import Kernel, fitting, kernel_for, wide_of
from hwbench.sparse.select import (
    DENSE_BYTES,
    DENSE_TILE,
    LAUNCH_S,
    REACHED,
    Dense,
    Expected,
    Machine,
    dense_expected,
    expected,
    machine_of,
)
from hwbench.units import format_seconds, format_si

MARGIN = (0.95, 1.5)  # of a time: by judgement, until the model is held against a GPU
_DENSE: dict[Dense, str] = {
    "fp16": "fp16",
    "int8": "int8 weights and activations",
    "int4": "int4 weights, a scale in fp16 for 128",
}
_SMALL = (64, 256)  # a shape that every format takes
_NONE = Missing(code="model", why="a model has no result that could be off")


def machine_for(profile: DeviceProfile) -> Machine:
    """Return what the model knows of a kind of GPU.

    Raises:
        UsageError: its profile lacks a figure, or is of no NVIDIA GPU.
    """
    found = machine_of(profile)
    if isinstance(found, Missing):
        raise UsageError(f"there is no model of {profile.title}: {found.why}", hint=found.cure)
    return found


def modelled(
    profile: DeviceProfile, grid: Grid, *, kernels: Mapping[str, Kernel], environment: Environment
) -> Crossover:
    """Return the table that the model gives for a GPU.

    Raises:
        UsageError: the profile lacks a figure, or is of no NVIDIA GPU.
    """
    machine = machine_for(profile)
    model, dram = _Model(machine, grid, kernels), profile.bandwidth_bytes_per_s["dram"]
    cells = tuple(cell for product in grid.products() for cell in model.cells(product))
    dense = [
        Contender(name=f"dense-{values}", role="dense", values=values, summary=told) for values, told in _DENSE.items()
    ]
    taken = {cell.contender for cell in cells}
    ours = [contender_of(kernel) for kernel in model.used.values() if kernel.format in taken]
    return Crossover(
        schema_version=CROSSOVER_SCHEMA,
        created_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        basis="model",
        device=profile.name,
        title=profile.title,
        compute_capability=profile.compute_capability or "",
        driver=Missing(code="not_attached", why="no driver: the GPU is not here"),
        kernels_sha256=kernels_sha256(kernels),
        environment=environment,
        memory_bytes_per_s=machine.bandwidth_bytes_per_s,
        memory_from=f"{dram.basis}: {dram.source}",
        contenders=(*dense, *ours),
        cells=cells,
        left_out=tuple(model.left_out),
        control=Missing(code="model", why="a model has no noise"),
        protocol=_protocol(machine),
    )


class _Model:
    def __init__(self, machine: Machine, grid: Grid, kernels: Mapping[str, Kernel]) -> None:
        self.machine, self.grid = machine, grid
        self.used: dict[str, Kernel] = {}
        self.wide: dict[str, Kernel | None] = {}
        self.left_out: list[LeftOut] = []
        for name in grid.named:
            try:
                found = kernel_for(kernels, name)
            except UsageError as error:
                self._leave_out(name, None, None, Missing(code="no_kernel", why=error.message))
                continue
            if found.arch_for(machine.arch) is None:
                why = f"{found.name} is not for sm_{machine.arch}"
                self._leave_out(name, None, None, Missing(code="not_for_gpu", why=why))
            else:
                self.used[name], self.wide[name] = found, wide_of(kernels, found)

    def cells(self, product: Product) -> Iterator[Cell]:
        """Return the dense products, and every kernel at every sparsity that its format has."""
        shape = (product.m, product.k)
        for values in _DENSE:
            time_s, bound = dense_expected(values, shape, product.n, self.machine)
            size = DENSE_BYTES[values] * product.m * product.k
            yield self._cell(product, f"dense-{values}", 0.0, size, time_s, bound)
        for name, narrow in self.used.items():
            kernel = fitting(
                narrow, self.wide[name], m=product.m, n=product.n, multiprocessors=self.machine.multiprocessors
            )
            dense = FORMATS[name].values in {"int4", "int2"}  # these keep every weight
            for sparsity in (0.0,) if dense else self.grid.sparsities:
                found = _expected(kernel, shape, product.n, sparsity, self.machine)
                if isinstance(found, Missing):
                    self._leave_out(name, product, sparsity, found)
                else:
                    yield self._cell(product, name, sparsity, found.weight_bytes, found.time_s, found.bound)

    def _cell(
        self, product: Product, name: str, sparsity: float, weight_bytes: float, time_s: float, bound: str
    ) -> Cell:
        m, k, n = product.m, product.k, product.n
        read = weight_bytes + 2.0 * n * (m + k)
        return Cell(
            m=m,
            k=k,
            n=n,
            sparsity=sparsity,
            contender=name,
            time=Times(value_s=time_s, low_s=MARGIN[0] * time_s, high_s=MARGIN[1] * time_s),
            read_bytes=read,
            bound_s=read / self.machine.bandwidth_bytes_per_s,
            bound_by=bound,
            error=_NONE,
        )

    def _leave_out(self, name: str, product: Product | None, sparsity: float | None, why: Missing) -> None:
        m, k, n = (None, None, None) if product is None else (product.m, product.k, product.n)
        self.left_out.append(LeftOut(contender=name, m=m, k=k, n=n, sparsity=sparsity, reason=why))


def _expected(kernel: Kernel, shape: tuple[int, int], n: int, sparsity: float, machine: Machine) -> Expected | Missing:
    found = expected(kernel, shape, n, sparsity, machine)
    if isinstance(found, Missing):
        return found
    lacks = _lacks(kernel.format, sparsity)
    return found if lacks is None else Missing(code="not_at_this_sparsity", why=lacks)


@functools.cache
def _lacks(name: str, sparsity: float) -> str | None:
    """Return why a format does not have a sparsity at all; its mask says so, of any matrix."""
    try:
        FORMATS[name].mask(np.ones(_SMALL), sparsity)
    except ValueError as error:
        return str(error)
    return None


def _protocol(machine: Machine) -> tuple[str, ...]:
    reached = f"{REACHED:.0%} of the data sheet's bandwidth is taken to be reached"
    return (
        "Model, not measured: the longest of memory, L2 cache, issuing, shared memory and tensor cores, and a launch.",
        f"{machine.lane_instructions_per_byte:.1f} lane instructions a byte of memory; {reached}.",
        f"The L2 cache is taken to give {format_si(machine.l2_bytes_per_s, 'B/s')}, from others' measurements.",
        f"Dense products are taken to read X again for every {DENSE_TILE[0]} rows of W.",
        f"A launch in a graph is taken to take {format_seconds(LAUNCH_S)}.",
        f"Intervals are from {MARGIN[0]:g} to {MARGIN[1]:g} times the time, by judgement.",
    )
