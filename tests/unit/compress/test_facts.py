"""How large a network is: counted by hand on a small one."""

import numpy as np
import onnx_graphs as graphs
import onnx_ir as ir
import pytest
from compress_subjects import subject_of
from onnx import TensorProto, helper, numpy_helper
from text_graphs import text_graph

from hwbench.compress.facts import layer_facts, network_facts
from hwbench.compress.methods.quantize import Quantize, QuantizeSettings
from hwbench.compress.methods.share import Share, ShareSettings
from hwbench.graph.onnx_file import infer_shapes


@pytest.fixture
def network():
    return network_of(1)


def network_of(batch):
    """A convolution of 2 to 4 channels on 5x5, kernel 3, no padding, and a bias; half of its weights are zero."""
    weight = np.ones((4, 2, 3, 3), np.float32)
    weight[:2] = 0
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w", "b"], ["y"], "conv"), helper.make_node("Relu", ["y"], ["z"], "relu")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 2, 5, 5])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [batch, 4, 3, 3])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.ones(4, np.float32), "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return infer_shapes(ir.from_proto(model))


def test_counts(network):
    facts = network_facts(network, 1, {})
    assert (facts.parameters, facts.nonzero_parameters, facts.layers) == (76, 40, 2)
    assert facts.macs == 4 * 9 * 2 * 9
    assert facts.weight_bytes == facts.packed_bytes == 76 * 4
    assert facts.zeros == pytest.approx(36 / 76)


def test_multiply_adds_are_those_of_a_sample():
    assert network_facts(network_of(2), 2, {}).macs == 4 * 9 * 2 * 9


def test_work_that_has_no_batch_is_not_shared(network):
    assert network_facts(network, 2, {}).macs == 4 * 9 * 2 * 9


def test_held_zeros_are_a_mask_and_what_is_left(network):
    assert network_facts(network, 1, {}, {"w"}).packed_bytes == 72 / 8 + 36 * 4 + 4 * 4


def test_a_mask_is_not_used_where_it_costs_more(network):
    assert network_facts(network, 1, {}, {"b"}).packed_bytes == 76 * 4


def test_bits_that_a_method_tells(network):
    assert network_facts(network, 1, {"w": 4.5}).packed_bytes == round(72 * 4.5 / 8 + 16)


def test_layers(network):
    conv, relu = layer_facts(network, 1)
    assert (conv.layer, conv.op, conv.weight_shape, conv.nonzero_parameters) == ("conv", "Conv", (4, 2, 3, 3), 40)
    assert (relu.weight_shape, relu.parameters, relu.macs) == ((), 0, 0)


@pytest.mark.parametrize("method", ["quantize", "share"])
def test_zeros_count_on_a_grid_too(tmp_path, method):
    """90 % zeros: a mask of one bit and a tenth of the bits, beside scales or codebook."""
    product = text_graph("y = MatMul(x, w)", {"w": graphs.random_array(40, 20)}, x=(1, 40))
    subject = subject_of(product, tmp_path)
    subject.held_zeros.add("w")
    layer = subject.layers()["n0"]
    zero = np.random.default_rng(0).permutation(800).reshape(layer.blocks().shape) < 720
    layer.set_blocks(np.where(zero, 0, layer.blocks()))
    if method == "quantize":
        Quantize().apply(subject, ["n0"], QuantizeSettings(weight_bits=8, scale="max"))
        beside, bits = 20 * 32, 8
    else:
        Share().apply(subject, ["n0"], ShareSettings(bits=4))
        beside, bits = 16 * 32, 4
    left = np.count_nonzero(subject.layers()["n0"].weight)
    assert left <= 80
    expected = (800 + left * bits + beside) / 8
    assert network_facts(subject.model, 1, subject.bits, subject.held_zeros).packed_bytes == round(expected)
