"""An engine of TensorRT that computes with numpy on a :class:`fake_cuda.FakeCuda`, behind TensorRT's own tensor API.

What it does is what NVIDIA's API reference says of ``ICudaEngine`` and ``IExecutionContext`` (8.5 to 11): addresses and
shapes must have been set, work goes into the stream, wrong calls give False and a line in the log.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
from fake_cuda import FakeCuda, Work

_NAMES = {
    "float32": "FLOAT", "float16": "HALF", "int8": "INT8", "int32": "INT32", "int64": "INT64", "bool": "BOOL",
    "uint8": "UINT8", "bfloat16": "BF16", "float8_e4m3fn": "FP8", "int4": "INT4",
}  # fmt: skip


@dataclass(kw_only=True)
class Io:
    """An input or output."""

    shape: tuple[int, ...]
    dtype: Any = np.float32
    is_input: bool = True
    layout: str = "LINEAR"
    location: str = "DEVICE"
    profiles: tuple[tuple[tuple[int, ...], ...], ...] = ()


@dataclass
class FakeEngine:
    """``compute`` maps arrays by name to arrays by name; ``shapes``, the inputs' shapes to the outputs'."""

    cuda: FakeCuda
    io: dict[str, Io]
    compute: Callable[[dict[str, Any]], dict[str, Any]]
    shapes: Callable[[dict[str, tuple[int, ...]]], dict[str, tuple[int, ...]]] | None = None
    num_optimization_profiles: int = 1
    log: list[str] = field(default_factory=list)
    contexts: list[FakeExecution] = field(default_factory=list)
    most_contexts: int = 99
    fails_after: int | None = None  # so many runs
    capturable: bool | None = None  # None: this version does not say
    seconds: float = 1e-3  # of an inference, by the GPU's clock

    @property
    def num_io_tensors(self) -> int:
        return len(self.io)

    def get_tensor_name(self, index: int) -> str:
        return list(self.io)[index]

    def get_tensor_dtype(self, name: str) -> Any:
        dtype = self.io[name].dtype
        return SimpleNamespace(name=_NAMES[dtype if isinstance(dtype, str) else np.dtype(dtype).name])

    def get_tensor_format(self, name: str) -> Any:
        return SimpleNamespace(name=self.io[name].layout)

    def get_tensor_mode(self, name: str) -> Any:
        return SimpleNamespace(name="INPUT" if self.io[name].is_input else "OUTPUT")

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.io[name].shape

    def get_tensor_location(self, name: str) -> Any:
        return SimpleNamespace(name=self.io[name].location)

    def get_tensor_profile_shape(self, name: str, index: int) -> tuple[tuple[int, ...], ...]:
        return self.io[name].profiles[index]

    def create_execution_context(self) -> FakeExecution | None:
        if len(self.contexts) >= self.most_contexts:
            self.log.append("Error Code 2: OutOfMemory")
            return None
        context = FakeExecution(self, active_optimization_profile=0 if not self.contexts else -1)
        if self.capturable is not None:
            context.is_stream_capturable = lambda handle: self.capturable  # type: ignore[attr-defined]
        self.contexts.append(context)
        return context

    def complaint(self) -> str | None:
        return self.log[-1] if self.log else None


@dataclass
class FakeExecution:
    """An execution context."""

    engine: FakeEngine
    active_optimization_profile: int
    addresses: dict[str, int] = field(default_factory=dict)
    given: dict[str, tuple[int, ...]] = field(default_factory=dict)
    enqueued: int = 0

    def set_optimization_profile_async(self, index: int, handle: int) -> bool:
        self.engine.cuda.by_handle(handle)
        if not 0 <= index < self.engine.num_optimization_profiles:
            return self._complain(f"profile {index}")
        self.active_optimization_profile = index
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        io = self.engine.io[name]
        if io.profiles:
            low, _, high = io.profiles[self.active_optimization_profile]
            fits = all(a <= size <= b for a, size, b in zip(low, shape, high, strict=True))
        else:
            fits = tuple(shape) == io.shape
        if not fits:
            return self._complain(f"{name} {shape}")
        self.given[name] = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if self.engine.io[name].is_input:
            return self.given[name]
        return self.engine.shapes(self.given)[name] if self.engine.shapes is not None else self.engine.io[name].shape

    def set_tensor_address(self, name: str, address: int) -> bool:
        if not address:
            return self._complain(f"no address of {name}")
        self.addresses[name] = address
        return True

    def execute_async_v3(self, handle: int) -> bool:
        engine, stream = self.engine, self.engine.cuda.by_handle(handle)
        self.enqueued += 1
        if set(self.addresses) != set(engine.io):
            return self._complain("an address is missing")
        if engine.fails_after is not None and self.enqueued > engine.fails_after:
            return self._complain("Error Code 1: Cuda Runtime (invalid resource handle)")
        addresses = dict(self.addresses)

        def do() -> None:
            there = {
                name: engine.cuda.view(addresses[name], io.dtype, self.get_tensor_shape(name))
                for name, io in engine.io.items()
                if io.location == "DEVICE"
            }
            for name, value in engine.compute(there).items():
                there[name][...] = value

        stream.put(Work("inference", do, seconds=engine.seconds))
        return True

    def _complain(self, said: str) -> bool:
        self.engine.log.append(said)
        return False
