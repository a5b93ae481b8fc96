"""Convolutions as one matrix product: what is multiplied, and what bringing it into that form costs.

The weight [M, C, kh, kw] of a convolution with one group is the matrix [M, C kh kw], kernel positions fastest. Of a 1x1
convolution with stride 1 the columns are the pixels themselves, so the product is an *implicit* one: in NHWC nothing is
moved, in NCHW the axes are swapped before and after. Any other convolution needs its patches written out (``im2col``),
kh kw times the input, which the kernel then reads: :attr:`Lowering.moved_bytes` counts it, and no speed of a kernel may
be quoted for such a layer without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

_HALF = 2  # bytes of fp16


@dataclass(frozen=True, kw_only=True)
class Convolution:
    """A convolution of one group, as ONNX has it: pads are top, left, bottom, right."""

    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)

    @property
    def pointwise(self) -> bool:
        """Whether its columns are the pixels themselves."""
        return self.kernel == (1, 1) and self.strides == (1, 1) and not any(self.pads)

    def output(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width of the result; ValueError where there is none."""
        sizes = (height + self.pads[0] + self.pads[2], width + self.pads[1] + self.pads[3])
        reach = [1 + step * (size - 1) for size, step in zip(self.kernel, self.dilations, strict=True)]
        found = tuple((size - far) // stride + 1 for size, far, stride in zip(sizes, reach, self.strides, strict=True))
        if min(found) < 1:
            raise ValueError(f"a kernel that reaches {reach[0]} x {reach[1]} is larger than its input {sizes}")
        return found[0], found[1]


@dataclass(frozen=True, kw_only=True)
class Lowering:
    """How a convolution becomes ``Y[n, M] = X[n, k] · Wᵀ``.

    ``moved_bytes``: what is written and read besides the product's own X and Y, in fp16.
    """

    kind: Literal["pointwise", "im2col"]
    n: int
    k: int
    moved_bytes: int

    def __str__(self) -> str:
        return f"{self.kind}: {self.n} rows of {self.k}, {self.moved_bytes} bytes moved to bring it into that form"


def lower_convolution(
    what: Convolution, shape: tuple[int, int, int, int], outputs: int, *, channels_last: bool = False
) -> Lowering:
    """Return the product that a convolution of an input [N, C, H, W] is, with what the form costs."""
    batch, channels, height, width = shape
    rows = batch * int(np.prod(what.output(height, width)))
    columns = channels * what.kernel[0] * what.kernel[1]
    back = 0 if channels_last else 2 * rows * outputs * _HALF  # read and written once more, axes swapped
    if what.pointwise:
        there = 0 if channels_last else 2 * rows * columns * _HALF
        return Lowering(kind="pointwise", n=rows, k=columns, moved_bytes=there + back)
    there = batch * channels * height * width * _HALF + rows * columns * _HALF
    return Lowering(kind="im2col", n=rows, k=columns, moved_bytes=there + back)


def torch_im2col(x: Any, what: Convolution) -> Any:
    """Return the patches of a torch tensor [N, C, H, W] as rows [N OH OW, C kh kw], by torch's own ``unfold``.

    For layers that run outside an engine (:func:`hwbench.sparse.launch.from_torch`).
    """
    import torch  # noqa: PLC0415 - torch is heavy, and only this road needs it

    top, left, bottom, right = what.pads
    padded = torch.nn.functional.pad(x, (left, right, top, bottom))
    patches = torch.nn.functional.unfold(padded, what.kernel, dilation=what.dilations, stride=what.strides)
    return patches.transpose(1, 2).reshape(-1, patches.shape[1]).contiguous()
