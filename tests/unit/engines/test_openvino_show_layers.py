"""What a saved int8 IR puts out between its layers, held against the float graph."""

import msgspec
import numpy as np
import onnx_graphs as graphs
import openvino as ov
import openvino_lowering as low

from hwbench.engines.openvino import OpenVino
from hwbench.records.model import Artefact
from hwbench.records.quantization import PrecisionPlan


def test_layers_go_by_their_names_and_are_near_the_float_graphs(tmp_path):
    sample = {"x": np.random.default_rng(0).standard_normal((1, 4, 5, 5)).astype(np.float32)}
    case = low.case(graphs.convnet(), tmp_path, sample)
    lowered = case.lower(PrecisionPlan(default="int8"))
    artefact = Artefact(engine="openvino", sha256="0" * 64, files=lowered.files, label="int8")
    model = msgspec.structs.replace(case.result.model, artefact=artefact)
    files = msgspec.structs.replace(case.result.files, folder=str(tmp_path / "ir"), runtime_graph="model.xml")
    (tmp_path / "shown").mkdir()
    told, moved = OpenVino().show_layers(model, files, tmp_path / "shown")
    compiled = ov.Core().compile_model(tmp_path / "shown" / moved.runtime_graph, "CPU")
    found = compiled(sample)
    values = {spec.name: found[compiled.output(index)] for index, spec in enumerate(told.outputs)}
    assert len(values) > len(model.outputs)
    (truth,) = low.reference(case.result, [sample])
    for name, value in values.items():
        assert low.relative_error(value, truth[name]) < 0.1, name
