"""LiteRT's C API, as far as its profiler needs it: the Python package shows no profiler, its library does.

Structures and constants are those of ``litert/c`` of release 2.3 (https://github.com/google-ai-edge/LiteRT). The API
promises no stable layout, so :data:`VERSION` says for which release they were written, and nobody calls with another.
Options that have no call of their own go in as text, under an identifier for each part of the runtime.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwbench.errors import EngineError

if TYPE_CHECKING:
    import numpy as np

VERSION = "2.3"
_CPU = 1  # kLiteRtHwAcceleratorCpu
_WRITE, _OK = 1, 0
_RANKS = 8
_P = ctypes.c_void_p

# Types of an event: a phase of the whole, a node that LiteRT runs, an operator that a delegate runs.
_PHASE, _OPERATOR, _DELEGATED = 1, 2, 8
_INVOKE = "Invoke"  # the phase that is the inference itself, without the handing over of buffers around it


class _Layout(ctypes.Structure):
    _fields_ = (
        ("bits", ctypes.c_uint),  # rank in the low seven
        ("dimensions", ctypes.c_int32 * _RANKS),
        ("strides", ctypes.c_uint32 * _RANKS),
    )


class _TensorType(ctypes.Structure):
    _fields_ = (("element", ctypes.c_int), ("layout", _Layout))


class _MemoryUse(ctypes.Structure):
    _fields_ = (("total", ctypes.c_size_t), ("in_use", ctypes.c_size_t), ("private", ctypes.c_size_t))


class _Event(ctypes.Structure):
    _fields_ = (
        ("tag", ctypes.c_char_p),
        ("type", ctypes.c_int),
        ("start_us", ctypes.c_uint64),
        ("elapsed_us", ctypes.c_uint64),
        ("memory_before", _MemoryUse),
        ("memory_after", _MemoryUse),
        ("index", ctypes.c_uint64),  # of the node, or of the operator inside its delegate
        ("extra", ctypes.c_uint64),
        ("source", ctypes.c_int),
    )


def _shape(layout: _Layout) -> tuple[int, ...]:
    return tuple(layout.dimensions[: layout.bits & 0x7F])


@dataclass(frozen=True, kw_only=True)
class Event:
    """One operator in one inference. The time is in whole microseconds, cut off."""

    tag: str
    delegated: bool
    index: int
    elapsed_us: int


@dataclass(frozen=True, kw_only=True)
class Inference:
    """One profiled inference: its operators in order, and the time of all."""

    events: tuple[Event, ...]
    invoke_us: int


def library() -> Path:
    """Return where the package keeps its library.

    Raises:
        EngineError: there is none.
    """
    spec = importlib.util.find_spec("ai_edge_litert")
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    for folder in folders:
        path = Path(folder) / "libLiteRt.so"
        if path.exists():
            return path
    raise EngineError("ai-edge-litert holds no libLiteRt.so here, and only that library has the profiler")


class ProfiledModel:
    """A compiled model with LiteRT's profiler on; use as a context manager.

    Args:
        path: the ``.tflite`` file.
        signature: index of the signature to run.
        threads: of the CPU kernels.
        builtin: run LiteRT's own kernels instead of XNNPACK's.
        inputs: values by the names of the signature.
    """

    def __init__(
        self,
        path: Path,
        *,
        signature: int,
        threads: int,
        builtin: bool,
        inputs: Mapping[str, np.ndarray[Any, Any]],
    ) -> None:
        self._api = ctypes.CDLL(str(library()))
        self._libc = ctypes.CDLL(None)
        self._libc.strdup.restype = _P
        self._signature = signature
        self._undo: list[tuple[str, ctypes.c_void_p]] = []
        try:
            self._compile(path, threads, builtin)
            arrays = self._in_order(inputs)
            self._resize(arrays)
            self._inputs = self._buffers("Input", [array.shape for array in arrays])
            self._outputs = self._buffers("Output", self._output_shapes())
            for buffer, array in zip(self._inputs, arrays, strict=True):
                self._write(buffer, array)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> ProfiledModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self) -> None:
        """Run one inference."""
        self._call(
            "RunCompiledModel",
            self._model,
            ctypes.c_size_t(self._signature),
            ctypes.c_size_t(len(self._inputs)),
            self._inputs,
            ctypes.c_size_t(len(self._outputs)),
            self._outputs,
        )

    def profiled(self) -> Inference:
        """Run one inference with the profiler on, and return what it saw."""
        profiler = self._new("CompiledModelGetProfiler", self._model)
        self._call("ResetProfiler", profiler)
        self._call("StartProfiler", profiler)
        self.run()
        self._call("StopProfiler", profiler)
        count = ctypes.c_int()
        self._call("GetNumProfilerEvents", profiler, ctypes.byref(count))
        events = (_Event * count.value)()
        self._call("GetProfilerEvents", profiler, count, events)
        told = [((event.tag or b"").decode(errors="replace"), event) for event in events]
        return Inference(
            events=tuple(
                Event(
                    tag=tag,
                    delegated=event.type == _DELEGATED,
                    index=int(event.index),
                    elapsed_us=int(event.elapsed_us),
                )
                for tag, event in told
                if event.type in {_OPERATOR, _DELEGATED}
            ),
            invoke_us=sum(int(event.elapsed_us) for tag, event in told if event.type == _PHASE and tag == _INVOKE),
        )

    def close(self) -> None:
        """Free everything, the last made first."""
        while self._undo:
            name, handle = self._undo.pop()
            getattr(self._api, f"LiteRtDestroy{name}")(handle)

    def _compile(self, path: Path, threads: int, builtin: bool) -> None:
        environment = ctypes.c_void_p()
        self._call("CreateEnvironment", 0, None, ctypes.byref(environment))
        self._undo.append(("Environment", environment))
        self._environment = environment
        file = self._owned("Model", "CreateModelFromFile", environment, str(path).encode())
        options = self._owned("Options", "CreateOptions")
        self._call("SetOptionsHardwareAccelerators", options, _CPU)
        self._add(options, "runtime_options_string", "enable_profiling = true\n")
        kernels = 'kernel_mode = "builtin"\n' if builtin else ""
        self._add(options, "xnnpack", f"num_threads = {threads}\n{kernels}")
        self._model = self._owned("CompiledModel", "CreateCompiledModel", environment, file, options)
        self._ends = self._new("GetModelSignature", file, ctypes.c_size_t(self._signature))

    def _add(self, options: ctypes.c_void_p, identifier: str, text: str) -> None:
        """Pass options as text; the runtime frees its copy with the function it is given."""
        copy = ctypes.c_void_p(self._libc.strdup(text.encode()))
        opaque = self._new("CreateOpaqueOptions", identifier.encode(), copy, ctypes.cast(self._libc.free, _P))
        self._call("AddOpaqueOptions", options, opaque)

    def _in_order(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        """Return the inputs in the order of the signature."""
        count, found = ctypes.c_size_t(), []
        self._call("GetNumSignatureInputs", self._ends, ctypes.byref(count))
        for index in range(count.value):
            name = ctypes.c_char_p()
            self._call("GetSignatureInputName", self._ends, ctypes.c_size_t(index), ctypes.byref(name))
            text = (name.value or b"").decode(errors="replace")
            if text not in inputs:
                raise EngineError(f"LiteRT asks for an input '{text}', there are: {', '.join(inputs)}")
            found.append(inputs[text])
        return found

    def _output_shapes(self) -> list[tuple[int, ...]]:
        """Return the outputs' shapes, in the order of the signature, as the inputs' shapes make them."""
        count = ctypes.c_size_t()
        self._call("GetNumSignatureOutputs", self._ends, ctypes.byref(count))
        layouts = (_Layout * count.value)()
        where = (self._model, ctypes.c_size_t(self._signature), count)
        self._call("GetCompiledModelOutputTensorLayouts", *where, layouts, ctypes.c_bool(True))
        return [_shape(layout) for layout in layouts]

    def _resize(self, inputs: Sequence[np.ndarray[Any, Any]]) -> None:
        for index, array in enumerate(inputs):
            if array.shape != self._type("Input", index)[1]:
                sizes = (ctypes.c_int * array.ndim)(*array.shape)
                where = (ctypes.c_size_t(self._signature), ctypes.c_size_t(index))
                self._call("CompiledModelResizeInputTensor", self._model, *where, sizes, ctypes.c_size_t(array.ndim))

    def _type(self, way: str, index: int) -> tuple[_TensorType, tuple[int, ...]]:
        tensor = self._new(f"GetSignature{way}TensorByIndex", self._ends, ctypes.c_size_t(index))
        found = _TensorType()
        self._call("GetRankedTensorType", tensor, ctypes.byref(found))
        return found, _shape(found.layout)

    def _buffers(self, way: str, shapes: Sequence[tuple[int, ...]]) -> Any:
        made = (_P * len(shapes))()
        for index, shape in enumerate(shapes):
            kind, _ = self._type(way, index)
            for axis, size in enumerate(shape):
                kind.layout.dimensions[axis] = size
            where = (ctypes.c_size_t(self._signature), ctypes.c_size_t(index))
            needs = self._new(f"GetCompiledModel{way}BufferRequirements", self._model, *where)
            create = "CreateManagedTensorBufferFromRequirements"
            made[index] = self._owned("TensorBuffer", create, self._environment, ctypes.byref(kind), needs).value
        return made

    def _write(self, buffer: int, array: np.ndarray[Any, Any]) -> None:
        handle, size, memory = _P(buffer), ctypes.c_size_t(), _P()
        self._call("GetTensorBufferPackedSize", handle, ctypes.byref(size))
        if size.value != array.nbytes:
            raise EngineError(f"LiteRT takes an input of {size.value} bytes, it was given {array.nbytes}")
        self._call("LockTensorBuffer", handle, ctypes.byref(memory), _WRITE)
        ctypes.memmove(memory, array.tobytes(), array.nbytes)
        self._call("UnlockTensorBuffer", handle)

    def _owned(self, kind: str, call: str, *arguments: Any) -> ctypes.c_void_p:
        handle = self._new(call, *arguments)
        self._undo.append((kind, handle))
        return handle

    def _new(self, call: str, *arguments: Any) -> ctypes.c_void_p:
        handle = ctypes.c_void_p()
        self._call(call, *arguments, ctypes.byref(handle))
        return handle

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._api, f"LiteRt{name}")(*arguments)
        if status != _OK:
            raise EngineError(f"LiteRt{name} failed with status {status}")
