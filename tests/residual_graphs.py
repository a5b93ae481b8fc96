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


ACTIVATIONS: dict[str, tuple[str, dict[str, np.ndarray]]] = {
    "relu": ("Relu", {}),
    "relu6": ("Clip", {"low": np.float32(0), "high": np.float32(6)}),
}


def unclipped_net(blocks: int = 2, *, activation: str = "relu", norms: bool = False) -> ir.Model:
    """A stem and blocks of a 3x3 and a 1x1 convolution; biases keep the inner activations from clipping anything."""
    op, limits = ACTIVATIONS[activation]
    behind = " ".join(["", *limits])
    lines: list[Line] = [("Conv", "x stem.w", "stem", PADDED), (op, f"stem{behind}", "h0")]
    weights = {"stem.w": drawn(4, 4, 3, 3, seed=1, scale=0.2)} | limits
    for index in range(blocks):
        path, sizes = f"block.{index}", {"one": (4, 4, 3, 3), "two": (4, 4, 1, 1)}
        made = {"one": f"{path}.one", "two": f"{path}.two"}
        for number, (part, shape) in enumerate(sizes.items()):
            seed = 10 * index + number + 3
            weights[f"{path}.{part}.w"] = drawn(*shape, seed=seed, scale=0.03 if part == "one" else 0.4)
            weights[f"{path}.{part}.b"] = drawn(4, seed=seed + 100, scale=0.1) + (3 if part == "one" else 0)
            if norms:
                made[part] = f"{path}.{part}.norm"
                for kind, centre in (("scale", 1), ("shift", 0), ("mean", 0), ("var", 1)):
                    weights[f"{made[part]}.{kind}"] = centre + 0.1 * np.tanh(drawn(4, seed=seed + len(kind)))
        lines.append(("Conv", f"h{index} {path}.one.w {path}.one.b", f"{path}.one", PADDED))
        lines += _normed(path, "one", norms)
        lines.append((op, f"{made['one']}{behind}", f"{path}.act"))
        lines.append(("Conv", f"{path}.act {path}.two.w {path}.two.b", f"{path}.two"))
        lines += _normed(path, "two", norms)
        lines += [("Add", f"h{index} {made['two']}", f"{path}/Add"), (op, f"{path}/Add{behind}", f"h{index + 1}")]
    lines.append(("GlobalAveragePool", f"h{blocks}", "y"))
    return net(lines, weights, outputs={"y": (None, None, None, None)})


def _normed(path: str, part: str, there: bool) -> list[Line]:
    norm = f"{path}.{part}.norm"
    given = " ".join(f"{norm}.{kind}" for kind in ("scale", "shift", "mean", "var"))
    return [("BatchNormalization", f"{path}.{part} {given}", norm)] if there else []
