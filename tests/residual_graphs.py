"""Small networks with residual blocks and chains of layers, written down node by node."""

from __future__ import annotations

import numpy as np
import onnx_graphs as graphs
import onnx_ir as ir
from onnx import helper

from hwbench.graph.onnx_file import infer_shapes

Line = tuple[str, str, str] | tuple[str, str, str, dict[str, object]]


def net(
    lines: list[Line],
    weights: dict[str, np.ndarray],
    *,
    x: tuple[int, ...] = (2, 4, 8, 8),
    outputs: dict[str, tuple[int | None, ...]] | None = None,
) -> ir.Model:
    """Each line: operator, names of its inputs, name of its output, which names the node too, and attributes."""
    nodes = [
        helper.make_node(op, given.split(" "), [made], name=made, **(attributes[0] if attributes else {}))
        for op, given, made, *attributes in lines
    ]
    outs = [graphs.tensor(name, list(shape)) for name, shape in (outputs or {lines[-1][2]: (None,) * len(x)}).items()]
    made = graphs.model(
        nodes, [graphs.tensor("x", list(x))], outs, [graphs.weight(name, array) for name, array in weights.items()]
    )
    return infer_shapes(ir.from_proto(made))


def drawn(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


PADDED = {"pads": [1, 1, 1, 1]}


def residual_net(blocks: int = 3, *, scale: float = 0.2) -> ir.Model:
    """A stem, blocks of two convolutions with a Relu behind each sum, a pool and a Gemm."""
    lines: list[Line] = [("Conv", "x stem.w", "stem", PADDED), ("Relu", "stem", "h0")]
    weights = {"stem.w": drawn(4, 4, 3, 3, seed=1, scale=0.3), "head.w": drawn(4, 3, seed=2)}
    for index in range(blocks):
        path = f"block.{index}"
        lines += [
            ("Conv", f"h{index} {path}.one.w {path}.one.b", f"{path}.one", PADDED),
            ("Relu", f"{path}.one", f"{path}.relu"),
            ("Conv", f"{path}.relu {path}.two.w {path}.two.b", f"{path}.two", PADDED),
            ("Add", f"{path}.two h{index}" if index % 2 else f"h{index} {path}.two", f"{path}/Add"),
            ("Relu", f"{path}/Add", f"h{index + 1}"),
        ]
        for number, part in enumerate(("one", "two")):
            seed = 10 * index + number + 3
            weights[f"{path}.{part}.w"] = drawn(4, 4, 3, 3, seed=seed, scale=scale * (1 + index))
            weights[f"{path}.{part}.b"] = drawn(4, seed=seed + 100, scale=0.1)
    lines += [
        ("GlobalAveragePool", f"h{blocks}", "pool"),
        ("Flatten", "pool", "flat"),
        ("Gemm", "flat head.w", "y"),
    ]
    return net(lines, weights, outputs={"y": (None, None)})
