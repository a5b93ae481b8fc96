"""What a saved int8 file of ONNX Runtime puts out between its layers, held against the float graph."""

import lowered_onnxruntime as low
import numpy as np
import onnx
import onnx_graphs as graphs
import pytest
from onnx import helper

from hwbench.engines.onnxruntime import OnnxRuntime
from hwbench.errors import EngineError
from hwbench.graph.expose import expose

node = helper.make_node


def chain():
    pads = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [
        node("Conv", ["x", "W"], ["a"], name="first", **pads),
        node("Relu", ["a"], ["r"], name="relu"),
        node("Conv", ["r", "V"], ["b"], name="second", **pads),
        node("Relu", ["b"], ["y"], name="last"),
    ]
    weights = [graphs.weight(name, graphs.random_array(2, 2, 3, 3, seed=n)) for n, name in enumerate("WV")]
    shape = (1, 2, 6, 6)
    return graphs.model(nodes, [graphs.tensor("x", shape)], [graphs.tensor("y", shape)], weights)


def shown(how, model, files, folder, feeds):
    folder.mkdir()
    told, moved = how(model, files, folder)
    found = low.run(folder / moved.runtime_graph, feeds)
    assert [spec.name for spec in told.outputs] == list(found)
    return found


def test_layers_go_by_their_names_and_are_rounded_as_the_next_one_reads_them(tmp_path):
    case = low.lowered(chain(), tmp_path)
    feeds = dict(np.load(tmp_path / "imported" / "inputs.npz"))
    request = case.request(tmp_path)
    ours = shown(OnnxRuntime().show_layers, request.model, request.files, tmp_path / "int8", feeds)
    floats = shown(expose, case.imported.model, case.imported.files, tmp_path / "float", feeds)
    both = set(ours) & set(floats)
    assert {"r", "y"} <= both
    for name in both:
        assert low.sqnr_db(floats[name], ours[name]) > 20, name
    assert (ours["r"] >= 0).all(), "the Relu that is the edge of a range is in what the next layer reads"
    assert len(np.unique(ours["r"])) <= 256
    assert low.sqnr_db(case.outputs(feeds)["y"], ours["y"]) > 40, "showing the layers changes next to nothing"


def test_weights_beside_the_file_are_refused(tmp_path):
    case = low.lowered(chain(), tmp_path)
    path = case.folder / "model.onnx"
    onnx.save(onnx.load(path), path, save_as_external_data=True, size_threshold=0, location="model.onnx.data")
    request = case.request(tmp_path)
    with pytest.raises(EngineError, match=r"below 1\.5 GB"):
        OnnxRuntime().show_layers(request.model, request.files, tmp_path)
