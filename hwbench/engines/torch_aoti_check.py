"""Was a package of AOTInductor compiled for the machine that is to run it? What does not fit would end the process."""

from __future__ import annotations

import json
import platform
import zipfile
from pathlib import Path

from hwbench.engines.torch_place import OnGpu, OnHost
from hwbench.errors import EngineError


def require_same_machine(path: Path, where: OnHost | OnGpu) -> None:
    """Refuse a package that was compiled for another kind of machine, for instructions this CPU lacks, or another GPU.

    Raises:
        EngineError: it was.
    """
    facts = read_facts(path)
    of = facts.get("AOTI_DEVICE_KEY", "cpu")
    wanted = "cpu" if where.index is None else "cuda"
    if of != wanted:
        raise EngineError(f"'{path.name}' was compiled for {of}, not for {wanted}", hint="build it for this device")
    if isinstance(where, OnGpu):
        _require_same_gpu(path, facts, where)
    else:
        _require_same_isa(path, facts)


def read_facts(path: Path) -> dict[str, str]:
    """Return what torch noted about the machine it compiled on; empty where it noted nothing."""
    with zipfile.ZipFile(path) as package:
        told = [name for name in package.namelist() if name.endswith("wrapper_metadata.json")]
        return json.loads(package.read(told[0])) if told else {}


def _require_same_gpu(path: Path, facts: dict[str, str], where: OnGpu) -> None:
    """Kernels are machine code (cubin): it runs on GPUs of the same major number, from its minor number on."""
    told = "".join(mark for mark in facts.get("AOTI_COMPUTE_CAPABILITY", "") if mark.isdigit())
    major, minor = where.torch.cuda.get_device_capability(where.index)
    if told and not (int(told[:-1] or 0) == major and int(told[-1]) <= minor):
        raise EngineError(
            f"'{path.name}' was compiled for sm_{told}, and this GPU ({where.units[0]}) is sm_{major}{minor}",
            hint="build it on this GPU",
        )


def _require_same_isa(path: Path, facts: dict[str, str]) -> None:
    import torch

    machine = facts.get("AOTI_MACHINE", platform.machine())
    here = {name.replace("_", "") for name, there in torch.cpu.get_capabilities().items() if there is True}
    needed = [name for name in facts.get("AOTI_CPU_ISA", "").lower().split() if name.startswith(("avx", "amx"))]
    lacking = [name for name in needed if not any(own.startswith(name.replace("_", "")) for own in here)]
    if machine != platform.machine() or lacking:
        raise EngineError(
            f"'{path.name}' was compiled for {machine} with {' '.join(needed) or 'no extensions'}, and this is "
            f"{platform.machine()} without {' '.join(lacking) or 'them'}",
            hint="build it on this machine",
        )
