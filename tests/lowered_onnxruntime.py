"""Small graphs lowered to ONNX Runtime, with ranges by a plain minimum and maximum over the float graph."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnx_graphs as graphs
import onnxruntime

from hwbench.engines.onnxruntime import OnnxRuntime
from hwbench.graph.importer import import_model
from hwbench.protocols import BuildRequest, LowerRequest
from hwbench.records.model import Artefact, DataFacts, ImportJob, ImportResult
from hwbench.records.quantization import Calibration, CalibrationSettings, Lowered, PrecisionPlan, TensorRange
from hwbench.testing import example_cpu

VNNI = ("avx2", "avx512f", "avx512_vnni")
NO_VNNI = ("avx2",)


def cpu(isa=VNNI, architecture="x86_64"):
    device = example_cpu()
    return msgspec.structs.replace(device, cpu=msgspec.structs.replace(device.cpu, isa=isa, architecture=architecture))


def run(path, feeds):
    """The outputs of a file, as ONNX Runtime computes them with nothing changed."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return dict(zip([item.name for item in session.get_outputs()], session.run(None, feeds), strict=True))


def min_max(path, batches, folder):
    """The smallest and largest value of every float tensor, from a graph with all of them as outputs."""
    model = onnx.load(path)
    floats = {
        value.name
        for value in (*model.graph.value_info, *model.graph.output)
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    present = {value.name for value in model.graph.output}
    made = [name for node in model.graph.node for name in node.output if name in floats]
    model.graph.output.extend(graphs.tensor(name, None) for name in made if name not in present)
    (folder / "all.onnx").write_bytes(model.SerializeToString())
    seen: dict[str, list[float]] = {}
    for batch in batches:
        for name, array in {**batch, **run(folder / "all.onnx", batch)}.items():
            if array.dtype == np.float32:
                seen.setdefault(name, []).extend([float(array.min()), float(array.max())])
    return {name: limits(min(values), max(values)) for name, values in seen.items()}


def limits(low, high):
    return TensorRange(low=low, high=high, magnitude=max(abs(low), abs(high)), seen_low=low, seen_high=high)


def calibration(tensors):
    return Calibration(
        schema_version=1,
        settings=CalibrationSettings(estimator="minmax"),
        data=DataFacts(source="test", sha256="0" * 64, samples=1, labels=False),
        graph_sha256="0" * 64,
        tensors=tensors,
    )


@dataclass
class Case:
    """A graph that was imported and lowered."""

    imported: ImportResult
    lowered: Lowered
    folder: Path

    @property
    def model(self):
        return onnx.load(self.folder / "model.onnx")

    @property
    def got(self):
        return {layer.layer: layer.got for layer in self.lowered.layers}

    def request(self, workdir, *, profile_layers=False, settings=None):
        artefact = Artefact(
            engine="onnxruntime",
            sha256="0" * 64,
            files=self.lowered.files,
            label="int8",
            settings=self.lowered.settings if settings is None else settings,
        )
        replace = msgspec.structs.replace
        return BuildRequest(
            model=replace(self.imported.model, arithmetic=self.lowered.arithmetic, artefact=artefact),
            files=replace(self.imported.files, folder=str(self.folder), runtime_graph=self.lowered.files[0]),
            device=example_cpu(),
            precision="auto",
            threads=1,
            streams=1,
            profile_layers=profile_layers,
            workdir=workdir,
        )

    def float_outputs(self, feeds):
        return run(Path(self.imported.files.folder) / self.imported.files.runtime_graph, feeds)

    def outputs(self, feeds):
        return run(self.folder / "model.onnx", feeds)


def lowered(made, tmp_path, plan="int8", *, layers=None, batches=None, device=None, tensors=None, floating="auto"):
    """Import ``made``, find ranges over ``batches`` (its own random input, unless given) and lower it."""
    imported = import_model(
        ImportJob(model=str(graphs.save(made, tmp_path)), batch_size=None, shapes={}, input_data=None, seed=0),
        tmp_path / "imported",
    )
    source = Path(imported.files.folder) / imported.files.runtime_graph
    batches = batches or [dict(np.load(tmp_path / "imported" / "inputs.npz"))]
    folder = tmp_path / "lowered"
    folder.mkdir()
    request = LowerRequest(
        model=imported.model,
        files=imported.files,
        plan=PrecisionPlan(default=plan, floating=floating, layers=layers or {}),
        calibration=calibration(min_max(source, batches, tmp_path) if tensors is None else tensors),
        device=device or cpu(),
        folder=folder,
    )
    return Case(imported=imported, lowered=OnnxRuntime().lower(request), folder=folder)


def optimised(case, workdir):
    """The units that ONNX Runtime runs of the lowered file, by the source layers in them."""
    built = OnnxRuntime().load(case.request(workdir)).compile().built()
    return built, {name: unit for unit in built.layers for name in unit.members}


def sqnr_db(reference, found):
    """Signal to quantisation noise, in dB."""
    noise = np.linalg.norm(np.asarray(reference, np.float64) - found)
    return 20 * np.log10(np.linalg.norm(reference) / noise) if noise else np.inf
