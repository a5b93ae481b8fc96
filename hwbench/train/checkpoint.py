"""A training on disk after every epoch, and brought back."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from hwbench.data.samples import Samples
from hwbench.errors import StorageError
from hwbench.train.settings import TrainSettings

_FILE = "training.pt"


class Checkpoint:
    """The file of one training, in a folder that is named after what makes it this training and no other.

    So two trainings in one place never take each other's weights; see :func:`identity`.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        self.file = folder / f"train-{identity[:16]}" / _FILE

    def save(self, state: Mapping[str, Any]) -> None:
        """Write everything or nothing."""
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            unfinished = self.file.with_suffix(".unfinished")
            torch.save(dict(state), unfinished)
            unfinished.replace(self.file)
        except (OSError, RuntimeError) as error:  # torch says RuntimeError when the disk is full
            raise StorageError(f"the checkpoint {self.file} cannot be written: {error}") from error

    def load(self) -> dict[str, Any] | None:
        """Return what was saved last, on the CPU, or None.

        Raises:
            StorageError: there is a file, and it cannot be read.
        """
        if not self.file.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(self.file, map_location="cpu", weights_only=True)
        except Exception as error:
            raise StorageError(
                f"the checkpoint {self.file} cannot be read: {error}", hint="delete its folder to start anew"
            ) from error
        return state


def snapshot(state: Any) -> Any:
    """Return a copy on the CPU of tensors in dictionaries and lists."""
    if isinstance(state, torch.Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, Mapping):
        return {key: snapshot(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [snapshot(value) for value in state]
    return state


def identity(settings: TrainSettings, seed: int, parts: Sequence[Samples | torch.nn.Module | str | None]) -> str:
    """Return the hash that tells a training from others.

    Args:
        settings: how it is trained.
        seed: of the trainer.
        parts: what takes part: samples (by how many there are, the first and the last, and all labels), networks (by
            structure, all weights, and which of them are trained), and descriptions.
    """
    digest = hashlib.sha256(msgspec.json.encode([msgspec.to_builtins(settings), seed]))
    for part in parts:
        if isinstance(part, Samples):
            _digest_samples(digest, part)
        elif isinstance(part, torch.nn.Module):
            _digest_network(digest, part)
        else:
            digest.update(f"{part};".encode())
    return digest.hexdigest()


def _digest_samples(digest: hashlib._Hash, samples: Samples) -> None:
    digest.update(f"{len(samples)} {samples.batch}".encode())
    for name, array in samples.inputs.items():
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(array[[0, -1]]).tobytes())
    if samples.labels is not None:
        digest.update(np.ascontiguousarray(samples.labels).tobytes())


def _digest_network(digest: hashlib._Hash, network: torch.nn.Module) -> None:
    trained = {name for name, tensor in network.named_parameters() if tensor.requires_grad}
    digest.update(str(getattr(network, "graph", "")).encode())
    for name, tensor in network.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {name in trained}".encode())
        if tensor.numel():
            digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
