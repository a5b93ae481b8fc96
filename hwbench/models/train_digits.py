"""Train ``digits_cnn`` and write its weights: ``python -m hwbench.models.train_digits``.

AdamW with a one-cycle learning rate over a fixed number of epochs, images shifted by up to one pixel; a few seconds
on a CPU. The settings were chosen once and not tuned, so neither validation nor test part has been used up. On another
machine or version of torch the weights may come out differently; the accuracy stays within the band in ``docs/zoo.md``.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from hwbench.models.digits import Array, accuracy, load_digits_split
from hwbench.models.digits_cnn import WEIGHTS, DigitsCnn, digits_cnn

_LOG = logging.getLogger(__name__)

_EPOCHS = 60
_BATCH = 64
_LEARNING_RATE = 5e-3
_WEIGHT_DECAY = 1e-4


def train(seed: int = 0, *, epochs: int = _EPOCHS) -> DigitsCnn:
    """Return a network trained on the training part, in eval mode; torch's random state is left as it was."""
    x, y = (torch.from_numpy(array) for array in load_digits_split()["train"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = digits_cnn()
        optimiser = torch.optim.AdamW(module.parameters(), weight_decay=_WEIGHT_DECAY)
        batches = len(x) // _BATCH
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _LEARNING_RATE, total_steps=epochs * batches)
        for _ in range(epochs):
            order = torch.randperm(len(x))[: batches * _BATCH]
            for chosen in order.split(_BATCH):
                loss = functional.cross_entropy(module(_shift(x[chosen])), y[chosen])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
    return module.eval()


def _shift(images: torch.Tensor) -> torch.Tensor:
    """Move a batch by -1, 0 or 1 pixel in each direction, filling up with background."""
    down, right = (int(step) for step in torch.randint(0, 3, (2,)))
    return functional.pad(images, (1, 1, 1, 1))[:, :, down : down + 8, right : right + 8]


@torch.no_grad()
def scores(module: torch.nn.Module, images: Array) -> Array:
    """Return the scores (N, 10) of images (N, 1, 8, 8)."""
    result: Array = module(torch.from_numpy(images)).numpy()
    return result


def save(module: torch.nn.Module, path: Path) -> None:
    """Write the weights and statistics of ``module`` under their torch names."""
    arrays = {name: value.numpy() for name, value in module.state_dict().items()}
    np.savez_compressed(path, allow_pickle=False, **arrays)


def main() -> None:
    """Train, say how good the network is, and write it."""
    parser = argparse.ArgumentParser(description="Train digits_cnn on scikit-learn's digits.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=WEIGHTS, help="default: the weights that ship with hwbench")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    module = train(arguments.seed)
    for split in ("validation", "test"):
        correct, count = accuracy(lambda images: scores(module, images), split=split)
        _LOG.info("%s: %d of %d right (%.2f %%)", split, correct, count, 100 * correct / count)
    save(module, arguments.output)
    _LOG.info("wrote %s", arguments.output)


if __name__ == "__main__":
    main()
