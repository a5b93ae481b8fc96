"""Small networks and samples to train in milliseconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_graphs as graphs
import onnx_ir as ir
from onnx import helper

from hwbench.data.samples import Samples

node = helper.make_node


def linear_net(weight: np.ndarray, *, batch: int = 4, softmax: bool = False) -> ir.Model:
    """``y = x W^T``, and a Softmax if asked for; the layer is called fc, its weight w."""
    outputs, inputs = weight.shape
    nodes = [node("Gemm", ["x", "w"], ["s" if softmax else "y"], name="fc", transB=1)]
    nodes += [node("Softmax", ["s"], ["y"], name="softmax")] if softmax else []
    made = graphs.model(
        nodes, [graphs.tensor("x", [batch, inputs])], [graphs.tensor("y", [batch, outputs])],
        [graphs.weight("w", weight.astype(np.float32))],
    )  # fmt: skip
    return _read(made)


def sequence_net(softmax: int | None = None, *, seed: int = 0, transposed: bool = False) -> ir.Model:
    """A Conv along time, [4, 2, 7] to five classes at each of seven times; then Softmax on an axis, or a Transpose."""
    weight = np.random.default_rng(seed).standard_normal((5, 2, 1)).astype(np.float32)
    ends = {"name": "end"}
    nodes = [node("Conv", ["x", "w"], ["s" if transposed or softmax else "y"], name="conv")]
    nodes += [node("Transpose", ["s"], ["y"], perm=[0, 2, 1], **ends)] if transposed else []
    nodes += [node("Softmax", ["s"], ["y"], axis=softmax, **ends)] if softmax else []
    made = graphs.model(
        nodes, [graphs.tensor("x", [4, 2, 7])], [graphs.tensor("y", [4, 7, 5] if transposed else [4, 5, 7])],
        [graphs.weight("w", weight)],
    )  # fmt: skip
    return _read(made)


def conv_net(*, batch: int = 4, seed: int = 0, channels: int = 6, classes: int = 3, norm: bool = True) -> ir.Model:
    """Conv, BatchNormalization, Relu, a second Conv, the mean over space, and a Gemm: names conv1, bn1, conv2, fc."""
    rng = np.random.default_rng(seed)

    def random(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]) or 1)).astype(np.float32)

    ones, first = np.ones(channels, np.float32), "c" if norm else "n"
    nodes = [
        node("Conv", ["x", "w1"], [first], name="conv1", pads=[1, 1, 1, 1]),
        *([node("BatchNormalization", ["c", "g", "b", "m", "v"], ["n"], name="bn1")] if norm else []),
        node("Relu", ["n"], ["r"], name="relu1"),
        node("Conv", ["r", "w2", "b2"], ["d"], name="conv2", pads=[1, 1, 1, 1]),
        node("GlobalAveragePool", ["d"], ["p"], name="pool"),
        node("Flatten", ["p"], ["f"], name="flatten"),
        node("Gemm", ["f", "w3", "b3"], ["y"], name="fc", transB=1),
    ]
    weights = {"w1": random(channels, 2, 3, 3), "w2": random(4, channels, 3, 3), "b2": random(4),
               "w3": random(classes, 4), "b3": random(classes)}  # fmt: skip
    if norm:
        weights |= {"g": ones, "b": 0 * ones, "m": 0 * ones, "v": ones}
    made = graphs.model(
        nodes, [graphs.tensor("x", [batch, 2, 5, 5])], [graphs.tensor("y", [batch, classes])],
        [graphs.weight(name, array) for name, array in weights.items()],
    )  # fmt: skip
    return _read(made)


def images(count: int, *, batch: int = 4, classes: int | None = 3, seed: int = 0) -> Samples:
    """Samples for :func:`conv_net`; labels follow from the images, so they can be learned."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes or 3, count)
    x = rng.standard_normal((count, 2, 5, 5)).astype(np.float32) * 0.3
    x[:, 0] += labels[:, None, None] - 1.0
    return Samples(inputs={"x": x}, labels=None if classes is None else labels, batch=batch)


def rows(x: np.ndarray, labels: np.ndarray | None, *, batch: int = 4) -> Samples:
    """Samples for :func:`linear_net`."""
    return Samples(inputs={"x": x.astype(np.float32)}, labels=labels, batch=batch)


def quiet(what: str, fraction: float | None) -> None:
    """Take reports."""


def weight_of(model: ir.Model, name: str) -> np.ndarray:
    return model.graph.initializers[name].const_value.numpy()


def digits_subject(folder: Path, *, batch: int = 32, labels: bool = True):
    """The built-in trained network for digits on the bench, with its training samples, and a function for accuracy."""
    from compress_subjects import imported, run_ort, subject_of

    from hwbench.models.digits import accuracy, load_digits_split

    model = imported("digits_cnn", folder, batch=batch)
    x, y = load_digits_split()["train"]
    samples = Samples(inputs={"image": x}, labels=y if labels else None, batch=batch)

    def right(model: ir.Model) -> float:
        count, of = accuracy(lambda images: run_ort(model, {"image": images})[0], batch_size=batch)
        return count / of

    return subject_of(model, folder, samples=samples), right


def _read(made: object) -> ir.Model:
    from hwbench.graph.onnx_file import infer_shapes

    return infer_shapes(ir.from_proto(made))
