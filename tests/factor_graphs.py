"""Networks of one layer for the tests of low rank and shared weights, and Gram matrices computed the plain way."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import onnx_graphs as graphs
import onnx_ir as ir
import torch
from onnx import helper

from hwbench.graph.linear import linear_of
from hwbench.graph.onnx_file import infer_shapes


def conv(
    *, outputs=6, inputs=4, kernel=(3, 3), strides=None, dilations=None, pads=None, group=1, sizes=(9, 11), batch=2,
    bias=True, seed=0, dtype=np.float32, auto_pad=None, weight=None,
):  # fmt: skip
    """Return ``y = Conv(x)``, the layer called ``conv``; weights ``w`` and ``b``."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((outputs, inputs // group, *kernel)) if weight is None else weight
    attributes = {"kernel_shape": list(kernel), "group": group}
    attributes |= {"strides": list(strides)} if strides else {}
    attributes |= {"dilations": list(dilations)} if dilations else {}
    attributes |= {"pads": list(pads)} if pads else {}
    attributes |= {"auto_pad": auto_pad} if auto_pad else {}
    node = helper.make_node("Conv", ["x", "w", "b"] if bias else ["x", "w"], ["y"], name="conv", **attributes)
    weights = [graphs.weight("w", weight.astype(dtype))]
    weights += [graphs.weight("b", rng.standard_normal(outputs).astype(dtype))] if bias else []
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    x = graphs.tensor("x", [batch, inputs, *sizes], kind)
    y = graphs.tensor("y", [batch, outputs, *[None] * len(kernel)], kind)
    return infer_shapes(ir.from_proto(graphs.model([node], [x], [y], weights)))


def product(op="Gemm", *, outputs=6, inputs=8, transposed=True, lead=(3,), seed=0):
    """Return a Gemm with a bias, or a MatMul with an Add behind it; the layer is called ``fc``."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((outputs, inputs) if transposed else (inputs, outputs)).astype(np.float32)
    weights = [graphs.weight("w", weight), graphs.weight("b", rng.standard_normal(outputs).astype(np.float32))]
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="fc", transB=int(transposed))]
    if op == "MatMul":
        nodes = [
            helper.make_node("MatMul", ["x", "w"], ["t"], name="fc"),
            helper.make_node("Add", ["t", "b"], ["y"], name="bias"),
        ]
    x, y = graphs.tensor("x", [*lead, inputs]), graphs.tensor("y", [*lead, outputs])
    return infer_shapes(ir.from_proto(graphs.model(nodes, [x], [y], weights)))


def layer_of(model):
    """Return the first layer with weights."""
    return next(found for node in model.graph if (found := linear_of(node)) is not None)


def given(model, seed=0, count=None):
    """Return inputs of the network's shape, correlated from channel to channel and with a mean."""
    value = model.graph.inputs[0]
    shape = tuple(value.shape.numpy())
    shape = shape if count is None else (count, *shape[1:])
    x = np.random.default_rng(seed).standard_normal(shape)
    axis = 1 if len(shape) == 4 else -1
    mixing = np.random.default_rng(99).standard_normal((shape[axis], shape[axis])) / shape[axis] + np.eye(shape[axis])
    x = np.moveaxis(np.moveaxis(x, axis, -1) @ mixing, -1, axis) + 0.3
    return {value.name: x.astype(value.dtype.numpy())}


def patches(layer, x):
    """Return what each output position of a layer sees: groups x rows x (inputs of a group, kernel positions)."""
    node = layer.node
    if node.op_type != "Conv":
        return x.reshape(1, -1, x.shape[-1]).astype(np.float64)
    ints = {name: list(node.attributes[name].as_ints()) for name in node.attributes if name != "group"}
    kernel = list(layer.weight.shape[2:])
    pads = ints.get("pads", [0] * 4)
    padded = np.pad(x, [(0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])])
    seen = torch.nn.functional.unfold(
        torch.from_numpy(padded.astype(np.float64)), kernel, dilation=ints.get("dilations", [1, 1]),
        stride=ints.get("strides", [1, 1]),
    ).numpy()  # fmt: skip
    rows = seen.reshape(len(x), layer.groups, -1, seen.shape[-1]).transpose(1, 0, 3, 2)
    return rows.reshape(layer.groups, -1, rows.shape[-1])


def gram_of(layer, x):
    """Return the mean of the outer products of what a layer sees: groups x d x d."""
    seen = patches(layer, x)
    return seen.swapaxes(1, 2) @ seen / seen.shape[1]


def plain_grams(monkeypatch):
    """Put Gram matrices of graphs of one layer, computed the plain way, in the place of the streamed ones."""

    def input_grams(subject, layers, **ignored):
        found = {}
        for name, layer in subject.layers().items():
            if name in layers:
                x = subject.samples.inputs[layer.input.name]
                matrix = gram_of(layer, np.asarray(x))
                found[name] = SimpleNamespace(matrix=matrix, rows=len(x), mean=None)
        return found

    module = ModuleType("hwbench.compress.statistics.grams")
    module.input_grams, module.no_gram = input_grams, lambda layer: None
    monkeypatch.setitem(sys.modules, module.__name__, module)
