"""The forms: at full rank nothing changes, at any rank the pieces compute what their product computes."""

import numpy as np
import pytest
from compress_subjects import run_ort
from factor_graphs import conv, given, layer_of, product
from hypothesis import given as cases
from hypothesis import settings
from hypothesis import strategies as st

from hwbench.compress.factorise.forms import FORMS, composed
from hwbench.compress.factorise.rebuild import replace
from hwbench.compress.factorise.site import site_of
from hwbench.graph.count import macs_of
from hwbench.graph.linear import set_constant

KERNEL_FORMS = ("channel-svd", "spatial-svd", "tucker", "cp")


def factorise(model, form_name, ranks=None):
    """Replace the layer of a model, and return the weights that the pieces amount to, in the layer's layout."""
    layer, form = layer_of(model), FORMS[form_name]
    site = site_of(layer)
    ranks = ranks or form.full(site)
    factors = form.factors(site, ranks, None, 0)
    whole = composed(form, site, factors).reshape(layer.blocks().shape)
    pieces = form.pieces(site, ranks)
    cost = site.cost(pieces)
    before = site.cost((site.whole(),))
    assert before.macs == macs_of(layer.node)
    names = replace(layer, pieces, factors)
    return whole, cost, names


def with_weights(model, blocks):
    layer = layer_of(model)
    layer.set_blocks(blocks)
    return model


def close(got, expected, tolerance=1e-4):
    np.testing.assert_allclose(got, expected, atol=tolerance * max(1.0, np.abs(expected).max()), rtol=0)


@st.composite
def convolutions(draw):
    group = draw(st.sampled_from([1, 1, 2, 3]))
    kernel = draw(st.sampled_from([(3, 3), (1, 3), (5, 1), (2, 3), (3, 5)]))
    pads = [draw(st.integers(0, 2)) for _ in range(4)]
    return {
        "outputs": group * draw(st.integers(1, 5)),
        "inputs": group * draw(st.integers(1, 4)),
        "group": group,
        "kernel": kernel,
        "strides": draw(st.sampled_from([(1, 1), (2, 2), (1, 2), (3, 1)])),
        "dilations": draw(st.sampled_from([(1, 1), (2, 2), (1, 2)])),
        "pads": pads,
        "bias": draw(st.booleans()),
        "seed": draw(st.integers(0, 100)),
    }


@cases(spec=convolutions(), form=st.sampled_from(["channel-svd", "spatial-svd", "tucker"]))
@settings(max_examples=60, deadline=None)
def test_at_full_rank_nothing_changes(spec, form):
    model = conv(**spec)
    inputs = given(model)
    expected = run_ort(model, inputs)[0]
    _, cost, names = factorise(model, form)
    close(run_ort(model, inputs)[0], expected)
    assert [node.name for node in model.graph] == list(names)
    assert sum(macs_of(node) for node in model.graph) == cost.macs
    assert [value.name for value in model.graph.outputs] == ["y"]


@cases(spec=convolutions(), form=st.sampled_from(KERNEL_FORMS), rank=st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_at_any_rank_the_pieces_compute_their_product(spec, form, rank):
    model, same = conv(**spec), conv(**spec)
    full = FORMS[form].full(site_of(layer_of(model)))
    whole, cost, _ = factorise(model, form, tuple(min(rank, most) for most in full))
    inputs = given(model)
    close(run_ort(model, inputs)[0], run_ort(with_weights(same, whole), inputs)[0])
    assert sum(macs_of(node) for node in model.graph) == cost.macs


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (3, 2)])
@pytest.mark.parametrize("form", KERNEL_FORMS[:3])
def test_automatic_padding_is_written_out(auto_pad, strides, form):
    model = conv(auto_pad=auto_pad, strides=strides, kernel=(3, 4), sizes=(10, 9))
    inputs = given(model)
    expected = run_ort(model, inputs)[0]
    factorise(model, form)
    close(run_ort(model, inputs)[0], expected)
    assert all("auto_pad" not in node.attributes for node in model.graph)


@pytest.mark.parametrize(
    "model",
    [
        product(transposed=True),
        product(transposed=False),
        product("MatMul", transposed=False, lead=(2, 3)),
        product("MatMul", transposed=False, lead=()),
        conv(kernel=(1, 1), strides=(2, 2), pads=(1, 1, 1, 1)),
        conv(kernel=(1, 1), group=2, outputs=8),
    ],
    ids=["gemm-transposed", "gemm", "matmul", "matmul-of-a-vector", "point-strided-padded", "point-in-groups"],
)
@pytest.mark.parametrize("form", ["svd", "channel-svd"])
def test_matrices_become_two(model, form):
    import onnx_ir as ir

    model = model.clone() if hasattr(model, "clone") else ir.from_proto(ir.to_proto(model))
    inputs = given(model)
    expected = run_ort(model, inputs)[0]
    ops = [node.op_type for node in model.graph]
    _, _, names = factorise(model, form)
    close(run_ort(model, inputs)[0], expected)
    assert [node.op_type for node in model.graph] == [ops[0], *ops]
    assert names == (f"{'conv' if ops[0] == 'Conv' else 'fc'}.down", f"{'conv' if ops[0] == 'Conv' else 'fc'}.up")
    assert "w" not in model.graph.initializers
    assert all(value.shape is not None and value.shape.is_static() for node in model.graph for value in node.outputs)


def test_one_dimensional_and_three_dimensional_kernels():
    for kernel, sizes in (((5,), (17,)), ((3, 2, 3), (6, 5, 7))):
        for form in ("channel-svd", "tucker"):
            model = conv(kernel=kernel, sizes=sizes)
            inputs = {"x": np.random.default_rng(0).standard_normal((2, 4, *sizes)).astype(np.float32)}
            expected = run_ort(model, inputs)[0]
            factorise(model, form)
            close(run_ort(model, inputs)[0], expected)
        assert FORMS["spatial-svd"].unfit(site_of(layer_of(conv(kernel=kernel, sizes=sizes)))).code == "no_kernel"


def test_half_precision_stays_half_precision():
    model = conv(dtype=np.float16)
    inputs = given(model)
    expected = run_ort(model, inputs)[0].astype(np.float64)
    factorise(model, "channel-svd")
    assert {value.dtype.name for value in model.graph.initializers.values()} == {"FLOAT16"}
    close(run_ort(model, inputs)[0].astype(np.float64), expected, 1e-2)


def test_a_weight_of_a_constant_node_goes_with_its_node():
    import onnx_graphs as graphs
    import onnx_ir as ir
    from onnx import helper

    from hwbench.graph.onnx_file import infer_shapes

    weight = graphs.weight("w", graphs.random_array(6, 4, 3, 3))
    nodes = [
        helper.make_node("Constant", [], ["w"], value=weight, name="const"),
        helper.make_node("Conv", ["x", "w"], ["y"], name="conv"),
    ]
    x, y = graphs.tensor("x", [1, 4, 8, 8]), graphs.tensor("y", [1, 6, 6, 6])
    model = infer_shapes(ir.from_proto(graphs.model(nodes, [x], [y])))
    inputs = given(model)
    expected = run_ort(model, inputs)[0]
    layer = next(found for node in model.graph if node.op_type == "Conv" for found in [node])
    assert layer.name == "conv"
    from hwbench.graph.linear import linear_of

    found = linear_of(layer)
    site, form = site_of(found), FORMS["tucker"]
    replace(found, form.pieces(site, form.full(site)), form.factors(site, form.full(site), None, 0))
    close(run_ort(model, inputs)[0], expected)
    assert [node.op_type for node in model.graph] == ["Conv", "Conv", "Conv"]


def test_the_test_would_see_a_wrong_weight():
    model, same = conv(), conv()
    whole, _, _ = factorise(model, "channel-svd", (2,))
    layer = layer_of(same)
    set_constant(layer.node, 1, (whole * 1.01).reshape(layer.weight.shape))
    inputs = given(model)
    with pytest.raises(AssertionError):
        close(run_ort(model, inputs)[0], run_ort(same, inputs)[0])
