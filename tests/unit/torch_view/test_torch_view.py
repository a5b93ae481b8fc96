"""The view of whole graphs: the same outputs as ONNX Runtime, the hub's names, weights there and back."""

import copy

import numpy as np
import onnx
import onnx_graphs as graphs
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

torch = pytest.importorskip("torch", reason="the torch view is made of torch")

from hwbench.errors import EngineError, ModelError, Unsupported  # noqa: E402
from hwbench.graph.importer import import_model  # noqa: E402
from hwbench.models.zoo import ZOO  # noqa: E402
from hwbench.records.model import ImportJob  # noqa: E402
from hwbench.torch_view.build import to_torch  # noqa: E402
from hwbench.torch_view.tables import input_names, layer_names, output_names, weight_names, weights_back  # noqa: E402

node = helper.make_node


def view_of(made):
    return to_torch(ir.from_proto(made))


def run(view, *arrays):
    with torch.no_grad():
        return [result.numpy() for result in view(*[torch.from_numpy(np.array(array)) for array in arrays])]


def truth(made, inputs):
    ort = pytest.importorskip("onnxruntime", reason="ONNX Runtime is the truth here")
    session = ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


def net(rng=0):
    """Conv, BatchNorm, Relu, a shape worked out in the graph, and a Gemm whose weight is used twice."""
    w = graphs.random_array(4, 3, 3, 3, seed=rng)
    square = graphs.random_array(64, 64, seed=rng + 1) / 8
    ones = np.ones(4, np.float32)
    return graphs.model(
        [
            node("Conv", ["x", "w"], ["c"], name="stem.0", pads=[1, 1, 1, 1]),
            node("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"], name="stem.1"),
            node("Relu", ["n"], ["r"], name="stem/Relu"),
            node("Shape", ["r"], ["shape"], name="shape"),
            node("Slice", ["shape", "zero", "one"], ["head"], name="head"),
            node("Concat", ["head", "rest"], ["to"], name="to", axis=0),
            node("Reshape", ["r", "to"], ["flat"], name="stem_0"),  # its identifier is the convolution's too
            node("Gemm", ["flat", "square"], ["g"], name="train"),  # a name that torch has
            node("Gemm", ["g", "square"], ["y"], name="0/second"),
        ],
        [graphs.tensor("x", [1, 3, 4, 4])],
        [graphs.tensor("y", [1, 64])],
        [
            graphs.weight("w", w),
            graphs.weight("s", ones * 2),
            graphs.weight("b", ones / 3),
            graphs.weight("m", ones / 5),
            graphs.weight("v", ones * 3),
            graphs.weight("square", square),
            graphs.weight("zero", np.array([0])),
            graphs.weight("one", np.array([1])),
            graphs.weight("rest", np.array([64])),
        ],
    )


def test_outputs_names_and_what_is_left():
    made = net()
    view, x = view_of(made), graphs.random_array(1, 3, 4, 4)
    np.testing.assert_allclose(run(view, x)[0], truth(made, {"x": x})[0], rtol=1e-5, atol=1e-5)
    assert layer_names(view) == {
        "stem_0": "stem.0",
        "stem_1": "stem.1",
        "stem_Relu": "stem/Relu",
        "stem_0_2": "stem_0",
        "train_2": "train",
        "layer_0_second": "0/second",
    }
    assert dict(view.named_children()).keys() == layer_names(view).keys()
    assert (input_names(view), output_names(view)) == (("x",), ("y",))
    assert not view.training


def test_a_shared_weight_is_one_tensor_and_statistics_are_not_learned():
    view = view_of(net())
    assert view.train_2.B is view.layer_0_second.B
    names = weight_names(view)
    assert (names["train_2.B"], names["layer_0_second.B"], names["stem_0.W"]) == ("square", "square", "w")
    assert names.keys() == view.state_dict().keys()
    learned = {names[name] for name, _ in view.named_parameters()}
    assert learned == {"w", "s", "b", "square"}


def test_gradients_are_those_of_the_numbers():
    made = net()
    view = view_of(made).double()
    x = torch.from_numpy(graphs.random_array(1, 3, 4, 4)).double()
    weight = view.train_2.B
    view(x)[0].sum().backward()
    before, step = weight.detach().clone(), 1e-6
    with torch.no_grad():
        weight[3, 5] += step
        up = view(x)[0].sum()
        weight.copy_(before)
        weight[3, 5] -= step
        down = view(x)[0].sum()
    assert weight.grad[3, 5].item() == pytest.approx((up - down).item() / (2 * step), rel=1e-4)


def test_training_moves_statistics_and_goes_back_into_the_hub():
    made = net()
    hub = ir.from_proto(made)
    view, x = to_torch(hub), graphs.random_array(1, 3, 4, 4)
    view.train()
    view(torch.from_numpy(x))
    with torch.no_grad():
        view.stem_0.W += 0.5
    view.eval()
    weights_back(view, hub)
    changed = {"w", "m", "v"}
    for name, value in hub.graph.initializers.items():
        same = np.array_equal(
            value.const_value.numpy(), ir.from_proto(made).graph.initializers[name].const_value.numpy()
        )
        assert same == (name not in changed), name
    np.testing.assert_allclose(run(view, x)[0], truth(ir.to_proto(hub), {"x": x})[0], rtol=1e-5, atol=1e-5)


def test_weights_go_back_only_where_they_came_from():
    view = view_of(net())
    other = ir.from_proto(graphs.unary())
    with pytest.raises(ModelError, match="has no weight 'w'"):
        weights_back(view, other)
    view.stem_0.W = torch.nn.Parameter(torch.zeros(5, 3, 3, 3))
    with pytest.raises(ModelError, match=r"'w' has shape \(4, 3, 3, 3\), the view's 'stem_0.W' has \(5, 3, 3, 3\)"):
        weights_back(view, ir.from_proto(net()))


def test_a_copy_keeps_the_tables():
    view = view_of(net())
    twin = copy.deepcopy(view)
    assert (layer_names(twin), weight_names(twin)) == (layer_names(view), weight_names(view))
    assert twin.train_2.B is twin.layer_0_second.B
    assert twin.train_2.B is not view.train_2.B


def test_the_exported_program_knows_the_layers():
    made = net()
    x = graphs.random_array(1, 3, 4, 4)
    program = torch.export.export(view_of(made), (torch.from_numpy(x),))
    paths = {path for n in program.graph.nodes for path, _ in n.meta.get("nn_module_stack", {}).values() if path}
    assert paths == set(layer_names(view_of(made)))
    np.testing.assert_allclose(
        program.module()(torch.from_numpy(x))[0].detach().numpy(), truth(made, {"x": x})[0], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    ("operator", "attributes", "why"),
    [
        ("NonZero", {}, r"layer 'only': the torch view has no operator NonZero"),
        ("Hann", {"domain": "somewhere"}, r"no operator somewhere::Hann"),
        ("Cast", {"to": TensorProto.FLOAT8E4M3FN}, r"layer 'only' \(Cast\): torch does not compute in FLOAT8E4M3FN"),
    ],
)
def test_what_has_no_form_is_refused_by_name(operator, attributes, why):
    with pytest.raises(Unsupported, match=why):
        view_of(graphs.unary(operator, **attributes))


def test_a_shape_that_depends_on_data_is_refused():
    made = graphs.model(
        [node("Reshape", ["x", "shape"], ["y"], name="r")],
        [graphs.tensor("x", [4]), graphs.tensor("shape", [2], TensorProto.INT64)],
        [graphs.tensor("y", [2, 2])],
    )
    with pytest.raises(Unsupported, match=r"layer 'r' \(Reshape\): input 1 \('shape'\) must be a constant"):
        view_of(made)


def test_torch_refusing_is_an_engine_error():
    made = graphs.model(
        [node("MatMul", ["x", "x"], ["y"], name="m")], [graphs.tensor("x", [2, 3])], [graphs.tensor("y", [2, 3])]
    )
    with pytest.raises(EngineError, match=r"layer 'm' \(MatMul\): torch says RuntimeError"):
        view_of(made)


@pytest.mark.parametrize("axis", ["batch", None])
def test_an_open_axis_is_refused(axis):
    with pytest.raises(Unsupported, match=r"input 'x' .* has no fixed shape"):
        view_of(graphs.unary(axes=[axis, 4]))


def test_outputs_may_be_inputs_weights_and_constants():
    made = graphs.model(
        [node("Constant", [], ["k"], name="k", value_ints=[7, 8])],
        [graphs.tensor("x", [2])],
        [graphs.tensor("x", [2]), graphs.tensor("w", [2]), graphs.tensor("k", [2], TensorProto.INT64)],
        [graphs.weight("w", np.array([3, 4], np.float32))],
    )
    view = view_of(made)
    assert [list(result) for result in run(view, np.array([1, 2], np.float32))] == [[1, 2], [3, 4], [7, 8]]
    assert weight_names(view) == {"output_w": "w"}


def test_names_that_python_does_not_take():
    made = graphs.model(
        [node("Add", ["class", "a.b"], ["y"], name="graph"), node("Add", ["y", "a:b"], ["z"], name="é")],
        [graphs.tensor(name, [2]) for name in ("class", "a.b", "a:b")],
        [graphs.tensor("z", [2])],
    )
    view, one = view_of(made), np.ones(2, np.float32)
    assert input_names(view) == ("class", "a.b", "a:b")
    assert run(view, one, 2 * one, 3 * one)[0].tolist() == [6, 6]
    assert list(layer_names(view).values()) == ["graph", "é"]


def test_bfloat16_weights_survive_the_way_there_and_back():
    hub = ir.from_proto(graphs.unary())
    values = ir.tensor(np.array([[1.5, -2.0, 0.25, 3.0]], np.float32)).numpy().astype(ir.DataType.BFLOAT16.numpy())
    weight = ir.Value(name="w", const_value=ir.tensor(values, name="w"))
    hub.graph.initializers["w"] = weight
    hub.graph.inputs[0].dtype = ir.DataType.BFLOAT16
    hub.graph.append(ir.node("Mul", [hub.graph.outputs[0], weight], name="scale"))
    view = to_torch(hub)
    assert view.scale.B.dtype == torch.bfloat16
    with torch.no_grad():
        view.scale.B *= 2
    weights_back(view, hub)
    assert weight.const_value.dtype == ir.DataType.BFLOAT16
    assert weight.const_value.numpy().astype(np.float32).tolist() == [[3.0, -4.0, 0.5, 6.0]]


@pytest.mark.parametrize("mode", ["reflect", "edge", "wrap"])
def test_padding_by_copies_exports_and_moves_with_the_data(mode):
    made = graphs.model(
        [node("Pad", ["x", "pads"], ["y"], name="p", mode=mode)],
        [graphs.tensor("x", [1, 1, 3, 3])],
        [graphs.tensor("y", None)],
        [graphs.weight("pads", np.array([0, 0, 1, 2, 0, 0, 2, 1]))],
        opsets={"": 19},
    )
    x = graphs.random_array(1, 1, 3, 3)
    program = torch.export.export(view_of(made), (torch.from_numpy(x),))
    expected = np.pad(x, [(0, 0), (0, 0), (1, 2), (2, 1)], mode=mode)
    assert np.array_equal(program.module()(torch.from_numpy(x))[0].numpy(), expected)


def test_old_softmax_counts_the_last_axes_as_one():
    made = graphs.model(
        [node("Softmax", ["x"], ["y"], name="s")],
        [graphs.tensor("x", [2, 3, 4])],
        [graphs.tensor("y", [2, 3, 4])],
        opsets={"": 11},
    )
    x = graphs.random_array(2, 3, 4)
    np.testing.assert_allclose(run(view_of(made), x)[0], truth(made, {"x": x})[0], rtol=1e-5)
    assert run(view_of(made), x)[0][0].sum() == pytest.approx(1, rel=1e-5)


QUICK = {"digits_cnn", "autoencoder", "resnet8", "resnet20"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in sorted(ZOO)]
)
def test_the_zoo_computes_what_onnx_runtime_does(name, tmp_path):
    imported = import_model(ImportJob(model=f"zoo:{name}", batch_size=1, shapes={}, input_data=None, seed=0), tmp_path)
    inputs = dict(np.load(tmp_path / "inputs.npz"))
    for graph in {imported.files.hub, imported.files.runtime_graph}:
        made = onnx.load(tmp_path / graph)
        view = view_of(made)
        got = run(view, *[inputs[name] for name in input_names(view)])
        for result, expected in zip(got, truth(made, inputs), strict=True):
            assert np.abs(result - expected).max() <= 1e-4 * np.abs(expected).max()
