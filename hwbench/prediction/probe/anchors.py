"""The anchors of a probe: small networks of which each shows one thing, and three that look like networks in use.

An anchor is a list of steps, so that one description is written down for every runtime (and built in place by torch).
Kernels are chosen so that every parameter of the roofline is seen by two of them: wide and narrow convolutions,
depthwise ones, products with many rows and with one, tensors that are only read and written, a chain of layers too
small for anything but their launch. A change to any of them is a new :data:`PACK`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

PACK: Final = 1
PRECISIONS: Final = ("fp32", "fp16", "int8")

Op = Literal["conv", "depthwise", "dense", "add", "mean", "swish", "softmax"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One layer: ``channels`` out (conv, dense); ``back``: how many steps before lies what is added to the result."""

    op: Op
    channels: int = 0
    kernel: int = 1
    stride: int = 1
    relu: bool = False
    back: int = 0


@dataclass(frozen=True, kw_only=True)
class Anchor:
    """A network: ``size`` x ``size`` pictures of ``channels``, or, where ``size`` is 0, ``rows`` vectors of them."""

    name: str
    size: int
    channels: int
    steps: tuple[Step, ...]
    rows: int = 1
    quantised: bool = True  # whether int8 is worth asking about


def _conv(channels: int, kernel: int = 3, stride: int = 1, *, relu: bool = True) -> Step:
    return Step(op="conv", channels=channels, kernel=kernel, stride=stride, relu=relu)


def _depthwise(kernel: int = 3, stride: int = 1) -> Step:
    return Step(op="depthwise", kernel=kernel, stride=stride, relu=True)


def _dense(channels: int, *, relu: bool = False) -> Step:
    return Step(op="dense", channels=channels, relu=relu)


def _picture(name: str, size: int, channels: int, *steps: Step, quantised: bool = True) -> Anchor:
    return Anchor(name=name, size=size, channels=channels, steps=steps, quantised=quantised)


def _vectors(name: str, rows: int, channels: int, *steps: Step, quantised: bool = True) -> Anchor:
    return Anchor(name=name, size=0, rows=rows, channels=channels, steps=steps, quantised=quantised)


def _residual(channels: int, stride: int = 1) -> tuple[Step, ...]:
    """Return two convolutions; where the size stays, what came in is added."""
    body = (_conv(channels, stride=stride), _conv(channels, relu=False))
    return (*body, Step(op="add", back=3, relu=True)) if stride == 1 else body


def _inverted(channels: int, wide: int, stride: int = 1, *, same: bool = False) -> tuple[Step, ...]:
    """Return a block of a MobileNetV2 (arXiv:1801.04381)."""
    body = (_conv(wide, 1), _depthwise(3, stride), _conv(channels, 1, relu=False))
    return (*body, Step(op="add", back=4)) if same else body


def _feed_forward(channels: int) -> tuple[Step, ...]:
    return (_dense(4 * channels, relu=True), _dense(channels), Step(op="add", back=3))


ANCHORS: Final[tuple[Anchor, ...]] = (
    _picture("conv3-64-56", 56, 64, _conv(64)),
    _picture("conv3-256-14", 14, 256, _conv(256)),
    _picture("conv3-512-7", 7, 512, _conv(512)),
    _picture("conv3-16-32", 32, 16, _conv(16), _conv(16)),
    _picture("conv3-stem", 224, 3, _conv(32, 3, 2)),
    _picture("conv1-128-28", 28, 128, _conv(256, 1), _conv(128, 1)),
    _picture("conv1-24-56", 56, 24, _conv(144, 1), _conv(24, 1)),
    _picture("conv1-960-7", 7, 160, _conv(960, 1), _conv(160, 1)),
    _picture("depthwise-144-56", 56, 144, _depthwise()),
    _picture("depthwise-384-14", 14, 384, _depthwise(), _depthwise()),
    _vectors("dense-128-512", 128, 512, _dense(512), _dense(512)),
    _vectors("dense-1-1024", 1, 1024, _dense(1024)),
    _vectors("dense-1-chain", 1, 128, *(_dense(128, relu=True) for _ in range(8))),
    _picture("small-chain", 4, 8, *(_conv(8, 1) for _ in range(16))),
    _picture("add-112-32", 112, 32, Step(op="add", back=1)),
    _picture("swish-56-64", 56, 64, Step(op="swish"), quantised=False),
    _vectors("softmax-1024-128", 1024, 128, Step(op="softmax"), quantised=False),
    _picture(
        "model-residual", 32, 3,
        *(_conv(16), *_residual(16), *_residual(32, 2), *_residual(32), *_residual(64, 2), *_residual(64)),
        *(Step(op="mean"), _dense(10)),
    ),
    _picture(
        "model-inverted", 112, 3,
        *(_conv(16, 3, 2), *_inverted(24, 96, 2), *_inverted(24, 144, same=True), *_inverted(32, 144, 2)),
        *(*_inverted(32, 192, same=True), *_inverted(64, 192, 2), *_inverted(64, 384, same=True)),
        *(_conv(320, 1), Step(op="mean"), _dense(100)),
    ),
    _vectors("model-feed-forward", 64, 256, *(_feed_forward(256) * 3)),
)  # fmt: skip

ACTIVATION_STEP: Final = 0.05
"""The grid of every activation of an int8 anchor; values beyond it are clipped, which costs no time."""

Values = np.ndarray[Any, np.dtype[Any]]


def weights(chance: np.random.Generator, shape: tuple[int, ...]) -> Values:
    """Return weights, float32, of a variance that keeps that of what goes through; neither zeros nor denormals.

    ``shape``: ``(out, in, height, width)`` or ``(in, out)``.
    """
    fan_in = np.prod(shape[1:]) if len(shape) == 4 else shape[0]
    scaled: Values = (chance.standard_normal(shape) * np.sqrt(2 / fan_in)).astype(np.float32)
    return scaled


def in_int8(values: Values) -> tuple[Values, float]:
    """Return weights in int8 with one step for all."""
    step = float(np.abs(values).max()) / 127
    stored: Values = np.round(values / step).astype(np.int8)
    return stored, step


BY_NAME: Final = {anchor.name: anchor for anchor in ANCHORS}
