"""Every name of TensorRT that hwbench uses, held against real bindings: those of 11.4 and of TensorRT-RTX.

What the sources write behind ``trt.`` is read from them; of objects that TensorRT hands out, the attributes in use are
listed below, and a new one belongs there. The bindings of 11.4 import on libraries that the test compiles
(tests/tensorrt_stubs.c); the names are the real ones.
"""

import ast
import json
from pathlib import Path

import fake_tensorrt as fake_tensorrt_module
import pytest
import tensorrt_stubs
from fake_tensorrt import fake_tensorrt, flags_of

from hwbench.engines import tensorrt_api, tensorrt_build, tensorrt_engine
from hwbench.engines.tensorrt_options import HARDWARE_LEVELS

# What is used of objects, by class. Every version from 8.5 on has it, but for what stands in NOT_EVERYWHERE.
USED: dict[str, tuple[str, ...]] = {
    "Builder": ("create_network", "create_builder_config", "create_optimization_profile", "build_serialized_network",
                "num_DLA_cores"),
    "IBuilderConfig": (
        "set_flag", "clear_flag", "flags", "set_memory_pool_limit", "get_memory_pool_limit", "profiling_verbosity",
        "avg_timing_iterations", "add_optimization_profile", "create_timing_cache", "set_timing_cache",
        "get_timing_cache", "default_device_type", "DLA_core", "can_run_on_DLA",
    ),
    "INetworkDefinition": ("num_layers", "get_layer", "num_inputs", "get_input"),
    "ILayer": ("name", "type", "precision", "num_outputs", "get_output", "num_inputs", "get_input"),
    "ITensor": ("name", "shape", "dtype"),
    "OnnxParser": ("parse_from_file", "num_errors", "get_error"),
    "ParserError": ("desc", "node"),
    "IOptimizationProfile": ("set_shape",),
    "ITimingCache": ("serialize",),
    "Runtime": ("deserialize_cuda_engine", "DLA_core"),
    "Refitter": ("refit_cuda_engine",),
    "ICudaEngine": (
        "num_io_tensors", "get_tensor_name", "get_tensor_mode", "get_tensor_dtype", "get_tensor_shape",
        "get_tensor_format", "get_tensor_location", "get_tensor_profile_shape", "num_optimization_profiles",
        "create_engine_inspector", "create_execution_context",
    ),
    "EngineInspector": ("get_engine_information",),
    "IExecutionContext": (
        "profiler", "execute_async_v3", "set_tensor_address", "set_input_shape", "get_tensor_shape",
        "set_optimization_profile_async", "active_optimization_profile",
    ),
    "IProfiler": ("report_layer_time",),
    "ILogger": ("log", "Severity"),
}  # fmt: skip
# Attributes that some versions lack, and when they are there.
NOT_EVERYWHERE: dict[str, dict[str, str]] = {
    "IBuilderConfig": {
        "builder_optimization_level": "from 8.6 on",
        "hardware_compatibility_level": "from 8.6 on",
        "max_aux_streams": "from 8.6 on",
        "num_compute_capabilities": "RTX alone",
        "set_compute_capability": "RTX alone",
    },
    "IExecutionContext": {"is_stream_capturable": "RTX alone"},
    "ILayer": {"precision": "to 10.x"},
    "Runtime": {"engine_host_code_allowed": "from 8.6 on"},
    "ICudaEngine": {
        "get_weight_streaming_automatic_budget": "from 10.1 on",
        "weight_streaming_budget_v2": "from 10.1 on",
    },
    "OnnxParserRefitter": {"refit_from_file": "from 10.0 on"},
    "ParserError": {"node_name": "from 10.0 on", "node_operator": "from 10.0 on"},
}
# Members of enumerations that only some versions have.
OLD_FLAGS = ("FP16", "INT8", "BF16", "OBEY_PRECISION_CONSTRAINTS", "PREFER_PRECISION_CONSTRAINTS")
FLAGS = (
    "TF32", "SPARSE_WEIGHTS", "GPU_FALLBACK", "REFIT", "REFIT_IDENTICAL", "STRIP_PLAN", "VERSION_COMPATIBLE",
    "WEIGHT_STREAMING", "EDITABLE_TIMING_CACHE", "DISABLE_TIMING_CACHE",
)  # fmt: skip

ENGINES = Path(tensorrt_api.__file__).parent
LISTED = """
import json, sys
import {module} as trt
found = {{"version": trt.__version__}}
for name in dir(trt):
    thing = getattr(trt, name)
    if isinstance(thing, type):
        found[name] = [each for each in dir(thing) if not each.startswith("_")]
print(json.dumps(found))
"""
ON_STUBS = """
from hwbench.engines.tensorrt_api import adapt
import tensorrt_bindings
api = adapt(tensorrt_bindings, "tensorrt")
from hwbench.errors import EngineError, Unsupported
try:
    api.builder()
except EngineError as error:
    print("builder:", error.message)
try:
    api.flag("FP16")
except Unsupported as error:
    print("flag:", error.message)
print("network:", *api.network_flags(weak=False), api.has_weak_types, api.strongly_typed)
print("bits:", *api.flag_names(1 << int(api.flag("TF32")) | 1 << int(api.flag("SPARSE_WEIGHTS"))))
"""


@pytest.fixture(scope="module")
def stubs(tmp_path_factory):
    if (why := tensorrt_stubs.why_not()) is not None:
        pytest.skip(why)
    return tensorrt_stubs.build(tmp_path_factory.mktemp("stubs"))


@pytest.fixture(scope="module")
def real(stubs):
    """Classes of the 11.4 bindings, with their attributes and members."""
    return json.loads(tensorrt_stubs.ask(LISTED.format(module="tensorrt_bindings"), stubs))


@pytest.fixture(scope="module")
def rtx():
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    return json.loads(tensorrt_stubs.ask(LISTED.format(module="tensorrt_rtx"), Path()))


def written():
    """Names that the sources write as ``trt.NAME`` or ``trt.NAME.MEMBER``, and as ``member("NAME", "MEMBER")``."""
    found = set()
    for path in sorted(ENGINES.glob("tensorrt*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                chain, inner = [node.attr], node.value
                while isinstance(inner, ast.Attribute):
                    chain.append(inner.attr)
                    inner = inner.value
                if "trt" in chain[1:]:
                    chain = chain[: chain.index("trt")]
                elif not (isinstance(inner, ast.Name) and inner.id == "trt"):
                    continue
                found.add(tuple(reversed(chain))[:2])
            elif isinstance(node, ast.Call) and getattr(node.func, "attr", None) == "member":
                told = [each.value for each in node.args if isinstance(each, ast.Constant)]
                if len(told) == 2:
                    found.add(tuple(told))
            elif isinstance(node, ast.Call) and getattr(node.func, "attr", None) == "flag":
                found |= {("BuilderFlag", each.value) for each in node.args if isinstance(each, ast.Constant)}
    return found


def absent_everywhere(name, attribute):
    return attribute in NOT_EVERYWHERE.get(name, {})


@pytest.mark.parametrize("bindings", ["real", "rtx"])
def test_attributes_that_are_used_are_there(bindings, request):
    found = request.getfixturevalue(bindings)
    absent = [
        f"{name}.{attribute}"
        for name, attributes in USED.items()
        for attribute in attributes
        if attribute not in found[name] and not absent_everywhere(name, attribute)
    ]
    assert absent == []


def test_attributes_of_some_versions_are_where_they_are_said_to_be(real, rtx):
    for name, told in NOT_EVERYWHERE.items():
        for attribute, when in told.items():
            assert (attribute in real[name]) == when.startswith("from"), (name, attribute)
            assert (attribute in rtx[name]) == (when.startswith("from") or when == "RTX alone"), (name, attribute)


def test_rtx_has_what_its_runtime_is_told(rtx):
    assert "create_runtime_config" in rtx["ICudaEngine"]
    for attribute, (kind, member) in tensorrt_engine._RUNTIME.items():
        assert attribute in rtx["IRuntimeConfig"]
        assert member in rtx[kind]
    assert tensorrt_build._NO_ALLOCATION in rtx["BuilderFlag"]


def test_flags_are_there_and_the_old_ones_gone(real, rtx):
    for found in (real, rtx):
        assert set(FLAGS) <= set(found["BuilderFlag"])
        assert not set(OLD_FLAGS) & set(found["BuilderFlag"])
        assert "STRONGLY_TYPED" in found["NetworkDefinitionCreationFlag"]
        assert set(HARDWARE_LEVELS.values()) <= set(found["HardwareCompatibilityLevel"])


def test_names_in_the_sources_are_there(real):
    """Whatever the sources write behind ``trt.``: a list by hand would be forgotten."""
    names = written()
    assert {("Builder",), ("MemoryPoolType", "WORKSPACE"), ("BuilderFlag", "TF32"), ("DeviceType", "DLA")} <= names
    absent = {
        name
        for name in names
        if name[0] not in real and not name[0].startswith("__") and name[0] != "ComputeCapability"
    }
    assert absent == set()
    members = {name for name in names if len(name) == 2 and name[0] in real and not name[1].startswith("__")}
    assert {name for name in members if name[1] not in real[name[0]]} == set()


def test_rtx_builds_for_what_is_said(rtx):
    from hwbench.quantize.nvidia import RTX_TARGETS, named

    told = {f"SM{named(target).replace('.', '')}" for target in RTX_TARGETS}
    assert told == {name for name in rtx["ComputeCapability"] if name.startswith("SM")}


def test_the_fake_has_the_flags_of_the_real_one(real):
    """Tests of 11 are only worth what the fake is like."""
    assert set(flags_of((11, 4))) <= set(real["BuilderFlag"])
    fake = fake_tensorrt("11.4.0.106")
    for name in ("ProfilingVerbosity", "MemoryPoolType", "DeviceType", "DataType", "HardwareCompatibilityLevel"):
        assert set(getattr(fake, name).__members__) <= set(real[name])
    assert set(fake.LayerType.__members__) <= set(real["LayerType"])
    builder = fake_tensorrt_module.Builder(None)
    for made, name in ((fake_tensorrt_module.Config(fake), "IBuilderConfig"), (builder, "Builder")):
        public = {each for each in (*vars(made), *vars(type(made))) if not each.startswith("_")}
        ours = {"trt", "pools", "profiles", "cache", "cache_given", "logger"}
        assert public - ours <= set(real[name])


def test_the_adapter_works_on_the_real_bindings(stubs):
    told = dict(line.split(": ", 1) for line in tensorrt_stubs.ask(ON_STUBS, stubs).splitlines())
    assert "could not make a builder" in told["builder"]
    assert told["flag"] == "TensorRT 11.4.0.106 has no BuilderFlag.FP16"
    assert told["network"] == "STRONGLY_TYPED False True"
    assert set(told["bits"].split()) == {"TF32", "SPARSE_WEIGHTS"}
