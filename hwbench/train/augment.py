"""Images shifted and flipped at random, so that few samples are worth more."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name

Tensor = torch.Tensor


class Augment:
    """Random views of the inputs that are images [N, C, H, W] in floating point; others pass.

    Args:
        flip: mirror an image left to right, every second time.
        shift: move it by up to so many pixels either way; its border is repeated, which suits any normalisation.
        rng: the draws.
    """

    def __init__(self, *, flip: bool, shift: int, rng: np.random.Generator) -> None:
        self.flip, self.shift, self.rng = flip, shift, rng

    def __call__(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the inputs, changed."""
        if not self.flip and not self.shift:
            return inputs
        return tuple(self._image(value) if value.dim() == 4 and value.is_floating_point() else value
                     for value in inputs)  # fmt: skip

    def _image(self, images: Tensor) -> Tensor:
        count, height, width = images.shape[0], images.shape[2], images.shape[3]
        if self.flip:
            chosen = torch.from_numpy(self.rng.random(count) < 0.5).to(images.device)
            images = torch.where(chosen[:, None, None, None], images.flip(3), images)
        if self.shift:
            wide = F.pad(images, [self.shift] * 4, mode="replicate")
            at = torch.from_numpy(self.rng.integers(0, 2 * self.shift + 1, (2, count))).to(images.device)
            rows = (at[0][:, None] + torch.arange(height, device=images.device))[:, None, :, None]
            columns = (at[1][:, None] + torch.arange(width, device=images.device))[:, None, None, :]
            sample = torch.arange(count, device=images.device)[:, None, None, None]
            channel = torch.arange(images.shape[1], device=images.device)[None, :, None, None]
            images = wide[sample, channel, rows, columns]
        return images
