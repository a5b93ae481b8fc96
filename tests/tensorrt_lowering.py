"""Small graphs lowered for TensorRT, run on this CPU, and really built by TensorRT for RTX where it is installed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_graphs as graphs
import onnxruntime
from onnx import helper
from onnx.reference import ReferenceEvaluator

from hwbench.engines.tensorrt_lower import TypedGraph, lower_graph
from hwbench.graph.importer import import_model
from hwbench.protocols import LowerRequest
from hwbench.records.model import DataFacts, ImportJob, ImportResult
from hwbench.records.quantization import Calibration, CalibrationSettings, PrecisionPlan, TensorRange
from hwbench.testing import example_cpu

ADA = (8, 9)


def run(path: Path | onnx.ModelProto, feeds):
    """The outputs as ONNX Runtime computes them operator by operator.

    Its optimiser makes other numbers of fp8 (ONNX Runtime 1.32 folds a Q/DQ pair of E4M3 wrongly), so it is off.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    model = path.SerializeToString() if isinstance(path, onnx.ModelProto) else str(path)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return dict(zip([item.name for item in session.get_outputs()], session.run(None, feeds), strict=True))


def reference(path: Path, feeds):
    """The outputs as ONNX's own evaluator computes them, which knows bf16 everywhere."""
    evaluator = ReferenceEvaluator(str(path))
    return dict(zip(evaluator.output_names, evaluator.run(None, feeds), strict=True))


def min_max(path, feeds):
    """The range of every float tensor, from a graph with all of them as outputs."""
    model = onnx.load(path)
    floats = {
        value.name
        for value in (*model.graph.value_info, *model.graph.output)
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    present = {value.name for value in model.graph.output}
    made = [name for node in model.graph.node for name in node.output if name in floats and name not in present]
    model.graph.output.extend(graphs.tensor(name, None) for name in made)
    found = {**feeds, **run(model, feeds)}
    return {
        name: limits(float(array.min()), float(array.max()))
        for name, array in found.items()
        if array.dtype == np.float32 and array.size and np.isfinite(array).all()
    }


def limits(low, high):
    return TensorRange(low=low, high=high, magnitude=max(abs(low), abs(high)), seen_low=low, seen_high=high)


def net(lines, weights, inputs, outputs, **more):
    """Each line: operator, inputs, output (which names the node too), attributes."""
    nodes = [
        helper.make_node(op, given.split(" "), [made], name=made, **(rest[0] if rest else {}))
        for op, given, made, *rest in lines
    ]
    return graphs.model(
        nodes,
        [graphs.tensor(name, shape) for name, shape in inputs.items()],
        [graphs.tensor(name, shape) for name, shape in outputs.items()],
        [graphs.weight(name, np.asarray(array)) for name, array in weights.items()],
        **more,
    )


def small_cnn():
    """Two convolutions with a residual connection, an average and a classifier."""
    padded = {"pads": [1, 1, 1, 1]}
    return net(
        [
            ("Conv", "x w1 b1", "first", padded),
            ("Relu", "first", "r1"),
            ("Conv", "r1 w2", "second", padded),
            ("Add", "second r1", "sum"),
            ("Relu", "sum", "r2"),
            ("GlobalAveragePool", "r2", "pool"),
            ("Flatten", "pool", "flat"),
            ("Gemm", "flat w3 b3", "y"),
        ],
        {
            "w1": graphs.random_array(16, 3, 3, 3) / 5,
            "b1": graphs.random_array(16, seed=1),
            "w2": graphs.random_array(16, 16, 3, 3, seed=2) / 12,
            "w3": graphs.random_array(16, 32, seed=3),
            "b3": graphs.random_array(32, seed=4),
        },
        {"x": [2, 3, 8, 8]},
        {"y": [2, 32]},
    )


@dataclass
class Case:
    """A graph that was imported and lowered."""

    imported: ImportResult
    typed: TypedGraph
    folder: Path
    feeds: dict[str, np.ndarray]
    ranges: dict[str, TensorRange]

    @property
    def path(self):
        return self.folder / self.typed.files[0]

    @property
    def model(self):
        return onnx.load(self.path)

    @property
    def got(self):
        return {layer.layer: layer.got for layer in self.typed.layers}

    @property
    def why(self):
        return {layer.layer: layer.why for layer in self.typed.layers if layer.why}

    def float_outputs(self, feeds=None):
        return run(Path(self.imported.files.folder) / self.imported.files.runtime_graph, feeds or self.feeds)

    def outputs(self, feeds=None):
        return run(self.path, feeds or self.feeds)

    def types(self):
        """The element type of every tensor, by ONNX's own inference, which fails where types do not fit.

        The standard has Conv in bf16 from opset 22 on; TensorRT's parser takes it in older ones too.
        """
        model = self.model
        if self.typed.floating == "bf16":
            model.opset_import[0].version = 22
        inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
        onnx.checker.check_model(inferred)
        graph = inferred.graph
        found = {item.name: item.data_type for item in graph.initializer}
        values = (*graph.value_info, *graph.input, *graph.output)
        return found | {value.name: value.type.tensor_type.elem_type for value in values}

    def node(self, name):
        return next(node for node in self.model.graph.node if node.name == name)

    def maker(self, value):
        """The operator that gives a tensor, and the node's name; None for inputs and constants."""
        return next((node for node in self.model.graph.node if value in node.output), None)

    def reads(self, name, index=0):
        """What operator gives an input of a node."""
        maker = self.maker(self.node(name).input[index])
        return None if maker is None else maker.op_type


def lowered(
    made, tmp_path, plan="float", *, floating="auto", layers=None, feeds=None, ranges=None, capability=ADA,
    flavour="tensorrt", typed=True, **more,
):  # fmt: skip
    """Import ``made`` (a graph or what a user types), find ranges over its own input and lower it."""
    spec = str(graphs.save(made, tmp_path)) if isinstance(made, onnx.ModelProto) else str(made)
    imported = import_model(
        ImportJob(model=spec, batch_size=None, shapes={}, input_data=None, seed=0), tmp_path / "imported"
    )
    source = Path(imported.files.folder) / imported.files.runtime_graph
    feeds = feeds or dict(np.load(tmp_path / "imported" / "inputs.npz"))
    if ranges is None:
        ranges = min_max(source, feeds)
    return again(imported, tmp_path / "lowered", plan, floating=floating, layers=layers, feeds=feeds, ranges=ranges,
                 capability=capability, flavour=flavour, typed=typed, **more)  # fmt: skip


def again(
    imported, folder, plan="float", *, floating="auto", layers=None, feeds=None, ranges=None, capability=ADA,
    flavour="tensorrt", typed=True, kernels=None, no_kernels=None, lacks=None,
):  # fmt: skip
    """Lower a network that was imported already."""
    folder.mkdir()
    request = LowerRequest(
        model=imported.model,
        files=imported.files,
        plan=PrecisionPlan(default=plan, floating=floating, layers=layers or {}, kernels=kernels or {}),
        calibration=None if not ranges else calibration_of(ranges),
        device=example_cpu(),
        folder=folder,
    )
    typed_graph = lower_graph(
        request, capability=capability, flavour=flavour, typed=typed, no_kernels=no_kernels, lacks=lacks
    )
    return Case(imported=imported, typed=typed_graph, folder=folder, feeds=feeds or {}, ranges=ranges or {})


def calibration_of(tensors):
    return Calibration(
        schema_version=1,
        settings=CalibrationSettings(estimator="minmax"),
        data=DataFacts(source="test", sha256="0" * 64, samples=1, labels=False),
        graph_sha256="0" * 64,
        tensors=tensors,
    )


def sqnr_db(truth, found):
    """Signal to noise, in dB."""
    truth, found = np.asarray(truth, np.float64), np.asarray(found, np.float64)
    noise = np.linalg.norm(truth - found)
    return 20 * np.log10(np.linalg.norm(truth) / noise) if noise else np.inf
