"""Rules of convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name

from hwbench.torch_view.site import Function, Rules, Site

RULES = Rules()
Tensor = torch.Tensor

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def around(begin: Sequence[int], end: Sequence[int]) -> list[int]:
    """Return the padding of the last axes as :func:`torch.nn.functional.pad` takes it: the last axis first."""
    return [size for pair in reversed(list(zip(begin, end, strict=True))) for size in pair]


def window_pads(
    site: Site, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Return the padding before and after each spatial axis of a convolution or a pool."""
    auto = site.text("auto_pad", "NOTSET")
    axes = len(sizes)
    if auto == "VALID":
        return [0] * axes, [0] * axes
    if auto == "NOTSET":
        pads = site.integers("pads") or [0] * 2 * axes
        return pads[:axes], pads[axes:]
    begin, end = [], []
    for size, length, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        total = max(0, (-(-size // stride) - 1) * stride + (length - 1) * dilation + 1 - size)
        small, large = total // 2, total - total // 2
        begin.append(small if auto == "SAME_UPPER" else large)
        end.append(large if auto == "SAME_UPPER" else small)
    return begin, end


@RULES.on("Conv")
def _conv(site: Site) -> Function:
    kernel = site.shape(1)[2:]
    axes = len(kernel)
    if axes not in _CONV:
        site.refuse(f"torch convolves over 1 to 3 axes, this has {axes}")
    strides = site.integers("strides") or [1] * axes
    dilations = site.integers("dilations") or [1] * axes
    groups = site.integer("group", 1)
    begin, end = window_pads(site, site.shape()[2:], kernel, strides, dilations)
    convolve = _CONV[axes]
    if begin == end:
        return lambda x, w, b=None: convolve(x, w, b, strides, begin, dilations, groups)
    pads = around(begin, end)
    return lambda x, w, b=None: convolve(F.pad(x, pads), w, b, strides, 0, dilations, groups)


@RULES.on("ConvTranspose")
def _conv_transpose(site: Site) -> Function:
    kernel = site.shape(1)[2:]
    axes = len(kernel)
    if axes not in _TRANSPOSED:
        site.refuse(f"torch convolves over 1 to 3 axes, this has {axes}")
    strides = site.integers("strides") or [1] * axes
    dilations = site.integers("dilations") or [1] * axes
    extra = site.integers("output_padding") or [0] * axes
    groups = site.integer("group", 1)
    begin, end = _transposed_pads(site, kernel, strides, dilations, extra)
    convolve = _TRANSPOSED[axes]
    if (
        begin == end
        and min(begin) >= 0
        and all(e < max(s, d) for e, s, d in zip(extra, strides, dilations, strict=True))
    ):
        return lambda x, w, b=None: convolve(x, w, b, strides, begin, extra, groups, dilations)
    cut = around([-size for size in begin], [more - size for more, size in zip(extra, end, strict=True)])

    def transposed(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        whole = F.pad(convolve(x, w, None, strides, 0, 0, groups, dilations), cut)
        return whole if b is None else whole + b.reshape(-1, *[1] * axes)

    return transposed


def _transposed_pads(
    site: Site, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], extra: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Return what is cut off before and after each axis of a transposed convolution's full output."""
    axes = len(kernel)
    auto, sizes = site.text("auto_pad", "NOTSET"), site.shape()[2:]
    asked = site.integers("output_shape")
    if asked is None:
        if auto in {"NOTSET", "VALID"}:
            pads = (site.integers("pads") or [0] * 2 * axes) if auto == "NOTSET" else [0] * 2 * axes
            return pads[:axes], pads[axes:]
        asked = [size * stride for size, stride in zip(sizes, strides, strict=True)]
    begin, end = [], []
    for axis, wanted in enumerate(asked[-axes:]):
        full = strides[axis] * (sizes[axis] - 1) + extra[axis] + (kernel[axis] - 1) * dilations[axis] + 1
        total = full - wanted
        begin.append(total // 2 if auto == "SAME_UPPER" else total - total // 2)
        end.append(total - begin[-1])
    return begin, end
