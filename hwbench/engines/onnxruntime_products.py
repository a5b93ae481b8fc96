"""Linear layers, however the exporter wrote them, and the operators that ONNX Runtime runs them fastest with.

A linear layer is a ``Gemm``, or a ``MatMul`` and the ``Add`` of its bias. What it becomes:

=============  ==================================================================================================
static int8    ``Gemm`` on two axes, between two ``Reshape``: the only operator that takes its bias in int32 and
               gives floats (``QGemm``), so that what follows (residual, softmax, normalisation) loses nothing
dynamic int8   ``DynamicQuantizeMatMul``: finds the range of its input, multiplies and adds the bias in one kernel
int8, int4     ``MatMulNBits``: the weights are unpacked block by block inside the kernel
weights
=============  ==================================================================================================

ONNX Runtime's own ``quantize_dynamic`` writes the second, but rewrites every ``Gemm`` of the graph on the way, the ones
that are to stay float too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from hwbench.engines.onnxruntime_graph import MICROSOFT, Array, Net, attribute, import_microsoft
from hwbench.errors import Unsupported
from hwbench.quantize.weights import INT8_LARGEST, quantise, weight_scales

BLOCK = {4: 32, 8: 128}  # weights that share a scale, by bits: what cost little accuracy and was fastest
SEVEN_BITS_LARGEST = 64  # as ONNX Runtime's own reduce_range has it
ACCURACY_LEVEL = 4  # of MatMulNBits: it may round activations to int8, block by block; level 1 is slower


@dataclass(frozen=True, kw_only=True)
class Product:
    """A linear layer: ``result = data @ weight + bias``, the weight inputs x outputs unless ``across``."""

    layer: str
    node: onnx.NodeProto
    data: str
    weight: str
    across: bool
    bias: str | None
    result: str
    add: onnx.NodeProto | None  # adds the bias, where that is a node of its own


def products_of(net: Net) -> dict[str, Product]:
    """Return the linear layers with constant fp32 weights of two axes, by name."""
    found = (_product(net, node) for node in net.nodes if node.op_type in {"Gemm", "MatMul"} and not node.domain)
    return {product.layer: product for product in found if product is not None}


def _product(net: Net, node: onnx.NodeProto) -> Product | None:
    data, weight = node.input[:2]
    if weight not in net.weights or data in net.weights:
        return None
    shape = net.weights[weight].dims
    if len(shape) != 2 or not net.is_float32(weight) or not net.is_float32(data):
        return None
    if node.op_type == "MatMul":
        return _of_matmul(net, node, shape[1])
    plain = attribute(node, "alpha", 1.0) == 1.0 and attribute(node, "beta", 1.0) == 1.0
    if not plain or attribute(node, "transA", 0):
        return None
    across = bool(attribute(node, "transB", 0))
    bias = node.input[2] if len(node.input) > 2 and node.input[2] else None
    if bias is not None and not _is_bias(net, bias, shape[0 if across else 1]):
        return None
    return Product(
        layer=node.name,
        node=node,
        data=data,
        weight=weight,
        across=across,
        bias=bias,
        result=node.output[0],
        add=None,
    )


def _of_matmul(net: Net, node: onnx.NodeProto, outputs: int) -> Product | None:
    if len(net.shape(node.input[0]) or ()) < 2:  # a vector: ONNX Runtime's quantised kernels take none
        return None
    add = net.only_consumer(node.output[0])
    bias = None
    if add is not None and add.op_type == "Add":
        other = next((name for name in add.input if name != node.output[0]), "")
        shape = net.shape(node.output[0])
        fits = shape is not None and shape == net.shape(add.output[0]) and _is_bias(net, other, outputs)
        bias = other if fits else None
    if add is None or bias is None:
        add = None
    return Product(
        layer=node.name,
        node=node,
        data=node.input[0],
        weight=node.input[1],
        across=False,
        bias=bias,
        result=node.output[0] if add is None else add.output[0],
        add=add,
    )


def _is_bias(net: Net, name: str, outputs: int) -> bool:
    """Say whether a constant adds one number to each output: ``(N,)``, ``(1, N)`` or one for all."""
    if name not in net.weights or not net.is_float32(name):
        return False
    shape = tuple(net.weights[name].dims)
    return shape in {(), (1,), (1, 1), (outputs,)} or (bool(shape) and set(shape[:-1]) == {1} and shape[-1] == outputs)


class Rewriter:
    """Puts other nodes in the place of linear layers; ``apply`` changes the model, and all at once."""

    def __init__(self, model: onnx.ModelProto, net: Net) -> None:
        self.model = model
        self.net = net
        self.taken = {*net.weights, *net.producer, *net.types}  # names of tensors
        self.instead: dict[int, list[onnx.NodeProto]] = {}  # by id of the node it replaces
        self.before: dict[str, list[onnx.NodeProto]] = {}  # what makes a new tensor, until the first reader takes it
        self.same_range: dict[str, str] = {}  # new tensors, and the tensor that they are a view of

    def to_gemm(self, product: Product) -> None:
        """Make it a ``Gemm`` on two axes, which the static quantiser then finds under the layer's name."""
        if product.add is None and product.node.op_type == "MatMul":
            return  # without a bias a MatMul gives floats too
        shape = self.net.shape(product.result)
        if product.node.op_type == "Gemm" or shape is None or len(shape) == 2:
            self._replace(product, [self._gemm(product, product.data, product.result)])
            return
        result, after = f"{product.layer}_products", self._constant(f"{product.layer}_shape", shape)
        self._declare(result)
        gemm = self._gemm(product, self._rows(product), result)
        back = helper.make_node("Reshape", [result, after], [product.result], name=f"{product.layer}_from_rows")
        self._replace(product, [*self.before.pop(gemm.input[0], []), gemm, back])

    def _gemm(self, product: Product, data: str, result: str) -> onnx.NodeProto:
        inputs = [data, product.weight, *([] if product.bias is None else [self._bias(product)])]
        return helper.make_node("Gemm", inputs, [result], name=product.layer, transB=int(product.across))

    def _rows(self, product: Product) -> str:
        """Return the input on two axes: one for all the layers that read it, so that it is quantised once."""
        rows = f"{product.data}_rows"
        if rows not in self.same_range:
            self.same_range[rows] = product.data
            self._declare(rows)
            shape = self._constant(f"{rows}_shape", [-1, self.net.array(product.weight).shape[0]])
            self.before[rows] = [helper.make_node("Reshape", [product.data, shape], [rows], name=f"{rows}_view")]
        return rows

    def to_dynamic(self, product: Product, *, reduce_range: bool) -> None:
        """Make it a ``DynamicQuantizeMatMul``: int8 weights with a scale for each output, symmetric."""
        name = product.layer
        columns, largest = self._columns(product), SEVEN_BITS_LARGEST if reduce_range else INT8_LARGEST
        scale = weight_scales(columns, 1, largest=largest)
        inputs = [
            product.data,
            self._constant(f"{name}_weight_int8", quantise(columns, scale, 1, largest=largest)),
            self._constant(f"{name}_weight_scale", scale),
            self._constant(f"{name}_weight_zero", np.zeros(scale.shape, np.int8)),
            *([] if product.bias is None else [self._bias(product)]),
        ]
        node = helper.make_node("DynamicQuantizeMatMul", inputs, [product.result], name=name, domain=MICROSOFT)
        self._replace(product, [node])
        import_microsoft(self.model)

    def to_matmul(self, product: Product) -> None:
        """Make it a plain ``MatMul``, for :func:`to_blocks` to find; what is left of the bias is added there."""
        if product.across:
            weight = self._constant(f"{product.layer}_weight", np.ascontiguousarray(self._columns(product)))
        else:
            weight = product.weight
        self._replace(
            product, [helper.make_node("MatMul", [product.data, weight], [product.result], name=product.layer)]
        )

    def apply(self) -> None:
        """Change the model."""
        nodes = [new for node in self.net.nodes for new in self.instead.get(id(node), [node])]
        del self.model.graph.node[:]
        self.model.graph.node.extend(nodes)

    def bias_of(self, product: Product) -> str | None:
        """Return the name of the bias as a vector of one number for each output."""
        return None if product.bias is None else self._bias(product)

    def _replace(self, product: Product, nodes: list[onnx.NodeProto]) -> None:
        self.instead[id(product.node)] = nodes
        if product.add is not None:
            self.instead[id(product.add)] = []

    def _columns(self, product: Product) -> Array:
        weight = self.net.array(product.weight)
        return weight.T if product.across else weight

    def _bias(self, product: Product) -> str:
        assert product.bias is not None
        bias, outputs = self.net.array(product.bias), self._columns(product).shape[1]
        if bias.shape == (outputs,):
            return product.bias
        return self._constant(f"{product.layer}_bias", np.broadcast_to(bias.reshape(-1), (outputs,)))

    def _constant(self, name: str, values: Array | Sequence[int]) -> str:
        array = np.asarray(values, np.int64) if not isinstance(values, np.ndarray) else values
        while name in self.taken:
            name += "_again"
        self.taken.add(name)
        self.model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def _declare(self, *names: str) -> None:
        """Tell the quantiser, which infers no types again, that these are floats."""
        kind = onnx.TensorProto.FLOAT
        self.model.graph.value_info.extend(helper.make_tensor_value_info(name, kind, None) for name in names)


def to_blocks(model: onnx.ModelProto, layers: Mapping[str, str | None], bits: int) -> None:
    """Make the named ``MatMul`` nodes ``MatMulNBits``, with the tool of ONNX Runtime; ``layers`` gives their biases.

    Raises:
        Unsupported: this ONNX Runtime has no such tool.
    """
    try:
        from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer
    except ImportError as error:
        msg = (
            "this version of onnxruntime has no tool to pack weights (onnxruntime.quantization.matmul_nbits_quantizer)"
        )
        raise Unsupported(msg, hint="pip install --upgrade onnxruntime (1.23 has it)") from error
    others = [node.name for node in model.graph.node if node.op_type == "MatMul" and node.name not in layers]
    result = {node.output[0]: node.name for node in model.graph.node if node.name in layers}
    wanted = set(layers.values())
    biases = [tensor for tensor in model.graph.initializer if tensor.name in wanted]
    config = DefaultWeightOnlyQuantConfig(
        bits=bits, block_size=BLOCK[bits], is_symmetric=True, accuracy_level=ACCURACY_LEVEL
    )
    MatMulNBitsQuantizer(model, nodes_to_exclude=others, algo_config=config).process()
    for node in model.graph.node:
        if node.op_type == "MatMulNBits" and node.output[0] in result:
            node.name = result[node.output[0]]
            if (bias := layers[node.name]) is not None:
                node.input.extend([*[""] * (5 - len(node.input)), bias])
    kept = {tensor.name for tensor in model.graph.initializer}  # the tool has dropped what nothing used
    model.graph.initializer.extend(tensor for tensor in biases if tensor.name not in kept)
