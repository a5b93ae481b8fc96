"""What each version of TensorRT is told, against a module with its face."""

import pytest
from fake_tensorrt import Layer, Tensor, fake_tensorrt

from hwbench.engines.tensorrt_api import adapt, version_of
from hwbench.engines.tensorrt_build import PlanRequest, build_plan
from hwbench.engines.tensorrt_options import DESCRIPTIONS, RTX_DESCRIPTIONS, BuildOptions, read_options
from hwbench.errors import EngineError, Unsupported, UsageError

VERSIONS = ("8.5.2.2", "8.6.2", "10.3.0", "10.16.2", "11.4.0.106")


def built(trt, *, options=None, flags=(), weak=("FP16",), cache=None):
    request = PlanRequest(
        graph="model.onnx", capability=(8, 7), flags=flags, weak_flags=weak,
        options=read_options(options or {}), cache=cache,
    )  # fmt: skip
    return build_plan(adapt(trt, "tensorrt"), request)


def flags(trt):
    return {flag.name for flag in trt.BuilderFlag if trt.config.flags >> int(flag) & 1}


def network_flags(trt):
    return {flag.name for flag in trt.NetworkDefinitionCreationFlag if trt.network.bits >> int(flag) & 1}


@pytest.mark.parametrize(
    ("version", "network", "weak"),
    [
        ("8.5.2.2", {"EXPLICIT_BATCH"}, {"FP16", "OBEY_PRECISION_CONSTRAINTS"}),
        ("8.6.2", {"EXPLICIT_BATCH"}, {"FP16", "OBEY_PRECISION_CONSTRAINTS"}),
        ("10.3.0", {"STRONGLY_TYPED"}, set()),
        ("11.4.0.106", {"STRONGLY_TYPED"}, set()),
    ],
)
def test_types_are_strong_where_they_can_be_and_pinned_where_not(version, network, weak):
    trt = fake_tensorrt(version)
    plan = built(trt)
    assert plan.data == b"plan"
    assert network_flags(trt) == network
    assert flags(trt) == weak  # TF32, which TensorRT sets by itself, is gone
    assert plan.settings["network_flags"] == " ".join(network)
    assert plan.settings["tensorrt"] == version


@pytest.mark.parametrize("version", VERSIONS)
def test_tf32_and_sparse_weights_are_told_in_every_version(version):
    trt = fake_tensorrt(version)
    plan = built(trt, flags=("TF32", "SPARSE_WEIGHTS"), weak=())
    assert {"TF32", "SPARSE_WEIGHTS"} <= flags(trt)
    assert {"TF32", "SPARSE_WEIGHTS"} <= set(plan.settings["flags"].split())
    built(trt, flags=("SPARSE_WEIGHTS",), options={"sparse": "off"}, weak=())
    assert "SPARSE_WEIGHTS" not in flags(trt)
    built(trt, options={"sparse": "on"}, weak=())
    assert "SPARSE_WEIGHTS" in flags(trt)


def lacking(number):
    """What a version has not, as NVIDIA's release notes tell."""
    if number < (8, 6):
        return {"level", "aux-streams", "hardware", "versions", "strip", "stream"}
    return {"strip", "stream"} if number < (10, 0) else set()


@pytest.mark.parametrize("version", VERSIONS)
def test_every_option_is_set_or_refused_by_name(version):
    """No option is passed over: what the version lacks is told, with the version."""
    given = {
        "level": "5", "timings": "4", "workspace": "64", "aux-streams": "0", "hardware": "ampere-plus",
        "versions": "yes", "refit": "yes", "strip": "yes", "stream": "yes",
    }  # fmt: skip
    told = {"versions": "VERSION_COMPATIBLE", "refit": "REFIT", "strip": "STRIP_PLAN", "stream": "WEIGHT_STREAMING"}
    plan = built(fake_tensorrt(version))
    for name, value in given.items():
        trt = fake_tensorrt(version)
        if name in lacking(trt.number):
            with pytest.raises(Unsupported, match=version):
                built(trt, options={name: value})
            continue
        built(trt, options={name: value})
        if name in told:
            assert told[name] in flags(trt)
    settings = plan.settings
    assert settings["profiling_verbosity"] == "DETAILED"
    assert settings["workspace_bytes"] == str(1 << 30)


def test_8_5_has_no_level_and_takes_its_default():
    assert "builder_optimization_level" not in built(fake_tensorrt("8.5.2")).settings
    with pytest.raises(Unsupported, match="builder_optimization_level"):
        built(fake_tensorrt("8.5.2"), options={"level": "4"})
    assert built(fake_tensorrt("8.6.1"), options={"level": "4"}).settings["builder_optimization_level"] == "4"


def test_the_timing_cache_is_read_and_kept(tmp_path):
    path = tmp_path / "deep" / "orin.cache"
    trt = fake_tensorrt("10.3.0")
    assert built(trt, cache=path).notes == ()
    assert trt.config.cache_given == b""
    assert path.read_bytes() == b"+"
    built(trt, cache=path)
    assert trt.config.cache_given == b"+"
    built(trt, cache=path, options={"cache": "off"})
    assert trt.config.cache is None
    assert "DISABLE_TIMING_CACHE" in flags(trt)
    built(trt, cache=path, options={"cache": "editable"})
    assert "EDITABLE_TIMING_CACHE" in flags(trt)


def test_a_cache_that_cannot_be_kept_is_told(tmp_path):
    (tmp_path / "file").write_text("in the way")
    notes = built(fake_tensorrt("10.3.0"), cache=tmp_path / "file" / "x.cache").notes
    assert "timing cache was not kept" in notes[0]


def dla_network(trt):
    kinds, half = trt.LayerType, trt.DataType.HALF
    x, y, z = (Tensor(name, half) for name in "xyz")
    trt.layers = [Layer("conv", kinds.CONVOLUTION, [x], [y]), Layer("act", kinds.ACTIVATION, [y], [z])]
    trt.inputs = [Tensor("x", half, (1, 3))]
    return trt


@pytest.mark.parametrize("version", ["8.5.2", "10.3.0"])
def test_dla_wants_weak_types_and_shows_what_it_leaves(version):
    trt = dla_network(fake_tensorrt(version))
    trt.dla_cores, trt.on_dla = 2, {"conv"}
    plan = built(trt, options={"dla": "1"})
    assert trt.config.DLA_core == 1
    assert trt.config.default_device_type == trt.DeviceType.DLA
    assert {"GPU_FALLBACK", "FP16"} <= flags(trt)
    assert "STRONGLY_TYPED" not in network_flags(trt)
    assert (plan.dla.dla, plan.dla.gpu) == (("conv",), ("act",))
    assert str(plan.dla) == "DLA core 1 can run 1 of 2 layers; on the GPU: act"


@pytest.mark.parametrize(("cores", "on_dla", "words"), [(0, {"conv"}, "it has none"), (2, set(), "can run no layer")])
def test_dla_is_refused_where_there_is_none(cores, on_dla, words):
    trt = dla_network(fake_tensorrt("10.3.0"))
    trt.dla_cores, trt.on_dla = cores, on_dla
    with pytest.raises(Unsupported, match=words):
        built(trt, options={"dla": "0"})


def test_on_8_products_are_held_to_half_precision_but_not_those_of_quantised_values():
    """A constraint on a convolution between DQ and Q would keep it from computing in int8."""
    trt = fake_tensorrt("8.6.2")
    kinds, single, byte = trt.LayerType, trt.DataType.FLOAT, trt.DataType.INT8
    x, q, dq, y, z = (
        Tensor(*each) for each in [("x", single), ("q", byte), ("dq", single), ("y", single), ("z", single)]
    )
    quantised = Layer("conv1", kinds.CONVOLUTION, [dq, None], [y])
    free = Layer("conv2", kinds.CONVOLUTION, [y], [z])
    softmax = Layer("softmax", kinds.ACTIVATION, [z], [z])
    trt.layers = [
        Layer("q", kinds.QUANTIZE, [x], [q]),
        Layer("dq", kinds.DEQUANTIZE, [q], [dq]),
        quantised,
        free,
        softmax,
    ]
    plan = built(trt, weak=("FP16", "INT8"))
    assert plan.settings["pinned_products"] == "1"
    assert free.precision == trt.DataType.HALF
    assert quantised.precision is softmax.precision is None
    free.precision = None
    assert built(trt, weak=("INT8",)).settings["pinned_products"] == "0"
    assert free.precision is None


def test_open_axes_need_a_range_and_get_a_profile():
    trt = fake_tensorrt("10.3.0")
    trt.inputs = [Tensor("x", trt.DataType.FLOAT, (-1, 3, 8, 8)), Tensor("scale", trt.DataType.FLOAT, (1,))]
    with pytest.raises(UsageError, match="open axes"):
        built(trt)
    plan = built(trt, options={"batch": "1:8:32"})
    assert trt.config.profiles[0].shapes == {"x": ((1, 3, 8, 8), (8, 3, 8, 8), (32, 3, 8, 8))}
    assert plan.settings["profile:x"] == "1x3x8x8 8x3x8x8 32x3x8x8"
    trt.inputs[0].shape = (-1, 3, -1, -1)
    with pytest.raises(UsageError, match="open axes"):
        built(trt, options={"batch": "1:8:32"})
    trt.inputs = [Tensor("x", trt.DataType.FLOAT, (1, 3))]
    with pytest.raises(UsageError, match="this graph has none"):
        built(trt, options={"batch": "1:8:32"})


def test_what_tensorrt_complains_of_is_the_error():
    trt = fake_tensorrt("10.3.0")
    trt.plan, trt.says = (
        None,
        [("INFO", "starting"), ("ERROR", "[e.cpp] no\n tactic for conv"), ("ERROR", "so it failed")],
    )
    with pytest.raises(EngineError, match=r"TensorRT 10\.3\.0 built no engine: \[e\.cpp\] no tactic for conv"):
        built(trt)
    trt.parses = False
    with pytest.raises(EngineError, match="cannot take the graph: node 3: no such operator"):
        built(trt)


def test_what_tensorrt_says_is_kept_and_read():
    trt = fake_tensorrt("10.3.0")
    trt.says = [
        ("WARNING", "weights of conv1 underflow"), ("WARNING", "weights of conv1 underflow"),
        ("INFO", "(Sparsity) Layers eligible for sparse math: conv1, conv2 + relu2"),
        ("INFO", "(Sparsity) TRT inference plan picked sparse implementation for layers: conv2 + relu2"),
    ]  # fmt: skip
    plan = built(trt)
    assert plan.warnings == ("weights of conv1 underflow",)
    assert plan.sparsity.eligible == ("conv1", "conv2 + relu2")
    assert plan.sparsity.picked == ("conv2 + relu2",)
    assert [line.severity for line in plan.lines] == ["WARNING", "WARNING", "INFO", "INFO"]
    trt.says = []
    again = built(trt)
    assert (again.sparsity, again.lines) == (None, ())


def test_too_old_a_version_is_refused():
    with pytest.raises(EngineError, match="older than what hwbench can speak to"):
        adapt(fake_tensorrt("8.2.1"), "tensorrt")


def test_versions_are_numbers():
    assert version_of("10.3.0") == (10, 3, 0)
    assert version_of("11.4.0.106") == (11, 4, 0, 106)
    assert version_of("8.5.2.2+jp5") == (8, 5, 2, 2)


@pytest.mark.parametrize(
    "given",
    [{"sparse": "maybe"}, {"level": "6"}, {"level": "-1"}, {"batch": "8"}, {"batch": "8:4:2"}, {"workspace": "0"},
     {"speed": "yes"}, {"versions": "true"}],
)  # fmt: skip
def test_options_that_are_wrong_are_refused(given):
    with pytest.raises(UsageError):
        read_options(given)


def test_options_have_the_defaults_of_tensorrt():
    assert read_options({}) == BuildOptions()
    assert set(RTX_DESCRIPTIONS) < set(DESCRIPTIONS)
    assert read_options({"workspace": "2", "dla": "1"}) == BuildOptions(workspace_bytes=2 << 20, dla=1)
