"""Score an untrained network without labels. Runs as a child process, since torch does the work.

The score is that of Mellor et al., "Neural Architecture Search without Training" (arXiv:2006.04647): for a batch of N
inputs, each unit before a rectifier is on or off; K[i, j] counts the units in which inputs i and j agree, and the score
is log |det K|. It is large where the network, as it was drawn, tells the inputs apart. Rectifiers here are ReLU and
what has its kink or turn at zero (LeakyReLU, Clip from 0, HardSwish, GELU ...), seen by the sign of their input, which
is the paper's code for ReLU. BatchNorm uses the statistics of the batch, as in training.

What it can tell: it ranks networks of one space, drawn alike and scored on the same inputs. It grows with the number of
units, so a wide network scores above a narrow one; it knows nothing of labels, of training and of what a network costs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwbench.children import Emit, serve
from hwbench.data.store import stored_inputs
from hwbench.records.base import Missing
from hwbench.records.search import CandidateScore, ScoreCandidateJob

if TYPE_CHECKING:
    import torch

    from hwbench.data.store import Array

RECTIFIERS = frozenset(
    {"Relu", "LeakyRelu", "PRelu", "Elu", "Celu", "Selu", "Clip", "HardSwish", "Gelu", "Erf", "Mish", "Softplus"}
)


def score(job: ScoreCandidateJob, folder: Path, emit: Emit) -> CandidateScore:  # noqa: ARG001 - as children are called
    """Score the network of a job.

    Raises:
        Unsupported: torch cannot express an operator.
    """
    import torch

    from hwbench.graph.onnx_file import infer_shapes, read_onnx
    from hwbench.torch_view.build import to_torch
    from hwbench.torch_view.place import on_device
    from hwbench.torch_view.tables import input_names

    torch.set_num_threads(job.threads)
    view = on_device(to_torch(infer_shapes(read_onnx(Path(job.hub)))), "cpu")
    inputs = {name: np.array(array[: job.samples]) for name, array in stored_inputs(Path(job.data_folder)).items()}
    codes = patterns(view, [torch.from_numpy(inputs[name]) for name in input_names(view)])
    units = sum(code.shape[1] for code in codes)
    return CandidateScore(score=log_determinant(codes), units=units, samples=job.samples)


def patterns(view: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> list[Array]:
    """Return for each rectifier whether its units are on: [N, units] of 0 and 1."""
    import torch

    found: list[Any] = []
    size = len(inputs[0])

    def see(module: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        del module
        if given and given[0].dim() and len(given[0]) == size:
            found.append((given[0] > 0).flatten(1).numpy())

    hooks = []
    for module in view.modules():
        operator = getattr(module, "operator", None)
        if operator in RECTIFIERS:
            hooks.append(module.register_forward_pre_hook(see))
        elif operator == "BatchNormalization":
            module.train()
    with torch.no_grad():
        view(*inputs)
    for hook in hooks:
        hook.remove()
    view.eval()
    return found


def log_determinant(codes: list[Array]) -> float | Missing:
    """Return log |det K| over activation patterns [N, units]; K[i, j]: the units in which i and j agree."""
    if not codes:
        return Missing(code="no_rectifier", why=f"the network has none of {', '.join(sorted(RECTIFIERS))}")
    size = len(codes[0])
    kernel = np.zeros((size, size))
    for code in codes:
        on = code.astype(np.float32)
        kernel += on @ on.T + (1 - on) @ (1 - on).T
    sign, value = np.linalg.slogdet(kernel)
    if not sign or not np.isfinite(value):
        return Missing(code="singular", why="two inputs have the same activation pattern, so the determinant is zero")
    return float(value)


if __name__ == "__main__":
    serve(score, ScoreCandidateJob)
