"""The runtimes that :mod:`hwbench.cost.gemm` measures products with, and how each tells what it really ran."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from hwbench.cost.gemm_graphs import float_graph, integer_graph, left_operand, quantised_graph
from hwbench.errors import EngineError

GemmEngine = Literal["onnxruntime", "openvino"]
GemmPrecision = Literal["fp32", "bf16", "fp16", "int8"]


@dataclass(frozen=True, kw_only=True)
class ProductRequest:
    """A product of two square matrices of ``size``; ``folder`` is scratch space."""

    precision: GemmPrecision
    size: int
    threads: int
    folder: Path


class Product(Protocol):
    """A compiled product."""

    version: str  # of the runtime

    def run(self) -> object:
        """Multiply once."""
        ...

    def executed(self) -> tuple[str, str]:
        """Return the precision of the arithmetic and the kernel, as the runtime tells them."""
        ...


_ORT_PRECISIONS = {"float": "fp32", "float16": "fp16", "bfloat16": "bf16", "uint8": "int8", "int8": "int8"}
_OPENVINO_PRECISIONS = {"f32": "fp32", "bf16": "bf16", "f16": "fp16", "u8": "int8", "i8": "int8"}
_OPENVINO_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32"}


class OrtProduct:
    """ONNX Runtime: the first run is profiled, which tells the node that ran and the types it took."""

    def __init__(self, request: ProductRequest) -> None:
        self._ort: Any = importlib.import_module("onnxruntime")
        self.version = str(self._ort.__version__)
        self._folder = request.folder
        self._graph = integer_graph(request.size) if request.precision == "int8" else float_graph(request.size)
        self._options = self._ort.SessionOptions()
        self._options.intra_op_num_threads = request.threads
        self._options.inter_op_num_threads = 1
        self._a = left_operand(request.size, np.uint8 if request.precision == "int8" else np.float32)
        self._session = self._open()
        self._binding = self._session.io_binding()
        self._binding.bind_cpu_input("a", self._a)
        self._binding.bind_output("y", "cpu")

    def _open(self) -> Any:
        return self._ort.InferenceSession(self._graph, self._options, providers=["CPUExecutionProvider"])

    def run(self) -> object:
        return self._session.run_with_iobinding(self._binding)

    def executed(self) -> tuple[str, str]:
        self._options.enable_profiling = True
        self._options.profile_file_prefix = str(self._folder / "ort")
        profiled = self._open()
        profiled.run(None, {"a": self._a})
        trace = Path(profiled.end_profiling())
        events = json.loads(trace.read_text())
        trace.unlink()
        return ort_executed(events)


def ort_executed(events: list[dict[str, Any]]) -> tuple[str, str]:
    """Return precision and kernel of the product in ONNX Runtime's profile: the type of the node's first operand."""
    for event in events:
        arguments = event.get("args", {})
        operator = str(arguments.get("op_name", ""))
        if event.get("cat") == "Node" and "MatMul" in operator and arguments.get("input_type_shape"):
            taken = next(iter(arguments["input_type_shape"][0]))
            return _ORT_PRECISIONS.get(taken, taken), f"{operator} on {taken}, {arguments.get('provider')}"
    raise EngineError("ONNX Runtime's profile shows no matrix product")


class OpenVinoProduct:
    """OpenVINO: precision and kernel are those of the product in its runtime model."""

    def __init__(self, request: ProductRequest) -> None:
        ov: Any = importlib.import_module("openvino")
        self.version = str(ov.__version__)
        graph = quantised_graph(request.size) if request.precision == "int8" else float_graph(request.size)
        core = ov.Core()
        settings = {
            "INFERENCE_PRECISION_HINT": _OPENVINO_HINTS[request.precision],
            "INFERENCE_NUM_THREADS": request.threads,
            "NUM_STREAMS": 1,
        }
        self._compiled = core.compile_model(core.read_model(graph), "CPU", settings)
        self._request = self._compiled.create_infer_request()
        self._a = left_operand(request.size, np.float32)
        self._request.set_input_tensor(ov.Tensor(self._a, shared_memory=True))

    def run(self) -> object:
        return self._request.infer()

    def executed(self) -> tuple[str, str]:
        nodes: list[dict[str, str]] = []
        for node in self._compiled.get_runtime_model().get_ordered_ops():
            info = node.get_rt_info()
            keys = ("layerType", "primitiveType", "runtimePrecision")
            nodes.append({key: str(info[key].value if hasattr(info[key], "value") else info[key]) for key in keys})
        return openvino_executed(nodes)


def openvino_executed(nodes: list[dict[str, str]]) -> tuple[str, str]:
    """Return precision and kernel of the product in OpenVINO's runtime model.

    An int8 product whose kernel is a floating-point one has only its weights in int8: that is not int8 arithmetic.
    """
    for node in nodes:
        if node["layerType"] in {"FullyConnected", "MatMul", "Gemm"}:
            kernel, told = node["primitiveType"], node["runtimePrecision"]
            precision = _OPENVINO_PRECISIONS.get(told, told)
            if precision == "int8" and kernel.lower().endswith(("_f32", "_bf16", "_f16")):
                precision = "int8 weights only"
            return precision, kernel
    raise EngineError("OpenVINO's runtime model shows no matrix product")


PRODUCTS: dict[GemmEngine, Callable[[ProductRequest], Product]] = {
    "onnxruntime": OrtProduct,
    "openvino": OpenVinoProduct,
}
