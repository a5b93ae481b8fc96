import msgspec
import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")

from litert_files import random_values, request_of

from hwbench.engines.litert import LiteRt, LiteRtBuiltin, LiteRtOpenVino, LiteRtWebGpu
from hwbench.errors import EngineError, Unsupported
from hwbench.records.base import Missing
from hwbench.testing import example_cpu
from hwbench.testing.tflite import Node, Scales, Tensor, small_net, write_float, write_int8, write_tflite


@pytest.fixture
def float_file(tmp_path):
    return write_float(tmp_path / "float.tflite", small_net())


def outputs_of(engine, request, inputs):
    bound = engine.load(request).compile().bind(inputs)
    bound.run()
    return bound.outputs()


@pytest.mark.parametrize("engine", [LiteRt(), LiteRtBuiltin()])
def test_runs_the_file_under_the_names_of_its_signature(tmp_path, engine):
    path = write_float(tmp_path / "net.tflite", small_net(), signature={"x": "image", "net/y": "scores"})
    request = request_of(path, tmp_path)
    inputs = random_values(request.model.inputs)
    assert list(inputs) == ["image"]
    expected = small_net().reference(inputs["image"])
    assert np.allclose(outputs_of(engine, request, inputs)["scores"], expected, rtol=1e-4, atol=1e-4)


def test_an_open_axis_takes_the_size_that_the_model_has(tmp_path):
    path = write_float(tmp_path / "net.tflite", small_net(), batch=-1)
    request = request_of(path, tmp_path, batch_size=5)
    inputs = random_values(request.model.inputs)
    expected = small_net().reference(inputs["x"])
    assert expected.shape == (5, 3)
    assert np.allclose(outputs_of(LiteRt(), request, inputs)["net/y"], expected, rtol=1e-4, atol=1e-4)


def test_inputs_stay_in_place_from_run_to_run(float_file, tmp_path):
    request = request_of(float_file, tmp_path)
    for engine in (LiteRt(), LiteRtBuiltin()):
        bound = engine.load(request).compile().bind(random_values(request.model.inputs))
        bound.run()
        first = bound.outputs()["net/y"]
        bound.run()
        assert np.array_equal(bound.outputs()["net/y"], first)


def test_an_interpreter_is_used_again_and_never_by_two(float_file, tmp_path, monkeypatch):
    request = request_of(float_file, tmp_path)
    runner = LiteRt().load(request).compile()
    made = []
    another = runner.program.another
    monkeypatch.setattr(runner.program, "another", lambda: made.append(1) or another())
    for seed in range(5):
        inputs = random_values(request.model.inputs, seed)
        bound = runner.bind(inputs)
        bound.run()
        assert np.allclose(bound.outputs()["net/y"], small_net().reference(inputs["x"]), rtol=1e-4, atol=1e-4)
        bound = None
    assert not made
    run = runner.bind(inputs).run  # whoever holds this keeps the interpreter
    other = runner.bind(random_values(request.model.inputs, 9))
    assert len(made) == 1
    run()
    assert other.interpreter is not run.func.__self__


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"z": np.ones((1, 6, 6, 2), np.float32)}, "asks for an input 'x', there are: z"),
        ({"x": np.ones((1, 6, 6, 2), np.float64)}, "LiteRT refused the inputs"),
        ({"x": np.ones((1, 6, 2), np.float32)}, "LiteRT refused the inputs"),
    ],
)
def test_inputs_that_do_not_fit(float_file, tmp_path, wrong, message):
    runner = LiteRt().load(request_of(float_file, tmp_path)).compile()
    with pytest.raises(EngineError, match=message):
        runner.bind(wrong)


def test_a_model_with_other_names_is_refused(float_file, tmp_path):
    request = request_of(float_file, tmp_path)
    (given,) = request.model.inputs
    model = msgspec.structs.replace(request.model, inputs=(msgspec.structs.replace(given, name="pixels"),))
    with pytest.raises(EngineError, match=r"no input 'pixels', it has: x"):
        LiteRt().load(type(request)(**{**vars(request), "model": model})).compile()


class TestBuilt:
    def test_what_xnnpack_took(self, float_file, tmp_path):
        built = LiteRt().load(request_of(float_file, tmp_path, threads=2)).compile().built()
        assert (built.precision, built.threads, built.execution_units) == ("fp32", 2, ("CPU (XNNPACK)",))
        assert built.settings == {"delegate": "xnnpack", "num_threads": "2"}
        assert built.partitions.parts == (("net/conv/Relu", "net/flat", "net/y"),)
        assert [layer.kernel for layer in built.layers] == ["XNNPACK"] * 3

    def test_int8(self, tmp_path):
        path = write_int8(tmp_path / "int8.tflite", small_net(), Scales())
        built = LiteRt().load(request_of(path, tmp_path)).compile().built()
        assert built.precision == "int8"
        assert {layer.precision for layer in built.layers} == {"int8"}

    def test_without_a_delegate(self, float_file, tmp_path):
        built = LiteRtBuiltin().load(request_of(float_file, tmp_path)).compile().built()
        assert built.engine == "litert-builtin"
        assert built.execution_units == ("CPU (LiteRT builtin)",)
        assert built.partitions.code == "no_delegate"

    def test_a_node_that_xnnpack_leaves(self, tmp_path):
        built = LiteRt().load(request_of(write_split(tmp_path), tmp_path)).compile().built()
        assert built.execution_units == ("CPU (XNNPACK)", "CPU (LiteRT builtin)")
        partitions = built.partitions
        assert (partitions.nodes, partitions.delegated) == (3, 2)
        assert partitions.parts == (("first",), ("last",))
        assert [(node.name, node.op, node.why.code) for node in partitions.left] == [("mod", "FLOOR_MOD", "not_told")]
        assert [layer.kernel for layer in built.layers] == ["XNNPACK", "LiteRT builtin", "XNNPACK"]

    def test_threads_are_shared_among_streams(self, float_file, tmp_path):
        built = LiteRt().load(request_of(float_file, tmp_path, threads=4, streams=2)).compile().built()
        assert (built.threads, built.settings["num_threads"]) == (4, "2")


def write_split(folder):
    """Write two additions with a remainder between them, which XNNPACK has no kernel for."""
    names = ("x", "first", "mod", "last")
    nodes = (
        Node(op="ADD", inputs=("x", "x"), outputs=("first",)),
        Node(op="FLOOR_MOD", inputs=("first", "x"), outputs=("mod",)),
        Node(op="ADD", inputs=("mod", "x"), outputs=("last",)),
    )
    tensors = [Tensor(name=name, shape=(1, 8)) for name in names]
    return write_tflite(folder / "split.tflite", tensors, nodes, ("x",), ("last",))


class TestPrecision:
    def test_what_the_file_has(self, float_file, tmp_path):
        built = LiteRt().load(request_of(float_file, tmp_path, precision="fp32")).compile().built()
        assert built.precision == "fp32"

    def test_another_than_the_file_has(self, float_file, tmp_path):
        with pytest.raises(Unsupported, match="litert was asked for int8 and built fp32"):
            LiteRt().load(request_of(float_file, tmp_path, precision="int8")).compile()

    def test_one_that_no_file_has(self, float_file, tmp_path):
        with pytest.raises(Unsupported, match="litert cannot run in fp8 here"):
            LiteRt().load(request_of(float_file, tmp_path, precision="fp8"))


class TestDelegate:
    def test_that_of_the_artefact(self, float_file, tmp_path):
        request = request_of(float_file, tmp_path, settings={"delegate": "builtin"})
        assert LiteRt().load(request).compile().built().settings["delegate"] == "builtin"

    def test_a_variant_that_was_named_wins(self, float_file, tmp_path):
        request = request_of(float_file, tmp_path, settings={"delegate": "xnnpack"})
        assert LiteRtBuiltin().load(request).compile().built().settings["delegate"] == "builtin"

    def test_one_that_there_is_not(self, float_file, tmp_path):
        request = request_of(float_file, tmp_path, settings={"delegate": "hexagon"})
        with pytest.raises(EngineError, match="no LiteRT delegate 'hexagon'") as refused:
            LiteRt().load(request)
        assert refused.value.hint == "there are: xnnpack, builtin, webgpu, openvino"


class TestSupports:
    def test_a_network_must_be_built_first(self, float_file, tmp_path):
        request = request_of(float_file, tmp_path)
        network = msgspec.structs.replace(request.model, artefact=None)
        (reason,) = LiteRt().supports(network, request.files, example_cpu()).reasons
        assert reason.code == "needs_artefact"

    def test_an_engine_of_another_runtime(self, float_file, tmp_path):
        request = request_of(float_file, tmp_path)
        artefact = msgspec.structs.replace(request.model.artefact, engine="openvino")
        other = msgspec.structs.replace(request.model, artefact=artefact)
        for engine in (LiteRt(), LiteRtBuiltin(), LiteRtWebGpu()):
            (reason,) = engine.supports(other, request.files, example_cpu()).reasons
            assert reason.code == "other_engine"

    def test_intels_plugin_wants_one_version(self, float_file, tmp_path, monkeypatch):
        request = request_of(float_file, tmp_path)
        versions = {"openvino": "2026.4.0", "ai-edge-litert": "2.3.0"}
        monkeypatch.setattr("importlib.metadata.version", versions.__getitem__)
        (reason,) = LiteRtOpenVino().supports(request.model, request.files, example_cpu()).reasons
        assert reason.code == "other_version"
        assert "needs openvino 2026.3.1, here is 2026.4.0" in reason.why
        versions["openvino"] = "2026.3.1"
        assert LiteRtOpenVino().supports(request.model, request.files, example_cpu()).usable


def test_memory_is_the_constants(float_file, tmp_path):
    told = LiteRt().load(request_of(float_file, tmp_path)).compile().memory({})
    assert told.weights_bytes == 4 * (4 * 3 * 3 * 2 + 4 + 2 + 3 * 144)
    assert isinstance(told.arena_bytes, Missing)
