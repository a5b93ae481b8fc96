"""What the engines that run the user's module share: who they run for, the module made again, and one inference."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hwbench.engines.edge import artefact_of_another, require_precision, threads_per_stream, translated
from hwbench.engines.torch_memory import torch_memory
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
    if device.kind != "cpu":
        return unsupported("wrong_device", f"this engine runs on the CPU, not on '{device.name}'")
    if files.torch_source is None:
        return unsupported(
            "no_torch_source",
            "an ONNX file holds no torch module",
            "name the module (net.py:make) to measure torch too",
        )
    return engine.installed()


def precisions(engine: _Installed, device: Device) -> tuple[str, ...]:  # noqa: ARG001
    """Return what is measured by default."""
    return ("fp32",)


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


def load_module(engine: str, request: BuildRequest) -> Any:
    """Make the user's module again and give it the weights that were exported.

    Raises:
        EngineError: it is not the module that was exported (its weights do not fit).
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
    offered = (module_precision(loaded.module), "auto")
    require_precision(engine, request.precision, offered)
    return loaded


@dataclass(kw_only=True)
class TorchBound:
    """A module with its arguments."""

    run: Callable[[], object]
    names: tuple[str, ...]

    def outputs(self) -> Tensors:
        from torch.utils import _pytree

        leaves: list[Any] = [leaf for leaf in _pytree.tree_leaves(self.run()) if hasattr(leaf, "numpy")]
        return {name: _to_numpy(leaf) for name, leaf in zip(self.names, leaves, strict=False)}


def _to_numpy(tensor: Any) -> Any:
    """Return the tensor as an array; numpy has no bfloat16, and every one of its values is a float32."""
    import torch

    return tensor.float().numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()


class TorchRunner:
    """A callable torch module, eager or compiled.

    ``loaded`` makes arguments of inputs, and holds the module that was made.
    """

    timed_region = "module(...) under torch.inference_mode: tensors in host memory to tensors in host memory"

    def __init__(self, engine: str, call: Callable[..., Any], loaded: Any, request: BuildRequest) -> None:
        self.engine = engine
        self.call = call
        self.loaded = loaded
        self.request = request
        self.notes: tuple[str, ...] = ()
        self.settings: dict[str, str] = {}

    def bind(self, inputs: Tensors) -> TorchBound:
        import torch

        tensors = {name: torch.from_numpy(array.copy()) for name, array in inputs.items()}
        args, kwargs = self.loaded.arguments(tensors)
        call, inference_mode = self.call, torch.inference_mode

        def run() -> object:
            with inference_mode():
                return call(*args, **kwargs)

        return TorchBound(run=run, names=tuple(spec.name for spec in self.request.model.outputs))

    def precision(self) -> str:
        """Return what most multiply-adds are computed in."""
        from hwbench.graph.torch_source import module_precision

        return module_precision(self.loaded.module)

    def built(self) -> Built:
        import torch

        return Built(
            engine=self.engine,
            version=str(torch.__version__),
            precision=self.precision(),
            execution_units=("CPU",),
            threads=torch.get_num_threads() * self.request.streams,
            settings={
                "cpu_capability": torch.backends.cpu.get_cpu_capability(),
                "mkldnn": str(torch.backends.mkldnn.is_available()),
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
        run = self.bind(inputs).run
        run()  # what is made once is made
        return torch_memory(self.loaded.module, run)

    def close(self) -> None:
        with contextlib.suppress(AttributeError):  # closed before
            del self.call, self.loaded
