"""Small networks to stitch patches into, and what is needed for that."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx_ir as ir
from compress_subjects import random_samples, subject_of
from structure_graphs import Net

from hwbench.compress.simulated import find_ranges, folded
from hwbench.data.samples import Samples
from hwbench.plan.sites import space_of
from hwbench.records.planning import Space
from hwbench.records.quantization import CalibrationSettings
from hwbench.sensitivity.masks import refused_widths
from hwbench.sensitivity.network import Network
from hwbench.sensitivity.patches import Composer


def mixed_net(batch: int = 2, blocks: int = 2) -> ir.Model:
    """A stem, residual blocks with a depthwise layer, a convolution in groups, a hidden linear layer, a head."""
    net = Net(batch, 3, 6, 6, seed=1)
    x = net.node("Relu", net.norm(net.conv("x", 3, 16, 3, name="stem", bias=False), 16, "stem.bn"))
    for index in range(blocks):
        y = net.node("Relu", net.conv(x, 16, 32, name=f"b{index}.wide"))
        y = net.node("Relu", net.conv(y, 32, 32, 3, group=32, name=f"b{index}.deep"))
        x = net.node("Relu", net.node("Add", x, net.conv(y, 32, 16, name=f"b{index}.back"), name=f"b{index}.add"))
    x = net.node("Relu", net.conv(x, 16, 16, 3, group=2, name="grouped"))
    flat = net.node("Flatten", net.node("AveragePool", x, kernel_shape=[3, 3], strides=[3, 3]))
    hidden = net.node("Relu", net.gemm(flat, 16 * 4, 40, "hidden"))
    scaled = net.node("Mul", hidden, net.constant(np.float32(2e-5)))  # so that scores are no certainties
    return net.model(net.gemm(scaled, 40, 5, "head"))


def small_samples(model: ir.Model, count: int = 8, *, classes: int | None = None, seed: int = 0) -> Samples:
    return random_samples(model, count, classes=classes, seed=seed)


def bench(
    model: ir.Model, *, samples: Samples | None = None, ranges: bool = False, space: Space | None = None, **settings
) -> tuple[Network, Space, Composer]:
    """Return a network, its space and a composer."""
    samples = samples or small_samples(model)
    found = {}
    if ranges:
        with tempfile.TemporaryDirectory() as folder:
            subject = subject_of(model, Path(folder), samples=samples)
            found = find_ranges(folded(model), subject, samples, CalibrationSettings(estimator="minmax"))
    network = Network(model, samples, ranges=found, **settings)
    space = space or space_of(model, "0" * 64, refused=refused_widths(model))
    composer = Composer(network, space)
    composer.gather()
    return network, space, composer
