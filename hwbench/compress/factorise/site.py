"""A layer as the decompositions see it: its weights by group, its window, and the sizes it runs at.

A matrix product is a convolution without space: no axes in its window. So one set of formulas costs both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from hwbench.graph.linear import Array, Linear, integer
from hwbench.records.base import Missing

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Window:
    """Where a convolution looks, axis by axis; nothing in it for a matrix product."""

    kernel: Sizes = ()
    strides: Sizes = ()
    dilations: Sizes = ()
    begins: Sizes = ()
    ends: Sizes = ()

    def point(self) -> Window:
        """Return the window that looks at one position and moves by one, over as many axes."""
        one, zero = (1,) * len(self.kernel), (0,) * len(self.kernel)
        return Window(one, one, one, zero, zero)

    def along(self, axis: int) -> Window:
        """Return the window that is this one on ``axis`` and a point on the others."""
        pairs = zip(self.columns(), self.point().columns(), strict=True)
        return Window(*(point[:axis] + own[axis : axis + 1] + point[axis + 1 :] for own, point in pairs))

    def columns(self) -> tuple[Sizes, ...]:
        """Return kernel, strides, dilations and the two paddings."""
        return self.kernel, self.strides, self.dilations, self.begins, self.ends

    def moved_over(self, sizes: Sizes) -> Sizes:
        """Return how many positions the window takes on each axis."""
        return tuple(
            (size + begin + end - dilation * (kernel - 1) - 1) // stride + 1
            for size, kernel, stride, dilation, begin, end in zip(sizes, *self.columns(), strict=True)
        )


@dataclass(frozen=True, kw_only=True)
class Piece:
    """The shape of one of the layers that take a layer's place. ``inputs`` are those of a group, ``outputs`` of all."""

    suffix: str
    groups: int
    outputs: int
    inputs: int
    window: Window

    @property
    def parameters(self) -> int:
        """How many weights it has, the bias not counted."""
        return self.outputs * self.inputs * math.prod(self.window.kernel)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a chain of layers costs: multiply-adds of one execution, and weights."""

    macs: int
    parameters: int


@dataclass(frozen=True, kw_only=True)
class Site:
    """A layer to factorise. ``outputs`` and ``inputs`` are those of one group; ``rows``: positions apart from space."""

    layer: Linear
    outputs: int
    inputs: int
    window: Window
    rows: int
    sizes: Sizes  # of the input, in space

    @property
    def groups(self) -> int:
        """How many groups work beside each other."""
        return self.layer.groups

    @property
    def positions(self) -> int:
        """Kernel positions of one filter."""
        return math.prod(self.window.kernel)

    def blocks(self) -> Array:
        """Return the weights as groups x outputs x inputs x kernel positions, in float64."""
        return self.layer.blocks()

    def matrix(self) -> Array:
        """Return the weights as groups x outputs x (inputs of a group x kernel positions)."""
        blocks = self.blocks()
        return blocks.reshape(*blocks.shape[:2], -1)

    def whole(self) -> Piece:
        """Return the layer itself as a piece."""
        return Piece(
            suffix="", groups=self.groups, outputs=self.groups * self.outputs, inputs=self.inputs, window=self.window
        )

    def cost(self, pieces: tuple[Piece, ...]) -> Cost:
        """Return what ``pieces`` cost in the layer's place, one after the other."""
        macs, sizes = 0, self.sizes
        for piece in pieces:
            sizes = piece.window.moved_over(sizes)
            macs += self.rows * math.prod(sizes) * piece.parameters
        return Cost(macs=macs, parameters=sum(piece.parameters for piece in pieces))


def site_of(layer: Linear) -> Site | Missing:
    """Return a layer as the decompositions see it, or why they cannot."""
    node, shape = layer.node, layer.input.shape
    if node.op_type == "ConvTranspose":
        return Missing(code="no_form", why="no decomposition is written for transposed convolutions")
    if shape is None or not shape.is_static():
        return Missing(
            code="unknown_shape", why=f"the shape of its input '{layer.input.name}' is not known: {shape}",
            cure="give dynamic inputs a size with --shapes",
        )  # fmt: skip
    dims = tuple(int(size) for size in shape.numpy())
    blocks = layer.blocks().shape
    if node.op_type != "Conv":
        rows = math.prod(dims[:-1])
        return Site(layer=layer, outputs=blocks[1], inputs=blocks[2], window=Window(), rows=rows, sizes=())
    window = _window(node, layer.weight.shape[2:], dims[2:])
    return Site(layer=layer, outputs=blocks[1], inputs=blocks[2], window=window, rows=dims[0], sizes=dims[2:])


def _window(node: ir.Node, kernel: Sizes, sizes: Sizes) -> Window:
    ones = (1,) * len(kernel)
    strides, dilations = _integers(node, "strides", ones), _integers(node, "dilations", ones)
    pads = _integers(node, "pads", (0,) * 2 * len(kernel))
    begins, ends = pads[: len(kernel)], pads[len(kernel) :]
    attribute = node.attributes.get("auto_pad")
    automatic = "NOTSET" if attribute is None else attribute.as_string()
    if automatic == "VALID":
        begins = ends = (0,) * len(kernel)
    elif automatic != "NOTSET":
        wanted = [-(-size // stride) for size, stride in zip(sizes, strides, strict=True)]
        totals = [
            max((count - 1) * stride + (k - 1) * dilation + 1 - size, 0)
            for count, stride, k, dilation, size in zip(wanted, strides, kernel, dilations, sizes, strict=True)
        ]
        small, large = tuple(total // 2 for total in totals), tuple(total - total // 2 for total in totals)
        begins, ends = (small, large) if automatic == "SAME_UPPER" else (large, small)
    return Window(tuple(int(k) for k in kernel), strides, dilations, begins, ends)


def _integers(node: ir.Node, name: str, default: Sizes) -> Sizes:
    attribute = node.attributes.get(name)
    return default if attribute is None else tuple(int(size) for size in attribute.as_ints())


def transposed(node: ir.Node) -> bool:
    """Say whether a matrix product has its weights as outputs x inputs."""
    return node.op_type == "Gemm" and integer(node, "transB", 0) == 1


def as_weight(node: ir.Node, piece: Piece, factor: Array) -> Array:
    """Return a factor (outputs x inputs of a group x kernel positions) as the operator of ``node`` has its weights."""
    if node.op_type == "Conv":
        return factor.reshape(piece.outputs, piece.inputs, *piece.window.kernel)
    matrix = factor.reshape(piece.outputs, piece.inputs)
    return np.ascontiguousarray(matrix if transposed(node) else matrix.T)
