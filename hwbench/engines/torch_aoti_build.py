"""A package of AOTInductor: the hub's torch view exported, compiled, and zipped into ``model.pt2``.

On a CPU bf16 is torch's autocast: products and convolutions in bf16, what loses by it (softmax, normalisation, sums) in
fp32, inputs and outputs as they were; weights are frozen, so they are cast and packed once, while compiling. For a GPU
the view and its inputs are cast as a whole, and what is compiled are Triton's kernels for the GPU that is there.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwbench.engines.edge import require_precision, translated
from hwbench.engines.torch_place import GPUS, OnGpu, OnHost, offered, place
from hwbench.errors import Unsupported
from hwbench.protocols import LowerRequest
from hwbench.records.base import Missing
from hwbench.records.device import Device
from hwbench.records.model import Model, ModelFiles
from hwbench.records.quantization import Lowered

if TYPE_CHECKING:
    import torch

_NAME = "torch-aoti"
_PACKAGE = "model.pt2"
_OPTIONS: dict[str, Any] = {
    "freezing": True,
    "cpp.dynamic_threads": True,  # else the number of threads while compiling is written into the kernels
}
_NOT_THE_SAME = Missing(
    code="not_reproducible",
    why="torch writes the path of its scratch folder and a random id into the package",
    cure="keep the package; its source and settings are in the manifest",
)
_BF16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
_ON_THE_GPU = "AOTInductor compiles for the GPU that it runs on: build there, with --device cuda:0"
_THIS_CPU = "the library is compiled for this machine's CPU (-march=native): it is not for an older or another one"


def lower(request: LowerRequest) -> Lowered:
    """Write ``model.pt2`` into ``request.folder``.

    Raises:
        Unsupported: the plan quantises, an operator has no form in the torch view, or the CPU has no such arithmetic.
        EngineError: torch's own tools fail.
    """
    plan = request.plan
    quantised = sorted({plan.default, *plan.layers.values()} - {"float"})
    if quantised:
        raise Unsupported(f"{_NAME} builds no {', '.join(quantised)}", hint=f"it builds {_builds(request.device)}")
    where = _where(request)
    arithmetic = arithmetic_for(plan.floating, request.model, request.device)
    compile_package(read_view(request.files), request.model, arithmetic, where, request.folder / _PACKAGE)
    return Lowered(
        files=(_PACKAGE,),
        arithmetic=arithmetic,
        settings={},
        layers=(),
        same_bytes=_NOT_THE_SAME,
        notes=(
            _THIS_CPU if where.index is None else f"the library is for {where.units[0]} and GPUs of its generation",
        ),
    )


def _builds(device: Device) -> str:
    return "fp32, tf32, fp16, bf16 and auto" if device.kind in GPUS else "fp32, bf16 and auto"


def _where(request: LowerRequest) -> OnHost | OnGpu:
    """Return where to compile: on the device itself."""
    device, floating = request.device, request.plan.floating
    if device.kind in GPUS:
        if device.gpu is not None and isinstance(device.gpu.uuid, Missing):
            raise Unsupported(f"'{device.name}' is not attached", hint=_ON_THE_GPU)
        return place(device, floating, request.model.arithmetic, _NAME)
    isa = set(device.cpu.isa) if device.cpu is not None else set()
    if floating == "bf16" and not _BF16 & isa:
        raise Unsupported(f"'{device.name}' has no bf16 arithmetic", hint="fp32 runs everywhere")
    return OnHost()


def arithmetic_for(asked: str, model: Model, device: Device) -> str:
    """Return what most multiply-adds are to be computed in; ``auto`` is what the graph is written in.

    Raises:
        Unsupported: neither that nor, for a graph in fp32, what the device has beside was asked for (CPU: bf16).
    """
    own = model.arithmetic
    beside = ("bf16",) if own == "fp32" else ()
    require_precision(_NAME, asked, offered(own, device) if device.kind in GPUS else (own, "auto", *beside))
    return own if asked == "auto" else asked


def read_view(files: ModelFiles) -> torch.fx.GraphModule:
    """Read the runtime graph as a torch module."""
    import onnx_ir as ir

    from hwbench.torch_view.build import to_torch

    with translated("reading the network into torch"):
        return to_torch(ir.load(Path(files.folder) / files.runtime_graph))


def compile_package(
    view: torch.fx.GraphModule, model: Model, arithmetic: str, where: OnHost | OnGpu, path: Path
) -> None:
    """Export the view for the shapes of ``model.inputs`` and compile it into a package at ``path``.

    Raises:
        EngineError: torch cannot, or the C++ compiler fails; the words are theirs.
    """
    import torch
    from torch._inductor.async_compile import shutdown_compile_workers

    example = tuple(where.tensor(torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype))) for spec in model.inputs)
    on_cpu = where.index is None
    module = _autocast(view, model) if on_cpu and arithmetic == "bf16" and model.arithmetic == "fp32" else view
    module = where.module(module)
    with translated("AOTInductor failed"), _scratch(), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch's own deprecations
        program = torch.export.export(module, example)
        torch._inductor.aoti_compile_and_package(
            program, package_path=str(path), inductor_configs=_OPTIONS if on_cpu else {}
        )
    shutdown_compile_workers()


@contextlib.contextmanager
def _scratch() -> Iterator[None]:
    """Let inductor work in a folder that goes away, so that it compiles everything now."""
    before = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    with tempfile.TemporaryDirectory(prefix="aoti-") as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ["TORCHINDUCTOR_CACHE_DIR"]
            else:
                os.environ["TORCHINDUCTOR_CACHE_DIR"] = before


def _autocast(view: torch.fx.GraphModule, model: Model) -> torch.nn.Module:
    import torch

    kinds = [getattr(torch, spec.dtype) for spec in model.outputs]

    class Autocast(torch.nn.Module):
        """The view under autocast, its outputs in their own type."""

        def __init__(self) -> None:
            super().__init__()
            self.view = view

        def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            with torch.autocast("cpu", torch.bfloat16):
                results = self.view(*inputs)
            return tuple(result.to(kind) for result, kind in zip(results, kinds, strict=True))

    return Autocast().eval()
