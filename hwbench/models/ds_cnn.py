"""DS-CNN, the keyword spotting model of MLPerf Tiny (Banbury et al. 2021, arXiv:2106.07597).

The small network of Zhang et al. 2017 (arXiv:1711.07128): one convolution over time and frequency, then four depthwise
separable blocks of 64 channels. As in the reference implementation every convolution has a bias; dropout has no effect
outside training and is left out. The first convolution gives 25 frames of 5 bands, as padding "same" does there.
"""

from __future__ import annotations

from torch import Tensor, nn

_CHANNELS = 64


def _block() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1, groups=_CHANNELS),
        nn.BatchNorm2d(_CHANNELS),
        nn.ReLU(),
        nn.Conv2d(_CHANNELS, _CHANNELS, 1),
        nn.BatchNorm2d(_CHANNELS),
        nn.ReLU(),
    )


class DsCnn(nn.Module):
    """(N, 1, 49 frames, 10 coefficients) -> logits (N, 12)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, _CHANNELS, (10, 4), 2, padding=(5, 1)), nn.BatchNorm2d(_CHANNELS), nn.ReLU()
        )
        self.blocks = nn.Sequential(*(_block() for _ in range(4)))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(_CHANNELS, 12)

    def forward(self, mfcc: Tensor) -> Tensor:
        features = self.pool(self.blocks(self.stem(mfcc)))
        logits: Tensor = self.fc(features.flatten(1))
        return logits


def ds_cnn() -> DsCnn:
    return DsCnn()
