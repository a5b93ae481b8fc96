"""What the engines that run the user's module share: who they run for, the module made again, and one inference."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hwbench.engines.edge import artefact_of_another, threads_per_stream, translated
from hwbench.engines.torch_memory import torch_gpu_memory, torch_memory
from hwbench.engines.torch_place import OnGpu, OnHost, leaves, place, precisions_on, runs_on
from hwbench.errors import EngineError
from hwbench.protocols import NOT_OFFERED, BuildRequest, LayerProfile, Tensors
from hwbench.records.base import Missing, Support, unsupported
from hwbench.records.device import Device
from hwbench.records.measurement import Built
from hwbench.records.memory import RuntimeMemory
from hwbench.records.model import Model, ModelFiles

_NO_LAYERS = Missing(
    code=NOT_OFFERED,
    why="per-layer times are read from ONNX Runtime and OpenVINO; torch's profiler counts operators, not layers",
)


class _Installed(Protocol):
    name: str

    def installed(self) -> Support: ...


# Methods that both engines have in common; each takes them into its class by name, with every engine's parameters.


def supports(
    engine: _Installed,
    model: Model,
    files: ModelFiles,
    device: Device,
) -> Support:
    """Say whether the engine can run the model: it needs the module, which an ONNX file does not hold."""
    if (other := artefact_of_another(model, engine.name)) is not None:
        return other
    if files.torch_source is None:
        return unsupported(
            "no_torch_source",
            "an ONNX file holds no torch module",
            "name the module (net.py:make) to measure torch too",
        )
    found = engine.installed()
    return runs_on(engine.name, device) if found.usable else found


def precisions(engine: _Installed, device: Device) -> tuple[str, ...]:  # noqa: ARG001
    """Return what is measured by default."""
    return precisions_on(device)


def start(engine: _Installed) -> str:  # noqa: ARG001
    """Import torch and return its version."""
    with translated("importing torch"):
        import torch
    return str(torch.__version__)


def set_threads(request: BuildRequest) -> None:
    """Give torch the threads of the request; they are of the process."""
    import torch

    torch.set_num_threads(threads_per_stream(request.threads, request.streams))
    if torch.get_num_interop_threads() != 1:  # it may be set only once
        torch.set_num_interop_threads(1)


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A module where it is to run, and how it is called.

    ``arguments`` makes arguments of inputs, tensors by name.
    """

    module: Any
    place: OnHost | OnGpu
    own: str  # the precision of its parameters before they were cast
    arguments: Callable[[Any], tuple[tuple[Any, ...], dict[str, Any]]]


def load_module(engine: str, request: BuildRequest) -> Placed:
    """Make the user's module again, give it the weights that were exported, and put it where it is to run.

    Raises:
        Unsupported: the device has no such precision.
        EngineError: it is not the module that was exported (its weights do not fit), or torch cannot use the device.
    """
    import torch

    from hwbench.graph.spec import parse_spec
    from hwbench.graph.torch_source import load_torch, module_precision

    assert request.files.torch_source is not None
    set_threads(request)
    batch = request.model.batch_size
    loaded = load_torch(parse_spec(request.files.torch_source), batch_size=batch if isinstance(batch, int) else 1)
    if request.files.torch_state is not None:
        state = torch.load(Path(request.files.folder) / request.files.torch_state, weights_only=True)
        try:
            loaded.module.load_state_dict(state, strict=True)
        except RuntimeError as error:
            raise EngineError(
                f"'{request.model.source}' made another network the second time: {str(error).splitlines()[0]}",
                hint="its factory must build the same layers at every call",
            ) from error
    own = module_precision(loaded.module)
    where = place(request.device, request.precision, own, engine)
    return Placed(module=where.module(loaded.module), place=where, own=own, arguments=loaded.arguments)


@dataclass(kw_only=True)
class TorchBound:
    """A module with its arguments."""

    run: Callable[[], object]
    names: tuple[str, ...]

    def outputs(self) -> Tensors:
        return {name: _to_numpy(leaf) for name, leaf in zip(self.names, leaves(self.run()), strict=False)}


def _to_numpy(tensor: Any) -> Any:
    """Return the tensor as an array of the host; numpy has no bfloat16, and every one of its values is a float32."""
    import torch

    here = tensor.cpu()
    return here.float().numpy() if here.dtype == torch.bfloat16 else here.numpy()


class TorchRunner:
    """A callable torch module, eager or compiled, on the CPU or a GPU."""

    def __init__(self, engine: str, call: Callable[..., Any], loaded: Placed, request: BuildRequest) -> None:
        self.engine = engine
        self.call = call
        self.loaded = loaded
        self.place = loaded.place
        self.request = request
        self.notes: tuple[str, ...] = ()
        self.settings: dict[str, str] = {}

    @property
    def timed_region(self) -> str:
        return f"module(...) under torch.inference_mode: {self.place.region}"

    def finished(self, call: Callable[[], object]) -> Callable[[], object]:
        """Return one inference, finished when it returns."""
        return self.place.finished(call)

    def bind(self, inputs: Tensors) -> TorchBound:
        names = tuple(spec.name for spec in self.request.model.outputs)
        return TorchBound(run=self.finished(self._called(inputs)), names=names)

    def _called(self, inputs: Tensors) -> Callable[[], object]:
        """Return the call of the module on tensors that are in place."""
        args, kwargs = self.loaded.arguments({name: self.place.tensor(array) for name, array in inputs.items()})
        return functools.partial(self.call, *args, **kwargs)

    def precision(self) -> str:
        """Return what most multiply-adds are computed in."""
        own = self.loaded.own
        return self.place.arithmetic(own, self.request.model) if isinstance(self.place, OnGpu) else own

    def built(self) -> Built:
        import torch

        return Built(
            engine=self.engine,
            version=str(torch.__version__),
            precision=self.precision(),
            execution_units=self.place.units,
            threads=torch.get_num_threads() * self.request.streams,
            settings={
                **self.place.settings(),
                "float32_matmul_precision": torch.get_float32_matmul_precision(),
                "interop_threads": str(torch.get_num_interop_threads()),
                **self.settings,
            },
            layers=_NO_LAYERS,
            notes=self.notes,
        )

    def profile_layers(self, inputs: Tensors, iterations: int) -> LayerProfile | Missing:
        return _NO_LAYERS

    def memory(self, inputs: Tensors) -> RuntimeMemory | Missing:
        run = self.place.finished(self._called(inputs))
        run()  # what is made once is made
        if isinstance(self.place, OnGpu):
            return torch_gpu_memory(self.place, self.loaded.module, run)
        return torch_memory(self.loaded.module, run)

    def close(self) -> None:
        with contextlib.suppress(AttributeError):  # closed before
            del self.call, self.loaded
