"""hwbench's kernels as contenders: a weight pruned for the format, packed, and placed in as many copies as it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwbench.crossover.grid import Product
from hwbench.crossover.race import Problem, copies_for
from hwbench.cuda.api import Buffer, Graph, Stream
from hwbench.errors import EngineError, HwbenchError
from hwbench.records.base import Missing
from hwbench.records.crossover import Contender
from hwbench.sparse.formats import FORMATS, Packed
from hwbench.sparse.formats.words import pairs_of_uint16
from hwbench.sparse.launch import Bound, Loaded, SparseLinear
from hwbench.sparse.manifest import Kernel

Array = np.ndarray[Any, np.dtype[Any]]
SLAB = 256  # rows: the weight repeats them, so that choosing what to keep does not take longer than measuring


def random_slab(m: int, k: int, seed: int) -> Array:
    """Return the first rows of a weight [m, k], at most :data:`SLAB`, which its other rows repeat.

    Normal numbers that are exact in fp16.
    """
    rows = min(m, SLAB)
    slab: Array = np.random.default_rng(seed).normal(size=(rows, k)).astype(np.float16).astype(np.float32)
    return slab


def repeated(slab: Array, m: int) -> Array:
    """Return [m, ...]: the rows of a slab, again and again."""
    rows: Array = np.tile(slab, (-(-m // len(slab)), *[1] * (slab.ndim - 1)))[:m]
    return rows


def random_x(product: Product, seed: int) -> Array:
    """Return X [n, k] in fp16."""
    x: Array = np.random.default_rng(seed + 1).normal(size=(product.n, product.k)).astype(np.float16)
    return x


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A weight of ``m`` rows pruned for a format and packed, as a slab of its first rows that the others repeat."""

    slab: Packed
    m: int

    def whole(self) -> Packed:
        """Return the weight packed: as if all rows had been, and without packing each."""
        rows, k = self.slab.shape
        if rows == self.m:
            return self.slab
        arrays = {name: _again(self.slab, name, self.m // rows) for name in self.slab.arrays}
        return Packed(format=self.slab.format, shape=(self.m, k), arrays=arrays, scalars=self.slab.scalars)

    def weight(self) -> Array:
        """Return the rows of the slab as the kernel multiplies by them."""
        return FORMATS[self.slab.format].unpack(self.slab)


def pack_for(format_name: str, slab: Array, m: int, sparsity: float) -> Variant | Missing:
    """Prune a weight of ``m`` rows that repeat a slab for a format and pack it, or say why that cannot be."""
    format_ = FORMATS[format_name]
    if (why := format_.refuses(m, slab.shape[1])) is not None:
        return Missing(code="outside_contract", why=f"{format_name}: {why}")
    try:
        mask = format_.mask(np.abs(slab), sparsity)
        if m % len(slab):  # no whole number of slabs
            return Variant(slab=format_.pack(repeated(slab, m), repeated(mask, m)), m=m)
        return Variant(slab=format_.pack(slab, mask), m=m)
    except ValueError as error:
        return Missing(code="not_at_this_sparsity", why=f"{format_name} at {sparsity:.0%}: {error}")


def _again(slab: Packed, name: str, times: int) -> Array:
    """Return an array of so many slabs: what is of rows one behind the other, and places in it counted on."""
    array = slab.arrays[name]
    if name in {"starts", "offsets"}:
        on = int(array[-1]) * np.arange(times, dtype=np.int64)[:, None]
        if slab.format.startswith("vw16"):  # every strip has its own end
            places: Array = (on + array).astype(array.dtype).ravel()
        else:
            places = np.append(on + array[:-1], on[-1] + array[-1]).astype(array.dtype)
        return places
    if name == "columns" and "starts" in slab.arrays and slab.format.startswith("bsr"):  # pairs, the last one filled up
        single = array.view(np.uint16)[: int(slab.arrays["starts"][-1])]
        return pairs_of_uint16(repeated(single, times * len(single)))
    return repeated(array, times * len(array))


def _hollow(packed: Packed) -> Packed:
    """Return the sizes of a packed weight without its bytes, for when they are on the GPU."""
    arrays = {name: np.broadcast_to(np.zeros((), array.dtype), array.shape) for name, array in packed.arrays.items()}
    return Packed(format=packed.format, shape=packed.shape, arrays=arrays, scalars=packed.scalars)


def contender_of(kernel: Kernel) -> Contender:
    """Return what a kernel is called in a table: as its format."""
    return Contender(name=kernel.format, role="kernel", values=kernel.values, summary=kernel.summary)


class Placed:
    """A packed weight on the GPU, in copies; it can be an entry of the race of any number of rows of X.

    On the host stays the slab alone: of all variants at once, whole weights would fill its memory.
    """

    def __init__(
        self, loaded: Loaded, variant: Variant, kernel: Kernel, sparsity: float, wide: Kernel | None = None
    ) -> None:
        """Place it; ``wide`` is launched in the kernel's stead where it fits better.

        Raises:
            EngineError: there is no memory for it, or CUDA refuses otherwise.
        """
        self.variant, self.kernel, self.sparsity, self.loaded = variant, kernel, sparsity, loaded
        packed = variant.whole()
        self.bytes, hollow = packed.bytes, _hollow(packed)
        self.linears: list[SparseLinear] = []
        try:
            for _ in range(copies_for(loaded.cuda.facts.l2_bytes, packed.bytes)):
                self.linears.append(SparseLinear(loaded, packed, kernel=kernel, wide=wide))
                self.linears[-1].packed = hollow
        except HwbenchError:
            self.close()
            raise

    def entry(self, problem: Problem) -> KernelEntry | Missing:
        """Return the entry for a problem, or why the kernel does not take it."""
        try:
            return KernelEntry(self, problem)
        except EngineError as error:
            return Missing(code="cannot_be_launched", why=error.message, cure=error.hint)
        except HwbenchError as error:
            return Missing(code="outside_contract", why=error.message, cure=error.hint)

    def close(self) -> None:
        """Free all copies."""
        while self.linears:
            self.linears.pop().close()


class KernelEntry:
    """A kernel in a race."""

    allowed = 1.0

    def __init__(self, placed: Placed, problem: Problem) -> None:
        m, n = problem.product.m, problem.product.n
        self.contender, self.sparsity, self.weight = contender_of(placed.kernel), placed.sparsity, placed.variant.weight
        self.copies = len(placed.linears)
        self.read_bytes = float(placed.bytes + problem.x.nbytes + 2 * n * m)
        self._shape = (n, m)
        self._cuda = placed.loaded.cuda
        self._buffers: list[Buffer] = []
        self._graphs: list[Graph] = []
        self._bound: list[Bound] = []
        try:
            self._place(placed, problem)
        except HwbenchError:
            self.close()
            raise

    def result(self) -> Array:
        """Compute the product with the first copy."""
        stream = self._cuda.stream()
        found = np.empty(self._shape, np.float16)
        self._cuda.fill(self._buffers[1].address, 0xFF, found.nbytes, stream)  # NaN: what is not written is seen
        self._bound[0].launch(stream)
        self._cuda.copy_out(found, self._buffers[1].address, stream)
        stream.wait()
        stream.free()
        return found

    def capture(self, products: int, stream: Stream) -> Callable[[], object]:
        """Capture the products, copy after copy."""

        def work() -> None:
            for number in range(products):
                self._bound[number % self.copies].launch(stream)

        graph = self._cuda.capture(work, stream)
        self._graphs.append(graph)
        return lambda: graph.launch(stream)

    def close(self) -> None:
        """Free X, Y and the graph; the weights stay."""
        while self._graphs:
            self._graphs.pop().free()
        while self._buffers:
            self._buffers.pop().free()

    def _place(self, placed: Placed, problem: Problem) -> None:
        stream = self._cuda.stream()
        for size in (problem.x.nbytes, 2 * self._shape[0] * self._shape[1]):
            self._buffers.append(self._cuda.allocate(size))
        x, y = self._buffers
        self._cuda.copy_in(x.address, problem.x, stream)
        stream.wait()
        stream.free()
        self._bound = [linear.bind(x.address, y.address, self._shape[0]) for linear in placed.linears]
