"""Which layers an executed unit stands for, on graphs drawn by hand and at random."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from hwbench.graph.members import assign_members
from hwbench.records.model import Layer

PRODUCTS = {"Conv", "MatMul", "Gemm"}


def layer(name, op, *inputs, output=None):
    """A layer that makes the tensor ``<name>:0``; convolutions and products cost something."""
    return Layer(
        name=name,
        op=op,
        module=None,
        inputs=inputs,
        outputs=(output or f"{name}:0",),
        parameters=0,
        macs=100 if op in PRODUCTS else 0,
        moved_bytes=8,
    )


def assign(layers, *anchors, merged=None):
    return assign_members(layers, merged or {}, [[anchor] if isinstance(anchor, str) else anchor for anchor in anchors])


CHAIN = [
    layer("conv1", "Conv", "x", "w1"),
    layer("relu1", "Relu", "conv1:0"),
    layer("conv2", "Conv", "relu1:0", "w2"),
    layer("relu2", "Relu", "conv2:0"),
]


def test_every_layer_its_own_unit():
    assert assign(CHAIN, "conv1", "relu1", "conv2", "relu2") == [("conv1",), ("relu1",), ("conv2",), ("relu2",)]


def test_a_unit_named_after_the_convolution_takes_what_follows():
    assert assign(CHAIN, "conv1", "conv2") == [("conv1", "relu1"), ("conv2", "relu2")]


def test_a_unit_named_after_the_last_layer_takes_its_product():
    assert assign(CHAIN, "relu1", "relu2") == [("conv1", "relu1"), ("conv2", "relu2")]


def test_a_unit_may_be_named_by_its_tensor():
    assert assign(CHAIN, "relu1:0", "conv2:0") == [("conv1", "relu1"), ("conv2", "relu2")]


def test_a_node_called_like_the_tensor_of_another_goes_by_its_own_name():
    layers = [layer("second", "Conv", "x", "w1", output="mid"), layer("mid", "Conv", "mid", "w2", output="second")]

    assert assign(layers, "second", "mid") == [("second",), ("mid",)]


def test_a_unit_that_the_runtime_inserted_stands_for_nothing():
    anchors = ("reorder_nchw_to_nchw16c", "conv1", ["reorder", "temporary_7"], "conv2", [])

    assert assign(CHAIN, *anchors) == [(), ("conv1", "relu1"), (), ("conv2", "relu2"), ()]


def test_the_first_of_two_units_with_one_name_has_the_layer():
    assert assign(CHAIN, "conv1", "conv1", "conv2") == [("conv1", "relu1"), (), ("conv2", "relu2")]


def test_no_units_and_no_layers():
    assert assign(CHAIN) == []
    assert assign([], "conv1") == [()]


def test_a_folded_batch_norm_goes_with_its_convolution():
    layers = [
        layer("conv", "Conv", "x", "w"),
        layer("bn", "BatchNormalization", "conv:0", "scale", "bias", "mean", "var"),
        layer("relu", "Relu", "bn:0"),
    ]

    assert assign(layers, "conv", "relu", merged={"bn": "conv"}) == [("conv", "bn"), ("relu",)]
    assert assign(layers, "relu", merged={"bn": "conv"}) == [("conv", "bn", "relu")]
    assert assign(layers, "bn:0", "relu", merged={"bn": "conv"}) == [("conv", "bn"), ("relu",)]


RESIDUAL = [
    layer("conv1", "Conv", "x", "w1"),
    layer("relu1", "Relu", "conv1:0"),
    layer("conv2", "Conv", "relu1:0", "w2"),
    layer("add", "Add", "conv2:0", "x"),
    layer("relu2", "Relu", "add:0"),
]


def test_a_residual_addition_joins_the_convolution_before_it():
    assert assign(RESIDUAL, "conv1", "conv2") == [("conv1", "relu1"), ("conv2", "add", "relu2")]
    assert assign(RESIDUAL, "relu1", "relu2") == [("conv1", "relu1"), ("conv2", "add", "relu2")]


def test_a_projected_shortcut_joins_the_later_of_its_two_convolutions():
    layers = [
        layer("main", "Conv", "x", "w1"),
        layer("shortcut", "Conv", "x", "w2"),
        layer("add", "Add", "main:0", "shortcut:0"),
        layer("relu", "Relu", "add:0"),
    ]

    assert assign(layers, "shortcut", "main") == [("shortcut",), ("main", "add", "relu")]
    assert assign(layers, "main", "shortcut") == [("main",), ("shortcut", "add", "relu")]


SWISH = [
    layer("conv", "Conv", "x", "w"),
    layer("sigmoid", "Sigmoid", "conv:0"),
    layer("mul", "Mul", "conv:0", "sigmoid:0"),
    layer("next", "Conv", "mul:0", "w2"),
]


def test_swish_belongs_to_its_convolution_whichever_end_gives_the_name():
    whole = [("conv", "sigmoid", "mul"), ("next",)]

    assert assign(SWISH, "conv", "next") == whole
    assert assign(SWISH, "mul", "next") == whole


def test_swish_in_a_unit_of_its_own():
    assert assign(SWISH, "conv", "mul", "next") == [("conv", "sigmoid"), ("mul",), ("next",)]
    assert assign(SWISH, "conv", ["sigmoid", "mul"], "next") == [("conv",), ("sigmoid", "mul"), ("next",)]


def test_layers_made_of_constants_alone_are_in_no_unit():
    layers = [
        layer("shape", "ConstantOfShape", output="filled"),
        layer("double", "Add", "filled", "filled"),
        layer("conv", "Conv", "x", "w"),
        layer("shift", "Add", "conv:0", "double:0"),
    ]

    assert assign(layers, "conv") == [("conv", "shift")]


def test_a_product_that_two_units_read_belongs_to_neither():
    layers = [
        layer("shared", "MatMul", "x", "w"),
        layer("left", "Relu", "shared:0"),
        layer("right", "Tanh", "shared:0"),
    ]

    assert assign(layers, "left", "right") == [("left",), ("right",)]


def test_what_comes_before_the_first_unit_is_its_prologue():
    layers = [layer("scale", "Mul", "x", "s"), layer("shift", "Add", "scale:0", "t"), *CHAIN]
    layers[2] = layer("conv1", "Conv", "shift:0", "w1")

    assert assign(layers, "conv1", "conv2")[0] == ("scale", "shift", "conv1", "relu1")


ATTENTION = [
    layer("q", "MatMul", "x", "wq"),
    layer("k", "MatMul", "x", "wk"),
    layer("v", "MatMul", "x", "wv"),
    layer("k_t", "Transpose", "k:0"),
    layer("scores", "MatMul", "q:0", "k_t:0"),
    layer("scaled", "Div", "scores:0", "root"),
    layer("masked", "Add", "scaled:0", "mask"),
    layer("softmax", "Softmax", "masked:0"),
    layer("context", "MatMul", "softmax:0", "v:0"),
    layer("merge", "Reshape", "context:0", "shape"),
    layer("out", "MatMul", "merge:0", "wo"),
    layer("residual", "Add", "out:0", "x"),
    layer("norm", "LayerNormalization", "residual:0", "g", "b"),
]


def test_a_fused_attention_takes_everything_up_to_its_name():
    """ONNX Runtime names the fused node after the last reshape, and the norm after itself."""
    units = assign(ATTENTION, ["Attention_0", "merge:0"], "out", "norm")

    assert units == [tuple(item.name for item in ATTENTION[:10]), ("out", "residual"), ("norm",)]


def test_attention_whose_projections_run_apart():
    units = assign(ATTENTION, "q", "k", "v", "context", "out", "norm")

    assert units == [
        ("q",),
        ("k", "k_t"),
        ("v",),
        ("scores", "scaled", "masked", "softmax", "context", "merge"),
        ("out", "residual"),
        ("norm",),
    ]


@st.composite
def networks(draw):
    """A random graph, some of it constant, some names shared with tensors, and units that bear some of its names."""
    layers = []
    tensors = ["x", "weight"]
    for index in range(draw(st.integers(0, 14))):
        op = draw(st.sampled_from(["Conv", "MatMul", "Relu", "Add", "Shape"]))
        # A layer with no inputs is a constant.
        inputs = draw(st.lists(st.sampled_from(tensors), max_size=3))
        layers.append(layer(f"n{index}", op, *inputs, output=draw(st.sampled_from([f"t{index}", f"n{index + 1}"]))))
        tensors.append(layers[-1].outputs[0])
    names = [key for item in layers for key in (item.name, *item.outputs)] + ["reorder"]
    anchors = draw(st.lists(st.lists(st.sampled_from(names), max_size=3), max_size=8))
    merged = {}
    if len(layers) > 1 and draw(st.booleans()):
        merged[layers[1].name] = layers[0].name
    return layers, merged, anchors


def depends_on_data(layers):
    produced = {tensor for item in layers for tensor in item.outputs}
    live = set()
    for item in layers:
        if any(tensor not in produced or tensor in live for tensor in item.inputs):
            live.update(item.outputs)
            yield item.name


@given(networks())
@settings(max_examples=300, deadline=None)
def test_no_layer_is_counted_twice(network):
    layers, merged, anchors = network

    units = assign_members(layers, merged, anchors)

    assert len(units) == len(anchors)
    placed = [name for unit in units for name in unit]
    assert len(placed) == len(set(placed))
    assert set(placed) <= {item.name for item in layers}
    order = {item.name: index for index, item in enumerate(layers)}
    assert all(list(unit) == sorted(unit, key=order.__getitem__) for unit in units)
    named = {name for names in anchors for name in names} | set(merged)
    moving = set(depends_on_data(layers))
    owners = {item.name for item in layers if named & {item.name, *item.outputs}}
    assert set(placed) <= moving | owners
    for unit, names in zip(units, anchors, strict=True):
        assert not unit or set(names) & {key for item in layers for key in (item.name, *item.outputs)}


@given(st.lists(st.sampled_from(["Conv", "Relu", "Add"]), min_size=1, max_size=12), st.data())
@settings(max_examples=200, deadline=None)
def test_a_chain_is_covered_completely(ops, data):
    """Where one layer feeds the next there is never doubt: whatever units are named, every layer is in one."""
    layers = []
    for index, op in enumerate(ops):
        layers.append(layer(f"n{index}", op, f"n{index - 1}:0" if index else "x"))
    names = data.draw(st.lists(st.sampled_from(layers).map(lambda item: item.name), min_size=1, unique=True))

    units = assign(layers, *names)

    assert sorted(name for unit in units for name in unit) == sorted(item.name for item in layers)
    assert all(anchor in unit for anchor, unit in zip(names, units, strict=True))
