import re
import time
from pathlib import Path

import numpy as np
import pytest

from hwbench.engines.onnxruntime import OnnxRuntime, read_profile
from hwbench.errors import EngineError
from hwbench.records.base import Missing
from hwbench.testing import example_cpu

MS = 1000  # the profile is in microseconds


def node(name, ts, dur, op="Conv"):
    args = {"op_name": op, "provider": "CPUExecutionProvider", "output_type_shape": [{"float": [1, 4]}]}
    return {"cat": "Node", "name": f"{name}_kernel_time", "ts": ts, "dur": dur, "args": args}


def run(ts, dur):
    return {"cat": "Session", "name": "model_run", "ts": ts, "dur": dur}


@pytest.fixture
def engine():
    pytest.importorskip("onnxruntime")
    engine = OnnxRuntime()
    engine.start()
    return engine


@pytest.fixture
def relu_request(build_request):
    onnx = pytest.importorskip("onnx")

    def make(kind="FLOAT", **keywords):
        number = getattr(onnx.TensorProto, kind)
        nodes = [onnx.helper.make_node("Add", ["x", "x"], ["y"], name="double")]
        return build_request(nodes, [("x", number, [2, 3])], [("y", number, [2, 3])], **keywords)

    return make


class TestReadProfile:
    def test_one_time_a_node_and_run_without_the_warm_up(self, relu_request):
        events = []
        for number in range(5):
            start = number * 10 * MS
            events += [run(start, 9 * MS), node("double", start + 1, 10 * number), node("other", start + 5 * MS, 7)]
        profile = read_profile(events, relu_request(), skip=2, end_to_end_s=[0.011, 0.012, 0.013])
        times = {unit.unit.name: unit.times_s for unit in profile.units}
        assert times == {"double": pytest.approx((20e-6, 30e-6, 40e-6)), "other": pytest.approx((7e-6,) * 3)}
        assert profile.end_to_end_s == (0.011, 0.012, 0.013)  # from outside, not the profiler's 9 ms
        double = profile.units[0].unit
        assert (double.members, double.precision, double.kernel) == (("double",), "fp32", "CPUExecutionProvider/Conv")

    def test_a_node_below_the_resolution_is_there(self, relu_request):
        events = [run(0, 1000), node("double", 510, 0), node("late", 510, 40)]
        profile = read_profile(events, relu_request(), skip=0, end_to_end_s=[1e-3])
        assert {unit.unit.name: unit.times_s[0] for unit in profile.units} == pytest.approx(
            {"double": 0, "late": 40e-6}
        )

    def test_a_node_that_ran_in_some_runs_only_took_nothing_in_the_others(self, relu_request):
        events = [run(0, 100), run(200, 100), node("sometimes", 210, 50)]
        (unit,) = read_profile(events, relu_request(), skip=0, end_to_end_s=[1e-4, 1e-4]).units
        assert unit.times_s == pytest.approx((0.0, 50e-6))

    def test_an_empty_profile_is_an_error(self, relu_request):
        with pytest.raises(EngineError, match="no complete run"):
            read_profile([run(0, 10)], relu_request(), skip=1, end_to_end_s=[1e-5])

    def test_a_profile_that_was_cut_short_keeps_the_runs_it_has(self, relu_request):
        events = [run(0, 10), node("double", 1, 5), run(20, 10), node("double", 21, 6)]
        profile = read_profile(events, relu_request(), skip=1, end_to_end_s=[2e-5, 3e-5])
        assert profile.end_to_end_s == (2e-5,)
        assert profile.units[0].times_s == pytest.approx((6e-6,))


class TestPrecision:
    def test_of_the_graph(self, engine, relu_request):
        runner = engine.load(relu_request("FLOAT16", precision="auto")).compile()
        assert runner.built().precision == "fp16"
        assert "only in the layer table" in runner.built().notes[0]

    def test_another_is_not_run_in_its_place(self, engine, relu_request):
        with pytest.raises(EngineError, match="asked for fp32 and built fp64"):
            engine.load(relu_request("DOUBLE")).compile()

    def test_of_a_graph_without_floats(self, engine, relu_request):
        built = engine.load(relu_request("INT64")).compile().built()
        assert (built.precision, built.notes) == ("fp32", ())

    @pytest.mark.parametrize("precision", ["auto", "int8"])
    def test_of_a_quantised_graph(self, engine, quantised_request, precision):
        assert engine.load(quantised_request(precision)).compile().built().precision == "int8"

    def test_a_quantised_graph_is_not_run_as_fp32(self, engine, quantised_request):
        with pytest.raises(EngineError, match="asked for fp32 and built int8"):
            engine.load(quantised_request("fp32")).compile()


def test_loops_are_timed_once(engine, loop_request):
    profile = engine.load(loop_request).compile().profile_layers({"x": np.ones((32, 32), np.float32)}, 10)
    assert {times.unit.name: times.unit.members for times in profile.units} == {"relu": ("relu",), "loop": ("loop",)}
    assert all(len(times.times_s) == 10 for times in profile.units)
    for number, whole in enumerate(profile.end_to_end_s):
        assert sum(times.times_s[number] for times in profile.units) <= whole


def threads_here():
    return int(re.search(r"^Threads:\s+(\d+)", Path("/proc/self/status").read_text(), re.MULTILINE)[1])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="counts threads in /proc")
@pytest.mark.parametrize(("threads", "streams"), [(4, 1), (4, 2), (4, 4), (1, 1)])
def test_callers_and_pool_together_are_the_threads_asked_for(engine, relu_request, threads, streams):
    request = relu_request(threads=threads, streams=streams)
    before = threads_here()
    runner = engine.load(request).compile()
    assert threads_here() - before + streams == threads
    assert runner.built().threads == threads


def test_the_end_to_end_times_are_seen_from_outside(engine, loop_request, monkeypatch):
    runner = engine.load(loop_request).compile()
    bind = runner.bind

    def slow(inputs):
        bound = bind(inputs)
        run = bound.run
        bound.run = lambda: (time.sleep(0.01), run())
        return bound

    monkeypatch.setattr(runner, "bind", slow)
    profile = runner.profile_layers({"x": np.ones((32, 32), np.float32)}, 4)
    assert len(profile.end_to_end_s) == 4
    assert min(profile.end_to_end_s) >= 0.01  # the profiler's own model_run does not see the wait


def test_settings_and_threads_are_told(engine, relu_request):
    built = engine.load(relu_request()).compile().built()
    assert built.threads == 1
    assert built.settings["intra_op_num_threads"] == "1"
    assert built.settings["graph_optimization_level"] == "ORT_ENABLE_ALL"
    assert built.execution_units == ("CPUExecutionProvider",)
    assert isinstance(built.layers, Missing)


def test_a_damaged_file_is_refused_in_its_own_words(engine, relu_request, tmp_path):
    request = relu_request()
    (tmp_path / "imported" / "model.onnx").write_bytes(b"\x00" * 100)
    with pytest.raises(EngineError, match="ONNX Runtime refused the model: "):
        engine.load(request).compile()


def test_is_for_the_cpu(relu_request):
    request = relu_request()
    (reason,) = OnnxRuntime().supports(request.model, request.files, example_cpu(name="cuda:0", kind="nvidia")).reasons
    assert reason.code == "wrong_device"
    assert "cuda:0" in reason.why
