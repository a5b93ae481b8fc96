"""The anomaly detection model of MLPerf Tiny (Banbury et al. 2021, arXiv:2106.07597).

The baseline of the DCASE 2020 challenge, task 2 (Koizumi et al. 2020, arXiv:2006.05822): linear layers
640-128-128-128-128-8-128-128-128-128-640, all but the last with batch normalisation and ReLU. The anomaly
score is the mean squared difference of output and input, outside of the network.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

_WIDTHS = (640, 128, 128, 128, 128, 8, 128, 128, 128, 128)


def _layer(width_in: int, width_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width_in, width_out), nn.BatchNorm1d(width_out), nn.ReLU())


class Autoencoder(nn.Module):
    """(N, 640) -> the same, reconstructed."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(_layer(*widths) for widths in pairwise(_WIDTHS)))
        self.output = nn.Linear(_WIDTHS[-1], _WIDTHS[0])

    def forward(self, features: Tensor) -> Tensor:
        reconstruction: Tensor = self.output(self.layers(features))
        return reconstruction


def autoencoder() -> Autoencoder:
    return Autoencoder()
