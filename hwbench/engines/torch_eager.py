"""PyTorch as the user's own code runs it: eager, in inference mode."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwbench.engines.edge import installed, require_precision, threads_per_stream, translated
from hwbench.engines.torch_memory import torch_memory
from hwbench.errors import EngineError
from hwbench.protocols import NOT_OFFERED, BuildRequest, LayerProfile, Tensors
from hwbench.records.base import Missing, Support, unsupported
from hwbench.records.device import Device
from hwbench.records.measurement import Built
from hwbench.records.memory import RuntimeMemory
from hwbench.records.model import Model, ModelFiles

_DTYPES = {"torch.float32": "fp32", "torch.bfloat16": "bf16", "torch.float16": "fp16", "torch.float64": "fp64"}
_NOTHING_TO_COMPILE = Missing(code="not_applicable", why="eager torch compiles nothing")
_NO_LAYERS = Missing(
    code=NOT_OFFERED,
    why="per-layer times are read from ONNX Runtime and OpenVINO; torch's profiler counts operators, not layers",
)


class TorchEager:
    """The user's module, made again and given the exported weights."""

    name = "torch-eager"

    def installed(self) -> Support:
        return installed("torch", "cpu")

    def supports(self, model: Model, files: ModelFiles, device: Device) -> Support:
        return supports_torch(self.installed(), files, device)

    def precisions(self, device: Device) -> tuple[str, ...]:
        return ("fp32",)

    def start(self) -> str:
        return start_torch()

    def load(self, request: BuildRequest) -> TorchEagerProgram:
        return TorchEagerProgram(load_module(self.name, request), request)


class TorchEagerProgram:
    """A module in memory."""

    load_phase: Missing | None = None
    compile_phase: Missing | None = _NOTHING_TO_COMPILE

    def __init__(self, loaded: Any, request: BuildRequest) -> None:
        self.loaded = loaded
        self.request = request

    def compile(self) -> TorchRunner:
        return TorchRunner("torch-eager", self.loaded.module, self.loaded, self.request)


def supports_torch(is_installed: Support, files: ModelFiles, device: Device) -> Support:
    """Say whether a torch engine can run the model: it needs the module, which an ONNX file does not hold."""
    if device.kind != "cpu":
        return unsupported("wrong_device", f"this engine runs on the CPU, not on '{device.name}'")
    if files.torch_source is None:
        return unsupported(
            "no_torch_source",
            "an ONNX file holds no torch module",
            "name the module (net.py:make) to measure torch too",
        )
    return is_installed


def start_torch() -> str:
    """Import torch and return its version."""
    with translated("importing torch"):
        import torch
    return str(torch.__version__)


def load_module(engine: str, request: BuildRequest) -> Any:
    """Make the user's module again and give it the weights that were exported.

    Raises:
        EngineError: it is not the module that was exported (its weights do not fit).
    """
    import torch

    from hwbench.graph.spec import parse_spec
    from hwbench.graph.torch_source import load_torch

    assert request.files.torch_source is not None
    torch.set_num_threads(threads_per_stream(request.threads, request.streams))
    if torch.get_num_interop_threads() != 1:  # it may be set only once
        torch.set_num_interop_threads(1)
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


def module_precision(module: Any) -> str:
    """Return the precision of most of the module's floating-point parameters (fp32 where it has none)."""
    counted: Counter[str] = Counter()
    for parameter in module.parameters():
        if parameter.is_floating_point():
            counted[str(parameter.dtype)] += parameter.numel()
    dtype = counted.most_common(1)[0][0] if counted else "torch.float32"
    return _DTYPES.get(dtype, dtype)


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
    """A callable torch module, eager or compiled."""

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

    def built(self) -> Built:
        import torch

        return Built(
            engine=self.engine,
            version=str(torch.__version__),
            precision=module_precision(self.loaded.module),
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
