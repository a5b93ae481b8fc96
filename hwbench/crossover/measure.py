"""A table, measured: shape by shape, every N a race of all that can take part."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from datetime import datetime, timezone
from typing import Any

import numpy as np

from hwbench.crossover.baselines import BASELINES, CONTROL, Baseline, Torch, entry_of
from hwbench.crossover.grid import Grid, Product
from hwbench.crossover.kernels import Placed, contender_of, pack_for, random_slab, random_x
from hwbench.crossover.race import ALLOWED, CACHE_TIMES, Entry, Problem, race
from hwbench.cuda.api import Cuda
from hwbench.errors import EngineError, UsageError
from hwbench.files import read_bytes
from hwbench.records.base import Missing
from hwbench.records.crossover import CROSSOVER_SCHEMA, Cell, Contender, Crossover, LeftOut, Raced
from hwbench.records.device import Environment
from hwbench.sparse.build import included
from hwbench.sparse.formats import FORMATS
from hwbench.sparse.launch import ImageOf, Loaded, image_of
from hwbench.sparse.manifest import FILE, Kernel, kernel_for, kernels_folder, wide_of

Array = np.ndarray[Any, np.dtype[Any]]
Watch = Callable[[str, float | None], None]


def kernels_sha256(kernels: Mapping[str, Kernel]) -> str:
    """Return a hash over the manifest and all sources of the kernels."""
    digest = hashlib.sha256(read_bytes(kernels_folder() / FILE))
    for path in sorted({path for kernel in kernels.values() for path in included(kernels_folder() / kernel.source)}):
        digest.update(b"\0" + path.name.encode() + b"\0" + read_bytes(path))
    return digest.hexdigest()


class Measuring:
    """One table in the making."""

    def __init__(
        self,
        cuda: Cuda,
        grid: Grid,
        *,
        kernels: Mapping[str, Kernel],
        torch: Torch | Missing,
        memory_bytes_per_s: float,
        rounds: int,
        seed: int,
        image: ImageOf = image_of,
        watch: Watch | None = None,
        kept: Callable[[Measuring], object] | None = None,
    ) -> None:
        """Take what is to be measured, on what.

        Args:
            cuda: the GPU.
            grid: the points.
            kernels: of the manifest.
            torch: for the baselines, or why there are none.
            memory_bytes_per_s: what the bound goes by.
            rounds: samples of each contender at each point.
            seed: of weights, X and orders.
            image: compiles kernels.
            watch: told of each weight that is packed, each contender and each product.
            kept: called after each product.
        """
        self.cuda, self.grid, self.kernels, self.torch = cuda, grid, kernels, torch
        self.memory_bytes_per_s, self.rounds, self.seed = memory_bytes_per_s, rounds, seed
        self.watch, self.image, self.kept = watch or _nobody, image, kept or (lambda _: None)
        self.cells: list[Cell] = []
        self.left_out: list[LeftOut] = []
        self.contenders: dict[str, Contender] = {}

    def run(self) -> None:
        """Measure all points."""
        with Loaded(self.cuda, self.image) as loaded:
            total, done = len(self.grid.shapes) * len(self.grid.rows), 0
            for m, k in self.grid.shapes:
                slab = random_slab(m, k, self.seed)
                with ExitStack() as stack:
                    placed = []
                    for one in self._placed(loaded, slab, m):
                        stack.callback(one.close)
                        placed.append(one)
                    for n in self.grid.rows:
                        product = Product(m, k, n)
                        self.watch(str(product), done / total)
                        self._race(product, slab, placed)
                        done += 1
                        self.kept(self)

    def _placed(self, loaded: Loaded, slab: Array, m: int) -> Iterator[Placed]:
        k = slab.shape[1]
        for name in self.grid.named:
            dense = FORMATS[name].values in {"int4", "int2"}  # these keep every weight
            for sparsity in (0.0,) if dense else self.grid.sparsities:
                self.watch(f"{m}x{k}: packing {name} at {sparsity:.0%}", None)
                found = self._place(loaded, slab, m, name, sparsity)
                if isinstance(found, Missing):
                    self._leave_out(name, m, k, None, sparsity, found)
                else:
                    yield found

    def _place(self, loaded: Loaded, slab: Array, m: int, name: str, sparsity: float) -> Placed | Missing:
        try:
            kernel = kernel_for(self.kernels, name)
        except UsageError as error:
            return Missing(code="no_kernel", why=error.message)
        variant = pack_for(name, slab, m, sparsity)
        if isinstance(variant, Missing):
            return variant
        try:
            return Placed(loaded, variant, kernel, sparsity, wide_of(self.kernels, kernel))
        except EngineError as error:
            return Missing(code="not_placed", why=error.message, cure=error.hint)

    def _race(self, product: Product, slab: Array, placed: list[Placed]) -> None:
        problem = Problem(product=product, x=random_x(product, self.seed))
        with ExitStack() as stack:
            entries: list[Entry] = []
            for entry in (*self._dense(problem, slab), *self._sparse(problem, placed)):
                stack.callback(entry.close)
                entries.append(entry)
                self.contenders.setdefault(entry.contender.name, entry.contender)
            if entries:
                self.cells += race(
                    self.cuda, entries, problem, memory_bytes_per_s=self.memory_bytes_per_s, rounds=self.rounds,
                    seed=self.seed, watch=lambda what: self.watch(what, None),
                )  # fmt: skip

    def _dense(self, problem: Problem, slab: Array) -> Iterator[Entry]:
        if isinstance(self.torch, Missing):
            return
        for baseline in BASELINES:
            if baseline.only_n in {None, problem.product.n}:
                yield from self._baseline(self.torch, baseline, problem, slab)

    def _baseline(self, torch: Torch, baseline: Baseline, problem: Problem, slab: Array) -> Iterator[Entry]:
        product = problem.product
        for sparsity in self.grid.sparsities if baseline.sparse else (0.0,):
            self.watch(f"{product}: setting up {baseline.contender.name} at {sparsity:.0%}", None)
            found = entry_of(torch, baseline, problem, slab, sparsity)
            if isinstance(found, Missing):
                self._leave_out(baseline.contender.name, product.m, product.k, product.n, sparsity, found)
            else:
                yield found

    def _sparse(self, problem: Problem, placed: list[Placed]) -> Iterator[Entry]:
        product = problem.product
        for one in placed:
            name = contender_of(one.kernel).name
            self.watch(f"{product}: compiling {name}", None)
            found = one.entry(problem)
            if isinstance(found, Missing):
                self._leave_out(name, product.m, product.k, product.n, one.sparsity, found)
            else:
                yield found

    def _leave_out(self, name: str, m: int, k: int, n: int | None, sparsity: float, why: Missing) -> None:
        self.left_out.append(LeftOut(m=m, k=k, n=n, sparsity=sparsity, contender=name, reason=why))


def _nobody(what: str, fraction: float | None) -> None:
    """Watch nothing."""


def control_of(cells: list[Cell]) -> float | Missing:
    """Return the largest ratio of the two timings of one dense product."""
    times = {(c.m, c.k, c.n, c.contender): c.time for c in cells if c.contender in {"dense-fp16", CONTROL}}
    ratios = []
    for (m, k, n, name), time in times.items():
        twin = times.get((m, k, n, CONTROL))
        if name != CONTROL and not isinstance(time, Missing) and twin is not None and not isinstance(twin, Missing):
            ratios.append(max(time.value_s / twin.value_s, twin.value_s / time.value_s))
    if not ratios:
        return Missing(code="no_control", why="no dense product was timed twice", cure="install torch with CUDA")
    return max(ratios)


def protocol_of(rounds: int, *, baselines: bool) -> tuple[str, ...]:
    """Return how it was measured, in sentences."""
    told = [
        f"Each contender was held against float64 before it was timed: |error| <= {ALLOWED:g} sum |w||x|; more where "
        "it computes in bf16 or rounds twice.",
        f"Cold L2: copies of a weight are read in turn, together at least {CACHE_TIMES} times the cache.",
        "Products lie in a CUDA graph one behind the other; a sample is the graph's time by events over the products.",
        "A graph is launched once untimed right before it is timed, so that the host is not waited for.",
        f"Graphs take turns in an order drawn anew for each of {rounds} rounds, on one stream.",
        "Time: the median, with its 95 % interval. Clocks were left as they were.",
        "Weights repeat their rows so that packing them is quick; X is the same for all.",
    ]
    if baselines:
        told.append("dense-fp16 runs twice (control): ratios within the control's are noise.")
    return tuple(told)


def measure(
    cuda: Cuda,
    grid: Grid,
    *,
    kernels: Mapping[str, Kernel],
    torch: Torch | Missing,
    memory: tuple[float, str],
    rounds: int,
    seed: int,
    image: ImageOf = image_of,
    watch: Watch | None = None,
    keep: Callable[[Raced], object] | None = None,
) -> Raced:
    """Measure a table; what there is of it so far is given to ``keep`` after each product.

    Raises:
        UsageError: nothing of the grid can be measured.
        EngineError: CUDA fails.
    """
    rate, where = memory
    sha256 = kernels_sha256(kernels)
    facts = cuda.facts

    def raced(run: Measuring) -> Raced:
        return Raced(
            compute_capability=f"{facts.compute_capability[0]}.{facts.compute_capability[1]}",
            driver=f"CUDA {facts.driver_cuda[0]}.{facts.driver_cuda[1]}",
            kernels_sha256=sha256,
            memory_bytes_per_s=rate,
            memory_from=where,
            contenders=tuple(run.contenders.values()),
            cells=tuple(run.cells),
            left_out=tuple(run.left_out),
            control=control_of(run.cells),
            protocol=protocol_of(rounds, baselines=not isinstance(torch, Missing)),
            warnings=(f"no baselines: {torch}",) if isinstance(torch, Missing) else (),
        )

    run = Measuring(
        cuda, grid, kernels=kernels, torch=torch, memory_bytes_per_s=rate, rounds=rounds, seed=seed, image=image,
        watch=watch, kept=None if keep is None else lambda one: keep(raced(one)),
    )  # fmt: skip
    run.run()
    if not run.cells:
        reasons = "; ".join(dict.fromkeys(one.reason.why for one in run.left_out))[:500]
        raise UsageError(f"nothing could be measured: {reasons or 'there are no contenders'}")
    return raced(run)


def assembled(raced: Raced, *, device: str, title: str, environment: Environment) -> Crossover:
    """Return the table of what a child has measured."""
    fields = {name: getattr(raced, name) for name in raced.__struct_fields__}
    return Crossover(
        schema_version=CROSSOVER_SCHEMA,
        created_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        basis="measured",
        device=device,
        title=title,
        environment=environment,
        **fields,
    )
