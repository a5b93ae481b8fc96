"""Where torch computes: tensors in host memory, or in that of a GPU; how one inference is finished; in what precision.

On a GPU calls only put work into a stream, so an inference is over when its stream is empty: every timed call ends with
``cudaStreamSynchronize``. Each bound executable has a stream of its own, which is made the current one in whatever
thread runs it. Nothing is copied between host and GPU inside a timed call.

Precisions on a GPU, none of them by autocast: ``fp32`` with TF32 forbidden in products *and* convolutions (torch allows
the latter by default), ``tf32`` with both allowed, ``fp16`` and ``bf16`` with module and inputs cast.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from hwbench.cuda.torch_devices import CUDA_WHEEL, cuda_of, kernels_for, torch_index
from hwbench.engines.edge import installed, require_precision, translated
from hwbench.errors import EngineError, Unsupported
from hwbench.records.base import Missing, Support, unsupported
from hwbench.records.device import Device
from hwbench.records.model import Model

GPUS = ("nvidia", "jetson")
_CAST = {"fp16": "float16", "bf16": "bfloat16"}
_SINCE = {"fp16": (5, 3), "tf32": (8, 0), "bf16": (8, 0)}  # CUDA C++ Programming Guide, "Compute Capabilities"
_JETSON_WHEEL = "install the torch that NVIDIA builds for its JetPack: docs/jetson.md"
_NEEDS_A_WHEEL = frozenset({"torch_without_cuda", "no_kernels"})
_WAIT = "cudaStreamSynchronize; the thread waits as CUDA chooses (cudaDeviceScheduleAuto)"


def runs_on(engine: str, device: Device) -> Support:
    """Say whether a device is of a kind that torch's engines run on, with what is known without importing torch."""
    if device.kind == "cpu":
        return Support()
    if device.kind not in GPUS:
        return unsupported("wrong_device", f"{engine} runs on CPUs and NVIDIA GPUs, not on '{device.name}'")
    return _with_cuda(device)


def _with_cuda(device: Device) -> Support:
    import importlib.metadata

    version = importlib.metadata.version("torch")
    if version.endswith("+cpu"):
        why = f"torch {version} is the package without CUDA"
        return unsupported("torch_without_cuda", why, _wheel_for(device))
    return Support()


def _wheel_for(device: Device) -> str:
    """Return which torch to install: up to JetPack 6 a Jetson runs none of the packages that servers do."""
    return _JETSON_WHEEL if device.kind == "jetson" else CUDA_WHEEL


def installed_with_cuda() -> Support:
    """Say whether torch is installed, for an engine that runs on GPUs alone."""
    found = installed("torch", "cpu")
    if found.usable:
        return found
    return unsupported(found.reasons[0].code, found.reasons[0].why, f"{CUDA_WHEEL}; on a Jetson {_JETSON_WHEEL}")


def precisions_on(device: Device) -> tuple[str, ...]:
    """Return what torch's engines measure by default on a device."""
    if device.kind not in GPUS:
        return ("fp32",)
    return ("fp32", *(name for name in ("tf32", "fp16", "bf16") if _has(device, name)))


def _has(device: Device, precision: str) -> bool:
    """Say whether a GPU computes in a precision; one whose generation is not known is a Jetson: Orin's is 8.7."""
    told = device.gpu.compute_capability if device.gpu is not None else None
    if not isinstance(told, str):
        return device.kind == "jetson"
    major, _, minor = told.partition(".")
    return (int(major), int(minor)) >= _SINCE[precision]


def offered(own: str, device: Device) -> tuple[str, ...]:
    """Return the precisions that a module can run in; ``own`` is that of its parameters."""
    faster = tuple(name for name in _SINCE if own == "fp32" and device.kind in GPUS and _has(device, name))
    return (own, *faster, "auto")


class Placement(Protocol):
    """A place for tensors, with the precision that is computed in there."""

    where: str  # torch's name of it
    region: str  # from where to where a timed call goes, in words
    units: tuple[str, ...]
    index: int | None  # torch's number of the GPU; None on the CPU

    def module(self, module: Any) -> Any:
        """Return the module with its weights in place, cast where the precision asks for it."""
        ...

    def tensor(self, array: Any) -> Any:
        """Return a copy of a numpy array, or of a tensor on the CPU, as a tensor in place."""
        ...

    def finished(self, call: Callable[[], object]) -> Callable[[], object]:
        """Return one inference: ``call`` under ``torch.inference_mode``, finished when it returns."""
        ...

    def settings(self) -> dict[str, str]:
        """Return what torch says about the place."""
        ...


class OnHost:
    """The CPU, in the precision of the module."""

    where = "cpu"
    region = "tensors in host memory to tensors in host memory"
    units = ("CPU",)
    index = None

    def module(self, module: Any) -> Any:
        return module

    def tensor(self, array: Any) -> Any:
        import torch

        return _copied(torch, array)

    def finished(self, call: Callable[[], object]) -> Callable[[], object]:
        import torch

        inference_mode = torch.inference_mode

        def run() -> object:
            with inference_mode():
                return call()

        return run

    def settings(self) -> dict[str, str]:
        import torch

        return {
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "mkldnn": str(torch.backends.mkldnn.is_available()),
        }


class OnGpu:
    """One GPU.

    Args:
        index: torch's number of it.
        precision: what was asked for.
        torch: the module; tests pass a stand-in.
        where: torch's name of the place; tests without a GPU name the CPU.
    """

    region = "tensors in GPU memory to tensors in GPU memory, stream synchronised"

    def __init__(self, index: int, precision: str, torch: Any = None, where: str | None = None) -> None:
        if torch is None:
            import torch
        self.torch, self.index, self.precision = torch, index, precision
        self.where = where or f"cuda:{index}"
        self.units = (str(torch.cuda.get_device_name(index)),)
        self._set_tf32()

    def _set_tf32(self) -> None:
        """Allow or forbid TF32 in the whole process, which holds one engine; ``auto`` leaves torch's own choice."""
        if self.precision in {"fp32", "tf32"}:
            allowed = self.precision == "tf32"
            self.torch.set_float32_matmul_precision("high" if allowed else "highest")
            self.torch.backends.cudnn.allow_tf32 = allowed

    @property
    def _dtype(self) -> Any:
        return getattr(self.torch, _CAST[self.precision]) if self.precision in _CAST else None

    def module(self, module: Any) -> Any:
        with translated(f"moving the network to {self.where}"):
            placed = module.to(self.where)
            return placed if self._dtype is None else placed.to(self._dtype)

    def tensor(self, array: Any) -> Any:
        tensor = _copied(self.torch, array).to(self.where)
        if self._dtype is not None and tensor.is_floating_point():
            tensor = tensor.to(self._dtype)
        self.torch.cuda.synchronize(self.index)  # in place before any stream reads it
        return tensor

    def stream(self) -> Any:
        """Return a stream of this GPU."""
        return self.torch.cuda.Stream(device=self.index)

    def finished(self, call: Callable[[], object]) -> Callable[[], object]:
        stream = self.stream()
        inference_mode, wait, enter = self.torch.inference_mode, stream.synchronize, self.entering(stream)

        def run() -> object:
            enter()
            with inference_mode():
                result = call()
            wait()
            return result

        return run

    def entering(self, stream: Any) -> Callable[[], None]:
        """Return what makes ``stream`` the current one of the calling thread, and its GPU the current GPU."""
        set_stream = self.torch.cuda.set_stream

        def enter() -> None:
            if _current.stream is not stream:
                set_stream(stream)
                _current.stream = stream

        return enter

    def settings(self) -> dict[str, str]:
        torch = self.torch
        major, minor = torch.cuda.get_device_capability(self.index)
        return {
            "gpu": f"{self.where} ({self.units[0]}, sm_{major}{minor})",
            "cuda": str(torch.version.cuda),
            "cudnn": str(torch.backends.cudnn.version()),
            "cudnn_allow_tf32": str(torch.backends.cudnn.allow_tf32),
            "cudnn_benchmark": str(torch.backends.cudnn.benchmark),
            "allocator": str(torch.cuda.get_allocator_backend()),
            "wait": _WAIT,
        }

    def arithmetic(self, own: str, model: Model) -> str:
        """Return what most multiply-adds are computed in: what was asked for, or for ``auto`` what torch allows."""
        if self.precision != "auto":
            return self.precision
        if own != "fp32":
            return own
        in_convolutions = _macs(model, convolutions=True) >= _macs(model, convolutions=False)
        products = self.torch.get_float32_matmul_precision() != "highest"
        return "tf32" if (self.torch.backends.cudnn.allow_tf32 if in_convolutions else products) else "fp32"


def _copied(torch: Any, array: Any) -> Any:
    return array.clone() if isinstance(array, torch.Tensor) else torch.from_numpy(array.copy())


class _Current(threading.local):
    """The stream that hwbench has made the current one in this thread."""

    stream: Any = None


_current = _Current()


def _macs(model: Model, *, convolutions: bool) -> int:
    counted = [layer for layer in model.layers if ("Conv" in layer.op) == convolutions]
    return sum(layer.macs for layer in counted if not isinstance(layer.macs, Missing))


def place(device: Device, precision: str, own: str, engine: str) -> OnHost | OnGpu:
    """Return the place of a device, where a module whose parameters are in ``own`` is to compute in ``precision``.

    Raises:
        Unsupported: the device does not compute in that precision.
        EngineError: torch cannot use that GPU here; the reason is torch's own.
    """
    require_precision(engine, precision, offered(own, device))
    if device.kind not in GPUS:
        return OnHost()
    import torch

    index = found_index(torch, device)
    where = OnGpu(index, precision)
    if where.torch.cuda.get_device_capability(index) < _SINCE.get(precision, (0, 0)):
        raise Unsupported(f"{engine}: '{device.title}' does not compute in {precision}", hint="fp32 runs everywhere")
    return where


def found_index(torch: Any, device: Device) -> int:
    """Return torch's number of a GPU, on which torch can run.

    Raises:
        EngineError: torch has no CUDA or no kernels for it, the driver is missing or too old, or the GPU is hidden.
    """
    reason = cuda_of(torch)
    index: int | Missing = reason if reason is not None else torch_index(torch, device)
    if not isinstance(index, Missing) and (without := kernels_for(torch, index)) is not None:
        index = without
    if isinstance(index, Missing):
        raise EngineError(index.why, hint=_wheel_for(device) if index.code in _NEEDS_A_WHEEL else index.cure)
    return index


def leaves(result: object) -> Sequence[Any]:
    """Return the tensors of a module's result, in order."""
    from torch.utils import _pytree

    return [leaf for leaf in _pytree.tree_leaves(result) if hasattr(leaf, "numpy")]
