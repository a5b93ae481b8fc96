"""Small networks written layer by layer, and networks with removed channels forced to zero, to hold cuts against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_graphs as graphs
import onnx_ir as ir
from compress_subjects import run_ort
from onnx import helper

from hwbench.graph.onnx_file import infer_shapes
from hwbench.structure.check import verify_cut
from hwbench.structure.cut import CutMade, cut_groups
from hwbench.structure.groups import Group, channel_groups

Array = np.ndarray[Any, np.dtype[Any]]

BATCH, TOKENS, WIDTH, DIM = 2, 5, 8, 4  # of attention


class Net:
    """A network with one input ``x``; every method adds a layer and returns the name of what comes out of it."""

    def __init__(self, *shape: int, seed: int = 0, opset: int = 18) -> None:
        self.rng = np.random.default_rng(seed)
        self.shape, self.opset = shape, opset
        self.nodes, self.weights = [], []

    def node(self, op: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        name = name or f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [f"{name}.out"], name=name, **attributes))
        return f"{name}.out"

    def parts(self, op: str, *inputs: str, count: int, name: str, **attributes: Any) -> list[str]:
        """An operator with several outputs."""
        outputs = [f"{name}.out{index}" for index in range(count)]
        self.nodes.append(helper.make_node(op, list(inputs), outputs, name=name, **attributes))
        return outputs

    def constant(self, array: object, name: str | None = None) -> str:
        name = name or f"c{len(self.weights)}"
        self.weights.append(graphs.weight(name, np.asarray(array)))
        return name

    def random(self, *shape: int, name: str | None = None) -> str:
        return self.constant(self.rng.normal(size=shape).astype(np.float32), name)

    def conv(
        self, x: str, into: int, out: int, kernel: int = 1, *, group: int = 1, name: str, bias: bool = True, **kw: Any
    ) -> str:
        weight = self.random(out, into // group, kernel, kernel, name=f"{name}.weight")
        rest = [self.random(out, name=f"{name}.bias")] if bias else []
        pads = kw.pop("pads", [kernel // 2] * 4)
        return self.node("Conv", x, weight, *rest, name=name, group=group, pads=pads, **kw)

    def norm(self, x: str, channels: int, name: str) -> str:
        given = [self.random(channels, name=f"{name}.{what}") for what in ("scale", "shift", "mean")]
        variance = self.constant(self.rng.uniform(0.5, 2, channels).astype(np.float32), f"{name}.variance")
        return self.node("BatchNormalization", x, *given, variance, name=name)

    def gemm(self, x: str, into: int, out: int, name: str) -> str:
        weight, bias = self.random(out, into, name=f"{name}.weight"), self.random(out, name=f"{name}.bias")
        return self.node("Gemm", x, weight, bias, name=name, transB=1)

    def linear(self, x: str, into: int, out: int, name: str, *, bias: bool = True) -> str:
        y = self.node("MatMul", x, self.random(into, out, name=f"{name}.weight"), name=name)
        return self.node("Add", y, self.random(out, name=f"{name}.bias"), name=f"{name}/Add") if bias else y

    def reshape(self, x: str, *shape: int, **attributes: Any) -> str:
        return self.node("Reshape", x, self.constant(np.array(shape, np.int64)), **attributes)

    def pooled(self, x: str, into: int, out: int = 3) -> str:
        """The usual head: a mean over space, and a linear layer ``head``."""
        mean = self.node("GlobalAveragePool", x)
        return self.gemm(self.node("Flatten", mean), into, out, "head")

    def model(self, *outputs: str) -> ir.Model:
        made = graphs.model(
            self.nodes, [graphs.tensor("x", self.shape)], [graphs.tensor(name, None) for name in outputs],
            self.weights, opsets={"": self.opset},
        )  # fmt: skip
        return infer_shapes(ir.from_proto(made))


def heads_of(net: Net, y: str, heads: int, *, dim: int = DIM) -> str:
    return net.node("Transpose", net.reshape(y, BATCH, TOKENS, heads, dim), perm=[0, 2, 1, 3])


def attended(net: Net, q: str, k: str, v: str, mask: str | None = None) -> str:
    logits = net.node("MatMul", q, net.node("Transpose", k, perm=[0, 1, 3, 2]))
    if mask is not None:
        logits = net.node("Add", logits, mask)
    return net.node("MatMul", net.node("Softmax", logits, axis=-1), v)


def joined(net: Net, y: str, heads: int) -> str:
    merged = net.reshape(net.node("Transpose", y, perm=[0, 2, 1, 3]), BATCH, TOKENS, heads * DIM)
    return net.linear(merged, heads * DIM, WIDTH, "o")


def rotated(net: Net, y: str) -> str:
    """Rotary embedding with halves swapped, as torch exports it."""
    ranges = [[net.constant(np.array([n], np.int64)) for n in limits] for limits in ((0, 2, 3), (2, 2**62, 3))]
    one, two = (net.node("Slice", y, *limits) for limits in ranges)
    swapped = net.node("Concat", net.node("Neg", two), one, axis=-1)
    cos, sin = net.random(TOKENS, DIM), net.random(TOKENS, DIM)
    return net.node("Add", net.node("Mul", y, cos), net.node("Mul", swapped, sin))


def masked(model: ir.Model, cuts: Sequence[tuple[Group, Array]]) -> ir.Model:
    """Return a copy in which consumers see zeros where channels are to be removed; nothing is cut."""
    copy = ir.from_proto(ir.to_proto(model))
    gone: dict[str, set[int]] = {}
    for group, keep in cuts:
        removed = np.setdiff1d(np.arange(group.size), keep)
        for layer, channels in group.consumers.items():
            gone.setdefault(layer, set()).update(channels[removed].reshape(-1).tolist())
    for node in list(copy.graph):
        if node.name in gone:
            _mask(copy, node, sorted(gone[node.name]))
    return copy


def _mask(model: ir.Model, node: ir.Node, channels: list[int]) -> None:
    given = node.inputs[0]
    shape = list(given.shape)
    axis = 1 if node.op_type in {"Conv", "ConvTranspose"} else len(shape) - 1
    mask = np.ones(shape[axis], np.float32)
    mask[channels] = 0
    value = ir.Value(
        name=f"{node.name}.mask", const_value=ir.tensor(mask.reshape([-1] + [1] * (len(shape) - 1 - axis)))
    )
    model.graph.initializers[value.name] = value
    product = ir.Node("", "Mul", [given, value], name=f"{node.name}.masked")
    product.outputs[0].name = f"{node.name}.given"
    model.graph.insert_before(node, product)
    node.replace_input_with(0, product.outputs[0])


def some_units(groups: Sequence[Group], fraction: float = 0.25, seed: int = 0) -> list[tuple[Group, Array]]:
    """Return what is left when a random fraction of each group goes, at least one unit."""
    rng = np.random.default_rng(seed)
    left = [max(1, min(group.size - 1, round((1 - fraction) * group.size))) for group in groups]
    return [(group, np.sort(rng.permutation(group.size)[:count])) for group, count in zip(groups, left, strict=True)]


def inputs_of(model: ir.Model, seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    found = {}
    for value in model.graph.inputs:
        if value.is_initializer():
            continue
        dtype, shape = value.dtype.numpy(), tuple(value.shape.numpy())
        integers = np.issubdtype(dtype, np.integer)
        found[value.name] = (rng.integers(0, 2, shape) if integers else rng.normal(size=shape)).astype(dtype)
    return found


def assert_close(one: Sequence[Array], other: Sequence[Array], tolerance: float = 1e-4) -> None:
    for left, right in zip(one, other, strict=True):
        assert left.shape == right.shape
        assert left.dtype == right.dtype
        assert np.isfinite(right).all()
        np.testing.assert_allclose(left, right, rtol=0, atol=tolerance * (np.abs(right).max() or 1))


def cut_like_masked(model: ir.Model, fraction: float = 0.25, seed: int = 0) -> tuple[list[Group], CutMade]:
    """Cut every group of a model, in place; its outputs must be those of the masked original."""
    groups = channel_groups(model).groups
    cuts = some_units(groups, fraction, seed)
    inputs, reference = inputs_of(model, seed), masked(model, cuts)
    made = cut_groups(model, cuts)
    verify_cut(model, made)
    assert_close(run_ort(model, inputs), run_ort(reference, inputs))
    return groups, made


def cut_and_exported(model: ir.Model) -> list[Group]:
    """Cut by 25 %: equal to the masked original, the view exports, and what is exported equals ONNX Runtime."""
    import torch

    from hwbench.torch_view.build import to_torch

    found, _ = cut_like_masked(model)
    inputs, view = inputs_of(model, 1), to_torch(model)
    given = tuple(torch.from_numpy(inputs[value.name]) for value in model.graph.inputs if not value.is_initializer())
    exported = torch.export.export(view, given).module()
    with torch.no_grad():
        assert_close([output.numpy() for output in exported(*given)], run_ort(model, inputs))
    return found


def group_of(model: ir.Model, layer: str) -> Group:
    """Return the one group that a layer makes channels of."""
    (group,) = [group for group in channel_groups(model).groups if layer in group.producers]
    return group
