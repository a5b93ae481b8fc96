"""Opening CUDA on one GPU, through the package that is installed.

pycuda is taken first, cuda-python where that is what there is. ``HWBENCH_CUDA_BACKEND`` (``pycuda``, ``cuda-python``)
says otherwise, ``HWBENCH_CUDA_SCHEDULE`` (``spin``, ``yield``, ``block``) how a thread waits for the GPU where the
caller leaves it open.
"""

from __future__ import annotations

import atexit
import importlib
import importlib.util
import os
from importlib import metadata
from typing import Any, Final, get_args

from hwbench.cuda.api import Cuda, CudaFacts, Schedule
from hwbench.cuda.calls import Calls
from hwbench.cuda.driver import DriverFacts, SeenGpu, require_driver
from hwbench.cuda.pycuda_backend import PycudaContext
from hwbench.cuda.python_backend import PythonContext
from hwbench.errors import DeviceError, EngineError, UsageError
from hwbench.records.device import Device

BACKEND: Final = "HWBENCH_CUDA_BACKEND"
SCHEDULE: Final = "HWBENCH_CUDA_SCHEDULE"
_BACKENDS: Final = ("pycuda", "cuda-python")
_LAYOUTS: Final = ("cuda.bindings.driver", "cuda.cuda")  # of cuda-python; the second before 12.8
_INSTALL = "pip install pycuda, or pip install 'cuda-python>=12' where pycuda has no compiler"


def installed_backends() -> tuple[str, ...]:
    """Return the packages that are here, in the order in which they are taken; nothing is imported."""
    here = {"pycuda": _has("pycuda"), "cuda-python": any(_has(layout) for layout in _LAYOUTS)}
    return tuple(name for name in _BACKENDS if here[name])


def open_cuda(uuid: str | None = None, index: int | None = None, *, schedule: Schedule | None = None) -> Cuda:
    """Open the primary context of a GPU and make it current in this thread. It is left when the process ends.

    Args:
        uuid: of the GPU, as nvidia-smi spells it; ``CUDA_DEVICE_ORDER`` does not matter then.
        index: of the GPU, as CUDA counts in this process. With neither, the first.
        schedule: how a thread waits for the GPU; ``spin`` where neither this nor the environment says.

    Raises:
        EngineError: no driver, no GPU, or no package; the hint is the cure.
        DeviceError: no GPU of that UUID or number.
        UsageError: the environment asks for something that is not there.
    """
    found = require_driver()
    gpu = _selected(found, uuid, index)
    backend, wait = _backend(), _schedule(schedule)
    module = _imported(backend)
    facts = CudaFacts(
        name=gpu.name,
        uuid=gpu.uuid,
        compute_capability=gpu.compute_capability,
        multiprocessors=gpu.multiprocessors,
        l2_bytes=gpu.l2_bytes,
        memory_bytes=gpu.memory_bytes,
        clock_hz=gpu.clock_hz,
        integrated=gpu.integrated,
        driver_cuda=found.cuda,
        backend=f"{backend} {_version(backend)}",
        schedule=wait,
    )
    context: Cuda
    if backend == "pycuda":
        context = PycudaContext(module, Calls(), gpu.index, facts)
    else:
        context = PythonContext(module, gpu.index, facts)
    atexit.register(context.close)  # pycuda aborts a process that ends inside a context
    return context


def open_device(device: Device, *, schedule: Schedule | None = None) -> Cuda:
    """Open the GPU of a device that a finder found: by its UUID, or the one on the chip of a Jetson, which has none.

    Raises:
        EngineError, DeviceError, UsageError: as :func:`open_cuda`; or the device has no GPU.
    """
    uuid = device.gpu.uuid if device.gpu is not None else None
    if isinstance(uuid, str):
        return open_cuda(uuid, schedule=schedule)
    if device.kind != "jetson":
        raise DeviceError(f"'{device.name}' has no GPU that CUDA could be asked for", hint="hwbench devices")
    integrated = [gpu.index for gpu in require_driver().gpus if gpu.integrated]
    if not integrated:
        raise DeviceError("CUDA does not show the GPU on the Jetson's chip", hint="see CUDA_VISIBLE_DEVICES")
    return open_cuda(index=integrated[0], schedule=schedule)


def _selected(found: DriverFacts, uuid: str | None, index: int | None) -> SeenGpu:
    gpu = found.gpus[0]
    if uuid is not None:
        named = found.gpu(uuid)
        if named is None:
            there = ", ".join(f"{each.uuid} ({each.name})" for each in found.gpus)
            msg = f"CUDA shows no GPU {uuid} to this process; it shows {there}"
            raise DeviceError(msg, hint="hwbench devices; see whether CUDA_VISIBLE_DEVICES hides it")
        gpu = named
    elif index is not None:
        if not 0 <= index < len(found.gpus):
            raise DeviceError(f"there is no GPU {index}: CUDA shows {len(found.gpus)}", hint="hwbench devices")
        gpu = found.gpus[index]
    return gpu


def _backend() -> str:
    asked, here = os.environ.get(BACKEND), installed_backends()
    if asked is None:
        if not here:
            raise EngineError("no package for CUDA is installed: neither pycuda nor cuda-python", hint=_INSTALL)
        return here[0]
    if asked not in _BACKENDS:
        raise UsageError(f"{BACKEND} is '{asked}'", hint=f"it may be {' or '.join(_BACKENDS)}")
    if asked not in here:
        raise EngineError(f"{BACKEND} asks for {asked}, which is not installed", hint=f"pip install {asked}")
    return asked


def _schedule(asked: Schedule | None) -> Schedule:
    if asked is not None:
        return asked
    said = os.environ.get(SCHEDULE, "spin")
    for name in get_args(Schedule):
        if said == name:
            return name  # type: ignore[no-any-return]  # get_args forgets that they are literals
    raise UsageError(f"{SCHEDULE} is '{said}'", hint=f"it may be {', '.join(get_args(Schedule))}")


def _imported(backend: str) -> Any:
    if backend == "pycuda":
        Calls()  # pycuda may have been linked without naming the library it needs: it must be there before
        name = "pycuda.driver"
    else:
        name = next(layout for layout in _LAYOUTS if _has(layout))
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError) as error:
        hint = f"install it anew for the CUDA that is here; or {BACKEND} takes the other"
        raise EngineError(f"{backend} cannot be imported: {error}", hint=hint) from error


def _has(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # a package above it is not there
        return False


def _version(backend: str) -> str:
    bindings = "cuda-bindings" if _has("cuda.bindings") else "cuda-python"
    return metadata.version("pycuda" if backend == "pycuda" else bindings)
