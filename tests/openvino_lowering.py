"""Small graphs brought in, calibrated by minimum and maximum, lowered to OpenVINO and run, for the tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime
from onnx_graphs import save

from hwbench.engines.openvino import OpenVino
from hwbench.graph.importer import import_model
from hwbench.protocols import BuildRequest, LowerRequest
from hwbench.records.model import Artefact, DataFacts, ImportJob, ImportResult
from hwbench.records.quantization import Calibration, CalibrationSettings, Lowered, PrecisionPlan, TensorRange
from hwbench.testing import example_cpu

VNNI = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16")
Arrays = dict[str, np.ndarray]


def cpu(isa: tuple[str, ...] = VNNI):
    plain = example_cpu()
    return msgspec.structs.replace(plain, cpu=msgspec.structs.replace(plain.cpu, isa=isa))


def imported(made: onnx.ModelProto, folder: Path) -> ImportResult:
    folder.mkdir(exist_ok=True, parents=True)
    job = ImportJob(model=str(save(made, folder)), batch_size=None, shapes={}, input_data=None, seed=0)
    return import_model(job, folder / "imported")


def reference(result: ImportResult, samples: list[Arrays]) -> list[Arrays]:
    """Every tensor of the float graph for each sample, by onnxruntime without its optimisations."""
    made = onnx.load(Path(result.files.folder) / result.files.runtime_graph)
    outputs = {value.name for value in made.graph.output}
    for name in (name for node in made.graph.node for name in node.output if name and name not in outputs):
        made.graph.output.append(onnx.ValueInfoProto(name=name))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return [dict(zip(names, session.run(names, sample), strict=True)) | sample for sample in samples]


def min_max(values: list[Arrays]) -> Calibration:
    tensors = {}
    for name in values[0]:
        if values[0][name].dtype != np.float32:
            continue
        low = min(float(one[name].min()) for one in values)
        high = max(float(one[name].max()) for one in values)
        magnitude = max(abs(low), abs(high))
        tensors[name] = TensorRange(low=low, high=high, magnitude=magnitude, seen_low=low, seen_high=high)
    return Calibration(
        schema_version=1,
        settings=CalibrationSettings(estimator="minmax"),
        data=DataFacts(source="test", sha256="0", samples=len(values), labels=False),
        graph_sha256="0",
        tensors=tensors,
    )


@dataclass(kw_only=True)
class Case:
    """A graph, its samples, and what the float graph makes of them."""

    result: ImportResult
    samples: list[Arrays]
    truth: list[Arrays]
    folder: Path

    def lower(self, plan: PrecisionPlan, *, into: str = "ir", isa: tuple[str, ...] = VNNI, without=()) -> Lowered:
        folder = self.folder / into
        folder.mkdir()
        calibration = min_max(self.truth)
        tensors = {name: found for name, found in calibration.tensors.items() if name not in without}
        request = LowerRequest(
            model=self.result.model,
            files=self.result.files,
            plan=plan,
            calibration=msgspec.structs.replace(calibration, tensors=tensors),
            device=cpu(isa),
            folder=folder,
        )
        return OpenVino().lower(request)

    def program(self, lowered: Lowered, *, into: str = "ir", profile_layers: bool = False):
        artefact = Artefact(engine="openvino", sha256="0", files=lowered.files, label="test", settings=lowered.settings)
        request = BuildRequest(
            model=msgspec.structs.replace(self.result.model, artefact=artefact, arithmetic=lowered.arithmetic),
            files=msgspec.structs.replace(
                self.result.files, folder=str(self.folder / into), runtime_graph=lowered.files[0]
            ),
            device=example_cpu(),
            precision="auto",
            threads=1,
            streams=1,
            profile_layers=profile_layers,
            workdir=self.folder,
        )
        return OpenVino().load(request).compile()

    def outputs(self, runner, sample: int = 0) -> Arrays:
        bound = runner.bind(self.samples[sample])
        bound.run()
        return bound.outputs()


def case(made: onnx.ModelProto, folder: Path, *samples: Arrays) -> Case:
    result = imported(made, folder)
    given = list(samples) or [dict(np.load(Path(result.files.folder) / result.files.inputs))]
    return Case(result=result, samples=given, truth=reference(result, given), folder=folder)


def relative_error(value: np.ndarray, truth: np.ndarray) -> float:
    """Root of the squared error over that of the truth."""
    return float(np.linalg.norm(value - truth) / np.linalg.norm(truth))


def saved(folder: Path):
    import openvino as ov

    return ov.Core().read_model(folder / "model.xml")


def nodes(model, kind: str) -> list:
    return [node for node in model.get_ordered_ops() if node.get_type_name() == kind]


def integers(model, kind: str = "i8") -> list[np.ndarray]:
    found = [node for node in nodes(model, "Constant") if node.get_element_type().get_type_name() == kind]
    return [node.data for node in found]


def quantised_inputs(node) -> list[bool]:
    """Which inputs of a node come from a FakeQuantize or from small integers."""
    kinds = []
    for index in range(node.get_input_size()):
        source = node.input_value(index).get_node()
        while source.get_type_name() in {"Reshape", "Transpose", "MaxPool", "Multiply", "Convert", "Concat"}:
            source = source.input_value(0).get_node()
        kinds.append(source.get_type_name() == "FakeQuantize" or source.get_element_type().get_type_name() == "i8")
    return kinds
