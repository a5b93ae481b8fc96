"""ResNet-8, the image classification model of MLPerf Tiny (Banbury et al. 2021, arXiv:2106.07597).

Three stacks of one residual block each, 16, 32 and 64 channels. As in the reference implementation every convolution
has a bias, and a shortcut that changes the shape is a bare 1x1 convolution. Unlike there, a strided 3x3 convolution
pads both sides by one (the reference pads only the far side); shapes and cost are the same.
"""

from __future__ import annotations

from torch import Tensor, nn


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut: (N, C, H, W) -> (N, ``channels``, H / ``stride``, W / ``stride``)."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.shortcut = nn.Identity() if stride == 1 else nn.Conv2d(in_channels, channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        activated: Tensor = self.relu(out + self.shortcut(x))
        return activated


class ResNet8(nn.Module):
    """(N, 3, 32, 32) -> logits (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.blocks = nn.Sequential(Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64, 10)

    def forward(self, image: Tensor) -> Tensor:
        features = self.pool(self.blocks(self.stem(image)))
        logits: Tensor = self.fc(features.flatten(1))
        return logits


def resnet8() -> ResNet8:
    return ResNet8()
