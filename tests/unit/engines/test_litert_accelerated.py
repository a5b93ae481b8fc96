"""The accelerators: what their logs say, and the GPU's where there is a Vulkan driver, if only a software one."""

import os

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")

from litert_files import random_values, request_of

from hwbench.engines.litert import LiteRt, LiteRtOpenVino, LiteRtWebGpu
from hwbench.engines.litert_accelerated import Log
from hwbench.engines.litert_file import read_tflite
from hwbench.engines.litert_partitions import accelerator_partitions, adapter_in, taken_by_accelerator
from hwbench.errors import EngineError
from hwbench.records.base import Missing
from hwbench.testing.tflite import Node, Tensor, small_net, write_float, write_tflite

PARTLY = """\
I0000 00:00:1.5     703 environment.cc:532] Selected adapter: SwiftShader Device (Subzero), arch=swiftshader, \
vendor=google, backend=Vulkan, adapterType=CPU / Software
ERROR: [somewhere.cc:1] Not about nodes
ERROR: Following operations are not supported by GPU delegate:
RESHAPE: Tensor dimensions must be less than 5. net.Block;10
SLICE: Slicing is unsupported for input with rank > 4
2 operations will run on the GPU, and the remaining 1 operations will run on the CPU.
I0000 00:00:1.5    2101 delegate_kernel.cc:984] Initializing WebGPU-based API from graph.
"""
NPU = """\
INFO: [compiler_plugin.cc:742] Partitioned subgraph<0>, selected 3 ops, from a total of 3 ops. resulted in 1 partitions.
INFO: [compiled_model.cc:1397] 1 compiler plugins were applied successfully: IntelOpenVINO compiler plugin (ver 0.1.0)
"""
MEMBERS = (("conv",), ("flat",), ("fc",))


@pytest.fixture
def nodes(tmp_path):
    return read_tflite(write_float(tmp_path / "net.tflite", small_net())).nodes


class TestLogs:
    def test_the_adapter(self):
        adapter = adapter_in(PARTLY)
        assert adapter.name == "SwiftShader Device (Subzero)"
        assert adapter.software
        real = PARTLY.replace("CPU / Software", "Discrete GPU")
        assert not adapter_in(real).software
        assert adapter_in("nothing") is None

    def test_a_part_of_the_nodes(self, nodes):
        assert taken_by_accelerator(PARTLY, 3) == 2
        found = accelerator_partitions("WebGPU", 2, PARTLY, nodes, MEMBERS)
        assert (found.nodes, found.delegated) == (3, 2)
        assert isinstance(found.parts, Missing)
        assert "left 1 nodes and does not say which; it cannot run: RESHAPE: Tensor dimensions" in found.left.why
        assert found.left.why.endswith("SLICE: Slicing is unsupported for input with rank > 4")

    def test_all_nodes(self, nodes):
        whole = "delegate_kernel.cc:984] Initializing WebGPU-based API from graph."
        assert taken_by_accelerator(whole, 3) == 3
        found = accelerator_partitions("WebGPU", 3, whole, nodes, MEMBERS)
        assert (found.parts, found.left) == ((("conv", "flat", "fc"),), ())

    def test_a_plugin_of_a_vendor(self):
        assert taken_by_accelerator(NPU, 3) == 3

    def test_a_plugin_that_was_not_applied(self):
        assert taken_by_accelerator(NPU.partition("INFO: [compiled_model")[0], 3) == 0

    def test_nothing_told(self):
        assert taken_by_accelerator("Created TensorFlow Lite XNNPACK delegate for CPU.", 3) == 0

    def test_what_native_code_writes_is_caught_and_passed_on(self, capfd):
        log = Log()

        def fail():
            with log.captured():
                os.write(2, b"from below\n")
                raise RuntimeError

        with pytest.raises(RuntimeError):
            fail()
        assert log.text == "from below\n"
        os.write(2, b"after\n")
        assert capfd.readouterr().err == "from below\nafter\n"


@pytest.mark.parametrize("precision", ["int8", "bf16"])
def test_precisions_that_an_accelerator_does_not_keep(tmp_path, precision):
    request = request_of(write_float(tmp_path / "net.tflite", small_net()), tmp_path, precision=precision)
    for engine in (LiteRtWebGpu(), LiteRtOpenVino()):
        with pytest.raises(EngineError, match=f"cannot run in {precision} here"):
            engine.load(request)


def test_a_plugin_that_does_not_load_is_no_silent_cpu_run(tmp_path, monkeypatch):
    """Without OpenVINO's libraries LiteRT runs the model with XNNPACK and says so in its log alone."""
    monkeypatch.setattr("hwbench.engines.litert_accelerated._load_openvino", lambda: None)
    if not LiteRtOpenVino().installed().usable:
        request = request_of(write_float(tmp_path / "net.tflite", small_net()), tmp_path)
        with pytest.raises(EngineError, match="took no node of the model"):
            LiteRtOpenVino().load(request).compile()


class TestWebGpu:
    def test_a_software_gpu_says_so(self, vulkan, tmp_path):
        request = request_of(write_float(tmp_path / "net.tflite", small_net()), tmp_path)
        runner = LiteRtWebGpu().load(request).compile()
        bound = runner.bind(inputs := random_values(request.model.inputs))
        bound.run()
        assert np.allclose(bound.outputs()["net/y"], small_net().reference(inputs["x"]), rtol=1e-3, atol=1e-3)
        built = runner.built()
        assert built.partitions.delegated == 3
        assert built.execution_units[0].startswith("WebGPU: ")
        if "swiftshader" in vulkan:
            assert built.settings["adapter_type"] == "software"
            assert "times mean nothing" in built.notes[-1]
        assert runner.profile_layers(inputs, 5).code == "not_offered"

    def test_what_it_cannot_run_stays_on_the_cpu(self, vulkan, tmp_path):
        request = request_of(write_rank_five(tmp_path), tmp_path)
        inputs = random_values(request.model.inputs)
        runner = LiteRtWebGpu().load(request).compile()
        bound = runner.bind(inputs)
        bound.run()
        expected = LiteRt().load(request).compile().bind(inputs)
        expected.run()
        assert np.allclose(bound.outputs()["y"], expected.outputs()["y"], atol=1e-3)
        built = runner.built()
        assert 0 < built.partitions.delegated < built.partitions.nodes
        assert "dimensions must be less than 5" in built.partitions.left.why
        assert built.execution_units[1] == "LiteRT CPU"

    def test_fp32_is_what_it_is_asked_for(self, vulkan, tmp_path):
        path = write_float(tmp_path / "net.tflite", small_net())
        engine = LiteRtWebGpu()
        assert engine.load(request_of(path, tmp_path, precision="fp32")).compile().built().precision == "fp32"
        left = engine.load(request_of(path, tmp_path)).compile().built()
        assert left.precision == "auto"
        assert "does not tell" in left.notes[0]


def write_rank_five(folder):
    """Write a product, a view of five axes and back, and another product."""
    chance = np.random.default_rng(0)
    weights = chance.standard_normal((8, 8), dtype=np.float32)
    tensors = [
        Tensor(name="x", shape=(1, 8)),
        Tensor(name="w", shape=(8, 8), values=weights),
        Tensor(name="a", shape=(1, 8)),
        Tensor(name="five", shape=(1, 1, 2, 2, 2)),
        Tensor(name="to", shape=(5,), dtype="int32", values=np.array([1, 1, 2, 2, 2], np.int32)),
        Tensor(name="back", shape=(2,), dtype="int32", values=np.array([1, 8], np.int32)),
        Tensor(name="b", shape=(1, 8)),
        Tensor(name="y", shape=(1, 8)),
    ]
    nodes = [
        Node(op="FULLY_CONNECTED", inputs=("x", "w"), outputs=("a",)),
        Node(op="RESHAPE", inputs=("a", "to"), outputs=("five",)),
        Node(op="RESHAPE", inputs=("five", "back"), outputs=("b",)),
        Node(op="FULLY_CONNECTED", inputs=("b", "w"), outputs=("y",)),
    ]
    return write_tflite(folder / "five.tflite", tensors, nodes, ("x",), ("y",))
