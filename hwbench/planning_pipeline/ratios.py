"""What a kernel that skips zeros makes of the time of a layer: read from the crossover table of its GPU.

    ratio = (time of the kernel + what bringing a convolution into a product's form moves) / time of the dense product

both of the product that the layer is at its size in a design. Of a GPU that is attached the table is the one that
``hwbench kernels`` measured there; of one that is not it is the model's, made for just the products that are asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from hwbench.crossover import saved
from hwbench.crossover.choose import profitable
from hwbench.crossover.expected import machine_for, modelled
from hwbench.crossover.grid import SPARSITIES, Grid
from hwbench.crossover.measure import kernels_sha256
from hwbench.devices import environment
from hwbench.errors import HwbenchError
from hwbench.inventory import Away, Target
from hwbench.records.base import Missing
from hwbench.records.crossover import Basis, Choice, Crossover
from hwbench.records.planning import Zeros
from hwbench.records.profile import DeviceProfile
from hwbench.sparse.formats import FORMATS
from hwbench.sparse.manifest import Kernel, kernel_for, load_manifest
from hwbench.sparse.onnx_kernels import LayerProduct
from hwbench.sparse.select import Dense, Machine, dense_time_s

Product = tuple[int, int, int]  # rows and columns of W, rows of X
_FP16 = "-fp16"  # how contenders are called that multiply by dense weights in fp16


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """A kernel's time over that of the dense product in fp16, and the gain over the best dense product that counts."""

    zeros: Zeros
    ratio: float
    gain: float
    pays: bool
    basis: Basis
    why: str


@dataclass(frozen=True, kw_only=True)
class Ratios:
    """What kernels make of products on one GPU.

    ``tables``: the table that has these products, or ones near them. ``machine``: the GPU, where all of it is modelled.
    """

    tables: Callable[[Iterable[Product]], Mapping[Product, Crossover]]
    basis: Basis
    bytes_per_s: float
    machine: Machine | None = None
    sparsities: tuple[float, ...] = SPARSITIES
    kernels: Mapping[str, Kernel] = field(default_factory=load_manifest)

    def gains(self, product: LayerProduct, values: Collection[str]) -> tuple[Ratio, ...]:
        """Return all kernels at all sparsities for a product, the one that gains most first.

        Args:
            product: of the layer.
            values: what dense weights they are held against may be held in: fp16, int8, int4.
        """
        found = [each for sparsity in self.sparsities for each in self._choices(product, sparsity, values)]
        return tuple(sorted(found, key=lambda each: -each.gain))

    def of(self, products: Sequence[LayerProduct], zeros: Zeros) -> list[Ratio | Missing]:
        """Return what a kernel makes of products, or why it has none there: the layer is dense then."""
        refused = [self._refused(each, zeros.format) for each in products]
        self.prepare(each for each, why in zip(products, refused, strict=True) if why is None)
        return [why or self._ratio(each, zeros) for each, why in zip(products, refused, strict=True)]

    def _refused(self, product: LayerProduct, name: str) -> Missing | None:
        kernel, (m, k, n) = kernel_for(self.kernels, name), (product.m, product.k, product.n)
        why = kernel.shape.refuses(n=n, m=m, k=k) or FORMATS[name].refuses(m, k)
        if why is None:
            return None
        return Missing(code="outside_contract", why=f"{kernel.name}: {why}", cure="the layer stays dense")

    def _ratio(self, product: LayerProduct, zeros: Zeros) -> Ratio | Missing:
        found = [each for each in self._choices(product, zeros.sparsity, ("fp16",)) if each.zeros == zeros]
        if not found:
            why = f"no table has {zeros.format} near {product.m}x{product.k}, N = {product.n}"
            return Missing(code="not_in_table", why=why)
        return found[0]

    def dense(self, product: LayerProduct, values: Dense) -> float:
        """Return what the model expects of dense weights of few bits over those of fp16; infinite without a model."""
        if self.machine is None:
            return math.inf
        shape = (product.m, product.k)
        half = dense_time_s("fp16", shape, product.n, self.machine)
        return dense_time_s(values, shape, product.n, self.machine) / half

    def prepare(self, products: Iterable[LayerProduct]) -> None:
        """Make the tables of many products at once, which is quicker."""
        self.tables((each.m, each.k, each.n) for each in products)

    def _choices(self, product: LayerProduct, sparsity: float, values: Collection[str]) -> Iterator[Ratio]:
        m, k, n = product.m, product.k, product.n
        table = self.tables([(m, k, n)])[m, k, n]
        moved = 0 if product.lowering is None else product.lowering.moved_bytes
        for choice in profitable(table, (m, k), n, sparsity, values=values, kernels=self.kernels):
            dense = [gain for name, gain in choice.against.items() if name.endswith(_FP16)]
            if dense:
                yield _ratio(choice, m * k, min(dense), moved / self.bytes_per_s, moved)


def _ratio(choice: Choice, weights: int, over_dense: float, moved_s: float, moved: int) -> Ratio:
    """Return a choice with the time that moving takes; the table's product stands for one of so many weights."""
    rows, columns, _ = choice.product
    slower = 1 + moved_s / (choice.time_s * weights / (rows * columns))
    gain = choice.gain / slower
    why = choice.why if not moved else f"{choice.why}; {gain:.2f} times with what its patches or axes move"
    return Ratio(
        zeros=Zeros(format=choice.contender, sparsity=choice.sparsity),
        ratio=slower / over_dense,
        gain=gain,
        pays=choice.verdict == "gain" and gain > 1,
        basis=choice.basis,
        why=why,
    )


def ratios_of(target: Target) -> Ratios | Missing:
    """Return what kernels make of products on a GPU, or why nobody knows."""
    kernels = load_manifest()
    if isinstance(target, Away):
        return _of_model(target.profile, kernels)
    device, gpu = target.device, target.device.gpu
    if gpu is None or isinstance(gpu.compute_capability, Missing) or isinstance(gpu.cuda_version, Missing):
        return Missing(code="not_told", why=f"{device.title} does not tell its compute capability and its driver")
    try:
        table = saved.find(device.title, gpu.compute_capability, f"CUDA {gpu.cuda_version}", kernels_sha256(kernels))
    except HwbenchError as error:
        return Missing(code="unreadable", why=error.message, cure=error.hint)
    if table is None:
        return Missing(
            code="no_table",
            why="no kernels were timed on this GPU with this driver",
            cure=f"hwbench kernels -d {device.name} measures their table",
        )
    here = table
    return Ratios(
        tables=lambda products: dict.fromkeys(products, here),
        basis=here.basis,
        bytes_per_s=here.memory_bytes_per_s,
        kernels=kernels,
    )


def _of_model(profile: DeviceProfile, kernels: Mapping[str, Kernel]) -> Ratios | Missing:
    try:
        machine, made = machine_for(profile), _Modelled(profile, kernels)
        table = made([(64, 64, 1)])[64, 64, 1]
    except HwbenchError as error:
        return Missing(code="no_model", why=error.message, cure=error.hint)
    return Ratios(
        tables=made, basis=table.basis, bytes_per_s=table.memory_bytes_per_s, machine=machine, kernels=kernels
    )


class _Modelled:
    """The model's tables, one a product, made when they are first asked for."""

    def __init__(self, profile: DeviceProfile, kernels: Mapping[str, Kernel]) -> None:
        self.profile, self.kernels, self.environment = profile, kernels, environment.capture()
        self.made: dict[Product, Crossover] = {}

    def __call__(self, products: Iterable[Product]) -> Mapping[Product, Crossover]:
        lacking: dict[int, list[tuple[int, int]]] = {}
        for m, k, n in dict.fromkeys(products):
            if (m, k, n) not in self.made:
                lacking.setdefault(n, []).append((m, k))
        for n, shapes in lacking.items():
            grid = Grid(shapes=tuple(shapes), rows=(n,))
            whole = modelled(self.profile, grid, kernels=self.kernels, environment=self.environment)
            for m, k in shapes:
                cells = tuple(cell for cell in whole.cells if (cell.m, cell.k) == (m, k))
                self.made[m, k, n] = msgspec.structs.replace(whole, cells=cells, left_out=())
        return self.made
