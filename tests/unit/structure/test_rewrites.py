"""Each rewrite on small graphs: the same in ONNX Runtime before and after, and the operators that are planned."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from compress_subjects import run_ort
from hypothesis import given, settings
from hypothesis import strategies as st
from text_graphs import operators, text_graph

from hwbench.structure.rewrites.base import Bench
from hwbench.structure.rewrites.run import NAMES, Rewritten, rewrite

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def rewritten(model: ir.Model, *names: str, batch: int = 2, allowed=lambda _: True, held=()) -> Rewritten:
    """Rewrite a model, and check that it is valid, puts out the same and is not rewritten a second time."""
    value = model.graph.inputs[0]
    x = {value.name: RNG.normal(size=tuple(value.shape.numpy())).astype(np.float32)}
    outputs = [output.name for output in model.graph.outputs]
    wanted = run_ort(model, x)
    bench = Bench(model=model, batch=batch, held=frozenset(held))
    found = rewrite(bench, names or NAMES, allowed)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert [output.name for output in model.graph.outputs] == outputs
    for one, other in zip(run_ort(model, x), wanted, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * np.abs(other).max(initial=1e-30))
    assert not rewrite(bench, names or NAMES, allowed).made
    return found


@pytest.mark.parametrize(
    "body",
    [
        "h = Identity(x) y = Abs(h)",
        "h, mask = Dropout(x) y = Abs(h)",
        "h = Cast <to = 1> (x) y = Abs(h)",
        "h = CastLike(x, zero) y = Abs(h)",
        "h = Reshape(x, shape) y = Abs(h)",
        "h = Transpose <perm = [0, 1, 2]> (x) y = Abs(h)",
        "h = Concat <axis = 1> (x) y = Abs(h)",
        "h = Sum(x) y = Abs(h)",
        "h = Add(x, zero) y = Abs(h)",
        "h = Add(zero, x) y = Abs(h)",
        "h = Sub(x, zero) y = Abs(h)",
        "h = Mul(x, one) y = Abs(h)",
        "h = Div(x, one) y = Abs(h)",
        "h = Clip(x) y = Abs(h)",
        "h = Pad(x, pads) y = Abs(h)",
        "h = Tile(x, repeats) y = Abs(h)",
        "h = Expand(x, shape) y = Abs(h)",
        "h = Slice(x, starts, ends, axes) y = Abs(h)",
        "h = Abs(x) y = Relu(h)",
        "h = Abs(x) y = Identity(h)",
        "h = MaxPool <kernel_shape = [1]> (x) y = Abs(h)",
    ],
)
def test_what_has_no_effect_is_taken_out(body):
    constants = {
        "zero": np.zeros((1, 4), np.float32), "one": np.ones((), np.float32), "shape": np.array([2, 3, 4]),
        "pads": np.zeros(6, np.int64), "repeats": np.ones(3, np.int64),
        "starts": np.array([0]), "ends": np.array([4]), "axes": np.array([-1]),
    }  # fmt: skip
    model = text_graph(body, constants, x=(2, 3, 4))
    found = rewritten(model, "no-ops")
    assert operators(model) == ["Abs"]
    assert not found.refused
    assert found.made[0].nodes == 1


@pytest.mark.parametrize(
    "body",
    [
        "y = Identity(x)",  # an input is an output
        "h = Transpose <perm = [1, 0, 2]> (x) y = Abs(h)",
        "h = Add(x, wide) y = Abs(h)",  # makes it wider
        "h = Sub(zero, x) y = Abs(h)",
        "h = Div(one, x) y = Abs(h)",
        "h = Slice(x, starts, ends, axes, steps) y = Abs(h)",  # backwards
        "h = Slice(x, first, two, first) y = Abs(h)",  # the batch, at another batch not all of it
        "h = Pad(x, pads) y = Abs(h)",
        "h = Clip(x, one) y = Abs(h)",
        "h = Cast <to = 10> (x) g = Cast <to = 1> (h) y = Abs(g)",  # rounds
        "h, mask = Dropout(x) g = Cast <to = 1> (mask) y = Add(h, g)",  # the mask is read
    ],
)
def test_what_has_an_effect_stays(body):
    constants = {
        "zero": np.zeros((), np.float32), "one": np.ones((), np.float32), "wide": np.zeros((5, 1, 1, 1), np.float32),
        "pads": np.array([0, 0, 0, 0, 0, 1]), "starts": np.array([3]), "ends": np.array([-5]), "axes": np.array([2]),
        "steps": np.array([-1]), "first": np.array([0]), "two": np.array([2]),
    }  # fmt: skip
    model = text_graph(body, constants, x=(2, 3, 4))
    before = operators(model)
    rewritten(model, "no-ops", "chains")
    assert operators(model) == before


def test_of_two_outputs_that_are_one_tensor_one_is_a_copy():
    model = text_graph("h = Abs(x) a = Identity(h) y = Identity(h)", x=(2, 3, 4), outputs=("a", "y"))
    assert rewritten(model, "no-ops").refused["n2"].code == "graph_boundary"
    assert operators(model) == ["Abs", "Identity"]


def test_an_expand_at_a_batch_of_one_may_be_one_over_the_batch():
    model = text_graph("h = Expand(x, shape) y = Abs(h)", {"shape": np.array([1, 3])}, x=(1, 3))
    found = rewritten(model, "no-ops", batch=1)
    assert found.refused["n0"].code == "may_depend_on_batch"
    assert operators(model) == ["Expand", "Abs"]


@pytest.mark.parametrize(
    ("body", "left"),
    [
        ("h = Transpose <perm = [1, 2, 0]> (x) g = Transpose <perm = [2, 0, 1]> (h) y = Abs(g)", ["Abs"]),
        ("h = Transpose <perm = [1, 2, 0]> (x) y = Transpose <perm = [0, 2, 1]> (h)", ["Transpose"]),
        ("h = Transpose(x) y = Transpose <perm = [1, 0, 2]> (h)", ["Transpose"]),
        ("h = Unsqueeze(x, one) g = Squeeze(h, one) y = Abs(g)", ["Abs"]),
        ("h = Reshape(x, flat) y = Reshape(h, shape)", ["Reshape"]),
        ("h = Reshape(x, flat) y = Reshape(h, copied)", ["Reshape", "Reshape"]),  # 0 is a size of h
        ("h = Flatten(x) y = Reshape(h, shape)", ["Reshape"]),
        ("h = Cast <to = 11> (x) g = Cast <to = 1> (h) y = Abs(g)", ["Abs"]),
        ("h = Transpose <perm = [1, 2, 0]> (x) y = Transpose <perm = [0, 2, 1]> (h) a = Abs(h)", None),
    ],
)
def test_chains_become_short(body, left):
    constants = {
        "one": np.array([1]), "flat": np.array([6, 4]), "shape": np.array([2, 12]), "copied": np.array([0, 2, 2]),
    }  # fmt: skip
    model = text_graph(body, constants, x=(2, 3, 4), outputs=("y", "a") if " a = " in body else ("y",))
    before = operators(model)
    rewritten(model, "chains")
    assert operators(model) == (before if left is None else left)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_transpositions_compose(data):
    rank = data.draw(st.integers(1, 4))
    shape = data.draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank))
    perms = [data.draw(st.permutations(range(rank))) for _ in range(data.draw(st.integers(1, 4)))]
    names = ["x", *(f"t{i}" for i in range(len(perms)))]
    steps = [
        f"{after} = Transpose <perm = [{', '.join(map(str, perm))}]> ({before})"
        for before, after, perm in zip(names, names[1:], perms, strict=False)
    ]
    model = text_graph(" ".join([*steps, f"y = Neg({names[-1]})"]), x=shape)
    rewritten(model, "no-ops", "chains")
    assert operators(model) in (["Neg"], ["Transpose", "Neg"])


def test_what_is_computed_twice_is_computed_once():
    body = "a = Mul(x, w) b = Mul(x, w) c = Add(a, one) d = Add(b, uno) e = Add(b, two) y = Sum(c, d, e)"
    constants = {"w": normal(3), "one": np.float32(1), "uno": np.float32(1), "two": np.float32(2)}
    model = text_graph(body, constants, x=(2, 3))
    rewritten(model, "common")
    assert operators(model) == ["Mul", "Add", "Add", "Sum"]
    assert "uno" not in model.graph.initializers


def test_what_only_looks_the_same_is_kept():
    body = (
        "a = Mul(x, v) b = Mul(x, w) c = RandomNormalLike <seed = 1.0> (x) d = RandomNormalLike <seed = 1.0> (x) "
        "e = Softmax <axis = 0> (x) f = Softmax <axis = 1> (x) g = Sum(c, d) h = Mul(g, zero) y = Sum(a, b, e, f, h)"
    )
    same = normal(3)  # two weights that are equal now may be trained apart
    model = text_graph(body, {"v": same, "w": same.copy(), "zero": np.float32(0)}, x=(2, 3))
    rewritten(model, "common")
    assert len(operators(model)) == 9


def test_two_outputs_that_are_the_same_stay_two():
    model = text_graph("y = Abs(x) a = Abs(x) b = Neg(a)", x=(2, 3), outputs=("y", "a", "b"))
    assert rewritten(model, "common").refused["n1"].code == "graph_boundary"
    model = text_graph("h = Abs(x) y = Abs(x) b = Neg(h)", x=(2, 3), outputs=("y", "b"))
    rewritten(model, "common")
    assert operators(model) == ["Abs", "Neg"]


def test_what_nothing_reads_goes_with_its_weights():
    model = text_graph("a = Mul(x, w) b = Add(a, w) y = Abs(x)", {"w": normal(3)}, x=(2, 3))
    found = rewritten(model, "dead")
    assert operators(model) == ["Abs"]
    assert not model.graph.initializers
    assert sum(made.nodes for made in found.made) == 2


def test_constants_are_computed():
    body = (
        "c = Constant <value_ints = [2, 2]> () s = Concat <axis = 0> (c, last) h = Reshape(x, s) "
        "w = Transpose <perm = [1, 0]> (weight) y = MatMul(h, w)"
    )
    weight = normal(5, 3)
    model = text_graph(body, {"last": np.array([3]), "weight": weight}, x=(2, 6))
    rewritten(model, "constants")
    assert operators(model) == ["Reshape", "MatMul"]
    np.testing.assert_array_equal(model.graph.initializers["w"].const_value.numpy(), weight.T)
    assert "weight" not in model.graph.initializers


def test_constants_that_would_grow_or_be_stored_twice_stay():
    body = (
        "t = Transpose(big) a = MatMul(x, big) b = MatMul(x, t) q = DequantizeLinear(bytes, scale) "
        "o = ConstantOfShape <value = float[1] {1.0}> (many) r = ReduceSum <keepdims = 0> (o) y = Sum(a, b, q, r)"
    )
    constants = {
        "big": normal(40, 40), "bytes": np.zeros(40, np.int8), "scale": np.float32(1), "many": np.array([50, 50])
    }  # fmt: skip
    model = text_graph(body, constants, x=(2, 40))
    before = operators(model)
    found = rewritten(model, "constants")
    assert operators(model) == before
    assert {name: reason.code for name, reason in found.refused.items()} == {"n0": "shared_weight", "n4": "grows"}


def test_sizes_are_written_down_unless_they_may_hang_on_the_batch():
    body = (
        "s = Shape(x) width = Gather(s, two) height = Slice(s, one, two1) batch = Gather(s, zero) "
        "wide = Concat <axis = 0> (height, width) m = Concat <axis = 0> (batch, minus) h = Reshape(x, m) "
        "z = Cast <to = 1> (wide) r = ReduceSum <keepdims = 0> (z) y = Add(h, r)"
    )
    constants = {
        name: np.array([number]) for name, number in {"zero": 0, "two": 2, "one": 1, "two1": 2, "minus": -1}.items()
    }  # fmt: skip
    model = text_graph(body, constants, x=(2, 3, 4))
    found = rewritten(model, "constants")
    assert operators(model) == ["Shape", "Gather", "Concat", "Reshape", "Add"]
    assert [reason.code for reason in found.refused.values()] == ["may_depend_on_batch"]


@settings(max_examples=20, deadline=None)
@given(
    groups=st.integers(1, 2), kernel=st.integers(1, 3), stride=st.integers(1, 2), pad=st.integers(0, 1),
    bias=st.booleans(), transposed=st.booleans(),
)  # fmt: skip
def test_batch_norm_and_factors_go_into_convolutions(groups, kernel, stride, pad, bias, transposed):
    channels, outputs = 2 * groups, 3 * groups
    op = "ConvTranspose" if transposed else "Conv"
    shape = (channels, 3, kernel, kernel) if transposed else (outputs, 2, kernel, kernel)
    attributes = f"group = {groups}, strides = [{stride}, {stride}], pads = [{pad}, {pad}, {pad}, {pad}]"
    body = (
        f"h = {op} <{attributes}> (x, w{', b' if bias else ''}) n = BatchNormalization(h, g, beta, mean, var) "
        "m = Mul(n, by) d = Div(m, five) a = Add(d, plus) y = Sub(a, less)"
    )
    constants = {
        "w": normal(*shape), "b": normal(outputs), "g": normal(outputs), "beta": normal(outputs),
        "mean": normal(outputs), "var": normal(outputs) ** 2 + 0.1, "by": normal(1, outputs, 1, 1),
        "five": np.float32(5), "plus": normal(outputs, 1, 1), "less": normal(1, 1, 1),
    }  # fmt: skip
    if not bias:
        del constants["b"]
    model = text_graph(body, constants, x=(2, channels, 5, 5))
    found = rewritten(model, "batch-norm", "factors")
    assert operators(model) == [op]
    assert len(found.made) == 5
    assert not found.refused


@pytest.mark.parametrize("op", ["Gemm", "MatMul", "MatMul with bias"])
def test_factors_go_into_matrix_products(op):
    product = "h = Gemm(x, w, b)" if op == "Gemm" else "h = MatMul(x, w)"
    bias = " p = Add(h, b)" if "bias" in op else " p = Identity(h)"
    body = f"{product}{bias} m = Mul(p, by) r = Reshape(m, shape) t = Transpose(r) y = Mul(five, t)"
    constants = {
        "w": normal(4, 6),
        "b": normal(6),
        "by": normal(6),
        "five": np.float32(5),
        "shape": np.array([2, 3, 2]),
    }
    model = text_graph(body, constants, x=(2, 4))
    rewritten(model, "no-ops", "factors")
    assert operators(model) == [*op.replace(" with bias", " Add").split(), "Reshape", "Transpose"]


@pytest.mark.parametrize(
    "body",
    [
        "h = MatMul(x, w) m = Mul(h, by) y = Add(m, h)",  # read twice
        "h = MatMul(x, w) m = Mul(h, rows) y = Abs(m)",  # a number a row
        "h = MatMul(x, w) r = Reshape(h, shape) m = Mul(r, pair) y = Abs(m)",  # channels lie elsewhere
        "h = MatMul(x, w) m = Div(by, h) y = Abs(m)",
        "h = MatMul(x, w) m = Div(h, nil) g = Mul(m, nil) y = Cast <to = 1> (g)",
        "h = MatMul(x, w) m = Mul(h, wide) y = Abs(m)",
    ],
)
def test_factors_that_are_no_number_a_channel_stay(body):
    constants = {
        "w": normal(4, 6), "by": normal(6), "rows": normal(2, 1), "pair": normal(2), "shape": np.array([2, 3, 2]),
        "nil": np.full(6, np.inf, np.float32), "wide": normal(3, 1, 6),
    }  # fmt: skip
    model = text_graph(body, constants, x=(2, 4))
    before = operators(model)
    bench = Bench(model=model, batch=2)
    assert not rewrite(bench, ["factors"]).made
    assert operators(model) == before


@pytest.mark.parametrize(
    ("layer", "x", "left"),
    [
        ("Conv <group = 2> (n, w)", (2, 4, 5, 5), ["Conv"]),
        ("Conv <pads = [1, 1, 1, 1], group = 2> (n, w)", (2, 4, 5, 5), ["BatchNormalization", "Conv"]),
        ('Conv <auto_pad = "SAME_UPPER", group = 2> (n, w)', (2, 4, 5, 5), ["BatchNormalization", "Conv"]),
        ('Conv <auto_pad = "VALID", group = 2> (n, w, b)', (2, 4, 5, 5), ["Conv"]),
        ("Gemm <transB = 1> (n, m, b)", (2, 4), ["Gemm"]),
        ("Gemm (n, v)", (2, 4), ["Gemm"]),
        ("MatMul (n, v)", (2, 4), ["BatchNormalization", "MatMul"]),  # nowhere to put the shift
    ],
)
def test_batch_norm_goes_into_the_layer_behind_it_where_it_can(layer, x, left):
    constants = {
        "g": normal(4), "beta": normal(4), "mean": normal(4), "var": normal(4) ** 2 + 0.1,
        "w": normal(6, 2, 3, 3), "b": normal(6), "m": normal(6, 4), "v": normal(4, 6),
    }  # fmt: skip
    model = text_graph(f"n = BatchNormalization(x, g, beta, mean, var) y = {layer}", constants, x=x)
    found = rewritten(model, "batch-norm")
    assert operators(model) == left
    assert [reason.code for reason in found.refused.values()] == (
        [] if len(left) == 1 else ["no_bias" if "MatMul" in left else "padding"]
    )


def test_padding_moves_into_the_convolution_behind_it():
    body = (
        "p = Pad(x, pads) c = Conv <pads = [1, 0, 1, 0]> (p, w) q = Pad(c, channels) d = Conv(q, v) "
        "r = Pad(d, pads, one) y = Conv(r, w4)"
    )
    constants = {
        "pads": np.array([0, 0, 1, 2, 0, 0, 3, 0]), "w": normal(3, 2, 3, 3), "channels": np.array([0, 1] + [0] * 6),
        "v": normal(4, 4, 1, 1), "one": np.float32(1), "w4": normal(2, 4, 3, 3),
    }  # fmt: skip
    model = text_graph(body, constants, x=(2, 2, 6, 5))
    found = rewritten(model, "pads")
    assert operators(model) == ["Conv", "Pad", "Conv", "Pad", "Conv"]
    assert list(model.graph[0].attributes["pads"].as_ints()) == [2, 2, 4, 0]
    assert {name: reason.code for name, reason in found.refused.items()} == {"n2": "not_spatial", "n4": "not_zeros"}


ATTENTION = (
    "q = {q} k = {k} v = {v} kt = Transpose <perm = [0, 2, 1]> (k) s = MatMul(q, kt) p = Softmax(s) y = MatMul(p, v)"
)


@settings(max_examples=15, deadline=None)
@given(
    biases=st.tuples(st.booleans(), st.booleans(), st.booleans()), values=st.integers(1, 5),
    opset=st.sampled_from([11, 13, 17]),
)  # fmt: skip
def test_projections_of_attention_become_one(biases, values, opset):
    body, constants = "", {}
    for name, bias, width in zip("qkv", biases, (4, 4, values), strict=True):
        constants[f"w{name}"], constants[f"b{name}"] = normal(6, width), normal(width)
        body += f"{name}0 = MatMul(x, w{name}) {name} = " + (
            f"Add({name}0, b{name}) " if bias else f"Identity({name}0) "
        )
    body += ATTENTION.split("v = {v} ")[1]
    used = {name: array for name, array in constants.items() if name[0] == "w" or biases["qkv".index(name[1])]}
    model = text_graph(body, used, x=(2, 3, 6), opset=opset)
    found = rewritten(model, "no-ops", "qkv")
    assert operators(model).count("MatMul") == 3
    assert operators(model).count("Add") == int(any(biases))
    assert operators(model).count("Split") == 1
    (merged,) = [made for made in found.made if made.rewrite == "qkv"]
    assert len(merged.layers) == 3
    split = next(node for node in model.graph if node.op_type == "Split")
    assert [value.name for value in split.outputs] == [
        name if bias else f"{name}0" for name, bias in zip("qkv", biases, strict=True)
    ]


def test_gate_and_up_become_one_and_other_pairs_do_not():
    body = (
        "g = MatMul(x, gate) s = Sigmoid(g) a = Mul(g, s) u = MatMul(x, up) m = Mul(a, u) d = MatMul(m, down) "
        "one = MatMul(x, left) two = MatMul(x, right) y = Sum(d, one, two)"
    )
    constants = {
        "gate": normal(4, 6),
        "up": normal(4, 6),
        "down": normal(6, 4),
        "left": normal(4, 4),
        "right": normal(4, 4),
    }
    model = text_graph(body, constants, x=(2, 4))
    (made,) = rewritten(model, "gate-up").made
    assert made.layers == ("n0", "n3")
    assert operators(model).count("MatMul") == 4
    two = (
        "g = Gemm(x, gate) s = Sigmoid(g) a = Mul(g, s) u = Gemm <transB = 1> (x, upt, b) m = Mul(a, u) "
        "y = MatMul(m, down)"
    )
    model = text_graph(two, {"gate": normal(4, 6), "upt": normal(6, 4), "b": normal(6), "down": normal(6, 4)}, x=(2, 4))
    rewritten(model, "gate-up")
    assert operators(model) == ["Gemm", "Split", "Sigmoid", "Mul", "Mul", "MatMul"]


def test_weights_that_others_read_and_held_weights_are_left_alone():
    body = "h = MatMul(x, w) m = Mul(h, by) z = MatMul(m, w) y = Abs(z)"
    model = text_graph(body, {"w": normal(4, 4), "by": normal(4)}, x=(2, 4))
    assert [reason.code for reason in rewritten(model, "factors").refused.values()] == ["shared_weight"]
    model = text_graph("h = MatMul(x, w) y = Mul(h, by)", {"w": normal(4, 4), "by": normal(4)}, x=(2, 4))
    assert [reason.code for reason in rewritten(model, "factors", held=["w"]).refused.values()] == ["held_weight"]
    tied = "q = MatMul(x, w) k = MatMul(x, w) " + ATTENTION.split("v = {v} ")[1].replace("(p, v)", "(p, x)")
    model = text_graph(tied, {"w": normal(6, 6)}, x=(2, 3, 6))
    assert [reason.code for reason in rewritten(model, "qkv").refused.values()] == ["shared_weight"]


def test_only_places_whose_nodes_are_all_allowed_are_rewritten():
    body = "h = MatMul(x, w) m = Mul(h, by) n = Identity(m) o = Identity(n) y = Abs(o)"
    model = text_graph(body, {"w": normal(4, 4), "by": normal(4)}, x=(2, 4))
    rewritten(model, allowed=lambda name: name in {"n1", "n2"})
    assert operators(model) == ["MatMul", "Mul", "Identity", "Abs"]
