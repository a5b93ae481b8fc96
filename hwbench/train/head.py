"""A linear head fitted to features at once: logistic regression for classes, ridge regression for values."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name

from hwbench.data.samples import Samples
from hwbench.torch_view.tables import layer_names
from hwbench.train.outputs import IGNORE
from hwbench.train.step import tensors

Array = np.ndarray[Any, np.dtype[Any]]


def features_of(view: torch.fx.GraphModule, layer: str, samples: Samples, device: str) -> tuple[Array, Array]:
    """Return what a layer reads [rows, ..., D], in one pass over the samples in evaluation mode, and their labels."""
    module = next(name for name, hub in layer_names(view).items() if hub == layer)
    seen: list[Array] = []
    labels: list[Array] = []

    def keep(_: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        seen.append(given[0].detach().cpu().numpy())

    handle = view.get_submodule(module).register_forward_pre_hook(keep)
    try:
        with torch.no_grad():
            for batch in samples.in_order():
                inputs, label = tensors(view.eval(), batch, torch.device(device))
                view(*inputs)
                assert label is not None
                labels.append(label.cpu().numpy())
    finally:
        handle.remove()
    return np.concatenate(seen), np.concatenate(labels)


def fitted_classes(x: Array, labels: Array, classes: int, penalty: float, *, bias: bool = True) -> tuple[Array, Array]:
    """Return weights [classes, D] and biases [classes] of multinomial logistic regression, in float64.

    They minimise mean cross-entropy + penalty / 2 x ||weights||^2, by L-BFGS; rows labelled -100 are left out.
    """
    rows, targets = torch.from_numpy(x[labels != IGNORE]).double(), torch.from_numpy(labels[labels != IGNORE]).long()
    weight = torch.zeros(classes, rows.shape[1], dtype=torch.float64, requires_grad=True)
    shift = torch.zeros(classes, dtype=torch.float64, requires_grad=bias)
    optimizer = torch.optim.LBFGS(
        [weight, shift] if bias else [weight], max_iter=1000, tolerance_grad=1e-7, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(rows @ weight.T + shift, targets) + penalty / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weight.detach().numpy(), shift.detach().numpy()


def fitted_values(x: Array, targets: Array, penalty: float, *, bias: bool = True) -> tuple[Array, Array]:
    """Return weights [outputs, D] and biases [outputs] that minimise mean ||y - W x - b||^2 + penalty x ||W||^2."""
    rows, wanted = x.astype(np.float64), targets.reshape(len(targets), -1).astype(np.float64)
    means = (rows.mean(0), wanted.mean(0)) if bias else (np.zeros(rows.shape[1]), np.zeros(wanted.shape[1]))
    centred = rows - means[0]
    gram = centred.T @ centred / len(rows) + penalty * np.eye(rows.shape[1])
    weight = np.linalg.lstsq(gram, centred.T @ (wanted - means[1]) / len(rows), rcond=None)[0].T
    return weight, means[1] - weight @ means[0]
