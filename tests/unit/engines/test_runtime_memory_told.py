"""What the installed runtimes say about their memory, held against models whose sizes are known."""

from __future__ import annotations

import numpy as np
import pytest

from hwbench.engines.onnxruntime import OnnxRuntime
from hwbench.engines.onnxruntime_memory import read_memory
from hwbench.engines.openvino import OpenVino
from hwbench.engines.torch_memory import highest, torch_memory
from hwbench.records.base import Missing

ROWS, INNER, WIDTH = 64, 512, 1024
WEIGHTS_BYTES = 4 * (INNER * WIDTH + WIDTH * 16)
HIDDEN_BYTES = 4 * ROWS * WIDTH


@pytest.fixture
def dense(build_request):
    """x (64 x 512) times w (512 x 1024), Relu, times v (1024 x 16)."""
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto
    chance = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="first"),
        helper.make_node("Relu", ["h"], ["r"], name="relu"),
        helper.make_node("MatMul", ["r", "v"], ["y"], name="second"),
    ]
    weights = {
        "w": chance.standard_normal((INNER, WIDTH), dtype=np.float32),
        "v": chance.standard_normal((WIDTH, 16), dtype=np.float32),
    }
    return build_request(nodes, [("x", kind.FLOAT, [ROWS, INNER])], [("y", kind.FLOAT, [ROWS, 16])], weights)


@pytest.fixture
def x():
    return {"x": np.ones((ROWS, INNER), np.float32)}


def built(engine, request):
    if not engine.installed().usable:
        pytest.skip(f"{engine.name} is not installed")
    engine.start()
    return engine.load(request).compile()


class TestOnnxRuntime:
    def test_of_a_model_whose_sizes_are_known(self, dense, x):
        runner = built(OnnxRuntime(), dense)
        told = runner.memory(x)
        if isinstance(told.arena_bytes, Missing):
            pytest.skip(told.arena_bytes.why)
        assert WEIGHTS_BYTES <= told.weights_bytes < 1.5 * WEIGHTS_BYTES, "packed: padded, not doubled"
        assert HIDDEN_BYTES <= told.activations_bytes < 3 * HIDDEN_BYTES
        assert told.workspace_bytes >= 0
        assert told.arena_bytes >= told.activations_bytes
        assert runner.memory(x) == told, "asking twice gives one answer"
        runner.close()

    def test_weights_that_are_only_read_lie_outside_the_arena(self, build_request):
        onnx = pytest.importorskip("onnx")
        helper, kind = onnx.helper, onnx.TensorProto
        table = np.random.default_rng(0).standard_normal((1000, 256), dtype=np.float32)
        nodes = [
            helper.make_node("Gather", ["t", "i"], ["a"], name="one"),
            helper.make_node("Gather", ["t", "j"], ["b"], name="two"),
            helper.make_node("Add", ["a", "b"], ["y"], name="sum"),
        ]
        inputs = [("i", kind.INT64, [5]), ("j", kind.INT64, [5])]
        runner = built(OnnxRuntime(), build_request(nodes, inputs, [("y", kind.FLOAT, [5, 256])], {"t": table}))
        told = runner.memory({"i": np.arange(5), "j": np.arange(5)})
        if isinstance(told.arena_bytes, Missing):
            pytest.skip(told.arena_bytes.why)
        assert told.weights_bytes == table.nbytes, "a table that two kernels share counts once"
        assert told.activations_bytes >= 2 * 5 * 256 * 4


class TestProfile:
    """Events as ONNX Runtime 1.32 writes them."""

    @staticmethod
    def kernel(name, ts, in_use, delta, *, peak=0, held=4096, parameters=0):
        sizes = {"mem_bytes_in_use": in_use, "mem_in_use_delta": delta, "mem_in_use_peak": max(peak, in_use)}
        args = {**sizes, "mem_arena_held": held, "parameter_size": parameters}
        return {"name": f"{name}_kernel_time", "ts": ts, "args": {key: str(value) for key, value in args.items()}}

    @staticmethod
    def graph(**nodes):
        onnx = pytest.importorskip("onnx")
        helper = onnx.helper
        weights = [onnx.numpy_helper.from_array(np.zeros(250, np.float32), name) for name in ("w", "v")]
        made = [helper.make_node("Some", inputs, [f"{name}_out"], name=name) for name, inputs in nodes.items()]
        return helper.make_graph(made, "g", [], [], weights)

    def test_the_parts_add_up_to_the_peak(self):
        events = [
            self.kernel("b", 20, 1500, 200, peak=1900),
            self.kernel("a", 10, 1300, 300),  # 1000 were there before
            self.kernel("a", 30, 1700, 0, peak=1900),
        ]
        told = read_memory(events, self.graph(a=["x"], b=["a_out"]))
        assert (told.weights_bytes, told.activations_bytes, told.workspace_bytes) == (1000, 700, 200)
        assert told.weights_bytes + told.activations_bytes + told.workspace_bytes == 1900
        assert told.arena_bytes == 4096

    def test_shared_weights_count_once(self):
        events = [self.kernel("a", 1, 10, 10, parameters=1000), self.kernel("b", 2, 20, 10, parameters=2000)]
        assert read_memory(events, self.graph(a=["w"], b=["w", "v"])).weights_bytes == 2000

    def test_which_of_shared_weights_are_packed_is_not_guessed(self):
        events = [self.kernel("a", 1, 10, 10, parameters=1000), self.kernel("b", 2, 20, 10, parameters=1000)]
        assert isinstance(read_memory(events, self.graph(a=["w"], b=["w", "v"])).weights_bytes, Missing)

    def test_an_older_version_tells_nothing(self):
        events = [{"name": "a_kernel_time", "ts": 1, "args": {"parameter_size": "1000"}}]
        told = read_memory(events, self.graph(a=["w"]))
        for value in (told.weights_bytes, told.activations_bytes, told.workspace_bytes, told.arena_bytes):
            assert value.code == "not_told"
            assert "upgrade" in value.cure


def test_openvino_tells_the_constants_and_nothing_else(dense, x):
    told = built(OpenVino(), dense).memory(x)
    assert WEIGHTS_BYTES <= told.weights_bytes < WEIGHTS_BYTES + 1000
    for value in (told.activations_bytes, told.workspace_bytes, told.arena_bytes):
        assert value.code == "not_told"


class TestTorch:
    def test_of_a_module_whose_sizes_are_known(self, x):
        torch = pytest.importorskip("torch")
        first, last = torch.nn.Linear(INNER, WIDTH, bias=False), torch.nn.Linear(WIDTH, 16, bias=False)
        module = torch.nn.Sequential(first, torch.nn.ReLU(), last)
        tensor = torch.from_numpy(x["x"])

        def run():
            with torch.inference_mode():
                return module(tensor)

        run()
        told = torch_memory(module, run)
        assert told.weights_bytes == WEIGHTS_BYTES
        assert 2 * HIDDEN_BYTES <= told.activations_bytes < 3 * HIDDEN_BYTES, "before and after the ReLU"

    def test_tied_weights_count_once(self, x):
        torch = pytest.importorskip("torch")
        one = torch.nn.Linear(8, 8, bias=False)
        two = torch.nn.Linear(8, 8, bias=False)
        two.weight = torch.nn.Parameter(one.weight.detach())
        assert torch_memory(torch.nn.Sequential(one, two), lambda: torch.ones(3)).weights_bytes == 8 * 8 * 4

    def test_the_highest_sum(self):
        assert highest([5, 3, -5, 4, -7]) == 8
        assert highest([-5, 5]) == 0
        assert isinstance(highest([]), Missing)
