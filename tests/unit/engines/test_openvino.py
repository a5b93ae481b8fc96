import msgspec
import numpy as np
import pytest

from hwbench.engines.openvino import OpenVino
from hwbench.errors import EngineError
from hwbench.testing import example_cpu

INPUT = np.linspace(-1, 1, 32 * 32, dtype=np.float32).reshape(32, 32)


@pytest.fixture
def engine():
    pytest.importorskip("openvino")
    engine = OpenVino()
    engine.start()
    return engine


@pytest.fixture
def runner(engine, loop_request):
    return engine.load(loop_request).compile()


def test_what_has_no_primitive_is_profiled_too(runner):
    profile = runner.profile_layers({"x": INPUT}, 10)
    times = {name: times for times in profile.units for name in times.unit.members}
    # Where the relu stays under a microsecond the counters never show it, and the loop's unit stands for both.
    assert set(times) == {"relu", "loop"}
    assert all(len(unit.times_s) == 10 for unit in profile.units)


def test_inputs_are_kept_while_they_are_bound(runner):
    bound = runner.bind({"x": INPUT.copy()})
    filler = [np.full((32, 32), 7, np.float32) for _ in range(200)]  # would take the place of a freed input
    bound.run()
    assert np.allclose(bound.outputs()["y"], np.maximum(INPUT, 0))
    assert len(filler) == 200


def test_a_missing_input_is_named(runner):
    with pytest.raises(EngineError, match="asks for an input 'x', there are: z"):
        runner.bind({"z": INPUT})


def test_an_input_of_another_shape_is_refused(runner):
    with pytest.raises(EngineError, match="OpenVINO refused the inputs"):
        runner.bind({"x": np.ones((3, 3), np.float32)})


def test_settings_are_read_back(runner):
    built = runner.built()
    assert built.settings["PERFORMANCE_HINT"] == "LATENCY"
    assert built.settings["INFERENCE_PRECISION_HINT"] == "f32"
    assert (built.threads, built.precision, built.execution_units) == (1, "fp32", ("CPU",))


@pytest.mark.parametrize("precision", ["auto", "int8"])
def test_the_precision_is_that_of_most_multiply_adds(engine, quantised_request, precision):
    built = engine.load(quantised_request(precision)).compile().built()
    assert built.precision == "int8"
    assert built.settings["INFERENCE_PRECISION_HINT"] != "i8"  # the hint does not tell


def test_a_quantised_graph_is_not_run_as_fp32(engine, quantised_request):
    with pytest.raises(EngineError, match="asked for fp32 and built int8"):
        engine.load(quantised_request("fp32")).compile()


def test_auto_is_measured_where_the_cpu_has_bf16():
    plain = example_cpu()
    has_bf16 = msgspec.structs.replace(plain, cpu=msgspec.structs.replace(plain.cpu, isa=("avx2", "amx_bf16")))
    assert OpenVino().precisions(plain) == ("fp32",)
    assert OpenVino().precisions(has_bf16) == ("fp32", "auto")


def test_is_for_the_cpu(loop_request):
    support = OpenVino().supports(loop_request.model, loop_request.files, example_cpu(name="phone", kind="android"))
    assert [reason.code for reason in support.reasons] == ["wrong_device"]
