"""MobileNetV2 with width 1.0 for ImageNet (Sandler et al. 2018, arXiv:1801.04381, table 2).

Inverted residuals: a 1x1 convolution widens, a 3x3 depthwise filters, a 1x1 without activation narrows again.
The dropout before the classifier has no effect outside training and is left out.
"""

from __future__ import annotations

from torch import Tensor, nn

# Expansion, channels, repeats, stride of the first: the rows of the paper's table.
_ROWS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def _conv(in_channels: int, channels: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, channels, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU6())


class InvertedResidual(nn.Module):
    """(N, C, H, W) -> (N, ``channels``, H / ``stride``, W / ``stride``); adds its input where the shapes agree."""

    def __init__(self, in_channels: int, channels: int, expansion: int, stride: int) -> None:
        super().__init__()
        width = in_channels * expansion
        self.expand: nn.Module = nn.Identity() if expansion == 1 else _conv(in_channels, width, 1)
        self.depthwise = _conv(width, width, 3, stride, groups=width)
        self.project = nn.Sequential(nn.Conv2d(width, channels, 1, bias=False), nn.BatchNorm2d(channels))
        self.residual = stride == 1 and in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + out if self.residual else out


class MobileNetV2(nn.Module):
    """(N, 3, 224, 224) -> logits (N, 1000)."""

    def __init__(self) -> None:
        super().__init__()
        channels = 32
        self.stem = _conv(3, channels, 3, stride=2)
        blocks: list[nn.Module] = []
        for expansion, out_channels, repeats, stride in _ROWS:
            for index in range(repeats):
                blocks.append(InvertedResidual(channels, out_channels, expansion, stride if index == 0 else 1))
                channels = out_channels
        self.blocks = nn.Sequential(*blocks)
        self.head = _conv(channels, 1280, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(1280, 1000)

    def forward(self, image: Tensor) -> Tensor:
        x = self.pool(self.head(self.blocks(self.stem(image))))
        logits: Tensor = self.fc(x.flatten(1))
        return logits


def mobilenet_v2() -> MobileNetV2:
    return MobileNetV2()
