"""Torch's view of CUDA: may it be used here, and which of its devices is the one that hwbench means.

``cuda:0`` of hwbench counts as ``nvidia-smi`` does. Torch counts as CUDA does: what ``CUDA_VISIBLE_DEVICES`` lets
through, by default the fastest first. So a GPU is found by its UUID. Nothing here imports torch: it is passed in.
"""

from __future__ import annotations

import os
import re
from typing import Any

from hwbench.records.base import Missing
from hwbench.records.device import Device, Gpu

CUDA_WHEEL = "install torch with CUDA: pytorch.org, «Get Started», names the package for your CUDA version"
_NO_DRIVER = (
    "install NVIDIA's driver; in a container, start it with the GPU (`--gpus all`, the NVIDIA container toolkit)"
)


def cuda_of(torch: Any) -> Missing | None:
    """Return why torch cannot use a GPU here, in its own words and with the cure, or None where it can.

    Codes: ``torch_without_cuda``, ``no_driver``, ``driver_too_old``, ``cuda_failed``.
    """
    if torch.version.cuda is None:
        why = f"torch {torch.__version__} was built without CUDA"
        return Missing(code="torch_without_cuda", why=why, cure=CUDA_WHEEL)
    try:
        torch.cuda.init()
    except Exception as error:  # noqa: BLE001 - whatever torch raises is the reason
        words = " ".join(str(error).split()) or type(error).__name__
        return _refusal(words, torch)
    return None


def _refusal(words: str, torch: Any) -> Missing:
    """Sort what torch says when CUDA does not start."""
    why = f"torch {torch.__version__} (CUDA {torch.version.cuda}) cannot use CUDA: {words[:300]}"
    lower = words.lower()
    if "too old" in lower or "insufficient for cuda runtime" in lower:
        cure = f"install a driver for CUDA {torch.version.cuda}, or torch for an older CUDA"
        return Missing(code="driver_too_old", why=why, cure=cure)
    if "no nvidia driver" in lower or "no cuda-capable device" in lower or "no cuda gpus" in lower:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        hidden = "" if visible is None else f"; CUDA_VISIBLE_DEVICES is '{visible}'"
        return Missing(code="no_driver", why=why + hidden, cure=_NO_DRIVER)
    return Missing(code="cuda_failed", why=why, cure="`nvidia-smi` and the driver's log (dmesg) tell more")


def torch_index(torch: Any, device: Device) -> int | Missing:
    """Return torch's number of a GPU, or why it has none; torch's CUDA must have started (:func:`cuda_of`).

    Looked for by UUID. A Jetson has one GPU. Of a GPU cut up by MIG a process sees one instance, under a UUID of
    its own, which is taken. Codes: ``not_visible``, ``no_uuid``.
    """
    count = torch.cuda.device_count()
    if device.kind == "jetson" and count == 1:
        return 0
    gpu = device.gpu
    if gpu is None:
        return Missing(code="not_visible", why=f"torch sees {count} GPUs, and '{device.name}' is none")
    told = [_uuid(torch, index) for index in range(count)]
    wanted = None if isinstance(gpu.uuid, Missing) else _digits(gpu.uuid)
    if wanted is not None and wanted in told:
        return told.index(wanted)
    if count == 1 and (gpu.mig is True or _same_by_name(torch, gpu, told[0], wanted)):
        return 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    seen = ", ".join(str(torch.cuda.get_device_name(index)) for index in range(count)) or "none"
    why = f"torch sees {count} GPUs ({seen}), and by its UUID '{device.name}' ({gpu.name}, {gpu.uuid}) is none of them"
    if count > 0 and None in told:
        return Missing(code="no_uuid", why=f"{why}; this torch tells no UUIDs", cure="CUDA_VISIBLE_DEVICES=<UUID>")
    hidden = "" if visible is None else f"; CUDA_VISIBLE_DEVICES is '{visible}'"
    return Missing(code="not_visible", why=why + hidden, cure="unset CUDA_VISIBLE_DEVICES, or let this GPU through")


def is_torch_gpu(torch: Any, index: int, uuid: str) -> bool:
    """Say whether torch's GPU ``index`` is the one of a UUID, as :mod:`hwbench.cuda` has opened it in this process.

    The only GPU that a process sees is; with several, one whose UUID torch does not tell is not known to be.
    """
    return torch.cuda.device_count() == 1 or _uuid(torch, index) == _digits(uuid)


def _same_by_name(torch: Any, gpu: Gpu, told: str | None, wanted: str | None) -> bool:
    """Say whether the only GPU that torch sees is this one, where either side tells no UUID."""
    return (told is None or wanted is None) and str(torch.cuda.get_device_name(0)) == gpu.name


def _uuid(torch: Any, index: int) -> str | None:
    uuid = getattr(torch.cuda.get_device_properties(index), "uuid", None)
    return None if uuid is None else _digits(str(uuid))


def _digits(uuid: str) -> str:
    """Return the 32 digits of a UUID: NVML writes ``GPU-`` before them, torch does not."""
    return re.sub(r"[^0-9a-f]", "", re.sub(r"^(gpu|mig)-", "", uuid.lower()))


def kernels_for(torch: Any, index: int) -> Missing | None:
    """Return why torch has no kernels for its GPU ``index``, or None where it has: machine code, or PTX to compile.

    A wheel holds machine code for the generations it was built for. That of 8.0 runs on 8.6, not on 9.0
    (CUDA C++ Programming Guide, "Binary Compatibility").
    """
    major, minor = torch.cuda.get_device_capability(index)
    built = list(torch.cuda.get_arch_list())
    for name in built:
        match = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", name)
        if match is None:
            continue
        its = (int(match[2]), int(match[3]))
        exact = its == (major, minor)
        newer_runs_it = its[0] == major and its[1] <= minor if match[1] == "sm" else its <= (major, minor)
        if exact or (newer_runs_it and not match[4]):
            return None
    known = ", ".join(built) or "none"
    why = f"torch {torch.__version__} has no kernels for sm_{major}{minor}; it was built for {known}"
    return Missing(code="no_kernels", why=why, cure=CUDA_WHEEL)
