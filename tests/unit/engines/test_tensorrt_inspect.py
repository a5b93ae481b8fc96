"""What the engine inspector of each version says, as units that stand for source layers."""

from pathlib import Path

import pytest
from fake_tensorrt import fake_tensorrt

from hwbench.engines.tensorrt_api import adapt
from hwbench.engines.tensorrt_inspect import built_layers, read_units, source_names
from hwbench.engines.tensorrt_profile import gathered, profile_with
from hwbench.errors import EngineError
from hwbench.records.base import Missing
from hwbench.records.measurement import BuiltLayer
from hwbench.records.model import Layer

DATA = Path(__file__).parents[2] / "data" / "tensorrt"
CHAIN = ("conv1", "relu1", "conv2", "add", "relu2", "pool", "fc")
NO = Missing(code="not_told", why="not told")


def layers(*names):
    """A chain of layers; those called conv or fc multiply."""
    return tuple(
        Layer(
            name=name, op="Conv", module=None, inputs=(f"t{number}",), outputs=(f"t{number + 1}",), parameters=0,
            macs=100 if name.startswith(("conv", "fc")) else 0, moved_bytes=8,
        )
        for number, name in enumerate(names)
    )  # fmt: skip


def units(name):
    return read_units((DATA / name).read_text())


def members(name, *chain):
    return [unit.members for unit in built_layers(units(name), layers(*(chain or CHAIN)), {})]


def test_8_6_names_what_it_fuses():
    assert members("layers-8.6.json") == [
        (), ("conv1", "relu1"), ("conv2", "add", "relu2"), ("pool",), (), ("fc",),
    ]  # fmt: skip
    found = units("layers-8.6.json")
    assert [unit.precision for unit in found] == ["fp32", "int8", "fp16", "fp16", "fp32", "tf32"]
    assert [unit.sparse for unit in found] == [None, False, True, False, None, False]
    assert found[1].kernel.startswith("sm80_xmma_fprop_implicit_gemm_interleaved_i8i8")
    assert isinstance(found[4].kernel, Missing)
    assert [unit.kind for unit in found][:3] == ["Reformat", "Convolution", "Convolution"]


def test_10_tells_source_layers_in_metadata():
    found = units("layers-10.3.json")
    assert [unit.precision for unit in found[:2]] == ["tf32", "bf16"]
    assert "tells no types inside" in found[2].precision.why  # its input may be fp32, and all it does fp16
    assert found[1].sources == ("conv2", "add[0]", "relu2")  # a name may hold brackets
    assert members("layers-10.3.json") == [("conv1", "relu1"), ("conv2", "add", "relu2"), ("pool", "fc")]


def test_11_shows_myelins_kernels_as_units():
    found = units("layers-11.4.json")
    assert [unit.precision for unit in found[1:]] == ["fp8", "fp16"]  # int4 is the weights', not the arithmetic
    assert "tells no types inside" in found[0].precision.why  # a cast
    assert members("layers-11.4.json", "conv1", "relu1", "fc") == [(), ("conv1", "relu1"), ("fc",)]


def line(name, kind, before, after, *sources):
    """A layer in one line, as TensorRT-RTX 1.7.1 writes it."""
    tensors = [
        f"[ {{ Name: {word}, Dimensions: [1,8], Datatype: {word}, Format: (Linear) }}]" for word in (before, after)
    ]
    metadata = "".join(f"[ONNX Layer: {source}]" for source in sources)
    return (
        f"Name: {name}, LayerType: {kind}, Inputs: {tensors[0]}, Constants: [], Outputs: {tensors[1]}, "
        f"TacticName: {name}_0x1, StreamId: 0, Metadata: {metadata}"
    )


@pytest.mark.parametrize(
    ("told", "found", "precisions"),
    [
        (  # the kernel that casts the input is told of the convolution, too
            [("__myl_CastConc_myl0_0", "kgen", "Float", "Half", "image/as_fp16", "conv1", "relu1"),
             ("conv1_myl0_1", "correlation", "Half", "Half", "conv1", "relu1")],
            [(), ("conv1", "relu1")], [None, "fp16"],
        ),
        (  # what multiplies, though it is called after nothing, and another finishes it
            [("__myl_MeanResh_myl0_0", "kgen", "Half", "Half", "relu1", "fc"),
             ("__myl_MulSum_myl0_1", "kgen", "Half", "Half", "fc"),
             ("__myl_AddCast_myl0_2", "kgen", "Half", "Float", "fc", "y/as_fp32")],
            [("relu1",), ("fc",), ()], ["fp16", "fp16", None],
        ),
        (  # a quantiser before, and one behind that finishes the product
            [("__myl_MulMinMaxRounCast_myl0_0", "kgen", "Half", "Int8", "x/QuantizeLinear", "conv1"),
             ("__mye1+__mye2_myl0_1", "gemm", "Int8", "Float", "conv1"),
             ("__myl_MulCastAddReluMoveMulSum_myl0_2", "kgen", "Float", "Float", "relu1", "conv1", "fc")],
            [(), ("conv1",), ("relu1", "fc")], [None, "int8", None],
        ),
        (  # nothing tells which of them multiplies: the last
            [("__myl_Tran_myl0_0", "kgen", "Half", "Half", "conv1"),
             ("__myl_Loop_myl0_1", "kgen", "Half", "Half", "conv1")],
            [(), ("conv1",)], ["fp16", "fp16"],
        ),
    ],
)  # fmt: skip
def test_a_product_belongs_to_the_unit_that_multiplies(told, found, precisions):
    units = read_units("\n".join(line(*each) for each in told))
    chain = layers(*(name for name in ("conv1", "relu1", "fc") if any(name in each for each in told)))
    assert [unit.members for unit in built_layers(units, chain, {})] == found
    assert [None if isinstance(unit.precision, Missing) else unit.precision for unit in units] == precisions


def test_names_alone_are_units_of_which_nothing_is_told():
    found = units("layers-names-only.json")
    assert [unit.sources for unit in found] == [("conv1", "relu1"), ("conv2", "skip_conv"), ("pool", "fc")]
    assert all(isinstance(unit.precision, Missing) and isinstance(unit.kernel, Missing) for unit in found)


def test_a_dla_node_stands_for_all_that_is_in_it():
    assert members("layers-dla.json") == [(*CHAIN[:5], "pool"), ("fc",)]
    assert units("layers-dla.json")[0].kind == "DLA"


@pytest.mark.parametrize("text", ["[1, 2", "{", '{"Layers": 3', "Name: x, no layer", "once upon a time"])
def test_what_is_in_no_known_spelling_is_an_error(text):
    with pytest.raises(EngineError, match="cannot be read"):
        read_units(text)


def test_an_empty_engine_has_no_layers():
    assert read_units("") == read_units('{"Layers": [], "Bindings": []}') == ()


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a + b + c", ("a", "b", "c")),
        ("a || b", ("a", "b")),
        ("PWN(a)", ("a",)),
        ("PWN(PWN(a), b)", ("a", "b")),
        ("{ForeignNode[/enc/0/MatMul.../enc/11/Add]}", ("/enc/0/MatMul", "/enc/11/Add")),
        ("Reformatting CopyNode for Output Tensor 0 to a", ()),
        ("fc_myl0_4", ("fc",)),
        ("/block/conv", ("/block/conv",)),
    ],
)
def test_names_inside_names(name, found):
    assert source_names(name) == found


def unit(name, *members):
    return BuiltLayer(name=name, op="conv", members=members, kernel=NO, precision="fp16")


def test_times_belong_to_the_units_of_the_inspector():
    rounds = [[("a", 1e-3), ("b", 2e-3), ("a", 3e-3)], [("a", 4e-3), ("b", 5e-3), ("a", 6e-3)]]
    profile = gathered(rounds, [7e-3, 16e-3], [unit("a", "first"), unit("b", "second"), unit("a", "third")])
    assert [(each.unit.members, each.times_s) for each in profile.units] == [
        (("first",), (1e-3, 4e-3)), (("second",), (2e-3, 5e-3)), (("third",), (3e-3, 6e-3)),
    ]  # fmt: skip
    assert profile.end_to_end_s == (7e-3, 16e-3)


def test_a_unit_that_the_inspector_does_not_show_is_timed_all_the_same():
    profile = gathered([[("new", 1e-3)]], [1e-3], [unit("a")])
    assert profile.units[0].unit.name == "new"
    assert "shows no layer" in profile.units[0].unit.precision.why


def test_profiles_that_do_not_fit_together_are_told():
    assert gathered([], [], []).code == "no_layer_times"
    assert gathered([[]], [1.0], []).code == "no_layer_times"
    assert "other layers in some" in gathered([[("a", 1.0)], [("b", 1.0)]], [1.0, 1.0], []).why


def test_the_profiler_is_told_in_milliseconds_and_warm_up_is_not_counted():
    trt = fake_tensorrt("10.3.0")
    trt.IProfiler = type("IProfiler", (), {"__init__": lambda self: None})
    context = type("Context", (), {"profiler": None})()
    runs = []

    def run():
        runs.append(1)
        context.profiler.report_layer_time("conv1", float(len(runs)))
        context.profiler.report_layer_time("fc", 0.5)

    profile = profile_with(adapt(trt, "tensorrt"), (unit("conv1", "conv1"), unit("fc", "fc")), context, run, 4)
    assert len(runs) == 7
    assert profile.units[0].times_s == pytest.approx([4e-3, 5e-3, 6e-3, 7e-3])
    assert profile.units[1].times_s == pytest.approx([5e-4] * 4)
    assert len(profile.end_to_end_s) == 4
