import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")

from hwbench.engines.litert import LiteRt
from hwbench.errors import ModelError, UsageError
from hwbench.protocols import ReadsArtefacts
from hwbench.testing.tflite import Node, Scales, Tensor, small_net, write_float, write_int8, write_tflite


def describe(path, shapes=None, batch_size=None):
    return LiteRt().describe(path, shapes or {}, batch_size)


def test_is_offered():
    engine = LiteRt()
    assert isinstance(engine, ReadsArtefacts)
    assert engine.suffixes == (".tflite",)


def test_the_facts_of_a_float_file(tmp_path):
    facts = describe(write_float(tmp_path / "net.tflite", small_net()))
    assert [(spec.name, spec.dtype, spec.shape) for spec in (*facts.inputs, *facts.outputs)] == [
        ("x", "float32", (1, 6, 6, 2)),
        ("net/y", "float32", (1, 3)),
    ]
    assert [(layer.name, layer.op) for layer in facts.layers] == [
        ("net/conv/Relu", "CONV_2D"),
        ("net/flat", "RESHAPE"),
        ("net/y", "FULLY_CONNECTED"),
    ]
    assert [layer.macs for layer in facts.layers] == [6 * 6 * 4 * 3 * 3 * 2, 0, 3 * 144]
    assert [layer.parameters for layer in facts.layers] == [4 * 3 * 3 * 2 + 4, 0, 3 * 144]
    assert facts.parameters == 508
    assert facts.weight_bytes == 4 * 508 + 2 * 4  # and the shape
    assert (facts.arithmetic, facts.files) == ("fp32", ("net.tflite",))


def test_the_facts_of_an_int8_file(tmp_path):
    facts = describe(write_int8(tmp_path / "net.tflite", small_net(), Scales()))
    assert facts.inputs[0].dtype == facts.outputs[0].dtype == "int8"
    assert facts.arithmetic == "int8"
    assert facts.parameters == 508  # a bias of int32 is no shape


class TestShapes:
    def test_an_open_axis_keeps_the_size_it_is_stored_with(self, tmp_path):
        facts = describe(write_float(tmp_path / "net.tflite", small_net(), batch=-1))
        assert facts.inputs[0].shape == (1, 6, 6, 2)

    @pytest.mark.parametrize("asked", [{"batch_size": 4}, {"shapes": {"x": (4, 6, 6, 2)}}])
    def test_an_open_axis_takes_what_is_asked(self, tmp_path, asked):
        facts = describe(write_float(tmp_path / "net.tflite", small_net(), batch=-1), **asked)
        assert facts.inputs[0].shape == (4, 6, 6, 2)
        assert facts.outputs[0].shape == (4, 3)
        assert facts.layers[0].macs == 4 * 6 * 6 * 4 * 3 * 3 * 2

    @pytest.mark.parametrize(
        ("asked", "message"),
        [
            ({"batch_size": 4}, r"--batch-size gives axis 0 of 'x' the size 4, it is fixed at 1"),
            ({"shapes": {"x": (1, 8, 8, 2)}}, r"--shapes gives axis 1 of 'x' the size 8, it is fixed at 6"),
            ({"shapes": {"x": (1, 6, 6)}}, "gives 'x' 3 axes, the file has 4"),
            ({"shapes": {"z": (1,)}}, "names 'z', which is no input"),
        ],
    )
    def test_what_does_not_fit(self, tmp_path, asked, message):
        path = write_float(tmp_path / "net.tflite", small_net())
        with pytest.raises(UsageError, match=message):
            describe(path, **asked)

    def test_two_sizes_for_the_batch(self, tmp_path):
        path = write_float(tmp_path / "net.tflite", small_net(), batch=-1)
        with pytest.raises(UsageError, match="--batch-size 2: --shapes gives 'x' the size 3"):
            describe(path, {"x": (3, 6, 6, 2)}, 2)


class TestBroken:
    def test_no_file(self, tmp_path):
        with pytest.raises(ModelError, match="No such file"):
            describe(tmp_path / "none.tflite")

    @pytest.mark.parametrize("content", [b"", b"TFL3", b"\0" * 64, b"# a model\nlayers: 3\n" * 9])
    def test_not_a_tflite(self, tmp_path, content):
        path = tmp_path / "net.tflite"
        path.write_bytes(content)
        with pytest.raises(ModelError, match=r"is no \.tflite file"):
            describe(path)

    @pytest.mark.parametrize("kept", [0.02, 0.5, 0.99])
    def test_cut_off(self, tmp_path, kept):
        path = write_float(tmp_path / "net.tflite", small_net())
        raw = path.read_bytes()
        path.write_bytes(raw[: int(len(raw) * kept)])
        with pytest.raises(ModelError, match="is broken") as refused:
            describe(path)
        assert "cut off" in refused.value.hint

    def test_a_custom_op(self, tmp_path):
        tensors = [Tensor(name=name, shape=(1, 8)) for name in ("x", "y")]
        nodes = [Node(op="CUSTOM", custom="FancyAttention", inputs=("x",), outputs=("y",))]
        path = write_tflite(tmp_path / "net.tflite", tensors, nodes, ("x",), ("y",))
        with pytest.raises(ModelError, match="needs the custom operator FancyAttention"):
            describe(path)

    def test_what_litert_cannot_prepare(self, tmp_path):
        tensors = [Tensor(name="x", shape=(1, 8)), Tensor(name="z", shape=(1, 7)), Tensor(name="y", shape=(1, 8))]
        nodes = [Node(op="ADD", inputs=("x", "z"), outputs=("y",))]
        path = write_tflite(tmp_path / "net.tflite", tensors, nodes, ("x", "z"), ("y",))
        with pytest.raises(ModelError, match="LiteRT cannot prepare"):
            describe(path)

    def test_an_input_that_is_no_number(self, tmp_path):
        tensors = [Tensor(name="x", shape=(1,), dtype="string"), Tensor(name="y", shape=(1,), dtype="string")]
        nodes = [Node(op="RESHAPE", inputs=("x",), outputs=("y",), options={"newShape": [1]})]
        path = write_tflite(tmp_path / "net.tflite", tensors, nodes, ("x",), ("y",))
        with pytest.raises(ModelError, match="input 'x' holds string elements"):
            describe(path)


def test_nodes_of_one_name_are_told_apart(tmp_path):
    tensors = [Tensor(name=name, shape=(1, 8)) for name in ("x", "a;1", "a;2")]
    nodes = [
        Node(op="ADD", inputs=("x", "x"), outputs=("a;1",)),
        Node(op="ADD", inputs=("a;1", "x"), outputs=("a;2",)),
    ]
    facts = describe(write_tflite(tmp_path / "net.tflite", tensors, nodes, ("x",), ("a;2",)))
    assert [layer.name for layer in facts.layers] == ["a#0", "a#1"]


def test_a_shared_constant_belongs_to_the_first(tmp_path):
    values = np.ones((1, 8), np.float32)
    tensors = [Tensor(name="w", shape=(1, 8), values=values)]
    tensors += [Tensor(name=name, shape=(1, 8)) for name in ("x", "a", "b")]
    nodes = [
        Node(op="ADD", inputs=("x", "w"), outputs=("a",)),
        Node(op="ADD", inputs=("a", "w"), outputs=("b",)),
    ]
    facts = describe(write_tflite(tmp_path / "net.tflite", tensors, nodes, ("x",), ("b",)))
    assert [layer.parameters for layer in facts.layers] == [8, 0]
