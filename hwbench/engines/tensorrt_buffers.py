"""The tensors of a TensorRT engine in memory: one buffer of the GPU and one page-locked buffer of the host each.

By the tensor API, which TensorRT has from 8.5 on. Shapes are fixed when they are bound: an axis that the engine leaves
open gets its size from the input, and an optimization profile is chosen that covers it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from hwbench.cuda.api import Buffer, Cuda, Pinned, Stream
from hwbench.errors import EngineError, Unsupported
from hwbench.protocols import Tensors

Array = np.ndarray[Any, np.dtype[Any]]

# TensorRT's DataType by numpy's name; the last two come from ml_dtypes.
ELEMENTS: Final[dict[str, str]] = {
    "FLOAT": "float32", "HALF": "float16", "INT8": "int8", "UINT8": "uint8", "INT32": "int32", "INT64": "int64",
    "BOOL": "bool", "BF16": "bfloat16", "FP8": "float8_e4m3fn",
}  # fmt: skip
_PLAIN: Final = "LINEAR"  # TensorFormat: rows one after another, as in numpy


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """An input or output of an engine. ``on_host``: it holds a shape, which TensorRT reads from host memory."""

    name: str
    is_input: bool
    dtype: np.dtype[Any]
    shape: tuple[int, ...]  # of the engine: -1 where an axis is open
    on_host: bool


def tensors_of(engine: Any) -> tuple[Tensor, ...]:
    """Return the inputs and outputs of an engine, in its order.

    Raises:
        Unsupported: one of them has a type that numpy lacks, or lies in memory otherwise than in numpy.
    """
    return tuple(_tensor(engine, engine.get_tensor_name(index)) for index in range(engine.num_io_tensors))


def _tensor(engine: Any, name: str) -> Tensor:
    import ml_dtypes  # noqa: F401 - gives numpy the names bfloat16 and float8_e4m3fn

    kind, layout = engine.get_tensor_dtype(name).name, engine.get_tensor_format(name).name
    if kind not in ELEMENTS:
        raise Unsupported(f"the engine's '{name}' has the type {kind}, which hwbench cannot feed")
    if layout != _PLAIN:
        raise Unsupported(
            f"the engine's '{name}' lies in memory as {layout}", hint="build it with linear inputs and outputs"
        )
    return Tensor(
        name=name,
        is_input=engine.get_tensor_mode(name).name == "INPUT",
        dtype=np.dtype(ELEMENTS[kind]),
        shape=tuple(int(size) for size in engine.get_tensor_shape(name)),
        on_host=engine.get_tensor_location(name).name == "HOST",
    )


def fed(tensors: Sequence[Tensor], inputs: Tensors) -> dict[str, Array]:
    """Return what each input of the engine is to hold, in its own type and without gaps.

    Integers are narrowed where the engine has narrower ones (TensorRT before 10 has no int64) and all values fit.

    Raises:
        EngineError: an input is missing, or has another type or shape.
    """
    return {tensor.name: _fed(tensor, inputs) for tensor in tensors if tensor.is_input}


def _fed(tensor: Tensor, inputs: Tensors) -> Array:
    if tensor.name not in inputs:
        raise EngineError(f"TensorRT asks for an input '{tensor.name}', there are: {', '.join(inputs)}")
    given: Array = np.asarray(inputs[tensor.name])
    if len(given.shape) != len(tensor.shape) or any(
        open_or_size not in {-1, size} for open_or_size, size in zip(tensor.shape, given.shape, strict=True)
    ):
        msg = f"the engine's input '{tensor.name}' has the shape {tensor.shape}, and {given.shape} was given"
        raise EngineError(msg, hint="build it for these shapes")
    if given.dtype != tensor.dtype:
        narrowed = given.astype(tensor.dtype)
        integers = {given.dtype.kind, tensor.dtype.kind} <= {"i", "u"}
        if not integers or not np.array_equal(narrowed, given):
            msg = f"the engine's input '{tensor.name}' is {tensor.dtype}, and {given.dtype} was given"
            raise EngineError(msg, hint="build it with the types of the model")
        given = narrowed
    return given if given.flags.c_contiguous else given.copy(order="C")


def profile_for(engine: Any, tensors: Sequence[Tensor], values: Mapping[str, Array]) -> int:
    """Return the optimization profile to run in: the one that was tuned for these shapes, or the first that has room.

    Raises:
        EngineError: none covers the shapes.
    """
    moving = [tensor for tensor in tensors if tensor.is_input and not tensor.on_host and -1 in tensor.shape]
    if not moving:
        return 0
    ranges = {
        index: [tuple(engine.get_tensor_profile_shape(tensor.name, index)) for tensor in moving]
        for index in range(engine.num_optimization_profiles)
    }
    shapes = [values[tensor.name].shape for tensor in moving]
    covering = [index for index, found in ranges.items() if all(map(_covers, found, shapes))]
    if not covering:
        given = ", ".join(f"'{tensor.name}' {shape}" for tensor, shape in zip(moving, shapes, strict=True))
        there = " or ".join(", ".join(f"{tuple(low)} to {tuple(high)}" for low, _, high in r) for r in ranges.values())
        msg = f"no optimization profile of the engine covers {given}: there is {there}"
        raise EngineError(msg, hint="build it for these shapes")
    tuned = [index for index in covering if all(tuple(r[1]) == s for r, s in zip(ranges[index], shapes, strict=True))]
    return (tuned or covering)[0]


def _covers(found: Sequence[Sequence[int]], shape: Sequence[int]) -> bool:
    low, _, high = found
    return all(least <= size <= most for least, size, most in zip(low, shape, high, strict=True))


class Placed:
    """One tensor in memory."""

    def __init__(self, tensor: Tensor, shape: tuple[int, ...], cuda: Cuda) -> None:
        self.tensor = tensor
        self.shape = shape
        self.size_bytes = math.prod(shape) * tensor.dtype.itemsize
        self.host: Pinned = cuda.pinned(self.size_bytes)
        self.device: Buffer | None = None if tensor.on_host else cuda.allocate(self.size_bytes)

    @property
    def address(self) -> int:
        """Where TensorRT finds it."""
        return int(self.host.address if self.device is None else self.device.address)

    def hold(self, values: Array) -> None:
        """Put values into the host's buffer."""
        self.host.array[:] = values.reshape(-1).view(np.uint8)

    def told(self) -> Array:
        """Return a copy of what the host's buffer holds."""
        values: Array = self.host.array.copy().view(self.tensor.dtype)
        return values.reshape(self.shape)

    def send(self, cuda: Cuda, stream: Stream) -> None:
        """Copy from the host's buffer to the GPU's."""
        if self.device is not None and self.size_bytes:
            cuda.copy_in(self.device.address, self.host.array, stream)

    def fetch(self, cuda: Cuda, stream: Stream) -> None:
        """Copy from the GPU's buffer to the host's."""
        if self.device is not None and self.size_bytes:
            cuda.copy_out(self.host.array, self.device.address, stream)

    def free(self) -> None:
        """Give both back."""
        self.host.free()
        if self.device is not None:
            self.device.free()
