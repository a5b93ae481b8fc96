"""ResNet-50 v1.5 for ImageNet (He et al. 2016, arXiv:1512.03385, table 1; projection shortcuts, option B).

v1.5: a block that shrinks the image does so in its 3x3 convolution and not in the first 1x1, as in Goyal et al. 2017
(arXiv:1706.02677, section 5.1). That costs about 6 % more multiply-adds than v1 and is what "ResNet-50" means in most
benchmarks.
"""

from __future__ import annotations

from torch import Tensor, nn

_EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 beside a shortcut: (N, C, H, W) -> (N, 4 ``width``, H / ``stride``, W / ``stride``)."""

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        out_channels = width * _EXPANSION
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        activated: Tensor = self.relu(out + self.shortcut(x))
        return activated


def _stage(in_channels: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    first = Bottleneck(in_channels, width, stride)
    return nn.Sequential(first, *(Bottleneck(width * _EXPANSION, width, 1) for _ in range(blocks - 1)))


class ResNet50(nn.Module):
    """(N, 3, 224, 224) -> logits (N, 1000)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        self.stage1 = _stage(64, 64, blocks=3, stride=1)
        self.stage2 = _stage(256, 128, blocks=4, stride=2)
        self.stage3 = _stage(512, 256, blocks=6, stride=2)
        self.stage4 = _stage(1024, 512, blocks=3, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(2048, 1000)

    def forward(self, image: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(image))))
        x = self.stage4(self.stage3(self.stage2(self.stage1(x))))
        logits: Tensor = self.fc(self.pool(x).flatten(1))
        return logits


def resnet50() -> ResNet50:
    return ResNet50()
