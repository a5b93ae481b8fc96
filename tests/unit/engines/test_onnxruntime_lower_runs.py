"""A file that was lowered, run as it is, and what ONNX Runtime tells about it."""

import msgspec
import numpy as np
import onnx_graphs as graphs
import pytest
from onnx import helper

pytest.importorskip("onnxruntime", reason="runs ONNX Runtime")

import lowered_onnxruntime as low

from hwbench.engines.onnxruntime import OnnxRuntime
from hwbench.engines.onnxruntime_units import executed_precision, precision_of
from hwbench.errors import EngineError
from hwbench.records.base import Missing
from hwbench.records.measurement import BuiltLayer


@pytest.fixture
def case(tmp_path):
    """Convolution with BatchNorm and Relu, then one that the plan keeps float."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="first", pads=[1, 1, 1, 1]),
        graphs.batch_norm("norm", "c", "n"),
        helper.make_node("Relu", ["n"], ["r"], name="relu"),
        helper.make_node("Conv", ["r", "v"], ["y"], name="last"),
    ]
    weights = [
        graphs.weight("w", graphs.random_array(8, 3, 3, 3)),
        graphs.weight("v", graphs.random_array(2, 8, 1, 1)),
        *graphs.statistics("norm", 8),
    ]
    made = graphs.model(nodes, [graphs.tensor("x", [1, 3, 8, 8])], [graphs.tensor("y", [1, 2, 8, 8])], weights)
    return low.lowered(made, tmp_path, layers={"last": "float"})


@pytest.fixture
def feeds(case, tmp_path):
    return dict(np.load(tmp_path / "imported" / "inputs.npz"))


def test_the_saved_file_is_what_runs(case, feeds, tmp_path):
    runner = OnnxRuntime().load(case.request(tmp_path)).compile()
    found = runner.bind(feeds).outputs()["y"]
    np.testing.assert_array_equal(found, case.outputs(feeds)["y"])
    assert low.sqnr_db(case.float_outputs(feeds)["y"], found) > 25


def test_the_precision_of_every_layer_is_read_back(case, tmp_path):
    built, units = low.optimised(case, tmp_path)
    assert {name: units[name].precision for name in ("first", "norm", "relu", "last")} == {
        "first": "int8",
        "norm": "int8",
        "relu": "int8",
        "last": "fp32",
    }
    assert units["first"].op == "QLinearConv"
    assert units["first"] is units["norm"] is units["relu"]
    assert (built.precision, built.notes) == ("int8", ())
    assert {unit.op for unit in built.layers if not unit.members} >= {"QuantizeLinear", "DequantizeLinear"}


def test_the_layer_table_says_the_same(case, feeds, tmp_path):
    _, units = low.optimised(case, tmp_path)
    runner = OnnxRuntime().load(case.request(tmp_path, profile_layers=True)).compile()
    profile = runner.profile_layers(feeds, 3)
    timed = {name: times.unit for times in profile.units for name in times.unit.members}
    assert {name: (unit.op, unit.precision) for name, unit in timed.items()} == {
        name: (unit.op, unit.precision) for name, unit in units.items()
    }


def test_most_multiply_adds_in_float_are_float(tmp_path):
    case = low.lowered(graphs.mlp(), tmp_path, layers={"fc1": "float"})  # 32 multiply-adds to 24
    assert case.lowered.arithmetic == "fp32"
    assert low.optimised(case, tmp_path)[0].precision == "fp32"


def test_settings_are_applied(case, tmp_path):
    settings = {"graph_optimization_level": "ORT_DISABLE_ALL", "session.disable_prepacking": "1"}
    built = OnnxRuntime().load(case.request(tmp_path, settings=settings)).compile().built()
    assert {key: built.settings[key] for key in settings} == settings
    assert "QLinearConv" not in {unit.op for unit in built.layers}  # nothing was fused


@pytest.mark.parametrize(
    "settings", [{"colour": "red"}, {"graph_optimization_level": "FULL"}], ids=["no setting", "no value"]
)
def test_settings_that_do_not_exist_are_refused(case, tmp_path, settings):
    with pytest.raises(EngineError, match="has no setting"):
        OnnxRuntime().load(case.request(tmp_path, settings=settings)).compile()


def test_normalisation_is_not_fused_into_a_slower_kernel(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="fc"),
        helper.make_node("Add", ["h", "x"], ["s"], name="residual"),
        helper.make_node("LayerNormalization", ["s", "g"], ["y"], name="norm"),
    ]
    weights = [graphs.weight("w", graphs.random_array(8, 8)), graphs.weight("g", np.ones(8, np.float32))]
    made = graphs.model(nodes, [graphs.tensor("x", [1, 4, 8])], [graphs.tensor("y", [1, 4, 8])], weights)
    case = low.lowered(made, tmp_path)
    assert case.lowered.settings["optimization.disable_specified_optimizers"] == "SkipLayerNormFusion"
    _, units = low.optimised(case, tmp_path)
    assert units["norm"].op == "LayerNormalization"


def test_the_artefact_of_another_engine_is_not_run(case, tmp_path):
    request = case.request(tmp_path)
    model = msgspec.structs.replace(
        request.model, artefact=msgspec.structs.replace(request.model.artefact, engine="openvino")
    )
    support = OnnxRuntime().supports(model, request.files, low.cpu())
    assert [reason.code for reason in support.reasons] == ["other_engine"]


@pytest.mark.parametrize(
    ("op", "outputs", "precision"),
    [
        ("QGemm", ["float"], "int8"),
        ("MatMulIntegerToFloat", ["float"], "int8"),
        ("DynamicQuantizeMatMul", ["float"], "int8"),
        ("QLinearGlobalAveragePool", ["uint8"], "int8"),
        ("Conv", ["float"], "fp32"),
        ("MatMul", ["float16"], "fp16"),
        ("QuantizeLinear", ["uint8"], "int8"),
    ],
)
def test_a_kernel_on_integers_is_int8_whatever_it_gives(op, outputs, precision):
    assert precision_of(op, outputs) == precision


def test_packed_weights_do_not_tell():
    assert isinstance(precision_of("MatMulNBits", ["float"]), Missing)
    unit = BuiltLayer(
        name="m", op="MatMulNBits", members=(), kernel="k", precision=precision_of("MatMulNBits", ["float"])
    )
    assert executed_precision([unit], []) is None
