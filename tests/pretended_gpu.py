"""A GPU with TensorRT on which times are made: planned for and optimised for as if it were there.

Every part of hwbench's is its own: lowering, building, loading, sampling, booking, planning, the contest and its guard.
TensorRT's place has :mod:`fake_tensorrt_runtime`, whose plans ONNX Runtime computes, and the GPU's clock goes on by
what :class:`MadeGpu` says that an inference takes.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
from fake_contests import Machine, Talk
from fake_cuda import FACTS, FakeCuda, show_gpu
from fake_tensorrt_runtime import running_tensorrt

from hwbench.bundles import runtimes
from hwbench.cuda import driver
from hwbench.engines import tensorrt as engine_module
from hwbench.engines import tensorrt_place, tensorrt_profile, tensorrt_program, tensorrt_save
from hwbench.engines.tensorrt_api import adapt
from hwbench.inventory import Target
from hwbench.optimization_pipeline import timing
from hwbench.records.base import Missing, Support
from hwbench.records.device import Device, Gpu
from hwbench.tables import sample

NO = Missing(code="no", why="not known")
CARD = Device(
    name="cuda:0", kind="nvidia", title="a pretended GPU", fingerprint="pretended0000000", profile=NO,
    memory_bytes=1 << 33,
    gpu=Gpu(name="Fake GPU", uuid=FACTS.uuid, compute_capability="8.7", memory_bytes=1 << 33, driver_version="580.1",
            cuda_version="13.0", power_limit_w=60.0, sm_max_hz=1e9, mig=False),
    memory_limit_bytes=NO, virtual=NO, container=NO, power_mode=NO,
)  # fmt: skip
TARGET = Target(device=CARD, profile=None)
_RATES = {"Float": 1.0, "Half": 4.0, "BFloat16": 4.0, "Int8": 10.0}  # multiply-adds a nanosecond
_INT8_PRODUCT = 0.5  # the same of a matrix product in int8: slower than in a half
_CONVERSION_S = 2e-5  # to int8 of what was not made in it; the other ones are fused
_EACH_S = 2e-5
_PRODUCTS = {"Conv", "Gemm", "MatMul"}


class MadeGpu:
    """What nodes of a typed graph take.

    A product takes as long as its multiply-adds in what it computes in; matrix products are slower in int8, so that
    int8 everywhere is slower than fp16. What makes int8 of floats takes a while, and what passes between two layers in
    int8 nothing. ``sparse``: by layer, what 2:4 weights make of its time.
    """

    def __init__(self, sparse=None):
        self.sparse = sparse or {}

    def times(self, model):
        """Return what each node takes, in seconds."""
        graph = onnx.shape_inference.infer_shapes(model).graph
        self.types = {v.name: v.type.tensor_type for v in (*graph.input, *graph.value_info, *graph.output)}
        self.weights = {tensor.name: tensor for tensor in graph.initializer}
        self.made = {name: node for node in graph.node for name in node.output}
        return [self._time(node) for node in graph.node]

    def total(self, path):
        """Return what a network takes, in seconds, by the graph that lies beside its plan."""
        return sum(self.times(onnx.load(path)))

    def _time(self, node):
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
            free = node.op_type == "DequantizeLinear" or self._constant(node.input[0]) or self._in_int8(node.input[0])
            return 0.0 if free else _CONVERSION_S
        if node.op_type not in _PRODUCTS:
            return _EACH_S
        kind = self._computed_in(node)
        rate = _INT8_PRODUCT if kind == "Int8" and node.op_type != "Conv" else _RATES[kind]
        return _EACH_S + self._factor(node) * float(self._macs(node)) / rate * 1e-9

    def _constant(self, name):
        while name in self.made and self.made[name].op_type in {"QuantizeLinear", "DequantizeLinear", "Cast"}:
            name = self.made[name].input[0]
        return name in self.weights and name

    def _in_int8(self, name):
        """Whether a product in int8 made it, or what follows one."""
        node = self.made.get(name)
        if node is None:
            return False
        return self._computed_in(node) == "Int8" if node.op_type in _PRODUCTS else self._in_int8(node.input[0])

    def _computed_in(self, node):
        before = self.made.get(node.input[0])
        if before is not None and before.op_type == "DequantizeLinear":
            return "Int8"
        kinds = {onnx.TensorProto.FLOAT16: "Half", onnx.TensorProto.BFLOAT16: "BFloat16"}
        known = self.types.get(node.input[0])
        return kinds.get(known.elem_type if known is not None else None, "Float")

    def _macs(self, node):
        outputs = np.prod([each.dim_value for each in self.types[node.output[0]].shape.dim])
        shape = self.weights[self._constant(node.input[1])].dims
        if node.op_type == "Conv":
            return outputs * np.prod(shape[1:])
        transposed = any(each.name == "transB" and each.i for each in node.attribute)
        return outputs * shape[1 if transposed else 0]

    def _factor(self, node):
        weight = onnx.numpy_helper.to_array(self.weights[self._constant(node.input[1])])
        transposed = node.op_type == "Conv" or any(each.name == "transB" and each.i for each in node.attribute)
        last = np.moveaxis(weight, 1 if transposed else 0, -1)
        if last.shape[-1] % 4 or (np.count_nonzero(last.reshape(-1, 4), axis=1) > 2).any():
            return 1.0
        return self.sparse.get(node.name, 1.0)


class GpuClock:
    """Goes on by what the GPUs have done, and by nothing else."""

    def __init__(self, opened):
        self.opened = opened

    def now_ns(self):
        return round(1e9 * sum(cuda.now_s for cuda in self.opened))


def pretend_gpu(monkeypatch, home, made, version="10.3.0"):
    """Put TensorRT and a GPU in place, with times by a :class:`MadeGpu`; children must be run in this process."""
    monkeypatch.setenv("HWBENCH_HOME", str(home))
    show_gpu(monkeypatch, driver, tensorrt_place)
    monkeypatch.setattr(tensorrt_place, "installed_version", lambda flavour: version)
    for module in (engine_module, tensorrt_place):
        monkeypatch.setattr(
            module, "installed", lambda flavour: Support(reasons=() if flavour == "tensorrt" else (NO,))
        )
    here = runtimes._version
    monkeypatch.setattr(runtimes, "_version", lambda name: version if name == "tensorrt-cu13" else here(name))
    opened = []

    def open_cuda(uuid=None):
        opened.append(FakeCuda())
        return opened[-1]

    trt = running_tensorrt(lambda: opened[-1], version, made.times)
    adapted = adapt(trt, "tensorrt")
    for module in (engine_module, tensorrt_program, tensorrt_save):
        monkeypatch.setattr(module, "api", lambda flavour: adapted)
    monkeypatch.setattr(tensorrt_program, "open_cuda", open_cuda)
    monkeypatch.setattr(tensorrt_save, "_open_context", lambda place: open_cuda())
    clock = GpuClock(opened)
    monkeypatch.setattr(sample, "MonotonicClock", lambda: clock)
    monkeypatch.setattr(tensorrt_profile, "time", SimpleNamespace(perf_counter_ns=clock.now_ns))
    return clock


def pretend_contests(monkeypatch, made):
    """Let contests be held between what the made GPU says that bundles take, by a clock of their own."""
    machine = Machine({}, between=0.002, within=0.001)

    @contextlib.contextmanager
    def talk(self, bundle, name, folder, failed):
        machine.latency_s[name] = made.total(Path(bundle.imported.files.folder) / "model.onnx")
        yield Talk(machine, 0, 0, name)

    monkeypatch.setattr(timing.Timer, "_dialogue", talk)
    monkeypatch.setattr(timing, "MonotonicClock", lambda: machine.clock)
    return machine
