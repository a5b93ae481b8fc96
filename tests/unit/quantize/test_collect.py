"""The pass over the data: which tensors get ranges, and whether these are those of the float network."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphs as graphs
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from hwbench.errors import EngineError, ModelError
from hwbench.graph.onnx_file import infer_shapes
from hwbench.quantize.collect import Batches, collect
from hwbench.quantize.tensors import choose
from hwbench.records.quantization import CalibrationSettings

ort = pytest.importorskip("onnxruntime", reason="calibration runs the float network in onnxruntime")


def prepared(made: onnx.ModelProto) -> ir.Model:
    return infer_shapes(ir.from_proto(made))


def truth(made: onnx.ModelProto, name: str, x: np.ndarray, batch: int) -> np.ndarray:
    """A tensor over all samples, by ONNX's own reference implementation."""
    copy = onnx.ModelProto()
    copy.CopyFrom(made)
    if name not in {output.name for output in copy.graph.output}:
        copy.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    run = onnx.reference.ReferenceEvaluator(copy)
    return np.concatenate([run.run([name], {"x": x[i : i + batch]})[0] for i in range(0, len(x), batch)])


def found(made: onnx.ModelProto, x: np.ndarray, tmp_path, *, batch: int, threads: int = 2, **settings: object):
    chosen = CalibrationSettings(**({"estimator": "minmax"} | settings))
    batches = Batches(arrays={"x": x}, samples=len(x), size=batch)
    fractions: list[float] = []
    result = collect(prepared(made), batches, chosen, folder=tmp_path, threads=threads, progress=fractions.append)
    assert fractions[-1] == 1.0
    assert not list(tmp_path.iterdir())
    return result


def residual(batch: int = 2) -> onnx.ModelProto:
    """Conv, Relu, MaxPool, Conv, Add, Relu, Flatten, Gemm, Softmax."""
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], name="conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu1"),
        helper.make_node("MaxPool", ["r1"], ["p"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p", "w2"], ["c2"], name="conv2", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c2", "p"], ["s"], name="add"),
        helper.make_node("Relu", ["s"], ["r2"], name="relu2"),
        helper.make_node("Flatten", ["r2"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "w3"], ["g"], name="fc"),
        helper.make_node("Softmax", ["g"], ["y"], name="softmax"),
    ]
    weights = [
        graphs.weight("w1", graphs.random_array(4, 3, 3, 3)),
        graphs.weight("w2", graphs.random_array(4, 4, 3, 3, seed=1)),
        graphs.weight("w3", graphs.random_array(16, 5, seed=2)),
    ]
    shapes = [graphs.tensor("x", [batch, 3, 4, 4])], [graphs.tensor("y", [batch, 5])]
    return graphs.model(nodes, *shapes, weights)


def masked(opset: int = 18) -> onnx.ModelProto:
    """Scores with a mask of what stands for minus infinity, then Softmax and a MatMul with weights."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["scores"], name="scores"),
        helper.make_node("Add", ["scores", "mask"], ["masked"], name="add"),
        helper.make_node("Softmax", ["masked"], ["p"], name="softmax", axis=-1),
        helper.make_node("MatMul", ["p", "v"], ["y"], name="values"),
    ]
    mask = np.array([0, 0, np.finfo(np.float32).min, -np.inf], dtype=np.float32)
    weights = [
        graphs.weight("w", graphs.random_array(6, 4)),
        graphs.weight("mask", mask),
        graphs.weight("v", graphs.random_array(4, 3)),
    ]
    shapes = [graphs.tensor("x", [1, 5, 6])], [graphs.tensor("y", [1, 5, 3])]
    return graphs.model(nodes, *shapes, weights, opsets={"": opset})


X = graphs.random_array(10, 3, 4, 4, seed=9)


class TestRanges:
    @pytest.mark.parametrize("name", ["x", "r1", "c2", "r2", "g", "y"])
    def test_are_the_extremes_of_the_float_network(self, name, tmp_path):
        tensors = found(residual(), X, tmp_path, batch=2).ranges
        values = truth(residual(), name, X, 2)
        assert tensors[name].seen_low == pytest.approx(values.min(), rel=1e-5, abs=1e-6)
        assert tensors[name].seen_high == pytest.approx(values.max(), rel=1e-5)

    def test_views_pools_and_what_a_relu_cuts_share_one(self, tmp_path):
        tensors = found(residual(), X, tmp_path, batch=2).ranges
        assert tensors["c1"] == tensors["p"] == tensors["r1"]
        assert tensors["s"] == tensors["f"] == tensors["r2"]
        assert tensors["r1"].seen_low == 0.0
        assert set(tensors) == {"x", "c1", "r1", "p", "c2", "s", "r2", "f", "g", "y"}

    def test_a_tensor_that_others_read_too_is_not_cut_by_a_relu(self, tmp_path):
        made = residual()
        made.graph.output.append(graphs.tensor("s", [2, 4, 2, 2]))
        tensors = found(made, X, tmp_path, batch=2).ranges
        assert tensors["s"].seen_low < 0 <= tensors["r2"].seen_low

    @pytest.mark.parametrize("threads", [1, 3])
    def test_do_not_hang_on_the_batch_size_or_the_threads(self, threads, tmp_path):
        one = found(residual(1), X, tmp_path, batch=1, threads=threads, estimator="mse").ranges
        five = found(residual(5), X, tmp_path, batch=5, threads=2, estimator="mse").ranges
        assert one.keys() == five.keys()
        for name in one:
            assert one[name].high == pytest.approx(five[name].high, rel=1e-3)
            assert one[name].magnitude == pytest.approx(five[name].magnitude, rel=1e-3)

    def test_the_last_batch_is_filled_from_the_beginning(self):
        rows = [b["x"].tolist() for b in Batches(arrays={"x": np.arange(5)}, samples=5, size=3)]
        assert rows == [[0, 1, 2], [3, 4, 0]]

    def test_only_so_many_samples_are_used(self):
        rows = [b["x"].tolist() for b in Batches(arrays={"x": np.arange(9)}, samples=2, size=1)]
        assert rows == [[0], [1]]

    def test_of_large_tensors_a_sample_is_enough(self, tmp_path):
        """100 x 100 x 100 values a batch, of which a quarter is looked at: the clip is that of all."""
        made = graphs.unary("Neg", (1, 1000, 1000))
        values = np.random.default_rng(0).gamma(2, 1, (5, 1000, 1000)).astype(np.float32)
        seen = found(made, values, tmp_path, batch=1, estimator="percentile", percentile=99.0).ranges["x"]
        assert seen.high == pytest.approx(np.percentile(values, 99.5), rel=0.01)
        assert seen.seen_high == values.max()


class TestChannels:
    @pytest.mark.parametrize(("name", "axis"), [("x", 1), ("p", 1), ("f", 1)])
    def test_means_and_extremes(self, name, axis, tmp_path):
        seen = found(residual(), X, tmp_path, batch=2).channels[name]
        values = np.moveaxis(truth(residual(), name, X, 2).astype(np.float64), axis, 0)
        values = values.reshape(len(values), -1)
        np.testing.assert_allclose(seen.mean, values.mean(1), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(seen.absmax, np.abs(values).max(1), rtol=1e-5)
        assert (seen.axis, seen.mean.dtype) == (axis, np.float64)

    def test_only_of_what_layers_with_weights_read(self, tmp_path):
        assert set(found(residual(), X, tmp_path, batch=2).channels) == {"x", "p", "f"}

    @pytest.mark.parametrize("opset", [13, 17, 18])
    def test_of_a_matrix_product_lie_on_the_last_axis(self, opset, tmp_path):
        x = graphs.random_array(4, 5, 6)
        seen = found(masked(opset), x, tmp_path, batch=1).channels
        assert seen["x"].axis == 2
        np.testing.assert_allclose(seen["x"].mean, x.mean((0, 1)), rtol=1e-4, atol=1e-6)
        assert seen["p"].mean.shape == (4,)


class TestTraps:
    def test_a_mask_has_no_range_and_all_else_has(self, tmp_path):
        result = found(masked(), graphs.random_array(4, 5, 6), tmp_path, batch=1, estimator="mse")
        assert result.masks == ("masked",)
        assert set(result.ranges) == {"x", "scores", "p", "y"}

    @pytest.mark.parametrize(("bad", "what"), [(np.nan, "NaN"), (np.inf, "infinite values"), (-np.inf, "infinite")])
    @pytest.mark.parametrize("estimator", ["minmax", "mse"])
    def test_what_is_no_number_is_refused_by_name(self, bad, what, estimator, tmp_path):
        x = X.copy()
        x[7, 1, 2, 3] = bad
        with pytest.raises(ModelError, match=f"'x' holds {what}"):
            found(residual(), x, tmp_path, batch=2, estimator=estimator)

    def test_infinity_made_inside_is_found_where_it_is_made(self, tmp_path):
        made = graphs.model(
            [helper.make_node("Exp", ["x"], ["e"], name="exp"), helper.make_node("Relu", ["e"], ["y"], name="relu")],
            [graphs.tensor("x", [1, 4])],
            [graphs.tensor("y", [1, 4])],
        )
        with pytest.raises(ModelError, match=r"'y' holds infinite|'e' holds infinite"):
            found(made, np.full((1, 4), 200, np.float32), tmp_path, batch=1)

    def test_half_precision(self, tmp_path):
        made = graphs.unary("Neg", (1, 4), TensorProto.FLOAT16)
        seen = found(made, np.array([[1, -2, 3, 0]], np.float16), tmp_path, batch=1).ranges
        assert (seen["y"].low, seen["y"].high) == (-3.0, 2.0)

    def test_tokens_have_no_range_and_what_they_fetch_has(self, tmp_path):
        nodes = [helper.make_node("Gather", ["table", "x"], ["y"], name="embedding")]
        table = [graphs.weight("table", graphs.random_array(7, 3))]
        made = graphs.model(
            nodes, [graphs.tensor("x", [1, 2], TensorProto.INT64)], [graphs.tensor("y", [1, 2, 3])], table
        )
        assert set(found(made, np.array([[1, 6]]), tmp_path, batch=1).ranges) == {"y"}

    def test_constants_have_none(self):
        nodes = [helper.make_node("Relu", ["w"], ["r"], name="r"), helper.make_node("Add", ["x", "r"], ["y"], name="a")]
        made = graphs.model(
            nodes,
            [graphs.tensor("x", [1, 2])],
            [graphs.tensor("y", [1, 2])],
            [graphs.weight("w", np.ones((1, 2), "f4"))],
        )
        chosen = choose(prepared(made).graph)
        assert [seen.value.name for seen in chosen.observed] == ["x", "y"]

    def test_what_onnxruntime_refuses(self, tmp_path):
        made = graphs.model(
            [helper.make_node("Reshape", ["x", "to"], ["y"], name="r")],
            [graphs.tensor("x", [1, 4])],
            [graphs.tensor("y", None)],
            [graphs.weight("to", np.array([3]))],
        )
        batches = Batches(arrays={"x": np.ones((1, 4), np.float32)}, samples=1, size=1)
        with pytest.raises(EngineError, match="onnxruntime cannot"):
            collect(
                ir.from_proto(made), batches, CalibrationSettings(), folder=tmp_path, threads=1, progress=lambda _: None
            )
