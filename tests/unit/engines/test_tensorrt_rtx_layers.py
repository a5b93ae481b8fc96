"""Whose layers the units of a real plan of TensorRT-RTX are, and what they compute in; built here without a GPU."""

import pytest

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
pytest.importorskip("onnxruntime", reason="ranges of int8 come from ONNX Runtime")

import onnx_graphs as graphs
import tensorrt_lowering as low
from tensorrt_lowering import net

from hwbench.engines.tensorrt_api import api
from hwbench.engines.tensorrt_build import PlanRequest, build_plan
from hwbench.engines.tensorrt_inspect import built_layers, read_units
from hwbench.engines.tensorrt_log import layers_in
from hwbench.engines.tensorrt_options import BuildOptions
from hwbench.engines.tensorrt_program import executed_precision


def stem():
    """A large convolution of three channels, whose input a kernel of its own casts and pads, and a classifier."""
    return net(
        [
            ("Conv", "x w b", "stem", {"strides": [2, 2], "pads": [3, 3, 3, 3]}),
            ("Relu", "stem", "act"),
            ("GlobalAveragePool", "act", "pool"),
            ("Flatten", "pool", "flat"),
            ("Gemm", "flat v c", "y", {"transB": 1}),
        ],
        {
            "w": graphs.random_array(64, 3, 7, 7) / 12,
            "b": graphs.random_array(64),
            "v": graphs.random_array(10, 64) / 8,
            "c": graphs.random_array(10),
        },
        {"x": [1, 3, 96, 96]},
        {"y": [1, 10]},
    )


@pytest.mark.parametrize("word", ["fp16", "bf16", "int8"])
def test_products_belong_to_what_multiplies(word, tmp_path):
    plan, floating = ("int8", "auto") if word == "int8" else ("float", word)
    case = low.lowered(stem(), tmp_path, plan, floating=floating, flavour="tensorrt-rtx")
    request = PlanRequest(
        graph=case.path, capability=(8, 9), flags=case.typed.flags, weak_flags=(), options=BuildOptions(), cache=None
    )
    model = case.imported.model
    units = built_layers(read_units(layers_in(build_plan(api("tensorrt-rtx"), request).lines)), model.layers, {})
    (convolution,) = [unit for unit in units if "stem" in unit.members]
    assert (convolution.op, convolution.precision) == ("correlation", word)
    (product,) = [unit for unit in units if "y" in unit.members]
    assert product is not convolution
    assert "MulSum" in product.name or product.op in {"gemm", "runtime_fusion"}
    members = [member for unit in units for member in unit.members]
    assert sorted(members) == sorted({layer.name for layer in model.layers})
    assert executed_precision(units, model) == word
