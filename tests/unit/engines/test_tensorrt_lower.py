"""What each layer of a plan gets, and where the pairs of QuantizeLinear and DequantizeLinear lie."""

import numpy as np
import onnx_graphs as graphs
import pytest
from onnx import TensorProto

pytest.importorskip("onnxruntime", reason="runs the graphs")

import tensorrt_lowering as low
from tensorrt_lowering import net, small_cnn

from hwbench.errors import Unsupported

PADDED = {"pads": [1, 1, 1, 1]}


def attention():
    """Two products with weights, and one of two activations."""
    return net(
        [
            ("MatMul", "x wq", "query"),
            ("MatMul", "x wk", "key"),
            ("Transpose", "key", "turned", {"perm": [0, 2, 1]}),
            ("MatMul", "query turned", "scores"),
            ("Softmax", "scores", "y"),
        ],
        {"wq": graphs.random_array(64, 128) / 8, "wk": graphs.random_array(64, 128, seed=1) / 8},
        {"x": [2, 6, 64]},
        {"y": [2, 6, 6]},
    )


class TestInt8:
    def test_pairs_lie_at_inputs_and_weights(self, tmp_path):
        case = low.lowered(small_cnn(), tmp_path, "int8")
        assert set(case.got.values()) == {"int8"}
        assert case.typed.arithmetic == "int8"
        types = case.types()
        for name in ("first", "second", "y"):
            assert [case.reads(name, index) for index in (0, 1)] == ["DequantizeLinear"] * 2
        weights = case.maker(case.node("second").input[1])
        assert types[weights.input[0]] == TensorProto.INT8
        assert types[weights.input[1]] == TensorProto.FLOAT16
        assert case.reads("r1") == "Conv"  # nothing between a convolution and its activation
        assert types[case.node("first").input[2]] == TensorProto.FLOAT16  # the bias

    def test_the_other_input_of_an_addition_is_quantised_and_shared(self, tmp_path):
        case = low.lowered(small_cnn(), tmp_path, "int8")
        assert (case.reads("sum", 0), case.reads("sum", 1)) == ("Conv", "DequantizeLinear")
        assert case.node("sum").input[1] == case.node("second").input[0]
        assert case.reads("pool") == "DequantizeLinear"
        assert "2 additions and averages between quantised layers read integers too" in case.typed.notes

    def test_of_two_convolutions_the_later_one_adds(self, tmp_path):
        weights = {f"w{index}": graphs.random_array(16, 16, 3, 3, seed=index) / 12 for index in range(3)}
        lines = [("Conv", "x w0", "a", PADDED), ("Conv", "a w1", "b", PADDED), ("Conv", "x w2", "short", PADDED)]
        for order in ("short b", "b short"):
            made = net([*lines, ("Add", order, "y")], weights, {"x": [1, 16, 6, 6]}, {"y": [1, 16, 6, 6]})
            (tmp_path / order).mkdir()
            case = low.lowered(made, tmp_path / order, "int8")
            found = dict(zip(order.split(), (case.reads("y", 0), case.reads("y", 1)), strict=True))
            assert found == {"short": "Conv", "b": "DequantizeLinear"}

    def test_a_layer_kept_in_float_has_no_pair_around_it(self, tmp_path):
        case = low.lowered(small_cnn(), tmp_path, "int8", layers={"second": "float", "sum": "float"})
        assert case.got == {"first": "int8", "y": "int8"}
        assert case.reads("second") == "Relu"
        assert case.reads("second", 1) is None
        assert "DequantizeLinear" not in {case.reads("sum", 0), case.reads("sum", 1)}

    def test_one_layer_alone(self, tmp_path):
        case = low.lowered(small_cnn(), tmp_path, "float", layers={"second": "int8"}, floating="fp32")
        assert case.got == {"second": "int8"}
        assert [node.op_type for node in case.model.graph.node].count("QuantizeLinear") == 1

    def test_weights_that_two_layers_share(self, tmp_path):
        made = net(
            [("MatMul", "x w", "a"), ("Relu", "a", "r"), ("MatMul", "r w", "y")],
            {"w": graphs.random_array(32, 32) / 6},
            {"x": [4, 32]},
            {"y": [4, 32]},
        )
        case = low.lowered(made, tmp_path, "float", layers={"a": "int8"}, floating="fp32")
        assert case.reads("a", 1) == "DequantizeLinear"
        assert case.node("y").input[1] == "w"

    def test_small_layers_stay_float_unless_they_are_named(self, tmp_path):
        made = net(
            [("MatMul", "x w1", "a"), ("MatMul", "a w2", "y")],
            {"w1": graphs.random_array(32, 32) / 6, "w2": graphs.random_array(32, 10) / 6},
            {"x": [4, 32]},
            {"y": [4, 10]},
        )
        case = low.lowered(made, tmp_path, "int8")
        assert case.got == {"a": "int8", "y": "float"}
        assert "32 x 10" in case.why["y"]
        named = low.again(case.imported, tmp_path / "named", "float", layers={"y": "int8"}, ranges=case.ranges)
        assert named.got == {"y": "int8"}

    def test_a_product_of_two_activations(self, tmp_path):
        case = low.lowered(attention(), tmp_path, "int8")
        assert case.got == {"query": "int8", "key": "int8", "scores": "float"}
        assert "two activations" in case.why["scores"]
        named = low.again(
            case.imported, tmp_path / "named", "int8", layers={"scores": "int8"}, ranges=case.ranges, feeds=case.feeds
        )
        assert [named.reads("scores", index) for index in (0, 1)] == ["DequantizeLinear"] * 2
        assert low.sqnr_db(named.float_outputs()["y"], named.outputs()["y"]) > 25

    def test_tensorrt_8_gets_floats_on_the_grid(self, tmp_path):
        case = low.lowered(small_cnn(), tmp_path, "int8", floating="fp16", typed=False, capability=(8, 7))
        assert set(case.typed.weak_flags) == {"FP16", "INT8"}
        weights = case.maker(case.node("second").input[1])
        assert case.maker(weights.input[0]).op_type == "QuantizeLinear"
        assert TensorProto.FLOAT16 not in case.types().values()
        other = low.again(case.imported, tmp_path / "typed", "int8", floating="fp32", ranges=case.ranges)
        np.testing.assert_array_equal(case.outputs()["y"], other.outputs(case.feeds)["y"])

    def test_grouped_transposed_and_stacked(self, tmp_path):
        made = net(
            [
                ("Conv", "x w1", "depthwise", {"group": 16, **PADDED}),
                ("ConvTranspose", "depthwise w2", "up", {"group": 2}),
                ("Reshape", "up shape", "flat"),
                ("MatMul", "flat w3", "y"),
            ],
            {
                "w1": graphs.random_array(16, 1, 3, 3),
                "w2": graphs.random_array(16, 16, 3, 3, seed=1),
                "shape": np.array([2, 16, 64]),
                "w3": graphs.random_array(2, 64, 24, seed=2),
            },
            {"x": [1, 16, 6, 6]},
            {"y": [2, 16, 24]},
        )
        case = low.lowered(made, tmp_path, "float", layers=dict.fromkeys(("depthwise", "up", "y"), "int8"))
        scales = {name: case.maker(case.node(name).input[1]).input[1] for name in case.got}
        sizes = {item.name: tuple(item.dims) for item in case.model.graph.initializer}
        assert {name: sizes[scale] for name, scale in scales.items()} == {"depthwise": (16,), "up": (), "y": ()}
        assert low.sqnr_db(case.float_outputs()["y"], case.outputs()["y"]) > 30


class TestPackedAndFp8:
    @pytest.mark.parametrize(("inputs", "block"), [(128, 64), (192, 64), (96, 32), (64, 32), (48, 16), (32, 16)])
    def test_blocks_of_int4(self, inputs, block, tmp_path):
        made = net(
            [("Gemm", "x w b", "y", {"transB": 1})],
            {"w": graphs.random_array(24, inputs), "b": graphs.random_array(24, seed=1)},
            {"x": [4, inputs]},
            {"y": [4, 24]},
        )
        case = low.lowered(made, tmp_path, "int4-weights", ranges={})
        assert case.typed.opset == 21
        unpack = case.maker(case.node("y").input[1])
        found = {item.name: item for item in unpack.attribute}
        assert (found["axis"].i, found["block_size"].i) == (1, block)
        types = case.types()
        assert types[unpack.input[0]] == TensorProto.INT4
        assert case.typed.arithmetic == "fp16"
        assert low.sqnr_db(case.float_outputs()["y"], case.outputs()["y"]) > 17

    def test_int8_weights_are_for_the_rtx_flavour(self, tmp_path):
        case = low.lowered(attention(), tmp_path, "int8-weights", ranges={}, flavour="tensorrt-rtx")
        assert case.got == {"query": "int8-weights", "key": "int8-weights", "scores": "float"}
        assert case.reads("query") == "Cast"
        with pytest.raises(Unsupported, match=r"int8-weights: .*int4 alone"):
            low.again(case.imported, tmp_path / "again", "int8-weights")

    def test_fp8_and_what_it_is_not_for(self, tmp_path):
        weights = {
            "w1": graphs.random_array(32, 3, 3, 3),
            "w2": graphs.random_array(32, 32, 3, 3, seed=1) / 17,
            "w3": graphs.random_array(32, 1, 3, 3, seed=2),
        }
        lines = [
            ("Conv", "x w1", "stem", PADDED),
            ("Conv", "stem w2", "body", PADDED),
            ("Conv", "body w3", "y", {"group": 32, **PADDED}),
        ]
        case = low.lowered(net(lines, weights, {"x": [1, 3, 8, 8]}, {"y": [1, 32, 8, 8]}), tmp_path, "fp8")
        assert case.got == {"stem": "float", "body": "fp8", "y": "float"}
        types = case.types()
        assert types[case.maker(case.node("body").input[1]).input[0]] == TensorProto.FLOAT8E4M3FN
        with pytest.raises(Unsupported, match=r"'y' in fp8: .*groups of one"):
            low.again(case.imported, tmp_path / "y", "float", layers={"y": "fp8"}, ranges=case.ranges)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return low.lowered(attention(), tmp_path_factory.mktemp("attention"), "float")


class TestRefused:
    @pytest.mark.parametrize(
        ("plan", "more", "why"),
        [
            ("int8-dynamic", {}, "int8-dynamic: TensorRT quantises activations with scales that are fixed"),
            ("fp8", {"capability": (8, 6)}, "fp8: fp8 is there from compute capability 8.9"),
            ("int4-weights", {"capability": (7, 5)}, "from compute capability 8.0"),
            ("float", {"floating": "bf16", "capability": (7, 5)}, "bf16 is there from"),
            ("float", {"floating": "tf32", "capability": (7, 5)}, "tf32 is there from"),
            ("int8", {"capability": (5, 3)}, "int8 is there from"),
            ("float", {"flavour": "tensorrt-rtx", "capability": (9, 0)}, "builds for compute capability 7.5, 8.0"),
            ("float", {"floating": "fp32", "flavour": "tensorrt-rtx", "capability": (7, 5)}, "no MatMul in fp32"),
            ("fp8", {"typed": False}, "TensorRT 8 cannot build in fp8"),
            ("int8", {"layers": {"query": "fp8"}}, "int8 and fp8 in one network"),
            ("int8", {"layers": {"y": "int8"}}, "'y' in int8: it multiplies by no weights"),
            ("float", {"layers": {"scores": "int4-weights"}}, "'scores' in int4-weights: .*no weights to pack"),
        ],
    )
    def test_in_words(self, case, plan, more, why, tmp_path):
        with pytest.raises(Unsupported, match=why):
            low.again(case.imported, tmp_path / "again", plan, ranges=case.ranges, **more)

    def test_without_ranges(self, case, tmp_path):
        with pytest.raises(Unsupported, match="no layer of this model in int8: calibration found no range"):
            low.again(case.imported, tmp_path / "again", "int8", ranges={"y": low.limits(0, 1)})

    def test_what_stays_in_fp32_is_not_quantised(self, case, tmp_path):
        wide = {**case.ranges, "query": low.limits(-1e5, 1e5)}
        found = low.again(case.imported, tmp_path / "again", "int8", ranges=wide)
        assert found.got == {"query": "float", "key": "int8", "scores": "float"}
        assert "values beyond the half were seen" in found.why["query"]

    def test_zero_points(self, tmp_path):
        with pytest.raises(Unsupported, match="no zero points, and 'q' has one"):
            low.lowered(graphs.quantized(), tmp_path, ranges={})

    def test_a_model_in_half_keeps_it(self, tmp_path):
        made = graphs.unary(dtype=TensorProto.FLOAT16)
        case = low.lowered(made, tmp_path, ranges={})
        assert case.typed.floating == "fp16"
        with pytest.raises(Unsupported, match="asked for fp32, and the model is written in fp16"):
            low.again(case.imported, tmp_path / "fp32", floating="fp32")


class TestSparse:
    def test_flags(self, tmp_path):
        mask = np.tile(np.array([1, 0, 0, 1], np.float32)[:, None], (16, 1))
        made = net(
            [("MatMul", "x w1", "a"), ("MatMul", "a w2", "y")],
            {"w1": graphs.random_array(64, 32) * mask, "w2": graphs.random_array(32, 32)},
            {"x": [4, 64]},
            {"y": [4, 32]},
        )
        case = low.lowered(made, tmp_path, "int8")
        assert (case.typed.eligible, case.typed.flags) == (("a",), ("SPARSE_WEIGHTS",))
        turing = low.again(case.imported, tmp_path / "turing", capability=(7, 5))
        assert (turing.typed.eligible, turing.typed.flags) == ((), ())


def test_the_same_request_gives_the_same_bytes(tmp_path):
    case = low.lowered(small_cnn(), tmp_path, "int8")
    again = low.again(case.imported, tmp_path / "again", "int8", ranges=case.ranges)
    assert case.path.read_bytes() == again.path.read_bytes()
