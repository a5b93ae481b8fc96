"""What each layer of a plan becomes in ONNX Runtime, and which plans are refused."""

import sys

import numpy as np
import onnx_graphs as graphs
import pytest
from onnx import TensorProto, helper

pytest.importorskip("onnxruntime", reason="lowers to ONNX Runtime")

import lowered_onnxruntime as low

from hwbench.engines.onnxruntime import OnnxRuntime
from hwbench.errors import Unsupported
from hwbench.protocols import Builds
from hwbench.records.quantization import PRECISIONS


def ops(case):
    return [node.op_type for node in case.model.graph.node]


def initializers(case):
    return {item.name: item for item in case.model.graph.initializer}


def attention():
    """Two projections, their product, a softmax, a normalisation and a GELU as torch exports it."""
    numbers = {"half": 0.5, "one": 1.0, "root": 2**0.5}
    constants = [graphs.weight(name, np.float32(number)) for name, number in numbers.items()]
    nodes = [
        helper.make_node("MatMul", ["x", "wq"], ["q0"], name="query"),
        helper.make_node("Add", ["q0", "bq"], ["q"], name="query_bias"),
        helper.make_node("MatMul", ["x", "wk"], ["k"], name="key"),
        helper.make_node("Transpose", ["k"], ["kt"], name="turn", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "kt"], ["scores"], name="scores"),
        helper.make_node("Softmax", ["scores"], ["p"], name="softmax"),
        helper.make_node("MatMul", ["p", "q"], ["context"], name="context"),
        helper.make_node("Add", ["context", "x"], ["sum"], name="residual"),
        helper.make_node("LayerNormalization", ["sum", "g", "b"], ["n"], name="norm"),
        helper.make_node("MatMul", ["n", "wu"], ["u0"], name="up"),
        helper.make_node("Add", ["u0", "bq"], ["u"], name="up_bias"),
        helper.make_node("Div", ["u", "root"], ["d"], name="gelu_div"),
        helper.make_node("Erf", ["d"], ["e"], name="gelu_erf"),
        helper.make_node("Add", ["e", "one"], ["f"], name="gelu_add"),
        helper.make_node("Mul", ["half", "f"], ["h"], name="gelu_half"),
        helper.make_node("Mul", ["u", "h"], ["a"], name="gelu"),
        helper.make_node("MatMul", ["a", "wd"], ["y"], name="down"),
    ]
    names = ("wq", "wk", "wu", "wd")
    weights = [graphs.weight(name, graphs.random_array(16, 16, seed=i) / 4) for i, name in enumerate(names)]
    weights += [graphs.weight("bq", graphs.random_array(16, seed=9)), *constants]
    weights += [graphs.weight("g", np.ones(16, np.float32)), graphs.weight("b", np.zeros(16, np.float32))]
    return graphs.model(nodes, [graphs.tensor("x", [1, 8, 16])], [graphs.tensor("y", [1, 8, 16])], weights)


def test_offers_what_the_records_know():
    assert isinstance(OnnxRuntime(), Builds)
    assert set(OnnxRuntime.schemes) <= set(PRECISIONS)


class TestStatic:
    def test_transformers_stay_float_between_their_linear_layers(self, tmp_path):
        case = low.lowered(attention(), tmp_path)
        assert case.got == {
            "query": "int8",
            "key": "int8",
            "scores": "float",
            "context": "float",
            "up": "int8",
            "down": "int8",
        }
        assert [layer.why is None for layer in case.lowered.layers] == [True, True, False, False, True, True]
        built, units = low.optimised(case, tmp_path)
        assert built.precision == "int8"
        quantised = {name for name, unit in units.items() if unit.precision == "int8"}
        assert {"query", "key", "up", "down"} <= quantised
        assert all(units[name].precision == "fp32" for name in ("scores", "context", "softmax", "norm", "gelu"))
        assert [unit.op for unit in built.layers if "gelu" in unit.members] == ["Gelu"]

    def test_it_is_close_to_the_float_graph(self, tmp_path):
        case = low.lowered(attention(), tmp_path)
        feeds = dict(np.load(tmp_path / "imported" / "inputs.npz"))
        assert low.sqnr_db(case.float_outputs(feeds)["y"], case.outputs(feeds)["y"]) > 30

    def test_an_input_that_several_layers_read_is_quantised_once(self, tmp_path):
        case = low.lowered(attention(), tmp_path, layers={"key": "float"})
        before = ops(case).count("QuantizeLinear")
        assert before == 3  # x, n, a

    def test_a_named_product_of_activations_is_quantised(self, tmp_path):
        case = low.lowered(attention(), tmp_path, layers={"scores": "int8"})
        assert case.got["scores"] == "int8"
        _, units = low.optimised(case, tmp_path)
        assert units["scores"].precision == "int8"

    def test_activations_are_unsigned_on_x86_and_weights_signed_with_a_scale_each_channel(self, tmp_path):
        case = low.lowered(graphs.convnet(), tmp_path)
        found = initializers(case)
        assert found["x_zero_point"].data_type == TensorProto.UINT8
        assert found["conv.folded_weight_zero_point"].data_type == TensorProto.INT8
        channels = found["conv.folded_weight_quantized"].dims[0]
        assert list(found["conv.folded_weight_scale"].dims) == [channels]

    def test_activations_are_signed_on_arm(self, tmp_path):
        case = low.lowered(graphs.convnet(), tmp_path, device=low.cpu(("neon", "dotprod"), "aarch64"))
        assert initializers(case)["x_zero_point"].data_type == TensorProto.INT8
        assert "activations int8" in case.lowered.notes[0]

    def test_a_layer_without_a_range_stays_float_and_says_so(self, tmp_path):
        case = low.lowered(graphs.mlp(), tmp_path, tensors={"x": low.limits(-3, 3)})
        assert case.got == {"fc1": "int8", "fc2": "float"}
        assert "no range for tensor 'r'" in case.lowered.layers[1].why

    def test_a_layer_without_a_kernel_stays_float(self, tmp_path):
        nodes = [
            helper.make_node("Conv", ["x", "w"], ["c"], name="conv"),
            helper.make_node("ConvTranspose", ["c", "t"], ["y"], name="up"),
        ]
        weights = [
            graphs.weight("w", graphs.random_array(4, 3, 3, 3)),
            graphs.weight("t", graphs.random_array(4, 3, 2, 2)),
        ]
        made = graphs.model(nodes, [graphs.tensor("x", [1, 3, 8, 8])], [graphs.tensor("y", [1, 3, 7, 7])], weights)
        case = low.lowered(made, tmp_path)
        assert case.got == {"conv": "int8", "up": "float"}
        assert "no int8 kernel for ConvTranspose" in case.lowered.layers[1].why


class TestOtherSchemes:
    @pytest.mark.parametrize(
        ("plan", "op", "db"),
        [
            ("int8-dynamic", "DynamicQuantizeMatMul", 30),
            ("int8-weights", "MatMulNBits", 30),
            ("int4-weights", "MatMulNBits", 10),
        ],
    )
    def test_linear_layers_of_every_form(self, tmp_path, plan, op, db):
        case = low.lowered(graphs.mlp(batch=4), tmp_path, plan)
        assert [name for name in ops(case) if name != "Relu"] == [op, op]
        assert case.got == {"fc1": plan, "fc2": plan}
        feeds = dict(np.load(tmp_path / "imported" / "inputs.npz"))
        assert low.sqnr_db(case.float_outputs(feeds)["y"], case.outputs(feeds)["y"]) > db

    def test_weights_take_the_room_of_their_bits(self, tmp_path):
        nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="only")]
        weights = [graphs.weight("w", graphs.random_array(256, 256))]
        made = graphs.model(nodes, [graphs.tensor("x", [1, 256])], [graphs.tensor("y", [1, 256])], weights)
        sizes = {}
        for plan in ("float", "int8-weights", "int4-weights"):
            (tmp_path / plan).mkdir()
            low.lowered(made, tmp_path / plan, plan)
            sizes[plan] = (tmp_path / plan / "lowered" / "model.onnx").stat().st_size
        assert sizes["int8-weights"] / sizes["float"] == pytest.approx(1 / 4, rel=0.1)
        assert sizes["int4-weights"] / sizes["float"] == pytest.approx(1 / 8 + 1 / 32, rel=0.1)  # a scale a block of 32

    def test_convolutions_stay_float(self, tmp_path):
        made = graphs.convnet()
        with pytest.raises(Unsupported, match=r"no layer of this model in int8-dynamic: .*ConvInteger"):
            low.lowered(made, tmp_path, "int8-dynamic")

    def test_a_mixture(self, tmp_path):
        layers = {"key": "int8-dynamic", "up": "int4-weights", "down": "int8-weights"}
        case = low.lowered(attention(), tmp_path, layers=layers)
        assert case.got == {"query": "int8", "scores": "float", "context": "float", **layers}
        assert ops(case).count("MatMulNBits") == 2
        _, units = low.optimised(case, tmp_path)
        assert {name: units[name].op for name in ("query", "key", "up", "down")} == {
            "query": "QGemm",
            "key": "DynamicQuantizeMatMul",
            "up": "MatMulNBits",
            "down": "MatMulNBits",
        }
        feeds = dict(np.load(tmp_path / "imported" / "inputs.npz"))
        assert low.sqnr_db(case.float_outputs(feeds)["y"], case.outputs(feeds)["y"]) > 12

    def test_float_changes_no_layer(self, tmp_path):
        case = low.lowered(graphs.mlp(), tmp_path, "float")
        assert (case.lowered.layers, case.lowered.arithmetic) == ((), "fp32")
        feeds = dict(np.load(tmp_path / "imported" / "inputs.npz"))
        np.testing.assert_allclose(case.outputs(feeds)["y"], case.float_outputs(feeds)["y"], rtol=1e-6)


class TestRefused:
    def test_packed_weights_where_onnxruntime_is_too_old(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "onnxruntime.quantization.matmul_nbits_quantizer", None)
        with pytest.raises(Unsupported, match="no tool to pack weights") as caught:
            low.lowered(graphs.mlp(), tmp_path, "int4-weights")
        assert "upgrade onnxruntime" in caught.value.hint

    @pytest.mark.parametrize("floating", ["fp16", "bf16"])
    def test_half_precision(self, tmp_path, floating):
        with pytest.raises(Unsupported, match=f"cannot compute in {floating}"):
            low.lowered(graphs.mlp(), tmp_path, "float", floating=floating)

    @pytest.mark.parametrize("more", [{"plan": "fp8"}, {"plan": "float", "floating": "tf32"}])
    def test_what_only_gpus_have(self, tmp_path, more):
        with pytest.raises(Unsupported, match="no CPU has it"):
            low.lowered(graphs.mlp(), tmp_path, **more)

    def test_a_named_layer_that_cannot(self, tmp_path):
        with pytest.raises(Unsupported, match=r"layer 'conv' in int4-weights: .*linear layers only"):
            low.lowered(graphs.convnet(), tmp_path, "float", layers={"conv": "int4-weights"})

    def test_a_named_layer_that_carries_no_scheme(self, tmp_path):
        with pytest.raises(Unsupported, match="layer 'relu' in int8: it is a Relu"):
            low.lowered(graphs.mlp(), tmp_path, "float", layers={"relu": "int8"})

    def test_a_named_layer_that_is_not_there(self, tmp_path):
        with pytest.raises(Unsupported, match="layer 'nothing' in int8: it is not in the graph"):
            low.lowered(graphs.mlp(), tmp_path, "int8", layers={"nothing": "int8"})


@pytest.mark.parametrize("plan", ["int8", "int8-dynamic", "int4-weights", "float"])
def test_the_same_bytes_again(tmp_path, plan):
    written = []
    for folder in (tmp_path / "first", tmp_path / "second"):
        folder.mkdir()
        case = low.lowered(attention(), folder, plan)
        written.append((folder / "lowered" / "model.onnx").read_bytes())
        assert case.lowered.same_bytes is True
    assert written[0] == written[1]


def test_the_file_says_nothing_of_where_it_was_made(tmp_path):
    made = attention()
    for node in made.graph.node:
        node.doc_string = "/home/somebody/net.py:12"
        node.metadata_props.add(key="pkg.torch.onnx.stack_trace", value="/home/somebody/net.py:12")
    low.lowered(made, tmp_path)
    assert b"somebody" not in (tmp_path / "lowered" / "model.onnx").read_bytes()
