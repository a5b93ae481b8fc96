"""torch's products as contenders, each by the call that torch has for it, captured in a CUDA graph like the others.

    dense-fp16      torch.nn.functional.linear: cuBLASLt
    compile-fp16    the same through torch.compile's max-autotune, at N = 1, where its GEMV is the better baseline
    dense-int8      int8 weights, one scale a row, widened in a kernel that torch.compile fuses
    dense-int4      torch's own int4 product (tinygemm): groups of 128, bf16
    torch-24        torch.sparse.to_sparse_semi_structured: cuSPARSELt or CUTLASS, at 50 %
    torch-bsr16...  bsr_dense_addmm of blocks 16, 32, 64, X padded to 16 rows as it asks

Not run on a GPU yet. A baseline that torch refuses here is left out with torch's words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from hwbench.crossover.grid import Product
from hwbench.crossover.race import Problem, copies_for
from hwbench.cuda.api import Cuda, Stream
from hwbench.cuda.torch_devices import cuda_of, torch_index
from hwbench.records.base import Missing
from hwbench.records.crossover import Contender
from hwbench.records.device import Device

Array = np.ndarray[Any, np.dtype[Any]]
Call = Callable[[], Any]  # returns Y [n, m]
_GROUP = 128  # columns of an int4 weight with one scale
_BF16_ALLOWED = 8.0  # bf16 keeps three bits fewer than fp16: of X, of the weight and of Y
_BSR_ROWS = 16  # of X, at least


@dataclass(frozen=True, kw_only=True)
class Made:
    """A baseline set up: one call a copy, what it multiplies by, and what a call reads of the weight."""

    calls: Sequence[Call]
    weight: Array  # its first rows, which the others repeat
    weight_bytes: float
    allowed: float = 1.0


Make = Callable[["Torch", Problem, Array, float], Made]  # GPU, problem, slab of the dense weight, sparsity


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """A contender of torch's, and how it is set up; ``sparse`` ones are set up for every sparsity they have."""

    contender: Contender
    make: Make
    sparse: bool = False
    only_n: int | None = None


class Torch:
    """torch on the GPU of a context."""

    def __init__(self, cuda: Cuda, torch: Any, device: Any) -> None:
        """Take the GPU, torch, and what torch calls it."""
        self.cuda, self.torch, self.device = cuda, torch, device

    def half(self, array: Array) -> Any:
        """Return an array as a tensor of fp16 on the GPU."""
        return self.torch.from_numpy(np.ascontiguousarray(array, np.float16)).to(self.device)

    def placed(self, slab: Array, m: int) -> Any:
        """Return ``m`` rows that repeat a slab's, as a tensor on the GPU."""
        tensor = self.torch.from_numpy(np.ascontiguousarray(slab)).to(self.device)
        return tensor.repeat(-(-m // len(slab)), *[1] * (slab.ndim - 1))[:m].contiguous()

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function compiled for the shapes that it is called with first, and for no others.

        Where it would run uncompiled instead, at a graph that breaks or a second compilation, a call raises: torch
        compiles one function for at most ``recompile_limit`` shapes, and then runs it as it is without a word.
        """
        dynamo = self.torch._dynamo
        dynamo.reset()  # what was compiled before counts towards the limit
        product = self.torch.compile(function, mode="max-autotune-no-cudagraphs", dynamic=False, fullgraph=True)

        def call(*arguments: Any) -> Any:
            with dynamo.config.patch(error_on_recompile=True, fail_on_recompile_limit_hit=True):
                return product(*arguments)

        return call

    def copies(self, weight_bytes: float) -> range:
        """Return a number for each copy of a weight."""
        return range(copies_for(self.cuda.facts.l2_bytes, weight_bytes))

    def copy_rate(self) -> float:
        """Return the bytes a second, read and written, of a copy that is far larger than the cache."""
        torch, size = self.torch, max(8 * self.cuda.facts.l2_bytes, 1 << 28)
        source, target = (torch.empty(size, dtype=torch.uint8, device=self.device) for _ in range(2))
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        best = float("inf")
        for _ in range(20):
            begin.record()
            target.copy_(source)
            end.record()
            end.synchronize()
            best = min(best, begin.elapsed_time(end) / 1e3)
        return 2 * size / best


def torch_of(cuda: Cuda, device: Device) -> Torch | Missing:
    """Return torch on a GPU, or why it cannot be used there."""
    try:
        import torch  # noqa: PLC0415 - torch is heavy, and a table of kernels alone needs none
    except ImportError as error:
        return Missing(code="no_torch", why=f"torch cannot be imported: {error}", cure="install torch with CUDA")
    index = cuda_of(torch) or torch_index(torch, device)
    return index if isinstance(index, Missing) else Torch(cuda, torch, torch.device("cuda", index))


class TorchEntry:
    """A baseline in a race."""

    def __init__(self, torch: Torch, contender: Contender, made: Made, problem: Problem, sparsity: float) -> None:
        self.contender, self.sparsity, self.weight = contender, sparsity, lambda: made.weight
        self.copies, self.allowed = len(made.calls), made.allowed
        n, m = problem.product.n, problem.product.m
        self.read_bytes = made.weight_bytes + problem.x.nbytes + 2.0 * n * m
        self._torch, self._calls, self._graphs = torch, made.calls, list[Any]()

    def result(self) -> Array:
        """Compute the product with the first copy."""
        y = self._calls[0]()
        self._torch.torch.cuda.synchronize(self._torch.device)
        found: Array = y.float().cpu().numpy()
        return found

    def capture(self, products: int, stream: Stream) -> Callable[[], object]:
        """Capture the products, copy after copy, after a call of each: what is tuned or set up is done by then."""
        torch = self._torch.torch
        ours = torch.cuda.ExternalStream(stream.handle, device=self._torch.device)
        with torch.cuda.stream(ours):
            for call in self._calls:
                call()
        ours.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=ours):
            for number in range(products):
                self._calls[number % self.copies]()
        self._graphs.append(graph)

        def launch() -> None:
            with torch.cuda.stream(ours):
                graph.replay()

        return launch

    def close(self) -> None:
        """Let go of everything."""
        self._graphs.clear()
        self._calls = ()


def entry_of(torch: Torch, baseline: Baseline, problem: Problem, slab: Array, sparsity: float) -> TorchEntry | Missing:
    """Set a baseline up, or return torch's words why not."""
    try:
        made = baseline.make(torch, problem, slab, sparsity)
        entry = TorchEntry(torch, baseline.contender, made, problem, sparsity if baseline.sparse else 0.0)
        entry.result()
    except Exception as error:  # noqa: BLE001 - torch raises whatever its backends do, and a baseline may be missing
        words = str(error).strip().splitlines() or [type(error).__name__]
        return Missing(code="baseline_failed", why=f"{baseline.contender.name}: {words[0][:300]}")
    return entry


def _fp16(torch: Torch, product: Product, slab: Array) -> list[Any]:
    """Return the copies of a dense weight."""
    halves = slab.astype(np.float16)
    return [torch.placed(halves, product.m) for _ in torch.copies(2.0 * product.m * product.k)]


def _made_fp16(calls: Sequence[Call], product: Product, slab: Array) -> Made:
    return Made(calls=calls, weight=slab, weight_bytes=2.0 * product.m * product.k)


def _dense(torch: Torch, problem: Problem, slab: Array, sparsity: float) -> Made:  # noqa: ARG001 - all alike
    x, linear, product = torch.half(problem.x), torch.torch.nn.functional.linear, problem.product
    return _made_fp16([partial(linear, x, w) for w in _fp16(torch, product, slab)], product, slab)


def _compiled(torch: Torch, problem: Problem, slab: Array, sparsity: float) -> Made:  # noqa: ARG001
    x, linear, product = torch.half(problem.x), torch.torch.nn.functional.linear, problem.product
    compiled = torch.compiled(linear)
    return _made_fp16([partial(compiled, x, w) for w in _fp16(torch, product, slab)], product, slab)


def _int8(torch: Torch, problem: Problem, slab: Array, sparsity: float) -> Made:  # noqa: ARG001
    x, linear, half = torch.half(problem.x), torch.torch.nn.functional.linear, torch.torch.float16
    m, size = problem.product.m, float(problem.product.m * problem.product.k)
    scale = (np.abs(slab).max(1) / 127).astype(np.float16)
    codes = np.clip(np.rint(slab / scale[:, None].astype(np.float32)), -127, 127).astype(np.int8)
    scales = torch.placed(scale, m)
    product = torch.compiled(lambda a, w, s: linear(a, w.to(half)) * s)
    copies = [torch.placed(codes, m) for _ in torch.copies(size)]
    return Made(
        calls=[partial(product, x, w, scales) for w in copies],
        weight=codes.astype(np.float32) * scale[:, None].astype(np.float32),
        weight_bytes=size + 2.0 * m,
        allowed=2.0,  # rounded to fp16 twice: before and after the scale
    )


def _int4(torch: Torch, problem: Problem, slab: Array, sparsity: float) -> Made:  # noqa: ARG001
    lib, m, (rows, k) = torch.torch, problem.product.m, slab.shape
    groups = slab.reshape(rows, k // _GROUP, _GROUP)
    scale = lib.from_numpy(np.abs(groups).max(2) / 7).to(lib.bfloat16)
    widened = scale.float().numpy()[:, :, None]
    codes = np.clip(np.rint(groups / np.maximum(widened, 1e-20)), -8, 7)
    unsigned = (codes + 8).astype(np.uint8).reshape(rows, k)
    pairs = torch.placed(unsigned[:, ::2] << 4 | unsigned[:, 1::2], m)
    packed = [lib.ops.aten._convert_weight_to_int4pack(pairs, 8) for _ in torch.copies(0.5 * m * k)]
    scales = torch.placed(widened[:, :, 0], m).to(lib.bfloat16)
    zeros = lib.stack([scales, lib.zeros_like(scales)], dim=2).transpose(0, 1).contiguous()  # w = (q - 8) s + z
    x = lib.from_numpy(problem.x).to(torch.device, lib.bfloat16)
    product = lib.ops.aten._weight_int4pack_mm
    return Made(
        calls=[partial(product, x, w, _GROUP, zeros) for w in packed],
        weight=(codes * widened).reshape(rows, k).astype(np.float32),
        weight_bytes=0.5 * m * k + 4.0 * scales.numel(),
        allowed=_BF16_ALLOWED,
    )


def _semi_structured(torch: Torch, problem: Problem, slab: Array, sparsity: float) -> Made:
    if sparsity != 0.5:
        raise ValueError("2:4 is half of the weights, no more and no fewer")
    order = np.argsort(np.abs(slab).reshape(len(slab), -1, 4), axis=2)
    pruned = slab.reshape(order.shape).copy()
    np.put_along_axis(pruned, order[:, :, :2], 0, axis=2)
    pruned = pruned.reshape(slab.shape)
    x, linear = torch.half(problem.x), torch.torch.nn.functional.linear
    m, size = problem.product.m, 2.0 * problem.product.m * problem.product.k * 0.5625
    whole = torch.placed(pruned.astype(np.float16), m)
    copies = [torch.torch.sparse.to_sparse_semi_structured(whole) for _ in torch.copies(size)]
    return Made(calls=[partial(linear, x, w) for w in copies], weight=pruned, weight_bytes=size)


def _blocks(block: int) -> Make:
    def make(torch: Torch, problem: Problem, slab: Array, sparsity: float) -> Made:
        from torch.sparse._triton_ops import bsr_dense_addmm  # noqa: PLC0415 - torch has no public name for it

        lib, m, n, (rows, k) = torch.torch, problem.product.m, problem.product.n, slab.shape
        tiles = slab.reshape(rows // block, block, k // block, block)
        sums = np.abs(tiles).sum((1, 3))
        gone = np.argsort(sums.ravel())[: round(sparsity * sums.size)]
        kept = np.ones(sums.size, bool)
        kept[gone] = False
        pruned = (tiles * kept.reshape(sums.shape)[:, None, :, None]).reshape(rows, k)
        whole = torch.placed(pruned.astype(np.float16), m)
        first = whole.to_sparse_bsr((block, block))
        size = bytes_of_blocks(first)
        copies = [first, *(whole.to_sparse_bsr((block, block)) for _ in torch.copies(size)[1:])]
        padded = np.zeros((max(_BSR_ROWS, -(-n // _BSR_ROWS) * _BSR_ROWS), k), np.float16)
        padded[:n] = problem.x
        x = torch.half(padded).T.contiguous()
        added = lib.zeros((m, len(padded)), dtype=lib.float16, device=torch.device)
        return Made(
            calls=[partial(_turned, bsr_dense_addmm, added, w, x, n) for w in copies],
            weight=pruned,
            weight_bytes=size,
        )

    return make


def bytes_of_blocks(weight: Any) -> float:
    """Return the bytes of a block-sparse tensor: its values and its indices as torch holds them."""
    parts = (weight.values(), weight.col_indices(), weight.crow_indices())
    return float(sum(part.numel() * part.element_size() for part in parts))


def _turned(product: Any, added: Any, weight: Any, x: Any, n: int) -> Any:
    return product(added, weight, x, beta=0).T[:n]


def _told(name: str, role: Any, values: Any, summary: str) -> Contender:
    return Contender(name=name, role=role, values=values, summary=summary)


CONTROL = "control"
BASELINES = (
    Baseline(contender=_told("dense-fp16", "dense", "fp16", "torch's linear: cuBLASLt"), make=_dense),
    Baseline(contender=_told(CONTROL, "control", "fp16", "dense-fp16 once more, to see what is noise"), make=_dense),
    Baseline(
        contender=_told("compile-fp16", "dense", "fp16", "torch.compile, max-autotune"), make=_compiled, only_n=1
    ),
    Baseline(contender=_told("dense-int8", "dense", "int8", "int8 weights, compiled by torch"), make=_int8),
    Baseline(contender=_told("dense-int4", "dense", "int4", "torch's int4 product, groups of 128, bf16"), make=_int4),
    Baseline(
        contender=_told("torch-24", "library", "fp16", "torch's semi-structured product"),
        make=_semi_structured, sparse=True,
    ),
    *(
        Baseline(
            contender=_told(f"torch-bsr{block}", "library", "fp16", f"bsr_dense_addmm, blocks of {block}"),
            make=_blocks(block), sparse=True,
        )
        for block in (16, 32, 64)
    ),
)  # fmt: skip
