"""A packed weight on a GPU, and its kernel put into a stream.

    linear = SparseLinear(Loaded(cuda), packed, kernel=find_kernel("vw16"), bias=bias)
    linear.bind(x_address, y_address, n).launch(stream)

``Y[n, M] = act(X[n, K] · W[M, K]ᵀ + bias)``, X and Y row-major fp16. What is outside the kernel's contract is refused
with the reason, and it is for the caller to take the dense path and to say so; nothing here falls back. Addresses are
plain integers, so they may be of a buffer of :mod:`hwbench.cuda`, a torch tensor (:func:`from_torch`) or TensorRT.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwbench.cuda.api import Address, Argument, Buffer, Cuda, CudaFacts, Function, LaunchShape, Module, Stream
from hwbench.cuda.torch_devices import is_torch_gpu
from hwbench.errors import Unsupported, UsageError
from hwbench.sparse.build import Act, compile_kernel
from hwbench.sparse.compilers import Kind
from hwbench.sparse.formats import Packed
from hwbench.sparse.manifest import Kernel, find_kernel, fitting

Array = np.ndarray[Any, np.dtype[Any]]
ALIGNMENT = 16  # bytes: what the kernels' widest loads ask for
_INT32 = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What is settled when a kernel is compiled."""

    kernel: str
    tile_n: int
    bias: bool = False
    act: Act = "none"


ImageOf = Callable[[Variant, tuple[int, int]], bytes]  # for a compute capability: a cubin or PTX


def image_of(variant: Variant, compute_capability: tuple[int, int]) -> bytes:
    """Return a kernel that ships with hwbench, compiled: machine code, or PTX for a GPU newer than all it is for.

    Raises:
        Unsupported: the GPU is older than all that the kernel is for.
        EngineError: there is no compiler, or it refuses the source.
    """
    kernel, sm = find_kernel(variant.kernel), compute_capability[0] * 10 + compute_capability[1]
    arch = kernel.arch_for(sm)
    kind: Kind = "ptx" if arch is None else "cubin"
    arch = newest_below(kernel.archs, sm) if arch is None else arch
    return compile_kernel(kernel, arch=arch, tile_n=variant.tile_n, bias=variant.bias, act=variant.act, kind=kind).image


def newest_below(archs: Sequence[int], sm: int) -> int:
    """Return the newest architecture whose PTX a GPU of compute capability ``sm`` (90 for 9.0) takes.

    Raises:
        Unsupported: the GPU is older than all.
    """
    fitting = [arch for arch in archs if arch <= sm]
    if not fitting:
        raise Unsupported(f"the kernel is for sm_{min(archs)} and newer, and the GPU is sm_{sm}")
    return max(fitting)


def refusal(kernel: Kernel, packed: Packed, n: int) -> str | None:
    """Return why a kernel cannot multiply ``n`` rows by a packed weight, in words; None: it can."""
    m, k = packed.shape
    why = kernel.shape.refuses(n=n, m=m, k=k)
    if why is not None:
        return f"{kernel.name}: {why}"
    counts = {"X": n * k, "Y": n * m} | {name: array.size for name, array in packed.arrays.items()}
    for name, count in counts.items():
        if count > _INT32:
            return f"{name} has {count} elements, and the kernels count in 32 bits: at most {_INT32}"
    for name, scalar in packed.scalars.items():
        if not -_INT32 <= scalar <= _INT32:
            return f"{name} = {scalar} does not fit into 32 bits"
    return None


@dataclass(frozen=True, kw_only=True)
class Bound:
    """A launch with all its arguments."""

    function: Function
    shape: LaunchShape
    arguments: tuple[Argument, ...]

    def launch(self, stream: Stream) -> None:
        """Put it into a stream."""
        self.function.launch(self.shape, self.arguments, stream)


class Loaded:
    """Kernels on a GPU, each variant compiled and loaded when it is first asked for. Use as a context manager."""

    def __init__(self, cuda: Cuda, image: ImageOf = image_of) -> None:
        """Take a GPU, and who compiles."""
        self.cuda, self._image = cuda, image
        self._modules: list[Module] = []
        self._functions: dict[Variant, Function] = {}

    def __enter__(self) -> Loaded:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def function(self, kernel: Kernel, variant: Variant) -> Function:
        """Return a variant of a kernel.

        Raises:
            Unsupported: the kernel is not for this GPU.
            EngineError: compiling fails, or CUDA refuses what came of it.
        """
        if variant not in self._functions:
            module = self.cuda.load(self._image(variant, self.cuda.facts.compute_capability))
            self._modules.append(module)
            self._functions[variant] = module.function(kernel.entry)
        return self._functions[variant]

    def close(self) -> None:
        """Unload everything; closing again does nothing."""
        self._functions.clear()
        while self._modules:
            self._modules.pop().unload()


class SparseLinear:
    """A packed weight in the memory of a GPU. Use as a context manager, or :meth:`close` it."""

    def __init__(
        self,
        loaded: Loaded,
        packed: Packed,
        *,
        kernel: Kernel,
        wide: Kernel | None = None,
        bias: Array | None = None,
        act: Act = "none",
    ) -> None:
        """Copy the weight.

        Args:
            loaded: kernels on the GPU, which may be shared and must stay open.
            packed: the weight.
            kernel: one that reads its format.
            wide: one that does so in blocks of more rows (:func:`~hwbench.sparse.manifest.wide_of`), launched where
                :func:`~hwbench.sparse.manifest.fitting` says; none, and it never is.
            bias: [M], rounded to fp16.
            act: what is applied to the sum.

        Raises:
            UsageError: the kernel is of another format, or the bias does not fit.
            EngineError: CUDA refuses.
        """
        told = (packed.format, tuple(packed.arrays), tuple(packed.scalars))
        for each in (kernel,) if wide is None else (kernel, wide):
            if told != (each.format, each.inputs, each.scalars):
                raise UsageError(
                    f"a weight packed as {packed.format} {told[1:]} is not what the kernel {each.name} reads"
                )
        if bias is not None and bias.shape != packed.shape[:1]:
            raise UsageError(f"the bias has the shape {bias.shape}, and the weight has {packed.shape[0]} rows")
        self.packed, self.kernel, self._wide = packed, kernel, wide
        self._loaded, self._has_bias, self._act = loaded, bias is not None, act
        self._buffers: list[Buffer] = []
        try:
            self._place([*packed.arrays.values(), *([bias.astype(np.float16)] if bias is not None else [])])
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> SparseLinear:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def bytes(self) -> int:
        """Bytes on the GPU: what a launch must read of the weight and the bias."""
        return sum(buffer.size_bytes for buffer in self._buffers)

    @property
    def facts(self) -> CudaFacts:
        """The GPU that it is on."""
        return self._loaded.cuda.facts

    def kernel_for(self, n: int) -> Kernel:
        """Return which kernel is launched for ``n`` rows of X."""
        return fitting(self.kernel, self._wide, m=self.packed.shape[0], n=n, multiprocessors=self.facts.multiprocessors)

    def variant(self, n: int) -> Variant:
        """Return what is launched for ``n`` rows of X."""
        kernel = self.kernel_for(n)
        return Variant(kernel=kernel.name, tile_n=kernel.tile_for(n), bias=self._has_bias, act=self._act)

    def bind(self, x_address: int, y_address: int, n: int) -> Bound:
        """Return the launch for ``n`` rows of X; compiles when the tile is met for the first time.

        Raises:
            UsageError: the kernel does not take it; the message says why.
            EngineError: CUDA refuses, or compiling fails.
        """
        kernel = self.kernel_for(n)
        why = refusal(kernel, self.packed, n) or _misaligned({"X": x_address, "Y": y_address})
        if why is not None:
            raise UsageError(why, hint="run the layer dense")
        m, k = self.packed.shape
        variant = self.variant(n)
        return Bound(
            function=self._loaded.function(kernel, variant),
            shape=LaunchShape(grid=kernel.grid(n=n, m=m, tile_n=variant.tile_n), block=(kernel.threads, 1, 1)),
            arguments=(
                Address(x_address),
                *(buffer.address for buffer in self._buffers),
                *(n, m, k, *self.packed.scalars.values()),
                Address(y_address),
            ),
        )

    def close(self) -> None:
        """Free the weight; closing again does nothing."""
        while self._buffers:
            self._buffers.pop().free()

    def _place(self, arrays: Sequence[Array]) -> None:
        cuda = self._loaded.cuda
        stream = cuda.stream()
        kept = [np.ascontiguousarray(array) for array in arrays]
        for array in kept:
            buffer = cuda.allocate(array.nbytes)
            self._buffers.append(buffer)
            if array.nbytes:
                cuda.copy_in(buffer.address, array, stream)
        stream.wait()
        stream.free()


def _misaligned(addresses: Mapping[str, int]) -> str | None:
    for name, address in addresses.items():
        if address % ALIGNMENT:
            return f"{name} lies at an address that is no multiple of {ALIGNMENT} bytes, which the kernels load at once"
    return None


@dataclass
class ForeignStream:
    """A stream that somebody else owns, by its ``CUstream``."""

    handle: int
    waiter: Callable[[], object]

    def wait(self) -> None:
        self.waiter()

    def free(self) -> None:
        """Leave it to its owner."""


def from_torch(linear: SparseLinear, x: Any) -> Any:
    """Return ``linear`` applied to a torch tensor [n, K] of fp16 on the same GPU, put into torch's current stream.

    torch and :mod:`hwbench.cuda` both use the device's primary context, so an address of one is good in the other.

    Raises:
        UsageError: the tensor does not fit: type, device, layout, columns, or what :meth:`SparseLinear.bind` refuses.
    """
    import torch  # noqa: PLC0415 - torch is heavy, and only this road needs it

    m, k = linear.packed.shape
    for wrong, why in (
        (not x.is_cuda, f"X is on {x.device}, not on a GPU"),
        (x.dtype != torch.float16, f"X is {x.dtype}, and the kernels read torch.float16"),
        (x.dim() != 2 or x.shape[-1] != k, f"X has the shape {tuple(x.shape)}, not [n, {k}]"),
        (not x.is_contiguous(), "X is not contiguous"),
    ):
        if wrong:
            raise UsageError(why, hint="run the layer dense, or bring X into the form")
    facts = linear.facts
    if not is_torch_gpu(torch, x.device.index, facts.uuid):
        why = f"X is on torch's {x.device}, which is not known to be {facts.uuid} ({facts.name}), where the weight is"
        raise UsageError(why, hint="bring X to that GPU, or open CUDA on the UUID of torch's")
    y = torch.empty((x.shape[0], m), dtype=torch.float16, device=x.device)
    current = torch.cuda.current_stream(x.device)
    linear.bind(x.data_ptr(), y.data_ptr(), x.shape[0]).launch(ForeignStream(current.cuda_stream, current.synchronize))
    return y
