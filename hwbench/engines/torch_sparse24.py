"""Torch with semi-structured sparsity: linear layers whose weights are 2:4 run on the GPU's sparse tensor cores.

2:4 means that of every four neighbouring inputs at most two have a weight that is not zero; then two values and their
places are stored, and the tensor core skips the others (Mishra et al. 2021, arXiv:2104.08378). Which layers are so is
looked up in the weights: none is pruned here. Torch multiplies through cuSPARSELt, or CUTLASS on GPUs of generation 8
where that is missing. The network is captured as one CUDA graph, because torch's own dispatch of such a product takes
longer than most products; what it is to be compared with is ``torch-cuda-graph`` in the same precision.

Takes the user's module, or an ONNX graph through :mod:`hwbench.torch_view`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hwbench.engines import torch_module
from hwbench.engines.edge import artefact_of_another, translated
from hwbench.engines.torch_graph import GraphProgram, GraphRunner
from hwbench.engines.torch_module import Placed, load_module, set_threads
from hwbench.engines.torch_place import GPUS, OnGpu, installed_with_cuda, place, runs_on
from hwbench.errors import EngineError, Unsupported
from hwbench.protocols import BuildRequest
from hwbench.records.base import Missing, Support, unsupported
from hwbench.records.device import Device
from hwbench.records.model import Model, ModelFiles

if TYPE_CHECKING:
    import torch

_SINCE = (8, 0)
_PRECISIONS = ("fp16", "bf16")
_NO_24 = "`hwbench compress` with prune or sparsegpt and pattern=2:4 makes such weights"
_SHOWN = 3


class TorchSparse24:
    """The module with its 2:4 linear layers multiplied sparsely, captured as one CUDA graph."""

    name = "torch-sparse24"
    variant_of = "torch-eager"

    start = torch_module.start

    def installed(self) -> Support:
        return installed_with_cuda()

    def supports(self, model: Model, files: ModelFiles, device: Device) -> Support:
        if (other := artefact_of_another(model, self.name)) is not None:
            return other
        if device.kind not in GPUS:
            return unsupported("wrong_device", f"2:4 sparsity is of NVIDIA's tensor cores; '{device.name}' has none")
        capability = device.gpu.compute_capability if device.gpu is not None else None
        if isinstance(capability, str) and tuple(map(int, capability.split("."))) < _SINCE:
            why = f"sparse tensor cores came with compute capability 8.0, and '{device.title}' has {capability}"
            return unsupported("no_sparse_cores", why)
        if files.torch_source is None and files.no_graph is not None:
            return Support(reasons=(files.no_graph,))
        found = self.installed()
        return runs_on(self.name, device) if found.usable else found

    def precisions(self, device: Device) -> tuple[str, ...]:
        return _PRECISIONS

    def load(self, request: BuildRequest) -> Sparse24Program:
        if request.precision not in _PRECISIONS:
            hint = f"it offers: {', '.join(_PRECISIONS)}"
            raise Unsupported(f"{self.name} cannot run in {request.precision} here", hint=hint)
        loaded = load_module(self.name, request) if request.files.torch_source is not None else _view(request)
        return Sparse24Program(self.name, loaded, request)


def _view(request: BuildRequest) -> Placed:
    """Return the torch view of the graph, in place."""
    from hwbench.engines.torch_aoti import InOrder
    from hwbench.engines.torch_aoti_build import read_view

    set_threads(request)
    own = request.model.arithmetic
    where = place(request.device, request.precision, own, TorchSparse24.name)
    in_order = InOrder(tuple(spec.name for spec in request.model.inputs))
    module = where.module(read_view(request.files).eval())
    return Placed(module=module, place=where, own=own, arguments=in_order.arguments)


class Sparse24Program(GraphProgram):
    """A module whose 2:4 layers are still dense."""

    compile_phase: Missing | None = None

    def compile(self) -> GraphRunner:
        """Compress what is 2:4.

        Raises:
            EngineError: nothing is, or torch takes none of it.
        """
        where = self.loaded.place
        assert isinstance(where, OnGpu)
        backend = _backend(where)
        found = compress_layers(self.loaded.module, where.torch.sparse.to_sparse_semi_structured)
        if not found.sparse:
            reasons = "; ".join(f"{name}: {why}" for name, why in list(found.dense.items())[:_SHOWN])
            raise EngineError(f"{self.engine}: no linear layer can be multiplied as 2:4 ({reasons})", hint=_NO_24)
        runner = GraphRunner(self.engine, self.loaded.module, self.loaded, self.request)
        runner.settings = {
            "sparse_backend": backend,
            "sparse_layers": f"{len(found.sparse)} of {len(found.sparse) + len(found.dense)}",
        }
        runner.notes = found.notes()
        return runner


def _backend(where: OnGpu) -> str:
    """Return what torch multiplies with, and choose CUTLASS where cuSPARSELt is missing.

    Raises:
        EngineError: neither is for this GPU.
    """
    torch = where.torch
    if torch.backends.cusparselt.is_available():
        return f"cuSPARSELt {torch.backends.cusparselt.version()}"
    major, minor = torch.cuda.get_device_capability(where.index)
    if major != 8:
        raise EngineError(
            f"torch {torch.__version__} has no cuSPARSELt, and its CUTLASS kernels for 2:4 are for sm_8x, not "
            f"sm_{major}{minor}",
            hint="torch's own packages for CUDA have cuSPARSELt",
        )
    torch.sparse.SparseSemiStructuredTensor._FORCE_CUTLASS = True
    return "CUTLASS"


@dataclass(frozen=True)
class Compressed:
    """What became of the linear layers: names of the sparse ones, and of the others why not."""

    sparse: tuple[str, ...]
    dense: dict[str, str]

    def notes(self) -> tuple[str, ...]:
        because: dict[str, list[str]] = {}
        for name, why in self.dense.items():
            because.setdefault(why, []).append(name)
        return (f"2:4: {', '.join(self.sparse)}", *(f"dense: {', '.join(n)}: {why}" for why, n in because.items()))


def compress_layers(module: torch.nn.Module, compress: Callable[[Any], Any]) -> Compressed:
    """Put sparse weights into the linear layers of ``module`` where that loses nothing.

    Args:
        module: in place and cast; changed.
        compress: ``torch.sparse.to_sparse_semi_structured``; it drops what does not fit, so what it is given is
            checked, and it raises where a shape or type is not for its backend.
    """
    sparse: list[str] = []
    dense: dict[str, str] = {}
    for name, weight, put in list(_linears(module)):
        if not is_24(weight):
            dense[name] = "its weights are not 2:4"
            continue
        try:
            with translated("2:4"), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch calls its API a prototype
                put(compress(weight.detach().contiguous()))
        except EngineError as error:
            dense[name] = error.message
        else:
            sparse.append(name)
    return Compressed(tuple(sparse), dense)


def is_24(weight: torch.Tensor) -> bool:
    """Say whether of every four neighbouring inputs at most two have a weight, and not all weights are zero.

    Args:
        weight: [outputs, inputs].
    """
    outputs, inputs = weight.shape
    if inputs % 4:
        return False
    counts = (weight.reshape(outputs, inputs // 4, 4) != 0).sum(dim=2)
    return bool((counts <= 2).all()) and bool(counts.any())


def _linears(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor, Callable[[Any], None]]]:
    """Yield the name of each linear layer, its weight [outputs, inputs], and what puts another in its place."""
    import torch

    from hwbench.torch_view.layer import Layer

    for name, layer in module.named_modules():
        if isinstance(layer, torch.nn.Linear):
            yield name, layer.weight, _putter(layer, "weight")
        elif isinstance(layer, Layer) and (slot := _weight_of(layer)) is not None:
            weight = getattr(layer, slot)
            yield name, weight if layer.operator == "Gemm" else weight.t(), _view_putter(layer, slot)


def _putter(layer: torch.nn.Module, slot: str) -> Callable[[Any], None]:
    import torch

    return lambda weight: setattr(layer, slot, torch.nn.Parameter(weight, requires_grad=False))


def _view_putter(layer: Any, slot: str) -> Callable[[Any], None]:
    """Make a product of the view a linear layer: its weight lies [inputs, outputs], a linear layer's the other way."""
    import torch

    def put(weight: Any) -> None:
        setattr(layer, slot, torch.nn.Parameter(weight, requires_grad=False))
        layer.function = torch.nn.functional.linear

    return put


def _weight_of(layer: Any) -> str | None:
    """Return which own tensor of a layer of the view is the weight of a linear layer, or None where it is no such."""
    import torch

    slots = layer.arguments
    if layer.operator == "Gemm" and layer.function is not torch.nn.functional.linear:
        return None
    if layer.operator not in {"Gemm", "MatMul"} or len(slots) < 2 or slots[0] is not True:
        return None
    slot = slots[1]
    return slot if isinstance(slot, str) and getattr(layer, slot).dim() == 2 else None
