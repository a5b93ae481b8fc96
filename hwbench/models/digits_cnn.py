"""A small convolutional network for scikit-learn's 8x8 digits, trained: its weights are ``digits_cnn.npz`` beside it.

Small enough to train in seconds (:mod:`hwbench.models.train_digits`) and real enough that its accuracy tells whether a
deployment still computes the right thing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

WEIGHTS = Path(__file__).with_suffix(".npz")


class DigitsCnn(nn.Module):
    """(N, 1, 8, 8) in [0, 1] -> logits (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 32, 3, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
        )
        self.fc = nn.Linear(32 * 4 * 4, 10)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.features(image).flatten(1))
        return logits


def digits_cnn() -> DigitsCnn:
    return DigitsCnn()


def trained_digits_cnn() -> DigitsCnn:
    """Return the network with the weights that ship with hwbench."""
    with torch.device("meta"):
        module = digits_cnn()
    with np.load(WEIGHTS) as arrays:
        state = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    module.load_state_dict(state, assign=True)
    return module
