"""A TensorRT that runs: its "plan" is the typed graph, which ONNX Runtime computes on memory of a pretended GPU.

So everything of hwbench's around TensorRT is run as it will be: lowering, building, loading, contexts, buffers, the
inspector, the profiler. What it cannot show is TensorRT.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace

import onnx
import onnxruntime as ort
from fake_cuda import FakeCuda
from fake_tensorrt import fake_tensorrt
from fake_tensorrt_engine import FakeEngine, Io

_TYPES = {onnx.TensorProto.FLOAT: "Float", onnx.TensorProto.FLOAT16: "Half", onnx.TensorProto.BFLOAT16: "BFloat16"}


Times = Callable[[onnx.ModelProto], list[float]]
"""What each node of a graph takes, in seconds."""


def running_tensorrt(
    cuda: Callable[[], FakeCuda], version: str = "10.3.0", times: Times | None = None
) -> SimpleNamespace:
    """Return a module whose runtime reads what its builder made.

    ``cuda`` gives the GPU that is open then. ``times``: what nodes take; by default 10 us more for each.
    """
    trt = fake_tensorrt(version)
    trt.plan = b""
    trt.IProfiler = type("IProfiler", (), {"__init__": lambda self: None})
    trt.LayerInformationFormat = SimpleNamespace(JSON="JSON")
    trt.Runtime = type(
        "Runtime", (), {"__init__": _take_logger, "deserialize_cuda_engine": _engine_maker(cuda, times or _rising)}
    )
    return trt


def _take_logger(self, logger):
    self.logger = logger
    self.engine_host_code_allowed = False


def _rising(model):
    return [1e-5 * (number + 1) for number in range(len(model.graph.node))]


def _engine_maker(cuda, times):
    def deserialize(runtime, data):
        try:
            model = onnx.load_model_from_string(data)
        except Exception:  # noqa: BLE001 - whatever protobuf raises
            runtime.logger.log(
                SimpleNamespace(name="ERROR"), "Serialization assertion failed: magic tag does not match"
            )
            return None
        return _engine(cuda(), model, times(model))

    return deserialize


def _engine(cuda, model, times):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    io = {value.name: _io(value, is_input=True) for value in session.get_inputs()}
    io |= {value.name: _io(value, is_input=False) for value in session.get_outputs()}

    def compute(there):
        found = session.run(names, {value.name: there[value.name].copy() for value in session.get_inputs()})
        for context in engine.contexts:
            listener = getattr(context, "profiler", None)
            if listener is not None:
                for node, seconds in zip(model.graph.node, times, strict=True):
                    listener.report_layer_time(node.name, 1e3 * seconds)
        return dict(zip(names, found, strict=True))

    engine = FakeEngine(cuda, io, compute, seconds=sum(times))
    engine.create_engine_inspector = lambda: SimpleNamespace(get_engine_information=lambda _: _inspected(model))
    return engine


def _io(value, *, is_input):
    dtype = value.type.removeprefix("tensor(").removesuffix(")")
    named = {"float": "float32", "float16": "float16", "int64": "int64", "int32": "int32", "bool": "bool"}
    return Io(shape=tuple(value.shape), dtype=named[dtype], is_input=is_input)


def _inspected(model):
    """Return what the inspector would say, a layer for each node."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = [*inferred.input, *inferred.value_info, *inferred.output]
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    types |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}

    def told(names):
        return [
            {"Name": name, "Format": "Row major", "Datatype": _TYPES.get(types.get(name), "Int32")} for name in names
        ]

    layers = [
        {
            "Name": node.name, "LayerType": node.op_type, "Inputs": told(node.input), "Outputs": told(node.output),
            "TacticName": f"fake_{node.op_type}", "Metadata": f"[ONNX Layer: {node.name}]",
        }
        for node in model.graph.node
    ]  # fmt: skip
    return json.dumps({"Layers": layers, "Bindings": list(types)})
