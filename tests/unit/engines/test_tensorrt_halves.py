"""Graphs in fp16 and bf16: types fit, names and ends stay, and what would overflow stays in fp32."""

import numpy as np
import onnx_graphs as graphs
import pytest
from onnx import TensorProto, helper

pytest.importorskip("onnxruntime", reason="runs the graphs")

import tensorrt_lowering as low
from tensorrt_lowering import net, small_cnn

HALF = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
FLOAT = TensorProto.FLOAT


def decomposed_norm(eps=1e-12):
    """LayerNormalization as older exporters write it."""
    return net(
        [
            ("ReduceMean", "x axes", "mean"),
            ("Sub", "x mean", "centred"),
            ("Pow", "centred two", "squared"),
            ("ReduceMean", "squared axes", "variance"),
            ("Add", "variance eps", "more"),
            ("Sqrt", "more", "deviation"),
            ("Div", "centred deviation", "normal"),
            ("MatMul", "normal w", "y"),
        ],
        {
            "axes": np.array([-1]),
            "two": np.float32(2),
            "eps": np.float32(eps),
            "w": graphs.random_array(32, 8, seed=1),
        },
        {"x": [4, 32]},
        {"y": [4, 8]},
    )


class TestTypes:
    @pytest.mark.parametrize("kind", ["fp16", "bf16"])
    def test_a_whole_network(self, kind, tmp_path):
        case = low.lowered(small_cnn(), tmp_path, floating=kind)
        types = case.types()
        assert case.typed.floating == case.typed.arithmetic == kind
        assert {types[name] for name in (*case.feeds, *case.float_outputs())} == {FLOAT}
        made = [name for node in case.model.graph.node for name in node.output if node.op_type != "Cast"]
        assert {types[name] for name in made} == {HALF[kind]}
        truth = case.float_outputs()
        found = low.reference(case.path, case.feeds)
        (name,) = truth
        assert low.sqnr_db(truth[name], found[name]) > (55 if kind == "fp16" else 30)

    def test_names_of_layers_and_ends_stay(self, tmp_path):
        case = low.lowered(small_cnn(), tmp_path, floating="fp16")
        names = [node.name for node in case.model.graph.node]
        assert {layer.name for layer in case.imported.model.layers} <= set(names)
        assert len(names) == len(set(names))
        assert [value.name for value in case.model.graph.output] == [o.name for o in case.imported.model.outputs]

    def test_an_output_that_is_read_inside_too(self, tmp_path):
        made = net(
            [("Relu", "x", "a"), ("Exp", "a", "b"), ("Identity", "x", "same")],
            {},
            {"x": [2, 4]},
            {"a": [2, 4], "b": [2, 4], "same": [2, 4]},
        )
        case = low.lowered(made, tmp_path, floating="fp16")
        case.types()
        truth, found = case.float_outputs(), case.outputs()
        assert list(found) == ["a", "b", "same"]
        for name, array in found.items():
            assert array.dtype == np.float32
            np.testing.assert_allclose(array, truth[name], rtol=4e-3, atol=1e-3)

    def test_fp32_and_tf32_are_the_graph_as_it_is(self, tmp_path):
        case = low.lowered(graphs.mlp(), tmp_path, floating="tf32")
        other = low.again(case.imported, tmp_path / "fp32", floating="fp32")
        assert case.path.read_bytes() == other.path.read_bytes()
        assert (case.typed.flags, other.typed.flags) == (("TF32",), ())
        assert case.typed.arithmetic == "tf32"

    def test_auto_is_fp16_and_says_so(self, tmp_path):
        case = low.lowered(graphs.mlp(), tmp_path)
        assert case.typed.floating == "fp16"
        assert case.typed.notes == ("floats in fp16, as auto is on a GPU",)

    def test_tensorrt_8_gets_fp32_and_flags(self, tmp_path):
        case = low.lowered(graphs.mlp(), tmp_path, floating="fp16", typed=False, capability=(8, 7))
        assert case.typed.weak_flags == ("FP16",)
        assert set(case.types().values()) == {FLOAT}

    def test_integers_and_their_casts(self, tmp_path):
        made = graphs.embedding(through=("Cast",), dtype=TensorProto.INT32)
        feeds = {
            "input_ids": np.arange(64, dtype=np.int32)[None] % 11,
            "attention_mask": np.ones((1, 64), np.int64),
        }
        case = low.lowered(made, tmp_path, floating="fp16", feeds=feeds)
        types = case.types()
        assert types["rows"] == types["m"] == TensorProto.FLOAT16
        np.testing.assert_allclose(case.outputs()["y"], case.float_outputs()["y"], rtol=2e-3)

    def test_bodies_of_control_flow_stay_in_fp32(self, tmp_path):
        case = low.lowered(graphs.branches(), tmp_path, floating="fp16")
        case.types()
        np.testing.assert_allclose(case.outputs()["y"], case.float_outputs()["y"], rtol=2e-3, atol=1e-3)
        assert any("body of its own: if" in note for note in case.typed.notes)

    def test_a_body_reads_what_is_computed_outside(self, tmp_path):
        made = graphs.branches()
        made.graph.node.insert(0, helper.make_node("Exp", ["x"], ["e0"], name="outside"))
        for attribute in made.graph.node[-1].attribute:
            for node in attribute.g.node:
                node.input[0] = "e0"
        case = low.lowered(made, tmp_path, floating="fp16")
        np.testing.assert_allclose(case.outputs()["y"], case.float_outputs()["y"], rtol=4e-3, atol=4e-3)


class TestIslands:
    def test_sums_of_squares_and_their_epsilon(self, tmp_path):
        feeds = {"x": 1000 * graphs.random_array(4, 32)}
        case = low.lowered(decomposed_norm(), tmp_path, floating="fp16", feeds=feeds, ranges={})
        assert low.sqnr_db(case.float_outputs()["y"], case.outputs()["y"]) > 50  # in fp16 alone: infinities
        types = case.types()
        assert types["squared"] == types["variance"] == types["deviation"] == FLOAT
        assert types["centred"] == TensorProto.FLOAT16

    def test_an_epsilon_is_not_lost(self, tmp_path):
        feeds = {"x": np.ones((4, 32), np.float32)}  # no variance: without the epsilon, 0 / 0
        case = low.lowered(decomposed_norm(1e-9), tmp_path, floating="fp16", feeds=feeds, ranges={})
        assert np.isfinite(case.outputs()["y"]).all()

    def test_what_was_seen_beyond_fp16(self, tmp_path):
        made = net(
            [("Mul", "x big", "large"), ("Mul", "large small", "y")],
            {"big": np.float32(1e4), "small": np.float32(1e-4)},
            {"x": [2, 8]},
            {"y": [2, 8]},
        )
        feeds = {"x": np.full((2, 8), 50, np.float32)}
        case = low.lowered(made, tmp_path, floating="fp16", feeds=feeds)
        np.testing.assert_allclose(case.outputs()["y"], 50, rtol=1e-3)
        assert "in fp32, not fp16, since values beyond the half were seen: large, y" in case.typed.notes
        assert case.types()["large"] == FLOAT

    def test_a_constant_beyond_fp16(self, tmp_path):
        made = net(
            [("Mul", "x c", "m"), ("Div", "m c", "d"), ("Relu", "d", "y")],
            {"c": np.full(8, 1e5, np.float32)},
            {"x": [2, 8]},
            {"y": [2, 8]},
        )
        case = low.lowered(made, tmp_path, floating="fp16", ranges={})
        np.testing.assert_allclose(case.outputs()["y"], case.float_outputs()["y"], rtol=2e-3, atol=1e-3)
        assert "in fp32, not fp16, since a constant is too large for the half: m, d" in case.typed.notes

    @pytest.mark.parametrize("kind", ["fp16", "bf16"])
    def test_what_stands_for_minus_infinity_is_clipped(self, kind, tmp_path):
        made = net(
            [
                ("Sub", "one mask", "off"),
                ("Mul", "off lowest", "added"),
                ("Add", "scores added", "masked"),
                ("Softmax", "masked", "y"),
            ],
            {"one": np.float32(1), "lowest": np.float32(np.finfo(np.float32).min)},
            {"scores": [2, 4], "mask": [2, 4]},
            {"y": [2, 4]},
        )
        feeds = {"scores": graphs.random_array(2, 4), "mask": np.array([[1, 1, 0, 0], [0, 0, 0, 0]], np.float32)}
        case = low.lowered(made, tmp_path, floating=kind, feeds=feeds, ranges={})
        found = low.reference(case.path, feeds)["y"]
        np.testing.assert_allclose(found, case.float_outputs()["y"], atol=0.01)  # a row that is masked whole: uniform
        assert not any("too large" in note for note in case.typed.notes)

    def test_positions_stay_exact(self, tmp_path):
        nodes = [
            helper.make_node("Shape", ["x"], ["shape"], name="shape"),
            helper.make_node("Cast", ["shape"], ["float"], name="float", to=FLOAT),
            helper.make_node("Mul", ["float", "half"], ["halved"], name="halved"),
            helper.make_node("Cast", ["halved"], ["target"], name="target", to=TensorProto.INT64),
            helper.make_node("Slice", ["x", "start", "target"], ["s"], name="s"),
            helper.make_node("Relu", ["s"], ["y"], name="y"),
        ]
        weights = [graphs.weight("half", np.array([1, 0.5], np.float32)), graphs.weight("start", np.array([0, 0]))]
        made = graphs.model(nodes, [graphs.tensor("x", [1, 8198])], [graphs.tensor("y", [1, 4099])], weights)
        case = low.lowered(made, tmp_path, floating="fp16", ranges={})
        assert case.outputs()["y"].shape == (1, 4099)  # fp16 would make 4100 of it

    def test_operators_without_bf16(self, tmp_path):
        made = net(
            [("ConvTranspose", "x w", "c"), ("HardSwish", "c", "y")],
            {"w": graphs.random_array(4, 4, 3, 3)},
            {"x": [1, 4, 5, 5]},
            {"y": None},
        )
        case = low.lowered(made, tmp_path, floating="bf16")
        assert "in fp32, not bf16, since it has no such type: c, y" in case.typed.notes
        fp16 = low.again(case.imported, tmp_path / "fp16", floating="fp16", ranges=case.ranges)
        assert not fp16.typed.notes

    def test_scales_of_resize_stay_fp32(self, tmp_path):
        made = net(
            [("Resize", "x  scales", "y")],
            {"scales": np.array([1, 1, 1.5, 1.5], np.float32)},
            {"x": [1, 2, 6, 6]},
            {"y": [1, 2, 9, 9]},
        )
        case = low.lowered(made, tmp_path, floating="fp16")
        assert case.types()["scales"] == FLOAT
        np.testing.assert_allclose(case.outputs()["y"], case.float_outputs()["y"], rtol=2e-3, atol=1e-3)
