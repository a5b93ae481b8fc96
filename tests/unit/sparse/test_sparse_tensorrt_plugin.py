"""The plugins' definitions, held against the real Python of TensorRT 11.4 (on libraries that hold nothing)."""

from __future__ import annotations

import json
import types

import numpy as np
import pytest
from sparse_examples import Strips, pruned, strips_kernel, with_strips
from sparse_fake_cuda import SparseGpu, image, strips_block
from sparse_tensorrt_stubs import run_on_stubs, stub_libraries

from hwbench.errors import EngineError
from hwbench.sparse.launch import Loaded
from hwbench.sparse.manifest import find_kernel
from hwbench.sparse.tensorrt_plugin import route_of, tactics_of
from hwbench.sparse.tensorrt_v3 import DriverLaunch, creator_of, register_classes

COMMON = """
import json
from sparse_examples import strips_kernel
from hwbench.sparse.launch import Loaded
from hwbench.sparse.tensorrt_plugin import define_plugins, route_of

kernel = strips_kernel()
asked = []

def ptx(variant, arch):
    asked.append([variant.kernel, variant.tile_n, variant.bias, arch])
    return b"ptx"
"""


@pytest.fixture(scope="module")
def libraries(tmp_path_factory):
    return stub_libraries(tmp_path_factory.mktemp("stubs"))


def told(program, libraries):
    return json.loads(run_on_stubs(COMMON + program, libraries).splitlines()[-1])


def test_the_definitions_pass_the_decorators_of_tensorrt(libraries):
    found = told("""
ids = define_plugins(trtp, [kernel], ptx, lazy=True)
again = define_plugins(trtp, [kernel], ptx, lazy=True)
definition = trtp.op.hwbench.strips_bias
print(json.dumps({"ids": ids, "again": again, "route": route_of(trt, trtp), "inputs": definition.input_tensor_names,
    "attributes": list(definition.input_attrs), "outputs": definition.num_outputs,
    "ahead": definition.aot_impl_attr_names, "types": [one.__name__ for one in definition.input_attrs.values()]}))
""", libraries)  # fmt: skip
    assert found["ids"] == found["again"] == ["hwbench::strips", "hwbench::strips_bias"]
    assert found["route"] == "ahead-of-time"
    assert found["inputs"] == ["x", "values", "columns", "bias"]
    assert found["attributes"] == found["ahead"] == ["m", "k", "width", "sm"]
    assert found["types"] == ["int"] * 4
    assert found["outputs"] == 1


def test_types_and_tactics_are_those_of_the_kernel(libraries):
    found = told("""
define_plugins(trtp, [kernel], ptx, lazy=True)
combinations = trtp.op.hwbench.strips_bias.autotune_func(*[None] * 4, None)
one, = [each for combination in combinations for each in combination._get_combinations()]
print(json.dumps({"types": [str(each) for each in one.types], "layouts": [str(each) for each in one.layouts],
                  "tactics": list(one.tactics)}))
""", libraries)  # fmt: skip
    assert [name.rpartition(".")[2] for name in found["types"]] == ["HALF", "INT32", "INT32", "HALF", "HALF"]
    assert {name.rpartition(".")[2] for name in found["layouts"]} == {"LINEAR"}
    assert found["tactics"] == [8, 16, 32]


def test_the_wide_kernel_brings_tactics_of_its_own():
    told = {number: (kernel.name, tile) for number, (kernel, tile) in tactics_of(find_kernel("vw16")).items()}
    own = {tile: ("vw16", tile) for tile in (8, 16, 32)}
    assert told == own | {1016: ("vw16_wide", 16), 1032: ("vw16_wide", 32)}
    assert list(tactics_of(find_kernel("bitmap_mm"))) == [8, 16, 32]


def test_the_launch_is_an_expression_in_n_and_the_scalars_are_in_the_kernels_order(libraries):
    """The expressions are evaluated by a builder of ours, for N = 19."""
    found = told("""
from tensorrt_bindings.plugin import _tensor

class Expression:
    def __init__(self, value):
        self.value = value

class Builder:
    def constant(self, value):
        return Expression(value)
    def operation(self, op, one, other):
        if op == trt.DimensionOperation.SUM:
            return Expression(one.value + other.value)
        assert op == trt.DimensionOperation.CEIL_DIV, op
        return Expression(-(-one.value // other.value))

trt.IDimensionExpr = Expression
_tensor.SymIntExpr._exprBuilder = Builder()
define_plugins(trtp, [kernel], ptx, lazy=True)
x = trtp.TensorDesc()
x.dtype, x.shape_expr = trt.float16, _tensor.ShapeExprs.from_tuple((_tensor.ShapeExpr(Expression(19)), 40))
definition = trtp.op.hwbench.strips
name, image, launch, scalars = definition.aot_impl_func(x, x, x, 12, 40, 20, 89, None, 8)
y = definition.register_func(x, x, x, m=12, k=40, width=20, sm=89)
print(json.dumps({"name": name.decode(), "image": image.decode(), "asked": asked,
    "grid": [launch.grid_x._expr.value, launch.grid_y._expr.value, launch.grid_z._expr.value],
    "block": launch.block_x._expr.value, "shared": launch.shared_mem._expr.value,
    "scalars": [each._expr.value for each in scalars], "kinds": [type(each).__name__ for each in scalars],
    "y": [each._expr.value for each in y.shape_expr]}))
""", libraries)  # fmt: skip
    assert (found["name"], found["image"]) == ("hwb_strips", "ptx")
    assert found["asked"] == [["strips", 8, False, 80]]  # sm_89 takes the PTX of sm_80
    assert found["grid"] == [3, 3, 1]  # 12 rows in strips of 4; 19 rows of X in tiles of 8
    assert (found["block"], found["shared"]) == (128, 0)
    assert found["scalars"] == [19, 12, 40, 20]
    assert set(found["kinds"]) == {"SymInt32"}
    assert found["y"] == [19, 12]


def test_a_definition_that_tensorrt_refuses_is_an_error_of_ours(libraries):
    """An array called 'outputs' is one of the names that TensorRT keeps for itself, as a scalar."""
    found = told("""
from hwbench.errors import EngineError
try:
    define_plugins(trtp, [strips_kernel(scalars=("outputs",))], ptx, lazy=True)
except EngineError as error:
    print(json.dumps(error.message))
""", libraries)  # fmt: skip
    assert "refuses the plugin hwbench::strips: 'outputs' is not allowed" in found


def test_the_real_plugin_class_of_version_3_can_be_made(libraries):
    found = told("""
from hwbench.sparse.tensorrt_v3 import plugin_class
made = plugin_class(trt, kernel, True, lambda *given: None)({"m": 12, "k": 40, "width": 20, "sm": 90})
fields = made.clone().get_fields_to_serialize()
print(json.dumps({"name": made.plugin_name, "fields": {one.name: int(one.data[0]) for one in fields},
                  "bases": [isinstance(made, getattr(trt, name)) for name in
                            ("IPluginV3", "IPluginV3OneCore", "IPluginV3OneBuild", "IPluginV3OneRuntime")]}))
""", libraries)  # fmt: skip
    assert found == {"name": "strips_bias", "fields": {"m": 12, "k": 40, "width": 20, "sm": 90}, "bases": [True] * 4}


def test_who_has_which_route():
    def network(*names):
        return types.SimpleNamespace(**dict.fromkeys(names))

    full = types.SimpleNamespace(INetworkDefinition=network("add_plugin_v3"), IPluginV3OneRuntime=object)
    ahead = types.SimpleNamespace(aot_impl=None, KernelLaunchParams=None)
    assert route_of(full, ahead) == "ahead-of-time"
    assert route_of(full, types.SimpleNamespace()) == "python-v3"
    assert route_of(full, None) == "python-v3"
    rtx = types.SimpleNamespace(INetworkDefinition=network(), IPluginV3OneRuntime=object)
    assert route_of(rtx, None) is None


def test_tensorrt_rtx_has_no_plugins():
    rtx = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX says so itself")
    assert route_of(rtx, getattr(rtx, "plugin", None)) is None


class FakeTensorRt(types.SimpleNamespace):
    """As much of TensorRT 10.3 as the fallback asks for."""

    def __init__(self):
        class Base:
            pass

        class Field:
            def __init__(self, name, data, kind):
                self.name, self.data, self.type = name, data, kind

        bases = ("IPluginV3", "IPluginV3OneCore", "IPluginV3OneBuild", "IPluginV3OneRuntime", "IPluginCreatorV3One")
        self.registered, self.creators = [], []
        super().__init__(
            **{name: type(name, (Base,), {}) for name in bases},
            float16="half", int32="int32", PluginField=Field, PluginFieldCollection=list,
            DimsExprs=lambda n: [None] * n, PluginFieldType=types.SimpleNamespace(INT32="i32"),
            TensorFormat=types.SimpleNamespace(LINEAR="linear"),
            get_plugin_registry=lambda: types.SimpleNamespace(register_creator=self.take),
        )  # fmt: skip

    def take(self, creator, space):
        new = (creator.name, space) not in self.registered
        self.registered.append((creator.name, space))
        self.creators.append(creator)
        return new and creator.name != "refused"


def test_the_fallback_computes_on_the_stream_it_is_given(monkeypatch):
    with_strips(monkeypatch)
    trt, cuda, rng = FakeTensorRt(), SparseGpu({"hwb_strips": strips_block}), np.random.default_rng(0)
    weight = pruned(rng, 8, 10)
    packed, kernel = Strips().pack(weight), strips_kernel()
    creator = creator_of(trt, kernel, False, DriverLaunch(Loaded(cuda, image)))
    wanted = {"m": 8, "k": 10, **packed.scalars, "sm": 90}
    assert [field.name for field in creator.field_names] == list(wanted)
    fields = [trt.PluginField(name, np.array([value], np.int32), None) for name, value in wanted.items()]
    plugin = creator.create_plugin("strips", fields, None).attach_to_context(None)
    x = rng.normal(size=(9, 10)).astype(np.float16)
    given = [x, *packed.arrays.values()]
    places = [cuda.allocate(array.nbytes) for array in given]
    for place, array in zip(places, given, strict=True):
        cuda.view(place.address, array.dtype, array.shape)[:] = array
    y = cuda.allocate(9 * 8 * 2)
    described = [types.SimpleNamespace(dims=array.shape) for array in given]
    stream = cuda.stream()
    plugin.enqueue(described, None, [int(place.address) for place in places], [int(y.address)], 0, stream.handle)
    stream.wait()
    found = cuda.view(y.address, np.float16, (9, 8))
    np.testing.assert_allclose(found, x.astype(np.float64) @ weight.T, atol=2e-2)
    assert [plugin.supports_format_combination(place, [types.SimpleNamespace(
        desc=types.SimpleNamespace(type=kind, format="linear"))] * 4, 3)
        for place, kind in enumerate(["half", "int32", "int32", "half"])] == [True] * 4  # fmt: skip
    builder = types.SimpleNamespace(constant=lambda value: value)
    assert plugin.get_output_shapes([["n", 10]], [], builder) == [["n", 8]]
    assert plugin.get_output_data_types(["half", "int32"]) == ["half"]


def test_a_creator_that_is_refused_is_an_error():
    trt = FakeTensorRt()
    assert register_classes(trt, [strips_kernel()], lambda *given: None) == ("strips", "strips_bias")
    assert trt.registered == [("strips", "hwbench"), ("strips_bias", "hwbench")]
    with pytest.raises(EngineError, match="refuses the plugin refused"):
        register_classes(trt, [strips_kernel(name="refused")], lambda *given: None)


def test_an_engine_built_and_loaded_in_one_process_registers_once_and_launches_by_the_latest():
    """TensorRT's registry refuses a name that it has; the GPU's context may be another than when it was built."""
    trt, launched = FakeTensorRt(), []
    assert register_classes(trt, [strips_kernel()], lambda *_: launched.append("build"))
    assert register_classes(trt, [strips_kernel()], lambda *_: launched.append("load")) == ("strips", "strips_bias")
    assert len(trt.registered) == 2
    plugin = trt.creators[0].create_plugin("strips", [], None)
    plugin.numbers = {"m": 8, "k": 10, "width": 4}
    plugin.enqueue([types.SimpleNamespace(dims=(3, 10))], None, [16], [16], 0, 0)
    assert launched == ["load"]
    register_classes(FakeTensorRt(), [strips_kernel()], lambda *_: launched.append("another"))
    plugin.enqueue([types.SimpleNamespace(dims=(3, 10))], None, [16], [16], 0, 0)
    assert launched == ["load", "load"]
